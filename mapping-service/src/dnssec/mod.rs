//! DNSSEC (RFC 4033 to 4035): each answer is signed when it is given, if whoever asks wants that
//! (DO). The zone holds no signatures, so a binding that moves is signed anew with the next answer.
//! Pure: time is an argument.
//!
//! One key signs everything (flags 257). What does not exist is denied by an NSEC record of the
//! name asked for and no other (`denial`, RFC 9824), so that nobody learns names by asking.
//!
//! Questions for what has no place of its own in a zone that is signed as it is asked:
//! * NSEC is answered at every name, also one that does not exist: it is in the bitmap of each;
//! * RRSIG is answered with the signature of that NSEC record: a part of what there is, as ANY may
//!   be (RFC 8482 section 4.1), since the rest would be signed for nobody;
//! * ANY is answered with every set that stands there, each signed;
//! * NXNAME, which stands in NSEC records only, is FORMERR (RFC 9824 section 3.5).
//!
//! # Limitations
//! One key at a time: when it is changed (with the DS records of both at the parent), validators
//! that hold the old one fail until it expires, 300 s. Transfers give the zone unsigned, and what
//! is pushed is not signed, so secondaries have to sign for themselves with the same key, or be
//! asked for unsigned answers only. CDS and CDNSKEY are not made; they may be written by updates.

mod denial;
mod key;

use std::sync::Arc;

use hickory_proto::ProtoError;
use hickory_proto::dnssec::rdata::{DNSSECRData, RRSIG, SigInput};
use hickory_proto::dnssec::{DigestType, DnsSecResult};
use hickory_proto::op::{Edns, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType, SerialNumber};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder, NameEncoding};

use crate::zone::{Answer, Apex, Zone, lower};
pub use denial::NXNAME;
pub use key::ZoneKey;

/// Signatures change once in so many seconds, so that those made can be used again.
const PERIOD: u64 = 600;

/// How much longer than a period they hold, seconds: longer than any TTL and than clocks are fast,
/// and no longer, since an answer can be given again by somebody else until then.
const VALIDITY: u64 = 3600;

/// Clocks may be so many seconds late.
const SKEW: u64 = 3600;

/// The second flag of an OPT record: Compact Answers OK (RFC 9824 section 5.1).
pub(crate) const COMPACT_OK: u16 = 0x4000;

/// Types whose records are made here, and by nobody else.
pub(crate) fn is_made_here(kind: RecordType) -> bool {
    use RecordType::{DNSKEY, NSEC, NSEC3, NSEC3PARAM, RRSIG};
    matches!(kind, DNSKEY | NSEC | NSEC3 | NSEC3PARAM | RRSIG)
}

/// What the OPT record of a question asks for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wish {
    /// Signatures (DO, RFC 3225 section 3).
    pub(crate) signed: bool,
    /// NXDOMAIN for a name that does not exist although the proof is that of a name without data
    /// (CO).
    pub(crate) nxdomain: bool,
}

impl Wish {
    /// That of this record, if there is one.
    pub(crate) fn of(edns: Option<&Edns>) -> Self {
        edns.map_or_else(Wish::default, |edns| Wish {
            signed: edns.flags().dnssec_ok,
            nxdomain: edns.flags().z & COMPACT_OK != 0,
        })
    }
}

/// A zone's key in use.
#[derive(Clone, Debug)]
pub struct Signer {
    key: Arc<ZoneKey>,
    origin: Name,
    /// TTL of what stands at the apex, seconds.
    ttl: u32,
}

impl Signer {
    /// Signs for the zone of this `apex`.
    pub fn new(key: Arc<ZoneKey>, apex: &Apex) -> Self {
        Signer {
            key,
            origin: lower(&apex.origin),
            ttl: apex.ttl,
        }
    }

    /// For the parent zone, its DS record (RFC 4509); for whoever believes the zone without a
    /// parent, a trust anchor as BIND's `delv -a` and `named` take it, and the key itself, which
    /// `matd` takes. A line each.
    ///
    /// # Errors
    /// The key cannot be encoded.
    pub fn ds(&self) -> Result<String, ProtoError> {
        let digest = self
            .key
            .dnskey()
            .to_digest(&self.origin, DigestType::SHA256)?;
        let digest: String = digest.as_ref().iter().map(|o| format!("{o:02X}")).collect();
        let (tag, algorithm) = (self.key.tag(), u8::from(self.key.algorithm()));
        let origin = self.origin.to_ascii();
        Ok(format!(
            "{origin} 3600 IN DS {tag} {algorithm} 2 {digest}\n\
             trust-anchors {{ \"{origin}\" static-ds {tag} {algorithm} 2 \"{digest}\"; }};\n\
             {origin} {} IN DNSKEY {}",
            self.ttl,
            self.key.dnskey()
        ))
    }

    /// Puts into `answer`, which is what `zone` says to a question for `kind` at `name`, what there
    /// is in a signed zone besides; but for the signatures, for which the zone need not wait.
    pub(crate) fn complete(
        &self,
        answer: &mut Answer,
        zone: &Zone,
        (name, kind): (&Name, RecordType),
        wish: Wish,
    ) {
        let at_apex = *name == self.origin;
        let positive = |record| Answer {
            code: ResponseCode::NoError,
            answers: vec![record],
            authority: Vec::new(),
            denied: None,
        };
        match kind {
            _ if answer.code == ResponseCode::Refused => return,
            RecordType::NSEC | RecordType::RRSIG => {
                *answer = positive(denial::nsec(zone, &lower(name)));
            }
            RecordType::DNSKEY if at_apex => *answer = positive(self.dnskey()),
            RecordType::ANY if at_apex => answer.answers.push(self.dnskey()),
            _ => {}
        }
        if wish.signed
            && let Some(name) = &answer.denied
        {
            answer.authority.push(denial::nsec(zone, name));
            if !wish.nxdomain {
                answer.code = ResponseCode::NoError;
            }
        }
    }

    fn dnskey(&self) -> Record {
        let data = DNSSECRData::DNSKEY(self.key.dnskey().clone());
        Record::from_rdata(self.origin.clone(), self.ttl, RData::DNSSEC(data))
    }

    /// Puts a signature behind each set of a complete `answer` to a question for `kind`, if it is
    /// wanted; whether there are any now.
    ///
    /// # Errors
    /// A record cannot be encoded, or there are no random numbers.
    pub(crate) fn sign(
        &self,
        answer: &mut Answer,
        kind: RecordType,
        wish: Wish,
        now: u64,
    ) -> DnsSecResult<bool> {
        // Whoever asks for them by name gets them in any case (RFC 4035 section 3).
        if !wish.signed && kind != RecordType::RRSIG {
            return Ok(false);
        }
        self.sign_sets(&mut answer.answers, now)?;
        self.sign_sets(&mut answer.authority, now)?;
        if kind == RecordType::RRSIG {
            let signatures = |record: &Record| record.record_type() == RecordType::RRSIG;
            answer.answers.retain(signatures);
        }
        Ok(!answer.answers.is_empty() || !answer.authority.is_empty())
    }

    fn sign_sets(&self, records: &mut Vec<Record>, now: u64) -> DnsSecResult<()> {
        let unsigned = std::mem::take(records);
        let same = |a: &Record, b: &Record| a.name == b.name && a.record_type() == b.record_type();
        for set in unsigned.chunk_by(same) {
            records.extend_from_slice(set);
            if let Some(first) = set.first() {
                records.push(self.rrsig(first, set, now)?);
            }
        }
        Ok(())
    }

    /// RFC 4034 section 3.1.
    fn rrsig(&self, first: &Record, set: &[Record], now: u64) -> DnsSecResult<Record> {
        let begun = now - now % PERIOD;
        // Times are serial numbers (section 3.1.5) and may wrap.
        let time = |seconds: u64| SerialNumber::new(seconds as u32);
        let kind = first.record_type();
        let input = SigInput {
            type_covered: kind,
            algorithm: self.key.algorithm(),
            num_labels: first.name.num_labels(),
            // The SOA of a negative answer has less than in the zone.
            original_ttl: match kind {
                RecordType::SOA => self.ttl,
                _ => first.ttl,
            },
            sig_expiration: time(begun + PERIOD + VALIDITY),
            sig_inception: time(begun.saturating_sub(SKEW)),
            key_tag: self.key.tag(),
            signer_name: self.origin.clone(),
        };
        let signature = self.key.sign(&to_be_signed(&input, first, set)?)?;
        let data = DNSSECRData::RRSIG(RRSIG::from_sig(input, signature));
        let data = RData::DNSSEC(data);
        Ok(Record::from_rdata(first.name.clone(), first.ttl, data))
    }
}

/// RFC 4034 section 3.1.8.1, the records in the order of section 6.3.
fn to_be_signed(input: &SigInput, first: &Record, set: &[Record]) -> Result<Vec<u8>, ProtoError> {
    let data = set.iter().map(|record| canonical(&record.data));
    let mut data = data.collect::<Result<Vec<_>, _>>()?;
    data.sort_unstable();
    data.dedup();
    let mut octets = canonical(input)?;
    let mut head = canonical(&first.name)?;
    head.extend(u16::from(input.type_covered).to_be_bytes());
    head.extend(u16::from(first.dns_class).to_be_bytes());
    head.extend(input.original_ttl.to_be_bytes());
    for data in data {
        octets.extend(&head);
        octets.extend((data.len() as u16).to_be_bytes());
        octets.extend(data);
    }
    Ok(octets)
}

/// RFC 4034 section 6.2; names of owners are in lower case already.
fn canonical(value: &impl BinEncodable) -> Result<Vec<u8>, ProtoError> {
    let mut octets = Vec::with_capacity(256);
    let mut encoder = BinEncoder::new(&mut octets);
    encoder.set_canonical_form(true);
    encoder.set_name_encoding(NameEncoding::Uncompressed);
    value.emit(&mut encoder)?;
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use hickory_proto::dnssec::crypto::{EcdsaSigningKey, Ed25519SigningKey};
    use hickory_proto::dnssec::{Algorithm, Verifier as _};
    use hickory_proto::rr::DNSClass;
    use hickory_proto::rr::rdata::{CNAME, TXT};
    use proptest::prelude::*;
    use tokio_rustls::rustls::pki_types::PrivateKeyDer;

    use super::*;
    use crate::zone::tests::{apex, name, put};
    use crate::zone::{Change, RrSet};

    const NOW: u64 = 1_800_000_000;
    const SIGNED: Wish = Wish {
        signed: true,
        nxdomain: false,
    };

    fn signers() -> [Signer; 2] {
        let of = |der| ZoneKey::new(&PrivateKeyDer::Pkcs8(der)).unwrap();
        let ecdsa = EcdsaSigningKey::generate_pkcs8(Algorithm::ECDSAP256SHA256).unwrap();
        let ed25519 = Ed25519SigningKey::generate_pkcs8().unwrap();
        [of(ecdsa), of(ed25519)].map(|key| Signer::new(Arc::new(key), &apex()))
    }

    fn zone() -> Zone {
        let mut zone = Zone::new(&apex());
        let text = include_str!("../../tests/zones/small.txt");
        for record in crate::zonefile::parse(text, &name("map.example.")).unwrap() {
            put(&mut zone, &record.name.to_ascii(), record.data);
        }
        let alias = |target: &str| RData::CNAME(CNAME(name(target)));
        put(&mut zone, "away.map.example.", alias("Else.Where.example."));
        put(&mut zone, "dangling.map.example.", alias("NO.map.example."));
        put(
            &mut zone,
            "circle.map.example.",
            alias("circle.map.example."),
        );
        zone
    }

    fn ask(signer: &Signer, zone: &Zone, owner: &str, kind: RecordType, wish: Wish) -> Answer {
        ask_at(signer, zone, &name(owner), kind, wish)
    }

    fn ask_at(signer: &Signer, zone: &Zone, owner: &Name, kind: RecordType, wish: Wish) -> Answer {
        let mut answer = zone.answer(owner, kind);
        signer.complete(&mut answer, zone, (owner, kind), wish);
        signer.sign(&mut answer, kind, wish, NOW).unwrap();
        answer
    }

    fn rrsig(record: &Record) -> Option<&RRSIG> {
        match &record.data {
            RData::DNSSEC(DNSSECRData::RRSIG(rrsig)) => Some(rrsig),
            _ => None,
        }
    }

    /// Each set is followed by its signature, which hickory finds right.
    fn verify(signer: &Signer, section: &[Record]) {
        let mut rest = section;
        while let Some(first) = rest.first() {
            let at = rest.iter().position(|r| rrsig(r).is_some()).unwrap();
            let (set, signature) = (&rest[..at], &rest[at]);
            let same = |r: &Record| r.name == first.name && r.record_type() == first.record_type();
            assert!(set.iter().all(same), "{rest:?}");
            assert_eq!((&signature.name, signature.ttl), (&first.name, first.ttl));
            let rrsig = rrsig(signature).unwrap();
            let input = rrsig.input();
            assert_eq!(input.type_covered, first.record_type());
            let time = |seconds: u64| SerialNumber::new(seconds as u32);
            let (from, to) = (input.sig_inception, input.sig_expiration);
            assert!(from <= time(NOW - SKEW) && to >= time(NOW + VALIDITY));
            let dnskey = signer.key.dnskey();
            dnskey
                .verify_rrsig(&first.name, DNSClass::IN, rrsig, set.iter())
                .unwrap();
            rest = &rest[at + 1..];
        }
    }

    fn kinds(section: &[Record]) -> Vec<u16> {
        let kinds = section.iter().map(|r| u16::from(r.record_type()));
        kinds.collect()
    }

    const OWNERS: [&str; 9] = [
        "map.example.",
        "10.2.0.192.h4.map.example.",
        "11.2.0.192.h4.map.example.",
        "2.0.192.h4.map.example.",
        "alias.map.example.",
        "away.map.example.",
        "dangling.map.example.",
        "circle.map.example.",
        "*.map.example.",
    ];

    #[test]
    fn whatever_is_answered_is_signed() {
        let zone = zone();
        for signer in signers() {
            for owner in OWNERS {
                for kind in [1, 2, 5, 6, 16, 28, 43, 46, 47, 48, 64, 255, 65_280] {
                    let kind = RecordType::from(kind);
                    let answer = ask(&signer, &zone, owner, kind, SIGNED);
                    assert_eq!(answer.code, ResponseCode::NoError);
                    verify(&signer, &answer.authority);
                    if kind == RecordType::RRSIG {
                        assert_eq!(kinds(&answer.answers), [46], "{owner}");
                    } else {
                        verify(&signer, &answer.answers);
                    }
                    // Without DO nothing is there that was not there before.
                    let plain = ask(&signer, &zone, owner, kind, Wish::default());
                    match u16::from(kind) {
                        46..=48 => {}
                        255 if owner == "map.example." => assert_eq!(plain.answers.len(), 4),
                        _ => assert_eq!(plain, zone.answer(&name(owner), kind)),
                    }
                }
            }
            let answer = ask(&signer, &zone, "elsewhere.example.", RecordType::A, SIGNED);
            assert_eq!(
                answer,
                zone.answer(&name("elsewhere.example."), RecordType::A)
            );
        }
    }

    #[test]
    fn answers_hold_what_validators_need() {
        let (zone, [signer, _]) = (zone(), signers());
        let [cname, soa, txt, nsec, dnskey, svcb] = [5, 6, 16, 47, 48, 64];
        let negative = vec![soa, 46, nsec, 46];
        for (owner, kind, answers, authority) in [
            ("10.2.0.192.h4.map.example.", svcb, vec![svcb, 46], vec![]),
            ("10.2.0.192.h4.map.example.", txt, vec![], negative.clone()),
            ("nobody.map.example.", txt, vec![], negative.clone()),
            ("2.0.192.h4.map.example.", txt, vec![], negative.clone()),
            (
                "dangling.map.example.",
                txt,
                vec![cname, 46],
                negative.clone(),
            ),
            ("away.map.example.", txt, vec![cname, 46], vec![]),
            ("map.example.", dnskey, vec![dnskey, 46], vec![]),
            (
                "alias.map.example.",
                dnskey,
                vec![cname, 46],
                negative.clone(),
            ),
            ("map.example.", nsec, vec![nsec, 46], vec![]),
            ("nobody.map.example.", nsec, vec![nsec, 46], vec![]),
        ] {
            let answer = ask(&signer, &zone, owner, RecordType::from(kind), SIGNED);
            assert_eq!(kinds(&answer.answers), answers, "{owner} {kind}");
            assert_eq!(kinds(&answer.authority), authority, "{owner} {kind}");
        }
    }

    #[test]
    fn a_name_that_does_not_exist_is_nxdomain_for_those_who_can_take_it() {
        let (zone, [signer, _]) = (zone(), signers());
        let both = Wish {
            nxdomain: true,
            ..SIGNED
        };
        for (owner, wish, wanted) in [
            ("nobody.map.example.", SIGNED, ResponseCode::NoError),
            ("nobody.map.example.", both, ResponseCode::NXDomain),
            ("dangling.map.example.", both, ResponseCode::NXDomain),
            ("2.0.192.h4.map.example.", both, ResponseCode::NoError),
            (
                "nobody.map.example.",
                Wish::default(),
                ResponseCode::NXDomain,
            ),
        ] {
            let answer = ask(&signer, &zone, owner, RecordType::A, wish);
            assert_eq!(answer.code, wanted, "{owner} {wish:?}");
        }
    }

    #[test]
    fn a_negative_answers_soa_is_signed_with_the_ttl_it_has_in_the_zone() {
        let (zone, [signer, _]) = (zone(), signers());
        let answer = ask(&signer, &zone, "nobody.map.example.", RecordType::A, SIGNED);
        let [soa, signature, ..] = &answer.authority[..] else {
            panic!("{answer:?}");
        };
        assert_eq!((soa.ttl, signature.ttl), (2, 2));
        let input = rrsig(signature).unwrap().input();
        assert_eq!(input.original_ttl, 300);
        assert_eq!(input.num_labels, 2);
        assert_eq!(input.signer_name, name("map.example."));
    }

    #[test]
    fn what_has_moved_is_signed_at_once_and_what_has_not_is_not_signed_again() {
        let (mut zone, [signer, _]) = (zone(), signers());
        let text = |text: &str| RData::TXT(TXT::new(vec![text.to_owned()]));
        let signature = |zone: &Zone, now| {
            let mut answer = zone.answer(&name("note.map.example."), RecordType::TXT);
            signer
                .sign(&mut answer, RecordType::TXT, SIGNED, now)
                .unwrap();
            rrsig(answer.answers.last().unwrap())
                .unwrap()
                .sig()
                .to_vec()
        };
        put(&mut zone, "note.map.example.", text("here"));
        let here = signature(&zone, NOW);
        // ECDSA is not deterministic.
        assert_eq!(signature(&zone, NOW), here);
        assert_ne!(signature(&zone, NOW + PERIOD), here);
        put(&mut zone, "note.map.example.", text("there"));
        assert_ne!(signature(&zone, NOW), here);
    }

    #[test]
    fn the_ds_record_is_that_of_the_key() {
        for (signer, algorithm) in signers().iter().zip([13, 15]) {
            let lines = signer.ds().unwrap();
            let [ds, anchor, key] = lines.lines().collect::<Vec<_>>()[..] else {
                panic!("{lines}");
            };
            let start = format!(
                "map.example. 3600 IN DS {} {algorithm} 2 ",
                signer.key.tag()
            );
            let digest = ds.strip_prefix(&start).unwrap();
            assert_eq!(digest.len(), 64);
            assert!(anchor.starts_with("trust-anchors { \"map.example.\" static-ds "));
            assert!(anchor.ends_with(&format!(" {algorithm} 2 \"{digest}\"; }};")));
            let start = format!("map.example. 300 IN DNSKEY 257 3 {algorithm} ");
            assert!(key.starts_with(&start), "{key}");
        }
    }

    proptest! {
        /// Any set, in any order, at any name, and at any time.
        #[test]
        fn every_signature_verifies(
            texts in proptest::collection::vec("[ -~]{0,40}", 1..8),
            label in "[a-z0-9*]{1,63}",
            ttl in any::<u32>(),
            now in any::<u32>(),
        ) {
            static SIGNERS: std::sync::OnceLock<[Signer; 2]> = std::sync::OnceLock::new();
            let mut data: Vec<RData> = Vec::new();
            for text in texts {
                let text = RData::TXT(TXT::new(vec![text]));
                if !data.contains(&text) {
                    data.push(text);
                }
            }
            let owner = name("map.example.").prepend_label(label.as_bytes()).unwrap();
            let mut zone = Zone::new(&apex());
            zone.apply(Change {
                sets: [((owner.clone(), RecordType::TXT), Some(RrSet { ttl, data }))].into(),
                ..Change::default()
            });
            for signer in SIGNERS.get_or_init(signers) {
                let mut answer = zone.answer(&owner, RecordType::TXT);
                signer.sign(&mut answer, RecordType::TXT, SIGNED, now.into()).unwrap();
                let (signature, set) = answer.answers.split_last().unwrap();
                let signature = rrsig(signature).unwrap();
                let verified = signer.key.dnskey().verify_rrsig(
                    &owner, DNSClass::IN, signature, set.iter(),
                );
                prop_assert!(verified.is_ok());
            }
        }

        /// Any question, at names of any length.
        #[test]
        fn every_denial_verifies(
            owner in denial::tests::names("map.example."),
            kind in any::<u16>(),
            nxdomain in any::<bool>(),
        ) {
            static SIGNERS: std::sync::OnceLock<[Signer; 2]> = std::sync::OnceLock::new();
            let (zone, kind) = (zone(), RecordType::from(kind));
            let wish = Wish { signed: true, nxdomain };
            for signer in SIGNERS.get_or_init(signers) {
                let answer = ask_at(signer, &zone, &owner, kind, wish);
                verify(signer, &answer.authority);
                prop_assert!(!answer.authority.is_empty() || !answer.answers.is_empty());
            }
        }
    }
}

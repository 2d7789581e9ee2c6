//! Compact denial of existence (RFC 9824): one NSEC record, made for the name asked for, that says
//! which types are there and reaches no further than the very next name there could be. Pure.

use hickory_proto::dnssec::rdata::{DNSSECRData, NSEC};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::zone::Zone;

/// The pseudo-type in the NSEC record of a name that does not exist (RFC 9824 section 2).
pub const NXNAME: RecordType = RecordType::Unknown(128);

/// The NSEC record of `name`, which is in the zone and in lower case, with the TTL of a negative
/// answer (RFC 9077 section 3).
pub(super) fn nsec(zone: &Zone, name: &Name) -> Record {
    let mut kinds = zone.kinds_told(name);
    if name == zone.origin() {
        kinds.push(RecordType::DNSKEY);
    }
    if kinds.is_empty() && !zone.exists(name) {
        kinds.push(NXNAME);
    }
    let next = successor(name, zone.origin());
    let data = DNSSECRData::NSEC(NSEC::new_cover_self(next, kinds));
    Record::from_rdata(name.clone(), zone.negative_ttl(), RData::DNSSEC(data))
}

/// The first name behind `name` in canonical order (RFC 4034 section 6.1) that can be written:
/// `\000.name`, and where that is too long, what RFC 4471 section 3.1.2 derives; at last `origin`
/// (RFC 4034 section 4.1.1). Nothing that exists can be between.
fn successor(name: &Name, origin: &Name) -> Name {
    if let Ok(below) = name.prepend_label(&[0][..]) {
        return below;
    }
    let labels: Vec<&[u8]> = name.iter().collect();
    let depth = labels.len().saturating_sub(origin.iter().count());
    for at in 0..depth {
        let above = labels[at + 1..].iter().map(|label| label.to_vec());
        let longer = [labels[at], &[0]].concat();
        for label in [Some(longer), incremented(labels[at])]
            .into_iter()
            .flatten()
        {
            if let Ok(next) = Name::from_labels(std::iter::once(label).chain(above.clone())) {
                return next;
            }
        }
    }
    origin.clone()
}

/// The first label behind `label` that is no longer.
fn incremented(label: &[u8]) -> Option<Vec<u8>> {
    let end = label.iter().rposition(|octet| *octet != u8::MAX)?;
    let mut next = label[..=end].to_vec();
    // Capitals stand where small letters do.
    next[end] = match next[end] {
        b'@' => b'[',
        octet => octet + 1,
    };
    Some(next)
}

#[cfg(test)]
pub(super) mod tests {
    use hickory_proto::rr::rdata::svcb::{IpHint, SvcParamKey, SvcParamValue, Unknown};
    use hickory_proto::rr::rdata::{A, SVCB};
    use hickory_proto::serialize::binary::BinEncodable as _;
    use proptest::prelude::*;

    use super::*;
    use crate::zone::tests::{apex, name, put};

    fn kinds_at(zone: &Zone, owner: &str) -> Vec<u16> {
        let record = nsec(zone, &name(owner));
        assert_eq!(record.ttl, 2);
        let RData::DNSSEC(DNSSECRData::NSEC(nsec)) = record.data else {
            panic!("{record:?}");
        };
        let next = format!("\\000.{owner}");
        assert_eq!(nsec.next_domain_name().to_ascii(), next);
        let mut kinds: Vec<u16> = nsec.type_bit_maps().map(u16::from).collect();
        kinds.sort_unstable();
        kinds
    }

    #[test]
    fn a_bitmap_says_what_is_there() {
        let mut zone = Zone::new(&apex());
        let data = RData::A(std::net::Ipv4Addr::new(192, 0, 2, 1).into());
        put(&mut zone, "a.deep.map.example.", data);
        let [a, ns, soa, rrsig, nsec, dnskey, nxname] = [1, 2, 6, 46, 47, 48, 128];
        for (owner, wanted) in [
            ("map.example.", vec![ns, soa, rrsig, nsec, dnskey]),
            ("a.deep.map.example.", vec![a, rrsig, nsec]),
            // An empty non-terminal.
            ("deep.map.example.", vec![rrsig, nsec]),
            ("b.deep.map.example.", vec![rrsig, nsec, nxname]),
        ] {
            assert_eq!(kinds_at(&zone, owner), wanted, "{owner}");
        }
    }

    #[test]
    fn a_home_that_its_prefix_answers_for_is_there() {
        let mut zone = Zone::new(&apex());
        let keys = [
            (65280, "7"),
            (65281, "native"),
            (65282, "30"),
            (65283, "24"),
        ];
        let text = |(key, value): (u16, &str)| {
            let value = SvcParamValue::Unknown(Unknown(value.as_bytes().to_vec()));
            (SvcParamKey::Key(key), value)
        };
        let first = A::new(198, 51, 100, 0);
        let hint = SvcParamValue::Ipv4Hint(IpHint(vec![first]));
        let params = [(SvcParamKey::Ipv4Hint, hint)].into_iter();
        let params = params.chain(keys.map(text)).collect();
        let shared = RData::SVCB(SVCB::new(1, Name::root(), params));
        put(&mut zone, "*.2.0.192.h4.map.example.", shared);
        let [rrsig, nsec, svcb, nxname] = [46, 47, 64, 128];
        for (owner, wanted) in [
            ("10.2.0.192.h4.map.example.", vec![rrsig, nsec, svcb]),
            ("x.2.0.192.h4.map.example.", vec![rrsig, nsec, nxname]),
            ("10.3.0.192.h4.map.example.", vec![rrsig, nsec, nxname]),
        ] {
            assert_eq!(kinds_at(&zone, owner), wanted, "{owner}");
        }
    }

    /// Names of up to four labels below `origin`, many of them as long as can be.
    pub(crate) fn names(origin: &'static str) -> impl Strategy<Value = Name> {
        let octet = prop_oneof![Just(0), Just(255), Just(b'@'), Just(b'z'), any::<u8>()];
        let length = prop_oneof![Just(63), Just(62), 1_usize..64];
        let label = (proptest::collection::vec(octet, 63), length)
            .prop_map(|(octets, length)| octets[..length].to_vec());
        proptest::collection::vec(label, 0..5).prop_filter_map("too long", |labels| {
            let origin = name(origin);
            let labels = labels.iter().map(Vec::as_slice).chain(origin.iter());
            Some(Name::from_labels(labels).ok()?.to_lowercase())
        })
    }

    proptest! {
        /// Behind a name comes its successor, and between them nothing.
        #[test]
        fn nothing_is_between_a_name_and_its_successor(
            a in names("example."), b in names("example."),
        ) {
            let origin = name("example.");
            let next = successor(&a, &origin);
            prop_assert_eq!(next.to_lowercase().to_ascii(), next.to_ascii());
            if next != origin {
                prop_assert!(a < next);
            }
            // Names near it, above all.
            for other in [b.clone(), successor(&b, &origin), a.base_name()] {
                let inside = a < other && (other < next || next == origin);
                prop_assert!(!inside, "{} is between {} and {}", other, a, next);
            }
        }
    }

    #[test]
    fn a_name_as_long_as_can_be_has_a_successor() {
        let full = |last: &[u8]| {
            let long = [b'x'; 63];
            let labels: [&[u8]; 5] = [last, &long, &long, &long, b"t"];
            Name::from_labels(labels).unwrap()
        };
        let origin = name("t.");
        let (b, at, most) = ([b'b'; 59], [b'@'; 59], [255; 59]);
        assert_eq!(full(&b).to_bytes().unwrap().len(), 255);
        // No room for \000. below, nor for a longer label.
        let with = |label: &[u8], octet| [&label[..58], &[octet]].concat();
        assert_eq!(successor(&full(&b), &origin), full(&with(&b, b'c')));
        assert_eq!(successor(&full(&at), &origin), full(&with(&at, b'[')));
        // Room for a longer label.
        let short = [b'b'; 58];
        assert_eq!(
            successor(&full(&short), &origin),
            full(&[&short[..], &[0]].concat())
        );
        // None behind it in its place.
        let parent = full(&most).base_name();
        let next = successor(&full(&most), &origin);
        assert!(parent < next && full(&most) < next && !parent.zone_of(&next));
        // None behind it at all.
        let last: [&[u8]; 5] = [&most, &[255; 63], &[255; 63], &[255; 63], b"t"];
        let last = Name::from_labels(last).unwrap();
        assert_eq!(successor(&last, &origin), origin);
    }
}

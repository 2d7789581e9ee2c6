//! TSIG keys, signing and verification (RFC 8945), for server and client alike.
//!
//! Pure: the time is an argument. hickory-proto computes the MAC and reads the
//! record; this module decides *which* fault an answer has to name, signs
//! chains of messages (zone transfers) and fills in the server's clock where
//! BADTIME asks for it, none of which hickory's own signer offers.
//!
//! # Limitations
//! HMAC-SHA-256, -384 and -512, never truncated (RFC 8945 section 5.2.2.1
//! allows a local policy that refuses truncated MACs; this is ours).

use std::fmt;
use std::path::Path;

use base64::Engine as _;
use hickory_proto::ProtoError;
use hickory_proto::rr::rdata::TSIG;
use hickory_proto::rr::rdata::tsig::{
    TsigAlgorithm, TsigError, make_tsig_record, signed_bitmessage_to_buf,
};
use hickory_proto::rr::{Name, Record, TSigner};
use hickory_proto::serialize::binary::BinEncoder;
use serde::Deserialize;

/// Largest difference between two clocks that is accepted, in seconds
/// (RFC 8945 section 10 recommends 300).
pub const FUDGE: u16 = 300;

/// The MAC algorithms offered; the others are deprecated or truncated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Algorithm {
    /// HMAC-SHA-256, the default everywhere.
    #[default]
    #[serde(rename = "hmac-sha256")]
    HmacSha256,
    /// HMAC-SHA-384.
    #[serde(rename = "hmac-sha384")]
    HmacSha384,
    /// HMAC-SHA-512.
    #[serde(rename = "hmac-sha512")]
    HmacSha512,
}

impl Algorithm {
    fn wire(self) -> TsigAlgorithm {
        match self {
            Algorithm::HmacSha256 => TsigAlgorithm::HmacSha256,
            Algorithm::HmacSha384 => TsigAlgorithm::HmacSha384,
            Algorithm::HmacSha512 => TsigAlgorithm::HmacSha512,
        }
    }

    fn mac_len(self) -> usize {
        match self {
            Algorithm::HmacSha256 => 32,
            Algorithm::HmacSha384 => 48,
            Algorithm::HmacSha512 => 64,
        }
    }
}

impl std::str::FromStr for Algorithm {
    type Err = KeyError;

    fn from_str(s: &str) -> Result<Self, KeyError> {
        match s.trim_end_matches('.').to_ascii_lowercase().as_str() {
            "hmac-sha256" => Ok(Algorithm::HmacSha256),
            "hmac-sha384" => Ok(Algorithm::HmacSha384),
            "hmac-sha512" => Ok(Algorithm::HmacSha512),
            _ => Err(KeyError::Algorithm(s.to_owned())),
        }
    }
}

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not a domain name.
    #[error("key name {0:?} is not a domain name")]
    Name(String),
    /// An algorithm that is not offered.
    #[error("algorithm {0:?} is not one of hmac-sha256, hmac-sha384, hmac-sha512")]
    Algorithm(String),
    /// Not base64, or nothing.
    #[error(
        "the secret of key {0} is not base64 text; make one with `head -c 32 /dev/urandom | base64`"
    )]
    Secret(String),
    /// RFC 8945 section 10: shorter than the MAC it makes is too short.
    #[error(
        "the secret of key {name} has {len} octets; at least 16 are needed, {recommended} are usual"
    )]
    Short {
        /// The key.
        name: String,
        /// Octets in its secret.
        len: usize,
        /// Octets of its MAC.
        recommended: usize,
    },
    /// Not what `tsig-keygen` writes.
    #[error(
        "no key clause found: expected `key \"NAME\" {{ algorithm hmac-sha256; secret \"BASE64\"; }};` as written by tsig-keygen"
    )]
    Clause,
    /// The file cannot be read.
    #[error("cannot read key file {path}: {error}")]
    File {
        /// The file.
        path: String,
        /// What the system says.
        error: std::io::Error,
    },
}

/// A shared secret and its name. `Debug` shows the name only.
#[derive(Clone)]
pub struct TsigKey {
    algorithm: Algorithm,
    signer: TSigner,
}

impl TsigKey {
    /// A key from its parts; `secret` is the raw secret, not its base64 text.
    pub fn new(name: Name, algorithm: Algorithm, secret: Vec<u8>) -> Result<Self, KeyError> {
        if secret.len() < 16 {
            return Err(KeyError::Short {
                name: name.to_ascii(),
                len: secret.len(),
                recommended: algorithm.mac_len(),
            });
        }
        let signer = TSigner::new(secret, algorithm.wire(), name.to_lowercase(), FUDGE)
            .map_err(|_| KeyError::Algorithm(algorithm.wire().to_string()))?;
        Ok(TsigKey { algorithm, signer })
    }

    /// A key from text: its name and the base64 of its secret.
    pub fn from_base64(name: &str, algorithm: Algorithm, secret: &str) -> Result<Self, KeyError> {
        let parsed = Name::from_ascii(name)
            .ok()
            .filter(|n| n.num_labels() > 0)
            .ok_or_else(|| KeyError::Name(name.to_owned()))?;
        let secret: String = secret.split_whitespace().collect();
        let raw = base64::engine::general_purpose::STANDARD
            .decode(secret)
            .map_err(|_| KeyError::Secret(name.to_owned()))?;
        TsigKey::new(parsed, algorithm, raw)
    }

    /// The first key clause of `text`, in the form `tsig-keygen` writes and
    /// `nsupdate -k` reads.
    pub fn from_clause(text: &str) -> Result<Self, KeyError> {
        let spaced = text.replace(['{', '}', ';'], " ");
        let words: Vec<&str> = spaced.split_whitespace().collect();
        let after = |word: &str| {
            let at = words.iter().position(|w| *w == word)?;
            Some(words.get(at + 1)?.trim_matches('"'))
        };
        let name = after("key").ok_or(KeyError::Clause)?;
        let algorithm = after("algorithm").ok_or(KeyError::Clause)?.parse()?;
        TsigKey::from_base64(name, algorithm, after("secret").ok_or(KeyError::Clause)?)
    }

    /// Reads a file written by `tsig-keygen`.
    pub fn from_file(path: &Path) -> Result<Self, KeyError> {
        let text = std::fs::read_to_string(path).map_err(|error| KeyError::File {
            path: path.display().to_string(),
            error,
        })?;
        TsigKey::from_clause(&text)
    }

    /// The key's name, in lower case.
    pub fn name(&self) -> &Name {
        self.signer.signer_name()
    }

    /// The MAC algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The TSIG record for `unsigned`, an encoded message without one.
    ///
    /// `prior` is the MAC this one continues: none for a request, the request's
    /// for the first answer, the previous message's further on (`link`).
    pub fn sign(
        &self,
        unsigned: &[u8],
        prior: Option<&[u8]>,
        link: Link,
        stamp: Stamp,
    ) -> Result<Box<Record<TSIG>>, ProtoError> {
        let tsig = TSIG::new(
            self.algorithm.wire(),
            stamp.time,
            FUDGE,
            Vec::new(),
            stamp.id,
            stamp.error,
            stamp.other,
        );
        let mut tbs = Vec::with_capacity(unsigned.len() + 256);
        let mut encoder = BinEncoder::new(&mut tbs);
        if let Some(prior) = prior {
            encoder.emit_u16(prior.len() as u16)?;
            encoder.emit_vec(prior)?;
        }
        encoder.emit_vec(unsigned)?;
        match link {
            Link::First => tsig.emit_tsig_for_mac(&mut encoder, self.name())?,
            Link::Further => {
                encoder.emit_u16((tsig.time >> 32) as u16)?;
                encoder.emit_u32(tsig.time as u32)?;
                encoder.emit_u16(tsig.fudge)?;
            }
        }
        let mac = self
            .signer
            .sign(&tbs)
            .map_err(|e| ProtoError::from(e.to_string()))?;
        Ok(Box::new(make_tsig_record(
            self.name().clone(),
            tsig.set_mac(mac),
        )))
    }

    /// Checks key and MAC of `wire`, whose last record must be a TSIG. The time
    /// is not looked at: see [`Signature::fresh`].
    pub fn verify(
        &self,
        wire: &[u8],
        prior: Option<&[u8]>,
        link: Link,
    ) -> Result<Signature, Fault> {
        let (tbs, record) = signed_bitmessage_to_buf(wire, prior, link == Link::First)
            .map_err(|_| Fault::Unsigned)?;
        let tsig = record.data;
        if record.name != *self.name() || !self.is_algorithm(&tsig.algorithm) {
            return Err(Fault::BadKey);
        }
        match tsig.mac.len() {
            len if len > self.algorithm.mac_len() => return Err(Fault::Unsigned),
            len if len < self.algorithm.mac_len() => return Err(Fault::Truncated),
            _ => {}
        }
        self.signer
            .verify(&tbs, &tsig.mac)
            .map_err(|_| Fault::BadSig)?;
        Ok(Signature {
            mac: tsig.mac,
            time: tsig.time,
            fudge: tsig.fudge,
            id: tsig.oid,
            error: tsig.error,
            other: tsig.other,
        })
    }

    /// Algorithm names are domain names: their case does not matter.
    fn is_algorithm(&self, wire: &TsigAlgorithm) -> bool {
        let mut theirs = wire.to_name().to_lowercase();
        let mut ours = self.algorithm.wire().to_name();
        theirs.set_fqdn(true);
        ours.set_fqdn(true);
        theirs == ours
    }
}

impl fmt::Debug for TsigKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TsigKey({}, {:?})", self.name(), self.algorithm)
    }
}

/// Where a message stands in a chain of signed messages
/// (RFC 8945 section 5.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// A request, or the first message of an answer.
    First,
    /// A further message of the same answer.
    Further,
}

/// The variable fields of a TSIG record to be made.
#[derive(Clone, Debug)]
pub struct Stamp {
    /// Original message ID.
    pub id: u16,
    /// Unix seconds.
    pub time: u64,
    /// The error an answer names.
    pub error: Option<TsigError>,
    /// Other data: the server's clock, with BADTIME.
    pub other: Vec<u8>,
}

impl Stamp {
    /// A stamp that reports no error.
    pub fn new(id: u16, time: u64) -> Self {
        Stamp {
            id,
            time,
            error: None,
            other: Vec::new(),
        }
    }
}

/// A signature that was found valid.
#[derive(Clone, Debug)]
pub struct Signature {
    /// The MAC.
    pub mac: Vec<u8>,
    /// When it was made, Unix seconds.
    pub time: u64,
    /// The window its maker allows, seconds.
    pub fudge: u16,
    /// Original message ID.
    pub id: u16,
    /// The error an answer names.
    pub error: Option<TsigError>,
    /// Other data.
    pub other: Vec<u8>,
}

impl Signature {
    /// Whether it was made within the window around `now` (Unix seconds):
    /// what its maker allows, and never more than [`FUDGE`].
    pub fn fresh(&self, now: u64) -> bool {
        self.time.abs_diff(now) <= u64::from(self.fudge.min(FUDGE))
    }

    /// The clock a server tells in a BADTIME answer, Unix seconds.
    pub fn server_time(&self) -> Option<u64> {
        let six: [u8; 6] = self.other.as_slice().try_into().ok()?;
        Some(six.iter().fold(0, |t, octet| t << 8 | u64::from(*octet)))
    }
}

/// Why a signature is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No TSIG record, or one that cannot be read.
    #[error("not signed")]
    Unsigned,
    /// Another key or algorithm than ours.
    #[error("signed with a key or algorithm that is not known")]
    BadKey,
    /// The MAC is wrong.
    #[error("the signature is wrong")]
    BadSig,
    /// The MAC is cut short.
    #[error("the signature is truncated")]
    Truncated,
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Message, Query};
    use hickory_proto::rr::RecordType;

    use super::*;

    fn key(name: &str, byte: u8) -> TsigKey {
        TsigKey::new(
            Name::from_ascii(name).unwrap(),
            Algorithm::HmacSha256,
            vec![byte; 32],
        )
        .unwrap()
    }

    fn signed(key: &TsigKey, time: u64) -> Vec<u8> {
        let mut message = Message::query();
        message.add_query(Query::query(
            Name::from_ascii("map.example.").unwrap(),
            RecordType::SOA,
        ));
        let wire = message.to_vec().unwrap();
        let stamp = Stamp::new(message.metadata.id, time);
        let tsig = key.sign(&wire, None, Link::First, stamp).unwrap();
        message.set_signature(tsig);
        message.to_vec().unwrap()
    }

    #[test]
    fn only_the_right_key_verifies_and_only_within_the_window() {
        let right = key("site-a.", 1);
        let wire = signed(&right, 1_000_000);
        let signature = right.verify(&wire, None, Link::First).unwrap();
        assert!(signature.fresh(1_000_300));
        assert!(signature.fresh(999_700));
        assert!(!signature.fresh(1_000_301));
        assert!(!signature.fresh(0));
        let fault = |k: &TsigKey, w: &[u8]| k.verify(w, None, Link::First).unwrap_err();
        assert_eq!(fault(&key("site-a.", 2), &wire), Fault::BadSig);
        assert_eq!(fault(&key("site-b.", 1), &wire), Fault::BadKey);
        let mut changed = wire.clone();
        changed[3] ^= 0x10;
        assert_eq!(fault(&right, &changed), Fault::BadSig);
        assert_eq!(
            fault(&right, &Message::query().to_vec().unwrap()),
            Fault::Unsigned
        );
    }

    #[test]
    fn a_time_before_its_own_window_is_no_overflow() {
        let k = key("site-a.", 1);
        let signature = k.verify(&signed(&k, 5), None, Link::First).unwrap();
        assert!(!signature.fresh(1_000_000));
    }

    #[test]
    fn the_form_of_tsig_keygen_is_read() {
        let text = "key \"site-a\" {\n\talgorithm hmac-sha512;\n\tsecret \"AAECAwQFBgcICQoLDA0ODw==\";\n};\n";
        let k = TsigKey::from_clause(text).unwrap();
        assert_eq!(k.name().to_ascii(), "site-a.");
        assert_eq!(k.algorithm(), Algorithm::HmacSha512);
        assert!(matches!(
            TsigKey::from_clause("nothing"),
            Err(KeyError::Clause)
        ));
        assert!(!format!("{k:?}").contains("AAEC"));
    }

    #[test]
    fn keys_that_protect_nothing_are_refused() {
        let made = |secret| TsigKey::from_base64("k", Algorithm::HmacSha256, secret);
        assert!(matches!(made("AAEC"), Err(KeyError::Short { len: 3, .. })));
        assert!(matches!(made("not base64!"), Err(KeyError::Secret(_))));
        assert!(matches!(
            TsigKey::from_base64("", Algorithm::HmacSha256, "AAEC"),
            Err(KeyError::Name(_))
        ));
        assert!("hmac-md5".parse::<Algorithm>().is_err());
    }
}

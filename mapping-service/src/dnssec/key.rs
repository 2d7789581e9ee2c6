//! The key of a zone, and the signatures made with it. Pure but for the random numbers that a
//! signature may take.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use hickory_proto::dnssec::crypto::{EcdsaSigningKey, Ed25519SigningKey};
use hickory_proto::dnssec::rdata::DNSKEY;
use hickory_proto::dnssec::{Algorithm, DnsSecResult, SigningKey, TBS};
use ring::digest::{SHA256, digest};
use ring::signature::Ed25519KeyPair;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// A private key, kept by the cryptographic library alone, and what the zone says of it.
pub struct ZoneKey {
    private: Box<dyn SigningKey>,
    dnskey: DNSKEY,
    tag: u16,
    made: Mutex<Memory>,
}

impl fmt::Debug for ZoneKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("ZoneKey");
        shown.field("algorithm", &self.private.algorithm());
        shown.field("tag", &self.tag).finish_non_exhaustive()
    }
}

impl ZoneKey {
    /// A key in PKCS#8 for ECDSA with P-256 (RFC 6605) or Ed25519 (RFC 8080); `None` if it is
    /// anything else.
    pub fn new(key: &PrivateKeyDer<'_>) -> Option<Self> {
        let PrivateKeyDer::Pkcs8(key) = key else {
            return None;
        };
        let private = ecdsa(key).or_else(|| ed25519(key))?;
        // Flags 257: it signs itself and the rest.
        let dnskey = DNSKEY::from_key(&private.to_public_key().ok()?);
        Some(ZoneKey {
            tag: dnskey.calculate_key_tag().ok()?,
            private,
            dnskey,
            made: Mutex::default(),
        })
    }

    /// What the zone says of it.
    pub(super) fn dnskey(&self) -> &DNSKEY {
        &self.dnskey
    }

    /// What its signatures name it by (RFC 4034 appendix B).
    pub(super) fn tag(&self) -> u16 {
        self.tag
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        self.private.algorithm()
    }

    /// The signature of `octets`.
    pub(super) fn sign(&self, octets: &[u8]) -> DnsSecResult<Vec<u8>> {
        let of = digest(&SHA256, octets);
        let made = || self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(of) = of.as_ref().try_into()
            && let Some(signature) = made().find(of)
        {
            return Ok(signature.to_vec());
        }
        let signature = self.private.sign(&TBS::from(octets))?;
        if let (Ok(of), Ok(signature)) = (of.as_ref().try_into(), signature[..].try_into()) {
            made().keep(of, signature);
        }
        Ok(signature)
    }
}

fn ecdsa(key: &PrivatePkcs8KeyDer<'_>) -> Option<Box<dyn SigningKey>> {
    let key = EcdsaSigningKey::from_pkcs8(key, Algorithm::ECDSAP256SHA256).ok()?;
    Some(Box::new(key))
}

fn ed25519(key: &PrivatePkcs8KeyDer<'_>) -> Option<Box<dyn SigningKey>> {
    // OpenSSL writes it without the public key, by which it could be checked.
    let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(key.secret_pkcs8_der()).ok()?;
    Some(Box::new(Ed25519SigningKey::from_ed25519(key)))
}

/// Half of the signatures remembered.
const GENERATION: usize = 32_768;

/// A SHA-256 digest.
type Digest = [u8; 32];
/// A signature, of that length with either algorithm.
type Signature = [u8; 64];

/// Signatures made of late, by the digest of what was signed: since that is all they depend on, none
/// is ever wrong, and those not asked for any more go when there are too many.
#[derive(Default)]
struct Memory {
    young: HashMap<Digest, Signature>,
    old: HashMap<Digest, Signature>,
}

impl Memory {
    fn find(&mut self, of: Digest) -> Option<Signature> {
        if let Some(signature) = self.young.get(&of) {
            return Some(*signature);
        }
        let signature = self.old.remove(&of)?;
        self.keep(of, signature);
        Some(signature)
    }

    fn keep(&mut self, of: Digest, signature: Signature) {
        if self.young.len() == GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(of, signature);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_remembered_up_to_a_number() {
        let mut memory = Memory::default();
        let of = |n: usize| {
            digest(&SHA256, &n.to_be_bytes())
                .as_ref()
                .try_into()
                .unwrap()
        };
        for n in 0..3 * GENERATION {
            memory.keep(of(n), [n as u8; 64]);
            // Asked for all the time.
            assert_eq!(memory.find(of(0)), Some([0; 64]));
            assert!(memory.young.len() + memory.old.len() <= 2 * GENERATION);
        }
        assert_eq!(memory.find(of(1)), None);
        let last = 3 * GENERATION - 1;
        assert_eq!(memory.find(of(last)), Some([last as u8; 64]));
    }

    #[test]
    fn a_key_shows_nothing_that_is_secret() {
        let der = Ed25519SigningKey::generate_pkcs8().unwrap();
        let key = ZoneKey::new(&PrivateKeyDer::Pkcs8(der)).unwrap();
        let wanted = format!("ZoneKey {{ algorithm: ED25519, tag: {}, .. }}", key.tag);
        assert_eq!(format!("{key:?}"), wanted);
        assert_eq!(key.dnskey().flags(), 257);
    }

    #[test]
    fn other_keys_are_not_taken() {
        let other = EcdsaSigningKey::generate_pkcs8(Algorithm::ECDSAP384SHA384).unwrap();
        assert!(ZoneKey::new(&PrivateKeyDer::Pkcs8(other)).is_none());
        let none = PrivatePkcs8KeyDer::from(vec![0x30, 0]);
        assert!(ZoneKey::new(&PrivateKeyDer::Pkcs8(none)).is_none());
    }
}

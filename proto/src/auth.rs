//! Tokens, keys and message authentication codes of the control exchange.
//!
//! Each side of a context makes one 128-bit [`Token`] and sends it only to the
//! *registered* locator of the other; whoever knows both tokens has shown that
//! it receives packets there. The key of the context is made from both. A move
//! has a 256-bit [`MoveKey`] of its own, handed to both sites by the operator's
//! control connection.
//!
//! # Limitations
//! An attacker on the path reads the tokens and can then do what an on-path
//! attacker can do to plain IP anyway. Keys are not secrecy; nothing here
//! encrypts.

use std::fmt;

use ring::{digest, hmac};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use subtle::ConstantTimeEq;

/// Length of a MAC on the wire: HMAC-SHA-256 truncated to 128 bits (RFC 2104
/// section 5).
pub const MAC_LEN: usize = 16;

macro_rules! secret_bytes {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name(pub [u8; $len]);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&to_hex(&self.0))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = String::deserialize(d)?;
                from_hex(&text).map($name).ok_or_else(|| {
                    serde::de::Error::custom(concat!(stringify!($len), " bytes in hexadecimal expected"))
                })
            }
        }
    };
}

secret_bytes! {
    /// One side's contribution to the key of a context. Never shown by `Debug`;
    /// serialised (as hexadecimal) only into the state file and the hand-over
    /// of a move.
    Token, 16
}

secret_bytes! {
    /// The key under which the two sites of one move relay packets.
    MoveKey, 32
}

/// The authentication key of one context, or of one move.
#[derive(Clone)]
pub struct Key(hmac::Key);

impl Key {
    /// The key both sides of a context derive, whichever of them opened it.
    pub fn of_context(one: Token, other: Token) -> Self {
        let (low, high) = if one <= other {
            (one, other)
        } else {
            (other, one)
        };
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"mat context key 1");
        context.update(&low.0);
        context.update(&high.0);
        Key(hmac::Key::new(hmac::HMAC_SHA256, context.finish().as_ref()))
    }

    /// The key of one move.
    pub fn of_move(key: MoveKey) -> Self {
        Key(hmac::Key::new(hmac::HMAC_SHA256, &key.0))
    }

    /// The MAC of `message`.
    pub fn mac(&self, message: &[u8]) -> [u8; MAC_LEN] {
        let tag = hmac::sign(&self.0, message);
        let mut mac = [0; MAC_LEN];
        mac.copy_from_slice(&tag.as_ref()[..MAC_LEN]);
        mac
    }

    /// Whether `mac` is the MAC of `message`, in constant time.
    pub fn verify(&self, message: &[u8], mac: &[u8; MAC_LEN]) -> bool {
        self.mac(message).ct_eq(mac).into()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let digit = |b: u8| (b as char).to_digit(16).map(|d| d as u8);
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_derive_the_same_key() {
        let (a, b) = (Token([1; 16]), Token([2; 16]));
        let mac = Key::of_context(a, b).mac(b"x");
        assert!(Key::of_context(b, a).verify(b"x", &mac));
        assert!(!Key::of_context(a, a).verify(b"x", &mac));
        assert!(!Key::of_context(a, b).verify(b"y", &mac));
    }

    #[test]
    fn secrets_are_not_shown() {
        assert_eq!(format!("{:?}", Token([7; 16])), "Token(..)");
        assert_eq!(from_hex::<2>("0aFf"), Some([10, 255]));
        assert_eq!(from_hex::<2>("0aF"), None);
        assert_eq!(from_hex::<2>("0aFg"), None);
    }
}

//! DNS cookies (RFC 7873): whoever sends one back reads what is sent to its address. They are
//! made as RFC 9018 says, so that any server with the same secret knows them again, and nothing
//! is remembered of anybody. Nobody has to have one. Pure, but for [`Secrets::random`].

use std::fmt;
use std::hash::Hasher as _;
use std::net::IpAddr;

use hickory_proto::op::Edns;
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use siphasher::sip::SipHasher24;

use super::counters::Cause;

/// The client's cookie and after it ours.
pub(super) const WHOLE: usize = 24;
/// Octets of the client's.
const CLIENT: usize = 8;
/// The one way to make them that is interoperable (RFC 9018 section 4.1).
const VERSION: u8 = 1;

/// Seconds that a cookie is good for, those it may be ahead of our clock, and those after which
/// an answer brings a new one (RFC 9018 section 4.3).
const LIFE: i32 = 3600;
const AHEAD: i32 = 300;
const RENEWAL: i32 = 1800;

/// What cookies are made with and known by (RFC 9018 section 5).
#[derive(Clone)]
pub struct Secrets {
    first: SipHasher24,
    second: Option<SipHasher24>,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(not shown)")
    }
}

impl Secrets {
    /// Cookies are made with the `first`; those made with the `second` are accepted, too.
    pub fn new(first: &[u8; 16], second: Option<&[u8; 16]>) -> Self {
        Secrets {
            first: SipHasher24::new_with_key(first),
            second: second.map(SipHasher24::new_with_key),
        }
    }

    /// A secret of its own for a server that shares none.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut secret = [0; 16];
        getrandom::fill(&mut secret)?;
        Ok(Secrets::new(&secret, None))
    }

    /// Understands the COOKIE option `octets` of `client` at `now` (Unix seconds).
    pub(super) fn read(&self, octets: &[u8], client: IpAddr, now: u64) -> Cookie {
        if !matches!(octets.len(), CLIENT | 16..=40) {
            return Cookie::Malformed;
        }
        let Some((own, ours)) = octets.split_first_chunk() else {
            return Cookie::Malformed;
        };
        // Times are serial numbers (RFC 9018 section 4.3).
        let now = now as u32;
        let new = || self.make(own, client, now);
        if ours.is_empty() {
            return Cookie::New(new());
        }
        let Ok(whole) = <[u8; WHOLE]>::try_from(octets) else {
            return Cookie::Invalid(new());
        };
        // Reserved octets are not looked at, but hashed (section 4.2).
        let [.., t0, t1, t2, t3, _, _, _, _, _, _, _, _] = whole;
        let age = now.wrapping_sub(u32::from_be_bytes([t0, t1, t2, t3])) as i32;
        if whole[CLIENT] != VERSION || !(-AHEAD..=LIFE).contains(&age) {
            return Cookie::Invalid(new());
        }
        let is_of = |secret: &SipHasher24| whole[16..] == hash(secret, &whole[..16], client);
        if is_of(&self.first) {
            Cookie::Valid(if age > RENEWAL { new() } else { whole })
        } else if self.second.as_ref().is_some_and(is_of) {
            Cookie::Valid(new())
        } else {
            Cookie::Invalid(new())
        }
    }

    /// RFC 9018 section 4.
    fn make(&self, own: &[u8; CLIENT], client: IpAddr, now: u32) -> [u8; WHOLE] {
        let mut whole = [0; WHOLE];
        whole[..CLIENT].copy_from_slice(own);
        whole[CLIENT] = VERSION;
        whole[12..16].copy_from_slice(&now.to_be_bytes());
        let hash = hash(&self.first, &whole[..16], client);
        whole[16..].copy_from_slice(&hash);
        whole
    }
}

/// RFC 9018 section 4.4.
fn hash(secret: &SipHasher24, head: &[u8], client: IpAddr) -> [u8; 8] {
    let mut hasher = *secret;
    hasher.write(head);
    match client.to_canonical() {
        IpAddr::V4(ip) => hasher.write(&ip.octets()),
        IpAddr::V6(ip) => hasher.write(&ip.octets()),
    }
    hasher.finish().to_le_bytes()
}

/// What the COOKIE option of a request says, and with what to answer it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cookie {
    /// There is none.
    None,
    /// Of a length that none has: FORMERR (RFC 7873 section 5.2.2).
    Malformed,
    /// The client's alone (section 5.2.3).
    New([u8; WHOLE]),
    /// With one of ours that is none, or too old (section 5.2.4).
    Invalid([u8; WHOLE]),
    /// With one that we made for this address (section 5.2.5).
    Valid([u8; WHOLE]),
}

impl Cookie {
    /// The one of a request with `edns`, from `client` at `now`. Of several the first counts
    /// (RFC 7873 section 5.2).
    pub(super) fn of(edns: Option<&Edns>, secrets: &Secrets, client: IpAddr, now: u64) -> Self {
        match edns.and_then(|edns| edns.option(EdnsCode::Cookie)) {
            Some(EdnsOption::Unknown(_, octets)) => secrets.read(octets, client, now),
            _ => Cookie::None,
        }
    }

    /// Whether who asks reads what is sent to its address.
    pub(super) fn is_valid(&self) -> bool {
        matches!(self, Cookie::Valid(_))
    }

    /// What to put into the answer.
    pub(super) fn answer(&self) -> Option<&[u8; WHOLE]> {
        match self {
            Cookie::None | Cookie::Malformed => None,
            Cookie::New(whole) | Cookie::Invalid(whole) | Cookie::Valid(whole) => Some(whole),
        }
    }

    /// As what it is counted; malformed messages are as such.
    pub(super) fn cause(&self) -> Option<Cause> {
        match self {
            Cookie::None | Cookie::Malformed => None,
            Cookie::New(_) => Some(Cause::CookieNew),
            Cookie::Invalid(_) => Some(Cause::CookieInvalid),
            Cookie::Valid(_) => Some(Cause::CookieValid),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: u128 = 0xdd3bdf9344b678b185a6f5cb60fca715;
    const NEW: u128 = 0x445536bcd2513298075a5d379663c962;
    const OTHER: u128 = 0xe5e973e5a6b2a43f48e7dc849e37bfcf;

    fn secrets(first: u128, second: Option<u128>) -> Secrets {
        let second = second.map(u128::to_be_bytes);
        Secrets::new(&first.to_be_bytes(), second.as_ref())
    }

    fn octets<const N: usize>(hex: &str) -> [u8; N] {
        std::array::from_fn(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// RFC 9018 appendix A.
    #[test]
    fn the_cookies_are_those_of_the_rfc() {
        let own = octets::<8>("2464c4abcf10c957");
        let client = ip("198.51.100.100");
        let learned = octets("2464c4abcf10c957010000005cf79f111f8130c3eee29480");
        let renewed = octets("2464c4abcf10c957010000005cf7a871d4a564a1442aca77");
        let other = secrets(OTHER, None);
        let read = |octets: &[u8], now| other.read(octets, client, now);
        assert_eq!(read(&own, 1_559_731_985), Cookie::New(learned));
        assert_eq!(read(&learned, 1_559_734_385), Cookie::Valid(renewed));

        // With reserved octets. In the example it is nearly two hours old.
        let client = ip("203.0.113.203");
        let reserved: [u8; 24] = octets("fc93fc62807ddb8601abcdef5cf78f71a314227b6679ebf5");
        let renewed = octets("fc93fc62807ddb86010000005cf7a9acf73a7810aca2381e");
        let read = |now| other.read(&reserved, client, now);
        assert_eq!(read(1_559_727_985), Cookie::Valid(reserved));
        assert_eq!(read(1_559_734_700), Cookie::Invalid(renewed));

        // Made with the secret before this one.
        let client = ip("2001:db8:220:1:59de:d0f4:8769:82b8");
        let old = octets::<24>("22681ab97d52c298010000005cf7c57926556bd0934c72f8");
        let renewed = octets("22681ab97d52c298010000005cf7c609a6bb79d16625507a");
        let read = |secrets: Secrets| secrets.read(&old, client, 1_559_741_961);
        assert_eq!(read(secrets(NEW, Some(OLD))), Cookie::Valid(renewed));
        assert_eq!(read(secrets(OLD, Some(NEW))), Cookie::Valid(old));
        assert_eq!(read(secrets(NEW, None)), Cookie::Invalid(renewed));
    }

    #[test]
    fn a_cookie_is_good_for_an_hour_and_a_new_one_comes_after_half_of_it() {
        let secrets = secrets(NEW, None);
        // Where the 32 bits of the time begin again, too.
        for made in [1_800_000_000, (1 << 32) - 1, 1 << 32] {
            let client = ip("192.0.2.1");
            let Cookie::New(whole) = secrets.read(&[7; 8], client, made) else {
                panic!("a client's cookie is one");
            };
            let at = |now| secrets.read(&whole, client, now);
            for same in [made - 300, made, made + 1800] {
                assert_eq!(at(same), Cookie::Valid(whole));
            }
            for renewed in [made + 1801, made + 3600] {
                assert!(at(renewed).is_valid());
                assert_ne!(at(renewed).answer(), Some(&whole));
            }
            for invalid in [made - 301, made + 3601, made + (1 << 31)] {
                assert!(matches!(at(invalid), Cookie::Invalid(_)));
            }
        }
    }

    #[test]
    fn a_cookie_is_good_for_its_address_and_as_it_is() {
        let secrets = secrets(NEW, None);
        let client = ip("192.0.2.1");
        let now = 1_800_000_000;
        let new = secrets.read(&[7; 8], client, now);
        let whole = *new.answer().unwrap();
        let read = |octets: &[u8], client| secrets.read(octets, ip(client), now);
        assert_eq!(read(&whole, "192.0.2.1"), Cookie::Valid(whole));
        assert_eq!(read(&whole, "::ffff:192.0.2.1"), Cookie::Valid(whole));
        for stranger in ["192.0.2.2", "2001:db8::1"] {
            assert!(matches!(read(&whole, stranger), Cookie::Invalid(_)));
        }
        for bit in 0..WHOLE * 8 {
            let mut changed = whole;
            changed[bit / 8] ^= 1 << (bit % 8);
            let said = read(&changed, "192.0.2.1");
            assert!(matches!(said, Cookie::Invalid(_)), "{bit}");
            assert_eq!(said.answer().unwrap()[..8], changed[..8]);
        }
    }

    #[test]
    fn lengths_are_those_of_the_rfc() {
        let secrets = secrets(NEW, None);
        for length in 0..100 {
            let said = secrets.read(&vec![1; length], ip("192.0.2.1"), 0);
            let wanted = match said {
                Cookie::New(_) => length == 8,
                Cookie::Invalid(_) => (16..=40).contains(&length),
                Cookie::Malformed => length != 8 && !(16..=40).contains(&length),
                Cookie::None | Cookie::Valid(_) => false,
            };
            assert!(wanted, "{length}: {said:?}");
        }
    }
}

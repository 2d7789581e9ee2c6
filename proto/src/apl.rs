//! Lists of address prefixes (APL, RFC 3123): which addresses can be homes, and which locators.
//!
//! ```text
//! _home.map.example. 300 IN APL 1:192.0.2.0/24 2:2001:db8:1::/48
//! _loc.map.example.  300 IN APL 1:198.51.100.0/24 1:203.0.113.0/24 2:2001:db8:2::/47
//! ```
//!
//! # Limitations
//! Exceptions (`!1:192.0.2.128/25`) are refused: a list says what is meant, not what is not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::Name;
use ipnet::IpNet;

/// The type's number.
pub const TYPE: u16 = 42;

/// Address families (RFC 3123 section 4).
const V4: u16 = 1;
const V6: u16 = 2;

/// What a zone says of its deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// The prefixes that hold every home address.
    Homes,
    /// The prefixes that hold every locator.
    Locators,
}

impl List {
    /// Where it is in `zone`: at `_home` or `_loc`.
    ///
    /// Fails only if `zone` leaves no room (name longer than 255 octets).
    pub fn owner(self, zone: &Name) -> Result<Name, hickory_proto::ProtoError> {
        zone.prepend_label(self.label())
    }

    /// The first label of its owner.
    pub fn label(self) -> &'static str {
        match self {
            List::Homes => "_home",
            List::Locators => "_loc",
        }
    }
}

/// Why a record is no list of prefixes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AplError {
    /// It ends in the middle of an item.
    #[error("item {0} is cut off")]
    Cut(usize),
    /// Neither IPv4 nor IPv6.
    #[error("item {item} is of address family {family}, neither IPv4 (1) nor IPv6 (2)")]
    Family {
        /// Which, from 1.
        item: usize,
        /// What it says.
        family: u16,
    },
    /// An exception.
    #[error("item {0} is an exception (!), and exceptions are not understood")]
    Negated(usize),
    /// Longer than an address, or with bits beyond its length.
    #[error("item {item}: {address}/{length} is not a prefix")]
    Prefix {
        /// Which, from 1.
        item: usize,
        /// Its address.
        address: IpAddr,
        /// Its length in bits.
        length: u8,
    },
    /// More octets than an address of its family has.
    #[error("item {0} has more octets than an address")]
    TooLong(usize),
}

/// The prefixes of one record, from its data (RFC 3123 section 4).
pub fn decode(mut rest: &[u8]) -> Result<Vec<IpNet>, AplError> {
    let mut prefixes = Vec::new();
    while !rest.is_empty() {
        let item = prefixes.len() + 1;
        let [f0, f1, length, octets, tail @ ..] = rest else {
            return Err(AplError::Cut(item));
        };
        if octets & 0x80 != 0 {
            return Err(AplError::Negated(item));
        }
        let (part, tail) = tail
            .split_at_checked((*octets).into())
            .ok_or(AplError::Cut(item))?;
        let address = match u16::from_be_bytes([*f0, *f1]) {
            V4 => IpAddr::V4(Ipv4Addr::from(filled::<4>(part, item)?)),
            V6 => IpAddr::V6(Ipv6Addr::from(filled::<16>(part, item)?)),
            family => return Err(AplError::Family { item, family }),
        };
        let prefix = IpNet::new(address, *length).ok();
        prefixes.push(prefix.filter(|prefix| prefix.trunc() == *prefix).ok_or(
            AplError::Prefix {
                item,
                address,
                length: *length,
            },
        )?);
        rest = tail;
    }
    Ok(prefixes)
}

/// An address of which zeros at the end are left out.
fn filled<const N: usize>(part: &[u8], item: usize) -> Result<[u8; N], AplError> {
    let mut octets = [0; N];
    octets
        .get_mut(..part.len())
        .ok_or(AplError::TooLong(item))?
        .copy_from_slice(part);
    Ok(octets)
}

/// The data of a record with these prefixes, as [`decode`] reads it.
pub fn encode(prefixes: &[IpNet]) -> Vec<u8> {
    let mut data = Vec::new();
    for prefix in prefixes {
        let (family, octets) = match prefix.network() {
            IpAddr::V4(ip) => (V4, ip.octets().to_vec()),
            IpAddr::V6(ip) => (V6, ip.octets().to_vec()),
        };
        // Zeros at the end are left out (section 4).
        let kept = octets.iter().rposition(|o| *o != 0).map_or(0, |at| at + 1);
        data.extend(family.to_be_bytes());
        data.extend([prefix.prefix_len(), kept as u8]);
        data.extend(&octets[..kept]);
    }
    data
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_example_of_the_rfc_is_read() {
        // Section 4: 192.168.32.0/21, without the exception beside it.
        let data = [0, 1, 21, 3, 192, 168, 32];
        let prefix: IpNet = "192.168.32.0/21".parse().unwrap();
        assert_eq!(decode(&data).unwrap(), [prefix]);
        assert_eq!(encode(&[prefix]), data);
    }

    #[test]
    fn what_is_no_list_is_refused_with_its_place() {
        let good = [0, 1, 24, 3, 192, 0, 2];
        let fault = |bad: &[u8]| decode(&[&good[..], bad].concat()).unwrap_err().to_string();
        assert_eq!(fault(&[0, 1, 24]), "item 2 is cut off");
        assert_eq!(fault(&[0, 1, 24, 3, 192]), "item 2 is cut off");
        assert!(fault(&[0, 3, 24, 0]).contains("item 2 is of address family 3"));
        assert!(fault(&[0, 1, 24, 0x83, 192, 0, 2]).contains("exception"));
        assert!(fault(&[0, 1, 33, 1, 192]).contains("192.0.0.0/33 is not a prefix"));
        assert!(fault(&[0, 1, 16, 3, 192, 0, 2]).contains("192.0.2.0/16 is not a prefix"));
        assert!(fault(&[0, 1, 32, 5, 1, 2, 3, 4, 5]).contains("more octets than an address"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(list in proptest::collection::vec((any::<u128>(), 0u8..=128, any::<bool>()), 0..9)) {
            let prefix = |(bits, length, v4): &(u128, u8, bool)| -> IpNet {
                let ip = if *v4 { IpAddr::V4((*bits as u32).into()) } else { IpAddr::V6((*bits).into()) };
                IpNet::new(ip, if *v4 { length % 33 } else { *length }).unwrap().trunc()
            };
            let prefixes: Vec<IpNet> = list.iter().map(prefix).collect();
            prop_assert_eq!(decode(&encode(&prefixes)).unwrap(), prefixes);
        }

        #[test]
        fn octets_of_any_kind_are_read_or_refused(data in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _either = decode(&data);
        }
    }
}

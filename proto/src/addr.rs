//! Home addresses and locators: both are IP addresses, and never the same type.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The address family of a home address, a locator or a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of `ip`.
    pub const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// Why an IP address can be neither a home address nor a locator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddrError {
    /// The text is not an IP address.
    #[error("{0:?} is not an IPv4 or IPv6 address")]
    Syntax(String),
    /// Unspecified, loopback, multicast, broadcast, link-local or IPv4-mapped.
    #[error("{0} is {1}; a single routable unicast address is needed")]
    NotUnicast(IpAddr, &'static str),
}

fn routable(ip: IpAddr) -> Result<IpAddr, AddrError> {
    let why = match ip {
        IpAddr::V4(v4) => v4_fault(v4),
        IpAddr::V6(v6) => v6_fault(v6),
    };
    why.map_or(Ok(ip), |why| Err(AddrError::NotUnicast(ip, why)))
}

fn v4_fault(ip: Ipv4Addr) -> Option<&'static str> {
    if ip.octets()[0] == 0 {
        Some("in 0.0.0.0/8")
    } else if ip.is_loopback() {
        Some("a loopback address")
    } else if ip.is_link_local() {
        Some("a link-local address")
    } else if ip.is_multicast() {
        Some("a multicast address")
    } else if ip.octets()[0] >= 240 {
        Some("reserved or broadcast")
    } else {
        None
    }
}

fn v6_fault(ip: Ipv6Addr) -> Option<&'static str> {
    if ip.is_unspecified() {
        Some("unspecified")
    } else if ip.is_loopback() {
        Some("a loopback address")
    } else if ip.is_unicast_link_local() {
        Some("a link-local address")
    } else if ip.is_multicast() {
        Some("a multicast address")
    } else if ip.to_ipv4_mapped().is_some() {
        Some("an IPv4-mapped address")
    } else {
        None
    }
}

macro_rules! address_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(IpAddr);

        impl $name {
            /// Accepts a routable unicast address.
            pub fn new(ip: IpAddr) -> Result<Self, AddrError> {
                routable(ip).map(Self)
            }

            /// The plain IP address.
            pub fn ip(self) -> IpAddr {
                self.0
            }

            /// Its address family.
            pub fn family(self) -> Family {
                Family::of(self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = AddrError;

            fn from_str(s: &str) -> Result<Self, AddrError> {
                let ip = s.parse().map_err(|_| AddrError::Syntax(s.to_owned()))?;
                Self::new(ip)
            }
        }

        impl TryFrom<IpAddr> for $name {
            type Error = AddrError;

            fn try_from(ip: IpAddr) -> Result<Self, AddrError> {
                Self::new(ip)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = String::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

address_type! {
    /// The permanent address of an instance: sockets are bound to it, and it
    /// never changes.
    Home
}

address_type! {
    /// An address where an instance is reachable now.
    Locator
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_routable_unicast_addresses_are_accepted() {
        for good in ["192.0.2.1", "2001:db8::1", "10.0.0.1", "fd00::1"] {
            good.parse::<Home>().unwrap();
            good.parse::<Locator>().unwrap();
        }
        for bad in [
            "0.0.0.0",
            "127.0.0.1",
            "169.254.1.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "ff02::1",
            "::ffff:192.0.2.1",
            "host",
            "192.0.2.1/32",
        ] {
            assert!(bad.parse::<Home>().is_err(), "{bad}");
        }
    }

    #[test]
    fn errors_name_the_address_and_the_reason() {
        let error = "127.0.0.1".parse::<Locator>().unwrap_err().to_string();
        assert_eq!(
            error,
            "127.0.0.1 is a loopback address; a single routable unicast address is needed"
        );
    }
}

//! Whose a binding is: one home's, or that of all homes of a prefix, each in its place.

use std::fmt;
use std::str::FromStr;

use hickory_proto::ProtoError;
use hickory_proto::rr::rdata::SVCB;
use hickory_proto::rr::rdata::svcb::{SvcParamKey, SvcParamValue, Unknown};
use hickory_proto::rr::{Name, RData, Record};
use ipnet::IpNet;
use serde::{Serialize, Serializer};

use crate::record::{self, RecordError};
use crate::{Binding, Home};

/// A home, or homes that share a binding: a prefix that ends between the labels of owner names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Whose {
    net: IpNet,
    first: Home,
}

/// Why text does not say whose a binding is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WhoseError {
    /// Neither an address nor a prefix.
    #[error("write a home address or a prefix of them, as in 192.0.2.10 or 192.0.2.0/24")]
    Syntax,
    /// Addresses that cannot be homes.
    #[error(transparent)]
    Home(#[from] crate::AddrError),
    /// Bits behind the prefix.
    #[error("{0} has bits beyond its length: write {net}", net = .0.trunc())]
    Bits(IpNet),
    /// A prefix that no wildcard can own.
    #[error(
        "{0} cannot have a binding: a prefix that has one ends at a whole octet (/8, /16, /24), or in IPv6 at a whole digit (/4 to /124)"
    )]
    Length(IpNet),
}

impl Whose {
    /// Of a home, or of all homes of a prefix.
    pub fn new(homes: IpNet) -> Result<Self, WhoseError> {
        let first = Home::new(homes.network())?;
        if homes.trunc() != homes {
            return Err(WhoseError::Bits(homes));
        }
        let single = homes.prefix_len() == homes.max_prefix_len();
        if !single && record::prefix_owner(homes, &Name::root()).is_none() {
            return Err(WhoseError::Length(homes));
        }
        Ok(Whose { net: homes, first })
    }

    /// Whose binding lives at `owner`, if it is such a name directly under `zone`'s `h4` or `h6`.
    pub fn of_owner(owner: &Name, zone: &Name) -> Option<Self> {
        let home = record::home(owner, zone).map(Whose::from);
        home.or_else(|| Whose::new(record::prefix(owner, zone)?).ok())
    }

    /// The home, or the prefix.
    pub fn net(self) -> IpNet {
        self.net
    }

    /// The prefix, if it is one.
    pub fn prefix(self) -> Option<IpNet> {
        Some(self.net).filter(|homes| homes.prefix_len() < homes.max_prefix_len())
    }

    /// The home, or the first one of the prefix, whose binding says all.
    pub fn first(self) -> Home {
        self.first
    }

    /// The owner name of the binding under `zone`.
    ///
    /// Fails only if `zone` leaves no room (name longer than 255 octets).
    pub fn owner(self, zone: &Name) -> Result<Name, ProtoError> {
        match self.prefix() {
            None => record::owner(self.first(), zone),
            Some(prefix) => record::above(prefix, zone)?.prepend_label("*"),
        }
    }

    /// The data of its binding's RRset, one for each locator, active first.
    pub fn to_svcb(self, binding: &Binding) -> Vec<SVCB> {
        let records = record::to_records(binding, &Name::root(), 0);
        let data = records.into_iter().flatten().map(|record| record.data);
        data.filter_map(|data| match data {
            RData::SVCB(svcb) => Some(self.marked(svcb)),
            _ => None,
        })
        .collect()
    }

    fn marked(self, mut svcb: SVCB) -> SVCB {
        if let Some(prefix) = self.prefix() {
            let length = Unknown(prefix.prefix_len().to_string().into_bytes());
            let key = SvcParamKey::Key(record::KEY_PREFIX);
            // The highest of the keys (RFC 9460 section 2.2).
            svcb.svc_params.push((key, SvcParamValue::Unknown(length)));
        }
        svcb
    }

    /// The RRset of its binding.
    pub fn to_records(
        self,
        binding: &Binding,
        zone: &Name,
        ttl: u32,
    ) -> Result<Vec<Record>, ProtoError> {
        let owner = self.owner(zone)?;
        let data = self.to_svcb(binding).into_iter().map(RData::SVCB);
        Ok(data
            .map(|data| Record::from_rdata(owner.clone(), ttl, data))
            .collect())
    }

    /// The binding that the records at its owner name describe; of a prefix, that of its first
    /// home.
    pub fn from_svcb<'a>(
        self,
        records: impl IntoIterator<Item = &'a SVCB> + Clone,
    ) -> Result<Binding, RecordError> {
        let length = record::prefix_len(records.clone());
        let binding = record::from_svcb(self.first(), records)?;
        match (self.prefix(), length) {
            (Some(prefix), Some(length)) if length == prefix.prefix_len() => Ok(binding),
            (None, None) => Ok(binding),
            (Some(_), None) => Err(RecordError::Missing(record::KEY_PREFIX)),
            (_, Some(length)) => Err(RecordError::Length(length)),
        }
    }
}

impl From<Home> for Whose {
    fn from(home: Home) -> Self {
        Whose {
            net: home.ip().into(),
            first: home,
        }
    }
}

impl FromStr for Whose {
    type Err = WhoseError;

    fn from_str(text: &str) -> Result<Self, WhoseError> {
        if let Ok(ip) = text.parse() {
            return Ok(Home::new(ip)?.into());
        }
        Whose::new(text.parse().map_err(|_| WhoseError::Syntax)?)
    }
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix() {
            None => self.first.fmt(f),
            Some(prefix) => prefix.fmt(f),
        }
    }
}

impl Serialize for Whose {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Epoch, Locator};

    #[test]
    fn homes_and_prefixes_are_written_and_owned_each_in_one_way() {
        let zone = Name::from_ascii("map.example.").unwrap();
        for (text, owner) in [
            ("192.0.2.10", "10.2.0.192.h4.map.example."),
            ("192.0.2.0/24", "*.2.0.192.h4.map.example."),
            ("2001:db8::/32", "*.8.b.d.0.1.0.0.2.h6.map.example."),
        ] {
            let whose: Whose = text.parse().unwrap();
            assert_eq!(whose.to_string(), text);
            let name = whose.owner(&zone).unwrap();
            assert_eq!(name.to_string(), owner);
            assert_eq!(Whose::of_owner(&name, &zone), Some(whose));
        }
        for (text, words) in [
            ("192.0.2", "write a home address"),
            ("127.0.0.1", "loopback"),
            ("192.0.2.1/24", "write 192.0.2.0/24"),
            ("192.0.2.0/23", "ends at a whole octet"),
            ("2001:db8::/33", "ends at a whole octet"),
            ("0.0.0.0/0", "0.0.0.0"),
        ] {
            let said = text.parse::<Whose>().unwrap_err().to_string();
            assert!(said.contains(words), "{text}: {said}");
        }
    }

    #[test]
    fn what_is_written_for_one_is_not_read_for_the_other() {
        let at: Locator = "198.51.100.0".parse().unwrap();
        let one: Whose = "192.0.2.0".parse().unwrap();
        let all: Whose = "192.0.2.0/24".parse().unwrap();
        let binding = Binding::single(one.first(), Epoch(7), 30, at, 6283).unwrap();
        let (own, shared) = (one.to_svcb(&binding), all.to_svcb(&binding));
        assert_eq!(one.from_svcb(&own), Ok(binding.clone()));
        assert_eq!(all.from_svcb(&shared), Ok(binding));
        assert_eq!(one.from_svcb(&shared), Err(RecordError::Length(24)));
        let missing = RecordError::Missing(record::KEY_PREFIX);
        assert_eq!(all.from_svcb(&own), Err(missing));
    }
}

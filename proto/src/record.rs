//! Binding <-> DNS RRset.
//!
//! One RRset per home address, one SVCB record (RFC 9460) per locator:
//!
//! ```text
//! 10.2.0.192.h4.map.example. 0 IN SVCB 1 . port=6283 ipv4hint=198.51.100.7
//!     key65280="1795420470" key65281="native" key65282="30"
//! ```
//!
//! IPv6 owners are 32 nibbles under `h6`, as under ip6.arpa. The families have
//! labels of their own because otherwise a wildcard for one would answer for
//! the other. `key65280` is the epoch (equal in every record), `key65281` the
//! wire modes, `key65282` the lease in seconds (equal in every record).
//!
//! A wildcard owner speaks for all homes of a prefix that have no record of their own, each at the
//! address with the same place in a prefix of locators. `key65283` says how long the prefix of
//! homes is, and the hint is the first address of that of locators:
//!
//! ```text
//! *.2.0.192.h4.map.example. 0 IN SVCB 1 . port=6283 ipv4hint=198.51.100.0
//!     key65280="1795420470" key65281="native" key65282="30" key65283="24"
//! ```
//!
//! So 192.0.2.10 is at 198.51.100.10. It is the record that says so, since whoever asks for a home
//! cannot see whether the answer was made from a wildcard (RFC 4592).
//!
//! # Limitations
//! A or AAAA records at the same owner are sugar for people; they are never
//! read. Unknown parameters are ignored, except that a record with a
//! `mandatory` list naming one we do not know is refused (RFC 9460 section 8).

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::rdata::SVCB;
use hickory_proto::rr::rdata::svcb::{IpHint, SvcParamKey, SvcParamValue, Unknown};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{Name, RData, Record};
use ipnet::IpNet;

use crate::{
    Binding, BindingError, CONTROL_PORT, Entry, Epoch, Family, Home, Locator, Modes, Priority,
};

/// SvcParamKey of the epoch, decimal.
pub const KEY_EPOCH: u16 = 65280;
/// SvcParamKey of the wire modes, comma-separated.
pub const KEY_MODES: u16 = 65281;
/// SvcParamKey of the lease, decimal seconds.
pub const KEY_LEASE: u16 = 65282;

/// SvcParamKey of the length in bits of the prefix of homes that a record speaks for, decimal.
pub const KEY_PREFIX: u16 = 65283;

/// Why an RRset is not a binding.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// SvcPriority 0.
    #[error("SvcPriority 0 (AliasMode) is refused")]
    Alias,
    /// TargetName other than the root.
    #[error("TargetName must be \".\", not {0}")]
    Target(Name),
    /// Not exactly one address in exactly one hint.
    #[error("exactly one address in one of ipv4hint and ipv6hint is needed")]
    Hint,
    /// A hint that cannot be a locator.
    #[error("locator: {0}")]
    Locator(#[from] crate::AddrError),
    /// A required parameter is missing.
    #[error("parameter key{0} is missing")]
    Missing(u16),
    /// A parameter that does not parse.
    #[error("parameter key{key}: {text:?} is not {expected}")]
    Syntax {
        /// Its SvcParamKey.
        key: u16,
        /// What the record says.
        text: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A length that homes or locators cannot have.
    #[error(
        "key{KEY_PREFIX}: {home} and {locator} are not in prefixes of length {length}, the locator the first in its own"
    )]
    Prefix {
        /// The home asked for, or the first of its prefix.
        home: Home,
        /// The locator in the record.
        locator: Locator,
        /// The length that the record gives.
        length: u8,
    },
    /// Another length than that of the prefix that owns the record.
    #[error("key{KEY_PREFIX} is {0}, not the length of the prefix that the wildcard stands for")]
    Length(u8),
    /// A `mandatory` list names a parameter this release does not know.
    #[error("mandatory parameter {0} is not known")]
    Mandatory(SvcParamKey),
    /// Records of one RRset disagree.
    #[error("records of one binding carry different {0}")]
    Mixed(&'static str),
    /// The set as a whole is not a binding.
    #[error(transparent)]
    Binding(#[from] BindingError),
}

/// The owner name of `home`'s binding under `zone`.
///
/// Fails only if `zone` leaves no room (name longer than 255 octets).
pub fn owner(home: Home, zone: &Name) -> Result<Name, hickory_proto::ProtoError> {
    Name::from_ascii(owner_labels(home.ip()))?.append_domain(zone)
}

fn owner_labels(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            format!("{d}.{c}.{b}.{a}.h4")
        }
        IpAddr::V6(ip) => {
            let mut text = String::with_capacity(66);
            for octet in ip.octets().iter().rev() {
                text.push_str(&format!("{:x}.{:x}.", octet & 0xf, octet >> 4));
            }
            text + "h6"
        }
    }
}

/// The name below which the owners of all home addresses in `prefix` are, and as few others as
/// possible: those of the prefix made shorter to whole octets, or digits of IPv6.
///
/// Fails only if `zone` leaves no room (name longer than 255 octets).
pub fn above(prefix: IpNet, zone: &Name) -> Result<Name, hickory_proto::ProtoError> {
    let free = match prefix {
        IpNet::V4(prefix) => 4 - prefix.prefix_len() / 8,
        IpNet::V6(prefix) => 32 - prefix.prefix_len() / 4,
    };
    let labels = owner_labels(prefix.network());
    let labels: Vec<&str> = labels.split('.').skip(free.into()).collect();
    Name::from_ascii(labels.join("."))?.append_domain(zone)
}

/// The owner name of the binding that all homes in `prefix` share, if it ends between labels: a
/// whole number of octets, or of digits of IPv6, and at least one.
pub fn prefix_owner(prefix: IpNet, zone: &Name) -> Option<Name> {
    let step = match prefix {
        IpNet::V4(_) => 8,
        IpNet::V6(_) => 4,
    };
    let between = prefix.prefix_len() > 0 && prefix.prefix_len() < prefix.max_prefix_len();
    if !between || !prefix.prefix_len().is_multiple_of(step) {
        return None;
    }
    above(prefix, zone).ok()?.prepend_label("*").ok()
}

/// The prefix whose homes share the binding at `owner`, if it is such a name.
pub fn prefix(owner: &Name, zone: &Name) -> Option<IpNet> {
    if !owner.is_wildcard() {
        return None;
    }
    // Zeros for what the wildcard leaves open.
    let (labels, above) = (owner.iter().count(), zone.iter().count());
    let family = owner.iter().nth(labels.checked_sub(above + 1)?)?;
    let (all, step) = match family {
        f if f.eq_ignore_ascii_case(b"h4") => (4, 8),
        f if f.eq_ignore_ascii_case(b"h6") => (32, 4),
        _ => return None,
    };
    let given = labels - above - 2;
    let mut name = owner.base_name();
    for _ in given..all {
        name = name.prepend_label("0").ok()?;
    }
    let first = self::home(&name, zone)?;
    let prefix = IpNet::new(first.ip(), u8::try_from(given * step).ok()?).ok()?;
    (given > 0 && given < all).then_some(prefix)
}

/// The length of the prefix of homes that these records speak for, if they are not those of one
/// home.
pub fn prefix_len<'a>(records: impl IntoIterator<Item = &'a SVCB>) -> Option<u8> {
    let first = records.into_iter().next()?;
    first.svc_params.iter().find_map(|param| match param {
        (SvcParamKey::Key(KEY_PREFIX), SvcParamValue::Unknown(raw)) => {
            number(KEY_PREFIX, raw, "").ok()
        }
        _ => None,
    })
}

/// The epoch in one record of a binding.
pub fn epoch(svcb: &SVCB) -> Option<Epoch> {
    svcb.svc_params.iter().find_map(|param| match param {
        (SvcParamKey::Key(KEY_EPOCH), SvcParamValue::Unknown(raw)) => {
            number(KEY_EPOCH, raw, "").ok().map(Epoch)
        }
        _ => None,
    })
}

/// The home address whose binding lives at `owner`, if `owner` is such a name
/// directly under `zone`'s `h4` or `h6`.
pub fn home(owner: &Name, zone: &Name) -> Option<Home> {
    if !zone.zone_of(owner) {
        return None;
    }
    let digits = usize::from(owner.num_labels() - zone.num_labels()).checked_sub(1)?;
    let family = owner.iter().nth(digits)?;
    let is = |label: &str| family.eq_ignore_ascii_case(label.as_bytes());
    let ip = if digits == 4 && is("h4") {
        let mut octets = [0u8; 4];
        for (octet, label) in octets.iter_mut().rev().zip(owner.iter()) {
            *octet = decimal(label)?;
        }
        IpAddr::V4(Ipv4Addr::from(octets))
    } else if digits == 32 && is("h6") {
        let mut value = 0u128;
        for (place, label) in owner.iter().take(digits).enumerate() {
            let [digit] = label else {
                return None;
            };
            value |= u128::from((*digit as char).to_digit(16)?) << (4 * place);
        }
        IpAddr::V6(Ipv6Addr::from(value))
    } else {
        return None;
    };
    Home::new(ip).ok()
}

/// The zone in which `owner` is the owner name of `home`'s binding, if there is one.
pub fn zone_of(home: Home, owner: &Name) -> Option<Name> {
    let own = self::owner(home, &Name::root()).ok()?;
    let labels = usize::from(own.num_labels());
    let same = owner.iter().take(labels).map(<[u8]>::to_ascii_lowercase);
    same.eq(own.iter().map(<[u8]>::to_vec))
        .then(|| owner.trim_to(usize::from(owner.num_labels()) - labels))
}

/// One spelling for each number: no "010", no "+1".
fn decimal(label: &[u8]) -> Option<u8> {
    match label {
        [b'1'..=b'9', ..] | [b'0'] => std::str::from_utf8(label).ok()?.parse().ok(),
        _ => None,
    }
}

/// The RRset of `binding`, one record per locator, active first.
pub fn to_records(
    binding: &Binding,
    zone: &Name,
    ttl: u32,
) -> Result<Vec<Record>, hickory_proto::ProtoError> {
    let owner = owner(binding.home(), zone)?;
    Ok(binding
        .entries()
        .iter()
        .map(|entry| {
            let rdata = RData::SVCB(to_svcb(entry, binding.epoch(), binding.lease_seconds()));
            Record::from_rdata(owner.clone(), ttl, rdata)
        })
        .collect())
}

/// The binding of `home` that the records of its RRset describe, or those of its prefix.
pub fn from_svcb<'a>(
    home: Home,
    records: impl IntoIterator<Item = &'a SVCB>,
) -> Result<Binding, RecordError> {
    let mut common: Option<(Epoch, u32, Option<u8>)> = None;
    let mut entries = Vec::new();
    for svcb in records {
        // Stop early: the set may come from anybody.
        if entries.len() > Binding::MAX_LOCATORS {
            break;
        }
        let (mut entry, epoch, lease, prefix) = parse(svcb)?;
        match common {
            None => common = Some((epoch, lease, prefix)),
            Some((e, ..)) if e != epoch => return Err(RecordError::Mixed("epochs")),
            Some((_, l, _)) if l != lease => return Err(RecordError::Mixed("leases")),
            Some((.., p)) if p != prefix => return Err(RecordError::Mixed("prefix lengths")),
            Some(_) => {}
        }
        if let Some(length) = prefix {
            entry.locator = in_place(home, entry.locator, length)?;
        }
        entries.push(entry);
    }
    let (epoch, lease, _) = common.ok_or(BindingError::Empty)?;
    Ok(Binding::new(home, epoch, lease, entries)?)
}

/// What is in the prefix of locators that begins with `first` as `home` is in its own.
///
/// # Errors
/// Such prefixes of `length` bits cannot be.
pub fn in_place(home: Home, first: Locator, length: u8) -> Result<Locator, RecordError> {
    let error = RecordError::Prefix {
        home,
        locator: first,
        length,
    };
    let prefix = |ip| IpNet::new(ip, length).ok();
    let (Some(homes), Some(locators)) = (prefix(home.ip()), prefix(first.ip())) else {
        return Err(error);
    };
    if locators.trunc() != locators {
        return Err(error);
    }
    let ip: IpAddr = match (home.ip(), homes.hostmask(), first.ip()) {
        (IpAddr::V4(home), IpAddr::V4(mask), IpAddr::V4(first)) => (home & mask | first).into(),
        (IpAddr::V6(home), IpAddr::V6(mask), IpAddr::V6(first)) => (home & mask | first).into(),
        _ => return Err(error),
    };
    Ok(Locator::new(ip)?)
}

fn to_svcb(entry: &Entry, epoch: Epoch, lease: u32) -> SVCB {
    let hint = match entry.locator.ip() {
        IpAddr::V4(ip) => (
            SvcParamKey::Ipv4Hint,
            SvcParamValue::Ipv4Hint(IpHint(vec![A(ip)])),
        ),
        IpAddr::V6(ip) => (
            SvcParamKey::Ipv6Hint,
            SvcParamValue::Ipv6Hint(IpHint(vec![AAAA(ip)])),
        ),
    };
    let text = |key, value: String| {
        (
            SvcParamKey::Key(key),
            SvcParamValue::Unknown(Unknown(value.into_bytes())),
        )
    };
    // Ascending key order, as the wire format demands (RFC 9460 section 2.2).
    let params = vec![
        (SvcParamKey::Port, SvcParamValue::Port(entry.port)),
        hint,
        text(KEY_EPOCH, epoch.to_string()),
        text(KEY_MODES, entry.modes.to_string()),
        text(KEY_LEASE, lease.to_string()),
    ];
    SVCB::new(entry.priority.get(), Name::root(), params)
}

fn parse(svcb: &SVCB) -> Result<(Entry, Epoch, u32, Option<u8>), RecordError> {
    let priority = Priority::new(svcb.svc_priority).ok_or(RecordError::Alias)?;
    if !svcb.target_name.is_root() {
        return Err(RecordError::Target(svcb.target_name.clone()));
    }
    let mut hints = Vec::new();
    let mut port = CONTROL_PORT;
    let (mut epoch, mut modes, mut lease, mut prefix) = (None, None, None, None);
    for (key, value) in &svcb.svc_params {
        match (key, value) {
            (_, SvcParamValue::Mandatory(list)) => {
                if let Some(unknown) = list.0.iter().find(|key| !is_known(**key)) {
                    return Err(RecordError::Mandatory(*unknown));
                }
            }
            (_, SvcParamValue::Port(value)) => port = *value,
            (_, SvcParamValue::Ipv4Hint(ips)) => {
                hints.extend(ips.0.iter().map(|a| IpAddr::V4(a.0)));
            }
            (_, SvcParamValue::Ipv6Hint(ips)) => {
                hints.extend(ips.0.iter().map(|a| IpAddr::V6(a.0)));
            }
            (SvcParamKey::Key(KEY_EPOCH), SvcParamValue::Unknown(raw)) => {
                epoch = Some(Epoch(number(KEY_EPOCH, raw, "a decimal epoch")?));
            }
            (SvcParamKey::Key(KEY_MODES), SvcParamValue::Unknown(raw)) => {
                modes = Some(text(raw).parse::<Modes>()?);
            }
            (SvcParamKey::Key(KEY_LEASE), SvcParamValue::Unknown(raw)) => {
                lease = Some(number(KEY_LEASE, raw, "a lease in seconds")?);
            }
            (SvcParamKey::Key(KEY_PREFIX), SvcParamValue::Unknown(raw)) => {
                let length: u8 = number(KEY_PREFIX, raw, "a length in bits")?;
                // One spelling: whoever replaces the set names it octet by octet.
                if raw.0 != length.to_string().as_bytes() {
                    return Err(RecordError::Syntax {
                        key: KEY_PREFIX,
                        text: text(raw).into_owned(),
                        expected: "a length in bits without zeros in front",
                    });
                }
                prefix = Some(length);
            }
            _ => {}
        }
    }
    let [hint] = hints[..] else {
        return Err(RecordError::Hint);
    };
    let entry = Entry {
        priority,
        locator: Locator::new(hint)?,
        port,
        modes: modes.ok_or(RecordError::Missing(KEY_MODES))?,
    };
    let epoch = epoch.ok_or(RecordError::Missing(KEY_EPOCH))?;
    let lease = lease.ok_or(RecordError::Missing(KEY_LEASE))?;
    Ok((entry, epoch, lease, prefix))
}

fn is_known(key: SvcParamKey) -> bool {
    matches!(
        key,
        SvcParamKey::Port
            | SvcParamKey::Ipv4Hint
            | SvcParamKey::Ipv6Hint
            | SvcParamKey::Key(KEY_EPOCH | KEY_MODES | KEY_LEASE | KEY_PREFIX)
    )
}

fn text(raw: &Unknown) -> Cow<'_, str> {
    String::from_utf8_lossy(&raw.0)
}

fn number<T: std::str::FromStr>(
    key: u16,
    raw: &Unknown,
    expected: &'static str,
) -> Result<T, RecordError> {
    let text = text(raw);
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|_| digits)
        .ok_or(RecordError::Syntax {
            key,
            text: text.into_owned(),
            expected,
        })
}

/// The family label (`h4`, `h6`) under which owners of `family` live.
pub fn family_label(family: Family) -> &'static str {
    match family {
        Family::V4 => "h4",
        Family::V6 => "h6",
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::serialize::binary::{BinDecodable, BinEncodable};
    use proptest::prelude::*;

    use super::*;

    fn zone() -> Name {
        Name::from_ascii("map.example.").unwrap()
    }

    #[test]
    fn a_wildcard_owns_a_prefix_that_ends_between_labels() {
        let name = |prefix: &str| prefix_owner(prefix.parse().unwrap(), &zone());
        for (prefix, owner) in [
            ("192.0.2.0/24", "*.2.0.192.h4.map.example."),
            ("192.0.0.0/16", "*.0.192.h4.map.example."),
            ("192.0.0.0/8", "*.192.h4.map.example."),
            ("2001:db8::/32", "*.8.b.d.0.1.0.0.2.h6.map.example."),
        ] {
            let owner = Name::from_ascii(owner).unwrap();
            let prefix: IpNet = prefix.parse().unwrap();
            assert_eq!(self::prefix(&owner, &zone()), Some(prefix.trunc()));
            assert_eq!(prefix_owner(prefix.trunc(), &zone()), Some(owner));
        }
        for other in ["192.0.2.0/25", "192.0.2.1/32", "0.0.0.0/0", "2001:db8::/33"] {
            assert_eq!(name(other), None, "{other}");
        }
        for other in [
            "*.h4.map.example.",
            "*.10.2.0.192.h4.map.example.",
            "*.02.0.192.h4.map.example.",
            "*.0.h6.map.example.",
            "*.map.example.",
            "*.",
            "10.2.0.192.h4.map.example.",
        ] {
            let owner = Name::from_ascii(other).unwrap();
            assert_eq!(self::prefix(&owner, &zone()), None, "{other}");
        }
    }

    #[test]
    fn a_prefix_puts_each_home_in_its_place() {
        let place = |home: &str, hint: &str, length: &str| {
            let home: Home = home.parse().unwrap();
            let entry = Entry {
                priority: Priority::ACTIVE,
                locator: hint.parse().unwrap(),
                port: 6283,
                modes: Modes::NATIVE,
            };
            let mut svcb = to_svcb(&entry, Epoch(7), 30);
            let raw = Unknown(length.as_bytes().to_vec());
            let value = SvcParamValue::Unknown(raw);
            svcb.svc_params.push((SvcParamKey::Key(KEY_PREFIX), value));
            let binding = from_svcb(home, [&svcb])?;
            assert_eq!(prefix_len([&svcb]), length.parse().ok());
            Ok::<_, RecordError>(binding.entries()[0].locator.to_string())
        };
        let at = |home, hint, length| place(home, hint, length).unwrap();
        assert_eq!(at("192.0.2.10", "198.51.100.0", "24"), "198.51.100.10");
        assert_eq!(at("192.0.2.10", "198.51.0.0", "16"), "198.51.2.10");
        assert_eq!(at("2001:db8::5", "2001:db8:1::", "64"), "2001:db8:1::5");
        for (hint, length) in [
            ("198.51.100.1", "24"),
            ("198.51.100.0", "33"),
            ("198.51.100.0", "x"),
            ("198.51.100.0", "024"),
            ("2001:db8::", "24"),
        ] {
            assert!(
                place("192.0.2.10", hint, length).is_err(),
                "{hint}/{length}"
            );
        }
    }

    #[test]
    fn an_owner_name_is_in_the_zone_that_is_left() {
        for text in ["192.0.2.10", "2001:db8::10"] {
            let home: Home = text.parse().unwrap();
            let owner = owner(home, &zone()).unwrap();
            assert_eq!(zone_of(home, &owner), Some(zone()));
            let other = "192.0.2.11".parse().unwrap();
            assert_eq!(zone_of(other, &owner), None);
        }
        let home = "192.0.2.10".parse().unwrap();
        let spelt = Name::from_ascii("10.2.0.192.H4.Map.Example.").unwrap();
        assert_eq!(zone_of(home, &spelt), Some(zone()));
        for stray in ["10.2.0.192.h6.map.example.", "2.0.192.h4.map.example.", "."] {
            let stray = Name::from_ascii(stray).unwrap();
            assert_eq!(zone_of(home, &stray), None, "{stray}");
        }
    }

    fn svcb(records: &[Record]) -> Vec<SVCB> {
        records
            .iter()
            .map(|r| match &r.data {
                RData::SVCB(svcb) => svcb.clone(),
                other => panic!("not SVCB: {other:?}"),
            })
            .collect()
    }

    #[test]
    fn owners_are_below_the_name_of_their_prefix() {
        let above = |prefix: &str| above(prefix.parse().unwrap(), &zone()).unwrap();
        for (prefix, name) in [
            ("192.0.2.0/24", "2.0.192.h4.map.example."),
            ("192.0.2.128/25", "2.0.192.h4.map.example."),
            ("192.0.2.10/32", "10.2.0.192.h4.map.example."),
            ("0.0.0.0/0", "h4.map.example."),
            ("2001:db8::/31", "b.d.0.1.0.0.2.h6.map.example."),
            ("::/0", "h6.map.example."),
        ] {
            assert_eq!(above(prefix).to_ascii(), name);
        }
        let home: Home = "2001:db8::7".parse().unwrap();
        assert_eq!(above("2001:db8::7/128"), owner(home, &zone()).unwrap());
    }

    #[test]
    fn the_documented_record_is_what_is_written() {
        let home = "192.0.2.10".parse().unwrap();
        let locator = "198.51.100.7".parse().unwrap();
        let b = Binding::single(home, Epoch(1_795_420_470), 30, locator, 6283).unwrap();
        let records = to_records(&b, &zone(), 0).unwrap();
        assert_eq!(records.len(), 1);
        let text = records[0].to_string();
        assert!(
            text.starts_with(
                "10.2.0.192.h4.map.example. 0 IN SVCB 1 . port=6283 ipv4hint=198.51.100.7"
            ),
            "{text}"
        );
        let wire = records[0].to_bytes().unwrap();
        let read = Record::from_bytes(&wire).unwrap();
        assert_eq!(from_svcb(home, &svcb(&[read])).unwrap(), b);
    }

    #[test]
    fn owners_name_exactly_one_home() {
        for text in ["192.0.2.10", "2001:db8::a:1"] {
            let h: Home = text.parse().unwrap();
            let name = owner(h, &zone()).unwrap();
            assert_eq!(home(&name, &zone()), Some(h));
        }
        let v6 = owner("2001:db8::1".parse().unwrap(), &zone()).unwrap();
        assert!(v6.to_string().starts_with("1.0.0.0."));
        assert!(v6.to_string().ends_with(".8.b.d.0.1.0.0.2.h6.map.example."));
        for wrong in [
            "010.2.0.192.h4.map.example.",
            "10.2.0.192.h6.map.example.",
            "2.0.192.h4.map.example.",
            "*.2.0.192.h4.map.example.",
            "10.2.0.192.h4.other.example.",
            "map.example.",
            "h4.map.example.",
        ] {
            let name = Name::from_ascii(wrong).unwrap();
            assert_eq!(home(&name, &zone()), None, "{wrong}");
        }
    }

    #[test]
    fn sets_that_contradict_themselves_are_refused() {
        let home: Home = "192.0.2.10".parse().unwrap();
        let entry = |priority, locator: &str| Entry {
            priority: Priority::new(priority).unwrap(),
            locator: locator.parse().unwrap(),
            port: 6283,
            modes: Modes::NATIVE,
        };
        let one = to_svcb(&entry(1, "198.51.100.7"), Epoch(4), 30);
        let other_epoch = to_svcb(&entry(2, "198.51.100.8"), Epoch(5), 30);
        let other_lease = to_svcb(&entry(2, "198.51.100.8"), Epoch(4), 31);
        assert_eq!(
            from_svcb(home, [&one, &other_epoch]),
            Err(RecordError::Mixed("epochs"))
        );
        assert_eq!(
            from_svcb(home, [&one, &other_lease]),
            Err(RecordError::Mixed("leases"))
        );
        assert_eq!(from_svcb(home, []), Err(BindingError::Empty.into()));
        let mut alias = one.clone();
        alias.svc_priority = 0;
        assert_eq!(from_svcb(home, [&alias]), Err(RecordError::Alias));
        let mut two_hints = one.clone();
        two_hints.svc_params.push((
            SvcParamKey::Ipv6Hint,
            SvcParamValue::Ipv6Hint(IpHint(vec![AAAA("2001:db8::1".parse().unwrap())])),
        ));
        assert_eq!(from_svcb(home, [&two_hints]), Err(RecordError::Hint));
        let mut signed = one.clone();
        signed.svc_params[2].1 = SvcParamValue::Unknown(Unknown(b"+4".to_vec()));
        assert!(matches!(
            from_svcb(home, [&signed]),
            Err(RecordError::Syntax { key: KEY_EPOCH, .. })
        ));
    }

    proptest! {
        #[test]
        fn every_binding_survives_the_record(
            home: u32, epoch: u64, lease in 1u32..=86_400,
            locators in proptest::collection::btree_set(any::<u32>(), 1..=8), port in 1u16..
        ) {
            let Ok(home) = Home::new(IpAddr::V4(home.into())) else { return Ok(()) };
            let entries: Vec<_> = locators.iter().enumerate()
                .filter_map(|(i, ip)| Some(Entry {
                    priority: Priority::new(i as u16 + 1)?,
                    locator: Locator::new(IpAddr::V4((*ip).into())).ok()?,
                    port,
                    modes: Modes { native: true, encap: i % 2 == 0 },
                }))
                .collect();
            let Ok(b) = Binding::new(home, Epoch(epoch), lease, entries) else { return Ok(()) };
            let records = to_records(&b, &zone(), 0).unwrap();
            prop_assert_eq!(from_svcb(home, &svcb(&records)).unwrap(), b);
        }
    }
}

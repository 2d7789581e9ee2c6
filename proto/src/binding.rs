//! A binding: where a home address is reachable, as of one epoch.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Home, Locator};

/// Version number of a binding. It rises at *every* change of the record.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch of the next change: `max(self + 1, unix_seconds)`, so that
    /// neither delete-and-create nor a mapping service restored from an old
    /// backup can fall behind what forwarders already know.
    pub fn next(self, unix_seconds: u64) -> Self {
        Epoch(self.0.saturating_add(1).max(unix_seconds))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// SvcPriority of a locator (RFC 9460 section 2.4.1): 1 is in use, 2 and above
/// stand by. 0 (AliasMode) does not exist here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Priority(u16);

impl Priority {
    /// The locator in use.
    pub const ACTIVE: Priority = Priority(1);
    /// A locator prepared for a move.
    pub const STANDBY: Priority = Priority(2);

    /// Any priority but 0.
    pub fn new(value: u16) -> Option<Self> {
        (value != 0).then_some(Priority(value))
    }

    /// The number on the wire.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for Priority {
    type Error = BindingError;

    fn try_from(value: u16) -> Result<Self, BindingError> {
        Priority::new(value).ok_or(BindingError::PriorityZero)
    }
}

impl From<Priority> for u16 {
    fn from(priority: Priority) -> u16 {
        priority.0
    }
}

/// The wire modes a locator accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Modes {
    /// Pure address rewriting, no bytes added.
    pub native: bool,
    /// Inner packet in UDP.
    pub encap: bool,
}

impl Modes {
    /// Native only.
    pub const NATIVE: Modes = Modes {
        native: true,
        encap: false,
    };

    /// Native is bit 0, encap bit 1; unknown bits are ignored so that later
    /// modes can be announced to us.
    pub fn from_bits(bits: u8) -> Self {
        Modes {
            native: bits & 1 != 0,
            encap: bits & 2 != 0,
        }
    }

    /// See [`Modes::from_bits`].
    pub fn bits(self) -> u8 {
        u8::from(self.native) | u8::from(self.encap) << 1
    }
}

impl fmt::Display for Modes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.native, self.encap) {
            (true, true) => "native,encap",
            (true, false) => "native",
            (false, true) => "encap",
            (false, false) => "",
        })
    }
}

impl FromStr for Modes {
    type Err = BindingError;

    /// A comma-separated list; modes unknown to this release are ignored, but
    /// one that is known must remain.
    fn from_str(s: &str) -> Result<Self, BindingError> {
        let has = |mode| s.split(',').any(|word| word == mode);
        let modes = Modes {
            native: has("native"),
            encap: has("encap"),
        };
        if modes.bits() == 0 {
            return Err(BindingError::Modes(s.to_owned()));
        }
        Ok(modes)
    }
}

impl TryFrom<String> for Modes {
    type Error = BindingError;

    fn try_from(s: String) -> Result<Self, BindingError> {
        s.parse()
    }
}

impl From<Modes> for String {
    fn from(modes: Modes) -> String {
        modes.to_string()
    }
}

/// One locator of a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// In use or standing by.
    pub priority: Priority,
    /// The locator.
    pub locator: Locator,
    /// UDP port of the control exchange there.
    pub port: u16,
    /// Wire modes accepted there.
    pub modes: Modes,
}

/// Why a set of locators is not a binding.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindingError {
    /// A binding without locators is no binding: delete the RRset instead.
    #[error("a binding needs at least one locator")]
    Empty,
    /// More than [`Binding::MAX_LOCATORS`].
    #[error("{0} locators; a binding has at most {max}", max = Binding::MAX_LOCATORS)]
    TooMany(usize),
    /// The same locator in two entries.
    #[error("locator {0} is named twice")]
    Repeated(Locator),
    /// Two entries of priority 1.
    #[error("{0} and {1} both have priority 1; exactly one locator can be in use")]
    TwoActive(Locator, Locator),
    /// Priority 0 is SVCB's AliasMode.
    #[error("priority 0 (an alias) is refused; use 1 for the locator in use, 2 for standby")]
    PriorityZero,
    /// A home address is for the instance alone.
    #[error("locator {0} is the home address itself")]
    Itself(Locator),
    /// Control port 0.
    #[error("locator {0} has port 0")]
    PortZero(Locator),
    /// A native locator of the other family cannot be reached by rewriting.
    #[error("locator {locator} cannot carry {home} natively: the address families differ")]
    FamilyMismatch {
        /// The home address.
        home: Home,
        /// The locator of the other family.
        locator: Locator,
    },
    /// No wire mode this release knows.
    #[error("modes {0:?} name neither native nor encap")]
    Modes(String),
    /// Lease outside 1 s .. 1 day.
    #[error("lease of {0} s is outside 1..=86400")]
    Lease(u32),
}

/// Home address -> locators, at one epoch. Constructed valid, stays valid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked", into = "Unchecked")]
pub struct Binding {
    home: Home,
    epoch: Epoch,
    lease: u32,
    entries: Vec<Entry>,
}

impl Binding {
    /// Bound on the locators of one home address: one in use, one prepared,
    /// and room for a multi-homed node; it also keeps the RRset in one
    /// unfragmented UDP answer.
    pub const MAX_LOCATORS: usize = 8;

    /// Checks and sorts `entries` (by priority, then locator). `lease` in seconds.
    pub fn new(
        home: Home,
        epoch: Epoch,
        lease: u32,
        mut entries: Vec<Entry>,
    ) -> Result<Self, BindingError> {
        if entries.is_empty() {
            return Err(BindingError::Empty);
        }
        if entries.len() > Self::MAX_LOCATORS {
            return Err(BindingError::TooMany(entries.len()));
        }
        if !(1..=86_400).contains(&lease) {
            return Err(BindingError::Lease(lease));
        }
        entries.sort_by_key(|e| (e.priority, e.locator));
        for (i, entry) in entries.iter().enumerate() {
            let earlier = &entries[..i];
            if earlier.iter().any(|e| e.locator == entry.locator) {
                return Err(BindingError::Repeated(entry.locator));
            }
            if entry.locator.ip() == home.ip() {
                return Err(BindingError::Itself(entry.locator));
            }
            if entry.port == 0 {
                return Err(BindingError::PortZero(entry.locator));
            }
            if entry.modes.native && entry.locator.family() != home.family() {
                return Err(BindingError::FamilyMismatch {
                    home,
                    locator: entry.locator,
                });
            }
            if entry.priority == Priority::ACTIVE && i > 0 {
                return Err(BindingError::TwoActive(entries[0].locator, entry.locator));
            }
        }
        Ok(Binding {
            home,
            epoch,
            lease,
            entries,
        })
    }

    /// The binding of `home` to one active native locator.
    pub fn single(
        home: Home,
        epoch: Epoch,
        lease: u32,
        locator: Locator,
        port: u16,
    ) -> Result<Self, BindingError> {
        let entry = Entry {
            priority: Priority::ACTIVE,
            locator,
            port,
            modes: Modes::NATIVE,
        };
        Binding::new(home, epoch, lease, vec![entry])
    }

    /// The home address.
    pub fn home(&self) -> Home {
        self.home
    }

    /// The version of this binding.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// How long it may be used without being renewed, in whole seconds.
    pub fn lease(&self) -> Duration {
        Duration::from_secs(self.lease.into())
    }

    /// The lease in seconds, as in the record.
    pub fn lease_seconds(&self) -> u32 {
        self.lease
    }

    /// All locators, the active one first.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entry in use. A binding may have none while an instance is being
    /// prepared somewhere for the first time.
    pub fn active(&self) -> Option<&Entry> {
        self.entries
            .first()
            .filter(|e| e.priority == Priority::ACTIVE)
    }

    /// The entry of `locator`, active or standby.
    pub fn entry(&self, locator: Locator) -> Option<&Entry> {
        self.entries.iter().find(|e| e.locator == locator)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    home: Home,
    epoch: Epoch,
    lease: u32,
    entries: Vec<Entry>,
}

impl TryFrom<Unchecked> for Binding {
    type Error = BindingError;

    fn try_from(b: Unchecked) -> Result<Self, BindingError> {
        Binding::new(b.home, b.epoch, b.lease, b.entries)
    }
}

impl From<Binding> for Unchecked {
    fn from(b: Binding) -> Self {
        Unchecked {
            home: b.home,
            epoch: b.epoch,
            lease: b.lease,
            entries: b.entries,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(priority: u16, locator: &str) -> Entry {
        Entry {
            priority: Priority::new(priority).unwrap(),
            locator: locator.parse().unwrap(),
            port: 6283,
            modes: Modes::NATIVE,
        }
    }

    fn binding(entries: Vec<Entry>) -> Result<Binding, BindingError> {
        Binding::new("192.0.2.10".parse().unwrap(), Epoch(7), 30, entries)
    }

    #[test]
    fn epochs_rise_even_when_the_clock_or_the_record_fell_behind() {
        assert_eq!(Epoch(5).next(1_795_420_470), Epoch(1_795_420_470));
        assert_eq!(Epoch(1_795_420_470).next(12), Epoch(1_795_420_471));
        assert_eq!(Epoch(u64::MAX).next(0), Epoch(u64::MAX));
    }

    #[test]
    fn the_active_entry_comes_first_and_is_unique() {
        let b = binding(vec![entry(2, "198.51.100.9"), entry(1, "203.0.113.9")]).unwrap();
        assert_eq!(
            b.active().unwrap().locator,
            "203.0.113.9".parse::<Locator>().unwrap()
        );
        let error = binding(vec![entry(1, "198.51.100.9"), entry(1, "203.0.113.9")]);
        assert!(matches!(error, Err(BindingError::TwoActive(..))));
        assert_eq!(
            binding(vec![entry(2, "198.51.100.9")]).unwrap().active(),
            None
        );
    }

    #[test]
    fn unusable_sets_are_refused_by_name() {
        assert_eq!(binding(vec![]), Err(BindingError::Empty));
        assert!(matches!(
            binding(vec![entry(1, "198.51.100.9"), entry(2, "198.51.100.9")]),
            Err(BindingError::Repeated(_))
        ));
        assert!(matches!(
            binding(vec![entry(1, "2001:db8::9")]),
            Err(BindingError::FamilyMismatch { .. })
        ));
        assert!(matches!(
            binding(
                (1..=9)
                    .map(|i| entry(i, &format!("198.51.100.{i}")))
                    .collect()
            ),
            Err(BindingError::TooMany(9))
        ));
    }
}

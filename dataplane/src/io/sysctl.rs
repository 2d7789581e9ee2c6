//! Kernel settings under `/proc/sys`, and features and MAC addresses of devices, changed only
//! where they differ, and put back afterwards.
//!
//! What a setting was before is written to a journal *before* it is changed, so
//! that a process which remembers nothing can still put it back. The journal is
//! worth nothing after a reboot or in another network namespace; it carries
//! both names and is ignored where they differ.
//!
//! # Limitations
//! Switching `forwarding` for `all` sets it for every interface; interfaces that
//! differed from `all` before do not get their own value back.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::io::MacAddr;
use crate::io::state::{self, StateError};
use crate::io::{ethtool, ifreq};

const SYSCTLS: &str = "/proc/sys";

/// A setting cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// Reading or writing failed.
    #[error("cannot set {key} to {value}: {cause}; {}", mend(.key, .value))]
    Set {
        /// Which.
        key: String,
        /// Wanted value.
        value: String,
        /// What the system said.
        cause: io::Error,
    },
    /// The journal cannot be kept.
    #[error(transparent)]
    Journal(#[from] StateError),
}

/// One setting, by its path below `/proc/sys` (interface names may hold dots), or a device's
/// feature or MAC address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// For example `net/ipv4/ip_forward`, `ethtool/eth0/rx-udp-gro-forwarding`, `mac/eth0`.
    pub key: String,
    /// Value to be.
    pub value: String,
    /// Change it only if it is this now.
    pub only_if: Option<&'static str>,
    /// What if it cannot be made.
    pub need: Need,
}

/// How much a setting is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing works without it.
    Must,
    /// A kernel without this key needs no such setting.
    IfThere,
    /// It would be good to have.
    Wish,
}

impl Setting {
    /// `key` shall be `value`.
    pub fn new(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            value: value.into(),
            only_if: None,
            need: Need::Must,
        }
    }

    /// `feature` of the device `dev` should be on (see `ethtool -k`).
    pub fn feature(dev: &str, feature: &str) -> Self {
        Self {
            need: Need::Wish,
            ..Self::new(format!("{FEATURES}{dev}/{feature}"), ON)
        }
    }

    /// `dev` shall have the address `mac`.
    pub fn mac(dev: &str, mac: MacAddr) -> Self {
        Self::new(format!("{MAC}{dev}"), mac.to_string())
    }

    /// Leave it alone unless it is `now`.
    pub fn only_if(self, now: &'static str) -> Self {
        Self {
            only_if: Some(now),
            ..self
        }
    }

    /// It may be missing.
    pub fn optional(self) -> Self {
        Self {
            need: Need::IfThere,
            ..self
        }
    }
}

/// The settings that were changed, and what they were.
#[derive(Debug)]
pub struct Sysctls {
    path: PathBuf,
    journal: Journal,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Journal {
    /// Boot and network namespace it was written in.
    place: String,
    /// In the order they were changed.
    changes: Vec<Change>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Change {
    key: String,
    before: String,
    after: String,
}

impl Sysctls {
    /// Takes up the journal at `path`, if one is left from this boot and
    /// namespace.
    pub fn open(path: &Path) -> Result<Self, SysctlError> {
        let place = place();
        let journal = state::load::<Journal>(path)?
            .filter(|journal| journal.place == place)
            .unwrap_or(Journal {
                place,
                changes: Vec::new(),
            });
        Ok(Self {
            path: path.to_owned(),
            journal,
        })
    }

    /// What `key` was before we changed it, or is now if we did not.
    pub fn before(&self, key: &str) -> Option<String> {
        let changed = self.journal.changes.iter().find(|c| c.key == key);
        changed.map_or_else(|| read(key).ok(), |c| Some(c.before.clone()))
    }

    /// Makes `settings` in their order.
    pub fn set(&mut self, settings: &[Setting]) -> Result<(), SysctlError> {
        let mut due = Vec::new();
        for setting in settings {
            match read(&setting.key) {
                Ok(now) if setting.only_if.is_some_and(|only| only != now) => {}
                Ok(now) if now == setting.value => {}
                Ok(now) => due.push((setting, now)),
                Err(cause) => missing(setting, cause)?,
            }
        }
        if due.is_empty() {
            return Ok(());
        }
        for (setting, before) in &due {
            let change = Change {
                key: setting.key.clone(),
                before: before.clone(),
                after: setting.value.clone(),
            };
            // What we had set is not there any more: somebody has set it since, or it is another
            // device of that name.
            let mut changes = self.journal.changes.iter_mut();
            match changes.find(|other| other.key == change.key) {
                Some(other) if other.after == change.before => other.after = change.after,
                Some(other) => *other = change,
                None => self.journal.changes.push(change),
            }
        }
        state::store_until_reboot(&self.path, &self.journal)?;
        for (setting, _) in due {
            if let Err(cause) = write(&setting.key, &setting.value) {
                missing(setting, cause)?;
            }
        }
        Ok(())
    }

    /// Puts back every changed setting that `which` accepts, MAC addresses first, for the kernel
    /// makes others of them, and the rest last first. Settings that somebody else has changed
    /// since, and those of interfaces that are gone, are left as they are.
    ///
    /// An interface that does not take its old address back is only warned of; its other settings
    /// wait until it does.
    pub fn restore(&mut self, which: impl Fn(&str) -> bool) -> Result<(), SysctlError> {
        let changes = &self.journal.changes;
        // Without any, what another boot has left still goes.
        if !changes.is_empty() && !changes.iter().any(|change| which(&change.key)) {
            return Ok(());
        }
        let changes = std::mem::take(&mut self.journal.changes);
        let mut stuck = Vec::new();
        for change in changes.iter().filter(|change| which(&change.key)) {
            if let Key::Mac { dev } = Key::of(&change.key)
                && let Err(cause) = change.put_back()
            {
                let before = &change.before;
                tracing::warn!(
                    "{dev} does not take its own MAC address back: {cause}; by hand: ip link set {dev} down; ip link set {dev} address {before} up"
                );
                stuck.push(dev.to_owned());
            }
        }
        let mut fault = None;
        let mut kept = Vec::new();
        for change in changes.into_iter().rev() {
            let waits = device(&change.key).is_some_and(|dev| stuck.iter().any(|s| s == dev));
            if waits || !which(&change.key) {
                kept.push(change);
            } else if !matches!(Key::of(&change.key), Key::Mac { .. })
                && let Err(cause) = change.put_back()
            {
                fault = Some(set_error(&change.key, &change.before, cause));
                kept.push(change);
            }
        }
        kept.reverse();
        self.journal.changes = kept;
        if self.journal.changes.is_empty() {
            state::remove(&self.path)?;
        } else {
            state::store_until_reboot(&self.path, &self.journal)?;
        }
        fault.map_or(Ok(()), Err)
    }
}

impl Change {
    fn put_back(&self) -> io::Result<()> {
        if !read(&self.key).is_ok_and(|now| now == self.after) {
            return Ok(());
        }
        match write(&self.key, &self.before) {
            // Its interface has gone in between.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            written => written,
        }
    }
}

/// A setting that could not be made.
fn missing(setting: &Setting, cause: io::Error) -> Result<(), SysctlError> {
    let Setting { key, value, .. } = setting;
    match (setting.need, cause.kind()) {
        (Need::IfThere | Need::Wish, io::ErrorKind::NotFound) => Ok(()),
        (Need::Wish, _) => {
            tracing::debug!("{key} stays as it is: {cause}");
            Ok(())
        }
        (Need::Must | Need::IfThere, _) => Err(set_error(key, value, cause)),
    }
}

/// The interface that `key` belongs to; `all` is one to the kernel.
pub fn device(key: &str) -> Option<&str> {
    match Key::of(key) {
        Key::Feature { dev, .. } | Key::Mac { dev } => Some(dev),
        Key::Sysctl(path) => {
            let mut parts = path.split('/').skip(2);
            let of_one = matches!(parts.next(), Some("conf" | "neigh"));
            parts.next().filter(|_| of_one)
        }
    }
}

/// The boot and the network namespace this thread is in.
fn place() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = fs::read_link("/proc/thread-self/ns/net").unwrap_or_default();
    format!("{} {}", boot.trim(), namespace.display())
}

/// Whether `key` is that of a device's feature.
pub fn is_feature(key: &str) -> bool {
    matches!(Key::of(key), Key::Feature { .. })
}

/// Before the device in the key of a feature.
const FEATURES: &str = "ethtool/";
const ON: &str = "on";
const OFF: &str = "off";
/// Before the device in the key of a MAC address.
const MAC: &str = "mac/";

/// What a key names.
enum Key<'a> {
    /// A path below `/proc/sys`.
    Sysctl(&'a str),
    Feature {
        dev: &'a str,
        name: &'a str,
    },
    Mac {
        dev: &'a str,
    },
}

impl<'a> Key<'a> {
    fn of(key: &'a str) -> Self {
        let feature = key.strip_prefix(FEATURES);
        if let Some((dev, name)) = feature.and_then(|feature| feature.split_once('/')) {
            Key::Feature { dev, name }
        } else if let Some(dev) = key.strip_prefix(MAC) {
            Key::Mac { dev }
        } else {
            Key::Sysctl(key)
        }
    }
}

fn read(key: &str) -> io::Result<String> {
    Ok(match Key::of(key) {
        Key::Feature { dev, name } => {
            let on = ethtool::read(dev, name)?;
            if on { ON } else { OFF }.to_owned()
        }
        Key::Mac { dev } => ifreq::mac(dev)?.to_string(),
        Key::Sysctl(path) => {
            let text = fs::read_to_string(Path::new(SYSCTLS).join(path))?;
            text.trim().to_owned()
        }
    })
}

fn write(key: &str, value: &str) -> io::Result<()> {
    match Key::of(key) {
        Key::Feature { dev, name } => ethtool::write(dev, name, value == ON),
        Key::Mac { dev } => ifreq::set_mac(dev, value.parse().map_err(io::Error::other)?),
        Key::Sysctl(path) => fs::write(Path::new(SYSCTLS).join(path), value),
    }
}

fn set_error(key: &str, value: &str, cause: io::Error) -> SysctlError {
    SysctlError::Set {
        key: key.to_owned(),
        value: value.to_owned(),
        cause,
    }
}

/// How to make a setting by hand.
fn mend(key: &str, value: &str) -> String {
    match Key::of(key) {
        Key::Feature { dev, name } => {
            format!("try it by hand: ethtool -K {dev} {name} {value}")
        }
        Key::Mac { dev } => format!(
            "run matd as root; an interface that does not change its address while it is up has to be down when an instance is attached (ip link set {dev} down)"
        ),
        Key::Sysctl(path) => {
            // `sysctl(8)` writes a dot inside an interface name as a slash.
            let dotted: String = path
                .chars()
                .map(|c| match c {
                    '/' => '.',
                    '.' => '/',
                    c => c,
                })
                .collect();
            format!(
                "run matd as root with a writable /proc/sys, or set it before (sysctl -w {dotted}={value})"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_belongs_to_its_interface() {
        let of = [
            ("net/ipv4/conf/eth0.7/rp_filter", Some("eth0.7")),
            ("net/ipv6/neigh/v1/proxy_delay", Some("v1")),
            ("net/ipv4/conf/all/rp_filter", Some("all")),
            ("net/ipv4/ip_forward", None),
            ("ethtool/v1/rx-gro-list", Some("v1")),
            ("mac/eth0.7", Some("eth0.7")),
        ];
        for (key, dev) in of {
            assert_eq!(device(key), dev, "{key}");
        }
    }

    #[test]
    fn a_refusal_says_how_to_set_it_by_hand() {
        let denied = io::Error::from_raw_os_error(libc::EACCES);
        let text = set_error("net/ipv4/conf/eth0.7/rp_filter", "0", denied).to_string();
        assert!(
            text.contains("sysctl -w net.ipv4.conf.eth0/7.rp_filter=0"),
            "{text}"
        );
        let denied = io::Error::from_raw_os_error(libc::EPERM);
        let text = set_error("ethtool/eth0.7/rx-gro-list", OFF, denied).to_string();
        assert!(text.contains("ethtool -K eth0.7 rx-gro-list off"), "{text}");
        let busy = io::Error::from_raw_os_error(libc::EBUSY);
        let text = set_error("mac/lan0", "02:4d:41:54:00:01", busy).to_string();
        assert!(text.contains("(ip link set lan0 down)"), "{text}");
    }

    #[test]
    fn a_wish_may_be_refused() {
        let wish = Setting::feature("no-such-device", "rx-gro-list");
        let refused = || io::Error::from(io::ErrorKind::Unsupported);
        assert!(missing(&wish, refused()).is_ok());
        assert!(missing(&Setting::new("x", "1").optional(), refused()).is_err());
    }
}

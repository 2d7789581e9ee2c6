//! Kernel settings under `/proc/sys`, changed only where they differ, and put
//! back afterwards.
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

use crate::io::state::{self, StateError};

/// A setting cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// Reading or writing failed.
    #[error(
        "cannot set {} = {value}: {cause}; run matd as root with a writable /proc/sys, or set it before (sysctl -w {}={value})",
        dotted(.key), dotted(.key)
    )]
    Set {
        /// Path below `/proc/sys`.
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

/// One setting, by its path below `/proc/sys` (interface names may hold dots).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// For example `net/ipv4/ip_forward`.
    pub key: String,
    /// Value to be.
    pub value: &'static str,
    /// Change it only if it is this now.
    pub only_if: Option<&'static str>,
    /// A kernel without this key needs no such setting.
    pub optional: bool,
}

impl Setting {
    /// `key` shall be `value`.
    pub fn new(key: impl Into<String>, value: &'static str) -> Self {
        Self {
            key: key.into(),
            value,
            only_if: None,
            optional: false,
        }
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
            optional: true,
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
                Err(error) if setting.optional && error.kind() == io::ErrorKind::NotFound => {}
                Err(cause) => return Err(set_error(&setting.key, setting.value, cause)),
            }
        }
        if due.is_empty() {
            return Ok(());
        }
        for (setting, before) in &due {
            if !self.journal.changes.iter().any(|c| c.key == setting.key) {
                self.journal.changes.push(Change {
                    key: setting.key.clone(),
                    before: before.clone(),
                    after: setting.value.to_owned(),
                });
            }
        }
        state::store_until_reboot(&self.path, &self.journal)?;
        for (setting, _) in due {
            write(&setting.key, setting.value)
                .map_err(|cause| set_error(&setting.key, setting.value, cause))?;
        }
        Ok(())
    }

    /// Puts back every changed setting that `which` accepts, last first.
    /// Settings that somebody else has changed since, and those of interfaces
    /// that are gone, are left as they are.
    pub fn restore(&mut self, which: impl Fn(&str) -> bool) -> Result<(), SysctlError> {
        let mut fault = None;
        let mut kept = Vec::new();
        for change in std::mem::take(&mut self.journal.changes).into_iter().rev() {
            if !which(&change.key) {
                kept.push(change);
                continue;
            }
            if read(&change.key).is_ok_and(|now| now == change.after)
                && let Err(cause) = write(&change.key, &change.before)
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

/// Whether `key` belongs to the interface `dev`.
pub fn is_of(key: &str, dev: &str) -> bool {
    let mut parts = key.split('/').skip(2);
    matches!(parts.next(), Some("conf" | "neigh")) && parts.next() == Some(dev)
}

/// The boot and the network namespace this thread is in.
fn place() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = fs::read_link("/proc/thread-self/ns/net").unwrap_or_default();
    format!("{} {}", boot.trim(), namespace.display())
}

fn file(key: &str) -> PathBuf {
    Path::new("/proc/sys").join(key)
}

fn read(key: &str) -> io::Result<String> {
    Ok(fs::read_to_string(file(key))?.trim().to_owned())
}

fn write(key: &str, value: &str) -> io::Result<()> {
    fs::write(file(key), value)
}

fn set_error(key: &str, value: &str, cause: io::Error) -> SysctlError {
    SysctlError::Set {
        key: key.to_owned(),
        value: value.to_owned(),
        cause,
    }
}

/// As `sysctl(8)` writes it: a dot inside an interface name becomes a slash.
fn dotted(key: &str) -> String {
    key.chars()
        .map(|c| match c {
            '/' => '.',
            '.' => '/',
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_belongs_to_its_interface() {
        assert!(is_of("net/ipv4/conf/eth0.7/rp_filter", "eth0.7"));
        assert!(is_of("net/ipv6/neigh/v1/proxy_delay", "v1"));
        assert!(!is_of("net/ipv4/conf/all/rp_filter", "v1"));
        assert!(!is_of("net/ipv4/ip_forward", "ip_forward"));
    }

    #[test]
    fn a_refusal_says_how_to_set_it_by_hand() {
        let denied = io::Error::from_raw_os_error(libc::EACCES);
        let text = set_error("net/ipv4/conf/eth0.7/rp_filter", "0", denied).to_string();
        assert!(
            text.contains("sysctl -w net.ipv4.conf.eth0/7.rp_filter=0"),
            "{text}"
        );
    }
}

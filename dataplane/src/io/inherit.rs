//! Descriptors that outlive a process: handed over by the program before us, in
//! the same process, or kept by the service manager.
//!
//! | who | how it is said | since |
//! |---|---|---|
//! | the program before us | `MAT_INHERIT="PID NAME=FD .."` | an upgrade in place |
//! | systemd's descriptor store | `LISTEN_PID`, `LISTEN_FDS`, `LISTEN_FDNAMES` (sd_listen_fds(3)) | the last start |
//!
//! The program before us does not speak systemd's protocol, whose descriptors
//! are numbered from 3: those numbers belong to its runtime, whose threads are
//! at work until the very `execve(2)`.
//!
//! Invariant: whatever is said to be ours is taken, and closed on the next exec,
//! so that no child of ours keeps a device alive.

use std::env;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// The TUN device.
pub(super) const TUN: &str = "tun";
/// The listening socket of the control API.
const CONTROL: &str = "control";
/// What the program before us knew, in a file without a name.
const STATE: &str = "state";
/// The file of the program before us.
const PROGRAM: &str = "program";

const OURS: &str = "MAT_INHERIT";
const LISTEN_PID: &str = "LISTEN_PID";
const LISTEN_FDS: &str = "LISTEN_FDS";
const LISTEN_NAMES: &str = "LISTEN_FDNAMES";
/// Variables that speak of one process alone.
pub(crate) const VARIABLES: [&str; 4] = [OURS, LISTEN_PID, LISTEN_FDS, LISTEN_NAMES];

/// The first number that is no standard stream, where systemd begins.
const FIRST: RawFd = 3;

/// What this process was started with.
#[derive(Debug, Default)]
pub struct Inherited {
    /// A TUN device, perhaps ours.
    pub tun: Option<OwnedFd>,
    /// A listening socket, perhaps of our control API.
    pub control: Option<OwnedFd>,
    /// What the program before us knew a moment ago.
    pub state: Option<OwnedFd>,
    /// The file of the program before us. Where it has been replaced, whoever
    /// closes it last waits until the kernel has freed it, some 15 ms for 40 MB:
    /// not to be in a hurry then.
    pub program: Option<OwnedFd>,
}

impl Inherited {
    /// Takes what the environment says is for this process. What it says wrongly
    /// is logged and left alone.
    ///
    /// # Safety
    /// To be called once, and before this process has opened any descriptor: one
    /// of its own could have a number the environment speaks of.
    pub unsafe fn take() -> Self {
        let mut taken = Self::default();
        let said = |name: &str| env::var(name).ok();
        let listed = match listed(std::process::id(), said) {
            Ok(listed) => listed,
            Err(error) => {
                tracing::warn!("inherited descriptors: {error}; starting without them");
                return taken;
            }
        };
        for (name, number) in listed {
            // SAFETY: the caller promises that nothing here has this number;
            // `listed` names no number twice.
            let descriptor = match unsafe { sys::claim(number) } {
                Ok(descriptor) => descriptor,
                Err(error) => {
                    tracing::warn!("inherited descriptor {number} ({name}): {error}");
                    continue;
                }
            };
            let place = match name.as_str() {
                TUN => &mut taken.tun,
                CONTROL => &mut taken.control,
                STATE => &mut taken.state,
                PROGRAM => &mut taken.program,
                _ => {
                    tracing::warn!("inherited descriptor {number} ({name}) is not ours; closed");
                    continue;
                }
            };
            if place.replace(descriptor).is_some() {
                tracing::warn!("several inherited descriptors are named {name}; one is used");
            }
        }
        taken
    }

    /// Leaves the descriptors open across the next `execve(2)`, and gives back
    /// name and value of the variable that tells the next program of them. They
    /// must be open until then.
    pub fn leave(&self) -> io::Result<(&'static str, String)> {
        let mut text = std::process::id().to_string();
        let all = [
            (TUN, &self.tun),
            (CONTROL, &self.control),
            (STATE, &self.state),
            (PROGRAM, &self.program),
        ];
        for (name, descriptor) in all {
            if let Some(descriptor) = descriptor {
                fcntl(descriptor.as_fd(), FcntlArg::F_SETFD(FdFlag::empty()))?;
                let number = std::os::fd::AsRawFd::as_raw_fd(descriptor);
                text += &format!(" {name}={number}");
            }
        }
        Ok((OURS, text))
    }
}

/// Names and numbers of the descriptors that the environment says are for the
/// process `pid`.
fn listed(pid: u32, said: impl Fn(&str) -> Option<String>) -> Result<Vec<(String, RawFd)>, String> {
    let mut listed = Vec::new();
    if let Some(text) = said(OURS) {
        handed_over(pid, &text, &mut listed).ok_or(format!("{OURS}={text:?} cannot be read"))?;
    }
    if said(LISTEN_PID).is_some_and(|text| text == pid.to_string()) {
        let (count, names) = (said(LISTEN_FDS), said(LISTEN_NAMES));
        let (count, names) = (count.unwrap_or_default(), names.unwrap_or_default());
        let names: Vec<&str> = names.split(':').collect();
        if count != names.len().to_string() {
            return Err(format!(
                "{LISTEN_FDS}={count:?} does not count the names in {LISTEN_NAMES}={:?}",
                names.join(":")
            ));
        }
        listed.extend((FIRST..).zip(names).map(|(n, name)| (name.to_owned(), n)));
    }
    let mut numbers: Vec<_> = listed.iter().map(|(_, number)| *number).collect();
    numbers.sort_unstable();
    match numbers.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("descriptor {} is named twice", pair[0])),
        None => Ok(listed),
    }
}

/// Reads `PID NAME=FD ..`; what is for another process, our parent for instance,
/// is none of our business.
fn handed_over(pid: u32, text: &str, listed: &mut Vec<(String, RawFd)>) -> Option<()> {
    let mut words = text.split(' ');
    if words.next()?.parse() != Ok(pid) {
        return Some(());
    }
    for word in words {
        let (name, number) = word.split_once('=')?;
        let number = number.parse().ok().filter(|number| *number >= FIRST)?;
        listed.push((name.to_owned(), number));
    }
    Some(())
}

/// Owning a descriptor that is known by its number alone.
mod sys {
    use super::{AsFd, FcntlArg, FdFlag, OwnedFd, RawFd, fcntl, io};
    use std::os::fd::{BorrowedFd, FromRawFd};

    /// # Safety
    /// If `number` is open, nothing in this process owns it.
    pub unsafe fn claim(number: RawFd) -> io::Result<OwnedFd> {
        // SAFETY: numbers from 3 up are never the invalid -1; a closed one is
        // what the call is to find out.
        let unproven = unsafe { BorrowedFd::borrow_raw(number) };
        fcntl(unproven.as_fd(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        // SAFETY: it is open, as the call has shown, and nobody else's.
        Ok(unsafe { OwnedFd::from_raw_fd(number) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PID: u32 = 4711;

    fn listed_in(variables: &[(&str, &str)]) -> Result<Vec<(String, RawFd)>, String> {
        let find = |name: &str| variables.iter().find(|(n, _)| *n == name);
        listed(PID, |name| find(name).map(|(_, text)| (*text).to_owned()))
    }

    fn named(pairs: &[(&str, RawFd)]) -> Vec<(String, RawFd)> {
        let pairs = pairs.iter();
        pairs.map(|(name, n)| ((*name).to_owned(), *n)).collect()
    }

    #[test]
    fn an_ordinary_start_inherits_nothing() {
        assert_eq!(listed_in(&[]).unwrap(), []);
    }

    #[test]
    fn what_the_program_before_us_left_is_found() {
        let found = listed_in(&[(OURS, "4711 tun=12 control=9 state=17")]).unwrap();
        assert_eq!(found, named(&[("tun", 12), ("control", 9), ("state", 17)]));
    }

    #[test]
    fn what_the_service_manager_kept_is_numbered_from_three() {
        let stored = [
            (LISTEN_PID, "4711"),
            (LISTEN_FDS, "2"),
            (LISTEN_NAMES, "other:tun"),
        ];
        let found = listed_in(&stored).unwrap();
        assert_eq!(found, named(&[("other", 3), ("tun", 4)]));
    }

    #[test]
    fn what_is_for_another_process_is_not_ours() {
        let elsewhere = [
            (OURS, "4710 tun=12"),
            (LISTEN_PID, "4710"),
            (LISTEN_FDS, "1"),
            (LISTEN_NAMES, "tun"),
        ];
        assert_eq!(listed_in(&elsewhere).unwrap(), []);
    }

    #[test]
    fn nonsense_is_refused_as_a_whole() {
        for text in [
            "4711 tun",
            "4711 tun=",
            "4711 tun=-1",
            "4711 tun=2",
            "4711 tun=99999999999",
            "4711 tun=12 control=12",
            "4711  tun=12",
        ] {
            let error = listed_in(&[(OURS, text)]).unwrap_err();
            assert!(!error.is_empty(), "{text}");
        }
        for (count, names) in [("2", "tun"), ("x", "tun"), ("", "tun"), ("-1", "tun")] {
            let said = [
                (LISTEN_PID, "4711"),
                (LISTEN_FDS, count),
                (LISTEN_NAMES, names),
            ];
            let error = listed_in(&said).unwrap_err();
            assert!(error.contains(LISTEN_FDS), "{error}");
        }
        let doubled = [
            (OURS, "4711 tun=3"),
            (LISTEN_PID, "4711"),
            (LISTEN_FDS, "1"),
            (LISTEN_NAMES, "tun"),
        ];
        assert!(listed_in(&doubled).unwrap_err().contains("twice"));
    }
}

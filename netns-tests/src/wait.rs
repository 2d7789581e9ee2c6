//! Waiting for conditions instead of sleeping for fixed times.

use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::interrupt;

const FIRST_PAUSE: Duration = Duration::from_micros(200);
const LONGEST_PAUSE: Duration = Duration::from_millis(10);

/// Calls `probe` until it returns `Some`, at least once, for at most `timeout`.
///
/// `what` completes the sentence "waiting for ..." in the error. Also fails, early, once the run
/// has been interrupted.
pub fn wait_until<T>(
    timeout: Duration,
    what: impl AsRef<str>,
    mut probe: impl FnMut() -> Option<T>,
) -> Result<T> {
    let interrupted = Cell::new(false);
    let mut probe = || match probe() {
        None if interrupt::requested() => {
            interrupted.set(true);
            Some(None)
        }
        found => found.map(Some),
    };
    let found = poll(timeout, &mut probe).flatten();
    found.with_context(|| match (interrupted.get(), what.as_ref()) {
        (true, what) => format!("interrupted while waiting for {what}"),
        (false, what) => format!("waited {:.1} s in vain for {what}", timeout.as_secs_f64()),
    })
}

/// The same without regard to interruption, for the clean-up that follows one.
pub(crate) fn poll<T>(timeout: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let found = probe();
        if found.is_some() || start.elapsed() >= timeout {
            return found;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_what_the_probe_found() {
        let mut calls = 0;
        let found = wait_until(Duration::from_secs(5), "the third call", || {
            calls += 1;
            (calls == 3).then_some(calls)
        });
        assert_eq!(found.unwrap(), 3);
    }

    #[test]
    fn the_error_names_what_did_not_come() {
        let error = wait_until(Duration::ZERO, "a reply of 192.0.2.1", || None::<()>).unwrap_err();
        assert_eq!(
            error.to_string(),
            "waited 0.0 s in vain for a reply of 192.0.2.1"
        );
    }
}

//! Ctrl-C, turned into an early return of every wait.
//!
//! A signal handler may do next to nothing, so this one only raises a flag. The waits of this
//! crate read the flag, fail, and the error unwinds to [`Lab`](crate::Lab), whose drop cleans up.
//! A second signal ends the process at once; what it leaves, the next run sweeps.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Makes SIGINT, SIGTERM and SIGHUP raise the flag, wherever they still have their default
/// action. A program with handlers of its own keeps them and calls [`request`] from there.
pub fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            replace_default(signal);
        }
    });
}

/// True once the run has been asked to end.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Asks the run to end, as Ctrl-C does.
pub fn request() {
    REQUESTED.store(true, Ordering::Relaxed);
}

fn replace_default(signal: Signal) {
    // Without SA_RESTART: a blocking call returns EINTR, so that the flag is seen soon.
    // With SA_RESETHAND: the second signal meets the default action.
    let ours = SigAction::new(
        SigHandler::Handler(on_signal),
        SaFlags::SA_RESETHAND,
        SigSet::empty(),
    );
    // SAFETY: `on_signal` only stores to an atomic, which is async-signal-safe.
    let Ok(before) = (unsafe { sigaction(signal, &ours) }) else {
        return;
    };
    if !matches!(before.handler(), SigHandler::SigDfl) {
        // SAFETY: puts back the action that was in force a moment ago, unchanged.
        let _ = unsafe { sigaction(signal, &before) };
    }
}

extern "C" fn on_signal(_: libc::c_int) {
    request();
}

//! SIGINT and SIGTERM end a run early instead of losing what it has measured.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static STOP: AtomicBool = AtomicBool::new(false);

/// Installs the handlers and returns the flag they set.
///
/// A second signal has its default effect, so that an impatient user is obeyed.
pub fn stop_flag() -> nix::Result<&'static AtomicBool> {
    let action = SigAction::new(
        SigHandler::Handler(note),
        SaFlags::SA_RESETHAND,
        SigSet::empty(),
    );
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(&STOP)
}

extern "C" fn note(_signal: nix::libc::c_int) {
    STOP.store(true, Ordering::Relaxed);
}

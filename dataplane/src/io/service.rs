//! What the service manager is told (sd_notify(3)), and what it keeps for us: the
//! TUN's descriptor, so that the device stays open while no `matd` runs, and
//! packets wait in its queue instead of being dropped.
//!
//! Without a service manager nobody listens, and nothing fails.

use std::io;
use std::os::fd::BorrowedFd;

use sd_notify::NotifyState;

use super::inherit::TUN;

/// The daemon serves.
pub fn ready() {
    tell(sd_notify::notify(&[NotifyState::Ready]));
}

/// It is about to be replaced by its successor, and will be ready again.
pub fn reloading() {
    let now = NotifyState::monotonic_usec_now();
    tell(now.and_then(|now| sd_notify::notify(&[NotifyState::Reloading, now])));
}

/// It is about to end.
pub fn stopping() {
    tell(sd_notify::notify(&[NotifyState::Stopping]));
}

/// Keeps the TUN open for the next `matd`.
pub fn keep(tun: BorrowedFd<'_>) {
    let state = [NotifyState::FdStore, NotifyState::FdName(TUN)];
    tell(sd_notify::notify_with_fds(&state, &[tun]));
}

/// Lets go of the TUN: it will not be wanted any more.
pub fn forget() {
    let state = [NotifyState::FdStoreRemove, NotifyState::FdName(TUN)];
    tell(sd_notify::notify(&state));
}

fn tell(told: io::Result<()>) {
    if let Err(error) = told {
        tracing::warn!("the service manager cannot be told: {error}");
    }
}

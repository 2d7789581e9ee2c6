//! The thread that carries the frames of one direction.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::prctl;
use nix::sys::time::TimeSpec;

use super::WanCounters;
use super::line::{Admitted, Line, WanConfig};
use super::packet_socket::{MAX_FRAME, PacketSocket, VNET_HEADER};
use super::spoil::flip_payload_bit;

/// Frames taken from the socket before those that have become due are looked at again: about
/// 100 us of small frames, which bounds the error of the delay under load.
const BATCH: usize = 64;

/// What the shuttle and its owner both see.
#[derive(Debug)]
pub(super) struct Control {
    /// Tells the shuttle that something below has changed.
    wake: EventFd,
    changed: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    config: WanConfig,
    counters: WanCounters,
    stop: bool,
}

impl Control {
    pub(super) fn new(config: WanConfig) -> Result<Self> {
        Ok(Self {
            wake: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
                .context("cannot make an eventfd")?,
            changed: AtomicBool::new(false),
            state: Mutex::new(State {
                config,
                counters: WanCounters::default(),
                stop: false,
            }),
        })
    }

    pub(super) fn config(&self) -> WanConfig {
        self.state().config
    }

    pub(super) fn set_config(&self, config: WanConfig) {
        self.state().config = config;
        self.notify();
    }

    pub(super) fn counters(&self) -> WanCounters {
        self.state().counters
    }

    pub(super) fn stop(&self) {
        self.state().stop = true;
        self.notify();
    }

    fn notify(&self) {
        self.changed.store(true, Ordering::Release);
        // Fails only when the counter is full, and then the shuttle is being woken already.
        let _ = self.wake.write(1);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Carries frames until told to stop. An error means that the device or its namespace is gone.
pub(super) fn run(control: &Control, from: &PacketSocket, to: &Arc<PacketSocket>) -> Result<()> {
    // The default slack of 50 us would be added to every delay.
    prctl::set_timerslack(1)?;
    let origin = Instant::now();
    let mut line: Line<Vec<u8>> = Line::new(control.config());
    let mut counters = WanCounters::default();
    let mut buffer = vec![0; MAX_FRAME];
    loop {
        if control.changed.swap(false, Ordering::Acquire) {
            let (stop, config) = {
                let state = control.state();
                (state.stop, state.config)
            };
            if stop {
                return Ok(());
            }
            line.set_config(config);
        }

        while let Some(frame) = line.take_due(origin.elapsed()) {
            deliver(to, &frame, &mut counters);
        }
        let mut idle = false;
        for _ in 0..BATCH {
            let Some(length) = from.receive(&mut buffer)? else {
                idle = true;
                break;
            };
            let Some(frame) = buffer.get_mut(..length) else {
                counters.oversized += 1;
                continue;
            };
            let bytes = length.saturating_sub(VNET_HEADER);
            let now = origin.elapsed();
            let Ok(admitted) = line.admit(now, bytes) else {
                continue;
            };
            let Admitted {
                due,
                copy_due,
                spoil,
            } = admitted;
            if spoil.is_some_and(|number| flip_payload_bit(frame, number)) {
                counters.spoilt += 1;
            }
            if due <= now && line.next_due().is_none() {
                line.delivered(bytes);
                deliver(to, frame, &mut counters);
            } else {
                line.hold(due, bytes, frame.to_vec());
            }
            if let Some(due) = copy_due {
                line.hold(due, bytes, frame.to_vec());
            }
        }

        counters.line = line.counters();
        if idle {
            counters.overrun += u64::from(from.take_overruns()?);
        }
        control.state().counters = counters;
        if idle {
            let until_due = line
                .next_due()
                .map(|due| due.saturating_sub(origin.elapsed()));
            wait(from, &control.wake, until_due)?;
        }
    }
}

fn deliver(to: &PacketSocket, frame: &[u8], counters: &mut WanCounters) {
    if to.send(frame).is_err() {
        counters.refused += 1;
    }
}

/// Waits for a frame, a change or the time.
fn wait(socket: &PacketSocket, wake: &EventFd, timeout: Option<Duration>) -> Result<()> {
    let mut fds = [
        PollFd::new(socket.as_fd(), PollFlags::POLLIN),
        PollFd::new(wake.as_fd(), PollFlags::POLLIN),
    ];
    match ppoll(&mut fds, timeout.map(TimeSpec::from), None) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    // Emptied before `changed` is looked at, so that no change is missed and none wakes twice.
    match wake.read() {
        Ok(_) | Err(Errno::EAGAIN) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

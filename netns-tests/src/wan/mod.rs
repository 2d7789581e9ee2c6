//! A wide-area link: delay, jitter, loss, duplication, corruption, rate and cuts between two hosts.
//!
//! A namespace in the middle holds the far ends of two veth pairs; one thread for each direction
//! carries frames between them through packet sockets. `line` decides when each comes out and is
//! pure, and so is `spoil`, which flips a bit; `shuttle` is the thread; `packet_socket` the system
//! calls.
//!
//! netem would do the same in the kernel, but not every kernel has it, and its queue cannot be
//! replayed from a seed.
//!
//! # Limitations
//! - A super-packet (GSO) is one frame: delayed, counted and lost whole, so that loss is burstier
//!   than that of single packets, and its segments' headers are not charged to the rate. Turn the
//!   offloads of both hosts off where that matters.
//! - Timing is that of a thread in user space: tens of microseconds when the machine is idle,
//!   more when it is not.
//! - A VLAN tag that the kernel keeps beside the frame is lost.

mod line;
mod packet_socket;
mod shuttle;
mod spoil;

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Result, ensure};

use crate::host::Host;
use crate::link::{self, LinkOptions};
pub use line::{LineCounters, WanConfig};
use packet_socket::PacketSocket;
use shuttle::Control;

/// The middle must not be what limits a packet's size; this is the most a veth takes.
const MIDDLE_MTU: u32 = 65535;

/// What became of the frames of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WanCounters {
    /// As the link was configured to treat them.
    pub line: LineCounters,
    /// Never seen: the thread was too slow and the kernel's buffer full. Above zero, the machine
    /// was the bottleneck and not the configuration.
    pub overrun: u64,
    /// Longer than any frame should be, dropped.
    pub oversized: u64,
    /// Frames with a flipped bit; a copy of one is not counted again.
    pub spoilt: u64,
    /// Of those delivered, how many the device at the end did not take.
    pub refused: u64,
}

/// A handle to a wide-area link between hosts `a` and `b`, in the order given to
/// [`Lab::wan`](crate::Lab::wan). The lab owns the link.
#[derive(Clone, Debug)]
pub struct Wan(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    to_a: Arc<Control>,
    to_b: Arc<Control>,
    threads: Mutex<Vec<JoinHandle<Result<Result<()>>>>>,
}

impl Wan {
    pub(crate) fn connect(
        middle: &Host,
        (a, a_device): (&Host, &str),
        (b, b_device): (&Host, &str),
        config: WanConfig,
    ) -> Result<Self> {
        check(&config)?;
        // The middle takes no part in the traffic: it has no address, of either family.
        middle.sysctl("net.ipv6.conf.default.disable_ipv6", 1)?;
        for (host, device, end) in [(a, a_device, "to-a"), (b, b_device, "to-b")] {
            link::connect(host, device, middle, end, LinkOptions::default())?;
        }
        middle.ip(&format!(
            "link set dev to-a mtu {MIDDLE_MTU}
             link set dev to-b mtu {MIDDLE_MTU}"
        ))?;
        let (end_a, end_b) = middle.enter(|| {
            let open = |device| PacketSocket::open(device).map(Arc::new);
            Ok::<_, anyhow::Error>((open("to-a")?, open("to-b")?))
        })??;

        let to_a = Arc::new(Control::new(opposite(config))?);
        let to_b = Arc::new(Control::new(config)?);
        let carry = |control: &Arc<Control>, from: &Arc<PacketSocket>, to: &Arc<PacketSocket>| {
            let (control, from, to) = (control.clone(), from.clone(), to.clone());
            middle.thread(move || shuttle::run(&control, &from, &to))
        };
        let threads = vec![carry(&to_b, &end_a, &end_b), carry(&to_a, &end_b, &end_a)];
        Ok(Self(Arc::new(Inner {
            to_a,
            to_b,
            threads: Mutex::new(threads),
        })))
    }

    /// The present configuration (of the direction to `b`, should they differ).
    pub fn config(&self) -> WanConfig {
        self.0.to_b.config()
    }

    /// Changes both directions, from the next frame on. Fails on a value that makes no sense.
    pub fn set_config(&self, config: WanConfig) -> Result<()> {
        self.set_config_to_a(opposite(config))?;
        self.set_config_to_b(config)
    }

    /// Changes the direction from `b` to `a` alone.
    pub fn set_config_to_a(&self, config: WanConfig) -> Result<()> {
        check(&config)?;
        self.0.to_a.set_config(config);
        Ok(())
    }

    /// Changes the direction from `a` to `b` alone.
    pub fn set_config_to_b(&self, config: WanConfig) -> Result<()> {
        check(&config)?;
        self.0.to_b.set_config(config);
        Ok(())
    }

    /// Cuts the link in both directions: what is on the way is lost too.
    pub fn cut(&self) {
        self.set_up(false);
    }

    /// Joins a cut link again.
    pub fn restore(&self) {
        self.set_up(true);
    }

    /// The frames from `b` to `a`.
    pub fn counters_to_a(&self) -> WanCounters {
        self.0.to_a.counters()
    }

    /// The frames from `a` to `b`.
    pub fn counters_to_b(&self) -> WanCounters {
        self.0.to_b.counters()
    }

    /// Ends both threads; what is on the way is lost.
    pub(crate) fn stop(&self) {
        self.0.stop();
    }

    fn set_up(&self, up: bool) {
        for control in [&self.0.to_a, &self.0.to_b] {
            let config = control.config();
            control.set_config(WanConfig { up, ..config });
        }
    }
}

impl Inner {
    fn stop(&self) {
        self.to_a.stop();
        self.to_b.stop();
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            match thread.join() {
                Ok(Ok(Ok(()))) => {}
                Ok(Ok(Err(error)) | Err(error)) => eprintln!("wide-area link: {error:#}"),
                Err(_) => eprintln!("wide-area link: a thread panicked"),
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The two directions share all but their luck.
fn opposite(config: WanConfig) -> WanConfig {
    WanConfig {
        seed: !config.seed,
        ..config
    }
}

fn check(config: &WanConfig) -> Result<()> {
    for (name, value) in [
        ("delay_ms", config.delay_ms),
        ("jitter_ms", config.jitter_ms),
        ("buffer_ms", config.buffer_ms),
        ("rate_mbit", config.rate_mbit.unwrap_or(1.0)),
    ] {
        ensure!(
            value.is_finite() && value >= 0.0,
            "WanConfig::{name} = {value}: must be a number from 0 up"
        );
    }
    ensure!(
        config.rate_mbit != Some(0.0),
        "WanConfig::rate_mbit = 0: use `up: false` to cut the link, `None` for no limit"
    );
    for (name, share) in [
        ("loss", config.loss),
        ("duplicate", config.duplicate),
        ("corrupt", config.corrupt),
    ] {
        ensure!(
            (0.0..=1.0).contains(&share),
            "WanConfig::{name} = {share}: must be from 0 to 1"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_without_sense_is_named() {
        let config = WanConfig {
            loss: 5.0,
            ..WanConfig::default()
        };
        let error = check(&config).unwrap_err().to_string();
        assert_eq!(error, "WanConfig::loss = 5: must be from 0 to 1");
    }
}

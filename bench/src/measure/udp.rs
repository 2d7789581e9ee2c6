//! Datagrams as fast as they can be sent, one system call each at both ends.
//!
//! iperf3 has one size for all its flows, and does more for each datagram than to send it. Here
//! sender and receiver are two threads of this program, which do nothing else, and what the
//! receiver has got when the sender stops counts.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mat_netns::interrupt;

use crate::course::Course;
use crate::record::Transfer;

const PORT: u16 = 5301;

/// What is sent: datagrams of each flow in turn, each flow going through the sizes in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    flows: usize,
    /// Octets of payload.
    sizes: &'static [usize],
}

/// As small as those of iperf3 in [`Measure::Udp64`](crate::plan::Measure::Udp64).
pub const SMALL: Load = Load {
    flows: 1,
    sizes: &[64],
};

/// No two datagrams of a flow that follow one another have the same size: nothing to coalesce
/// but pairs, and the best case for nobody. The largest fits into every tunnel.
pub const MIXED: Load = Load {
    flows: 8,
    sizes: &[64, 1300, 128, 900, 256, 1200, 512, 200],
};

/// IP packets of 1400 bytes to this address.
pub fn large(to: &str) -> Load {
    Load {
        flows: 1,
        sizes: if to.contains(':') {
            &[1400 - 40 - 8]
        } else {
            &[1400 - 20 - 8]
        },
    }
}

impl Load {
    /// Flow and size of the n-th datagram.
    fn pick(&self, n: usize) -> (usize, usize) {
        let flow = n % self.flows;
        // Flows begin at different places, so that sizes differ from flow to flow as well.
        (flow, self.sizes[(n / self.flows + flow) % self.sizes.len()])
    }

    fn largest(&self) -> usize {
        self.sizes.iter().copied().max().unwrap_or(0)
    }
}

/// From left to right, for so many seconds.
pub fn run(course: &Course, load: &Load, seconds: u32) -> Result<Transfer> {
    let receiver = course
        .right
        .enter(|| UdpSocket::bind((course.to, PORT)))?
        .context("the receiver's socket")?;
    // So that the thread looks at its flag now and then.
    receiver.set_read_timeout(Some(Duration::from_millis(100)))?;
    let senders = course.left.enter(|| {
        let sockets = (0..load.flows).map(|_| {
            let socket = UdpSocket::bind((course.from, 0))?;
            socket.connect((course.to, PORT))?;
            Ok(socket)
        });
        sockets.collect::<std::io::Result<Vec<_>>>()
    })?;
    let senders = senders.context("the sender's sockets")?;

    let arrived = Arrived::default();
    let (sent, result) = thread::scope(|scope| {
        scope.spawn(|| arrived.count(&receiver, load.largest()));
        let sent = send(&senders, load, Duration::from_secs(seconds.into()));
        let result = arrived.transfer(sent.elapsed);
        arrived.stop.store(true, Relaxed);
        (sent, result)
    });
    ensure!(!interrupt::requested(), "interrupted");
    ensure!(result.bytes > 0, "no datagram arrived");
    Ok(Transfer {
        datagrams_sent: Some(sent.datagrams),
        ..result
    })
}

struct Sent {
    datagrams: u64,
    elapsed: Duration,
}

fn send(sockets: &[UdpSocket], load: &Load, time: Duration) -> Sent {
    /// Between two looks at the clock.
    const BURST: usize = 64;
    let payload = vec![0x5A; load.largest()];
    let start = Instant::now();
    let mut datagrams = 0;
    for n in 0.. {
        if n % BURST == 0 && (start.elapsed() >= time || interrupt::requested()) {
            break;
        }
        let (flow, size) = load.pick(n);
        // A full queue somewhere is what this is about: it was not sent, and that is all.
        datagrams += u64::from(sockets[flow].send(&payload[..size]).is_ok());
    }
    Sent {
        datagrams,
        elapsed: start.elapsed(),
    }
}

#[derive(Default)]
struct Arrived {
    bytes: AtomicU64,
    datagrams: AtomicU64,
    stop: AtomicBool,
}

impl Arrived {
    fn count(&self, socket: &UdpSocket, largest: usize) {
        let mut buffer = vec![0; largest];
        while !self.stop.load(Relaxed) {
            if let Ok(size) = socket.recv(&mut buffer) {
                self.bytes.fetch_add(size as u64, Relaxed);
                self.datagrams.fetch_add(1, Relaxed);
            }
        }
    }

    fn transfer(&self, elapsed: Duration) -> Transfer {
        let seconds = elapsed.as_secs_f64();
        let (bytes, datagrams) = (self.bytes.load(Relaxed), self.datagrams.load(Relaxed));
        Transfer {
            bytes,
            mbps: bytes as f64 * 8e-6 / seconds,
            datagrams: Some(datagrams),
            datagrams_per_s: Some(datagrams as f64 / seconds),
            ..Transfer::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixed_flows_never_send_the_same_size_twice_in_a_row() {
        let mut last = [0; 8];
        for n in 0..1000 {
            let (flow, size) = MIXED.pick(n);
            assert_ne!(size, last[flow]);
            last[flow] = size;
        }
    }

    #[test]
    fn flows_and_sizes_have_equal_shares() {
        let count = MIXED.flows * MIXED.sizes.len();
        let mut octets = [0; 8];
        for n in 0..count {
            let (flow, size) = MIXED.pick(n);
            octets[flow] += size;
        }
        let each: usize = MIXED.sizes.iter().sum();
        assert_eq!(octets, [each; 8]);
    }

    #[test]
    fn what_arrived_is_told_per_second() {
        let arrived = Arrived::default();
        arrived.bytes.store(1_000_000, Relaxed);
        arrived.datagrams.store(5_000, Relaxed);
        let transfer = arrived.transfer(Duration::from_secs(2));
        assert_eq!(transfer.mbps, 4.0);
        assert_eq!(transfer.datagrams_per_s, Some(2_500.0));
    }
}

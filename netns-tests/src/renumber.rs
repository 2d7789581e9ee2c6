//! A node whose address changes again and again while datagrams go both ways, a thousand a second:
//! how long nothing arrives after the new address is usable.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::testbed::{Locators, Options, Testbed};
use crate::{Host, wait_until};

const PORT: u16 = 5000;
/// Between two datagrams.
const PACE: Duration = Duration::from_millis(1);
/// Longer than any gap that is to be seen.
const BETWEEN: Duration = Duration::from_millis(2500);
/// What a change may take until data flows again.
const SOON: Duration = Duration::from_secs(10);

/// How the address changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The new one is there before the old one goes: make before break.
    Both,
    /// The old one goes first, and the default route with it.
    Replaced,
    /// The link is down for a moment; the address is another one when it is up again.
    Link,
}

/// All of them.
pub const CHANGES: [Change; 3] = [Change::Both, Change::Replaced, Change::Link];

/// What one kind of change did.
#[derive(Clone, Debug, Serialize)]
pub struct Series {
    /// How the address changed.
    pub change: Change,
    /// Round trip between the node and its peer, and the mapping service, in milliseconds.
    pub rtt_ms: f64,
    /// The longest gap after each change, of both directions, in milliseconds, ascending.
    pub gaps_ms: Vec<f64>,
    /// Datagrams that were lost in each change, of both directions, ascending.
    pub lost: Vec<u64>,
}

impl Series {
    /// Median, 95 % and longest.
    pub fn spread(&self) -> [f64; 3] {
        let last = self.gaps_ms.len().saturating_sub(1) as f64;
        [0.5, 0.95, 1.0].map(|share| {
            let at = (share * last).round() as usize;
            self.gaps_ms.get(at).copied().unwrap_or(f64::NAN)
        })
    }
}

/// So many changes of this kind.
///
/// # Errors
/// Data did not flow again after one of them.
pub fn run(change: Change, rtt_ms: f64, count: usize) -> Result<Series> {
    let bed = Testbed::new(Options {
        rtt_ms,
        ..Options::new()?
    })?;
    let user = bed.instance("user", 20, "c")?;
    let node = bed.node("node", 10, 0, Locators::Exclusive)?;
    node.host
        .sysctl("net.ipv4.conf.all.promote_secondaries", 1)?;
    let ended = Arc::new(AtomicBool::new(false));
    let flows = [
        Flow::start(&node.host, &node.home, &user.host, &user.home, &ended)?,
        Flow::start(&user.host, &user.home, &node.host, &node.home, &ended)?,
    ];
    let addresses = ["198.51.100.194", "198.51.100.195"];
    let (mut gaps_ms, mut lost) = (Vec::new(), Vec::new());
    wait_until(SOON, "datagrams both ways", || {
        flows.iter().all(|flow| flow.arrived() > 100).then_some(())
    })?;
    for n in 0..count {
        let (old, new) = (addresses[n % 2], addresses[(n + 1) % 2]);
        let before: Vec<u64> = flows.iter().map(Flow::missing).collect();
        let ip = |lines: String| node.host.ip(&lines).map(drop);
        let (add, del) = (
            format!("addr add {new}/28 dev eth0"),
            format!("addr del {old}/28 dev eth0"),
        );
        let route = "route replace default via 198.51.100.193";
        match change {
            Change::Both => ip(add)?,
            Change::Replaced => {
                ip(del.clone())?;
                ip(format!("{add}\n{route}"))?;
            }
            Change::Link => {
                ip(format!("link set dev eth0 down\n{del}"))?;
                ip(format!("link set dev eth0 up\n{add}\n{route}"))?;
            }
        }
        let usable = Instant::now();
        if change == Change::Both {
            ip(del)?;
        }
        wait_until(SOON, "datagrams both ways", || {
            let flowing = |flow: &Flow| flow.last() > Some(usable + BETWEEN);
            flows.iter().all(&flowing).then_some(())
        })
        .with_context(|| format!("change {n}, {change:?}, from {old} to {new}"))?;
        let gap = flows.iter().map(|flow| flow.gap_after(usable)).max();
        gaps_ms.push(gap.unwrap_or_default().as_secs_f64() * 1e3);
        let after = flows.iter().map(Flow::missing);
        lost.push(
            after
                .zip(before)
                .map(|(after, before)| after.saturating_sub(before))
                .sum(),
        );
    }
    ended.store(true, Ordering::Relaxed);
    for flow in flows {
        flow.end()?;
    }
    bed.lab.end()?;
    gaps_ms.sort_by(f64::total_cmp);
    lost.sort_unstable();
    Ok(Series {
        change,
        rtt_ms,
        gaps_ms,
        lost,
    })
}

/// Datagrams in one direction.
struct Flow {
    sent: Arc<AtomicU64>,
    arrivals: Arc<Mutex<Vec<Instant>>>,
    threads: [JoinHandle<io::Result<()>>; 2],
}

impl Flow {
    fn start(
        from: &Host,
        source: &str,
        to: &Host,
        target: &str,
        ended: &Arc<AtomicBool>,
    ) -> Result<Self> {
        let address =
            |text: &str, port| -> Result<SocketAddr> { Ok(SocketAddr::new(text.parse()?, port)) };
        let (source, target) = (address(source, 0)?, address(target, PORT)?);
        let receiver = to.enter(|| UdpSocket::bind(target))??;
        let sender = from.enter(|| UdpSocket::bind(source))??;
        receiver.set_read_timeout(Some(BETWEEN))?;
        let sent = Arc::new(AtomicU64::new(0));
        let arrivals = Arc::new(Mutex::new(Vec::new()));
        let (count, over) = (sent.clone(), ended.clone());
        let sending = thread::spawn(move || {
            let start = Instant::now();
            for n in 0u32.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let due = start + PACE * n;
                thread::sleep(due.saturating_duration_since(Instant::now()));
                // Without an address or route it cannot be sent, which is what is measured.
                let _ = sender.send_to(&[0; 64], target);
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        let (seen, over) = (arrivals.clone(), ended.clone());
        let receiving = thread::spawn(move || {
            let mut buffer = [0; 128];
            while !over.load(Ordering::Relaxed) {
                if receiver.recv(&mut buffer).is_ok() {
                    lock(&seen).push(Instant::now());
                }
            }
            Ok(())
        });
        Ok(Flow {
            sent,
            arrivals,
            threads: [sending, receiving],
        })
    }

    fn arrived(&self) -> usize {
        lock(&self.arrivals).len()
    }

    /// Sent, but not there, or not yet.
    fn missing(&self) -> u64 {
        let arrived = self.arrived() as u64;
        self.sent.load(Ordering::Relaxed).saturating_sub(arrived)
    }

    fn last(&self) -> Option<Instant> {
        lock(&self.arrivals).last().copied()
    }

    /// The longest time without an arrival, from `since` on: what was missed before does not count.
    fn gap_after(&self, since: Instant) -> Duration {
        let arrivals = lock(&self.arrivals);
        let after = arrivals.iter().copied().filter(|at| *at > since);
        let mut last = since;
        let gaps = after.map(|at| at - std::mem::replace(&mut last, at));
        gaps.max().unwrap_or(SOON)
    }

    fn end(self) -> Result<()> {
        for thread in self.threads {
            thread.join().expect("a flow does not panic")?;
        }
        Ok(())
    }
}

fn lock(arrivals: &Mutex<Vec<Instant>>) -> MutexGuard<'_, Vec<Instant>> {
    arrivals.lock().unwrap_or_else(PoisonError::into_inner)
}

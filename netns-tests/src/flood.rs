//! First contacts of 100,000 strangers, 10,000 a second, while an instance of the flooded site
//! receives over TCP: what that costs beside the same packets to a port where they are dropped.
//!
//! The strangers' addresses are forged, in a prefix where locators may be; each contact names
//! homes that exist, so that the forwarder cannot tell it from a real one without asking.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mat_proto::auth::Token;
use mat_proto::message::{Message, Pair};
use mat_proto::{Epoch, Modes};
use serde::Serialize;
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

use crate::testbed::{Instance, Options, STRANGERS, Testbed};
use crate::{Cmd, Host};

/// Contacts a second.
pub const RATE: u32 = 10_000;
/// How many strangers take turns.
const SOURCES: u32 = 100_000;
/// Where everything is dropped.
const DISCARD: u16 = 9;
/// The control port.
const CONTROL: u16 = 6283;
/// In one go: a thread cannot wait for a tenth of a millisecond.
const BURST: u32 = 20;

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long each transfer takes, in seconds.
    pub seconds: u32,
    /// How many transfers of each kind, in turn.
    pub rounds: u32,
    /// What the sender sends at most, in Mbit/s; 0: as fast as it can.
    pub mbits: u32,
}

/// A transfer under a flood, or without one.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// Mbit/s without a flood.
    pub quiet: f64,
    /// Mbit/s while the same packets are dropped at another port.
    pub dropped: f64,
    /// Mbit/s while they are first contacts.
    pub contacts: f64,
}

/// What became of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// `mat.flood/1`.
    pub schema: &'static str,
    /// What the sender sent at most, in Mbit/s; 0: as fast as it could.
    pub mbits: u32,
    /// Packets of the last flood that were really sent, a second.
    pub rate: f64,
    /// In their order.
    pub rounds: Vec<Round>,
    /// Memory of the flooded forwarder before and after, in KiB.
    pub memory_kib: [u64; 2],
    /// What it counted, by cause.
    pub counters: Value,
    /// Control messages it sent, and received.
    pub messages: [u64; 2],
}

impl Report {
    /// Median over the rounds: throughput under contacts as a share of that under drops.
    pub fn ratio(&self) -> f64 {
        let mut ratios: Vec<f64> = self.rounds.iter().map(|r| r.contacts / r.dropped).collect();
        ratios.sort_by(f64::total_cmp);
        ratios.get(ratios.len() / 2).copied().unwrap_or(0.0)
    }
}

/// Floods site a.
///
/// # Errors
/// A transfer broke, or nothing could be measured.
pub fn run(settings: Settings) -> Result<Report> {
    let bed = Testbed::new(Options::new()?)?;
    let web = bed.instance("web", 10, "a")?;
    let user = bed.instance("user", 20, "c")?;
    // What is answered to strangers ends there, at once: it is another machine's work.
    bed.router.nft(&format!(
        "table inet strangers {{
            chain arriving {{
                type filter hook prerouting priority -400
                ip daddr {STRANGERS} drop
            }}
        }}"
    ))?;
    let site = bed.site("a");
    site.host.nft(&format!(
        "table inet flood {{
            counter sent {{ }}
            counter got {{ }}
            chain arriving {{
                type filter hook prerouting priority -400
                udp dport {DISCARD} drop
                iifname eth0 udp dport {CONTROL} counter name got
            }}
            chain leaving {{
                type filter hook postrouting priority -400
                oifname eth0 udp sport {CONTROL} counter name sent
            }}
        }}"
    ))?;
    // Without this the kernel lets packets of a flow overtake each other where a thread changes
    // its processor, and TCP takes that for loss: what is measured is to be the forwarder.
    let hosts = [
        &bed.router,
        &site.host,
        &bed.site("c").host,
        &web.host,
        &user.host,
        &bed.plain,
    ];
    for host in hosts {
        host.run(Cmd::new("sh").args(["-c", "for d in $(ip -o link show type veth | cut -d: -f2 | cut -d@ -f1); do ethtool -K $d gro on; done"]))?;
    }
    let server = web.host.spawn("iperf3 -s --forceflush")?;
    server.wait_for_log("listening", Duration::from_secs(5))?;

    let to_contacts = SocketAddr::new(site.spec.locator(1).parse()?, CONTROL);
    let to_discard = SocketAddr::new(site.spec.gateway().parse()?, DISCARD);
    let before = site.matd.memory_kib()?;
    let (mut rounds, mut rate) = (Vec::new(), 0.0);
    for _ in 0..settings.rounds {
        let quiet = transfer(&user, &web, settings)?;
        let flood = Flood::start(&bed.plain, to_discard)?;
        let dropped = transfer(&user, &web, settings)?;
        flood.end()?;
        let flood = Flood::start(&bed.plain, to_contacts)?;
        let contacts = transfer(&user, &web, settings)?;
        rate = flood.end()?;
        rounds.push(Round {
            quiet,
            dropped,
            contacts,
        });
    }
    let count = |name: &str| -> Result<u64> {
        let text = site
            .host
            .run(format!("nft -j list counter inet flood {name}"))?;
        let listed: Value = serde_json::from_str(&text)?;
        let counter = listed["nftables"].as_array().into_iter().flatten();
        let mut packets = counter.filter_map(|c| c["counter"]["packets"].as_u64());
        packets.next().context("no such counter")
    };
    let report = Report {
        schema: "mat.flood/1",
        mbits: settings.mbits,
        rate,
        rounds,
        memory_kib: [before, site.matd.memory_kib()?],
        counters: bed.status("a")?["counters"].clone(),
        messages: [count("sent")?, count("got")?],
    };
    bed.lab.end()?;
    Ok(report)
}

/// Mbit/s that an instance receives.
fn transfer(from: &Instance, to: &Instance, settings: Settings) -> Result<f64> {
    let Settings { seconds, mbits, .. } = settings;
    let iperf = Cmd::new("iperf3")
        .words("-J -C cubic -c")
        .arg(&to.home)
        .words(&format!("-t {seconds} -b {mbits}M"));
    let report: Value = serde_json::from_str(
        &from
            .host
            .run(iperf.timeout(Duration::from_secs(u64::from(seconds) + 20)))?,
    )?;
    let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(bits.context("iperf3 gives no rate")? / 1e6)
}

/// A thread that floods until it is told to end.
struct Flood {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<Result<f64>>,
}

impl Flood {
    fn start(host: &Host, to: SocketAddr) -> Result<Self> {
        let raw = Some(Protocol::from(libc::IPPROTO_RAW));
        let socket = host.enter(|| Socket::new(Domain::IPV4, Type::RAW, raw))??;
        let ended = Arc::new(AtomicBool::new(false));
        let seen = ended.clone();
        let thread = thread::spawn(move || {
            let start = Instant::now();
            let mut sent = 0;
            while !seen.load(Ordering::Relaxed) {
                let due = (start.elapsed().as_secs_f64() * f64::from(RATE)) as u32;
                // Beyond a moment nothing is made up for.
                for n in sent.max(due.saturating_sub(RATE / 20))..due {
                    socket.send_to(&contact(n, to)?, &to.into())?;
                }
                sent = due;
                thread::sleep(Duration::from_secs(1) * BURST / RATE);
            }
            Ok(f64::from(sent) / start.elapsed().as_secs_f64())
        });
        Ok(Flood { ended, thread })
    }

    /// Packets a second.
    fn end(self) -> Result<f64> {
        self.ended.store(true, Ordering::Relaxed);
        let rate = self.thread.join().expect("flooding does not panic")?;
        ensure!(
            rate > f64::from(RATE) / 2.0,
            "only {rate:.0} packets a second"
        );
        Ok(rate)
    }
}

/// The n-th contact: an IPv4 packet from another address, or port, than those before it.
fn contact(n: u32, to: SocketAddr) -> Result<Vec<u8>> {
    let source = n % SOURCES;
    let [_, _, high, low] = source.to_be_bytes();
    let from = Ipv4Addr::new(198, 19, high, low);
    let [port, _] = [CONTROL + (source >> 16) as u16, 0].map(u16::to_be_bytes);
    let home = format!("192.0.2.{}", 1 + n % 200).parse()?;
    let mut token = [0; 16];
    token[..4].copy_from_slice(&n.to_be_bytes());
    let message = Message::Open {
        pair: Pair {
            from: home,
            to: "192.0.2.10".parse()?,
        },
        versions: (1, 1),
        modes: Modes::NATIVE,
        resume: n.is_multiple_of(2),
        from_epoch: Epoch(u64::MAX >> 8),
        to_epoch: Epoch(0),
        token: Token(token),
        cookie: Token([0; 16]),
    }
    .encode();
    let SocketAddr::V4(to) = to else {
        unreachable!("the flood is IPv4");
    };
    let datagram = (8 + message.len() as u16).to_be_bytes();
    let length = (28 + message.len() as u16).to_be_bytes();
    let [high, low] = to.port().to_be_bytes();
    // The kernel writes the header's checksum; the datagram has none.
    let head = [0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, 17, 0, 0];
    let udp = [port[0], port[1], high, low, datagram[0], datagram[1], 0, 0];
    Ok([&head[..], &from.octets(), &to.ip().octets(), &udp, &message].concat())
}

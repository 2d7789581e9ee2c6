//! What one packet into or out of a TUN costs: by a system call of its own, by an io_uring that
//! takes a batch in one call, and its share of a joined packet.
//!
//! Packets are read that a socket has sent into the TUN before, and written packets are forwarded
//! by the kernel into another TUN, whose queue is full. One thread, nothing else running: it is the
//! price of a packet without waiting and waking.

use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use io_uring::IoUring;
use mat_bench::stats::Summary;
use mat_dataplane::config::TunConfig;
use mat_dataplane::frame::Offload;
use mat_dataplane::io::tun::Tun;
use mat_dataplane::rewrite::{build, checksum};
use mat_netns::Lab;
use mat_netns::results::{self, Keep};
use serde::Serialize;
use serde_json::Value;

/// As many as a data thread handles at once.
const BATCH: usize = 64;
/// They fit into the TUN's queue.
const PACKETS: usize = BATCH * 125;
const PAYLOAD: usize = 64;
const UDP: usize = 8;
const HEADERS: usize = 20 + UDP;
const ROOM: usize = 2048;

/// Measures reads and writes of a TUN, in a network namespace (needs root; see scripts/privileged).
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Rounds; every way has its turn in each
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(6..=1000))]
    rounds: u32,
    #[command(flatten)]
    keep: Keep,
}

/// One way, and what it took in each round.
#[derive(Debug, Serialize)]
struct Way {
    name: &'static str,
    /// For one packet, in ns.
    ns: Vec<f64>,
}

#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    ways: [Way; 5],
}

fn main() -> ExitCode {
    results::exit("mat-bench-calls", run(&Args::parse()))
}

fn run(args: &Args) -> Result<bool> {
    let lab = Lab::new()?;
    let host = lab.host("calls")?;
    let open = |name: &str| -> Result<Tun> {
        let config = TunConfig {
            name: name.to_owned(),
            mtu: 1500,
            offload: true,
            coalesce: true,
            queues: 1,
        };
        Ok(host.enter(|| Tun::open(&config))??)
    };
    let (tun, _nobody_reads) = (open("mat0")?, open("gone")?);
    host.forwarding()?;
    // Nothing of the kernel's own.
    host.sysctl("net.ipv6.conf.mat0.disable_ipv6", 1)?;
    host.ip("address add 198.18.0.1/24 dev mat0
         link set mat0 txqueuelen 10000 up
         address add 203.0.113.1/24 dev gone
         link set gone txqueuelen 1 up")?;
    let socket = host.enter(|| UdpSocket::bind("198.18.0.1:0"))??;
    let mut bench = Bench {
        ring: ring::Batch::new(&tun)
            .context("no io_uring here: it takes Linux 6.1, and kernel.io_uring_disabled = 0")?,
        tun,
        socket,
        room: vec![0; BATCH * ROOM],
    };
    let names = [
        "read",
        "io_uring, read",
        "write",
        "io_uring, write",
        "joined, write",
    ];
    let mut ways = names.map(|name| Way {
        name,
        ns: Vec::new(),
    });
    for _ in 0..args.rounds {
        let round = [
            bench.read()?,
            bench.read_batches()?,
            bench.write()?,
            bench.write_batches()?,
            bench.write_joined()?,
        ];
        for (way, ns) in ways.iter_mut().zip(round) {
            way.ns.push(ns);
        }
    }
    // The others have the kernel's whole way behind them.
    let seen: Value = serde_json::from_str(&host.run("ip -json -s link show gone")?)?;
    let dropped = seen[0]["stats64"]["tx"]["dropped"].as_u64();
    let singly = u64::from(args.rounds) * PACKETS as u64 * 2;
    ensure!(
        dropped >= Some(singly),
        "{dropped:?} packets of {singly} were forwarded"
    );
    println!("| a packet of {PAYLOAD} octets of payload | ns, median [95 % interval] |\n|---|---|");
    for way in &ways {
        let Some(Summary {
            median,
            interval: Some((low, high)),
            ..
        }) = Summary::of(&way.ns)
        else {
            continue;
        };
        println!("| {} | {median:.0} [{low:.0}, {high:.0}] |", way.name);
    }
    args.keep.write(&Report {
        schema: "mat.calls/1",
        ways,
    })?;
    drop(bench);
    lab.end()?;
    Ok(true)
}

struct Bench {
    tun: Tun,
    ring: ring::Batch,
    socket: UdpSocket,
    room: Vec<u8>,
}

impl Bench {
    /// Fills the TUN's queue.
    fn fill(&mut self) -> Result<()> {
        while self.tun.recv(&mut self.room)?.is_some() {}
        for _ in 0..PACKETS {
            self.socket.send_to(&[0; PAYLOAD], "198.18.0.5:9")?;
        }
        Ok(())
    }

    fn read(&mut self) -> Result<f64> {
        self.fill()?;
        let (start, mut count) = (Instant::now(), 0);
        let mut places = (0..BATCH).cycle();
        while let Some(place) = places.next()
            && self
                .tun
                .recv(&mut self.room[place * ROOM..][..ROOM])?
                .is_some()
        {
            count += 1;
        }
        each(start, count)
    }

    fn read_batches(&mut self) -> Result<f64> {
        self.fill()?;
        let (start, mut count) = (Instant::now(), 0);
        loop {
            let came = self.ring.read(&mut self.room, ROOM)?;
            count += came;
            if came < BATCH {
                return each(start, count);
            }
        }
    }

    fn write(&mut self) -> Result<f64> {
        let frame = frame(1)?;
        let start = Instant::now();
        for _ in 0..PACKETS {
            self.tun.send(&[IoSlice::new(&frame)])?;
        }
        each(start, PACKETS)
    }

    fn write_batches(&mut self) -> Result<f64> {
        let frame = frame(1)?;
        let start = Instant::now();
        let mut count = 0;
        while count < PACKETS {
            count += self.ring.write(&frame)?;
        }
        each(start, count)
    }

    fn write_joined(&mut self) -> Result<f64> {
        let frame = frame(BATCH)?;
        let start = Instant::now();
        for _ in 0..PACKETS / BATCH {
            self.tun.send(&[IoSlice::new(&frame)])?;
        }
        each(start, PACKETS)
    }
}

fn each(start: Instant, count: usize) -> Result<f64> {
    let ns = start.elapsed().as_nanos() as f64;
    ensure!(count == PACKETS, "{count} packets instead of {PACKETS}");
    Ok(ns / count as f64)
}

/// So many datagrams that this host forwards, in one frame, with the header of virtio-net
/// before it (virtio 1.2, 5.1.6): as MAT writes them.
fn frame(datagrams: usize) -> Result<Vec<u8>> {
    const GSO_UDP_L4: u8 = 5;
    const NEEDS_CHECKSUM: u8 = 1;
    let (from, to): (SocketAddr, SocketAddr) = ("198.18.0.7:9".parse()?, "203.0.113.9:9".parse()?);
    let payload = vec![0; datagrams * PAYLOAD];
    let mut packet = vec![0; HEADERS + payload.len()];
    build::udp(&mut packet, from, to, &payload)?;
    let mut header = [0; Offload::LEN];
    if datagrams > 1 {
        header[..2].copy_from_slice(&[NEEDS_CHECKSUM, GSO_UDP_L4]);
        for (at, value) in [(2, HEADERS), (4, PAYLOAD), (6, HEADERS - UDP), (8, 6)] {
            header[at..at + 2].copy_from_slice(&(value as u16).to_ne_bytes());
        }
        let length = (UDP + payload.len()) as u32;
        let sum = checksum::pseudo_header(from.ip(), to.ip(), 17, length);
        packet[26..28].copy_from_slice(&sum.to_be_bytes());
    }
    Ok([&header[..], &packet].concat())
}

/// A batch of reads or writes in one system call. The only unsafe code here.
mod ring {
    use super::*;
    use io_uring::squeue::Entry;
    use io_uring::{opcode, types};

    pub struct Batch(IoUring);

    impl Batch {
        /// Of this TUN, which must not be closed before.
        pub fn new(tun: &Tun) -> Result<Self> {
            let ring: IoUring = IoUring::builder()
                .setup_single_issuer()
                .setup_defer_taskrun()
                .build(BATCH as u32)?;
            let descriptor = tun.as_fd().as_raw_fd();
            ring.submitter().register_files(&[descriptor])?;
            Ok(Batch(ring))
        }

        /// Reads at most a batch, each into its `step` octets of `room`; how many came.
        pub fn read(&mut self, room: &mut [u8], step: usize) -> Result<usize> {
            let reads = room.chunks_exact_mut(step).map(|place| {
                opcode::Read::new(types::Fixed(0), place.as_mut_ptr(), place.len() as u32)
                    .rw_flags(libc::RWF_NOWAIT)
                    .build()
            });
            let reads: Vec<Entry> = reads.take(BATCH).collect();
            // SAFETY: each place is written by one read, and all end before this returns.
            unsafe { self.submit(&reads) }
        }

        /// Writes `frame` as often as a batch has frames.
        pub fn write(&mut self, frame: &[u8]) -> Result<usize> {
            let write = opcode::Write::new(types::Fixed(0), frame.as_ptr(), frame.len() as u32);
            let writes = vec![write.build(); BATCH];
            // SAFETY: the frame is only read, and all writes end before this returns.
            let done = unsafe { self.submit(&writes) }?;
            ensure!(done == BATCH, "{done} written instead of {BATCH}");
            Ok(done)
        }

        /// How many have not failed, when all have ended.
        ///
        /// # Safety
        /// What the entries point to must be valid until this returns.
        unsafe fn submit(&mut self, entries: &[Entry]) -> Result<usize> {
            // SAFETY: the caller's promise; all of them are waited for below.
            unsafe { self.0.submission().push_multiple(entries) }?;
            let mut ended = Vec::with_capacity(entries.len());
            while ended.len() < entries.len() {
                match self.0.submit_and_wait(entries.len() - ended.len()) {
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    // None has been taken, then.
                    result => drop(result?),
                }
                ended.extend(self.0.completion().map(|entry| entry.result()));
            }
            Ok(ended.iter().filter(|result| **result > 0).count())
        }
    }
}

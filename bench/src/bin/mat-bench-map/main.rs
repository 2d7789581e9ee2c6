//! The mapping service beside BIND and Knot: the same zone, the same questions and signed updates
//! (dnsperf), the same processors, in turns within one run.
//!
//! | file | what it holds |
//! |---|---|
//! | `servers` | each server: its configuration, how it starts |
//! | `load` | zone, questions and updates; dnsperf and what it says |
//! | `ceiling` | a server that does nothing: what dnsperf itself can do here |
//! | `growth` | what mat-mapd takes of disk and memory over millions of updates |
//! | `report` | medians and ratios as a table |
//!
//! Every server has its own default durability: an update is answered when it is on disk. Knot is
//! measured once more with its journal alone: as it comes it writes the zone file, too.
//!
//! # Limitations
//! Servers and dnsperf share the machine's processors, so figures are ratios within one run.

mod ceiling;
mod growth;
mod load;
mod report;
mod servers;

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use mat_bench::stats::percentile;
use mat_netns::results::{self, Keep};
use mat_netns::{Host, Lab};
use serde::{Deserialize, Serialize};

use load::{Load, Said};
use servers::Seat;

/// Few outstanding updates, and many.
const OUTSTANDING: [u32; 2] = [50, 1000];

/// Measures mat-mapd beside BIND and Knot, in a network namespace (needs root; see
/// scripts/privileged). `scripts/dns-servers` fetches the others.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Bindings in the zone
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    bindings: u32,
    /// How often each server has its turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long each measurement takes, in seconds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// mat-mapd alone
    #[arg(long)]
    alone: bool,
    /// Nothing of that, but what mat-mapd takes of disk and memory over so many updates
    #[arg(long, value_name = "UPDATES")]
    growth: Option<u64>,
    #[command(flatten)]
    keep: Keep,
}

/// One server's turn.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Turn {
    /// The server.
    pub server: Seat,
    /// From its start to its first answer, in seconds.
    pub start: f64,
    /// Resident memory then, in KiB.
    pub memory_kib: u64,
    /// Questions as fast as they are answered.
    pub queries: Said,
    /// 99th percentile of the time to an answer at 10,000 questions a second, in ms.
    pub query_p99_ms: f64,
    /// The same while 1000 updates a second are carried out.
    pub query_p99_busy_ms: f64,
    /// Signed updates with 50 and with 1000 outstanding.
    pub updates: [Said; 2],
    /// 99th percentile of the time to an answer at half of the latter rate, in ms.
    pub update_p99_ms: f64,
}

/// Everything that was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// `mat.mapping/1`.
    pub schema: String,
    /// Bindings in the zone.
    pub bindings: u32,
    /// What the disk takes to have 512 octets for good, in ms: median and 99th percentile.
    pub sync_ms: [f64; 2],
    /// Signed updates, with 50 and with 1000 outstanding, that a server answers which does nothing
    /// else; once a round.
    #[serde(default)]
    pub ceiling: Vec<[Said; 2]>,
    /// In their order.
    pub turns: Vec<Turn>,
}

fn main() -> ExitCode {
    results::exit("mat-bench-map", run(&Args::parse()))
}

/// Measures; nothing here can be wrong.
fn run(args: &Args) -> Result<bool> {
    let lab = Lab::new()?;
    let host = lab.host("dns")?;
    if let Some(updates) = args.growth {
        let growth = growth::measure(&lab, &host, args.bindings, updates)?;
        args.keep.write(&growth)?;
        lab.end()?;
        return Ok(true);
    }
    let load = Load::new(&lab, args.bindings, args.seconds)?;
    let mut report = Report {
        schema: "mat.mapping/1".to_owned(),
        bindings: args.bindings,
        sync_ms: sync_times(lab.dir())?,
        ceiling: Vec::new(),
        turns: Vec::new(),
    };
    let seats = if args.alone {
        &Seat::ALL[..1]
    } else {
        &Seat::ALL[..]
    };
    for round in 0..args.rounds as usize {
        let most = ceiling::measure(&host, &load)?;
        println!(
            "a server that does nothing: {:.0} and {:.0} updates/s with {OUTSTANDING:?} outstanding",
            most[0].rate, most[1].rate
        );
        report.ceiling.push(most);
        // Each time somebody else begins.
        for n in 0..seats.len() {
            let seat = seats[(round + n) % seats.len()];
            let turn = turn(&lab, &host, &load, seat)
                .with_context(|| format!("round {}, {seat:?}", round + 1))?;
            println!("{}", report::line(&turn));
            report.turns.push(turn);
        }
    }
    println!("\n{}", report::table(&report));
    args.keep.write(&report)?;
    lab.end()?;
    Ok(true)
}

fn turn(lab: &Lab, host: &Host, load: &Load, seat: Seat) -> Result<Turn> {
    let folder = lab.dir().join(format!("{seat:?}").to_lowercase());
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir(&folder)?;
    let prepared = seat.prepare(host, &folder, load)?;
    let begun = Instant::now();
    let server = host.spawn(prepared)?;
    load.wait_for_answer(host)?;
    let start = begun.elapsed().as_secs_f64();
    let memory_kib = server.memory_kib()?;

    let queries = load.queries(host)?;
    let query_p99_ms = load.query_p99(host)?;
    let (pace, updating) = load.begin_updates(host, 1000)?;
    let query_p99_busy_ms = load.query_p99(host)?;
    updating
        .wait_success(Duration::from_secs(60))
        .context(pace)?;
    let mut updates = Vec::new();
    for outstanding in OUTSTANDING {
        updates.push(load.updates(host, outstanding)?);
    }
    let [few, many]: [Said; 2] = updates.try_into().expect("as many as were asked for");
    let update_p99_ms = load.update_p99(host, many.rate / 2.0)?;
    server.stop(Duration::from_secs(60))?;
    Ok(Turn {
        server: seat,
        start,
        memory_kib,
        queries,
        query_p99_ms,
        query_p99_busy_ms,
        updates: [few, many],
        update_p99_ms,
    })
}

/// What the disk takes to keep a little, 200 times: median and 99th percentile, in ms.
fn sync_times(folder: &Path) -> Result<[f64; 2]> {
    let path: PathBuf = folder.join("sync");
    let mut file = File::create(&path)?;
    let mut times = Vec::new();
    for _ in 0..200 {
        let begun = Instant::now();
        file.write_all(&[7; 512])?;
        file.sync_data()?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    std::fs::remove_file(path)?;
    let of = |percent| percentile(&times, percent).unwrap_or_default();
    Ok([of(50.0), of(99.0)])
}

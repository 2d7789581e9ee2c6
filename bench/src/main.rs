//! Side-by-side runs: what a forwarder costs, next to the bare wire, the kernel's own forwarding
//! and other forwarders, on the same processors in the same minute.
//!
//! Absolute figures say more about the machine and its load than about the program, so all
//! contenders take turns within each round, in another order each time, and what is reported is
//! the ratio to the bare veth *of the same round*, as median with a 95 % interval.
//!
//! | file | what it holds |
//! |---|---|
//! | `contender` | who takes part |
//! | `plan` | what is measured, how often and in which order |
//! | `course` | the networks, one kind of contender a file |
//! | `measure` | one measurement of one contender |
//! | `run` | the rounds |
//! | `record` | raw results (JSON, one record a line) |
//! | `stats` | medians, intervals, comparisons within rounds |
//! | `report` | the tables (Markdown) and the plots (SVG) |
//! | `machine`, `tools` | on what it was measured, and where the programs are |
//!
//! Who is missing on a machine (a program, a feature of the kernel, a key that this `matd` does
//! not know) is left out, and the results say so. `scripts/bench-tools` fetches the other
//! forwarders.
//!
//! The micro-benchmarks in `benches/` share nothing with this program and need no privileges.
//!
//! # Limitations
//! - Sender, receiver and both forwarders share one machine and its processors: a forwarder on a
//!   machine of its own has more room than here.
//! - Whatever else the machine does meanwhile is in the figures, also in the processor time. The
//!   load average before each measurement is in the raw results.
//! - iperf3 before 3.16 has one thread for all streams.
//! - A wide-area link is a process of ours that carries frames (see `mat_netns::wan`): it is in
//!   the processor time, and may be what limits a stream.

mod contender;
mod course;
mod machine;
mod measure;
mod plan;
mod record;
mod report;
mod run;
mod tools;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, anyhow};
use clap::Parser;

use mat_bench::stats;

use machine::Machine;
use plan::{Conditions, Family, Measure, Plan, SetUp, Wishes};
use record::Run;

/// Measures MAT beside the bare wire, the kernel and other forwarders, in network namespaces
/// (needs root; see scripts/privileged).
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// The short form: four contenders, three measures, 6 rounds of 1 second; some four minutes
    #[arg(long)]
    quick: bool,
    /// IPv6 instead of IPv4
    #[arg(long)]
    ipv6: bool,
    /// Round trip of the link in ms; over a wide-area link one TCP stream of 10 s is measured,
    /// unless told otherwise
    #[arg(long, value_name = "MS", default_value_t = 0.0, value_parser = rtt)]
    rtt: f64,
    /// Bottleneck of a wide-area link, with a buffer of 100 ms [default: none]
    #[arg(long, value_name = "MBIT", value_parser = rate)]
    rate: Option<f64>,
    /// Processes that are busy meanwhile: what it is like on a host with other work to do
    #[arg(long, value_name = "COUNT", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1000))]
    busy: u32,
    /// These contenders only, and direct veth
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    only: Option<Vec<String>>,
    /// These measures only
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    measures: Option<Vec<Measure>>,
    /// One set-up only: super-packets cross the veth, or packets of 1500 bytes as on a wire
    #[arg(long)]
    set_up: Option<SetUp>,
    /// Rounds; every contender has its turn in each [default: 15]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Length of one transfer, in seconds [default: 2]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: Option<u32>,
    /// Decides the order within the rounds [default: another one each time]
    #[arg(long)]
    seed: Option<u64>,
    /// Folder of the results, made if missing; results of other runs in it are kept and stand in
    /// the same tables [default: bench/results/DATE-HOST]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Measures nothing; makes tables and plots again from the raw results in this folder
    #[arg(long, value_name = "DIR", exclusive = true)]
    render: Option<PathBuf>,
}

fn rtt(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(ms) if (0.0..=10_000.0).contains(&ms) => Ok(ms),
        _ => Err("milliseconds from 0 to 10000".to_owned()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(mbit) if (1.0..=1e6).contains(&mbit) => Ok(mbit),
        _ => Err("Mbit/s from 1 to 1000000".to_owned()),
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match &args.render {
        Some(folder) => show(folder),
        None => measure(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mat-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn show(folder: &Path) -> Result<()> {
    println!("{}", report::render(folder)?);
    eprintln!("Tables, plots and raw results: {}", folder.display());
    Ok(())
}

fn measure(args: &Args) -> Result<()> {
    let conditions = Conditions {
        rtt_ms: args.rtt,
        rate_mbit: args.rate,
        busy: args.busy,
    };
    let wishes = Wishes {
        quick: args.quick,
        far: conditions.is_far(),
        only: args.only.clone(),
        measures: args.measures.clone(),
        set_up: args.set_up,
        rounds: args.rounds,
        seconds: args.seconds,
    };
    let plan = Plan::new(&wishes).map_err(|error| anyhow!(error))?;
    let run = circumstances(args, &plan, conditions)?;
    let folder = args.out.clone().unwrap_or_else(|| {
        let date = run.started.split('T').next().unwrap_or_default();
        Path::new("bench/results").join(format!("{date}-{}", run.machine.slug()))
    });
    let done = run::run(&plan, run, &folder);
    // Also after an interruption: what was measured is there.
    let shown = show(&folder);
    done.and(shown)
}

fn circumstances(args: &Args, plan: &Plan, conditions: Conditions) -> Result<Run> {
    let build = if cfg!(debug_assertions) {
        eprintln!("mat-bench: a debug build: the figures mean little. Use --release.");
        "debug"
    } else {
        "release"
    };
    let command: Vec<String> = std::env::args().skip(1).collect();
    Ok(Run {
        schema: record::SCHEMA.to_owned(),
        command: format!("mat-bench {}", command.join(" ")).trim().to_owned(),
        started: machine::utc()?,
        machine: Machine::here()?,
        load_at_start: machine::load()?,
        build: build.to_owned(),
        commit: machine::commit(),
        family: if args.ipv6 {
            Family::Ipv6
        } else {
            Family::Ipv4
        },
        conditions,
        rounds: plan.rounds,
        seconds: plan.seconds,
        seed: args.seed.unwrap_or_else(seed),
    })
}

/// Another one each time; which one is in the results.
fn seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |time| u64::from(time.subsec_nanos()))
}

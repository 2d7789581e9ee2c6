//! Floods a forwarder with first contacts while an instance behind it receives. See
//! [`mat_netns::flood`].

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use mat_netns::flood::{self, RATE, Settings};
use mat_netns::results::{self, Keep};

/// 10,000 first contacts a second in network namespaces (needs root; see scripts/privileged).
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// How long each flood takes, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// How many rounds of three transfers
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// What the sender sends at most, in Mbit/s; 0: as fast as it can
    #[arg(long, default_value_t = 0)]
    mbits: u32,
    #[command(flatten)]
    keep: Keep,
}

fn main() -> ExitCode {
    results::exit("mat-flood", run(&Args::parse()))
}

/// Measures; nothing here can be wrong.
fn run(args: &Args) -> Result<bool> {
    let report = flood::run(Settings {
        seconds: args.seconds,
        rounds: args.rounds,
        mbits: args.mbits,
    })?;
    println!("Mbit/s: no flood, {RATE} packets a second dropped, as many first contacts");
    for round in &report.rounds {
        println!(
            "{:7.0} {:7.0} {:7.0}   ratio {:.2}",
            round.quiet,
            round.dropped,
            round.contacts,
            round.contacts / round.dropped
        );
    }
    let [before, after] = report.memory_kib;
    let [sent, got] = report.messages;
    println!(
        "median ratio {:.2}; {:.0} packets a second; memory {before} -> {after} KiB; control \
         messages: {got} received, {sent} sent\n{:#}",
        report.ratio(),
        report.rate,
        report.counters
    );
    args.keep.write(&report)?;
    Ok(true)
}

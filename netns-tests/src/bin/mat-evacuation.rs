//! Moves many instances from one site to another with one command, each with a connection. See
//! [`mat_netns::evacuation`].

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use mat_netns::evacuation::{self, Settings};
use mat_netns::results::{self, Keep};

/// Evacuation of a site in network namespaces (needs root; see scripts/privileged).
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// How many instances
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u8).range(1..=200))]
    instances: u8,
    /// How many of them move at a time
    #[arg(long, default_value_t = 4)]
    parallel: u16,
    /// Round trip between any two sites, in milliseconds
    #[arg(long, default_value_t = 0.0)]
    rtt: f64,
    #[command(flatten)]
    keep: Keep,
}

fn main() -> ExitCode {
    results::exit("mat-evacuation", run(&Args::parse()))
}

/// Whether every connection survived.
fn run(args: &Args) -> Result<bool> {
    let report = evacuation::run(&Settings {
        instances: args.instances,
        parallel: args.parallel,
        rtt_ms: args.rtt,
    })?;
    println!("{}", report.summary());
    for broken in &report.broken {
        println!("BROKEN: {broken}");
    }
    args.keep.write(&report)?;
    Ok(report.broken.is_empty())
}

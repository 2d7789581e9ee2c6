//! Side-by-side runs: what the forwarder costs, next to the kernel's own forwarding over the same
//! links in the same minute.
//!
//! Absolute figures say more about the machine and its load than about the program, so all
//! contenders take turns within each round, beginning with another one each time, and what is
//! reported is the ratio to kernel forwarding *of the same round*, as median and range.
//!
//! | file | what it holds |
//! |---|---|
//! | `course` | the network, the contenders, one flow, one series of pings |
//! | `iperf`, `ping` | reading the tools' output |
//! | `stats` | medians, percentiles, ratios |
//! | `machine` | on what it was measured |
//! | `report` | raw results (JSON, one record a line) and the table (Markdown) |
//!
//! The micro-benchmarks in `benches/` share nothing with this program and need no privileges.
//!
//! # Limitations
//! Sender, receiver, router and forwarders share one machine and its processors: a forwarder on a
//! machine of its own has more room than here. One flow only.

mod course;
mod iperf;
mod machine;
mod ping;
mod report;
mod stats;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;

use course::{Contender, Courses, Family, Links};
use machine::Machine;
use report::{Flow, Results, RoundTrips, Run};

/// Pings of one contender in one round.
const PINGS: u32 = 200;

/// Measures MAT against kernel forwarding in network namespaces (needs root; see
/// scripts/privileged).
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// 5 rounds of 2-second flows instead of 15 of 5 seconds
    #[arg(long)]
    quick: bool,
    /// Rounds; every contender has its turn in each
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Length of one flow, in seconds
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: Option<u32>,
    /// IPv6 instead of IPv4
    #[arg(long)]
    ipv6: bool,
    /// Folder of the results, made if missing; files of an earlier run there are replaced
    /// [default: bench/results/DATE-HOST]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mat-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let (rounds, seconds) = if args.quick { (5, 2) } else { (15, 5) };
    let rounds = args.rounds.unwrap_or(rounds);
    let seconds = args.seconds.unwrap_or(seconds);
    let family = if args.ipv6 {
        Family::Ipv6
    } else {
        Family::Ipv4
    };
    if cfg!(debug_assertions) {
        eprintln!("mat-bench: a debug build: the figures mean little. Use --release.");
    }
    let (machine, load_at_start, started) = (Machine::here()?, machine::load()?, machine::utc()?);
    let courses = Courses::new(family)?;
    let run = Run {
        schema: report::SCHEMA.to_owned(),
        started,
        machine,
        load_at_start,
        build: if cfg!(debug_assertions) {
            "debug"
        } else {
            "release"
        }
        .to_owned(),
        commit: machine::commit(),
        family,
        rounds,
        seconds,
        paths: courses.paths()?,
    };
    let results = Results {
        flows: flows(&courses, rounds, seconds)?,
        round_trips: round_trips(&courses, rounds)?,
        run,
    };
    courses.end()?;

    let folder = args.out.clone().unwrap_or_else(|| results.run.folder());
    let table = results.save(&folder)?;
    println!("{table}");
    eprintln!("Raw results and this table: {}", folder.display());
    Ok(())
}

fn flows(courses: &Courses, rounds: u32, seconds: u32) -> Result<Vec<Flow>> {
    let mut flows = Vec::new();
    for links in Links::ALL {
        courses.set_links(links)?;
        for round in 0..rounds {
            for contender in turns(round) {
                let transfer = courses.flow(contender, seconds)?;
                eprintln!(
                    "{links}, round {}/{rounds}, {contender}: {:.0} Mbit/s",
                    round + 1,
                    transfer.mbps
                );
                flows.push(Flow {
                    links,
                    round,
                    contender,
                    mbps: transfer.mbps,
                    retransmits: transfer.retransmits,
                });
            }
        }
    }
    Ok(flows)
}

fn round_trips(courses: &Courses, rounds: u32) -> Result<Vec<RoundTrips>> {
    courses.set_links(Links::SuperPackets)?;
    let awake = courses.keep_awake()?;
    let mut round_trips = Vec::new();
    for round in 0..rounds {
        for contender in turns(round) {
            let us = courses.ping(contender, PINGS)?;
            ensure!(!us.is_empty(), "{contender}: no ping was answered");
            round_trips.push(RoundTrips {
                round,
                contender,
                sent: PINGS,
                us,
            });
        }
    }
    awake.end()?;
    Ok(round_trips)
}

/// All contenders, beginning with another one each round.
fn turns(round: u32) -> Vec<Contender> {
    let mut turns = Contender::ALL.to_vec();
    turns.rotate_left(round as usize % Contender::ALL.len());
    turns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_contender_has_its_turn_and_is_first_once() {
        let mut first = Vec::new();
        for round in 0..Contender::ALL.len() as u32 {
            let mut turns = turns(round);
            first.push(turns[0]);
            turns.sort();
            assert_eq!(turns, Contender::ALL);
        }
        first.sort();
        assert_eq!(first, Contender::ALL);
    }
}

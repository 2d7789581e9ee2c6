//! Changes the address of a node again and again, and says how long nothing arrives. See
//! [`mat_netns::renumber`].

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use mat_netns::renumber::{self, CHANGES};
use mat_netns::results::{self, Keep};

/// Changing addresses of a node in network namespaces (needs root; see scripts/privileged).
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// How many changes of each kind
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    changes: u32,
    /// Round trips between node, peer and mapping service, in milliseconds
    #[arg(long, value_delimiter = ',', default_values_t = [0.0, 20.0, 100.0])]
    rtt: Vec<f64>,
    #[command(flatten)]
    keep: Keep,
}

fn main() -> ExitCode {
    results::exit("mat-renumber", run(&Args::parse()))
}

/// Measures; nothing here can be wrong.
fn run(args: &Args) -> Result<bool> {
    let mut all = Vec::new();
    println!("gap after the new address is usable: median, 95 %, longest; datagrams lost (median)");
    for rtt in &args.rtt {
        for change in CHANGES {
            let series = renumber::run(change, *rtt, args.changes as usize)?;
            let [median, most, longest] = series.spread();
            let lost = series.lost.get(series.lost.len() / 2).copied();
            println!(
                "{rtt} ms round trip, {change:?}: {median:.0} / {most:.0} / {longest:.0} ms; {}",
                lost.unwrap_or_default()
            );
            all.push(series);
        }
    }
    args.keep.write(&all)?;
    Ok(true)
}

//! Kills each program at each moment of a move, and says what became of the instance and its
//! connections. See [`mat_netns::kills`].

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use mat_netns::kills::{self, MOMENTS, Moment, Report, VICTIMS, Victim};
use mat_netns::results::{self, Keep};

/// Kill -9 of every program at every step of a move (needs root; see scripts/privileged).
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Round trip between any two sites, in milliseconds
    #[arg(long, default_value_t = 20.0)]
    rtt: f64,
    /// Only cells whose names, VICTIM/MOMENT, contain this
    #[arg(long, value_name = "PART")]
    only: Option<String>,
    #[command(flatten)]
    keep: Keep,
}

fn main() -> ExitCode {
    results::exit("mat-kills", run(&Args::parse()))
}

/// Whether all was right.
fn run(args: &Args) -> Result<bool> {
    let all = VICTIMS
        .iter()
        .flat_map(|v| MOMENTS.iter().map(|m| (*v, *m)));
    // When it is moved, matctl has ended.
    let possible = all.filter(|cell| *cell != (Victim::Matctl, Moment::Moved));
    let wanted = possible.filter(|(victim, moment)| {
        let name = format!("{}/{}", victim.name(), moment.name());
        args.only.as_ref().is_none_or(|part| name.contains(part))
    });
    let cells: Vec<_> = wanted.collect();
    anyhow::ensure!(
        !cells.is_empty(),
        "no cell's name contains {:?}; names are VICTIM/MOMENT, for instance \"new matd/prepared\"",
        args.only.as_deref().unwrap_or_default()
    );
    let mut report = Report::new(args.rtt);
    for (victim, moment) in cells {
        let cell = kills::play(victim, moment, args.rtt)?;
        println!("{cell}");
        report.cells.push(cell);
    }
    println!("{report}");
    args.keep.write(&report)?;
    Ok(report.passed())
}

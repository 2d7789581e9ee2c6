//! `mat-simulate`: many runs, or the story of one.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use mat_simulator::scenario::Scenario;
use mat_simulator::world::Telling;
use mat_simulator::{campaign, world};

/// Sites, moves and everything that can go wrong, in virtual time; one seed is one run.
#[derive(Debug, Parser)]
#[command(name = "mat-simulate", version)]
struct Args {
    /// Tells the story of this one run
    #[arg(long)]
    seed: Option<u64>,
    /// Scenarios in which nothing fails: no datagram may be lost, doubled or late
    #[arg(long)]
    calm: bool,
    /// With --seed: leaves out what it does not take to break an invariant
    #[arg(long, requires = "seed")]
    shrink: bool,
    /// With --seed: tells of every TCP segment, too
    #[arg(long, requires = "seed")]
    segments: bool,
    /// Runs
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    runs: u64,
    /// The first seed; the others follow
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Threads [default: one for each processor]
    #[arg(long)]
    threads: Option<usize>,
    /// Stops after so many violations
    #[arg(long, default_value_t = 10, value_name = "COUNT")]
    most: usize,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match args.seed {
        Some(seed) => tell(draw(&args)(seed), args.shrink, args.segments),
        None => many(&args),
    }
}

fn draw(args: &Args) -> fn(u64) -> Scenario {
    match args.calm {
        true => Scenario::calm,
        false => Scenario::new,
    }
}

fn tell(mut scenario: Scenario, shrink: bool, segments: bool) -> ExitCode {
    let seed = scenario.seed;
    if shrink {
        scenario = campaign::shrink(&scenario);
    }
    let telling = if segments {
        Telling::Segments
    } else {
        Telling::Story
    };
    let outcome = world::run(&scenario, telling);
    for line in &outcome.story {
        println!("{line}");
    }
    match outcome.violation {
        None => {
            println!("seed {seed}: {:?} of virtual time, all well", outcome.took);
            ExitCode::SUCCESS
        }
        Some(violation) => {
            println!("seed {seed}: {violation}");
            println!(
                "It takes, with instances at {:?} of {} sites, stop-after {:?}:",
                scenario.hosts, scenario.sites, scenario.stop_after
            );
            for (at, act) in &scenario.acts {
                println!("  {at:?} {act:?}");
            }
            ExitCode::FAILURE
        }
    }
}

fn many(args: &Args) -> ExitCode {
    let started = Instant::now();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads.unwrap_or(processors).max(1);
    let sum = campaign::run_many(draw(args), args.first, args.runs, threads, args.most.max(1));
    let took = started.elapsed().as_secs_f64();
    println!(
        "{} runs in {took:.1} s: {} moves ({:.0} a second), {} events, {} packets, {} hours of \
         virtual time; {} times an instance was attached by hand",
        sum.runs,
        sum.moves,
        sum.moves as f64 / took,
        sum.events,
        sum.packets,
        sum.seconds / 3600,
        sum.by_hand,
    );
    for (seed, violation) in &sum.violations {
        println!("seed {seed}: {violation}");
    }
    if let Some((seed, _)) = sum.violations.first() {
        println!("Its story: mat-simulate --seed {seed} --shrink");
        return ExitCode::FAILURE;
    }
    println!("no violation");
    ExitCode::SUCCESS
}

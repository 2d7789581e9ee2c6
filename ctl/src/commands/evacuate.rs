//! `matctl evacuate`: everything that one site serves moves to another.
//!
//! Each instance moves by itself, some of them at a time; one that cannot be moved stays where it
//! is, served, and the others move on.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures_util::StreamExt;
use mat_dataplane::agent::OwnStatus;
use mat_proto::Home;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::driving::DriverArgs;
use super::{ConfigArg, block_on, say, say_json};
use crate::config::{Config, Instance};
use crate::moves::{self, Driver, MoveError, MoveOutcome, Trip};
use crate::site::Site;

/// `matctl evacuate`
#[derive(Clone, Debug, clap::Args)]
pub struct EvacuateArgs {
    /// Site to empty
    #[arg(long, value_name = "SITE")]
    from: String,
    /// Site to move everything to
    #[arg(long, value_name = "SITE")]
    to: String,
    /// How many instances move at the same time; without it one if the driver stops them, since
    /// they would wait for each other, and else four
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=256))]
    parallel: Option<u16>,
    #[command(flatten)]
    driving: DriverArgs,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArg,
}

/// An instance, and what is to move it.
struct Passenger {
    instance: Instance,
    driver: Box<dyn Driver>,
}

type Ended = (Instance, Result<MoveOutcome, MoveError>);

/// Moves all instances that a site serves.
///
/// # Errors
/// Nothing could be begun. What could not be moved is said, with exit code 1.
pub fn run(args: EvacuateArgs) -> anyhow::Result<ExitCode> {
    let config = args.config.load()?;
    let from = config.site(&args.from)?.clone();
    let to = config.site(&args.to)?.clone();
    if from.name == to.name {
        bail!("--from and --to are the same site, {}", to.name);
    }
    block_on(async {
        let status = from.connect().await?.on_duty().await?.status;
        to.connect().await?.on_duty().await?;
        let (there, staying) = residents(&config, &status.homes);
        for (instance, why) in &staying {
            eprintln!("matctl: {} is left: {why}", instance.name);
        }
        let mut passengers = Vec::new();
        for (instance, interface) in there {
            let interface = instance.interface.clone().or(interface);
            let driver = args
                .driving
                .driver(&instance, interface.as_deref(), &from, &to)?;
            passengers.push(Passenger { instance, driver });
        }
        let started = Instant::now();
        let ended = move_all(passengers, &from, &to, &args).await?;
        let took = started.elapsed();
        let whole = staying.is_empty() && ended.iter().all(|(_, outcome)| outcome.is_ok());
        if args.json {
            say_json(&as_json(&ended, &staying, took))?;
        } else {
            say(&summary(&ended, staying.len(), &from, &to, took))?;
        }
        Ok(if whole {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    })
}

/// The instances a site serves, each with its interface there; and those of which it serves only
/// a part, with what is the matter.
type Residents = (Vec<(Instance, Option<String>)>, Vec<(Instance, String)>);

fn residents(config: &Config, homes: &[OwnStatus]) -> Residents {
    let (mut there, mut staying): Residents = Default::default();
    let mut seen = Vec::new();
    // What has left already, or is not served here anyway, is nobody's concern.
    for own in homes.iter().filter(|own| own.state == "serving") {
        if seen.contains(&own.home) {
            continue;
        }
        let instance = config.instance_of(own.home);
        seen.extend(&instance.homes);
        let state = |home: &Home| homes.iter().find(|o| o.home == *home).map(|o| &*o.state);
        let elsewhere = instance.homes.iter().find(|h| state(h) != Some("serving"));
        match elsewhere {
            None => {
                let interface = own.link.as_ref().map(|link| link.interface.clone());
                there.push((instance, interface));
            }
            Some(home) => {
                let state = state(home).unwrap_or("not attached");
                staying.push((instance.clone(), format!("{home} is {state} there")));
            }
        }
    }
    (there, staying)
}

/// Moves them, so many at a time. Ctrl-C keeps those from moving that have not begun.
async fn move_all(
    passengers: Vec<Passenger>,
    from: &Site,
    to: &Site,
    args: &EvacuateArgs,
) -> anyhow::Result<Vec<Ended>> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
    let still = passengers.iter().all(|p| p.driver.stands_still());
    let many = args.parallel.unwrap_or(if still { 1 } else { 4 });
    let (all, many) = (passengers.len(), usize::from(many));
    let mut waiting = passengers.into_iter();
    let mut moving = futures_util::stream::FuturesUnordered::new();
    let mut ended = Vec::new();
    let mut stopped = false;
    loop {
        while !stopped && moving.len() < many {
            let Some(next) = waiting.next() else { break };
            moving.push(tokio::spawn(move_one(next, from.clone(), to.clone())));
        }
        tokio::select! {
            next = moving.next() => match next {
                None => break,
                Some(outcome) => {
                    let (instance, outcome): Ended = outcome.context("a move has panicked")?;
                    report(&instance, &outcome, ended.len() + 1, all, args.json)?;
                    ended.push((instance, outcome));
                }
            },
            _ = interrupt.recv() => stopped = true,
            _ = terminate.recv() => stopped = true,
        }
    }
    let left = waiting.len();
    if stopped && left > 0 {
        bail!(
            "interrupted: {} of {all} instances have moved or were brought back, {left} have not \
             begun; the same command moves the rest",
            ended.len()
        );
    }
    Ok(ended)
}

async fn move_one(mut passenger: Passenger, from: Site, to: Site) -> Ended {
    let instance = passenger.instance;
    let trip = Trip::new(&instance, &from, &to);
    let driver = passenger.driver.as_mut();
    let outcome = moves::move_instance(trip, driver, &mut |_| Ok(())).await;
    (instance, outcome)
}

fn report(
    instance: &Instance,
    outcome: &Result<MoveOutcome, MoveError>,
    n: usize,
    all: usize,
    json: bool,
) -> anyhow::Result<()> {
    match outcome {
        Err(error) => eprintln!("matctl: {error}"),
        Ok(_) if json => {}
        Ok(outcome) => say(&format!(
            "{n}/{all} {} moved, blackout {:.1} ms",
            instance.name,
            outcome.blackout_ms()
        ))?,
    }
    Ok(())
}

fn as_json(ended: &[Ended], staying: &[(Instance, String)], took: Duration) -> serde_json::Value {
    let moved: Vec<_> = ended.iter().filter_map(|(_, o)| o.as_ref().ok()).collect();
    let failed = ended.iter().filter_map(|(instance, outcome)| {
        let error = outcome.as_ref().err()?;
        Some(json!({
            "instance": instance.name,
            "rolled_back": error.rolled_back(),
            "error": error.to_string(),
        }))
    });
    let left = staying
        .iter()
        .map(|(instance, why)| json!({ "instance": instance.name, "why": why }));
    json!({
        "took_us": took.as_micros() as u64,
        "moved": moved,
        "failed": failed.collect::<Vec<_>>(),
        "left": left.collect::<Vec<_>>(),
    })
}

fn summary(ended: &[Ended], left: usize, from: &Site, to: &Site, took: Duration) -> String {
    let moved = ended
        .iter()
        .filter_map(|(_, outcome)| outcome.as_ref().ok());
    let mut blackouts: Vec<f64> = moved.map(MoveOutcome::blackout_ms).collect();
    blackouts.sort_by(f64::total_cmp);
    let mut text = format!(
        "{} instances moved from {} to {} in {:.1} s",
        blackouts.len(),
        from.name,
        to.name,
        took.as_secs_f64()
    );
    if let (Some(median), Some(longest)) = (blackouts.get(blackouts.len() / 2), blackouts.last()) {
        text += &format!("; blackout median {median:.1} ms, longest {longest:.1} ms");
    }
    let failed = ended.len() - blackouts.len();
    if failed + left > 0 {
        text += &format!(
            "; {failed} could not be moved, {left} were left: see `matctl status --site {}`",
            from.name
        );
    }
    text
}

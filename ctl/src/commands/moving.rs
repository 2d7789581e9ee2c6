//! `matctl move`.

use std::pin::pin;
use std::process::ExitCode;

use anyhow::Context;
use futures_util::future::{FutureExt, join_all};
use mat_dataplane::agent::OwnStatus;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::driving::DriverArgs;
use super::{ConfigArg, block_on, say, say_json};
use crate::config::{Config, Instance};
use crate::moves::{self, Trip};
use crate::plan::{self, SiteHomes, Step};
use crate::site::Site;

const MENDING: &str = "\
The instance is served at the old site, or at the new one, whatever happens: when a step fails,
those before it are undone. Ctrl-C does not stop a move half-way; it ends, or is undone, first.

If matctl itself is killed in the middle, the forwarders finish the move or undo it by themselves,
within 40 s. If a forwarder stops answering, something may be left; `matctl status` shows it. To mend
it, have the new site forget the instance, then attach it where it is now:
  matctl detach INSTANCE --site NEW
  matctl attach INSTANCE --site WHERE_IT_IS --interface IF";

/// `matctl move`
#[derive(Clone, Debug, clap::Args)]
#[command(after_long_help = MENDING)]
pub struct MoveArgs {
    /// Name of the instance, or one of its home addresses
    instance: String,
    /// Site to move it to
    #[arg(long, value_name = "SITE")]
    to: String,
    #[command(flatten)]
    driving: DriverArgs,
    /// Ask on standard error before each step, and go on when a line comes from standard input;
    /// `n`, or its end, undoes what was done. The instance is cut off from the second question on,
    /// and the forwarders wait for half a minute in all
    #[arg(long)]
    step: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArg,
}

/// Moves an instance.
///
/// # Errors
/// It was not moved; the text says what was rolled back.
pub fn run(args: MoveArgs) -> anyhow::Result<ExitCode> {
    let config = args.config.load()?;
    let instance = config.instance(&args.instance)?;
    let to = config.site(&args.to)?.clone();
    block_on(async {
        let (from, interface) = find(&config, &instance).await?;
        if from.name == to.name {
            let text = format!("{} is at {} already; nothing to do", instance.name, to.name);
            if args.json {
                let name = &instance.name;
                say_json(&json!({ "moved": false, "instance": name, "at": to.name }))?;
            } else {
                say(&text)?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        let interface = instance.interface.clone().or(interface);
        let mut driver = args
            .driving
            .driver(&instance, interface.as_deref(), &from, &to)?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch Ctrl-C")?;
        let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
        let permit = &mut |step| if args.step { ask(step) } else { Ok(()) };
        let trip = Trip::new(&instance, &from, &to);
        let moved = moves::move_instance(trip, driver.as_mut(), permit).await;
        let (first, second) = (pin!(interrupt.recv()), pin!(terminate.recv()));
        if first.now_or_never().is_some() || second.now_or_never().is_some() {
            eprintln!("matctl: interrupted; the move was brought to its end first");
        }
        let outcome = moved?;
        if args.json {
            let mut value = serde_json::to_value(&outcome)?;
            value["moved"] = true.into();
            say_json(&value)?;
        } else {
            say(&outcome.to_string())?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// `--step`: whether the operator wants the next step.
fn ask(step: Step) -> Result<(), String> {
    eprintln!("matctl: next: {step} (Enter: go on, n: undo)");
    let mut line = String::new();
    match std::io::stdin().read_line(&mut line) {
        Err(error) => Err(format!("no word from standard input: {error}")),
        Ok(0) => Err("standard input has ended".to_owned()),
        Ok(_) if matches!(line.trim(), "n" | "no") => Err("the operator said no".to_owned()),
        Ok(_) => Ok(()),
    }
}

/// The site that serves the instance, and the interface it has there.
async fn find(config: &Config, instance: &Instance) -> anyhow::Result<(Site, Option<String>)> {
    let asked = config.sites.iter().map(|site| async move {
        let report = async { site.connect().await?.on_duty().await }.await;
        (site, report.map(|report| report.status.homes))
    });
    let mut answers: Vec<(&Site, Vec<OwnStatus>)> = Vec::new();
    for (site, answer) in join_all(asked).await {
        match answer {
            Ok(homes) => answers.push((site, homes)),
            Err(error) => eprintln!("matctl: warning: {error}"),
        }
    }
    let sites: Vec<SiteHomes<'_>> = answers
        .iter()
        .map(|(site, homes)| SiteHomes {
            site: &site.name,
            homes,
        })
        .collect();
    let name = plan::locate(&instance.homes, &sites)
        .with_context(|| format!("cannot move {}", instance.name))?;
    let (site, homes) = answers
        .iter()
        .find(|(site, _)| site.name == name)
        .context("the site that serves it is gone")?;
    let link = homes
        .iter()
        .filter(|status| instance.homes.contains(&status.home))
        .find_map(|status| status.link.as_ref());
    Ok(((*site).clone(), link.map(|link| link.interface.clone())))
}

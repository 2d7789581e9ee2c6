//! `matctl move`.

use std::pin::pin;
use std::process::ExitCode;

use anyhow::{Context, bail};
use futures_util::future::{FutureExt, join_all};
use mat_dataplane::agent::OwnStatus;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::{ConfigArg, block_on, say, say_json};
use crate::config::{Config, Instance};
use crate::moves::{self, Driver, ExecDriver, MoveRequest, NetnsDriver, NoDriver};
use crate::plan::{self, SiteHomes};
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
    /// What moves the instance itself; without it `exec` if --exec is given, else `netns` if both
    /// sites have a namespace
    #[arg(long, value_enum)]
    driver: Option<DriverKind>,
    /// Command (for sh) that moves the instance; it finds MAT_INSTANCE, MAT_HOMES, MAT_FROM and
    /// MAT_TO in its environment, and MAT_ROLL_BACK=1 when it is to undo what it did
    #[arg(long, value_name = "COMMAND")]
    exec: Option<String>,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArg,
}

/// What moves the instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DriverKind {
    /// The host end of its veth changes network namespace
    Netns,
    /// The command given with --exec
    Exec,
    /// Nothing: somebody else moves it
    None,
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
        let mut driver = driver(&args, &instance, interface.as_deref(), &from, &to)?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch Ctrl-C")?;
        let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
        let moved = moves::move_instance(MoveRequest {
            instance: &instance.name,
            homes: &instance.homes,
            interface: instance.interface.as_deref(),
            mac: instance.mac.as_deref(),
            from: &from,
            to: &to,
            driver: driver.as_mut(),
        })
        .await;
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

/// The site that serves the instance, and the interface it has there.
async fn find(config: &Config, instance: &Instance) -> anyhow::Result<(Site, Option<String>)> {
    let asked = config.sites.iter().map(|site| async move {
        let report = async { site.connect().await?.status().await }.await;
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

fn driver(
    args: &MoveArgs,
    instance: &Instance,
    interface: Option<&str>,
    from: &Site,
    to: &Site,
) -> anyhow::Result<Box<dyn Driver>> {
    let kind = match (args.driver, &args.exec) {
        (Some(kind), _) => kind,
        (None, Some(_)) => DriverKind::Exec,
        (None, None) if from.netns.is_some() && to.netns.is_some() => DriverKind::Netns,
        (None, None) => bail!(
            "what is to move {} itself? say --exec COMMAND, or --driver none if somebody else \
             does (--driver netns needs `netns` at both sites)",
            instance.name
        ),
    };
    Ok(match (kind, &args.exec) {
        (DriverKind::Exec, Some(command)) => {
            Box::new(ExecDriver::new(command, &instance.name, &instance.homes))
        }
        (DriverKind::Exec, None) => bail!("--driver exec needs the command: --exec COMMAND"),
        (_, Some(_)) => bail!("--exec is only for --driver exec"),
        (DriverKind::None, None) => Box::new(NoDriver),
        (DriverKind::Netns, None) => {
            let interface = interface.with_context(|| {
                format!(
                    "driver netns needs the host end of its veth: add interface = \"...\" to \
                     [[instance]] {}",
                    instance.name
                )
            })?;
            Box::new(NetnsDriver::new(interface, from, to)?)
        }
    })
}

//! `matctl map`: reading and changing bindings without any forwarder.
//!
//! Every change is a compare-and-swap: what was read is what is replaced, so that two operators,
//! or an operator and a move, cannot overwrite each other unnoticed.

mod edit;
mod locator;
mod past;
mod watch;

use std::process::ExitCode;

use anyhow::Context;
use ipnet::IpNet;
use mat_mapping::client::MapClient;
use mat_proto::{Binding, Home, Whose};
use serde::Serialize;

use super::{ConfigArg, block_on, say, say_json};
pub use edit::{DeleteArgs, SetArgs};
pub use locator::LocatorPort;
pub use past::HistoryArgs;
pub use watch::WatchArgs;

/// `matctl map ...`
#[derive(Clone, Debug, clap::Subcommand)]
pub enum MapCommand {
    /// Show the binding of a home address, or that all homes of a prefix share
    Get(GetArgs),
    /// Change the binding of a home address or of a prefix, or make one
    Set(SetArgs),
    /// Remove the binding of a home address or of a prefix
    Delete(DeleteArgs),
    /// Show all bindings (the key needs the right to transfer the zone)
    List(ListArgs),
    /// Show changes as they happen, one a line, until interrupted
    Watch(WatchArgs),
    /// Show who has changed which binding of late, from what to what, oldest first: the latest 500
    /// or so
    History(HistoryArgs),
}

/// `matctl map get`
#[derive(Clone, Debug, clap::Args)]
pub struct GetArgs {
    /// Home address, or prefix of them
    #[arg(value_name = "HOME|PREFIX")]
    whose: Whose,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArg,
}

/// `matctl map list`
#[derive(Clone, Debug, clap::Args)]
pub struct ListArgs {
    /// Print them as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArg,
}

/// Runs one of the commands.
///
/// # Errors
/// The mapping service cannot be asked, or does not do what it was asked for.
pub fn run(command: MapCommand) -> anyhow::Result<ExitCode> {
    match command {
        MapCommand::Get(args) => get(args),
        MapCommand::Set(args) => edit::set(args),
        MapCommand::Delete(args) => edit::delete(args),
        MapCommand::List(args) => list(args),
        MapCommand::Watch(args) => watch::run(args),
        MapCommand::History(args) => past::run(args),
    }
}

fn get(args: GetArgs) -> anyhow::Result<ExitCode> {
    let map = client(&args.config)?;
    block_on(async {
        let lookup = map.get(args.whose).await?;
        if !lookup.verified {
            eprintln!("matctl: the answer is not authenticated (no key is configured)");
        }
        match (&lookup.binding, args.json) {
            (binding, true) => {
                let whose = lookup.shared.unwrap_or(args.whose);
                say_json(&binding.as_ref().map(|binding| shown(whose, binding)))?;
            }
            (Some(binding), false) => {
                let line = line(args.whose, binding);
                match lookup.shared {
                    Some(prefix) => say(&format!("{line} (shared by all of {prefix})"))?,
                    None => say(&line)?,
                }
            }
            (None, false) => say(&format!("{} is not bound", args.whose))?,
        }
        Ok(if lookup.binding.is_some() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    })
}

fn list(args: ListArgs) -> anyhow::Result<ExitCode> {
    let map = client(&args.config)?;
    block_on(async {
        let mut bindings = map.list().await?;
        bindings.sort_by_key(|(whose, _)| *whose);
        if args.json {
            let all = bindings.iter();
            let all = all.map(|(whose, binding)| shown(*whose, binding));
            say_json(&all.collect::<Vec<_>>())?;
        } else if bindings.is_empty() {
            say(&format!("zone {} has no bindings", map.zone()))?;
        }
        if !args.json {
            for (whose, binding) in &bindings {
                say(&line(*whose, binding))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn client(config: &ConfigArg) -> anyhow::Result<MapClient> {
    client_of(config.load()?, config)
}

/// The same of a file that has been read.
fn client_of(loaded: crate::config::Config, file: &ConfigArg) -> anyhow::Result<MapClient> {
    loaded.mapping.with_context(|| {
        format!(
            "{} has no [mapping]: name `servers`, `zone` and `key` there",
            file.config.display()
        )
    })
}

/// Homes on the command line, in any prefix.
fn homes(text: &str) -> Result<IpNet, String> {
    let single = text.parse::<Home>().map(|home| IpNet::from(home.ip()));
    let net = single.or_else(|_| text.parse::<IpNet>());
    net.map_err(|_| "write a home address or a prefix, as in 192.0.2.10 or 192.0.2.0/24".to_owned())
}

/// A binding as JSON.
#[derive(Serialize)]
struct Shown<'b> {
    #[serde(flatten)]
    binding: &'b Binding,
    /// Of whom it is, if not of one home alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    shared_by: Option<Whose>,
}

fn shown(whose: Whose, binding: &Binding) -> Shown<'_> {
    let shared_by = whose.prefix().map(|_| whose);
    Shown { binding, shared_by }
}

/// A binding in one line.
fn line(whose: Whose, binding: &Binding) -> String {
    let length = whose.prefix().map(|prefix| prefix.prefix_len());
    let entries = binding.entries().iter();
    let entries: Vec<String> = entries.map(|entry| locator::entry(entry, length)).collect();
    format!(
        "{whose} -> {}; epoch {}, lease {} s",
        entries.join(", "),
        binding.epoch(),
        binding.lease_seconds()
    )
}

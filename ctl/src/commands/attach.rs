//! `matctl attach` and `matctl detach`: one site, one home address or all those of an instance.

use std::process::ExitCode;

use anyhow::Context;
use mat_dataplane::io::api::{AttachBody, DetachBody};
use mat_proto::Home;
use serde_json::json;

use super::{SitesArg, block_on, say, say_json};
use crate::config::{Config, Instance};

/// `matctl attach`
#[derive(Clone, Debug, clap::Args)]
pub struct AttachArgs {
    /// Home address, or name of an instance in the configuration
    instance: String,
    /// Behind a gateway: the host end of its veth, or its TAP
    #[arg(long, value_name = "IF")]
    interface: Option<String>,
    /// Its MAC address there; found out if left out
    #[arg(long, value_name = "MAC", requires = "interface")]
    mac: Option<String>,
    /// Do not register the binding: serve only once it names this site
    #[arg(long)]
    no_claim: bool,
    /// Print the answers as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sites: SitesArg,
}

/// `matctl detach`
#[derive(Clone, Debug, clap::Args)]
pub struct DetachArgs {
    /// Home address, or name of an instance in the configuration
    instance: String,
    /// Print the answers as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sites: SitesArg,
}

/// Attaches an instance to a site.
///
/// # Errors
/// The forwarder cannot be reached. What it refuses is said for each home, with exit code 1.
pub fn attach(args: AttachArgs) -> anyhow::Result<ExitCode> {
    let (site, config) = args.sites.single()?;
    let instance = named(config.as_ref(), &args.instance)?;
    let interface = args.interface.or(instance.interface);
    block_on(async {
        let mut client = site.connect().await?;
        let mut answers = Vec::new();
        let mut code = ExitCode::SUCCESS;
        for home in instance.homes {
            let body = AttachBody {
                home,
                interface: interface.clone(),
                mac: args.mac.clone().or_else(|| instance.mac.clone()),
                claim: !args.no_claim,
                contexts: Vec::new(),
                binding: None,
            };
            let attached = match client.attach(&body).await {
                Ok(attached) => attached,
                Err(error) => {
                    // Its other homes are attached all the same.
                    eprintln!("matctl: {home}: {error}");
                    code = ExitCode::FAILURE;
                    continue;
                }
            };
            if args.json {
                answers.push(json!({ "home": home, "attached": attached }));
                continue;
            }
            say(&match attached.locator {
                Some(locator) => format!(
                    "{home} is served at {locator}, epoch {} (before: {})",
                    attached.epoch_after, attached.epoch_before
                ),
                None => format!(
                    "{home} is attached, but not served: its binding (epoch {}) names another \
                     place",
                    attached.epoch_after
                ),
            })?;
        }
        if args.json {
            say_json(&answers)?;
        }
        Ok(code)
    })
}

/// Detaches an instance from a site and withdraws its binding.
///
/// # Errors
/// The forwarder cannot be reached. What it refuses is said for each home, with exit code 1.
pub fn detach(args: DetachArgs) -> anyhow::Result<ExitCode> {
    let (site, config) = args.sites.single()?;
    let instance = named(config.as_ref(), &args.instance)?;
    block_on(async {
        let mut client = site.connect().await?;
        let mut answers = Vec::new();
        let mut code = ExitCode::SUCCESS;
        for home in instance.homes {
            let handover = match client.detach(&DetachBody { home, to: None }).await {
                Ok(handover) => handover,
                Err(error) => {
                    eprintln!("matctl: {home}: {error}");
                    code = ExitCode::FAILURE;
                    continue;
                }
            };
            let contexts = handover.contexts.len();
            if args.json {
                // Without the contexts themselves: their tokens are secret.
                let binding = &handover.binding;
                answers.push(json!({ "home": home, "binding": binding, "contexts": contexts }));
            } else {
                say(&format!("{home} is detached; it had {contexts} contexts"))?;
            }
        }
        if args.json {
            say_json(&answers)?;
        }
        Ok(code)
    })
}

fn named(config: Option<&Config>, name: &str) -> anyhow::Result<Instance> {
    match config {
        Some(config) => config.instance(name),
        None => {
            let home: Home = name.parse().with_context(|| {
                format!("{name:?}: with --socket an instance is named by its home address")
            })?;
            Ok(Instance {
                name: name.to_owned(),
                homes: vec![home],
                interface: None,
                mac: None,
            })
        }
    }
}

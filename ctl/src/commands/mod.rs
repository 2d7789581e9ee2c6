//! The operator's commands, each in a file of its own, and what they share.
//!
//! Invariant: what people or programs asked for goes to standard output, everything that went
//! wrong to standard error; the exit code is 0 only if all that was asked for was done.

pub mod attach;
mod driving;
pub mod evacuate;
pub mod explain;
mod local_time;
pub mod map;
pub mod moving;
pub mod status;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::Serialize;

use crate::config::{Config, DEFAULT_PATH};
use crate::site::Site;

/// Where the configuration is; part of every command's arguments.
#[derive(Clone, Debug, clap::Args)]
pub struct ConfigArg {
    /// Configuration file
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    pub config: PathBuf,
}

impl ConfigArg {
    fn load(&self) -> anyhow::Result<Config> {
        if !self.config.exists() && self.config == Path::new(DEFAULT_PATH) {
            bail!(
                "there is no {DEFAULT_PATH}; write it (matctl.example.toml shows every key), or \
                 name another with --config"
            );
        }
        Ok(Config::load(&self.config)?)
    }
}

/// Which forwarders to ask.
#[derive(Clone, Debug, clap::Args)]
pub struct SitesArg {
    #[command(flatten)]
    config: ConfigArg,
    /// Ask only this site
    #[arg(long, value_name = "SITE")]
    site: Option<String>,
    /// Ask the forwarder at this control socket; needs no configuration file
    #[arg(long, value_name = "PATH", conflicts_with_all = ["site", "config"])]
    socket: Option<PathBuf>,
}

impl SitesArg {
    /// The sites to ask, and the configuration they come from, if any.
    fn resolve(&self) -> anyhow::Result<(Vec<Site>, Option<Config>)> {
        if let Some(socket) = &self.socket {
            let site = Site {
                name: socket.display().to_string(),
                socket: socket.clone(),
                other_socket: None,
                netns: None,
            };
            return Ok((vec![site], None));
        }
        let config = self.config.load()?;
        let sites = match &self.site {
            Some(name) => vec![config.site(name)?.clone()],
            None => config.sites.clone(),
        };
        if sites.is_empty() {
            let file = self.config.config.display();
            bail!("{file} names no [[site]]; add one, or use --socket PATH");
        }
        Ok((sites, Some(config)))
    }

    /// The one site to ask.
    fn single(&self) -> anyhow::Result<(Site, Option<Config>)> {
        let (sites, config) = self.resolve()?;
        match <[Site; 1]>::try_from(sites) {
            Ok([site]) => Ok((site, config)),
            Err(_) => bail!("which site? name it with --site, or its socket with --socket"),
        }
    }
}

/// Runs an asynchronous command to its end. One thread more than this one: a driver blocks while
/// forwarders are waited for.
fn block_on<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(command)
}

/// Writes to standard output. That nobody reads it any more is no failure.
fn say(text: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

fn say_json(value: &impl Serialize) -> anyhow::Result<()> {
    say(&serde_json::to_string_pretty(value)?)
}

//! Prefixes of homes and locators that the zone of the mapping service says, for a configuration
//! that leaves them to it.
//!
//! What the zone said last is kept in a file, so that a start does not wait for the mapping
//! service; whatever it says later is taken up while the forwarder runs.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

use crate::config::{Config, ConfigError, Told};
use crate::io::directory::Directory;
use crate::io::state;

/// How often the zone is asked whether it says something else.
const EVERY: Duration = Duration::from_secs(5);

/// The configuration at `path`, with what the zone said last according to `file`; only if that
/// does not fit is the zone asked.
pub(super) async fn at_start(path: &Path, file: &Path) -> anyhow::Result<Config> {
    let alone = Config::load(path, None)?;
    if alone.left_to_zone.is_empty() {
        return Ok(alone);
    }
    if let Some(config) = remembered(path, file, &alone)? {
        return Ok(config);
    }
    let told = ask(&alone).await?;
    keep(file, &told)?;
    Ok(Config::load(path, Some(&told))?)
}

/// The same, but the zone is asked if it answers.
pub(super) async fn anew(path: &Path, file: &Path) -> anyhow::Result<Config> {
    let alone = Config::load(path, None)?;
    if alone.left_to_zone.is_empty() {
        return Ok(alone);
    }
    match ask(&alone).await {
        Ok(told) => {
            let config = Config::load(path, Some(&told))?;
            keep(file, &told)?;
            Ok(config)
        }
        Err(error) => match remembered(path, file, &alone)? {
            Some(config) => {
                tracing::warn!("{error:#}; going by what the zone said before");
                Ok(config)
            }
            None => Err(error),
        },
    }
}

/// The same without asking: for those who only want to know what was set up.
pub(super) fn last(path: &Path, file: &Path) -> anyhow::Result<Config> {
    let alone = Config::load(path, None)?;
    let known = remembered(path, file, &alone)?;
    Ok(known.unwrap_or(alone))
}

/// Resolves once the zone says something else than what `file` keeps; never if the configuration,
/// as it is when this is called, leaves nothing to it.
pub(super) async fn changed(path: &Path, file: &Path) {
    let alone = loop {
        match Config::load(path, None) {
            Ok(alone) => break alone,
            // Somebody is at work on it.
            Err(_) => tokio::time::sleep(EVERY).await,
        }
    };
    if alone.left_to_zone.is_empty() {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(EVERY).await;
        match ask(&alone).await {
            Ok(told) if state::load(file).ok().flatten().as_ref() != Some(&told) => return,
            Ok(_) => {}
            Err(error) => tracing::debug!("{error:#}"),
        }
    }
}

fn remembered(path: &Path, file: &Path, alone: &Config) -> anyhow::Result<Option<Config>> {
    let told: Option<Told> = state::load(file)?;
    let Some(told) = told.filter(|told| told.has_all(&alone.left_to_zone)) else {
        return Ok(None);
    };
    match Config::load(path, Some(&told)) {
        Ok(config) => Ok(Some(config)),
        // It is older than the file.
        Err(ConfigError::Invalid(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn ask(alone: &Config) -> anyhow::Result<Told> {
    let directory = Directory::new(alone)?;
    let told = directory.told(&alone.left_to_zone).await;
    told.context("`prefixes` is left out in [homes] or [locators], so the zone is asked")
}

fn keep(file: &Path, told: &Told) -> anyhow::Result<()> {
    state::store(file, told)?;
    Ok(())
}

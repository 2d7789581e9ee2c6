//! Prefixes of homes and locators that the zone of the mapping service says, for a configuration
//! that leaves them to it.
//!
//! What the zone said last is kept in a file, so that a start does not wait for the mapping
//! service; whatever it says later is taken up while the forwarder runs.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;

use crate::config::{Config, ConfigError, Told};
use crate::io::directory::Directory;
use crate::io::state;

/// The zone is asked whether it says something else once in so many times that homes are asked for.
const POLLS: u32 = 5;
/// How often the configuration is looked at while it cannot be read.
const AGAIN: Duration = Duration::from_secs(5);

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

/// Follows what the zone says while the forwarder runs.
pub(super) struct Follower<'a> {
    path: &'a Path,
    file: &'a Path,
    /// Whoever waits for a change has it, and whoever takes the change up.
    last: Mutex<Last>,
}

#[derive(Default)]
struct Last {
    /// What it said that could not be taken up.
    refused: Option<Told>,
    /// Why it says nothing.
    fault: Option<String>,
}

impl<'a> Follower<'a> {
    /// Of the configuration at `path`, with what the zone said last in `file`.
    pub(super) fn new(path: &'a Path, file: &'a Path) -> Self {
        Follower {
            path,
            file,
            last: Mutex::default(),
        }
    }

    /// Resolves once the zone says something new; never if the configuration, as it is when this
    /// is called, leaves nothing to it.
    pub(super) async fn changed(&self) -> Told {
        let alone = loop {
            match Config::load(self.path, None) {
                Ok(alone) => break alone,
                // Somebody is at work on it.
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        };
        if alone.left_to_zone.is_empty() {
            return std::future::pending().await;
        }
        let every = Duration::from_millis(alone.mapping.poll_ms) * POLLS;
        loop {
            tokio::time::sleep(every).await;
            if let Some(new) = self.heard(ask(&alone).await) {
                return new;
            }
        }
    }

    /// What is new of that; the log has each thing once.
    fn heard(&self, said: anyhow::Result<Told>) -> Option<Told> {
        let mut last = self.last();
        let told = match said {
            Ok(told) => told,
            Err(error) => {
                let text = format!("{error:#}");
                if last.fault.as_ref() != Some(&text) {
                    tracing::warn!("{text}; going on with what it said last");
                    last.fault = Some(text);
                }
                return None;
            }
        };
        if last.fault.take().is_some() {
            tracing::info!("the zone says again which prefixes there are");
        }
        if state::load(self.file).ok().flatten().as_ref() == Some(&told) {
            if last.refused.take().is_some() {
                tracing::info!("the zone says again what is in force");
            }
            return None;
        }
        (last.refused.as_ref() != Some(&told)).then_some(told)
    }

    /// It could not be taken up, and need not be tried again.
    pub(super) fn refuse(&self, told: Told) {
        self.last().refused = Some(told);
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
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

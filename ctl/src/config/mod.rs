//! The configuration file of `matctl`: sites, instances, and the mapping service.
//!
//! Invariant: a [`Config`] that exists is consistent with itself, and every complaint names file,
//! line, key and value and says how to mend it, in the form `matd` uses too.
//!
//! # Limitations
//! A mistake of shape (unknown key, wrong type) ends the reading at the first one; mistakes of
//! meaning are all reported together.

mod check;

use std::path::Path;

use mat_dataplane::config::Source;
pub use mat_dataplane::config::{ConfigError, Finding};
use mat_mapping::client::MapClient;
use mat_mapping::client::push::Endpoint;
use mat_proto::Home;

use crate::site::Site;

/// Where the file is unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/mat/matctl.toml";

/// Everything `matctl` is told by its file; `matctl.example.toml` shows every key.
#[derive(Clone, Debug)]
pub struct Config {
    /// The mapping service, if one is named.
    pub mapping: Option<MapClient>,
    /// The server that tells of changes by itself, if one is named.
    pub push: Option<Endpoint>,
    /// The sites, in the order of the file.
    pub sites: Vec<Site>,
    /// The instances, in the order of the file.
    pub instances: Vec<Instance>,
}

/// An instance that can be moved by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Its name.
    pub name: String,
    /// Its home addresses; they move together.
    pub homes: Vec<Home>,
    /// Behind gateways: the host end of its veth, or its TAP.
    pub interface: Option<String>,
    /// Its MAC address there.
    pub mac: Option<String>,
}

impl Config {
    /// Reads `path` and the secret file it names.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let file = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Config::parse(path, &text),
            Err(cause) => Err(ConfigError::Read { file, cause }),
        }
    }

    /// As [`Config::load`], from text; a secret file is found relative to the folder of `path`.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let file = path.display().to_string();
        let source = Source::new(&file, text, "matctl.example.toml");
        let raw = toml::from_str(text).map_err(|error| source.shape(error))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        check::Checker::new(source, folder).config(&raw)
    }

    /// The site of this name.
    ///
    /// # Errors
    /// There is none; the text names those there are.
    pub fn site(&self, name: &str) -> anyhow::Result<&Site> {
        self.sites
            .iter()
            .find(|site| site.name == name)
            .ok_or_else(|| {
                let known: Vec<_> = self.sites.iter().map(|site| site.name.as_str()).collect();
                anyhow::anyhow!(
                    "no site is called {name:?}; known are: {}",
                    known.join(", ")
                )
            })
    }

    /// The instance of this name, or with this home address ([`Config::instance_of`]).
    ///
    /// # Errors
    /// Neither the name of an instance nor an address.
    pub fn instance(&self, name: &str) -> anyhow::Result<Instance> {
        let home = name.parse::<Home>().ok();
        let found = self.instances.iter().find(|instance| instance.name == name);
        match (found, home) {
            (Some(instance), _) => Ok(instance.clone()),
            (None, Some(home)) => Ok(self.instance_of(home)),
            (None, None) => {
                let known: Vec<_> = self.instances.iter().map(|i| i.name.as_str()).collect();
                anyhow::bail!(
                    "{name:?} is neither a home address nor the name of an instance; known are: {}",
                    if known.is_empty() {
                        "none".to_owned()
                    } else {
                        known.join(", ")
                    }
                )
            }
        }
    }

    /// The instance with this home address; one that is in no instance of the file is an instance
    /// of its own.
    pub fn instance_of(&self, home: Home) -> Instance {
        let found = self.instances.iter().find(|i| i.homes.contains(&home));
        found.cloned().unwrap_or_else(|| Instance {
            name: home.to_string(),
            homes: vec![home],
            interface: None,
            mac: None,
        })
    }
}

#[cfg(test)]
mod tests;

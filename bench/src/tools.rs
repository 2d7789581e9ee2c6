//! Where the programs are.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use mat_netns::testbed;

/// Our own programs and those of others.
#[derive(Clone, Debug)]
pub struct Tools {
    own: PathBuf,
    /// Searched in this order.
    others: Vec<PathBuf>,
}

impl Tools {
    /// Ours are beside the running program; the others where `scripts/bench-tools` puts them, or
    /// else on the path.
    pub fn find() -> Result<Self> {
        let own = testbed::binaries()?;
        let target = own.parent().unwrap_or(Path::new("."));
        let mut others = vec![
            target.join("bench-tools/bin"),
            target.join("bench-tools/usr/bin"),
        ];
        let path = env::var_os("PATH").unwrap_or_default();
        others.extend(env::split_paths(&path));
        Ok(Tools { own, others })
    }

    /// One of ours.
    pub fn own(&self, name: &str) -> PathBuf {
        self.own.join(name)
    }

    /// One of the others; the error says how to get it.
    pub fn other(&self, name: &str) -> Result<PathBuf> {
        let mut paths = self.others.iter().map(|folder| folder.join(name));
        let found = paths.find(|path| path.is_file());
        found.with_context(|| format!("no program `{name}`: scripts/bench-tools fetches it"))
    }
}

//! What the programs of long runs share: results kept as JSON, and how a run ends.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde::Serialize;

/// Where results are kept; part of every program's arguments.
#[derive(Clone, Debug, clap::Args)]
pub struct Keep {
    /// Write the results there; folders are made
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Keep {
    /// Writes the results, if that was asked for.
    pub fn write(&self, results: &impl Serialize) -> Result<()> {
        let Some(path) = &self.json else {
            return Ok(());
        };
        let what = || format!("cannot write {}", path.display());
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(what)?;
        }
        fs::write(path, serde_json::to_vec_pretty(results)?).with_context(what)
    }
}

/// The exit code of a run: whether all was right, or why there is no answer, which is said.
pub fn exit(program: &str, outcome: Result<bool>) -> ExitCode {
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{program}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

//! Results of long runs, kept as JSON.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

/// Writes `results` to `path`, if one is given; its folders are made.
pub fn write(path: Option<&Path>, results: &impl Serialize) -> Result<()> {
    let Some(path) = path else {
        return Ok(());
    };
    let what = || format!("cannot write {}", path.display());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(what)?;
    }
    fs::write(path, serde_json::to_vec_pretty(results)?).with_context(what)
}

//! What a forwarder has counted instead of simply forwarding it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use mat_netns::wait_until;

use super::api;

/// How often `cause` was counted.
pub fn counter(socket: &Path, cause: &str) -> Result<u64> {
    let status = api::get(socket, "status")?;
    Ok(status["counters"][cause].as_u64().unwrap_or(0))
}

/// Waits until `cause` has been counted at least `n` times.
pub fn counted(socket: &Path, cause: &str, n: u64) -> Result<()> {
    wait_until(Duration::from_secs(15), format!("{n} x {cause}"), || {
        (counter(socket, cause).ok()? >= n).then_some(())
    })
    .with_context(|| match api::get(socket, "status") {
        Ok(status) => format!("{:#}", status["counters"]),
        Err(error) => format!("{error:#}"),
    })
}

//! Looking at a wire.

use std::time::Duration;

use anyhow::Result;
use mat_netns::{Cmd, Host, Process};

/// Writes every packet at a device into its log, one line each.
pub fn watch(host: &Host, device: &str) -> Result<Process> {
    let tcpdump = Cmd::new("tcpdump")
        .words("-n -l --immediate-mode -i")
        .arg(device);
    let capture = host.spawn(tcpdump.name(format!("tcpdump-{device}")))?;
    capture.wait_for_log("listening on", Duration::from_secs(5))?;
    Ok(capture)
}

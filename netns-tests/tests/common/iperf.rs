//! iperf3, and what it reports.

use std::time::Duration;

use anyhow::{Context, Result};
use mat_netns::{Cmd, Host, Process};
use serde_json::Value;

/// Starts a server; it serves one client after the other until the lab ends.
pub fn serve(host: &Host) -> Result<Process> {
    let server = host.spawn("iperf3 -s --forceflush")?;
    server.wait_for_log("listening", Duration::from_secs(5))?;
    Ok(server)
}

/// Bytes that a TCP transfer to (`-R`: from) `address` delivered.
pub fn tcp(client: &Host, address: &str, words: &str) -> Result<u64> {
    let end = run(client, address, &format!("-C cubic {words}"))?;
    end["sum_received"]["bytes"]
        .as_u64()
        .context("sum_received.bytes")
}

/// Datagrams that were sent to (`-R`: by) `address`, and how many of them were lost.
pub fn udp(client: &Host, address: &str, words: &str) -> Result<(u64, u64)> {
    let end = run(client, address, &format!("-u {words}"))?;
    let number = |key: &str| {
        end["sum"][key]
            .as_u64()
            .with_context(|| format!("sum.{key}"))
    };
    Ok((number("packets")?, number("lost_packets")?))
}

fn run(client: &Host, address: &str, words: &str) -> Result<Value> {
    let iperf = Cmd::new("iperf3").words("-J -c").arg(address).words(words);
    let report = client.run(iperf.timeout(Duration::from_secs(30)))?;
    let report: Value = serde_json::from_str(&report)?;
    Ok(report["end"].clone())
}

//! TCP streams, by iperf3 with cubic.

use std::time::Duration;

use anyhow::Result;
use mat_netns::Cmd;

use super::iperf;
use crate::course::{Course, PATIENCE};
use crate::record::Transfer;

/// From left to right, for so many seconds.
pub fn run(course: &Course, streams: u32, seconds: u32) -> Result<Transfer> {
    let server = course
        .right
        .spawn("iperf3 --server --one-off --forceflush")?;
    server.wait_for_log("listening", PATIENCE)?;
    let client = Cmd::new("iperf3")
        .args(["--client", course.to, "--bind", course.from])
        .args(["--time", &seconds.to_string()])
        .args(["--parallel", &streams.to_string()])
        .words("--congestion cubic --json")
        .timeout(Duration::from_secs(seconds.into()) + PATIENCE);
    let output = course.left.exec(client);
    let transfer = output.and_then(|o| iperf::read(&String::from_utf8_lossy(&o.stdout)));
    if transfer.is_err() {
        // Nobody comes any more, and the next one needs the port.
        server.stop(PATIENCE)?;
    }
    let transfer = transfer?;
    server.wait_success(PATIENCE)?;
    Ok(transfer)
}

//! What iperf3 measures: TCP streams with cubic, and datagrams of one size as fast as it can.

mod output;

use std::time::Duration;

use anyhow::Result;
use mat_netns::Cmd;

use crate::course::{Course, PATIENCE};
use crate::record::Transfer;
use output::Output;

/// So many TCP streams from left to right, for so many seconds.
pub fn tcp(course: &Course, streams: u32, seconds: u32) -> Result<Transfer> {
    let streams = streams.to_string();
    let words = ["--congestion", "cubic", "--parallel", &streams];
    run(course, &words, seconds)?.tcp()
}

/// Datagrams with so many octets of payload from left to right, for so many seconds.
pub fn udp(course: &Course, octets: usize, seconds: u32) -> Result<Transfer> {
    let length = octets.to_string();
    let words = ["--udp", "--bitrate", "0", "--length", &length];
    run(course, &words, seconds)?.udp(octets)
}

/// Tells what the client wrote.
fn run(course: &Course, words: &[&str], seconds: u32) -> Result<Output> {
    let server = course
        .right
        .spawn("iperf3 --server --one-off --forceflush")?;
    server.wait_for_log("listening", PATIENCE)?;
    let client = Cmd::new("iperf3")
        .args(["--client", course.to, "--bind", course.from])
        .args(["--time", &seconds.to_string()])
        .args(words)
        .arg("--json")
        .timeout(Duration::from_secs(seconds.into()) + PATIENCE);
    let output = course.left.exec(client);
    let output = output.and_then(|o| Output::read(&String::from_utf8_lossy(&o.stdout)));
    if output.is_err() {
        // Nobody comes any more, and the next one needs the port.
        server.stop(PATIENCE)?;
    }
    let output = output?;
    server.wait_success(PATIENCE)?;
    Ok(output)
}

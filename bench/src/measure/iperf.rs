//! What one run of iperf3 says in its JSON (`-J`). Pure.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::record::Transfer;

/// Reads the output of the client: all streams together, over the receiver's own time. The error
/// is iperf3's own where it reports one.
pub fn read(output: &str) -> Result<Transfer> {
    let json: Value = serde_json::from_str(output).context("iperf3 wrote no JSON")?;
    if let Some(error) = json["error"].as_str() {
        bail!("iperf3: {error}");
    }
    let end = |sum: &str, key: &str| -> Result<f64> {
        json["end"][sum][key]
            .as_f64()
            .with_context(|| format!("no end.{sum}.{key} in the output of iperf3"))
    };
    let transfer = Transfer {
        bytes: end("sum_received", "bytes")? as u64,
        mbps: end("sum_received", "bits_per_second")? / 1e6,
        retransmits: Some(end("sum_sent", "retransmits")? as u64),
        ..Transfer::default()
    };
    if transfer.bytes == 0 {
        bail!("iperf3: nothing arrived");
    }
    Ok(transfer)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = include_str!("../../samples/iperf3-3.12.json");

    #[test]
    fn a_recorded_run_is_read() {
        let transfer = read(SAMPLE).unwrap();
        assert_eq!(transfer.bytes, 3_765_698_560);
        assert_eq!(transfer.retransmits, Some(2));
        assert!((transfer.mbps - 29_849.48).abs() < 0.1, "{transfer:?}");
    }

    #[test]
    fn the_error_of_iperf3_is_passed_on() {
        let output = r#"{"start":{},"error":"unable to connect to server: Connection refused"}"#;
        let error = read(output).unwrap_err().to_string();
        assert!(error.contains("Connection refused"), "{error}");
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = read(r#"{"end":{"sum_received":{"bytes":1}}}"#).unwrap_err();
        assert!(error.to_string().contains("sum_received.bits_per_second"));
        assert!(read("").is_err());
    }

    #[test]
    fn a_flow_that_delivered_nothing_is_an_error() {
        let mut json: Value = serde_json::from_str(SAMPLE).unwrap();
        json["end"]["sum_received"]["bytes"] = 0.into();
        assert!(read(&json.to_string()).is_err());
    }
}

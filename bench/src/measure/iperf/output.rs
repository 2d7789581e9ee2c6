//! What one run of iperf3 says in its JSON (`--json`). Pure.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::record::Transfer;

/// The output of the client.
pub struct Output(Value);

impl Output {
    /// The error is iperf3's own where it reports one.
    pub fn read(text: &str) -> Result<Self> {
        let json: Value = serde_json::from_str(text).context("iperf3 wrote no JSON")?;
        if let Some(error) = json["error"].as_str() {
            bail!("iperf3: {error}");
        }
        let output = Output(json);
        if output.end("sum_received", "bytes")? == 0.0 {
            bail!("iperf3: nothing arrived");
        }
        Ok(output)
    }

    /// TCP: all streams together, over the receiver's own time.
    pub fn tcp(&self) -> Result<Transfer> {
        Ok(Transfer {
            retransmits: Some(self.end("sum_sent", "retransmits")? as u64),
            ..self.received()?
        })
    }

    /// Datagrams of `size` octets. What the receiver has got counts, not what it reckons from
    /// the sender's numbers.
    pub fn udp(&self, size: usize) -> Result<Transfer> {
        let received = self.received()?;
        let datagrams = received.bytes / size as u64;
        let seconds = self.end("sum_received", "seconds")?;
        Ok(Transfer {
            datagrams: Some(datagrams),
            datagrams_per_s: Some(datagrams as f64 / seconds),
            datagrams_sent: Some(self.end("sum_sent", "packets")? as u64),
            ..received
        })
    }

    fn received(&self) -> Result<Transfer> {
        Ok(Transfer {
            bytes: self.end("sum_received", "bytes")? as u64,
            mbps: self.end("sum_received", "bits_per_second")? / 1e6,
            ..Transfer::default()
        })
    }

    fn end(&self, sum: &str, key: &str) -> Result<f64> {
        self.0["end"][sum][key]
            .as_f64()
            .with_context(|| format!("no end.{sum}.{key} in the output of iperf3"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &str = include_str!("../../../samples/iperf3-3.12.json");
    const UDP: &str = include_str!("../../../samples/iperf3-3.12-udp.json");

    #[test]
    fn a_recorded_run_is_read() {
        let transfer = Output::read(TCP).unwrap().tcp().unwrap();
        assert_eq!(transfer.bytes, 3_765_698_560);
        assert_eq!(transfer.retransmits, Some(2));
        assert!((transfer.mbps - 29_849.48).abs() < 0.1, "{transfer:?}");
    }

    #[test]
    fn lost_datagrams_do_not_count() {
        let transfer = Output::read(UDP).unwrap().udp(64).unwrap();
        assert_eq!(transfer.datagrams_sent, Some(506_050));
        assert_eq!(transfer.datagrams, Some(477_158));
        let rate = transfer.datagrams_per_s.unwrap();
        assert!((rate - 477_129.8).abs() < 0.1, "{rate}");
        assert!((transfer.mbps - 244.29).abs() < 0.01, "{transfer:?}");
    }

    #[test]
    fn the_error_of_iperf3_is_passed_on() {
        let output = r#"{"start":{},"error":"unable to connect to server: Connection refused"}"#;
        let error = Output::read(output).err().unwrap().to_string();
        assert!(error.contains("Connection refused"), "{error}");
    }

    #[test]
    fn what_is_missing_is_named() {
        let output = Output::read(r#"{"end":{"sum_received":{"bytes":1}}}"#).unwrap();
        let error = output.tcp().unwrap_err().to_string();
        assert!(error.contains("sum_sent.retransmits"), "{error}");
        assert!(Output::read("").is_err());
    }

    #[test]
    fn a_flow_that_delivered_nothing_is_an_error() {
        let mut json: Value = serde_json::from_str(TCP).unwrap();
        json["end"]["sum_received"]["bytes"] = 0.into();
        assert!(Output::read(&json.to_string()).is_err());
    }
}

//! A measured transfer (`matctl measure`) between two hosts, in both directions, that runs until
//! whoever started it has done what it wanted to do meanwhile.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{Instance, Testbed};
use crate::{Cmd, Host, Process, Signal, wait_until};

/// Longer than any pause that a connection is to survive here.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts a server; it runs until the lab ends.
pub fn serve(bed: &Testbed, host: &Host) -> Result<Process> {
    let server = host.spawn(matctl(bed).words("measure server").name("measure-server"))?;
    server.wait_for_log("listening on", PATIENCE)?;
    Ok(server)
}

/// A transfer under way.
#[derive(Debug)]
pub struct Transfer {
    client: Process,
    report: std::path::PathBuf,
}

impl Transfer {
    /// Starts to measure from `host` to the server at `address`; `more` are further arguments.
    /// Returns once data flows in both directions.
    pub fn start(bed: &Testbed, host: &Host, address: &str, more: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let report = bed.lab.dir().join(format!("report-{n}.json"));
        let client = matctl(bed)
            .words("measure client --progress --duration 120 --stall-limit 60 --json")
            .arg(&report)
            .arg(address)
            .words(more)
            .name(format!("measure-client-{n}"));
        let transfer = Transfer {
            client: host.spawn(client)?,
            report,
        };
        transfer.flows()?;
        Ok(transfer)
    }

    /// One over each family, from an instance to the server at another; `more` are further
    /// arguments.
    pub fn both(
        bed: &Testbed,
        from: &Instance,
        to: &Instance,
        more: &str,
    ) -> Result<[(&'static str, Self); 2]> {
        Ok([
            ("IPv4", Transfer::start(bed, &from.host, &to.home, more)?),
            ("IPv6", Transfer::start(bed, &from.host, &to.home6, more)?),
        ])
    }

    /// Waits until data has flowed in both directions, TCP and probes, since this call.
    pub fn flows(&self) -> Result<()> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros() as u64;
        let probes = |line: &Value| line["udp_down_received"].as_u64().unwrap_or(0);
        let before = self.latest().as_ref().map_or(0, probes);
        self.wait("data in both directions", |line| {
            let number = |name: &str| line[name].as_f64().unwrap_or(0.0);
            // A line speaks of the 100 ms before it.
            number("t_unix_us") > (since + 100_000) as f64
                && number("up_mbps") > 0.0
                && number("down_mbps") > 0.0
                && probes(line) > before
        })
    }

    /// Ends the transfer and demands that every connection survived, byte for byte. Prints what
    /// was measured, and returns the report.
    pub fn finish(self, what: &str) -> Result<Value> {
        self.client.signal(Signal::SIGINT)?;
        let status = self.client.wait(PATIENCE)?;
        let text = std::fs::read_to_string(&self.report)
            .with_context(|| format!("no report; the client says:\n{}", self.client.log_tail()))?;
        let report: Value = serde_json::from_str(&text)?;
        let (tcp, udp) = (&report["tcp"], &report["udp"]);
        println!(
            "{what}: {} MB, longest stall {} ms, {} retransmits, {} timeouts; probes: {} of {} \
             lost, {} late, longest gap {} ms",
            tcp["bytes"].as_u64().unwrap_or(0) / 1_000_000,
            tcp["longest_stall_ms"],
            tcp["retransmits"],
            tcp["rtos"],
            udp["lost"],
            udp["sent"],
            udp["reordered"],
            udp["longest_gap_ms"],
        );
        let whole = tcp["survived"] == true && tcp["intact"] == true;
        let crowd = &report["connections"];
        ensure!(
            whole && crowd["opened"] == crowd["intact"] && tcp["bytes"].as_u64() > Some(0),
            "{what}: not every connection survived intact:\n{tcp:#}\n{crowd:#}\nup: {}\ndown: {}",
            report["tcp_up"]["failure"],
            report["tcp_down"]["failure"],
        );
        ensure!(status.success(), "{what}: the client ended with {status}");
        Ok(report)
    }

    /// Waits until a line of progress meets the condition.
    pub fn wait(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Result<()> {
        wait_until(PATIENCE, what, || {
            if let Some(status) = self.client.status() {
                return Some(bail_out(status, &self.client));
            }
            self.latest().filter(&holds).map(|_| Ok(()))
        })
        .with_context(|| format!("the last progress was {:?}", self.latest()))?
    }

    /// The client's last line of progress.
    fn latest(&self) -> Option<Value> {
        let log = self.client.log();
        let (whole, _torn) = log.rsplit_once('\n')?;
        serde_json::from_str(whole.lines().last()?).ok()
    }
}

fn bail_out(status: std::process::ExitStatus, client: &Process) -> Result<()> {
    bail!("the client ended with {status}:\n{}", client.log_tail())
}

fn matctl(bed: &Testbed) -> Cmd {
    Cmd::new(bed.options().binaries.join("matctl"))
}

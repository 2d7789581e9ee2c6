//! The zone, the questions and the updates; dnsperf and what it says.

use std::cell::Cell;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use mat_bench::stats::percentile;
use mat_netns::dns_servers::program;
use mat_netns::{Cmd, Host, Lab, Process, wait_until};
use serde::{Deserialize, Serialize};

use crate::servers::{ADDRESS, KEY, SECRET, ZONE};

/// Questions a second when it is asked how long they take.
const PACE: u32 = 10_000;
/// Questions outstanding when it is asked how many can be answered.
const OUTSTANDING: u32 = 100;
/// More updates than any server carries out in a measurement.
pub const UPDATES: usize = 400_000;

/// Everything that is sent to a server.
pub struct Load {
    bindings: u32,
    seconds: u32,
    folder: PathBuf,
    zone: PathBuf,
    questions: PathBuf,
    /// The next epoch that no binding has yet.
    epoch: Cell<u64>,
}

/// What dnsperf says of a run.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Said {
    /// Answers a second.
    pub rate: f64,
    /// Mean time to one, in ms.
    pub mean_ms: f64,
    /// Without an answer in 5 s.
    pub lost: u64,
    /// Answered with anything but NOERROR.
    pub refused: u64,
}

impl Load {
    /// Writes the zone and the questions.
    pub fn new(lab: &Lab, bindings: u32, seconds: u32) -> Result<Self> {
        let mut zone = format!(
            "$ORIGIN {ZONE}.\n@ 300 SOA ns hostmaster 1 60 10 86400 2\n@ 300 NS ns\n\
             ns 300 A 192.0.2.53\n"
        );
        let mut questions = String::new();
        for n in shuffled(bindings, 1) {
            writeln!(zone, "{} 0 {}", owner(n), data(n, 1))?;
            writeln!(questions, "{}.{ZONE} SVCB", owner(n))?;
        }
        Ok(Load {
            bindings,
            seconds,
            folder: lab.dir().to_owned(),
            zone: lab.write("zone", zone)?,
            questions: lab.write("questions", questions)?,
            epoch: Cell::new(2),
        })
    }

    /// The zone file.
    pub fn zone(&self) -> &Path {
        &self.zone
    }

    /// Until the server answers for the zone.
    pub fn wait_for_answer(&self, host: &Host) -> Result<()> {
        let (ip, port) = ADDRESS;
        let last = owner(self.bindings - 1);
        let ask = format!("dig @{ip} -p {port} {last}.{ZONE} SVCB +short +time=1 +tries=1");
        wait_until(Duration::from_secs(120), "an answer", || {
            let said = host.exec(ask.as_str()).ok()?;
            said.stdout.starts_with(b"1").then_some(())
        })
    }

    /// As many questions as are answered.
    pub fn queries(&self, host: &Host) -> Result<Said> {
        let asking = self.asking()?.args(["-q", &OUTSTANDING.to_string()]);
        said(&host.run(asking)?)
    }

    /// 99th percentile of the time to an answer, in ms.
    pub fn query_p99(&self, host: &Host) -> Result<f64> {
        let asking = self.asking()?.args(["-v", "-Q", &PACE.to_string()]);
        p99(&host.run(asking)?)
    }

    /// As many updates as are carried out.
    pub fn updates(&self, host: &Host, outstanding: u32) -> Result<Said> {
        let updating = self.updating(UPDATES)?;
        said(&host.run(updating.args(["-q", &outstanding.to_string()]))?)
    }

    /// 99th percentile of the time to an answer at `rate` a second, in ms.
    pub fn update_p99(&self, host: &Host, rate: f64) -> Result<f64> {
        let updating = self.updating(UPDATES)?;
        let rate = format!("{rate:.0}");
        p99(&host.run(updating.args(["-v", "-q", "1000", "-Q", &rate]))?)
    }

    /// Sends `rate` updates a second until about the end of the next measurement.
    pub fn begin_updates(&self, host: &Host, rate: u32) -> Result<(&'static str, Process)> {
        let count = rate as usize * self.seconds as usize * 2;
        let updating = self.updating(count)?;
        let process = host.spawn(updating.args(["-q", "1000", "-Q", &rate.to_string()]))?;
        Ok(("the updates beside the questions", process))
    }

    fn asking(&self) -> Result<Cmd> {
        self.dnsperf(&self.questions)
    }

    fn updating(&self, count: usize) -> Result<Cmd> {
        let path = self.folder.join("updates");
        std::fs::write(&path, self.changes(count))?;
        let key = format!("hmac-sha256:{KEY}:{SECRET}");
        // Each once: twice the same would be a lower epoch.
        let once = ["-n", "1", "-u", "-y", &key];
        Ok(self.dnsperf(&path)?.args(once))
    }

    fn dnsperf(&self, file: &Path) -> Result<Cmd> {
        let (ip, port) = ADDRESS;
        let (port, seconds) = (port.to_string(), self.seconds.to_string());
        let words = ["-s", ip, "-p", &port, "-c", "4", "-l", &seconds];
        Ok(program("dnsperf")?.cmd().args(words).arg("-d").arg(file))
    }

    /// Moves, in an order in which no binding comes twice while its last one is under way.
    fn changes(&self, count: usize) -> String {
        let mut text = String::new();
        let mut left = count;
        while left > 0 {
            let epoch = self.epoch.replace(self.epoch.get() + 1);
            for n in shuffled(self.bindings, 2).into_iter().take(left) {
                let (owner, data) = (owner(n), data(n, epoch));
                // Writing into a String does not fail.
                let _ = write!(
                    text,
                    "{ZONE}\ndelete {owner} SVCB\nadd {owner} 0 {data}\nsend\n"
                );
                left -= 1;
            }
        }
        text
    }
}

/// The owner of the n-th binding, below the zone.
fn owner(n: u32) -> String {
    let [_, high, middle, low] = n.to_be_bytes();
    format!("{low}.{middle}.{high}.10.h4")
}

/// What it holds.
fn data(n: u32, epoch: u64) -> String {
    let [_, high, middle, low] = n.to_be_bytes();
    format!(
        "SVCB 1 . port=6283 ipv4hint=100.{high}.{middle}.{low} key65280=\"{epoch}\" \
         key65281=\"native\" key65282=\"30\""
    )
}

/// All numbers below `count`, in an order that looks like none.
fn shuffled(count: u32, seed: u64) -> Vec<u32> {
    let mut numbers: Vec<u32> = (0..count).collect();
    // xorshift64*: good enough to spread names.
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for at in (1..numbers.len()).rev() {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let random = state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        numbers.swap(at, random as usize % (at + 1));
    }
    numbers
}

/// Reads dnsperf's statistics.
fn said(text: &str) -> Result<Said> {
    let after = |label: &str| {
        let line = text
            .lines()
            .find_map(|line| line.trim().strip_prefix(label));
        line.map(str::trim)
    };
    let number =
        |label: &str| -> Option<f64> { after(label)?.split_whitespace().next()?.parse().ok() };
    let of = |one: &str, other: &str| {
        let number = number(one).or_else(|| number(other));
        number.with_context(|| format!("dnsperf does not say {one:?}:\n{text}"))
    };
    let codes = after("Response codes:").unwrap_or_default();
    let refused = codes
        .split(", ")
        .filter(|code| !code.starts_with("NOERROR"));
    let refused = refused.filter_map(|code| code.split(' ').nth(1)?.parse::<u64>().ok());
    Ok(Said {
        rate: of("Queries per second:", "Updates per second:")?,
        mean_ms: 1e3 * of("Average Latency (s):", "Average Latency (s):")?,
        lost: of("Queries lost:", "Updates lost:")? as u64,
        refused: refused.sum(),
    })
}

/// Reads what dnsperf says of each answer: `> NOERROR name type seconds`; in ms.
fn p99(text: &str) -> Result<f64> {
    let answers = text.lines().filter(|line| line.starts_with("> "));
    let seconds = answers.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    let ms: Vec<f64> = seconds.map(|s| s * 1e3).collect();
    percentile(&ms, 99.0).with_context(|| format!("dnsperf tells of no answer:\n{text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dnsperf_says_is_read() {
        let text = "\n  Updates sent:         87489\n  Updates lost:         776 (0.89%)\n\n  \
                    Response codes:       NOERROR 73895 (85.22%), REFUSED 12816 (14.78%)\n  \
                    Updates per second:   17293.822262\n\n  \
                    Average Latency (s):  0.012924 (min 0.000046, max 0.035974)\n";
        let said = said(text).unwrap();
        assert_eq!((said.lost, said.refused), (776, 12816));
        assert!((said.rate - 17_293.8).abs() < 0.1 && (said.mean_ms - 12.924).abs() < 0.001);
        let answers = "> NOERROR a SVCB 0.001\n> NOERROR b SVCB 0.003\n[Status] done\n";
        assert!((p99(answers).unwrap() - 3.0).abs() < 1e-9);
    }

    #[test]
    fn a_shuffle_keeps_each_number_once() {
        let mut numbers = shuffled(1000, 7);
        assert_ne!(numbers, shuffled(1000, 8));
        numbers.sort_unstable();
        assert_eq!(numbers, (0..1000).collect::<Vec<_>>());
    }
}

//! On what a result was measured: as much as a reader needs to compare, and no names of machines
//! or paths.

use std::fs;
use std::process::Command;
use std::thread::available_parallelism;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Hardware and programs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Model of the processor.
    pub cpu: String,
    /// Processors this process may use.
    pub cores: usize,
    /// Version of the kernel, without its local suffix.
    pub kernel: String,
    /// Version of iperf3.
    pub iperf3: String,
}

impl Machine {
    /// This one.
    pub fn here() -> Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo")?;
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("osrelease")?;
        Ok(Machine {
            cpu: cpu_model(&cpuinfo),
            cores: available_parallelism()?.get(),
            kernel: release.trim().split('-').next().unwrap_or("?").to_owned(),
            iperf3: first_line("iperf3", &["--version"])?,
        })
    }

    /// For the name of a folder.
    pub fn slug(&self) -> String {
        slug(&format!(
            "{} {} cores linux {}",
            self.cpu, self.cores, self.kernel
        ))
    }
}

/// The load averages over 1, 5 and 15 minutes.
pub fn load() -> Result<[f64; 3]> {
    let text = fs::read_to_string("/proc/loadavg").context("/proc/loadavg")?;
    let mut numbers = text.split(' ').map_while(|word| word.parse().ok());
    let mut next = || numbers.next().context("three numbers in /proc/loadavg");
    Ok([next()?, next()?, next()?])
}

/// The time of day, UTC, as in `2026-01-31T12:00:00Z`.
pub fn utc() -> Result<String> {
    first_line("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"])
}

/// The commit that is checked out, with a `+` if files other than results differ from it; `None`
/// outside a repository.
pub fn commit() -> Option<String> {
    let commit = first_line("git", &["rev-parse", "--short=12", "HEAD"]).ok()?;
    let differing = [
        "diff",
        "--name-only",
        "HEAD",
        "--",
        ":(top,exclude)bench/results",
    ];
    let clean = first_line("git", &differing).ok()?.is_empty();
    (!commit.is_empty()).then(|| commit + if clean { "" } else { "+" })
}

fn first_line(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program).args(args).output();
    let output = output.with_context(|| format!("cannot run {program}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().unwrap_or_default();
    // iperf3 adds the version of a library in parentheses.
    Ok(line.split(" (").next().unwrap_or_default().to_owned())
}

fn cpu_model(cpuinfo: &str) -> String {
    let lines = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    let mut models = lines.filter(|(key, _)| key.trim() == "model name");
    let model = models
        .next()
        .map_or("unknown processor", |(_, model)| model.trim());
    model.replace("(R)", "").replace("(TM)", "")
}

/// Lower case, with one dash for whatever is neither letter, digit nor dot.
fn slug(text: &str) -> String {
    let text = text.to_lowercase();
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '.');
    words
        .filter(|w| !w.is_empty())
        .collect::<Vec<_>>()
        .join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_found_and_spelled_plainly() {
        let cpuinfo = "processor\t: 0\nmodel\t\t: 167\nmodel name\t: Intel(R) Xeon(R) Processor\n";
        assert_eq!(cpu_model(cpuinfo), "Intel Xeon Processor");
        assert_eq!(cpu_model("processor\t: 0\n"), "unknown processor");
    }

    #[test]
    fn a_slug_is_fit_for_a_folder() {
        assert_eq!(
            slug("AMD Ryzen 7 @ 3.6GHz, 8 cores"),
            "amd-ryzen-7-3.6ghz-8-cores"
        );
    }
}

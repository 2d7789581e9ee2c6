//! The raw results: JSON, one record a line, written as they come, so that an interrupted run
//! keeps what it has. Units are in the names.
//!
//! A file begins with `{"run": ..}`, the circumstances. Then come, in any order, a
//! `{"contender": ..}` for each one that takes part, a `{"skipped": ..}` for each one that does
//! not, a `{"sample": ..}` for each measurement and a `{"failed": ..}` for each one that came to
//! nothing.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::plan::{Conditions, Family, Measure, SetUp};

/// Name and version of the format.
pub const SCHEMA: &str = "mat.bench/2";

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// The circumstances.
    Run(Run),
    /// Takes part.
    Contender(About),
    /// Does not take part.
    Skipped(Skipped),
    /// One measurement.
    Sample(Sample),
    /// A measurement that came to nothing.
    Failed(Failed),
}

/// The circumstances.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// [`SCHEMA`].
    pub schema: String,
    /// The arguments.
    pub command: String,
    /// UTC.
    pub started: String,
    /// On what.
    pub machine: Machine,
    /// Load averages over 1, 5 and 15 minutes before anything was started.
    pub load_at_start: [f64; 3],
    /// `release` or `debug`.
    pub build: String,
    /// What was built, as far as the checked-out files tell.
    pub commit: Option<String>,
    /// Of the addresses.
    pub family: Family,
    /// The link between the ends, and other load.
    #[serde(alias = "link")]
    pub conditions: Conditions,
    /// How many were planned.
    pub rounds: u32,
    /// Length of one transfer.
    pub seconds: u32,
    /// Decides the order of the contenders in each turn.
    pub seed: u64,
}

/// Who takes part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// Its id.
    pub id: String,
    /// Version or active packet path, where there is one to tell.
    pub about: String,
}

/// Who does not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Skipped {
    /// Its id.
    pub id: String,
    /// What is missing.
    pub why: String,
}

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// From 0.
    pub round: u32,
    /// What the veths carried.
    pub set_up: SetUp,
    /// What was measured.
    pub measure: Measure,
    /// Id of the contender.
    pub contender: String,
    /// Load average over 1 minute just before.
    pub load: f64,
    /// The result.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What a measurement gives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// TCP or UDP.
    Transfer(Transfer),
    /// Question and answer.
    RoundTrips(RoundTrips),
}

/// Payload from one end to the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Transfer {
    /// Payload that arrived, in octets.
    pub bytes: u64,
    /// The same in Mbit/s.
    pub mbps: f64,
    /// Datagrams that arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datagrams: Option<u64>,
    /// The same per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datagrams_per_s: Option<f64>,
    /// Datagrams that were sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datagrams_sent: Option<u64>,
    /// Segments sent again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retransmits: Option<u64>,
    /// Frames that a wide-area link did not deliver, in both directions: its bottleneck's buffer
    /// was full, or the machine too slow to carry them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_drops: Option<u64>,
    /// Seconds that all processors of the machine together were busy meanwhile, whatever with.
    pub cpu_s: f64,
    /// Of them, those of the contender's own processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwarders_cpu_s: Option<f64>,
    /// What the forwarder at the sender's got by one read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_read: Option<f64>,
}

/// Question and answer, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoundTrips {
    /// How many were answered.
    pub answered: u32,
    /// How many were not.
    pub lost: u32,
    /// Percentiles of the time until the answer.
    pub p50_us: f64,
    /// The same.
    pub p90_us: f64,
    /// The same.
    pub p99_us: f64,
    /// The longest.
    pub longest_us: f64,
}

/// A measurement that came to nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failed {
    /// From 0.
    pub round: u32,
    /// What the veths carried.
    pub set_up: SetUp,
    /// What was to be measured.
    pub measure: Measure,
    /// Id of the contender.
    pub contender: String,
    /// What went wrong.
    pub why: String,
}

/// A file that grows.
pub struct Log(File);

impl Log {
    /// Begins `<stem>.jsonl` in the folder, which is made if missing; never replaces a file.
    pub fn create(folder: &Path, stem: &str) -> Result<(Self, PathBuf)> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let path = folder.join(stem).with_extension("jsonl");
        let file = OpenOptions::new().append(true).create_new(true).open(&path);
        let file = file.with_context(|| format!("cannot make {}", path.display()))?;
        Ok((Log(file), path))
    }

    /// Adds a line.
    pub fn add(&mut self, record: &Record) -> Result<()> {
        let mut line = serde_json::to_string(record)?;
        line.push('\n');
        self.0.write_all(line.as_bytes()).context("raw results")
    }
}

/// Everything in one file.
#[derive(Clone, Debug)]
pub struct Results {
    /// The circumstances.
    pub run: Run,
    /// Who took part.
    pub contenders: Vec<About>,
    /// Who did not.
    pub skipped: Vec<Skipped>,
    /// In the order they were taken.
    pub samples: Vec<Sample>,
    /// What came to nothing.
    pub failed: Vec<Failed>,
}

/// Every file of [`SCHEMA`] in a folder, by name, which is by time.
pub fn read_folder(folder: &Path) -> Result<Vec<Results>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()));
    let paths = entries?.map(|entry| Ok(entry?.path()));
    let mut paths: Vec<PathBuf> = paths.collect::<Result<_>>()?;
    paths.retain(|path| path.extension().is_some_and(|e| e == "jsonl"));
    paths.sort();
    let mut all = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path);
        let text = text.with_context(|| format!("cannot read {}", path.display()))?;
        all.extend(parse(&text).with_context(|| path.display().to_string())?);
    }
    Ok(all)
}

/// `None` for a file of another format.
pub fn parse(text: &str) -> Result<Option<Results>> {
    let mut lines = text.lines();
    let first: serde_json::Value = serde_json::from_str(lines.next().unwrap_or_default())?;
    if first["run"]["schema"] != SCHEMA {
        return Ok(None);
    }
    let mut results = Results {
        run: serde_json::from_value(first["run"].clone())?,
        contenders: Vec::new(),
        skipped: Vec::new(),
        samples: Vec::new(),
        failed: Vec::new(),
    };
    for (n, line) in lines.enumerate() {
        let record = serde_json::from_str(line).with_context(|| format!("line {}", n + 2))?;
        match record {
            Record::Run(_) => anyhow::bail!("line {}: a second `run`", n + 2),
            Record::Contender(about) => results.contenders.push(about),
            Record::Skipped(skipped) => results.skipped.push(skipped),
            Record::Sample(sample) => results.samples.push(sample),
            Record::Failed(failed) => results.failed.push(failed),
        }
    }
    Ok(Some(results))
}

#[cfg(test)]
pub mod examples {
    //! For tests.

    use super::*;

    /// The circumstances of a run that never was.
    pub fn run() -> Run {
        Run {
            schema: SCHEMA.to_owned(),
            command: "mat-bench --quick".to_owned(),
            started: "2026-01-31T12:00:00Z".to_owned(),
            machine: Machine {
                cpu: "Example 9000".to_owned(),
                cores: 2,
                kernel: "6.1.0".to_owned(),
                iperf3: "iperf 3.12".to_owned(),
            },
            load_at_start: [0.5, 0.25, 0.0],
            build: "release".to_owned(),
            commit: Some("abc".to_owned()),
            family: Family::Ipv4,
            conditions: Conditions::default(),
            rounds: 2,
            seconds: 1,
            seed: 7,
        }
    }

    /// One TCP stream.
    pub fn tcp(round: u32, set_up: SetUp, contender: &str, mbps: f64) -> Sample {
        Sample {
            round,
            set_up,
            measure: Measure::Tcp1,
            contender: contender.to_owned(),
            load: 0.5,
            outcome: Outcome::Transfer(Transfer {
                bytes: (mbps * 125_000.0) as u64,
                mbps,
                retransmits: Some(0),
                cpu_s: 2.0,
                ..Transfer::default()
            }),
        }
    }

    /// A series of round trips.
    pub fn latency(round: u32, contender: &str, p50_us: f64) -> Sample {
        Sample {
            measure: Measure::Latency,
            outcome: Outcome::RoundTrips(RoundTrips {
                answered: 2000,
                lost: 0,
                p50_us,
                p90_us: p50_us * 2.0,
                p99_us: p50_us * 3.0,
                longest_us: p50_us * 10.0,
            }),
            ..tcp(round, SetUp::Tso, contender, 0.0)
        }
    }

    /// A file with these samples.
    pub fn results(samples: Vec<Sample>) -> Results {
        Results {
            run: run(),
            contenders: Vec::new(),
            skipped: Vec::new(),
            samples,
            failed: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(record: &Record) -> String {
        serde_json::to_string(record).unwrap() + "\n"
    }

    #[test]
    fn what_is_written_is_read_again() {
        let samples = vec![
            examples::tcp(0, SetUp::Wire, "mat", 1000.0),
            examples::latency(1, "direct", 12.5),
        ];
        let skipped = Skipped {
            id: "gotatun".to_owned(),
            why: "no such program".to_owned(),
        };
        let mut text = line(&Record::Run(examples::run()));
        text += &line(&Record::Skipped(skipped.clone()));
        for sample in &samples {
            text += &line(&Record::Sample(sample.clone()));
        }
        let results = parse(&text).unwrap().unwrap();
        assert_eq!(results.run, examples::run());
        assert_eq!(results.skipped, [skipped]);
        assert_eq!(results.samples, samples);
    }

    #[test]
    fn a_line_tells_what_was_measured_and_in_which_units() {
        let json = line(&Record::Sample(examples::tcp(3, SetUp::Tso, "mat", 8.0)));
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["sample"]["set_up"], "tso");
        assert_eq!(json["sample"]["measure"], "tcp1");
        assert_eq!(json["sample"]["transfer"]["mbps"], 8.0);
    }

    #[test]
    fn other_formats_are_left_alone_and_broken_lines_named() {
        let other = r#"{"run":{"schema":"mat.bench/1"}}"#;
        assert!(parse(other).unwrap().is_none());
        let broken = line(&Record::Run(examples::run())) + "{\"sample\":{}}\n";
        let error = parse(&broken).unwrap_err().to_string();
        assert_eq!(error, "line 2");
        assert!(parse("").is_err());
    }
}

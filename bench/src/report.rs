//! What a run leaves: raw results for machines, a table for people.
//!
//! The raw file holds one JSON object a line: first `{"run": ..}`, then a `{"flow": ..}` for each
//! flow and a `{"round_trips": ..}` for each series of pings. Units are in the names.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::course::{Contender, Family, Links};
use crate::machine::Machine;
use crate::stats::{self, Summary};

/// Name and version of the raw format.
pub const SCHEMA: &str = "mat.bench/1";

/// The circumstances.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// [`SCHEMA`].
    pub schema: String,
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
    /// How many.
    pub rounds: u32,
    /// Length of one flow.
    pub seconds: u32,
    /// The packet paths that the forwarders reported as active.
    pub paths: BTreeMap<Contender, String>,
}

/// One TCP flow.
#[derive(Clone, Debug, Serialize)]
pub struct Flow {
    /// What the links carried.
    pub links: Links,
    /// From 0.
    pub round: u32,
    /// Who carried it.
    pub contender: Contender,
    /// Payload that arrived.
    pub mbps: f64,
    /// Segments sent again.
    pub retransmits: u64,
}

/// One series of pings.
#[derive(Clone, Debug, Serialize)]
pub struct RoundTrips {
    /// From 0.
    pub round: u32,
    /// Who carried them.
    pub contender: Contender,
    /// How many were sent.
    pub sent: u32,
    /// Those that came back, in microseconds.
    pub us: Vec<f64>,
}

/// Everything.
#[derive(Clone, Debug)]
pub struct Results {
    /// The circumstances.
    pub run: Run,
    /// In the order they ran.
    pub flows: Vec<Flow>,
    /// In the order they ran.
    pub round_trips: Vec<RoundTrips>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Record<'a> {
    Run(&'a Run),
    Flow(&'a Flow),
    RoundTrips(&'a RoundTrips),
}

impl Run {
    /// Where its results belong, from the top of the repository.
    pub fn folder(&self) -> PathBuf {
        let date = self.started.split('T').next().unwrap_or_default();
        Path::new("bench/results").join(format!("{date}-{}", self.machine.slug()))
    }

    fn family(&self) -> (&'static str, &'static str) {
        match self.family {
            Family::Ipv4 => ("IPv4", "ipv4"),
            Family::Ipv6 => ("IPv6", "ipv6"),
        }
    }

    fn command(&self) -> String {
        let ipv6 = if self.family == Family::Ipv6 {
            " --ipv6"
        } else {
            ""
        };
        format!(
            "mat-bench --rounds {} --seconds {}{ipv6}",
            self.rounds, self.seconds
        )
    }
}

impl Results {
    /// Writes `ipv4.jsonl` and `ipv4.md` (or `ipv6`) and gives back the table.
    pub fn save(&self, folder: &Path) -> Result<String> {
        let (_, stem) = self.run.family();
        let save = |extension: &str, text: &str| {
            let path = folder.join(stem).with_extension(extension);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let table = self.table();
        save("jsonl", &self.raw()?)?;
        save("md", &table)?;
        Ok(table)
    }

    fn raw(&self) -> Result<String> {
        let run = [Record::Run(&self.run)];
        let flows = self.flows.iter().map(Record::Flow);
        let round_trips = self.round_trips.iter().map(Record::RoundTrips);
        let mut text = String::new();
        for record in run.into_iter().chain(flows).chain(round_trips) {
            text += &serde_json::to_string(&record)?;
            text.push('\n');
        }
        Ok(text)
    }

    fn table(&self) -> String {
        let Run {
            machine,
            load_at_start: load,
            ..
        } = &self.run;
        let mut text = format!(
            "## One TCP flow and pings over {family}\n\n\
             {started}; {cpu}, {cores} cores, Linux {kernel}, {iperf3}; \
             load average at start {} {} {}; {build} build{commit}.\n\
             Command: `{command}`. Every round has one flow of {seconds} s (cubic) for each path \
             and kind of link and {pings} pings for each path. \
             Sender, receiver, router and both forwarders share the processors.\n\
             Median [lowest .. highest]; ratios are to kernel forwarding in the same round.\n\n",
            load[0],
            load[1],
            load[2],
            family = self.run.family().0,
            started = self.run.started,
            cpu = machine.cpu,
            cores = machine.cores,
            kernel = machine.kernel,
            iperf3 = machine.iperf3,
            build = self.run.build,
            commit = self
                .run
                .commit
                .as_ref()
                .map_or(String::new(), |c| format!(", commit {c}")),
            command = self.run.command(),
            seconds = self.run.seconds,
            pings = self.round_trips.first().map_or(0, |series| series.sent),
        );
        text += "| path |";
        for links in Links::ALL {
            // Writing to a String cannot fail.
            let _ = write!(text, " {links}, Gbit/s | ratio |");
        }
        text += " round trip p50, µs | p99, µs |\n|---|";
        text += &"---|".repeat(2 * Links::ALL.len() + 2);
        text.push('\n');
        for contender in Contender::ALL {
            text += &self.row(contender);
        }
        for (contender, path) in &self.run.paths {
            let _ = write!(text, "\n{contender}: {path}.");
        }
        text.push('\n');
        text
    }

    fn row(&self, contender: Contender) -> String {
        let mut row = format!("| {contender} |");
        for links in Links::ALL {
            let gbps = self.gbps(links, contender);
            let ratios = stats::ratios(&gbps, &self.gbps(links, Contender::Kernel));
            let gbps: Vec<f64> = gbps.into_iter().map(|(_, gbps)| gbps).collect();
            let ratio = match contender {
                Contender::Kernel => "1".to_owned(),
                _ => show(&ratios, 2),
            };
            row += &format!(" {} | {ratio} |", show(&gbps, 1));
        }
        let series = self.round_trips.iter().filter(|s| s.contender == contender);
        let us: Vec<f64> = series.flat_map(|s| s.us.iter().copied()).collect();
        for percent in [50.0, 99.0] {
            let us = stats::percentile(&us, percent);
            row += &us.map_or(" - |".to_owned(), |us| format!(" {us:.0} |"));
        }
        row.push('\n');
        row
    }

    /// By round.
    fn gbps(&self, links: Links, contender: Contender) -> Vec<(u32, f64)> {
        let flows = self.flows.iter();
        flows
            .filter(|f| (f.links, f.contender) == (links, contender))
            .map(|f| (f.round, f.mbps / 1000.0))
            .collect()
    }
}

fn show(samples: &[f64], digits: usize) -> String {
    Summary::of(samples).map_or("-".to_owned(), |s| {
        format!(
            "{:.digits$} [{:.digits$} .. {:.digits$}]",
            s.median, s.lowest, s.highest
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results() -> Results {
        let flow = |round, contender, mbps| Flow {
            links: Links::SuperPackets,
            round,
            contender,
            mbps,
            retransmits: 0,
        };
        Results {
            run: Run {
                schema: SCHEMA.to_owned(),
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
                family: Family::Ipv6,
                rounds: 2,
                seconds: 3,
                paths: BTreeMap::from([(Contender::Mat, "plain packets".to_owned())]),
            },
            flows: vec![
                flow(0, Contender::Kernel, 10_000.0),
                flow(0, Contender::Mat, 6_000.0),
                flow(1, Contender::Mat, 8_000.0),
                flow(1, Contender::Kernel, 20_000.0),
            ],
            round_trips: vec![RoundTrips {
                round: 0,
                contender: Contender::Mat,
                sent: 3,
                us: vec![90.0, 120.0, 70.0],
            }],
        }
    }

    #[test]
    fn the_table_compares_within_rounds() {
        let table = results().table();
        let row = "| MAT, native | 7.0 [6.0 .. 8.0] | 0.50 [0.40 .. 0.60] | - | - | 90 | 120 |\n";
        assert!(table.contains(row), "{table}");
        assert!(
            table.contains("| kernel forwarding | 15.0 [10.0 .. 20.0] | 1 | - | 1 | - | - |\n")
        );
    }

    #[test]
    fn the_table_tells_the_circumstances() {
        let table = results().table();
        for what in [
            "IPv6",
            "Example 9000, 2 cores, Linux 6.1.0",
            "load average at start 0.5 0.25 0",
            "`mat-bench --rounds 2 --seconds 3 --ipv6`",
            "commit abc",
            "MAT, native: plain packets.",
        ] {
            assert!(table.contains(what), "{what} in {table}");
        }
    }

    #[test]
    fn the_raw_file_has_a_record_a_line() {
        let raw = results().raw().unwrap();
        let records: Vec<serde_json::Value> = raw
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(records.len(), 6);
        assert_eq!(records[0]["run"]["schema"], SCHEMA);
        assert_eq!(records[2]["flow"]["contender"], "mat");
        assert_eq!(records[5]["round_trips"]["us"][2], 70.0);
    }

    #[test]
    fn results_are_filed_under_date_and_machine() {
        let folder = results().run.folder();
        let expected = "bench/results/2026-01-31-example-9000-2-cores-linux-6.1.0";
        assert_eq!(folder, Path::new(expected));
    }
}

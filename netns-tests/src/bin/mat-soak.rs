//! Moves many bytes through the forwarders, in every combination of family, offloads, links and
//! impairment, and says whether one of them was wrong. See [`mat_netns::soak`].

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use mat_netns::results::{self, Keep};
use mat_netns::soak::{self, Settings};

/// Soak run in network namespaces (needs root; see scripts/privileged).
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Bytes that TCP moves in all cells together; k, M, G and T are powers of 1000
    #[arg(long, default_value = "5G", value_parser = bytes)]
    bytes: u64,
    /// Where all pseudo-random numbers start
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only cells whose names, FAMILY/TUN/LINKS/PATH, contain this; may be given several times,
    /// and then all must be contained
    #[arg(long, value_name = "PART")]
    only: Vec<String>,
    /// How long one cell may send, in seconds; what it leaves is moved by later cells, and the
    /// last one has no limit
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=86400))]
    cell_seconds: u64,
    #[command(flatten)]
    keep: Keep,
}

fn main() -> ExitCode {
    results::exit("mat-soak", run(&Args::parse()))
}

/// Whether all was right.
fn run(args: &Args) -> Result<bool> {
    let settings = Settings {
        bytes: args.bytes,
        seed: args.seed,
        only: args.only.clone(),
        cell_time: Duration::from_secs(args.cell_seconds),
    };
    let report = soak::run(&settings, |cell| println!("{cell}"))?;
    println!("{report}");
    args.keep.write(&report)?;
    Ok(report.passed())
}

/// A number with an optional suffix.
fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let factor = match &text[digits.len()..] {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        _ => return Err("write a number and k, M, G or T, for instance 100G".to_owned()),
    };
    let number: u64 = digits.parse().map_err(|error| format!("{error}"))?;
    number.checked_mul(factor).ok_or("too many".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_suffixes() {
        assert_eq!(bytes("100G"), Ok(100_000_000_000));
        assert_eq!(bytes("300M"), Ok(300_000_000));
        assert_eq!(bytes("12345678"), Ok(12_345_678));
        for wrong in ["", "G", "1.5G", "5GB", "-1", "99999999T"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}

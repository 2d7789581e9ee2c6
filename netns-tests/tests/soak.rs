//! The shortest form of `make soak`, and what becomes of a run that is broken off.
//! Needs root or a user namespace: `scripts/privileged cargo test -p mat-netns`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use mat_netns::soak::{self, Settings};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Moves this many bytes through the cells whose names contain `part`, which must all be sound.
fn soak(part: &str, bytes: u64, cells: usize) -> Result<()> {
    let settings = Settings {
        bytes,
        seed: 1,
        only: vec![part.to_owned()],
        cell_time: Duration::from_secs(10),
    };
    let report = soak::run(&settings, |cell| println!("{cell}"))?;
    assert!(report.passed(), "{report}");
    assert_eq!(report.cells.len(), cells);
    Ok(())
}

#[test]
fn no_byte_is_wrong_in_super_packets_and_partial_checksums_ipv4() -> Result<()> {
    soak("ipv4/offload", 150_000_000, 18)
}

#[test]
fn no_byte_is_wrong_in_super_packets_and_partial_checksums_ipv6() -> Result<()> {
    soak("ipv6/offload", 150_000_000, 18)
}

#[test]
fn no_byte_is_wrong_through_a_tun_without_offloads() -> Result<()> {
    soak("plain/bare", 50_000_000, 10)
}

#[test]
fn a_run_that_is_interrupted_fails_and_leaves_nothing() -> Result<()> {
    let mut run = Command::new(env!("CARGO_BIN_EXE_mat-soak"))
        .args([
            "--bytes",
            "1T",
            "--cell-seconds",
            "1",
            "--only",
            "ipv4/offload",
            "--only",
            "clean",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let pid = Pid::from_raw(run.id().try_into()?);
    let namespaces = || -> Result<Vec<String>> {
        let prefix = format!("mat-{pid}-");
        let names = fs::read_dir("/run/netns")?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let names: Vec<String> = names.collect::<Result<_>>()?;
        Ok(names
            .into_iter()
            .filter(|n| n.starts_with(&prefix))
            .collect())
    };

    // The last cell has no limit of time, so it is interrupted in mid-transfer at the latest.
    let mut lines = BufReader::new(run.stdout.take().context("stdout")?).lines();
    let first = lines.next().context("a line")??;
    assert!(first.contains("ipv4/offload/bare/clean"), "{first}");
    assert!(!namespaces()?.is_empty());
    kill(pid, Signal::SIGINT)?;
    let output = run.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("interrupted"), "{said}");
    assert_eq!(namespaces()?, Vec::<String>::new());
    Ok(())
}

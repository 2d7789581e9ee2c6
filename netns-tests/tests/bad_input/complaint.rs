//! A program that refuses to start, and what it says.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use mat_netns::{Cmd, Host};

/// Runs a command that must give up soon and with a status that says so; returns its complaint.
pub fn complaint(host: &Host, command: Cmd) -> Result<String> {
    let output = host.exec(command.clone().timeout(Duration::from_secs(10)))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.code() == Some(1),
        "`{command}`: {}: {said}",
        output.status
    );
    ensure!(!said.contains("panicked"), "`{command}`: {said}");
    Ok(said)
}

/// Asserts that a complaint holds all of these.
pub fn says(complaint: &str, words: &[&str]) {
    for word in words {
        assert!(complaint.contains(word), "`{word}` is not in: {complaint}");
    }
}

/// A copy of the file in which the one `from` is replaced.
pub fn changed(file: &Path, from: &str, to: &str) -> Result<PathBuf> {
    let text = std::fs::read_to_string(file)?;
    ensure!(
        text.matches(from).count() == 1,
        "`{from}` is not once in {}",
        file.display()
    );
    let copy = file.with_extension("changed.toml");
    std::fs::write(&copy, text.replace(from, to))?;
    Ok(copy)
}

/// The line, from 1, where `needle` begins.
pub fn line_of(file: &Path, needle: &str) -> Result<usize> {
    let text = std::fs::read_to_string(file)?;
    let before = text.split(needle).next().unwrap_or_default();
    Ok(before.matches('\n').count() + 1)
}

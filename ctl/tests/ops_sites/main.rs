//! The operator's commands against pretended forwarders and a real mapping service.

mod cli;
mod fake;
mod map;
mod moves;

use std::path::Path;
use std::process::{Command, Output};

fn matctl(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_matctl"))
        .args(args)
        .env("TZ", "UTC")
        .output()
        .expect("matctl runs")
}

fn with(config: &Path, args: &[&str]) -> Output {
    let config = config.to_str().expect("a path in UTF-8");
    matctl(&[args, &["--config", config]].concat())
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

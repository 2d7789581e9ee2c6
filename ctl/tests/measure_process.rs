//! Measurement between real processes: signals, deaths, exit statuses, what is printed.
//!
//! Without the usual test harness: started with `measure ...` this program *is* the tool under
//! test, and otherwise it runs the checks below against copies of itself.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use mat_ctl::measure::{self, MeasureCommand, Progress};
use mat_ctl::report::Report;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Gets a directory to write to, and panics if something is wrong.
type Check = fn(&Path);

#[derive(Parser)]
enum Tool {
    #[command(subcommand)]
    Measure(MeasureCommand),
}

fn main() -> anyhow::Result<ExitCode> {
    if std::env::args().nth(1).as_deref() == Some("measure") {
        let Tool::Measure(command) = Tool::parse();
        return measure::run(command);
    }
    let checks: [(&str, Check); 4] = [
        (
            "a killed server ends the client with a report",
            a_killed_server,
        ),
        (
            "a signal ends the client early with success",
            a_signalled_client,
        ),
        ("progress is a line of JSON every 100 ms", progress_lines),
        ("what cannot be measured is an error", errors),
    ];
    let dir = tempfile::tempdir()?;
    for (name, check) in checks {
        check(dir.path());
        println!("{name} ... ok");
    }
    Ok(ExitCode::SUCCESS)
}

fn a_killed_server(dir: &Path) {
    let mut server = Server::start();
    let json = dir.join("killed.json");
    let mut client = server.client(&[
        "--duration",
        "60",
        "--connections",
        "3",
        "--json",
        path(&json),
    ]);
    wait_until_measuring(&mut client);
    server.process.kill().expect("SIGKILL");
    let begun = Instant::now();
    let ended = end(client);
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let report = read(&json);
    assert!(!report.tcp.survived && report.connections.survived == 0);
    assert!(report.tcp_down.outcome.bytes > 0 && report.udp_up.outcome.received > 0);
}

fn a_signalled_client(dir: &Path) {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let server = Server::start();
        let json = dir.join("signalled.json");
        let mut client = server.client(&["--duration", "60", "--json", path(&json)]);
        wait_until_measuring(&mut client);
        kill(Pid::from_raw(client.id() as i32), signal).expect("a signal");
        let ended = end(client);
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        let report = read(&json);
        assert_eq!(report.meta.ending, "interrupted");
        assert!(report.all_survived_intact() && report.meta.measured_ms < 60_000);
        assert!(server.ends_well());
    }
}

fn progress_lines(_: &Path) {
    let server = Server::start();
    let ended = end(server.client(&["--duration", "1", "--tcp-rate-mbps", "50"]));
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let text = String::from_utf8(ended.stdout).expect("text");
    let lines: Vec<Progress> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of progress"))
        .collect();
    assert!((3..=10).contains(&lines.len()), "{}", lines.len());
    assert!(lines.is_sorted_by_key(|line| line.t_ms));
    assert!(server.ends_well());
}

fn errors(_: &Path) {
    let run = |args: &[&str]| {
        let output = tool(args).output().expect("a process");
        assert_ne!(output.status.code(), Some(0), "{args:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let server = Server::start();
    let port = server.port.as_str();
    let said = run(&["server", "--bind", "127.0.0.1", "--port", port]);
    assert!(said.contains(&format!("127.0.0.1:{port}")), "{said}");
    let said = run(&["server", "--bind", "192.0.2.1"]);
    assert!(said.contains("192.0.2.1"), "{said}");
    let said = run(&["client", "127.0.0.1", "--port", port, "--udp-rate", "0"]);
    assert!(said.contains("UDP rate"), "{said}");
    let said = run(&["client", "127.0.0.1", "--port", port, "--bind", "::1"]);
    assert!(said.contains("--bind"), "{said}");
}

struct Server {
    process: Child,
    port: String,
}

impl Server {
    fn start() -> Self {
        let mut process = tool(&["server", "--bind", "127.0.0.1", "--port", "0", "--once"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("a server");
        let mut line = String::new();
        let stdout = process.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let port = line.trim().strip_prefix("listening on 127.0.0.1:");
        let port = port.unwrap_or_else(|| panic!("{line:?}")).to_owned();
        Self { process, port }
    }

    fn client(&self, args: &[&str]) -> Child {
        tool(&["client", "127.0.0.1", "--port", &self.port, "--progress"])
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a client")
    }

    fn ends_well(mut self) -> bool {
        self.process.wait().is_ok_and(|status| status.success())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail harmlessly if it has ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn tool(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.arg("measure").args(args);
    command
}

/// Reads progress until probes have passed in both directions.
fn wait_until_measuring(client: &mut Child) {
    let stdout = client.stdout.as_mut().expect("a pipe");
    let mut line = Vec::new();
    loop {
        let mut byte = [0];
        stdout.read_exact(&mut byte).expect("progress");
        if byte[0] != b'\n' {
            line.push(byte[0]);
            continue;
        }
        let progress: Progress = serde_json::from_slice(&line).expect("a line of progress");
        if progress.udp_up_received > 0 && progress.udp_down_received > 0 {
            return;
        }
        line.clear();
    }
}

fn end(client: Child) -> Output {
    client.wait_with_output().expect("its end")
}

fn read(json: &Path) -> Report {
    let text = std::fs::read_to_string(json).expect("a report");
    Report::from_json(&text).expect("a report")
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

//! A process that the lab started in the background.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::wait::{poll, wait_until};

/// How many lines of a log an error shows.
const TAIL_LINES: usize = 20;

/// A handle to a background process. The lab owns the process and ends it; dropping the handle
/// changes nothing.
#[derive(Clone, Debug)]
pub struct Process(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    pid: u32,
    log: PathBuf,
    child: Mutex<Child>,
}

/// Resident memory of a process, in KiB.
///
/// # Errors
/// It has ended.
pub fn memory_kib(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(number.context("no VmRSS")?.parse()?)
}

impl Process {
    pub(crate) fn new(name: String, log: PathBuf, child: Child) -> Self {
        Self(Arc::new(Inner {
            name,
            pid: child.id(),
            log,
            child: Mutex::new(child),
        }))
    }

    /// `<host>-<program>`, or what [`Cmd::name`](crate::Cmd::name) said instead of the program.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The process id, which is also the id of its process group.
    pub fn pid(&self) -> u32 {
        self.0.pid
    }

    /// Its resident memory in KiB.
    ///
    /// # Errors
    /// It has ended.
    pub fn memory_kib(&self) -> Result<u64> {
        memory_kib(self.pid())
    }

    /// Where its standard output and standard error go.
    pub fn log_path(&self) -> &Path {
        &self.0.log
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        let bytes = fs::read(&self.0.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The last lines of [`Self::log`], for messages.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    /// How it ended, or `None` while it runs.
    pub fn status(&self) -> Option<ExitStatus> {
        let mut child = self.0.child.lock().unwrap_or_else(PoisonError::into_inner);
        child.try_wait().ok().flatten()
    }

    /// True until it has ended.
    pub fn is_running(&self) -> bool {
        self.status().is_none()
    }

    /// Waits until it ends by itself.
    pub fn wait(&self, timeout: Duration) -> Result<ExitStatus> {
        wait_until(timeout, format!("{} to end", self.name()), || self.status())
    }

    /// Waits for it to end by itself, with success; the error shows the end of its log.
    pub fn wait_success(&self, timeout: Duration) -> Result<()> {
        let status = self.wait(timeout)?;
        if !status.success() {
            bail!("{} ended with {status}:\n{}", self.name(), self.log_tail());
        }
        Ok(())
    }

    /// Waits until its log holds `needle`. Fails at once if it ends before, and shows the end of
    /// the log either way.
    pub fn wait_for_log(&self, needle: &str, timeout: Duration) -> Result<()> {
        let what = format!("`{needle}` in the log of {}", self.name());
        wait_until(timeout, &what, || {
            // Asked first, so that the last words of a process that has just ended are read too.
            let ended = self.status();
            if self.log().contains(needle) {
                return Some(Ok(()));
            }
            ended.map(|status| bail!("{} ended with {status}", self.name()))
        })
        .and_then(|result| result)
        .with_context(|| format!("no {what}; it ends with:\n{}", self.log_tail()))
    }

    /// Sends a signal to the process and its group.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        // The lock keeps the process unreaped, and with it its number, while the signal is sent.
        let mut child = self.0.child.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(status) = child.try_wait()? {
            bail!("{} has already ended with {status}", self.name());
        }
        killpg(Pid::from_raw(self.0.pid as i32), signal)
            .with_context(|| format!("cannot send {signal} to {}", self.name()))
    }

    /// Asks it to end (SIGTERM), insists after `patience` (SIGKILL), and reaps it.
    pub fn stop(&self, patience: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.status() {
            return Ok(status);
        }
        self.signal(Signal::SIGTERM).ok();
        match poll(patience, || self.status()) {
            Some(status) => Ok(status),
            None => self.kill(),
        }
    }

    /// Ends it with SIGKILL, as a crash would, and reaps it.
    pub fn kill(&self) -> Result<ExitStatus> {
        self.signal(Signal::SIGKILL).ok();
        let mut child = self.0.child.lock().unwrap_or_else(PoisonError::into_inner);
        child
            .wait()
            .with_context(|| format!("cannot reap {}", self.name()))
    }
}

/// Makes a new file `<name>.log` in `dir`, or `<name>-2.log` and so on.
pub(crate) fn new_log(dir: &Path, name: &str) -> Result<(PathBuf, File)> {
    let mut file_name = format!("{name}.log");
    for n in 2.. {
        let path = dir.join(&file_name);
        match File::create_new(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                file_name = format!("{name}-{n}.log");
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot make {}", path.display()));
            }
        }
    }
    bail!("no free name for the log of {name}")
}

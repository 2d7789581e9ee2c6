//! The run: it owns every namespace, process and file, and removes them all.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, io, process, thread};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::host::Host;
use crate::link::{self, LinkOptions};
use crate::process::Process;
use crate::registry::{self, Journal};
use crate::spawner::Spawner;
use crate::wait::poll;
use crate::wan::{Wan, WanConfig};
use crate::{interrupt, namespace, privileges};

/// How long all processes together may take to end after SIGTERM, before SIGKILL.
const PATIENCE: Duration = Duration::from_secs(3);

/// A network of hosts that exists as long as this value.
///
/// Dropping it, also because of a panic or an error, ends all its processes and removes all its
/// namespaces and files. A panic prints the end of every log first. `std::process::exit` skips
/// every drop: return from `main` instead.
#[derive(Debug)]
pub struct Lab {
    core: Arc<Core>,
    /// Held for its drop, which removes the directory; hosts may outlive the lab.
    dir: Option<TempDir>,
}

impl Lab {
    /// Starts a run, after removing what killed runs left, and installs the handlers of
    /// [`interrupt`]. Fails without the privileges for namespaces, and once interrupted.
    pub fn new() -> Result<Self> {
        privileges::require()?;
        interrupt::install();
        if interrupt::requested() {
            bail!("the run has been interrupted");
        }
        Self::sweep_stale()?;

        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let prefix = match n {
            0 => format!("{}{}-", namespace::PREFIX, process::id()),
            n => format!("{}{}.{n}-", namespace::PREFIX, process::id()),
        };
        let journal = Journal::create(n)?;
        let dir = tempfile::Builder::new()
            .prefix(&prefix)
            .tempdir()
            .context("cannot make the working directory")?;
        journal.directory(dir.path())?;
        Ok(Self {
            core: Arc::new(Core {
                prefix,
                journal,
                spawner: Spawner::start()?,
                dir: dir.path().to_owned(),
                owned: Mutex::default(),
            }),
            dir: Some(dir),
        })
    }

    /// Removes what runs left behind that were killed (SIGKILL, power): their namespaces,
    /// processes and directories. Runs that live are not touched. Returns what was removed.
    pub fn sweep_stale() -> Result<Vec<String>> {
        registry::sweep()
    }

    /// A new host: a namespace of its own, with only `lo`, which is up.
    pub fn host(&self, name: &str) -> Result<Host> {
        Host::new(self.core.clone(), name).with_context(|| format!("cannot make host {name}"))
    }

    /// A wire: a veth pair with default options, both ends up.
    pub fn link(&self, a: &Host, a_device: &str, b: &Host, b_device: &str) -> Result<()> {
        self.link_with(a, a_device, b, b_device, LinkOptions::default())
    }

    /// A wire with options.
    pub fn link_with(
        &self,
        a: &Host,
        a_device: &str,
        b: &Host,
        b_device: &str,
        options: LinkOptions,
    ) -> Result<()> {
        link::connect(a, a_device, b, b_device, options)
    }

    /// A wide-area link, with both ends up. It works until the lab ends; the handle only serves
    /// to change it and to read its counters.
    pub fn wan(
        &self,
        a: &Host,
        a_device: &str,
        b: &Host,
        b_device: &str,
        config: WanConfig,
    ) -> Result<Wan> {
        let n = self.core.owned().wans.len();
        let middle = self.host(&format!("wan{n}"))?;
        let wan = Wan::connect(&middle, (a, a_device), (b, b_device), config)
            .with_context(|| format!("wide-area link {}-{}", a.name(), b.name()))?;
        self.core.owned().wans.push(wan.clone());
        Ok(wan)
    }

    /// Moves a device to another host, where it is up but, as the kernel has it, without
    /// addresses and routes. The time is that of the one system call.
    pub fn move_link(&self, device: &str, from: &Host, to: &Host) -> Result<Duration> {
        link::relocate(device, from, to)
    }

    /// What every namespace of this lab starts with: `mat-<pid>-`.
    pub fn prefix(&self) -> &str {
        &self.core.prefix
    }

    /// A directory for configurations and logs, removed with the lab.
    pub fn dir(&self) -> &Path {
        &self.core.dir
    }

    /// Writes a file into [`Self::dir`] and returns its path.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.dir().join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// All background processes so far, in the order of their start, ended ones too.
    pub fn processes(&self) -> Vec<Process> {
        self.core.owned().processes.clone()
    }

    /// True once Ctrl-C (or SIGTERM) has been seen: time to return.
    pub fn interrupted(&self) -> bool {
        interrupt::requested()
    }

    /// Ends the run and says whether everything could be removed.
    pub fn end(mut self) -> Result<()> {
        self.clean_up()
    }

    fn clean_up(&mut self) -> Result<()> {
        let Some(dir) = self.dir.take() else {
            return Ok(());
        };
        let owned = std::mem::take(&mut *self.core.owned());
        end_processes(&owned.processes);
        owned.wans.iter().for_each(Wan::stop);
        let mut problems = Vec::new();
        for name in &owned.namespaces {
            if let Err(error) = namespace::delete(name) {
                problems.push(format!("namespace {name}: {error:#}"));
            }
        }
        self.core.spawner.stop();
        if let Err(error) = dir.close() {
            problems.push(format!("working directory: {error}"));
        }
        // What could not be removed now stays in the journal for the next run's sweep.
        if problems.is_empty()
            && let Err(error) = self.core.journal.close()
        {
            problems.push(format!("journal: {error}"));
        }
        ensure!(
            problems.is_empty(),
            "the lab could not remove everything:\n{}",
            problems.join("\n")
        );
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if thread::panicking() {
            for process in self.processes() {
                let tail = process.log_tail();
                if !tail.is_empty() {
                    // Nobody may be listening any more, and a drop must not panic.
                    let _ = writeln!(io::stderr(), "---- {} ----\n{tail}", process.name());
                }
            }
        }
        if let Err(error) = self.clean_up() {
            let _ = writeln!(io::stderr(), "{error:#}");
        }
    }
}

/// What the lab shares with its hosts.
#[derive(Debug)]
pub(crate) struct Core {
    prefix: String,
    dir: PathBuf,
    owned: Mutex<Owned>,
    pub(crate) journal: Journal,
    pub(crate) spawner: Spawner,
}

#[derive(Debug, Default)]
struct Owned {
    namespaces: Vec<String>,
    processes: Vec<Process>,
    wans: Vec<Wan>,
}

impl Core {
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Reserves the name of a namespace that is about to be made.
    pub(crate) fn new_namespace(&self, host: &str) -> Result<String> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        ensure!(
            !host.is_empty() && host.chars().all(allowed),
            "`{host}` is no host name: letters, digits, `-`, `_` and `.` only"
        );
        let name = format!("{}{host}", self.prefix);
        let mut owned = self.owned();
        ensure!(
            !owned.namespaces.contains(&name),
            "the lab has a host {host} already"
        );
        self.journal.namespace(&name)?;
        owned.namespaces.push(name.clone());
        Ok(name)
    }

    pub(crate) fn own_process(&self, process: Process) {
        self.owned().processes.push(process);
    }

    fn owned(&self) -> MutexGuard<'_, Owned> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks all, newest first, then waits for all, then insists.
fn end_processes(processes: &[Process]) {
    let running: Vec<&Process> = processes.iter().filter(|p| p.is_running()).collect();
    for process in running.iter().rev() {
        process.signal(Signal::SIGTERM).ok();
    }
    let deadline = Instant::now() + PATIENCE;
    for process in running {
        let left = deadline.saturating_duration_since(Instant::now());
        if poll(left, || process.status()).is_none() {
            process.kill().ok();
        }
    }
}

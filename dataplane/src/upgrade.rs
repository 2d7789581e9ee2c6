//! An upgrade in place: the program is replaced by its successor in the same
//! process, between two packets, with the TUN still open.
//!
//! ```text
//! SIGUSR2 ──▶ the file at our path: does it accept the configuration?   no ──▶ as before
//!             wait until no move is under way, no packet is held        in vain ──▶ as before
//!             API pauses; state file written; kernel state at rest
//!             data thread ends, its last snapshot is written to memory
//!             execve(2): TUN, API socket and snapshot stay open
//!             successor: agent restored, data thread runs; then routes, API, look-ups
//! ```
//! Packets wait in the TUN's queue from the last but two of these lines to the
//! last, and connections to the API in the socket's. Process and parent stay the
//! same, so a service manager sees no restart.
//!
//! Should the successor's file vanish after it was asked, the program before it
//! is started once more, from its file that is still open; should that fail too,
//! the process ends like one that was killed, and the state file has everything.
//!
//! # Limitations
//! * A successor that accepts the configuration and then does not start has
//!   ended the service; whoever supervises it has to start it again.
//! * The snapshot is written and read while nobody reads the TUN, so the pause
//!   grows with the number of contexts.
//! * Announcements of locators that are due to be repeated are not, and counters
//!   begin at zero.

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SigSet, Signal};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::execve;
use serde::{Deserialize, Serialize};
use tokio::sync::MutexGuard;

use crate::agent::{Agent, Snapshot};
use crate::io::control::Control;
use crate::io::inherit::{Inherited, VARIABLES};
use crate::io::server::Server;
use crate::io::service;
use crate::io::steering::Steering;

/// Reading a configuration takes milliseconds.
const CHECK_PATIENCE: Duration = Duration::from_secs(10);
/// A move, its 30 s at most until it is activated and its grace, ends by then.
const MOVE_PATIENCE: Duration = Duration::from_secs(60);
/// First packets of a context wait for a few round trips; what waits longer
/// waits for somebody who does not answer.
const HELD_PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(20);

/// Where the running program can be found even if its file is gone.
const MYSELF: &str = "/proc/self/exe";

/// What the forwarder that ran before knew.
#[derive(Debug, Serialize, Deserialize)]
pub struct Legacy {
    /// What its agent knew.
    pub snapshot: Snapshot,
    /// When its data thread ended, in microseconds of `CLOCK_MONOTONIC`; `None`:
    /// some time ago.
    stopped_us: Option<u64>,
}

impl Legacy {
    /// That of a forwarder that has ended some time ago.
    pub fn old(snapshot: Snapshot) -> Self {
        Legacy {
            snapshot,
            stopped_us: None,
        }
    }

    /// Takes up what the program before us left in memory. What cannot be read is
    /// logged: the state file says nearly the same.
    pub fn take_up(file: OwnedFd) -> Option<Self> {
        let read = || -> io::Result<Self> {
            let mut file = File::from(file);
            let mut bytes = Vec::new();
            file.rewind()?;
            file.read_to_end(&mut bytes)?;
            Ok(serde_json::from_slice(&bytes)?)
        };
        match read() {
            Ok(legacy) => Some(legacy),
            Err(error) => {
                tracing::warn!("state left by the program before: {error}; using the state file");
                None
            }
        }
    }

    fn leave(&self) -> io::Result<OwnedFd> {
        let mut file = File::from(memfd_create(c"mat-state", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(&serde_json::to_vec(self)?)?;
        Ok(file.into())
    }

    /// For how long nobody has read the TUN, if that is known: then it is so short
    /// that nothing else can have changed.
    pub fn pause(&self) -> Option<Duration> {
        let stopped = self.stopped_us?;
        Some(Duration::from_micros(
            monotonic_us().saturating_sub(stopped),
        ))
    }
}

/// The program as it was started: where its successor will be.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// The running one. To be called at its start: the kernel does not tell the
    /// path of a file that was replaced.
    pub fn running() -> io::Result<Self> {
        let mut arguments = std::env::args_os();
        let path = match arguments.next().map(PathBuf::from) {
            // Not resolved: a symbolic link may lead elsewhere by then.
            Some(path) if path.components().count() > 1 => std::path::absolute(path)?,
            _ => std::env::current_exe()?,
        };
        Ok(Program {
            path,
            arguments: arguments.collect(),
        })
    }

    /// Replaces this process by the program that is at our path now, if that
    /// accepts the configuration at `config`. `tun` is the open device.
    ///
    /// Returns only if nothing came of it. To be called on the main thread, whose
    /// mask of signals the successor gets.
    pub async fn upgrade(
        &self,
        config: &Path,
        tun: OwnedFd,
        control: &Control,
        server: &mut Server,
    ) -> Failure {
        if let Err(error) = self.check(config).await {
            return Failure::Before(error);
        }
        tracing::info!("{} accepts the configuration", self.path.display());
        service::reloading();
        let (socket, image) = match (server.socket(), File::open(MYSELF)) {
            (Ok(socket), Ok(image)) => (socket, image),
            (Err(error), _) | (_, Err(error)) => return Failure::Before(error.into()),
        };
        let (_rest, snapshot) = match at_rest(control, server).await {
            Ok(rest) => rest,
            Err(error) => return Failure::Before(error),
        };
        let legacy = Legacy {
            snapshot,
            stopped_us: Some(monotonic_us()),
        };
        let replaced = legacy.leave().and_then(|state| {
            self.replace(&Inherited {
                tun: Some(tun),
                control: Some(socket),
                state: Some(state),
                program: Some(image.into()),
            })
        });
        match replaced {
            Ok(never) => match never {},
            Err(error) => Failure::Ended(
                anyhow::Error::from(error).context("neither the new program nor this one starts"),
            ),
        }
    }

    /// Has the program at our path check the configuration.
    pub(crate) async fn check(&self, config: &Path) -> anyhow::Result<()> {
        let path = self.path.display();
        let run = tokio::process::Command::new(&self.path)
            .arg("--config")
            .arg(config)
            .arg("check-config")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let answer = tokio::time::timeout(CHECK_PATIENCE, run).await;
        let answer = answer.with_context(|| format!("{path} check-config does not end"))?;
        let answer = answer.with_context(|| format!("{path} cannot be run"))?;
        if !answer.status.success() {
            let said = String::from_utf8_lossy(&answer.stderr);
            bail!("{path} check-config: {}, {}", answer.status, said.trim());
        }
        Ok(())
    }

    /// Starts anew in this process, with the API's socket and nothing else; returns only if
    /// that fails. To be called on the main thread.
    pub fn again(&self, control: OwnedFd) -> io::Error {
        let inherited = Inherited {
            control: Some(control),
            ..Inherited::default()
        };
        match self.replace(&inherited) {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    /// The `execve(2)`.
    fn replace(&self, inherited: &Inherited) -> io::Result<Infallible> {
        let (name, value) = inherited.leave()?;
        let others = std::env::vars_os();
        let others = others.filter(|(name, _)| !VARIABLES.iter().any(|ours| name == ours));
        let environment = others.chain([(name.into(), value.into())]);
        let environment: Vec<CString> = environment
            .map(|(name, value)| c_string([name, "=".into(), value]))
            .collect::<io::Result<_>>()?;
        let path = c_string([self.path.clone().into()])?;
        let arguments = self.arguments.iter().cloned();
        let arguments: Vec<CString> = std::iter::once(self.path.clone().into())
            .chain(arguments)
            .map(|argument| c_string([argument]))
            .collect::<io::Result<_>>()?;
        // They would end the successor before it listens to them; it finds them
        // waiting when it does.
        signals().thread_block()?;
        let error = match execve(&path, &arguments, &environment) {
            Ok(never) => match never {},
            Err(error) => error,
        };
        tracing::error!(
            "{}: {error}; starting the present program again",
            self.path.display()
        );
        Ok(execve(
            &c_string([MYSELF.into()])?,
            &arguments,
            &environment,
        )?)
    }
}

/// Why there was no upgrade.
#[derive(Debug)]
pub enum Failure {
    /// Nothing has happened.
    Before(anyhow::Error),
    /// The data thread has ended, and nothing takes its place.
    Ended(anyhow::Error),
}

/// The signals that the daemon listens to.
fn signals() -> SigSet {
    [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGUSR2,
    ]
    .into_iter()
    .collect()
}

/// Lets in the signals that came during an upgrade. To be called on the main
/// thread once they are listened to.
pub fn unblock_signals() -> io::Result<()> {
    Ok(signals().thread_unblock()?)
}

/// As long as it lives, no thread of ours waits for a disk, which would hold up
/// the `execve(2)`, and no child of ours is at work on the kernel.
struct Rest<'a>(
    #[expect(dead_code, reason = "held")] MutexGuard<'a, ()>,
    #[expect(dead_code, reason = "held")] MutexGuard<'a, Steering>,
);

/// Ends the data thread at a moment at which nothing is under way, and gives back
/// what its agent knows; the state file says the same, or nearly.
async fn at_rest<'a>(
    control: &'a Control,
    server: &mut Server,
) -> anyhow::Result<(Rest<'a>, Snapshot)> {
    let engine = control.engine();
    let start = Instant::now();
    let mut said = false;
    loop {
        let waited = start.elapsed();
        let look = move |agent: &mut Agent, _| unfinished(agent, waited);
        match engine.call(look).await? {
            None => {
                server.pause().await;
                let writing = control.save_and_rest().await;
                let steering = control.steering.lock().await;
                // A request may have begun something before the pause.
                let last = engine
                    .finish(move |agent, _| match unfinished(agent, waited) {
                        None => Some(agent.snapshot()),
                        Some(_) => None,
                    })
                    .await?;
                if let Some(last) = last {
                    return Ok((Rest(writing, steering), last));
                }
                drop((writing, steering));
                server.resume()?;
            }
            Some(what) if waited >= MOVE_PATIENCE => bail!("{what}; try again later"),
            Some(what) if !said => {
                tracing::info!("{what}: the upgrade waits");
                said = true;
            }
            Some(_) => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What would be lost if the agent ended now, and is worth waiting for.
fn unfinished(agent: &Agent, waited: Duration) -> Option<String> {
    if let Some(home) = agent.moving() {
        return Some(format!("{home} is on its way to or from this site"));
    }
    let held = agent.held_bytes();
    (held > 0 && waited < HELD_PATIENCE).then(|| format!("{held} bytes of packets are held"))
}

fn c_string<const N: usize>(parts: [OsString; N]) -> io::Result<CString> {
    let bytes = parts.into_iter().flat_map(OsString::into_vec);
    Ok(CString::new(bytes.collect::<Vec<u8>>())?)
}

/// The clock that goes on from program to program.
fn monotonic_us() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from);
    now.unwrap_or_default().as_micros() as u64
}

//! The one thread of a lab that starts processes and does short jobs inside namespaces.
//!
//! A child is told to die with its parent (PR_SET_PDEATHSIG), and to the kernel the parent is the
//! *thread* that forked it. Forked from a test's thread, a child would be killed when that thread
//! ends; forked from here, it is killed when the lab, or the whole process, ends.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getpid, getppid};

use crate::namespace;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Debug)]
pub(crate) struct Spawner(Mutex<Option<(Sender<Job>, JoinHandle<()>)>>);

impl Spawner {
    pub(crate) fn start() -> Result<Self> {
        let (sender, jobs) = mpsc::channel::<Job>();
        let thread = thread::Builder::new()
            .name("lab-spawner".into())
            .spawn(move || jobs.into_iter().for_each(|job| job()))
            .context("cannot start the spawner thread")?;
        Ok(Self(Mutex::new(Some((sender, thread)))))
    }

    /// Runs a short job inside the namespace and waits for its result.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        namespace: Arc<File>,
        job: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (result_sender, result) = mpsc::channel();
        let job: Job = Box::new(move || {
            let outcome = namespace::join(&*namespace).and_then(|()| job());
            // The receiver waits just below; it cannot be gone.
            let _ = result_sender.send(outcome);
        });
        self.lock()
            .as_ref()
            .and_then(|(jobs, _)| jobs.send(job).ok())
            .context("the lab has ended")?;
        result.recv().context("the spawner thread panicked")?
    }

    /// Starts a process in the namespace, as leader of a process group of its own.
    pub(crate) fn spawn(&self, namespace: Arc<File>, mut command: Command) -> Result<Child> {
        command.process_group(0);
        let parent = getpid();
        // SAFETY: between fork and exec the closure makes two system calls and touches no memory
        // but its own copy of `parent`.
        unsafe { command.pre_exec(move || die_with(parent)) };
        self.run(namespace, move || Ok(command.spawn()?))
    }

    /// Ends the thread. Children that still run are killed by the kernel.
    pub(crate) fn stop(&self) {
        if let Some((jobs, thread)) = self.lock().take() {
            drop(jobs);
            let _ = thread.join();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(Sender<Job>, JoinHandle<()>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn die_with(parent: Pid) -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // The parent may have died before the line above, and then nobody is told.
    if getppid() != parent {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    Ok(())
}

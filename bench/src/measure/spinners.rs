//! Processes that do nothing, and take their time for it.

use std::thread::available_parallelism;

use anyhow::Result;
use mat_netns::{Cmd, Host, Process};

use crate::course::PATIENCE;

/// Until [`Self::end`]; in which host they run makes no difference.
pub struct Spinners(Vec<Process>);

impl Spinners {
    /// Of lowest priority, one for each processor: none of them halts, or else the time they take
    /// to wake up is most of a round trip.
    pub fn awake(host: &Host) -> Result<Self> {
        let spin = ["--idle", "0", "sh", "-c", "while :; do :; done"];
        let spinner = || host.spawn(Cmd::new("chrt").args(spin));
        let spinners = (0..available_parallelism()?.get()).map(|_| spinner());
        Ok(Spinners(spinners.collect::<Result<_>>()?))
    }

    /// So many others of normal priority, as on a host with other work to do. Each is in a session
    /// of its own, and so has a group of its own among which the kernel shares the processors
    /// (`CONFIG_SCHED_AUTOGROUP`); it ends a few milliseconds after the process that waits for it.
    pub fn busy(host: &Host, count: u32) -> Result<Self> {
        let spin = "while kill -0 $PPID 2>/dev/null; do \
                        i=0; while [ $i -lt 10000 ]; do i=$((i+1)); done; \
                    done";
        let spinner = || host.spawn(Cmd::new("setsid").args(["--wait", "sh", "-c", spin]));
        let spinners = (0..count).map(|_| spinner());
        Ok(Spinners(spinners.collect::<Result<_>>()?))
    }

    /// Ends them.
    pub fn end(self) -> Result<()> {
        for spinner in self.0 {
            spinner.stop(PATIENCE)?;
        }
        Ok(())
    }
}

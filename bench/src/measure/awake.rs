//! Processors that do not halt, or else the time they take to wake up is most of a round trip.

use std::thread::available_parallelism;

use anyhow::Result;
use mat_netns::{Host, Process};

use crate::course::PATIENCE;

/// Processes of lowest priority that leave no processor idle.
pub struct Awake(Vec<Process>);

impl Awake {
    /// Keeps all awake until [`Self::end`]; where the processes run makes no difference.
    pub fn begin(host: &Host) -> Result<Self> {
        let spinner = || {
            let spin = ["--idle", "0", "sh", "-c", "while :; do :; done"];
            host.spawn(mat_netns::Cmd::new("chrt").args(spin))
        };
        let spinners = (0..available_parallelism()?.get()).map(|_| spinner());
        Ok(Awake(spinners.collect::<Result<_>>()?))
    }

    /// Lets them halt again.
    pub fn end(self) -> Result<()> {
        for spinner in self.0 {
            spinner.stop(PATIENCE)?;
        }
        Ok(())
    }
}

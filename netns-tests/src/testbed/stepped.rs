//! A move that waits before each step, so that something can happen just then.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::{Instance, Testbed};
use crate::{Cmd, Process, wait_until};

/// Longer than any step takes, undoing it all included.
const PATIENCE: Duration = Duration::from_secs(40);

/// `matctl move --step` under way.
#[derive(Debug)]
pub struct SteppedMove {
    /// The program.
    pub matctl: Process,
    /// Where it reads that it may go on.
    permits: File,
}

impl Testbed {
    /// Starts to move an instance; the first question, before `prepare`, is already asked.
    pub fn step_move(&self, instance: &Instance, to: &str) -> Result<SteppedMove> {
        let config = self.matctl_config(&[instance])?;
        let pipe = self.lab.dir().join(format!("permits-{}", instance.name));
        mkfifo(&pipe, Mode::S_IRWXU)?;
        // For reading too: then neither end waits for the other one to open it.
        let permits = OpenOptions::new().read(true).write(true).open(&pipe)?;
        let words = format!(
            "exec {} move {} --to {to} --driver netns --step --config {} < {}",
            self.options.binaries.join("matctl").display(),
            instance.name,
            config.display(),
            pipe.display(),
        );
        let matctl = self
            .map
            .spawn(Cmd::new("sh").arg("-c").arg(words).name("step-move"))?;
        let stepped = SteppedMove { matctl, permits };
        stepped.asks_for("prepare")?;
        Ok(stepped)
    }
}

impl SteppedMove {
    /// Waits until it asks for this step; false if it has ended instead.
    pub fn asks_for(&self, step: &str) -> Result<bool> {
        let question = format!("next: {step} ");
        wait_until(PATIENCE, format!("`{question}`"), || {
            let ended = self.matctl.status().is_some();
            match self.matctl.log().contains(&question) {
                true => Some(true),
                false => ended.then_some(false),
            }
        })
        .with_context(|| self.matctl.log())
    }

    /// Lets it take the step it asks for.
    pub fn go_on(&mut self) -> Result<()> {
        Ok(self.permits.write_all(b"\n")?)
    }

    /// Waits for its end; whether it has moved the instance.
    pub fn end(&self) -> Result<bool> {
        Ok(self.matctl.wait(PATIENCE)?.success())
    }
}

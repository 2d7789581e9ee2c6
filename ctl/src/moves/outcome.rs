//! What became of a move, in numbers and in words.

use std::fmt;

use mat_proto::{Home, Locator};
use serde::Serialize;

use crate::plan::{Step, Undo};
use crate::report::schema;

/// A move that succeeded. Of several home addresses the numbers name the slowest.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MoveOutcome {
    /// What moved the instance.
    pub driver: String,
    /// Its name.
    pub instance: String,
    /// Site it left.
    pub from: String,
    /// Site it went to.
    pub to: String,
    /// Highest epoch before.
    pub epoch_before: u64,
    /// Highest epoch after.
    pub epoch_after: u64,
    /// Start of the move, Unix time in microseconds.
    pub started_unix_us: u64,
    /// When the old site was told to let go.
    pub detached_unix_us: u64,
    /// When the new site had answered that it serves.
    pub activated_unix_us: u64,
    /// How long the driver stopped it, in microseconds; 0 if it does not.
    pub frozen_us: u64,
    /// End of the move: the peers have followed, or were not waited for any longer.
    pub ended_unix_us: u64,
    /// Time the mapping service took, in microseconds.
    pub map_update_us: u64,
    /// Peers that were told.
    pub peers: usize,
    /// Peers that acknowledged within two seconds.
    pub peers_acknowledged: usize,
    /// From the commit to the last acknowledgement; `None` if some peer has not acknowledged.
    pub peers_switched_us: Option<u64>,
    /// Each home address.
    pub homes: Vec<HomeMove>,
}

/// One home address of an instance that moved.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HomeMove {
    /// Which.
    pub home: Home,
    /// Its locator at the old site.
    pub locator_before: Option<Locator>,
    /// Its locator at the new site.
    pub locator_after: Option<Locator>,
    /// Epoch of its binding before.
    pub epoch_before: u64,
    /// Epoch of its binding after.
    pub epoch_after: u64,
    /// Time the mapping service took, in microseconds.
    pub map_update_us: u64,
    /// Contexts handed over.
    pub contexts: usize,
    /// Peers that were told.
    pub peers: usize,
    /// Peers that acknowledged.
    pub peers_acknowledged: usize,
    /// From the commit to the last acknowledgement so far, in microseconds.
    pub last_ack_us: Option<u64>,
}

/// Who moves, from where, to where.
pub(super) struct Names {
    pub instance: String,
    pub from: String,
    pub to: String,
}

pub(super) struct Times {
    pub started_unix_us: u64,
    pub detached_unix_us: u64,
    pub activated_unix_us: u64,
    pub ended_unix_us: u64,
    pub frozen_us: u64,
}

impl MoveOutcome {
    pub(super) fn new(driver: &str, names: &Names, times: Times, homes: Vec<HomeMove>) -> Self {
        let most = |pick: fn(&HomeMove) -> u64| homes.iter().map(pick).max().unwrap_or_default();
        let peers: usize = homes.iter().map(|h| h.peers).sum();
        let acknowledged: usize = homes
            .iter()
            .map(|h| h.peers_acknowledged.min(h.peers))
            .sum();
        MoveOutcome {
            driver: driver.to_owned(),
            instance: names.instance.clone(),
            from: names.from.clone(),
            to: names.to.clone(),
            epoch_before: most(|h| h.epoch_before),
            epoch_after: most(|h| h.epoch_after),
            started_unix_us: times.started_unix_us,
            detached_unix_us: times.detached_unix_us,
            activated_unix_us: times.activated_unix_us,
            frozen_us: times.frozen_us,
            ended_unix_us: times.ended_unix_us,
            map_update_us: most(|h| h.map_update_us),
            peers,
            peers_acknowledged: acknowledged,
            peers_switched_us: (acknowledged == peers)
                .then(|| most(|h| h.last_ack_us.unwrap_or_default())),
            homes,
        }
    }

    /// From telling the old site to let go to the new site's answer, in milliseconds.
    pub fn blackout_ms(&self) -> f64 {
        ms(self.activated_unix_us.saturating_sub(self.detached_unix_us))
    }
}

/// If some peer has not acknowledged, `peers_switched_ms` is how long it was waited for, so a
/// lower bound.
impl From<&MoveOutcome> for schema::Move {
    fn from(outcome: &MoveOutcome) -> Self {
        let waited = outcome
            .ended_unix_us
            .saturating_sub(outcome.activated_unix_us);
        schema::Move {
            driver: outcome.driver.clone(),
            instance: outcome.instance.clone(),
            from: outcome.from.clone(),
            to: outcome.to.clone(),
            epoch_before: outcome.epoch_before,
            epoch_after: outcome.epoch_after,
            blackout_ms: outcome.blackout_ms(),
            frozen_ms: ms(outcome.frozen_us),
            map_update_ms: ms(outcome.map_update_us),
            peers_switched_ms: ms(outcome.peers_switched_us.unwrap_or(waited)),
            start_unix_us: outcome.detached_unix_us,
            end_unix_us: outcome.ended_unix_us,
        }
    }
}

fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}

/// The lines shown to people.
impl fmt::Display for MoveOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} moved from {} to {} (driver {})",
            self.instance, self.from, self.to, self.driver
        )?;
        for home in &self.homes {
            let place = |locator: Option<Locator>| {
                locator.map_or("unknown".to_owned(), |locator| locator.to_string())
            };
            writeln!(
                f,
                "  {}: {} -> {}, epoch {} -> {}",
                home.home,
                place(home.locator_before),
                place(home.locator_after),
                home.epoch_before,
                home.epoch_after,
            )?;
        }
        writeln!(
            f,
            "  blackout {:.1} ms, of which the mapping service took {:.1} ms",
            self.blackout_ms(),
            ms(self.map_update_us)
        )?;
        match self.peers_switched_us {
            _ if self.peers == 0 => write!(f, "  no peer had to be told"),
            Some(us) => write!(
                f,
                "  {} of {} peers followed within {:.1} ms",
                self.peers_acknowledged,
                self.peers,
                ms(us)
            ),
            None => write!(
                f,
                "  {} of {} peers have followed so far; the others are still being told \
                 (`matctl status --site {}` shows them)",
                self.peers_acknowledged, self.peers, self.to
            ),
        }
    }
}

/// A move that failed, and what was done about it.
#[derive(Clone, Debug)]
pub struct MoveError {
    /// The instance.
    pub instance: String,
    /// The site it should have left.
    pub from: String,
    /// The site it should have gone to.
    pub to: String,
    /// The step that failed.
    pub step: Step,
    /// Why.
    pub cause: String,
    /// The roll-back, in order; empty if nothing had been changed.
    pub undone: Vec<Undone>,
}

/// One part of a roll-back and what became of it.
#[derive(Clone, Debug)]
pub struct Undone {
    /// What was to be undone.
    pub undo: Undo,
    /// The reason if it could not be.
    pub result: Result<(), String>,
}

impl MoveError {
    pub(super) fn new(names: &Names, step: Step, cause: String, undone: Vec<Undone>) -> Self {
        MoveError {
            instance: names.instance.clone(),
            from: names.from.clone(),
            to: names.to.clone(),
            step,
            cause,
            undone,
        }
    }

    /// Whether everything is as it was before.
    pub fn rolled_back(&self) -> bool {
        self.undone.iter().all(|undone| undone.result.is_ok())
    }

    fn describe(&self, undo: Undo) -> String {
        let (from, to) = (&self.from, &self.to);
        match undo {
            Undo::BringBack => format!("the instance is brought back to {from}"),
            Undo::Reattach(home) => format!("{home} is served at {from} again"),
            Undo::TakeBack(home) => format!("{home} is handed back from {to} to {from}"),
            Undo::Withdraw(home) => format!("{home} is withdrawn from {to}"),
            Undo::Confirm(home) => format!("{home} stays served at {from}"),
        }
    }
}

impl fmt::Display for MoveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MoveError {
            instance, from, to, ..
        } = self;
        write!(
            f,
            "{instance} was not moved from {from} to {to}: step {} failed: {}",
            self.step, self.cause
        )?;
        if self.undone.is_empty() {
            return write!(f, "\nnothing had been changed");
        }
        for undone in &self.undone {
            let what = self.describe(undone.undo);
            match &undone.result {
                Ok(()) => write!(f, "\nrolled back: {what}")?,
                Err(why) => write!(f, "\nROLL-BACK FAILED: not achieved: {what}: {why}")?,
            }
        }
        if self.rolled_back() {
            write!(f, "\neverything is as before; the move can be tried again")
        } else {
            write!(
                f,
                "\nsee `matctl status` for what is left, and `matctl help move` for how to mend it"
            )
        }
    }
}

impl std::error::Error for MoveError {}

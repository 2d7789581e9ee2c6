//! Many seeds, and the fewest acts that break something.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::scenario::Scenario;
use crate::world::{Outcome, Telling, run};

/// What many runs came to.
#[derive(Debug, Default)]
pub struct Sum {
    /// Runs.
    pub runs: u64,
    /// Moves begun in them.
    pub moves: u64,
    /// Events handled.
    pub events: u64,
    /// Packets between sites.
    pub packets: u64,
    /// Times an instance had to be attached by hand.
    pub by_hand: u64,
    /// Virtual seconds.
    pub seconds: u64,
    /// Seeds that broke an invariant, and how.
    pub violations: Vec<(u64, String)>,
}

/// Runs the scenarios that are drawn from the seeds from `first` on, in so many threads, up to the first `most` violations.
pub fn run_many(
    draw: fn(u64) -> Scenario,
    first: u64,
    runs: u64,
    threads: usize,
    most: usize,
) -> Sum {
    let next = AtomicU64::new(first);
    let stop = AtomicBool::new(false);
    let sum = Mutex::new(Sum::default());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + runs || stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let outcome = run(&draw(seed), Telling::End);
                    let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                    sum.add(seed, &outcome);
                    if sum.violations.len() >= most {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let mut sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    sum.violations.sort();
    sum
}

impl Sum {
    fn add(&mut self, seed: u64, outcome: &Outcome) {
        self.runs += 1;
        self.moves += outcome.moves;
        self.events += outcome.events;
        self.packets += outcome.packets;
        self.by_hand += outcome.by_hand;
        self.seconds += outcome.took.as_secs();
        if let Some(violation) = &outcome.violation {
            self.violations.push((seed, violation.clone()));
        }
    }
}

/// Leaves out acts as long as something breaks.
pub fn shrink(scenario: &Scenario) -> Scenario {
    let mut least = scenario.clone();
    loop {
        let shorter = (0..least.acts.len()).rev().find_map(|n| {
            let mut shorter = least.clone();
            shorter.acts.remove(n);
            run(&shorter, Telling::End)
                .violation
                .is_some()
                .then_some(shorter)
        });
        match shorter {
            Some(shorter) => least = shorter,
            None => return least,
        }
    }
}

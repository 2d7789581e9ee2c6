//! Counters shared by the threads of one side while a run goes on.
//!
//! They feed the progress and the probes' account of themselves; results are never taken from
//! here.

use std::sync::atomic::{AtomicU64, Ordering};

/// Each field has one writer.
#[derive(Debug, Default)]
pub struct Live {
    /// Bytes received on the bulk stream.
    pub stream_bytes: Counter,
    /// When the last of them came, in microseconds after time zero.
    pub stream_last_us: Counter,
    /// Probes received here.
    pub here: ProbeCounts,
    /// Probes received there, as the far side said last.
    pub there: ProbeCounts,
    /// When a probe last came, in microseconds after time zero.
    pub probe_last_us: Counter,
    /// Crowd connections which are alive.
    pub crowd_alive: Counter,
}

/// What one end knows of the probes sent to it.
#[derive(Debug, Default)]
pub struct ProbeCounts {
    /// Distinct probes.
    pub received: Counter,
    /// Missing so far.
    pub missing: Counter,
    /// Longest gap so far in microseconds.
    pub longest_gap_us: Counter,
}

/// A number which one thread sets and others look at.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The value last set.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Replaces the value.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

//! What a data thread has done: counted by it, read by anybody, without a lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Counters of one data thread.
#[derive(Debug, Default)]
pub struct Meter {
    /// Reads that brought a frame.
    pub reads: AtomicU64,
    /// Octets of packets read.
    pub read_bytes: AtomicU64,
    /// Super-packets among the frames read.
    pub super_reads: AtomicU64,
    /// Packets that the forwarding table decided about; the others were the agent's.
    pub forwarded: AtomicU64,
    /// Frames written.
    pub writes: AtomicU64,
    /// Octets of packets written.
    pub write_bytes: AtomicU64,
    /// Packets that were joined with others.
    pub joined: AtomicU64,
    /// Frames they were written in.
    pub joined_writes: AtomicU64,
    /// Super-packets that the kernel refused, and that were cut.
    pub cut: AtomicU64,
    /// Kinds of packets that are not joined any more because the kernel refused them: one bit
    /// each (see [`Gauges::forgone`](super::engine::Gauges::forgone)).
    pub forgone: AtomicU64,
    /// Batches of frames.
    pub batches: AtomicU64,
    /// Times the thread went to sleep.
    pub sleeps: AtomicU64,
    /// From the end of a batch's reading until all of it was written, one batch in
    /// [`Meter::SAMPLING`].
    pub latency: Histogram,
}

impl Meter {
    /// One batch in so many is timed: two readings of the clock are a tenth of what a
    /// small packet costs.
    pub const SAMPLING: u64 = 16;

    /// The counters as they are now.
    pub fn reading(&self) -> MeterReading {
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        MeterReading {
            reads: get(&self.reads),
            read_bytes: get(&self.read_bytes),
            super_reads: get(&self.super_reads),
            forwarded: get(&self.forwarded),
            writes: get(&self.writes),
            write_bytes: get(&self.write_bytes),
            joined: get(&self.joined),
            joined_writes: get(&self.joined_writes),
            cut: get(&self.cut),
            batches: get(&self.batches),
            sleeps: get(&self.sleeps),
            latency: self.latency.reading(),
        }
    }
}

/// Adds to a counter that one thread alone writes: no locked instruction is needed.
pub fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed) + n, Relaxed);
}

/// The counters of one data thread at one moment; see [`Meter`] for their meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "said at `Meter`")]
pub struct MeterReading {
    pub reads: u64,
    pub read_bytes: u64,
    pub super_reads: u64,
    pub forwarded: u64,
    pub writes: u64,
    pub write_bytes: u64,
    pub joined: u64,
    pub joined_writes: u64,
    pub cut: u64,
    pub batches: u64,
    pub sleeps: u64,
    pub latency: HistogramReading,
}

/// Times in classes of powers of two, in microseconds: class `n` holds those of less
/// than 2^n µs that are in no class below it, the last one all others.
#[derive(Debug, Default)]
pub struct Histogram {
    classes: [AtomicU64; Histogram::CLASSES],
    sum_ns: AtomicU64,
}

impl Histogram {
    /// Up to 32 ms, and beyond.
    pub const CLASSES: usize = 17;

    /// Adds one; for the one thread that writes.
    pub fn record(&self, time: Duration) {
        let us = time.as_micros() as u64;
        let class = (u64::BITS - us.leading_zeros()) as usize;
        add(&self.classes[class.min(Self::CLASSES - 1)], 1);
        add(&self.sum_ns, time.as_nanos() as u64);
    }

    fn reading(&self) -> HistogramReading {
        HistogramReading {
            classes: self.classes.iter().map(|n| n.load(Relaxed)).collect(),
            sum_ns: self.sum_ns.load(Relaxed),
        }
    }
}

/// A [`Histogram`] at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistogramReading {
    /// How many times there were in each class.
    pub classes: Vec<u64>,
    /// The sum of all times, in nanoseconds.
    pub sum_ns: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_fall_into_their_classes() {
        let histogram = Histogram::default();
        for us in [0, 1, 2, 3, 4, 32_767, 32_768, 10_000_000] {
            histogram.record(Duration::from_micros(us));
        }
        let reading = histogram.reading();
        assert_eq!(reading.classes[..4], [1, 1, 2, 1]);
        assert_eq!(reading.classes[15..], [1, 2]);
        assert_eq!(reading.classes.len(), Histogram::CLASSES);
        assert_eq!(reading.sum_ns, 10_065_545_000);
    }
}

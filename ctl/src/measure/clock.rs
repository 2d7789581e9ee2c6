//! The run's time axis and its end, as seen by the threads of one side.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Microseconds since the Unix epoch.
pub fn unix_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |time| time.as_micros() as u64)
}

/// Counts microseconds from time zero of the run; monotonic, and placed on the wall clock once.
#[derive(Debug)]
pub struct Clock {
    zero: Instant,
    zero_unix_us: u64,
    ends_us: AtomicU64,
}

impl Clock {
    /// An axis whose zero lies at `zero_unix_us` (not in the future) and which ends after
    /// `duration_us`.
    pub fn new(zero_unix_us: u64, duration_us: u64) -> Self {
        let (now, now_unix_us) = (Instant::now(), unix_us());
        let since = Duration::from_micros(now_unix_us.saturating_sub(zero_unix_us));
        Self {
            // An `Instant` cannot reach back beyond the boot of the machine.
            zero: now.checked_sub(since).unwrap_or(now),
            zero_unix_us,
            ends_us: AtomicU64::new(duration_us),
        }
    }

    /// Now, in microseconds after time zero.
    pub fn now_us(&self) -> u64 {
        self.zero.elapsed().as_micros() as u64
    }

    /// A wall-clock time on this axis; times before zero count as zero.
    pub fn place(&self, unix_us: u64) -> u64 {
        unix_us.saturating_sub(self.zero_unix_us)
    }

    /// Time zero on the wall clock.
    pub fn zero_unix_us(&self) -> u64 {
        self.zero_unix_us
    }

    /// When the run ends or ended.
    pub fn ends_us(&self) -> u64 {
        self.ends_us.load(Ordering::Relaxed)
    }

    /// Ends the run now, if it has not ended before.
    pub fn end_now(&self) {
        self.ends_us.fetch_min(self.now_us(), Ordering::Relaxed);
    }

    /// Whether the run is over.
    pub fn is_over(&self) -> bool {
        self.now_us() >= self.ends_us()
    }

    /// Sleeps until `at_us`, or not at all if that is past.
    pub fn sleep_until(&self, at_us: u64) {
        let wait = at_us.saturating_sub(self.now_us());
        if wait > 0 {
            std::thread::sleep(Duration::from_micros(wait));
        }
    }
}

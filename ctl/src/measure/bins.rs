//! Received bytes in bins of equal length (pure).

/// Length of a throughput bin in milliseconds.
pub const BIN_MS: u64 = 50;

/// Bytes by time of arrival, bin 0 beginning at time zero of the run.
#[derive(Clone, Debug)]
pub struct Bins {
    bytes: Vec<u64>,
    limit: usize,
}

impl Bins {
    /// Bins for a run of at most `duration_us`; later arrivals are not kept, so memory is bounded.
    pub fn new(duration_us: u64) -> Self {
        let limit = duration_us.div_ceil(BIN_MS * 1000) as usize;
        Self {
            bytes: Vec::new(),
            limit,
        }
    }

    /// Adds `bytes` which arrived `at_us` after time zero.
    pub fn add(&mut self, at_us: u64, bytes: u64) {
        let bin = (at_us / (BIN_MS * 1000)) as usize;
        if bin >= self.limit {
            return;
        }
        if bin >= self.bytes.len() {
            self.bytes.resize(bin + 1, 0);
        }
        self.bytes[bin] += bytes;
    }

    /// The bins that lie wholly before `end_us`, quiet ones at the end included.
    pub fn until(mut self, end_us: u64) -> Vec<u64> {
        let whole = (end_us / (BIN_MS * 1000)) as usize;
        self.bytes.resize(whole.min(self.limit), 0);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn silence_at_the_end_is_part_of_the_series() {
        let mut bins = Bins::new(1_000_000);
        bins.add(49_999, 1);
        bins.add(50_000, 2);
        assert_eq!(bins.until(220_000), [1, 2, 0, 0]);
    }

    proptest! {
        #[test]
        fn no_byte_within_the_run_is_lost(arrivals in prop::collection::vec((0..1_000_000u64, 0..1000u64), 0..50)) {
            let mut bins = Bins::new(1_000_000);
            for &(at, bytes) in &arrivals {
                bins.add(at, bytes);
            }
            let total: u64 = arrivals.iter().map(|a| a.1).sum();
            prop_assert_eq!(bins.until(1_000_000).iter().sum::<u64>(), total);
        }

        #[test]
        fn memory_is_bounded_by_the_duration(at: u64) {
            let mut bins = Bins::new(10_000_000);
            bins.add(at, 1);
            prop_assert!(bins.bytes.len() <= 200);
        }
    }
}

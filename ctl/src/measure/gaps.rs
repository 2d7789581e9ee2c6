//! Times between arrivals: the longest, the histogram, and the few worth drawing (pure).
//!
//! A gap runs between two arrivals, or from the last arrival to the end of the run. The time
//! before the first arrival is no gap: it holds the start-up and one path delay.

use serde::{Deserialize, Serialize};

/// Upper edges of the histogram's buckets in microseconds; one bucket more lies above the last.
pub const EDGES_US: [u64; 13] = [
    500, 1_000, 1_500, 2_000, 3_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000,
    1_000_000,
];

/// As many gaps as a figure can show.
const KEPT: usize = 64;

/// One gap on the run's time axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// When the last arrival before the gap came, in microseconds after time zero.
    pub start_us: u64,
    /// Length in microseconds.
    pub length_us: u64,
}

/// What is known about gaps when a run is over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapSummary {
    /// The longest gap in microseconds; the whole run if nothing ever arrived.
    pub longest_us: u64,
    /// Number of gaps by length, see [`EDGES_US`].
    pub histogram: Vec<u64>,
    /// The longest gaps of at least the threshold, in order of time.
    pub notable: Vec<Gap>,
}

/// Follows arrivals.
#[derive(Clone, Debug)]
pub struct Gaps {
    last_us: Option<u64>,
    longest_us: u64,
    histogram: [u64; EDGES_US.len() + 1],
    notable: Vec<Gap>,
    threshold_us: u64,
}

impl Gaps {
    /// Gaps shorter than `threshold_us` are counted but not listed.
    pub fn new(threshold_us: u64) -> Self {
        Self {
            last_us: None,
            longest_us: 0,
            histogram: [0; EDGES_US.len() + 1],
            notable: Vec::new(),
            threshold_us,
        }
    }

    /// Something arrived `at_us` after time zero.
    pub fn observe(&mut self, at_us: u64) {
        if let Some(last) = self.last_us {
            self.record(last, at_us);
        }
        self.last_us = Some(self.last_us.unwrap_or(0).max(at_us));
    }

    /// The longest gap so far, in microseconds.
    pub fn longest_us(&self) -> u64 {
        self.longest_us
    }

    /// When something last arrived.
    pub fn last_us(&self) -> Option<u64> {
        self.last_us
    }

    /// Closes the run at `end_us`: silence up to then is a gap too.
    pub fn finish(mut self, end_us: u64) -> GapSummary {
        match self.last_us {
            Some(last) if last < end_us => self.record(last, end_us),
            Some(_) => {}
            None => self.record(0, end_us),
        }
        self.keep_longest();
        self.notable.sort_by_key(|gap| gap.start_us);
        GapSummary {
            longest_us: self.longest_us,
            histogram: self.histogram.to_vec(),
            notable: self.notable,
        }
    }

    fn record(&mut self, start_us: u64, end_us: u64) {
        let length_us = end_us.saturating_sub(start_us);
        self.longest_us = self.longest_us.max(length_us);
        self.histogram[EDGES_US.partition_point(|&edge| edge <= length_us)] += 1;
        if length_us >= self.threshold_us {
            self.notable.push(Gap {
                start_us,
                length_us,
            });
            if self.notable.len() >= 4 * KEPT {
                self.keep_longest();
            }
        }
    }

    fn keep_longest(&mut self) {
        self.notable
            .sort_by_key(|gap| (std::cmp::Reverse(gap.length_us), gap.start_us));
        self.notable.truncate(KEPT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn summary(arrivals: &[u64], end: u64) -> GapSummary {
        let mut gaps = Gaps::new(2_000);
        arrivals.iter().for_each(|&at| gaps.observe(at));
        gaps.finish(end)
    }

    #[test]
    fn the_longest_gap_is_found_and_placed() {
        let found = summary(&[50_000, 51_000, 52_000, 99_000, 100_000], 100_500);
        assert_eq!(found.longest_us, 47_000);
        assert_eq!(
            found.notable,
            [Gap {
                start_us: 52_000,
                length_us: 47_000
            }]
        );
    }

    #[test]
    fn silence_until_the_end_counts_and_before_the_beginning_does_not() {
        assert_eq!(summary(&[300_000, 301_000], 901_000).longest_us, 600_000);
        assert_eq!(summary(&[300_000, 301_000], 301_000).longest_us, 1_000);
        assert_eq!(summary(&[], 5_000_000).longest_us, 5_000_000);
    }

    proptest! {
        #[test]
        fn agrees_with_the_plain_definition(mut arrivals in prop::collection::vec(0..10_000_000u64, 2..200)) {
            arrivals.sort_unstable();
            let found = summary(&arrivals, arrivals[arrivals.len() - 1]);
            let longest = arrivals.windows(2).map(|pair| pair[1] - pair[0]).max();
            prop_assert_eq!(Some(found.longest_us), longest);
            prop_assert_eq!(found.histogram.iter().sum::<u64>(), arrivals.len() as u64 - 1);
        }

        #[test]
        fn the_list_is_bounded_and_keeps_the_longest(lengths in prop::collection::vec(2_000..100_000u64, 1..2_000)) {
            let mut at = 0;
            let arrivals: Vec<u64> = std::iter::once(0)
                .chain(lengths.iter().map(|length| { at += length; at }))
                .collect();
            let found = summary(&arrivals, at);
            prop_assert!(found.notable.len() <= KEPT);
            prop_assert_eq!(found.notable.iter().map(|gap| gap.length_us).max(), lengths.iter().copied().max());
        }
    }
}

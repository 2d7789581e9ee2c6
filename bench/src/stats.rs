//! The few statistics that the tables show. Pure.

use serde::Serialize;

/// Middle and extremes of some samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The smallest.
    pub lowest: f64,
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The largest.
    pub highest: f64,
}

impl Summary {
    /// `None` without samples.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let sorted = sorted(samples);
        let (&lowest, &highest) = (sorted.first()?, sorted.last()?);
        let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Some(Summary {
            lowest,
            median: (low + high) / 2.0,
            highest,
        })
    }
}

/// The smallest sample that is at least as large as `percent` of all (nearest rank); `None`
/// without samples.
pub fn percentile(samples: &[f64], percent: f64) -> Option<f64> {
    let sorted = sorted(samples);
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// Each sample over the reference of the same round, where both are there; rounds may come in any
/// order. A reference of zero gives no ratio.
pub fn ratios(samples: &[(u32, f64)], references: &[(u32, f64)]) -> Vec<f64> {
    let reference = |round| {
        references
            .iter()
            .find(|(r, value)| *r == round && *value > 0.0)
    };
    samples
        .iter()
        .filter_map(|(round, value)| Some(value / reference(*round)?.1))
        .collect()
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        let median = |samples: &[f64]| Summary::of(samples).unwrap().median;
        assert_eq!(median(&[3.0]), 3.0);
        assert_eq!(median(&[9.0, 1.0, 4.0]), 4.0);
        assert_eq!(median(&[9.0, 1.0, 4.0, 2.0]), 3.0);
    }

    #[test]
    fn the_range_is_that_of_the_samples_in_any_order() {
        let summary = Summary::of(&[5.0, -1.0, 8.0, 2.0]).unwrap();
        assert_eq!((summary.lowest, summary.highest), (-1.0, 8.0));
    }

    #[test]
    fn nothing_comes_of_nothing() {
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(percentile(&[], 50.0), None);
        assert!(ratios(&[], &[(0, 1.0)]).is_empty());
    }

    #[test]
    fn percentiles_are_samples() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&hundred, 50.0), Some(50.0));
        assert_eq!(percentile(&hundred, 99.0), Some(99.0));
        assert_eq!(percentile(&hundred, 100.0), Some(100.0));
        assert_eq!(percentile(&hundred, 0.0), Some(1.0));
        assert_eq!(percentile(&[7.0, 9.0], 99.0), Some(9.0));
    }

    #[test]
    fn a_ratio_takes_the_reference_of_its_own_round() {
        let references = [(1, 10.0), (0, 20.0), (3, 0.0)];
        let samples = [(0, 10.0), (1, 10.0), (2, 10.0), (3, 10.0)];
        assert_eq!(ratios(&samples, &references), [0.5, 1.0]);
    }
}

//! The few statistics that the tables show. Pure.

/// Middle and extremes of some samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// How many there are.
    pub count: usize,
    /// The smallest.
    pub lowest: f64,
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The largest.
    pub highest: f64,
    /// Where the median of all that could be measured lies with at least 95 % certainty, whatever
    /// their distribution (see [`interval`]); `None` of fewer than 6 samples.
    pub interval: Option<(f64, f64)>,
}

impl Summary {
    /// `None` without samples.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let sorted = sorted(samples);
        let (&lowest, &highest) = (sorted.first()?, sorted.last()?);
        let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Some(Summary {
            count: sorted.len(),
            lowest,
            median: (low + high) / 2.0,
            highest,
            interval: interval(&sorted),
        })
    }
}

/// The tightest pair of order statistics, as far from the one end as from the other, that has the
/// true median between them with a probability of at least 95 %.
///
/// Each sample falls below the median like a coin; so the k-th smallest is above it with the
/// probability of fewer than k heads in n throws, and the k-th largest is below it with the same.
fn interval(sorted: &[f64]) -> Option<(f64, f64)> {
    let n = sorted.len();
    // The probability of exactly k heads, and of at most k.
    let (mut exactly, mut at_most) = (0.5_f64.powi(n as i32), 0.0);
    let mut found = None;
    for k in 0..n / 2 {
        at_most += exactly;
        if 2.0 * at_most > 0.05 {
            break;
        }
        found = Some((sorted[k], sorted[n - 1 - k]));
        exactly *= (n - k) as f64 / (k + 1) as f64;
    }
    found
}

/// The smallest sample that is at least as large as `percent` of all (nearest rank); `None`
/// without samples.
pub fn percentile(samples: &[f64], percent: f64) -> Option<f64> {
    let sorted = sorted(samples);
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// Which values belong together: the run and the round in it.
pub type Round = (usize, u32);

/// Each value with the reference of the same round, put together by `how` (a ratio, a
/// difference), where both are there; rounds may come in any order. What is not a finite number is
/// left out.
pub fn paired(
    values: &[(Round, f64)],
    references: &[(Round, f64)],
    how: impl Fn(f64, f64) -> f64,
) -> Vec<f64> {
    let reference = |round: &Round| references.iter().find(|(r, _)| r == round);
    values
        .iter()
        .filter_map(|(round, value)| Some(how(*value, reference(round)?.1)))
        .filter(|paired| paired.is_finite())
        .collect()
}

/// One over the other, for [`paired`].
pub fn ratio(value: f64, reference: f64) -> f64 {
    value / reference
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
        assert!(paired(&[], &[((0, 0), 1.0)], ratio).is_empty());
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
    fn a_ratio_takes_the_reference_of_its_own_round_and_run() {
        let references = [
            ((0, 1), 10.0),
            ((0, 0), 20.0),
            ((0, 3), 0.0),
            ((1, 0), 40.0),
        ];
        let values = [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0)].map(|round| (round, 10.0));
        assert_eq!(paired(&values, &references, ratio), [0.5, 1.0, 0.25]);
    }

    /// Conover, Practical Nonparametric Statistics: the ranks for n = 6, 10, 15 and 20.
    #[test]
    fn the_interval_has_the_ranks_of_the_tables() {
        let ranks = |n: u32| {
            let samples: Vec<f64> = (1..=n).map(f64::from).collect();
            Summary::of(&samples).unwrap().interval
        };
        assert_eq!(ranks(5), None);
        assert_eq!(ranks(6), Some((1.0, 6.0)));
        assert_eq!(ranks(10), Some((2.0, 9.0)));
        assert_eq!(ranks(15), Some((4.0, 12.0)));
        assert_eq!(ranks(20), Some((6.0, 15.0)));
    }
}

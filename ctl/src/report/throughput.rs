//! Throughput before, during and after each move, and the time back to 90 % (pure).
//!
//! - *before*: mean of up to 3 s that end where the move starts, without the first half second
//!   of the run (slow start) and without anything of the move before;
//! - *during*: mean from the move's start to its end;
//! - *recovery*: time from the move's start to the first bin from which on 200 ms have at least
//!   90 % of *before*, looked for from the deepest dip on. The dip is the lowest bin between the
//!   start and half a second beyond the end; if even that one has 90 %, recovery is 0;
//! - *after*: mean of up to 3 s that begin when the move is over, or when the rate is back if
//!   that is later, and end where the next move starts.

use super::schema::{MoveThroughput, Sample};

const WINDOW_MS: f64 = 3_000.0;
const SLOW_START_MS: f64 = 500.0;
const DIP_BEYOND_END_MS: f64 = 500.0;
const SUSTAINED_MS: f64 = 200.0;
const RECOVERED: f64 = 0.9;

/// When a move happened, after time zero of the run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MoveMark {
    /// Its start.
    pub start_ms: f64,
    /// Its end.
    pub end_ms: f64,
}

/// Throughput around each of `marks`, which are in order of time.
pub fn around(series: &[Sample], bin_ms: u64, marks: &[MoveMark]) -> Vec<MoveThroughput> {
    let series = Series { series, bin_ms };
    let neighbours = |index: usize| {
        let previous_end = index.checked_sub(1).map(|i| marks[i].end_ms);
        let next_start = marks.get(index + 1).map(|mark| mark.start_ms);
        (previous_end, next_start)
    };
    (0..marks.len())
        .map(|index| series.around(marks[index], neighbours(index)))
        .collect()
}

/// Mean rate of the whole series.
pub fn mean(series: &[Sample]) -> Option<f64> {
    let sum: f64 = series.iter().map(|sample| sample.mbps).sum();
    (!series.is_empty()).then(|| sum / series.len() as f64)
}

#[derive(Clone, Copy)]
struct Series<'a> {
    series: &'a [Sample],
    bin_ms: u64,
}

impl Series<'_> {
    fn around(
        &self,
        mark: MoveMark,
        (previous_end, next_start): (Option<f64>, Option<f64>),
    ) -> MoveThroughput {
        let horizon = next_start.map_or(self.end(), |next| next.min(self.end()));
        let settled = SLOW_START_MS.min(mark.start_ms / 2.0);
        let earliest = previous_end.unwrap_or(settled).max(settled);
        let before = self.mean((mark.start_ms - WINDOW_MS).max(earliest), mark.start_ms);
        let recovery = before.and_then(|before| self.recovery(before, mark, horizon));
        let over = recovery.map_or(mark.end_ms, |ms| mark.end_ms.max(mark.start_ms + ms));
        MoveThroughput {
            before_mbps: before,
            during_mbps: self.mean(mark.start_ms, mark.end_ms),
            after_mbps: self.mean(over, horizon.min(over + WINDOW_MS)),
            recovery_ms: recovery,
        }
    }

    fn recovery(&self, before: f64, mark: MoveMark, horizon: f64) -> Option<f64> {
        let enough = RECOVERED * before;
        let window = self.within(
            mark.start_ms,
            (mark.end_ms + DIP_BEYOND_END_MS).min(horizon),
        );
        let deepest =
            window.min_by(|&a, &b| self.series[a].mbps.total_cmp(&self.series[b].mbps))?;
        if self.series[deepest].mbps >= enough {
            return Some(0.0);
        }
        let back = self.within(self.start(deepest), horizon).find(|&bin| {
            let start = self.start(bin);
            let sustained = self.mean(start, (start + SUSTAINED_MS).min(horizon));
            self.series[bin].mbps >= enough && sustained.is_some_and(|mean| mean >= enough)
        })?;
        Some((self.start(back) - mark.start_ms).max(0.0))
    }

    /// Indices of the bins that touch the time from `from` to `to`.
    fn within(&self, from: f64, to: f64) -> impl Iterator<Item = usize> + use<'_> {
        let series = *self;
        (0..self.series.len())
            .filter(move |&bin| series.start(bin) < to && series.start(bin) + series.bin() > from)
    }

    /// Mean rate from `from` to `to`, each bin weighted by how much of it lies within.
    fn mean(&self, from: f64, to: f64) -> Option<f64> {
        let (mut sum, mut weight) = (0.0, 0.0);
        for bin in self.within(from, to) {
            let start = self.start(bin);
            let share = (start + self.bin()).min(to) - start.max(from);
            sum += self.series[bin].mbps * share;
            weight += share;
        }
        (weight > 0.0).then(|| sum / weight)
    }

    fn start(&self, bin: usize) -> f64 {
        self.series[bin].t_ms as f64
    }

    fn bin(&self) -> f64 {
        self.bin_ms as f64
    }

    fn end(&self) -> f64 {
        self.series
            .last()
            .map_or(0.0, |last| last.t_ms as f64 + self.bin())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BIN: u64 = 50;

    fn series(rates: &[f64]) -> Vec<Sample> {
        let at = |bin: usize| bin as u64 * BIN;
        let sample = |(bin, &mbps)| Sample {
            t_ms: at(bin),
            mbps,
        };
        rates.iter().enumerate().map(sample).collect()
    }

    fn one_move(rates: &[f64], start_ms: f64, end_ms: f64) -> MoveThroughput {
        let mark = MoveMark { start_ms, end_ms };
        around(&series(rates), BIN, &[mark])[0]
    }

    /// 100 Mbit/s for 2 s, `dip`, 100 Mbit/s for 2 s more; the move begins at 2 s.
    fn dip(dip: &[f64]) -> Vec<f64> {
        [&[100.0; 40], dip, &[100.0; 40]].concat()
    }

    #[test]
    fn a_plain_dip() {
        let found = one_move(&dip(&[0.0, 0.0, 50.0]), 2_000.0, 2_100.0);
        assert_eq!(found.before_mbps, Some(100.0));
        assert_eq!(found.during_mbps, Some(0.0));
        assert_eq!(found.after_mbps, Some(100.0));
        assert_eq!(found.recovery_ms, Some(150.0));
    }

    #[test]
    fn full_rate_at_the_start_of_the_move_is_not_yet_recovery() {
        let found = one_move(&dip(&[100.0, 100.0, 0.0, 0.0]), 2_000.0, 2_200.0);
        assert_eq!(found.recovery_ms, Some(200.0));
    }

    #[test]
    fn a_lone_good_bin_is_not_recovery() {
        let found = one_move(&dip(&[0.0, 100.0, 10.0, 10.0]), 2_000.0, 2_050.0);
        assert_eq!(found.recovery_ms, Some(200.0));
    }

    #[test]
    fn no_dip_needs_no_recovery_and_no_return_has_none() {
        assert_eq!(
            one_move(&[100.0; 80], 2_000.0, 2_100.0).recovery_ms,
            Some(0.0)
        );
        let never = one_move(&[[100.0; 40], [0.0; 40]].concat(), 2_000.0, 2_100.0);
        assert_eq!((never.recovery_ms, never.after_mbps), (None, Some(0.0)));
    }

    #[test]
    fn slow_start_and_the_move_before_do_not_count_as_before() {
        let rates = [&[0.0; 10][..], &[100.0; 30], &[0.0; 4], &[80.0; 36]].concat();
        let marks = [(2_000.0, 2_200.0), (3_000.0, 3_100.0)]
            .map(|(start_ms, end_ms)| MoveMark { start_ms, end_ms });
        let found = around(&series(&rates), BIN, &marks);
        assert_eq!(found[0].before_mbps, Some(100.0));
        assert_eq!(found[1].before_mbps, Some(80.0));
    }

    #[test]
    fn a_move_outside_the_run_has_no_numbers() {
        let found = one_move(&[100.0; 20], 5_000.0, 5_100.0);
        assert_eq!((found.during_mbps, found.recovery_ms), (None, None));
        assert_eq!(
            around(
                &[],
                BIN,
                &[MoveMark {
                    start_ms: 0.0,
                    end_ms: 1.0
                }]
            )[0]
            .before_mbps,
            None
        );
    }

    proptest! {
        #[test]
        fn means_lie_within_the_rates_and_recovery_within_the_run(
            rates in prop::collection::vec(0.0..1000.0f64, 1..200), start in 0.0..9_000.0f64, length in 0.0..500.0f64,
        ) {
            let found = one_move(&rates, start, start + length);
            let low = rates.iter().copied().fold(f64::INFINITY, f64::min) - 1e-6;
            let high = rates.iter().copied().fold(0.0, f64::max) + 1e-6;
            for mean in [found.before_mbps, found.during_mbps, found.after_mbps].into_iter().flatten() {
                prop_assert!((low..=high).contains(&mean));
            }
            if let Some(recovery) = found.recovery_ms {
                prop_assert!(recovery >= 0.0 && start + recovery <= (rates.len() as u64 * BIN) as f64 + 1e-6);
            }
        }

        #[test]
        fn recovery_of_a_clean_outage_is_its_length(bins in 1..20usize) {
            let found = one_move(&dip(&vec![0.0; bins]), 2_000.0, 2_000.0 + bins as f64 * 50.0);
            prop_assert_eq!(found.recovery_ms, Some(bins as f64 * 50.0));
        }
    }
}

//! A bound on how often something happens.

use crate::clock::Time;

/// So many a second, and as many at once after a pause of a second; nothing as long as more than
/// that is asked for, since whoever asks so often is no reason to go on.
#[derive(Debug)]
pub(super) struct Rate {
    per_second: u64,
    /// When what has been taken will be all given back.
    paid: Time,
}

impl Rate {
    pub(super) fn new(per_second: u64) -> Self {
        Rate {
            per_second,
            paid: Time(0),
        }
    }

    /// Whether it may happen once more now; if so, it is counted, and if not, nothing is given
    /// back for what has passed.
    pub(super) fn take(&mut self, now: Time) -> bool {
        const SECOND: u64 = 1_000_000;
        let paid = self.paid.0.max(now.0) + SECOND / self.per_second;
        let most = now.0 + SECOND;
        self.paid = Time(paid.min(most));
        paid <= most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_a_rate() {
        let mut rate = Rate::new(200);
        let mut take = |from: u64, to: u64| {
            let times = (from..to).map(|ms| Time(ms * 1000));
            times.filter(|now| rate.take(*now)).count()
        };
        assert_eq!(take(5000, 5001), 1);
        // 199 are left of the burst; one comes back every 5 ms, until the first is refused.
        let first = take(5001, 6001);
        assert!((240..=260).contains(&first), "{first}");
        assert_eq!(take(6001, 7001), 0);
        assert_eq!(
            (1..=200)
                .map(|n| take(7000 + 5 * n, 7001 + 5 * n))
                .sum::<usize>(),
            200
        );
        assert_eq!(take(60_000, 60_150), 150);
    }
}

//! A bound on how often something happens.

use crate::clock::Time;

/// So many a second, and as many at once after a pause of a second.
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

    /// Whether it may happen once more now; if so, it is counted.
    pub(super) fn take(&mut self, now: Time) -> bool {
        const SECOND: u64 = 1_000_000;
        let paid = self.paid.0.max(now.0) + SECOND / self.per_second;
        let free = paid <= now.0 + SECOND;
        if free {
            self.paid = Time(paid);
        }
        free
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
        // 199 are left of the burst, and one comes back every 5 ms.
        let first = take(5001, 6001);
        assert!((398..=400).contains(&first), "{first}");
        let next = take(6001, 7001);
        assert!((199..=201).contains(&next), "{next}");
        assert_eq!(take(60_000, 60_150), 150);
    }
}

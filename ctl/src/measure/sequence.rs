//! Which probes arrived, once, twice or late (pure).
//!
//! A probe is *reordered* if a later one came first (RFC 4737, type-P-reordered) and *duplicated*
//! if its number was seen before (RFC 5560).

/// What one arrival was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The first copy of this number, and none after it had come.
    InOrder,
    /// The first copy of this number, but a later number came first.
    Reordered,
    /// A number seen before.
    Duplicate,
    /// A number the run cannot have reached: not one of our probes.
    OutOfRange,
}

/// Follows sequence numbers 0, 1, 2, ...
#[derive(Clone, Debug)]
pub struct Sequence {
    seen: Vec<u64>,
    limit: u64,
    next: u64,
    received: u64,
    duplicated: u64,
    reordered: u64,
}

impl Sequence {
    /// For a run of fewer than `limit` probes; memory stays below `limit / 8` bytes.
    pub fn new(limit: u64) -> Self {
        Self {
            seen: Vec::new(),
            limit,
            next: 0,
            received: 0,
            duplicated: 0,
            reordered: 0,
        }
    }

    /// Notes the arrival of probe `number`.
    pub fn observe(&mut self, number: u64) -> Arrival {
        if number >= self.limit {
            return Arrival::OutOfRange;
        }
        let (slot, bit) = ((number / 64) as usize, 1 << (number % 64));
        if slot >= self.seen.len() {
            self.seen.resize(slot + 1, 0);
        }
        if self.seen[slot] & bit != 0 {
            self.duplicated += 1;
            return Arrival::Duplicate;
        }
        self.seen[slot] |= bit;
        self.received += 1;
        if number < self.next {
            self.reordered += 1;
            return Arrival::Reordered;
        }
        self.next = number + 1;
        Arrival::InOrder
    }

    /// Distinct numbers seen.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Arrivals of a number seen before.
    pub fn duplicated(&self) -> u64 {
        self.duplicated
    }

    /// First arrivals that came after a higher number.
    pub fn reordered(&self) -> u64 {
        self.reordered
    }

    /// One more than the highest number seen: how many were sent at least.
    pub fn sent_at_least(&self) -> u64 {
        self.next
    }

    /// Numbers below the highest seen that are missing so far.
    pub fn missing(&self) -> u64 {
        self.next - self.received
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_kind_of_arrival() {
        let mut sequence = Sequence::new(10);
        let arrivals = [0, 2, 1, 2, 10].map(|number| sequence.observe(number));
        use Arrival::*;
        assert_eq!(
            arrivals,
            [InOrder, InOrder, Reordered, Duplicate, OutOfRange]
        );
        assert_eq!(
            (
                sequence.received(),
                sequence.missing(),
                sequence.sent_at_least()
            ),
            (3, 0, 3)
        );
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(numbers in prop::collection::vec(0..500u64, 0..400)) {
            let mut sequence = Sequence::new(500);
            numbers.iter().for_each(|&number| { sequence.observe(number); });
            let distinct: BTreeSet<u64> = numbers.iter().copied().collect();
            prop_assert_eq!(sequence.received(), distinct.len() as u64);
            prop_assert_eq!(sequence.duplicated(), (numbers.len() - distinct.len()) as u64);
            let highest = distinct.last().map_or(0, |last| last + 1);
            prop_assert_eq!(sequence.missing(), highest - distinct.len() as u64);
        }

        #[test]
        fn a_shuffle_loses_and_repeats_nothing(order in Just((0..200u64).collect::<Vec<_>>()).prop_shuffle()) {
            let mut sequence = Sequence::new(200);
            order.iter().for_each(|&number| { sequence.observe(number); });
            prop_assert_eq!((sequence.received(), sequence.duplicated(), sequence.missing()), (200, 0, 0));
        }
    }
}

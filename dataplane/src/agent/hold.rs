//! Packets that wait: for a context, for an instance, for a verdict.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Time;
use crate::frame::{Frame, MAX_FRAME};

/// What all queues of a forwarder together may use, in bytes.
#[derive(Debug)]
pub(crate) struct Budget {
    used: usize,
    max: usize,
}

impl Budget {
    pub(crate) fn new(max: usize) -> Self {
        Budget { used: 0, max }
    }

    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// Whether there was room.
    #[must_use]
    pub(crate) fn take(&mut self, bytes: usize) -> bool {
        let room = self.used + bytes <= self.max;
        self.used += if room { bytes } else { 0 };
        room
    }

    pub(crate) fn give(&mut self, bytes: usize) {
        self.used -= bytes;
    }
}

/// One queue, bounded in bytes by itself and by the common budget. Overflow
/// refuses the newest packet: what is already promised is kept.
#[derive(Debug, Default)]
pub(crate) struct Hold {
    frames: VecDeque<(Time, Frame)>,
    bytes: usize,
}

impl Hold {
    /// Whether there was room.
    #[must_use]
    pub(crate) fn push(&mut self, now: Time, frame: Frame, max: usize, all: &mut Budget) -> bool {
        let cost = frame.cost();
        if self.bytes + cost > max || !all.take(cost) {
            return false;
        }
        self.bytes += cost;
        self.frames.push_back((now, frame));
        true
    }

    /// Whether a packet of any size would be taken.
    pub(crate) fn has_room(&self, max: usize, all: &Budget) -> bool {
        let most = MAX_FRAME + size_of::<Frame>();
        self.bytes + most <= max && all.used + most <= all.max
    }

    /// Octets of the oldest packet.
    pub(crate) fn first_len(&self) -> Option<usize> {
        self.frames.front().map(|(_, frame)| frame.packet.len())
    }

    /// The oldest packet.
    pub(crate) fn pop(&mut self, all: &mut Budget) -> Option<Frame> {
        let (_, frame) = self.frames.pop_front()?;
        self.bytes -= frame.cost();
        all.give(frame.cost());
        Some(frame)
    }

    /// Drops what has waited longer than `age`; gives back how many.
    pub(crate) fn expire(&mut self, now: Time, age: Duration, all: &mut Budget) -> u64 {
        let mut dropped = 0;
        while self.frames.front().is_some_and(|(t, _)| *t + age <= now) {
            self.pop(all);
            dropped += 1;
        }
        dropped
    }

    /// Drops everything; gives back how many.
    pub(crate) fn clear(&mut self, all: &mut Budget) -> u64 {
        let dropped = self.frames.len() as u64;
        all.give(self.bytes);
        self.bytes = 0;
        self.frames.clear();
        dropped
    }

    pub(crate) fn len(&self) -> usize {
        self.frames.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(len: usize) -> Frame {
        Frame::plain(vec![0; len])
    }

    #[test]
    fn both_bounds_hold_and_the_newest_is_refused() {
        let cost = frame(100).cost();
        let mut all = Budget::new(3 * cost);
        let (mut a, mut b) = (Hold::default(), Hold::default());
        assert!(a.push(Time(1), frame(100), 2 * cost, &mut all));
        assert!(a.push(Time(2), frame(100), 2 * cost, &mut all));
        assert!(!a.push(Time(3), frame(1), 2 * cost, &mut all));
        assert!(b.push(Time(3), frame(100), 2 * cost, &mut all));
        assert!(!b.push(Time(3), frame(100), 2 * cost, &mut all));
        assert_eq!(
            a.expire(Time(1_000_001), Duration::from_secs(1), &mut all),
            1
        );
        assert_eq!((a.len(), all.used()), (1, 2 * cost));
        assert_eq!(a.clear(&mut all) + b.clear(&mut all), 2);
        assert_eq!(all.used(), 0);
    }
}

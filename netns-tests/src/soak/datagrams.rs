//! Which datagrams a flow has, and what the receiver makes of them, pure.
//!
//! Number, length and content of each follow from the flow's seed, so the receiver makes every
//! datagram again and compares all of it; a digest could not say more.

use super::payload::{Payload, mix, seed};

/// Datagrams of one size in a row, the last one shorter: what can be gathered into one.
pub(super) const BURST: u64 = 32;

/// The largest datagram, in six fragments.
pub(super) const LARGEST: usize = 8192;

/// Octets of the number that a datagram begins with, if it has room for it.
const NUMBER: usize = 8;

/// Complaints kept; further ones are only counted.
const COMPLAINTS: usize = 5;

/// The datagrams of one flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    pub(super) seed: u64,
    /// How many there are at most.
    pub(super) total: u64,
    /// The most octets that fit one packet.
    pub(super) unfragmented: usize,
    /// Whether some are longer than that.
    pub(super) fragments: bool,
}

impl Schedule {
    /// Octets of most datagrams in the burst that begins with the datagram `first`.
    pub(super) fn burst_size(&self, first: u64) -> usize {
        let draw = seed(self.seed, first / BURST);
        let within = |low: usize, high: usize| low + (mix(draw) % (high - low + 1) as u64) as usize;
        match draw % 32 {
            0 => within(1, NUMBER),
            1 if self.fragments => within(self.unfragmented + 1, LARGEST),
            2..=6 => self.unfragmented,
            7..=16 => within(NUMBER, 200),
            _ => within(NUMBER, self.unfragmented),
        }
    }

    /// Octets of one datagram.
    pub(super) fn size(&self, number: u64) -> usize {
        let size = self.burst_size(number);
        if number % BURST == BURST - 1 {
            1 + (seed(!self.seed, number) % size as u64) as usize
        } else {
            size
        }
    }

    /// Writes the datagram and returns its length; `buffer` has [`LARGEST`] octets.
    pub(super) fn write(&self, number: u64, buffer: &mut [u8]) -> usize {
        let size = self.size(number);
        self.fill(number, &mut buffer[..size]);
        size
    }

    /// Too short for a number, a datagram is known by its length alone.
    fn fill(&self, number: u64, octets: &mut [u8]) {
        if octets.len() < NUMBER {
            let all_alike = !(octets.len() as u64);
            Payload::new(seed(self.seed, all_alike)).fill(0, octets);
        } else {
            Payload::new(seed(self.seed, number)).fill(0, octets);
            octets[..NUMBER].copy_from_slice(&number.to_be_bytes());
        }
    }
}

/// What a receiver has got of a flow.
#[derive(Debug)]
pub(super) struct Ledger {
    schedule: Schedule,
    seen: Vec<bool>,
    /// Of those without a number, by length.
    short: [u64; NUMBER],
    expected: Vec<u8>,
    pub(super) received: u64,
    pub(super) bytes: u64,
    pub(super) duplicates: u64,
    wrong: u64,
    complaints: Vec<String>,
}

impl Ledger {
    /// Nothing so far.
    pub(super) fn new(schedule: Schedule) -> Self {
        Self {
            schedule,
            seen: vec![false; schedule.total as usize],
            short: [0; NUMBER],
            expected: vec![0; LARGEST],
            received: 0,
            bytes: 0,
            duplicates: 0,
            wrong: 0,
            complaints: Vec::new(),
        }
    }

    /// Enters a datagram that was received.
    pub(super) fn enter(&mut self, datagram: &[u8]) {
        self.received += 1;
        self.bytes += datagram.len() as u64;
        if let Err(complaint) = self.check(datagram) {
            self.complain(complaint);
        }
    }

    /// What is wrong, if the first `sent` datagrams were sent and `duplicates` may come: how many
    /// datagrams, and some of them in words.
    pub(super) fn close(&mut self, sent: u64, duplicates: bool) -> (u64, Vec<String>) {
        let never = self.seen.iter().skip(sent as usize).filter(|seen| **seen);
        let never = never.count() as u64;
        self.count(never, "datagrams came that were never sent");
        if !duplicates {
            self.count(self.duplicates, "datagrams came twice");
            let mut sent_short = [0; NUMBER];
            for number in 0..sent {
                if let Some(count) = sent_short.get_mut(self.schedule.size(number)) {
                    *count += 1;
                }
            }
            for (length, (came, sent)) in self.short.into_iter().zip(sent_short).enumerate() {
                let more = came.saturating_sub(sent);
                self.count(more, &format!("more datagrams of {length} bytes than sent"));
            }
        }
        (self.wrong, std::mem::take(&mut self.complaints))
    }

    fn check(&mut self, datagram: &[u8]) -> Result<(), String> {
        let length = datagram.len();
        let number = match datagram.first_chunk::<NUMBER>() {
            Some(number) => u64::from_be_bytes(*number),
            None => {
                let (last, expected) = (self.schedule.total, &mut self.expected[..length]);
                self.schedule.fill(last, expected);
                if length == 0 || datagram != expected {
                    return Err(format!("a datagram of {length} bytes has a wrong content"));
                }
                self.short[length] += 1;
                return Ok(());
            }
        };
        if number >= self.schedule.total {
            return Err(format!("a datagram has the number {number:#x}"));
        }
        let size = self.schedule.write(number, &mut self.expected);
        if length != size {
            return Err(format!("datagram {number} has {length} bytes, not {size}"));
        }
        if let Some(at) = datagram
            .iter()
            .zip(&self.expected)
            .position(|(came, expected)| came != expected)
        {
            return Err(format!(
                "datagram {number} of {size} bytes is wrong from {at} on"
            ));
        }
        let seen = &mut self.seen[number as usize];
        self.duplicates += u64::from(*seen);
        *seen = true;
        Ok(())
    }

    fn count(&mut self, n: u64, what: &str) {
        if n > 0 {
            self.complain(format!("{n} {what}"));
            self.wrong += n - 1;
        }
    }

    fn complain(&mut self, complaint: String) {
        self.wrong += 1;
        if self.complaints.len() < COMPLAINTS {
            self.complaints.push(complaint);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEDULE: Schedule = Schedule {
        seed: 11,
        total: 64 * BURST,
        unfragmented: 1472,
        fragments: true,
    };

    fn datagram(number: u64) -> Vec<u8> {
        let mut buffer = vec![0; LARGEST];
        let length = SCHEDULE.write(number, &mut buffer);
        buffer.truncate(length);
        buffer
    }

    /// The number of one that is long enough to have it.
    fn numbered() -> u64 {
        (0..SCHEDULE.total)
            .find(|number| SCHEDULE.size(*number) > 100)
            .unwrap()
    }

    fn ledger(datagrams: &[Vec<u8>]) -> Ledger {
        let mut ledger = Ledger::new(SCHEDULE);
        datagrams.iter().for_each(|datagram| ledger.enter(datagram));
        ledger
    }

    #[test]
    fn what_was_sent_is_right_in_any_order_and_with_gaps() {
        let datagrams: Vec<_> = (0..SCHEDULE.total)
            .rev()
            .filter(|number| number % 7 != 0)
            .map(datagram)
            .collect();
        let mut ledger = ledger(&datagrams);
        assert_eq!(ledger.close(SCHEDULE.total, false), (0, vec![]));
        assert_eq!(ledger.received, datagrams.len() as u64);
    }

    #[test]
    fn sizes_are_equal_within_a_burst_but_for_a_shorter_last() {
        let mut sizes = Vec::new();
        for burst in 0..SCHEDULE.total / BURST {
            let first = burst * BURST;
            let size = SCHEDULE.size(first);
            assert!((first..first + BURST - 1).all(|n| SCHEDULE.size(n) == size));
            assert!((1..=size).contains(&SCHEDULE.size(first + BURST - 1)));
            sizes.push(size);
        }
        assert!(sizes.iter().any(|size| *size < NUMBER), "{sizes:?}");
        assert!(sizes.iter().any(|size| *size > 1472), "{sizes:?}");
        assert!(sizes.contains(&1472), "{sizes:?}");
    }

    #[test]
    fn one_wrong_bit_anywhere_is_noticed() {
        let good = datagram(numbered());
        for octet in 0..good.len() {
            let mut bad = good.clone();
            bad[octet] ^= 0x04;
            let (wrong, complaints) = ledger(&[bad]).close(SCHEDULE.total, true);
            assert_eq!(wrong, 1, "octet {octet}: {complaints:?}");
        }
        let short = (0..SCHEDULE.total).find(|n| SCHEDULE.size(*n) < NUMBER);
        let mut bad = datagram(short.unwrap());
        bad[0] ^= 1;
        assert_eq!(ledger(&[bad]).close(SCHEDULE.total, true).0, 1);
    }

    #[test]
    fn a_wrong_length_is_noticed() {
        let good = datagram(numbered());
        let longer = [&good[..], &[0]].concat();
        let shorter = good[..good.len() - 1].to_vec();
        let joined = [&good[..], &good].concat();
        for bad in [longer, shorter, joined, vec![]] {
            assert_eq!(ledger(&[bad]).close(SCHEDULE.total, true).0, 1);
        }
    }

    #[test]
    fn one_that_was_never_sent_is_noticed() {
        let number = numbered();
        let (wrong, _) = ledger(&[datagram(number)]).close(number, true);
        assert_eq!(wrong, 1);
        assert_eq!(ledger(&[datagram(number)]).close(number + 1, true).0, 0);
    }

    #[test]
    fn copies_are_wrong_unless_the_path_makes_them() {
        let numbered = datagram(numbered());
        let short = (0..SCHEDULE.total).find(|n| SCHEDULE.size(*n) == 3);
        let short = short.map(datagram);
        let too_many = short.map(|d| vec![d; SCHEDULE.total as usize]);
        for copies in [Some(vec![numbered; 2]), too_many].into_iter().flatten() {
            assert!(ledger(&copies).close(SCHEDULE.total, false).0 > 0);
            assert_eq!(ledger(&copies).close(SCHEDULE.total, true).0, 0);
        }
    }

    #[test]
    fn complaints_are_bounded_and_all_are_counted() {
        let (wrong, complaints) = ledger(&vec![vec![]; 100]).close(SCHEDULE.total, true);
        assert_eq!((wrong, complaints.len()), (100, COMPLAINTS));
    }
}

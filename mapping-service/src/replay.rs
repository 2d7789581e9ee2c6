//! Which signed updates were seen, so that a captured one is not carried out
//! again, and a retransmitted one gets the answer the first copy got. Pure.
//!
//! TSIG alone does not do that: within its time window (300 s) the same bytes
//! verify again. The MAC identifies the message, the time it was signed at
//! bounds how long it has to be remembered.
//!
//! Bounded per key: where a key signs more updates than are remembered, the
//! oldest are forgotten and anything signed no later than those is refused as
//! too old. A replay is never taken for new.

use std::collections::BTreeMap;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Name;

use crate::tsig::FUDGE;

/// Updates remembered per key: at 200 a second, more than the whole window.
const LIMIT: usize = 1 << 17;

/// What identifies a signed update.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Receipt {
    /// The key.
    pub key: Name,
    /// When it was signed, Unix seconds.
    pub time: u64,
    /// Its MAC.
    pub mac: Vec<u8>,
}

/// What is known about an update that arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Never seen; from now on it is, as pending.
    New,
    /// A copy is being worked on; its answer is on the way.
    Pending,
    /// A copy was answered like this.
    Answered(ResponseCode),
    /// Signed before what is remembered: it may have been carried out.
    TooOld,
}

/// See the module's page one.
#[derive(Debug)]
pub struct Memory {
    keys: BTreeMap<Name, KeyMemory>,
    limit: usize,
}

#[derive(Debug, Default)]
struct KeyMemory {
    /// By time signed and MAC; `None` while pending.
    seen: BTreeMap<(u64, Vec<u8>), Option<ResponseCode>>,
    /// Everything signed up to then may have been forgotten.
    floor: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Memory {
            keys: BTreeMap::new(),
            limit: LIMIT,
        }
    }
}

impl Memory {
    /// Looks an update up, whose signature is valid and fresh at `now`, and
    /// remembers it.
    pub fn admit(&mut self, receipt: &Receipt, now: u64) -> Seen {
        let memory = self.keys.entry(receipt.key.clone()).or_default();
        memory.expire(now, self.limit);
        let id = (receipt.time, receipt.mac.clone());
        match memory.seen.get(&id) {
            Some(Some(code)) => return Seen::Answered(*code),
            Some(None) => return Seen::Pending,
            None if receipt.time <= memory.floor => return Seen::TooOld,
            None => {}
        }
        memory.seen.insert(id, None);
        Seen::New
    }

    /// The answer an admitted update got; `None` if it was not decided (the
    /// disk failed, say) and may be tried again.
    pub fn settle(&mut self, receipt: &Receipt, code: Option<ResponseCode>) {
        let memory = self.keys.entry(receipt.key.clone()).or_default();
        let id = (receipt.time, receipt.mac.clone());
        match code {
            Some(code) => memory.seen.insert(id, Some(code)),
            None => memory.seen.remove(&id),
        };
    }

    /// Remembers a committed update found in the journal.
    pub fn restore(&mut self, receipt: &Receipt, now: u64) {
        if self.admit(receipt, now) == Seen::New {
            self.settle(receipt, Some(ResponseCode::NoError));
        }
    }

    /// The committed updates that could still be replayed at `now`: a snapshot
    /// of the journal keeps them.
    pub fn committed(&self, now: u64) -> Vec<Receipt> {
        let mut receipts = Vec::new();
        for (key, memory) in &self.keys {
            for ((time, mac), code) in &memory.seen {
                if *code == Some(ResponseCode::NoError) && time + u64::from(FUDGE) >= now {
                    receipts.push(Receipt {
                        key: key.clone(),
                        time: *time,
                        mac: mac.clone(),
                    });
                }
            }
        }
        receipts
    }
}

impl KeyMemory {
    fn expire(&mut self, now: u64, limit: usize) {
        while let Some(first) = self.seen.first_entry() {
            let time = first.key().0;
            let over = time.saturating_add(FUDGE.into()) < now;
            if !over && self.seen.len() < limit {
                break;
            }
            self.floor = self.floor.max(time);
            self.seen.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(time: u64, mac: u8) -> Receipt {
        Receipt {
            key: Name::from_ascii("site-a.").unwrap(),
            time,
            mac: vec![mac; 32],
        }
    }

    #[test]
    fn a_copy_gets_the_answer_of_the_first() {
        let mut memory = Memory::default();
        assert_eq!(memory.admit(&receipt(100, 1), 100), Seen::New);
        assert_eq!(memory.admit(&receipt(100, 1), 101), Seen::Pending);
        memory.settle(&receipt(100, 1), Some(ResponseCode::NoError));
        assert_eq!(
            memory.admit(&receipt(100, 1), 390),
            Seen::Answered(ResponseCode::NoError)
        );
        assert_eq!(memory.admit(&receipt(100, 2), 101), Seen::New);
        assert_eq!(memory.committed(101), [receipt(100, 1)]);
        assert!(memory.committed(500).is_empty());
    }

    #[test]
    fn what_was_not_decided_may_be_tried_again() {
        let mut memory = Memory::default();
        assert_eq!(memory.admit(&receipt(100, 1), 100), Seen::New);
        memory.settle(&receipt(100, 1), None);
        assert_eq!(memory.admit(&receipt(100, 1), 100), Seen::New);
    }

    #[test]
    fn forgetting_never_makes_a_replay_new() {
        let mut memory = Memory {
            limit: 10,
            ..Memory::default()
        };
        for i in 0..100u8 {
            let r = receipt(1000 + u64::from(i), i);
            assert_eq!(memory.admit(&r, 1000), Seen::New);
            memory.settle(&r, Some(ResponseCode::NoError));
        }
        assert!(memory.keys.values().all(|k| k.seen.len() <= 10));
        for i in 0..100u8 {
            let seen = memory.admit(&receipt(1000 + u64::from(i), i), 1000);
            assert_ne!(seen, Seen::New, "{i}");
            assert_ne!(seen, Seen::Pending, "{i}");
        }
        // Not even with the clock set back after the window has passed.
        assert_eq!(memory.admit(&receipt(2000, 0), 2000), Seen::New);
        assert_eq!(memory.admit(&receipt(1099, 99), 1099), Seen::TooOld);
    }
}

//! From two addresses to a record: open addressing with linear probing, one word an
//! entry. Readers run beside the one writer.
//!
//! An entry is 7 bits of the hash, which spare nearly all look-ups into records that
//! are not meant, one bit for the direction and 24 bits for the record; zero is empty.
//! An entry is removed by moving up those behind it: a reader may miss an entry while it
//! moves, which is allowed to it, but never finds one that is not there.

use std::sync::atomic::{AtomicU32, Ordering};

use super::memory::{Pages, prefetch};

/// Records that an entry can name.
pub const MAX_PAIRS: usize = ID_MASK as usize;

const ID_BITS: u32 = 24;
const ID_MASK: u32 = (1 << ID_BITS) - 1;
const INBOUND: u32 = 1 << ID_BITS;
const TAG_SHIFT: u32 = ID_BITS + 1;

/// Entries for each pair: two directions at half load, where a look-up that succeeds
/// takes 1.5 probes on average, nearly always within one cache line.
const ENTRIES_PER_PAIR: usize = 4;

/// One word of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry(u32);

impl Entry {
    pub(super) fn new(hash: u64, id: u32, inbound: bool) -> Self {
        let direction = if inbound { INBOUND } else { 0 };
        Entry(tag(hash) << TAG_SHIFT | direction | (id & ID_MASK))
    }

    #[inline]
    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    #[inline]
    pub(super) fn id(self) -> u32 {
        self.0 & ID_MASK
    }

    #[inline]
    pub(super) fn inbound(self) -> bool {
        self.0 & INBOUND != 0
    }

    #[inline]
    pub(super) fn may_be(self, hash: u64) -> bool {
        self.0 >> TAG_SHIFT == tag(hash)
    }
}

#[inline]
fn tag(hash: u64) -> u32 {
    (hash as u32) >> TAG_SHIFT
}

/// One more than is ever used: a search has an end.
fn entries(pairs: usize) -> usize {
    pairs.clamp(1, MAX_PAIRS) * ENTRIES_PER_PAIR + 1
}

#[derive(Debug)]
pub(super) struct Index {
    entries: Pages<AtomicU32>,
}

impl Index {
    pub(super) fn new(pairs: usize) -> Self {
        Index {
            entries: Pages::new(entries(pairs)),
        }
    }

    pub(super) fn octets(pairs: usize) -> usize {
        entries(pairs) * size_of::<AtomicU32>()
    }

    /// Where the search for a hash begins.
    #[inline]
    pub(super) fn start(&self, hash: u64) -> usize {
        // The high half of the hash, scaled: as even as a remainder, and without division.
        (((hash >> 32) * self.entries.len() as u64) >> 32) as usize
    }

    /// Has an entry, and with it most likely those behind it, fetched from memory.
    #[inline]
    pub(super) fn fetch(&self, at: usize) {
        prefetch(&self.entries[at]);
    }

    #[inline]
    pub(super) fn after(&self, at: usize) -> usize {
        if at + 1 == self.entries.len() {
            0
        } else {
            at + 1
        }
    }

    #[inline]
    pub(super) fn get(&self, at: usize) -> Entry {
        Entry(self.entries[at].load(Ordering::Acquire))
    }

    fn put(&self, at: usize, entry: Entry) {
        self.entries[at].store(entry.0, Ordering::Release);
    }

    /// Adds an entry; there is always room for two directions of every record.
    pub(super) fn insert(&self, hash: u64, entry: Entry) {
        let mut at = self.start(hash);
        while !self.get(at).is_empty() {
            at = self.after(at);
        }
        self.put(at, entry);
    }

    /// Removes an entry if it is there. `hash_of` tells the hash of any other entry.
    pub(super) fn remove(&self, hash: u64, entry: Entry, hash_of: impl Fn(Entry) -> u64) {
        let mut hole = self.start(hash);
        loop {
            match self.get(hole) {
                found if found == entry => break,
                found if found.is_empty() => return,
                _ => hole = self.after(hole),
            }
        }
        let mut at = self.after(hole);
        loop {
            let next = self.get(at);
            if next.is_empty() {
                break;
            }
            // It may fill the hole unless its search begins behind it.
            if self.distance(self.start(hash_of(next)), at) >= self.distance(hole, at) {
                self.put(hole, next);
                hole = at;
            }
            at = self.after(at);
        }
        self.put(hole, Entry(0));
    }

    /// Steps from `from` to `to`.
    fn distance(&self, from: usize, to: usize) -> usize {
        if to >= from {
            to - from
        } else {
            to + self.entries.len() - from
        }
    }

    /// Entries in a row, which a search may have to go through.
    #[cfg(test)]
    pub(super) fn longest_run(&self) -> usize {
        let (mut run, mut longest) = (0, 0);
        for at in 0..self.entries.len() {
            run = if self.get(at).is_empty() { 0 } else { run + 1 };
            longest = longest.max(run);
        }
        longest
    }

    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        let entries = 0..self.entries.len();
        entries.filter(|at| !self.get(*at).is_empty()).count()
    }
}

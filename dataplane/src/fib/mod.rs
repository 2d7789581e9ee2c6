//! The forwarding table: what the data threads look at for every packet, and
//! nothing else. (Routers call it FIB; [`crate::table`] is what it is made from.)
//!
//! One record for each pair of homes with an open context. It is found by the
//! packet's two addresses, in either direction, with one look-up: (own home, peer
//! home) on the way out, (peer locator, own locator) on the way in.
//!
//! One [`Writer`], the agent, and any number of readers, which never wait. A reader
//! sees a record as a whole, or not at all: then the packet goes to the agent, which
//! knows the truth, so that a miss is never wrong, only slow. A change costs as much
//! with 1,000,000 pairs as with one: capacity is fixed at the start, nothing is ever
//! copied or rehashed.
//!
//! # Batches
//! A data thread calls [`Reader::enter`] before the look-ups of a batch, and
//! [`Reader::leave`] once their packets are written. [`Fib::synchronize`] returns when
//! no packet decided before the call is still on its way: what is written after it
//! overtakes nothing. With one data thread there is nobody to wait for.
//!
//! # Memory
//! For each pair: four addresses (16 or 64 octets), 8 octets for what else a packet
//! needs to know, 40 for counters, and four index entries of 4 octets for two
//! directions: 80 octets for IPv4, 128 for IPv6. The records come into being in pieces of about
//! 2 MiB, as they are needed, the index is there from the start, and both are on large pages
//! where the kernel has them.
//!
//! # Limitations
//! At most [`MAX_PAIRS`] pairs of each family. Only the active locators of a pair are
//! here; what comes from a previous or standby locator goes to the agent.

mod forward;
mod index;
mod memory;
mod pairs;
mod readers;

use std::net::IpAddr;
use std::sync::Arc;

use mat_proto::{Family, Home, Locator};

use crate::clock::Time;

pub use forward::Candidate;
pub use index::MAX_PAIRS;
pub use pairs::{Direction, Found, Pairs, Probe, Tally};
pub use readers::Reader;

use readers::Readers;

/// What all data threads read.
#[derive(Debug)]
pub struct Fib {
    /// IPv4: two addresses are one word.
    pub v4: Pairs<1>,
    /// IPv6: two addresses are four words.
    pub v6: Pairs<4>,
    readers: Readers,
}

impl Fib {
    /// A table for `capacity` pairs of each family, and its only writer. `seed` keeps
    /// whoever chooses addresses from choosing collisions.
    pub fn new(capacity: usize, seed: [u64; 4]) -> (Arc<Fib>, Writer) {
        let fib = Arc::new(Fib {
            v4: Pairs::new(capacity, seed),
            v6: Pairs::new(capacity, seed),
            readers: Readers::default(),
        });
        let writer = Writer {
            fib: Arc::clone(&fib),
            v4: Slots::new(capacity),
            v6: Slots::new(capacity),
        };
        (fib, writer)
    }

    /// Registers a data thread.
    pub fn reader(&self) -> Reader {
        self.readers.register()
    }

    /// Returns once every reader but `own` has finished the batch it was in.
    pub fn synchronize(&self, own: Option<&Reader>) {
        self.readers.wait(own);
    }

    /// Every pair: own home, peer home, and what went through.
    pub fn each(&self, mut visit: impl FnMut(IpAddr, IpAddr, Tally)) {
        self.v4.each(&mut visit);
        self.v6.each(&mut visit);
    }

    /// What has gone through a pair so far.
    pub fn tally(&self, slot: Slot) -> Tally {
        match slot.family {
            Family::V4 => self.v4.tally(slot.id),
            Family::V6 => self.v6.tally(slot.id),
        }
    }

    /// Counts a packet of a pair.
    #[inline]
    pub fn count(&self, slot: Slot, direction: Direction, packets: u64, bytes: u64, now: Time) {
        match slot.family {
            Family::V4 => self.v4.count(slot.id, direction, packets, bytes, now),
            Family::V6 => self.v6.count(slot.id, direction, packets, bytes, now),
        }
    }
}

/// Names the record of a pair, until it is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    family: Family,
    id: u32,
}

impl Slot {
    /// The record `id` of [`Fib::v4`].
    fn v4(id: u32) -> Self {
        let family = Family::V4;
        Slot { family, id }
    }

    /// The record `id` of [`Fib::v6`].
    fn v6(id: u32) -> Self {
        let family = Family::V6;
        Slot { family, id }
    }
}

/// The way of a pair's packets, as the agent wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Where our packets come from.
    pub local: Locator,
    /// Where they go.
    pub remote: Locator,
    /// Outbound packets go this way until then.
    pub until: Time,
}

/// The one who changes the table.
#[derive(Debug)]
pub struct Writer {
    fib: Arc<Fib>,
    v4: Slots,
    v6: Slots,
}

impl Writer {
    /// The table.
    pub fn fib(&self) -> &Arc<Fib> {
        &self.fib
    }

    /// A record for a pair of homes, without a way yet. `None` if the table is full or
    /// the homes are of two families.
    pub fn claim(&mut self, own: Home, peer: Home) -> Option<Slot> {
        let family = own.family();
        let slots = match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        };
        if peer.family() != family {
            return None;
        }
        let id = slots.take()?;
        match family {
            Family::V4 => self.fib.v4.claim(id, own.ip(), peer.ip()),
            Family::V6 => self.fib.v6.claim(id, own.ip(), peer.ip()),
        }
        Some(Slot { family, id })
    }

    /// Gives a record back.
    pub fn release(&mut self, slot: Slot) {
        self.set(slot, None);
        match slot.family {
            Family::V4 => {
                self.fib.v4.release(slot.id);
                self.v4.give_back(slot.id);
            }
            Family::V6 => {
                self.fib.v6.release(slot.id);
                self.v6.give_back(slot.id);
            }
        }
    }

    /// From now on packets of the pair go this way, or to the agent.
    pub fn set(&mut self, slot: Slot, way: Option<Way>) {
        match slot.family {
            Family::V4 => self.fib.v4.set(slot.id, way),
            Family::V6 => self.fib.v6.set(slot.id, way),
        }
    }

    /// The way of a pair at present.
    pub fn way(&self, slot: Slot) -> Option<Way> {
        match slot.family {
            Family::V4 => self.fib.v4.way(slot.id),
            Family::V6 => self.fib.v6.way(slot.id),
        }
    }
}

/// Which records are taken. The one that has been free longest is taken first, so that
/// a reader that still counts something counts it for nobody.
#[derive(Debug)]
struct Slots {
    free: std::collections::VecDeque<u32>,
    unused: std::ops::RangeInclusive<u32>,
}

impl Slots {
    fn new(capacity: usize) -> Self {
        let last = u32::try_from(capacity.min(MAX_PAIRS)).unwrap_or(u32::MAX);
        Slots {
            free: std::collections::VecDeque::new(),
            unused: 1..=last,
        }
    }

    fn take(&mut self) -> Option<u32> {
        self.free.pop_front().or_else(|| self.unused.next())
    }

    fn give_back(&mut self, id: u32) {
        self.free.push_back(id);
    }
}

#[cfg(test)]
mod tests;

//! The pairs of one family: records, their counters, and the search.

use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use mat_proto::Locator;

use super::Way;
use super::index::{Entry, Index, MAX_PAIRS};
use super::memory::{HUGE, Pages, Zeroed, prefetch};
use crate::clock::Time;
use crate::counters::Traffic;
use crate::rewrite::checksum::Delta;
use crate::rewrite::plain::Ends;

/// Which way a packet of a pair goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the own home to the peer.
    Out,
    /// From the peer to the own home.
    In,
}

/// A search that has begun: its parts are apart so that the memory accesses of a whole
/// batch can be under way at once.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    hash: u64,
    at: usize,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found<const W: usize> {
    /// The record, for [`Pairs::count`].
    pub id: u32,
    /// Which way it goes.
    pub direction: Direction,
    /// The addresses it gets.
    pub new: Ends<W>,
    /// What they change in a checksum.
    pub delta: Delta,
}

/// What went through a pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// To the peer.
    pub sent: Traffic,
    /// From the peer.
    pub received: Traffic,
    /// When the last packet went to the peer; to 66 ms, rounded down.
    pub last_sent: Option<Time>,
    /// When the last packet came from the peer.
    pub last_received: Option<Time>,
}

/// Times are kept in units of 2^16 µs: 32 bits last nine years.
const TICK_SHIFT: u32 = 16;

fn tick(time: Time) -> u32 {
    (time.0 >> TICK_SHIFT) as u32
}

/// Written under a version that is odd meanwhile; read between two equal versions.
#[derive(Debug)]
struct Record<const W: usize> {
    /// The version, and behind it what changes in a checksum when homes become
    /// locators. Nobody reads for as long as 16 bits of versions take.
    seal: AtomicU32,
    /// Tick.
    expires: AtomicU32,
    /// Own home and peer home.
    homes: [AtomicU64; W],
    /// Own locator and peer locator; zeros: none.
    locators: [AtomicU64; W],
}

#[derive(Debug, Default)]
struct Counts {
    sent_packets: AtomicU64,
    sent_bytes: AtomicU64,
    received_packets: AtomicU64,
    received_bytes: AtomicU64,
    /// Tick plus one; zero: never.
    last_sent: AtomicU32,
    last_received: AtomicU32,
}

/// Written by every packet, so not beside what every packet only reads.
#[derive(Debug)]
struct Piece<const W: usize> {
    records: Pages<Record<W>>,
    counts: Pages<Counts>,
}

// SAFETY: integers.
unsafe impl<const W: usize> Zeroed for Record<W> {}
// SAFETY: integers.
unsafe impl Zeroed for Counts {}

/// All pairs of one family; two addresses are `W` words of 64 bits.
#[derive(Debug)]
pub struct Pairs<const W: usize> {
    index: Index,
    pieces: Box<[OnceLock<Piece<W>>]>,
    seed: [u64; 4],
}

impl<const W: usize> Pairs<W> {
    /// Records that come into being together: as many as a large page has room for.
    const PIECE: usize = HUGE / size_of::<Record<W>>();

    pub(super) fn new(capacity: usize, seed: [u64; 4]) -> Self {
        let capacity = capacity.min(MAX_PAIRS);
        Pairs {
            index: Index::new(capacity),
            pieces: (0..=capacity / Self::PIECE)
                .map(|_| OnceLock::new())
                .collect(),
            seed: seed.map(spread),
        }
    }

    /// Begins the search for a packet's pair, one of a batch: has the first entry that is
    /// looked at fetched from memory.
    #[inline]
    pub fn probe(&self, key: &Ends<W>) -> Probe {
        let probe = self.begin(key);
        self.index.fetch(probe.at);
        probe
    }

    #[inline]
    fn begin(&self, key: &Ends<W>) -> Probe {
        let hash = self.hash(key);
        let at = self.index.start(hash);
        Probe { hash, at }
    }

    /// Has the record that is probably meant fetched from memory.
    #[inline]
    pub fn fetch(&self, probe: &Probe) {
        if let Some(record) = self.record(self.index.get(probe.at).id()) {
            prefetch(record);
        }
    }

    /// Ends the search. `None`: the agent knows better.
    #[inline]
    pub fn resolve(&self, probe: &Probe, key: &Ends<W>, now: Time) -> Option<Found<W>> {
        let Probe { hash, mut at } = *probe;
        let mut entry = self.index.get(at);
        while !entry.is_empty() {
            if entry.may_be(hash)
                && let Some(found) = self.read(entry, key, now)
            {
                return Some(found);
            }
            at = self.index.after(at);
            entry = self.index.get(at);
        }
        None
    }

    /// The whole search, at once.
    #[inline]
    pub fn find(&self, key: &Ends<W>, now: Time) -> Option<Found<W>> {
        self.resolve(&self.begin(key), key, now)
    }

    /// Counts packets of a pair.
    #[inline]
    pub fn count(&self, id: u32, direction: Direction, packets: u64, bytes: u64, now: Time) {
        let Some(piece) = self.piece(id) else {
            return;
        };
        let counts = &piece.counts[id as usize % Self::PIECE];
        let (p, b, last) = match direction {
            Direction::Out => (&counts.sent_packets, &counts.sent_bytes, &counts.last_sent),
            Direction::In => (
                &counts.received_packets,
                &counts.received_bytes,
                &counts.last_received,
            ),
        };
        p.fetch_add(packets, Ordering::Relaxed);
        b.fetch_add(bytes, Ordering::Relaxed);
        last.store(tick(now).wrapping_add(1), Ordering::Relaxed);
    }

    /// Octets that `pairs` pairs take, once they are all there.
    pub fn octets(pairs: usize) -> usize {
        pairs * (size_of::<Record<W>>() + size_of::<Counts>()) + Index::octets(pairs)
    }

    #[cfg(test)]
    pub(super) fn index_used(&self) -> usize {
        self.index.used()
    }

    #[cfg(test)]
    pub(super) fn longest_search(&self) -> usize {
        self.index.longest_run()
    }

    pub(super) fn tally(&self, id: u32) -> Tally {
        let Some(piece) = self.piece(id) else {
            return Tally::default();
        };
        let counts = &piece.counts[id as usize % Self::PIECE];
        let time = |last: &AtomicU32| {
            let tick = u64::from(last.load(Ordering::Relaxed)).checked_sub(1)?;
            Some(Time(tick << TICK_SHIFT))
        };
        let traffic = |packets: &AtomicU64, bytes: &AtomicU64| Traffic {
            packets: packets.load(Ordering::Relaxed),
            bytes: bytes.load(Ordering::Relaxed),
        };
        Tally {
            sent: traffic(&counts.sent_packets, &counts.sent_bytes),
            received: traffic(&counts.received_packets, &counts.received_bytes),
            last_sent: time(&counts.last_sent),
            last_received: time(&counts.last_received),
        }
    }

    pub(super) fn claim(&self, id: u32, own: IpAddr, peer: IpAddr) {
        let piece = self.pieces[id as usize / Self::PIECE].get_or_init(|| Piece {
            records: Pages::new(Self::PIECE),
            counts: Pages::new(Self::PIECE),
        });
        let homes = Ends::new(own, peer);
        piece.records[id as usize % Self::PIECE].write(&homes, &Ends([0; W]));
        let counts = &piece.counts[id as usize % Self::PIECE];
        for count in [
            &counts.sent_packets,
            &counts.sent_bytes,
            &counts.received_packets,
            &counts.received_bytes,
        ] {
            count.store(0, Ordering::Relaxed);
        }
        counts.last_sent.store(0, Ordering::Relaxed);
        counts.last_received.store(0, Ordering::Relaxed);
    }

    /// It is nobody's any more; it has no way.
    pub(super) fn release(&self, id: u32) {
        if let Some(record) = self.record(id) {
            record.write(&Ends([0; W]), &Ends([0; W]));
        }
    }

    /// Every pair that is somebody's, and what went through it.
    pub(super) fn each(&self, visit: &mut impl FnMut(IpAddr, IpAddr, Tally)) {
        for (n, piece) in self.pieces.iter().enumerate() {
            let Some(piece) = piece.get() else {
                continue;
            };
            for (place, record) in piece.records.iter().enumerate() {
                let seal = record.seal.load(Ordering::Acquire);
                let homes = load(&record.homes);
                fence(Ordering::Acquire);
                let whole = record.seal.load(Ordering::Relaxed) == seal;
                if whole && homes.0 != [0; W] {
                    let tally = self.tally((n * Self::PIECE + place) as u32);
                    let (own, peer) = homes.addresses();
                    visit(own, peer, tally);
                }
            }
        }
    }

    pub(super) fn set(&self, id: u32, way: Option<Way>) {
        let Some(record) = self.record(id) else {
            return;
        };
        let old = self.way(id);
        if let (Some(old), Some(new)) = (old, way)
            && (old.local, old.remote) == (new.local, new.remote)
        {
            // Renewed only: nothing that is found by.
            return record.expires.store(tick(new.until), Ordering::Relaxed);
        }
        if old.is_some() {
            for inbound in [false, true] {
                let hash = self.hash(&record.key(inbound));
                let entry = Entry::new(hash, id, inbound);
                let others = |other: Entry| self.hash_of(other);
                self.index.remove(hash, entry, others);
            }
        }
        let locators = way.map_or(Ends([0; W]), |way| {
            Ends::new(way.local.ip(), way.remote.ip())
        });
        let until = way.map_or(0, |way| tick(way.until));
        record.expires.store(until, Ordering::Relaxed);
        record.write(&load(&record.homes), &locators);
        if way.is_some() {
            for inbound in [false, true] {
                let hash = self.hash(&record.key(inbound));
                self.index.insert(hash, Entry::new(hash, id, inbound));
            }
        }
    }

    pub(super) fn way(&self, id: u32) -> Option<Way> {
        let record = self.record(id)?;
        let locators = load(&record.locators);
        if locators.0 == [0; W] {
            return None;
        }
        let (local, remote) = locators.addresses();
        Some(Way {
            local: Locator::new(local).ok()?,
            remote: Locator::new(remote).ok()?,
            until: Time(u64::from(record.expires.load(Ordering::Relaxed)) << TICK_SHIFT),
        })
    }

    #[inline]
    fn piece(&self, id: u32) -> Option<&Piece<W>> {
        self.pieces.get(id as usize / Self::PIECE)?.get()
    }

    #[inline]
    fn record(&self, id: u32) -> Option<&Record<W>> {
        Some(&self.piece(id)?.records[id as usize % Self::PIECE])
    }

    #[inline]
    fn read(&self, entry: Entry, key: &Ends<W>, now: Time) -> Option<Found<W>> {
        let id = entry.id();
        let record = self.record(id)?;
        let seal = record.seal.load(Ordering::Acquire);
        let delta = Delta::from_bits(seal as u16);
        let found = if entry.inbound() {
            if !holds(&record.locators, &key.swapped()) {
                return None;
            }
            Found {
                id,
                direction: Direction::In,
                new: load(&record.homes).swapped(),
                delta: -delta,
            }
        } else {
            let fresh = tick(now) < record.expires.load(Ordering::Relaxed);
            if !fresh || !holds(&record.homes, key) {
                return None;
            }
            Found {
                id,
                direction: Direction::Out,
                new: load(&record.locators),
                delta,
            }
        };
        // All of the above before this second look at the seal.
        fence(Ordering::Acquire);
        let whole = seal & VERSION == 0 && record.seal.load(Ordering::Relaxed) == seal;
        whole.then_some(found)
    }

    fn hash_of(&self, entry: Entry) -> u64 {
        let record = self.record(entry.id());
        record.map_or(0, |record| self.hash(&record.key(entry.inbound())))
    }

    /// Keyed multiply and fold, up to 128 bits of key at once (as in wyhash).
    #[inline]
    fn hash(&self, key: &Ends<W>) -> u64 {
        let [a, b, c, d] = self.seed;
        match key.0[..] {
            [v4] => fold(v4 ^ a, b),
            [s0, s1, d0, d1] => fold(s0 ^ a, s1 ^ b) ^ fold(d0 ^ c, d1 ^ d).rotate_left(32),
            _ => 0,
        }
    }
}

/// An odd number with about as many ones as zeros, whatever the seed: a factor with
/// few of either would hardly mix (splitmix64's finaliser).
fn spread(seed: u64) -> u64 {
    let mut x = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (x ^ (x >> 31)) | 1
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// The lowest bit of the version, in a record's seal.
const VERSION: u32 = 1 << 16;

impl<const W: usize> Record<W> {
    /// What its packets are found by.
    fn key(&self, inbound: bool) -> Ends<W> {
        match inbound {
            false => load(&self.homes),
            true => load(&self.locators).swapped(),
        }
    }

    fn write(&self, homes: &Ends<W>, locators: &Ends<W>) {
        let delta = u32::from(homes.delta(locators).bits());
        let version = self.seal.load(Ordering::Relaxed) & !(VERSION - 1);
        self.seal.store(version | VERSION, Ordering::Relaxed);
        fence(Ordering::Release);
        for (place, ends) in [(&self.homes, homes), (&self.locators, locators)] {
            for (word, value) in place.iter().zip(ends.0) {
                word.store(value, Ordering::Relaxed);
            }
        }
        let version = version.wrapping_add(2 * VERSION);
        self.seal.store(version | delta, Ordering::Release);
    }
}

#[inline]
fn load<const W: usize>(words: &[AtomicU64; W]) -> Ends<W> {
    Ends(std::array::from_fn(|i| words[i].load(Ordering::Relaxed)))
}

/// Whether the words are these; word by word, since nothing wider can be read whole.
#[inline]
fn holds<const W: usize>(words: &[AtomicU64; W], ends: &Ends<W>) -> bool {
    let differ = |i: usize| words[i].load(Ordering::Relaxed) ^ ends.0[i];
    (0..W).fold(0, |all, i| all | differ(i)) == 0
}

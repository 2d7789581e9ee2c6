//! The pairs of one family: records, their counters, and the search.

use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use mat_proto::Locator;

use super::Way;
use super::index::{Entry, Index, MAX_PAIRS};
use crate::clock::Time;
use crate::counters::Traffic;
use crate::rewrite::checksum::Delta;
use crate::rewrite::plain::{Ends, address};

type Address<const W: usize> = [u32; W];

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
    entry: Entry,
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

/// Records come into being this many at a time.
const PIECE: usize = 1024;

// Places in a record.
const OWN: usize = 0;
const PEER: usize = 1;
const LOCAL: usize = 2;
const REMOTE: usize = 3;

/// Written under a version that is odd meanwhile; read between two equal versions.
#[derive(Debug)]
struct Record<const W: usize> {
    version: AtomicU32,
    expires: AtomicU32,
    /// What changes when homes become locators.
    delta: AtomicU32,
    addresses: [[AtomicU32; W]; 4],
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
    records: Box<[Record<W>]>,
    counts: Box<[Counts]>,
}

/// All pairs of one family; addresses are `W` words long.
#[derive(Debug)]
pub struct Pairs<const W: usize> {
    index: Index,
    pieces: Box<[OnceLock<Piece<W>>]>,
    seed: [u64; 4],
}

impl<const W: usize> Pairs<W> {
    pub(super) fn new(capacity: usize, seed: [u64; 4]) -> Self {
        let capacity = capacity.min(MAX_PAIRS);
        Pairs {
            index: Index::new(capacity),
            pieces: (0..=capacity / PIECE).map(|_| OnceLock::new()).collect(),
            seed,
        }
    }

    /// Begins the search for a packet's pair.
    pub fn probe(&self, key: &Ends<W>) -> Probe {
        let hash = self.hash(key);
        let at = self.index.start(hash);
        let entry = self.index.get(at);
        Probe { hash, at, entry }
    }

    /// Ends the search. `None`: the agent knows better.
    pub fn resolve(&self, probe: &Probe, key: &Ends<W>, now: Time) -> Option<Found<W>> {
        let Probe {
            hash,
            mut at,
            mut entry,
        } = *probe;
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

    /// The whole search.
    pub fn find(&self, key: &Ends<W>, now: Time) -> Option<Found<W>> {
        self.resolve(&self.probe(key), key, now)
    }

    /// Counts packets of a pair.
    pub fn count(&self, id: u32, direction: Direction, packets: u64, bytes: u64, now: Time) {
        let Some(piece) = self.piece(id) else {
            return;
        };
        let counts = &piece.counts[id as usize % PIECE];
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

    pub(super) fn tally(&self, id: u32) -> Tally {
        let Some(piece) = self.piece(id) else {
            return Tally::default();
        };
        let counts = &piece.counts[id as usize % PIECE];
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
        let piece = self.pieces[id as usize / PIECE].get_or_init(Piece::new);
        let homes = Ends::new(own, peer);
        piece.records[id as usize % PIECE].write(|record| {
            record.put(OWN, homes.source);
            record.put(PEER, homes.destination);
            record.put(LOCAL, [0; W]);
            record.put(REMOTE, [0; W]);
        });
        let counts = &piece.counts[id as usize % PIECE];
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
            record.write(|record| {
                record.put(OWN, [0; W]);
                record.put(PEER, [0; W]);
            });
        }
    }

    /// Every pair that is somebody's, and what went through it.
    pub(super) fn each(&self, visit: &mut impl FnMut(IpAddr, IpAddr, Tally)) {
        for (n, piece) in self.pieces.iter().enumerate() {
            let Some(piece) = piece.get() else {
                continue;
            };
            for (place, record) in piece.records.iter().enumerate() {
                let version = record.version.load(Ordering::Acquire);
                let homes = record.key(false);
                fence(Ordering::Acquire);
                let whole = record.version.load(Ordering::Relaxed) == version;
                if whole && homes.source != [0; W] {
                    let tally = self.tally((n * PIECE + place) as u32);
                    visit(address(homes.source), address(homes.destination), tally);
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
        let locators = match way {
            Some(way) => Ends::new(way.local.ip(), way.remote.ip()),
            None => Ends {
                source: [0; W],
                destination: [0; W],
            },
        };
        record.write(|record| {
            record.put(LOCAL, locators.source);
            record.put(REMOTE, locators.destination);
            let delta = record.key(false).delta(&locators);
            record.delta.store(delta.bits().into(), Ordering::Relaxed);
            let until = way.map_or(0, |way| tick(way.until));
            record.expires.store(until, Ordering::Relaxed);
        });
        if way.is_some() {
            for inbound in [false, true] {
                let hash = self.hash(&record.key(inbound));
                self.index.insert(hash, Entry::new(hash, id, inbound));
            }
        }
    }

    pub(super) fn way(&self, id: u32) -> Option<Way> {
        let record = self.record(id)?;
        let (local, remote) = (record.get(LOCAL), record.get(REMOTE));
        if local == [0; W] {
            return None;
        }
        Some(Way {
            local: Locator::new(address(local)).ok()?,
            remote: Locator::new(address(remote)).ok()?,
            until: Time(u64::from(record.expires.load(Ordering::Relaxed)) << TICK_SHIFT),
        })
    }

    fn piece(&self, id: u32) -> Option<&Piece<W>> {
        self.pieces.get(id as usize / PIECE)?.get()
    }

    fn record(&self, id: u32) -> Option<&Record<W>> {
        Some(&self.piece(id)?.records[id as usize % PIECE])
    }

    fn read(&self, entry: Entry, key: &Ends<W>, now: Time) -> Option<Found<W>> {
        let id = entry.id();
        let record = self.record(id)?;
        let version = record.version.load(Ordering::Acquire);
        let (new, direction) = if entry.inbound() {
            if record.key(true) != *key {
                return None;
            }
            let (source, destination) = (record.get(PEER), record.get(OWN));
            let new = Ends {
                source,
                destination,
            };
            (new, Direction::In)
        } else {
            let fresh = tick(now) < record.expires.load(Ordering::Relaxed);
            if record.key(false) != *key || !fresh {
                return None;
            }
            let (source, destination) = (record.get(LOCAL), record.get(REMOTE));
            let new = Ends {
                source,
                destination,
            };
            (new, Direction::Out)
        };
        let delta = Delta::from_bits(record.delta.load(Ordering::Relaxed) as u16);
        // All of the above before this second look at the version.
        fence(Ordering::Acquire);
        let whole = version.is_multiple_of(2) && record.version.load(Ordering::Relaxed) == version;
        whole.then_some(Found {
            id,
            direction,
            new,
            delta: match direction {
                Direction::Out => delta,
                Direction::In => -delta,
            },
        })
    }

    fn hash_of(&self, entry: Entry) -> u64 {
        let record = self.record(entry.id());
        record.map_or(0, |record| self.hash(&record.key(entry.inbound())))
    }

    /// Keyed multiply and fold, 64 bits of key a step (as in wyhash).
    fn hash(&self, key: &Ends<W>) -> u64 {
        let [a, b, c, d] = self.seed;
        let mut hash = a;
        if W == 1 {
            let word = u64::from(key.source[0]) << 32 | u64::from(key.destination[0]);
            return fold(fold(word ^ a, b | 1) ^ c, d | 1);
        }
        for (pair, seed) in [(key.source, b), (key.destination, c)] {
            let half = |at: usize| u64::from(pair[at]) << 32 | u64::from(pair[at + 1]);
            hash ^= fold(half(0) ^ seed, half(2) ^ d);
            hash = hash.rotate_left(23);
        }
        fold(hash ^ c, d | 1)
    }
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

impl<const W: usize> Piece<W> {
    fn new() -> Self {
        let record = |_| Record {
            version: AtomicU32::new(0),
            expires: AtomicU32::new(0),
            delta: AtomicU32::new(0),
            addresses: [const { [const { AtomicU32::new(0) }; W] }; 4],
        };
        Piece {
            records: (0..PIECE).map(record).collect(),
            counts: (0..PIECE).map(|_| Counts::default()).collect(),
        }
    }
}

impl<const W: usize> Record<W> {
    fn get(&self, place: usize) -> Address<W> {
        std::array::from_fn(|word| self.addresses[place][word].load(Ordering::Relaxed))
    }

    fn put(&self, place: usize, address: Address<W>) {
        for (word, value) in self.addresses[place].iter().zip(address) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// What its packets are found by.
    fn key(&self, inbound: bool) -> Ends<W> {
        let (source, destination) = match inbound {
            false => (OWN, PEER),
            true => (REMOTE, LOCAL),
        };
        Ends {
            source: self.get(source),
            destination: self.get(destination),
        }
    }

    fn write(&self, change: impl FnOnce(&Self)) {
        let version = self.version.load(Ordering::Relaxed);
        self.version
            .store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        change(self);
        self.version
            .store(version.wrapping_add(2), Ordering::Release);
    }
}

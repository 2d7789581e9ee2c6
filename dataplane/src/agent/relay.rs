//! The way of packets from the old site of a move to the new one: cut into RELAY
//! pieces, put together, in order, and sent again if they were lost.
//!
//! A relayed packet is never "too big": whatever does not fit one message is cut, into
//! pieces for the smallest IPv6 path. The old site keeps each packet until the new one
//! says (FLUSHED) that the instance has it: so none is lost when a piece is, nor when
//! the move is undone before the new site has delivered anything.
//!
//! Times and numbers are arguments; sending is the caller's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use mat_proto::message::{Flushed, MAX_MISSING, Missing, RELAY_OVERHEAD, Relay};
use mat_proto::{Epoch, Home};

use super::hold::Budget;
use crate::clock::Time;
use crate::frame::{Frame, MAX_FRAME};

/// IPv6 minimum MTU less IPv6, UDP and RELAY headers.
const PIECE: usize = 1280 - 40 - 8 - RELAY_OVERHEAD;
/// A packet relayed more often than this goes in circles.
pub(crate) const MAX_HOPS: u8 = 4;
/// What is sent again is not sent again within this time: reports come faster than
/// what they ask for can arrive.
const RESEND: Duration = Duration::from_millis(20);
/// Without any report, the oldest packet is sent again after this time, which is
/// doubled each time.
const SILENCE: Duration = Duration::from_millis(50);
/// Doublings of it.
const MAX_BACKOFF: u32 = 3;
/// Places of peers that are kept in mind.
const MAX_PEERS: usize = 1 << 16;
/// How far behind the first gap packets are taken, in packets and in octets.
const MAX_AHEAD: u32 = 4096;
const MAX_AHEAD_BYTES: usize = 8 << 20;

/// Packets on their way to the new site, until it has delivered them.
#[derive(Debug)]
pub(crate) struct Sent {
    home: Home,
    /// The epoch that this site served.
    epoch: Epoch,
    /// Where its peers are: what comes from elsewhere is not for it.
    peers: BTreeSet<IpAddr>,
    /// Number of the first one in `kept`.
    first: u32,
    kept: VecDeque<Kept>,
    bytes: usize,
    /// All before this number have arrived there.
    received: u32,
    /// When the new site was last heard of, first had something to answer, or was sent
    /// the oldest packet again.
    since: Time,
    /// How often that was.
    silent: u32,
}

#[derive(Debug)]
struct Kept {
    hops: u8,
    frame: Frame,
    since: Time,
    sent: Time,
}

impl Sent {
    pub(crate) fn new(home: Home, epoch: Epoch, peers: BTreeSet<IpAddr>, now: Time) -> Self {
        Sent {
            home,
            epoch,
            peers,
            first: 0,
            kept: VecDeque::new(),
            bytes: 0,
            received: 0,
            since: now,
            silent: 0,
        }
    }

    /// The epoch that this site served when it let go.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether a packet from there is from one of its peers.
    pub(crate) fn is_peer(&self, at: IpAddr) -> bool {
        self.peers.contains(&at)
    }

    /// A peer has moved there.
    pub(crate) fn add_peer(&mut self, at: IpAddr) {
        if self.peers.len() < MAX_PEERS {
            self.peers.insert(at);
        }
    }

    /// What is kept takes so much in the accounts.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes a packet that `hops` sites have relayed before; gives back what is to be
    /// sent, or nothing if there is no room to keep it.
    pub(crate) fn push(
        &mut self,
        now: Time,
        hops: u8,
        frame: Frame,
        max: usize,
        all: &mut Budget,
    ) -> Option<Vec<Relay>> {
        let cost = frame.cost();
        if self.bytes + cost > max || !all.take(cost) {
            return None;
        }
        if self.unreceived() == 0 {
            self.since = now;
            self.silent = 0;
        }
        self.bytes += cost;
        let hops = hops + 1;
        self.kept.push_back(Kept {
            hops,
            frame,
            since: now,
            sent: now,
        });
        Some(self.pieces(self.kept.len() - 1, 0, u32::MAX))
    }

    /// What the new site reports; gives back what is to be sent again.
    pub(crate) fn flushed(&mut self, now: Time, report: &Flushed, all: &mut Budget) -> Vec<Relay> {
        let end = self.first.wrapping_add(self.kept.len() as u32);
        let within = |id: u32| id.wrapping_sub(self.first) <= end.wrapping_sub(self.first);
        if !within(report.delivered) || !within(report.received) {
            // Of an earlier moment, or nonsense.
            return Vec::new();
        }
        (self.since, self.silent) = (now, 0);
        if report.received.wrapping_sub(self.first) > self.received.wrapping_sub(self.first) {
            self.received = report.received;
        }
        for _ in 0..report.delivered.wrapping_sub(self.first) {
            self.pop(all);
        }
        let mut again = Vec::new();
        for gap in &report.missing {
            let at = gap.id.wrapping_sub(self.first) as usize;
            if let Some(kept) = self.kept.get_mut(at)
                && now.since(kept.sent) >= RESEND
            {
                again.push((at, gap.from, gap.to));
            }
        }
        for (at, ..) in &again {
            self.kept[*at].sent = now;
        }
        let pieces = again.into_iter();
        pieces
            .flat_map(|(at, from, to)| self.pieces(at, from, to))
            .collect()
    }

    /// Sends the oldest packet again if the new site has been silent for too long.
    pub(crate) fn due(&mut self, now: Time) -> Vec<Relay> {
        if self.unreceived() == 0 || self.next().is_none_or(|at| at > now) {
            return Vec::new();
        }
        (self.since, self.silent) = (now, self.silent + 1);
        let at = self.received.wrapping_sub(self.first) as usize;
        self.kept[at].sent = now;
        self.pieces(at, 0, u32::MAX)
    }

    /// When [`Sent::due`] has something to do.
    pub(crate) fn next(&self) -> Option<Time> {
        let patience = SILENCE * (1 << self.silent.min(MAX_BACKOFF));
        (self.unreceived() > 0).then(|| self.since + patience)
    }

    /// Drops what has waited longer than `age`; gives back how many.
    pub(crate) fn expire(&mut self, now: Time, age: Duration, all: &mut Budget) -> u64 {
        let mut dropped = 0;
        while self.kept.front().is_some_and(|k| k.since + age <= now) {
            self.pop(all);
            dropped += 1;
        }
        dropped
    }

    /// The oldest packet that the new site has not delivered: the move is undone.
    pub(crate) fn pop(&mut self, all: &mut Budget) -> Option<Frame> {
        let kept = self.kept.pop_front()?;
        let cost = kept.frame.cost();
        self.bytes -= cost;
        all.give(cost);
        if self.received == self.first {
            self.received = self.received.wrapping_add(1);
        }
        self.first = self.first.wrapping_add(1);
        Some(kept.frame)
    }

    fn unreceived(&self) -> usize {
        self.kept.len() - self.received.wrapping_sub(self.first) as usize
    }

    /// The pieces of the packet at a place that touch these octets of it.
    fn pieces(&self, at: usize, from: u32, to: u32) -> Vec<Relay> {
        let kept = &self.kept[at];
        let octets = kept.frame.to_octets();
        let id = self.first.wrapping_add(at as u32);
        let touches = |begin: usize| begin < to as usize && begin + PIECE > from as usize;
        octets
            .chunks(PIECE)
            .enumerate()
            .map(|(n, bytes)| (n * PIECE, bytes))
            .filter(|(begin, _)| touches(*begin))
            .map(|(begin, bytes)| Relay {
                home: self.home,
                epoch: self.epoch,
                hops: kept.hops,
                id,
                total: octets.len() as u32,
                offset: begin as u32,
                bytes: bytes.to_vec(),
            })
            .collect()
    }
}

/// Packets that come from the old site, until they can be taken in order.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    /// All before this number have been taken.
    next: u32,
    /// From there on.
    open: BTreeMap<u32, Partial>,
    bytes: usize,
    /// Since when the packet `next` is waited for while later ones are there.
    waiting: Option<Time>,
}

#[derive(Debug)]
struct Partial {
    hops: u8,
    octets: Vec<u8>,
    /// Which pieces are there; all but the last are `PIECE` long.
    seen: Vec<bool>,
}

impl Partial {
    fn is_whole(&self) -> bool {
        self.seen.iter().all(|seen| *seen)
    }
}

impl Arrivals {
    /// Takes a piece; whether it was of any use. If not it is ignored: the sender is
    /// authenticated, so it is only late, doubled, too early, or from a release that
    /// cuts otherwise.
    pub(crate) fn add(&mut self, piece: &Relay) -> bool {
        let (total, offset) = (piece.total as usize, piece.offset as usize);
        let rest = total.saturating_sub(offset);
        let ahead = piece.id.wrapping_sub(self.next);
        if total > MAX_FRAME || offset % PIECE != 0 || piece.bytes.len() != PIECE.min(rest) {
            return false;
        }
        if ahead >= MAX_AHEAD || (ahead > 0 && self.bytes + total > MAX_AHEAD_BYTES) {
            return false;
        }
        let bytes = &mut self.bytes;
        let partial = self.open.entry(piece.id).or_insert_with(|| {
            *bytes += total;
            Partial {
                hops: piece.hops,
                octets: vec![0; total],
                seen: vec![false; total.div_ceil(PIECE)],
            }
        });
        let fits = partial.octets.len() == total;
        if fits {
            partial.octets[offset..offset + piece.bytes.len()].copy_from_slice(&piece.bytes);
            partial.seen[offset / PIECE] = true;
        }
        fits
    }

    /// The next packet in order and how often it was relayed, if all of it is there.
    pub(crate) fn take(&mut self) -> Option<(u8, Frame)> {
        let partial = self.open.get(&self.next).filter(|p| p.is_whole())?;
        self.bytes -= partial.octets.len();
        let partial = self.open.remove(&self.next)?;
        self.next = self.next.wrapping_add(1);
        self.waiting = None;
        Some((partial.hops, Frame::from_octets(&partial.octets)?))
    }

    /// All packets with smaller numbers have arrived.
    pub(crate) fn received(&self) -> u32 {
        self.next
    }

    /// Whether something is missing before something that is there.
    pub(crate) fn has_gap(&self) -> bool {
        !self.open.is_empty()
    }

    /// Gives up a packet that did not come for so long: its sender has given it up
    /// too. Later ones can be taken then.
    pub(crate) fn skip(&mut self, now: Time, age: Duration) {
        if self.open.is_empty() {
            self.waiting = None;
            return;
        }
        let since = *self.waiting.get_or_insert(now);
        if now.since(since) < age {
            return;
        }
        self.waiting = None;
        if let Some(gone) = self.open.remove(&self.next) {
            self.bytes -= gone.octets.len();
        }
        let later = self.later().next().map(|(id, _)| id);
        self.next = later.unwrap_or(self.next.wrapping_add(1));
    }

    /// What is missing of packets that have begun to arrive, or are followed by others.
    pub(crate) fn missing(&self) -> Vec<Missing> {
        let mut gaps = Vec::new();
        let mut expected = self.next;
        for (id, partial) in self.later() {
            while expected != id && gaps.len() < MAX_MISSING {
                gaps.push(Missing {
                    id: expected,
                    from: 0,
                    to: u32::MAX,
                });
                expected = expected.wrapping_add(1);
            }
            expected = id.wrapping_add(1);
            let unseen = partial.seen.iter().enumerate().filter(|(_, seen)| !**seen);
            let places: Vec<usize> = unseen.map(|(at, _)| at).collect();
            for run in places.chunk_by(|a, b| a + 1 == *b) {
                gaps.push(Missing {
                    id,
                    from: (run[0] * PIECE) as u32,
                    to: ((run[0] + run.len()) * PIECE) as u32,
                });
            }
            if gaps.len() >= MAX_MISSING {
                break;
            }
        }
        gaps.truncate(MAX_MISSING);
        gaps
    }

    /// From the next number on, also where numbers begin again.
    fn later(&self) -> impl Iterator<Item = (u32, &Partial)> {
        let (low, high) = (self.open.range(..self.next), self.open.range(self.next..));
        high.chain(low).map(|(id, partial)| (*id, partial))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Offload;

    fn frame(len: usize) -> Frame {
        Frame {
            offload: Offload([3; Offload::LEN]),
            packet: (0..len).map(|i| i as u8).collect(),
        }
    }

    fn home() -> Home {
        "192.0.2.1".parse().unwrap()
    }

    struct Line {
        sent: Sent,
        arrivals: Arrivals,
        all: Budget,
        now: Time,
    }

    impl Line {
        fn new() -> Self {
            Line {
                sent: Sent::new(home(), Epoch(1), BTreeSet::new(), Time(0)),
                arrivals: Arrivals::default(),
                all: Budget::new(1 << 20),
                now: Time(0),
            }
        }

        fn push(&mut self, len: usize) -> Option<Vec<Relay>> {
            self.sent
                .push(self.now, 0, frame(len), 1 << 20, &mut self.all)
        }

        fn taken(&mut self) -> Vec<usize> {
            let taken = std::iter::from_fn(|| self.arrivals.take());
            taken.map(|(_, frame)| frame.packet.len()).collect()
        }

        fn report(&self, delivered: u32) -> Flushed {
            Flushed {
                home: home(),
                epoch: Epoch(1),
                received: self.arrivals.received(),
                delivered,
                missing: self.arrivals.missing(),
            }
        }

        fn flushed(&mut self, delivered: u32) -> Vec<Relay> {
            let report = self.report(delivered);
            self.sent.flushed(self.now, &report, &mut self.all)
        }
    }

    #[test]
    fn any_length_survives_in_any_order() {
        for len in [0, 1, PIECE - 10, PIECE - 9, 1500, 65_535] {
            let mut line = Line::new();
            let mut pieces = line.push(len).unwrap();
            pieces.reverse();
            let last = pieces.pop().unwrap();
            for piece in &pieces {
                line.arrivals.add(piece);
                assert!(line.taken().is_empty());
            }
            line.arrivals.add(&last);
            assert_eq!(line.arrivals.take(), Some((1, frame(len))));
            assert!(!line.arrivals.has_gap());
        }
    }

    /// The numbers begin again in the midst of it.
    #[test]
    fn what_is_lost_comes_again_and_in_order() {
        let mut line = Line::new();
        line.sent.first = u32::MAX - 20;
        line.sent.received = u32::MAX - 20;
        line.arrivals.next = u32::MAX - 20;
        let mut lost = 0u32;
        let mut seed = 1u64;
        let mut taken = Vec::new();
        let mut pieces: Vec<Relay> = Vec::new();
        for len in 0..200 {
            pieces.extend(line.push(len * 13).unwrap());
        }
        while taken.len() < 200 {
            for piece in std::mem::take(&mut pieces) {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                if seed >> 62 == 0 {
                    lost += 1;
                } else {
                    line.arrivals.add(&piece);
                }
            }
            taken.extend(line.taken());
            line.now = line.now + RESEND;
            pieces = line.flushed(line.arrivals.received());
            pieces.extend(line.sent.due(line.now));
            assert!(line.now < Time(60_000_000), "it must come to an end");
        }
        assert!(lost > 50);
        assert_eq!(taken, (0..200).map(|n| n * 13).collect::<Vec<_>>());
        line.flushed(line.arrivals.received());
        assert_eq!(
            (line.sent.kept.len(), line.sent.bytes(), line.all.used()),
            (0, 0, 0)
        );
        assert_eq!(line.sent.next(), None);
    }

    #[test]
    fn the_last_one_is_sent_again_until_it_is_acknowledged() {
        let mut line = Line::new();
        line.push(10).unwrap();
        assert!(line.sent.due(Time(49_999)).is_empty());
        for (n, at) in [50_000, 150_000, 350_000, 750_000].iter().enumerate() {
            assert_eq!(line.sent.next(), Some(Time(*at)), "{n}");
            assert_eq!(line.sent.due(Time(*at)).len(), 1);
            assert!(line.sent.due(Time(*at)).is_empty());
        }
        let again = line.sent.due(Time(2_000_000));
        line.arrivals.add(&again[0]);
        assert_eq!(line.taken(), [10]);
        // Received, but not delivered: not sent again, but kept.
        assert!(line.flushed(0).is_empty());
        assert_eq!((line.sent.next(), line.sent.kept.len()), (None, 1));
        assert_eq!(line.sent.pop(&mut line.all), Some(frame(10)));
    }

    #[test]
    fn old_and_absurd_reports_change_nothing() {
        let mut line = Line::new();
        for _ in 0..3 {
            for piece in line.push(10).unwrap() {
                line.arrivals.add(&piece);
            }
        }
        assert_eq!(line.taken().len(), 3);
        let early = line.report(0);
        line.flushed(3);
        assert_eq!(line.sent.kept.len(), 0);
        line.push(10).unwrap();
        for (received, delivered) in [(0, 0), (5, 3), (3, 5), (u32::MAX, 3)] {
            let report = Flushed {
                received,
                delivered,
                ..early.clone()
            };
            let again = line.sent.flushed(line.now, &report, &mut line.all);
            assert!(again.is_empty());
            assert_eq!(line.sent.kept.len(), 1);
        }
    }

    #[test]
    fn both_sides_are_bounded() {
        let mut line = Line::new();
        assert!((0..2000).any(|_| line.push(60_000).is_none()));
        assert!(line.all.used() <= 1 << 20);
        let kept = line.sent.kept.len() as u64;
        let expired = line.sent.expire(Time(1), Duration::ZERO, &mut line.all);
        assert_eq!(expired, kept);
        assert_eq!(line.all.used(), 0);

        let mut arrivals = Arrivals::default();
        for id in 1..100_000 {
            arrivals.add(&Relay {
                home: home(),
                epoch: Epoch(1),
                hops: 1,
                id,
                total: 60_000,
                offset: 0,
                bytes: vec![0; PIECE],
            });
        }
        assert!(arrivals.bytes <= MAX_AHEAD_BYTES && arrivals.open.len() > 100);
        assert!(arrivals.missing().len() <= MAX_MISSING);
    }

    #[test]
    fn what_never_comes_is_given_up() {
        let mut line = Line::new();
        line.push(1).unwrap();
        for piece in line.push(2).unwrap() {
            line.arrivals.add(&piece);
        }
        let age = Duration::from_secs(5);
        line.arrivals.skip(Time(0), age);
        line.arrivals.skip(Time(4_999_999), age);
        assert!(line.taken().is_empty());
        line.arrivals.skip(Time(5_000_000), age);
        assert_eq!(line.taken(), [2]);
    }

    #[test]
    fn oddities_are_ignored() {
        let mut line = Line::new();
        let piece = line.push(3000).unwrap()[0].clone();
        let mut odd = piece.clone();
        odd.offset = 1;
        line.arrivals.add(&odd);
        assert!(!line.arrivals.has_gap());
        line.arrivals.add(&piece);
        odd = piece.clone();
        odd.total = 4000;
        line.arrivals.add(&odd);
        assert_eq!(line.arrivals.open[&0].octets.len(), 3010);
    }
}

//! The joiner: a batch of packets in, the writes that carry them out.

use std::ops::Range;

use super::flow::{self, Kind, Segment};
use super::run::{MAX_PACKETS, Run};
use super::sound::is_sound;
use crate::frame::Header;
use crate::frame::Offload;
use crate::rewrite::checksum;

/// Which kinds of packets may be joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Joinable {
    /// TCP over IPv4.
    pub tcp4: bool,
    /// TCP over IPv6.
    pub tcp6: bool,
    /// UDP over IPv4.
    pub udp4: bool,
    /// UDP over IPv6.
    pub udp6: bool,
}

impl Joinable {
    /// Every kind.
    pub const ALL: Joinable = Joinable {
        tcp4: true,
        tcp6: true,
        udp4: true,
        udp6: true,
    };
    /// TCP in both families.
    pub const TCP: Joinable = Joinable {
        udp4: false,
        udp6: false,
        ..Joinable::ALL
    };
    /// No kind: every packet is written as it came.
    pub const NONE: Joinable = Joinable {
        tcp4: false,
        tcp6: false,
        udp4: false,
        udp6: false,
    };

    /// Whether packets of this kind may be joined.
    pub const fn allows(&self, kind: Kind) -> bool {
        match kind {
            Kind::Tcp4 => self.tcp4,
            Kind::Tcp6 => self.tcp6,
            Kind::Udp4 => self.udp4,
            Kind::Udp6 => self.udp6,
        }
    }

    /// These but one.
    #[must_use]
    pub const fn without(mut self, kind: Kind) -> Joinable {
        match kind {
            Kind::Tcp4 => self.tcp4 = false,
            Kind::Tcp6 => self.tcp6 = false,
            Kind::Udp4 => self.udp4 = false,
            Kind::Udp6 => self.udp6 = false,
        }
        self
    }
}

/// One packet or super-packet to be written.
#[derive(Debug, Clone)]
pub struct Write<'a> {
    /// What goes before it.
    pub offload: Offload,
    /// What it was joined from; `None` for a packet as it came.
    pub joined: Option<Kind>,
    /// The packet in pieces, at most [`MAX_PACKETS`]: one for each packet that it carries, of which
    /// the first brings the headers.
    pub pieces: &'a [Range<usize>],
    /// What the pieces are pieces of.
    pub arena: &'a [u8],
}

impl<'a> Write<'a> {
    /// The bytes to gather.
    pub fn slices(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone {
        let arena = self.arena;
        self.pieces.iter().map(move |piece| &arena[piece.clone()])
    }

    /// The headers of a joined packet with its whole checksum in place of the partial one, for
    /// whoever can be told nothing by an [`Offload`]; and the bytes behind them.
    pub fn whole<'b>(
        &self,
        headers: &'b mut [u8; MAX_HEADER],
    ) -> (&'b [u8], impl Iterator<Item = &'a [u8]>) {
        let header = Header::from(&self.offload);
        let length = usize::from(header.hdr_len);
        let payload = self.slices().enumerate().map(move |(n, piece)| {
            let behind = if n == 0 { length } else { 0 };
            piece.get(behind..).unwrap_or_default()
        });
        let headers = &mut headers[..length];
        if let Some(first) = self.slices().next() {
            headers.copy_from_slice(&first[..length]);
        }
        let start = usize::from(header.csum_start);
        let field = start + usize::from(header.csum_offset);
        let mut sum = checksum::Sum::of(&headers[start..]);
        payload.clone().for_each(|piece| sum.add(piece));
        headers[field..field + 2].copy_from_slice(&(!sum.folded()).to_be_bytes());
        (headers, payload)
    }
}

/// What became of a [`Write`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// It is done with, be it written or lost.
    Done,
    /// It was refused for being joined: its packets are to be offered one by one, as they came.
    Refused,
}

/// Joins the packets of one batch after another.
///
/// [`push`](Joiner::push) every packet of the batch in the order of its arrival, with all addresses
/// rewritten, then [`finish`](Joiner::finish). The arena may not change in between.
#[derive(Debug)]
pub struct Joiner {
    /// Which kinds are joined from the next packet on; a packet of another kind closes its flow.
    pub joinable: Joinable,
    packets: Vec<Packet>,
    groups: Vec<Group>,
    /// For each group the tag of its flow, or [`CLOSED`]: what is searched for every packet.
    tags: Vec<u32>,
    /// Room for [`Write::pieces`].
    pieces: Vec<Range<usize>>,
}

/// The tag of a group that takes no more packets.
const CLOSED: u32 = 0;

/// The longest headers: IPv6 and TCP with all its options.
pub const MAX_HEADER: usize = 40 + 60;

/// A packet of the batch.
#[derive(Debug)]
struct Packet {
    offload: Offload,
    at: Range<usize>,
    /// Where it ends by its IP header, which may be before the end of `at`.
    end: usize,
    /// The packet behind it in its group.
    next: Option<usize>,
}

/// Packets that go into one write.
#[derive(Debug)]
struct Group {
    first: usize,
    last: usize,
    /// `None` if nothing can be joined with its one packet.
    run: Option<Run>,
}

impl Joiner {
    /// One that takes batches of `packets` without allocating; larger ones make it grow.
    pub fn new(packets: usize, joinable: Joinable) -> Joiner {
        Joiner {
            joinable,
            packets: Vec::with_capacity(packets),
            groups: Vec::with_capacity(packets),
            tags: Vec::with_capacity(packets),
            pieces: Vec::with_capacity(MAX_PACKETS),
        }
    }

    /// Takes the next packet of the batch, which lies in `arena` at `at`.
    ///
    /// # Panics
    /// If `at` is outside `arena`.
    pub fn push(&mut self, arena: &[u8], offload: Offload, at: Range<usize>) {
        let packet = &arena[at.clone()];
        // By reference: the compiler would copy it while it is being written.
        if let Some(segment) = &flow::read(packet) {
            return self.push_segment(arena, offload, at, segment);
        }
        match flow::addresses_of(packet) {
            Some(addresses) => self.close_between(arena, addresses),
            None => self.tags.fill(CLOSED),
        }
        self.begin(offload, at, None);
    }

    /// Ends the batch: calls `write` for everything that is to be written, in the order of the
    /// first packets. The headers of joined packets are made in place, in `arena`.
    ///
    /// If `write` answers [`Reply::Refused`] to a joined packet, its packets are offered singly.
    /// What it answers to any other does not matter.
    ///
    /// # Panics
    /// If `arena` is shorter than the one that the packets were pushed from.
    pub fn finish(&mut self, arena: &mut [u8], mut write: impl FnMut(Write<'_>) -> Reply) {
        for group in &self.groups {
            if let Some(run) = group.run.as_ref().filter(|run| run.packets() > 1) {
                let start = self.packets[group.first].at.start;
                let headers = start..start + run.first().header;
                let mut kept = [0; MAX_HEADER];
                let kept = &mut kept[..headers.len()];
                kept.copy_from_slice(&arena[headers.clone()]);
                let offload = run.complete(&mut arena[headers.clone()]);
                self.pieces.clear();
                self.pieces
                    .extend(group.pieces(&self.packets, headers.len()));
                let reply = write(Write {
                    offload,
                    joined: Some(run.first().kind),
                    pieces: &self.pieces,
                    arena,
                });
                if reply == Reply::Done {
                    continue;
                }
                arena[headers].copy_from_slice(kept);
            }
            for packet in group.packets(&self.packets) {
                write(Write {
                    offload: packet.offload,
                    joined: None,
                    pieces: std::slice::from_ref(&packet.at),
                    arena,
                });
            }
        }
        self.packets.clear();
        self.groups.clear();
        self.tags.clear();
    }

    fn push_segment(
        &mut self,
        arena: &[u8],
        offload: Offload,
        at: Range<usize>,
        segment: &Segment,
    ) {
        let header = Header::from(&offload);
        let joinable =
            segment.joinable && header.is_ordinary() && self.joinable.allows(segment.kind);
        let packet = &arena[at.clone()];
        if let Some((group, run)) = self.find(arena, segment, packet) {
            let first = &self.packets[self.groups[group].first];
            if joinable && continues(run, first, arena, segment, packet, &header) {
                return self.append(group, offload, at, segment);
            }
            self.tags[group] = CLOSED;
        }
        self.begin(offload, at, joinable.then_some(segment));
    }

    /// The open group of a flow. The newest is looked at first: most batches are of few flows, and
    /// neighbours are of the same one.
    fn find(&self, arena: &[u8], segment: &Segment, packet: &[u8]) -> Option<(usize, &Run)> {
        let kind = segment.kind;
        let newest_first = self.tags.iter().enumerate().rev();
        newest_first
            .filter(|(_, tag)| **tag == segment.tag)
            .filter_map(|(group, _)| Some((group, self.groups[group].run.as_ref()?)))
            .find(|(group, run)| {
                run.first().kind == kind
                    && self.first_of(*group, arena)[kind.flow()] == packet[kind.flow()]
            })
    }

    /// Closes every group between two addresses.
    fn close_between(&mut self, arena: &[u8], addresses: &[u8]) {
        for group in 0..self.groups.len() {
            if flow::addresses_of(self.first_of(group, arena)) == Some(addresses) {
                self.tags[group] = CLOSED;
            }
        }
    }

    /// The first packet of a group, and what lies behind it.
    fn first_of<'a>(&self, group: usize, arena: &'a [u8]) -> &'a [u8] {
        &arena[self.packets[self.groups[group].first].at.start..]
    }

    /// Begins a group with a packet, and for a segment that may be joined a run.
    fn begin(&mut self, offload: Offload, at: Range<usize>, open: Option<&Segment>) {
        let (tag, run) = match open {
            Some(segment) => {
                let run = Run::new(*segment);
                let tag = if run.is_ended_by(segment) {
                    CLOSED
                } else {
                    segment.tag
                };
                (tag, Some(run))
            }
            None => (CLOSED, None),
        };
        let end = run.map_or(at.end, |run| at.start + run.first().end);
        let first = self.add(offload, at, end);
        let last = first;
        self.groups.push(Group { first, last, run });
        self.tags.push(tag);
    }

    fn append(&mut self, group: usize, offload: Offload, at: Range<usize>, segment: &Segment) {
        let end = at.start + segment.end;
        let packet = self.add(offload, at, end);
        let Group { last, run, .. } = &mut self.groups[group];
        self.packets[*last].next = Some(packet);
        *last = packet;
        if let Some(run) = run {
            run.append(segment);
            if run.is_ended_by(segment) {
                self.tags[group] = CLOSED;
            }
        }
    }

    fn add(&mut self, offload: Offload, at: Range<usize>, end: usize) -> usize {
        self.packets.push(Packet {
            offload,
            at,
            end,
            next: None,
        });
        self.packets.len() - 1
    }
}

/// Whether a packet goes on where a run ends, and both may be given another checksum. The first
/// packet of a run is looked into only now: one that stays alone never is.
fn continues(
    run: &Run,
    first: &Packet,
    arena: &[u8],
    segment: &Segment,
    packet: &[u8],
    header: &Header,
) -> bool {
    let first_packet = &arena[first.at.start..first.end];
    run.is_continued_by(first_packet, segment, packet)
        && (run.packets() > 1
            || is_sound(first_packet, segment.kind, &Header::from(&first.offload)))
        && is_sound(&packet[..segment.end], segment.kind, header)
}

impl Group {
    /// Its packets in order.
    fn packets<'a>(&self, packets: &'a [Packet]) -> impl Iterator<Item = &'a Packet> {
        std::iter::successors(packets.get(self.first), |packet| {
            packet.next.map(|next| &packets[next])
        })
    }

    /// What of them makes up the super-packet: of all but the first, what is behind `header` bytes.
    fn pieces(&self, packets: &[Packet], header: usize) -> impl Iterator<Item = Range<usize>> {
        self.packets(packets)
            .enumerate()
            .map(move |(index, packet)| {
                let skipped = if index == 0 { 0 } else { header };
                packet.at.start + skipped..packet.end
            })
    }
}

//! A run: packets of one flow that follow each other and go into one super-packet.

use super::flow::{PSH, Segment};
use crate::frame::Offload;
use crate::frame::{Header, NEEDS_CSUM};
use crate::rewrite::checksum;

/// The most packets that go into one: what Linux takes for UDP (`UDP_MAX_SEGMENTS`; 128 since 6.9).
pub const MAX_PACKETS: usize = 64;

/// What a run has come to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    first: Segment,
    packets: usize,
    /// Bytes of payload so far.
    payload: usize,
    push: bool,
    /// What the next packet must have.
    id: Option<u16>,
    sequence: Option<u32>,
}

impl Run {
    pub(super) fn new(first: Segment) -> Run {
        let mut run = Run {
            first,
            packets: 0,
            payload: 0,
            push: false,
            id: first.id,
            sequence: first.sequence,
        };
        run.append(&first);
        run
    }

    pub(super) fn first(&self) -> &Segment {
        &self.first
    }

    pub(super) fn packets(&self) -> usize {
        self.packets
    }

    /// Whether `next`, read from `packet`, is of this flow and goes on exactly where the run ends.
    /// `first` is the packet that the run began with.
    pub(super) fn is_continued_by(&self, first: &[u8], next: &Segment, packet: &[u8]) -> bool {
        let compared = self.first.kind.compared()..self.first.header;
        next.common == self.first.common
            && next.sequence == self.sequence
            && next.id == self.id
            && next.header == self.first.header
            && next.payload() <= self.first.payload()
            && self.packets < MAX_PACKETS
            && self.len() + next.payload() <= self.first.kind.max_len()
            && first[compared.clone()] == packet[compared]
    }

    /// Takes the next packet.
    pub(super) fn append(&mut self, next: &Segment) {
        let payload = next.payload();
        self.packets += 1;
        self.payload += payload;
        self.push = next.push;
        self.id = self.id.map(|id| id.wrapping_add(1));
        self.sequence = self.sequence.map(|at| at.wrapping_add(payload as u32));
    }

    /// Whether nothing may come behind `last`, the packet taken last: only the last one may be
    /// shorter than the others, and whoever pushes wants no more waiting.
    pub(super) fn is_ended_by(&self, last: &Segment) -> bool {
        last.push || last.payload() < self.first.payload()
    }

    /// Makes the headers at the start of `packet`, which are those of the first packet, into those
    /// of the super-packet, and says what goes before them.
    pub(super) fn complete(&self, packet: &mut [u8]) -> Offload {
        let kind = self.first.kind;
        let transport = kind.transport();
        let segment = (self.len() - transport) as u16;
        if kind.is_v4() {
            put(packet, 2, self.len() as u16);
            put(packet, 10, 0);
            let checksum = checksum::ipv4_header(&packet[..transport]);
            put(packet, 10, checksum);
        } else {
            put(packet, 4, segment);
        }
        if !kind.is_tcp() {
            put(packet, transport + 4, segment);
        } else if self.push {
            packet[transport + 13] |= PSH;
        }
        let addresses = &packet[kind.addresses()..transport];
        let sum = checksum::pseudo_header_and(addresses, kind.protocol(), segment.into());
        put(packet, transport + kind.checksum(), sum);
        Offload::from(Header {
            flags: NEEDS_CSUM,
            gso_type: kind.gso_type(),
            hdr_len: self.first.header as u16,
            gso_size: self.first.payload() as u16,
            csum_start: transport as u16,
            csum_offset: kind.checksum() as u16,
        })
    }

    /// Bytes of the super-packet.
    fn len(&self) -> usize {
        self.first.header + self.payload
    }
}

/// Stores a big-endian word.
fn put(packet: &mut [u8], at: usize, word: u16) {
    packet[at..at + 2].copy_from_slice(&word.to_be_bytes());
}

//! The cutter: a super-packet in, the packets that it stands for out.

use thiserror::Error;

use super::flow::PSH;
use crate::frame::Offload;
use crate::frame::{GSO_ECN, GSO_NONE, GSO_TCP_V4, GSO_TCP_V6, GSO_UDP_L4, Header};
use crate::rewrite::checksum::{self, Delta};
use crate::rewrite::{Family, Fragment, Headers, Malformed, Packet, protocol};

/// Why a packet cannot be cut, or its checksum not completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub enum CutError {
    /// The packet is not what its IP header claims.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The virtio header asks for a segmentation that is not known here.
    #[error("the segmentation type {0:#04x} is not known")]
    Type(u8),
    /// The virtio header names another protocol than the IP header.
    #[error("the segmentation type does not match the packet")]
    OtherProtocol,
    /// A fragment cannot be a super-packet.
    #[error("a fragment cannot be cut")]
    Fragment,
    /// Segments of no size.
    #[error("the segment size is zero")]
    SegmentSize,
    /// The transport header is cut short or its length impossible.
    #[error("the transport header does not fit the packet")]
    TransportHeader,
    /// The UDP length is not that of the packet.
    #[error("the UDP length does not match the packet")]
    UdpLength,
    /// A super-packet whose checksum is not partial.
    #[error("a packet to be cut does not have a partial checksum")]
    NotPartial,
    /// The virtio header points elsewhere for the checksum than where it can be.
    #[error("the place given for the checksum is not in the transport header")]
    ChecksumPlace,
    /// The buffer is too short for a packet.
    #[error("the buffer is too short")]
    Buffer,
}

/// Where TCP and UDP have their checksums.
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;

/// Calls `emit` for each packet that `packet` stands for, in order and with complete checksums. A
/// packet that needs nothing done is passed on as it is; of any other, bytes behind its IP length
/// are left out.
///
/// As in the kernel (`tcp_gso_segment`, `__udp_gso_segment`, `inet_gso_segment`), IPv4
/// identifications and TCP sequence numbers go up, FIN and PSH are for the last segment and CWR
/// for the first. Checksums are updated, never made up: where the header checksum or the sum of the
/// pseudo-header is wrong, so is that of every segment, by as much.
///
/// `buffer` holds one packet at a time; as many bytes as `packet` has are always enough.
///
/// # Errors
/// One [`CutError`] per cause; nothing was emitted then.
pub fn cut(
    offload: &Offload,
    packet: &[u8],
    buffer: &mut [u8],
    mut emit: impl FnMut(&[u8]),
) -> Result<(), CutError> {
    let header = Header::from(offload);
    if header.gso_type == GSO_NONE && !header.needs_csum() {
        emit(packet);
        return Ok(());
    }
    let headers = Packet::parse(packet)?;
    let packet = &packet[..headers.total_len()];
    if header.gso_type == GSO_NONE {
        emit(complete(&header, &headers, packet, buffer)?);
        return Ok(());
    }
    let whole = SuperPacket::new(&header, &headers, packet)?;
    if buffer.len() < whole.payload + whole.size.min(packet.len() - whole.payload) {
        return Err(CutError::Buffer);
    }
    whole.segments(buffer, emit);
    Ok(())
}

/// Completes the checksum of a packet that is not to be cut, whatever protocol it is of: it may be
/// that of a packet inside a tunnel.
fn complete<'a>(
    header: &Header,
    headers: &Headers,
    packet: &[u8],
    buffer: &'a mut [u8],
) -> Result<&'a [u8], CutError> {
    let start = usize::from(header.csum_start);
    let at = start + usize::from(header.csum_offset);
    if start < headers.transport_offset() || at + 2 > packet.len() {
        return Err(CutError::ChecksumPlace);
    }
    let copy = buffer.get_mut(..packet.len()).ok_or(CutError::Buffer)?;
    copy.copy_from_slice(packet);
    // Nothing else that is completed has its checksum there, but DCCP, which takes both zeros.
    let is_udp = usize::from(header.csum_offset) == UDP_CHECKSUM;
    fill(copy, start, at, is_udp);
    Ok(copy)
}

/// Replaces a partial checksum by a whole one. `at` is where it is, `start` where what it covers
/// begins. A sender of UDP writes a zero as `0xFFFF`.
fn fill(packet: &mut [u8], start: usize, at: usize, is_udp: bool) {
    let checksum = match !checksum::sum(&packet[start..]) {
        0 if is_udp => 0xFFFF,
        checksum => checksum,
    };
    put(packet, at, checksum);
}

/// A super-packet, checked.
struct SuperPacket<'a> {
    packet: &'a [u8],
    family: Family,
    is_tcp: bool,
    /// Where the transport header starts.
    transport: usize,
    /// Where the payload starts.
    payload: usize,
    /// Bytes of payload in all segments but the last.
    size: usize,
}

impl<'a> SuperPacket<'a> {
    fn new(header: &Header, headers: &Headers, packet: &'a [u8]) -> Result<Self, CutError> {
        let (is_tcp, family) = match header.gso_type & !GSO_ECN {
            GSO_TCP_V4 => (true, Family::V4),
            GSO_TCP_V6 => (true, Family::V6),
            GSO_UDP_L4 if header.gso_type == GSO_UDP_L4 => (false, headers.family()),
            _ => return Err(CutError::Type(header.gso_type)),
        };
        let (number, field) = match is_tcp {
            true => (protocol::TCP, TCP_CHECKSUM),
            false => (protocol::UDP, UDP_CHECKSUM),
        };
        if headers.fragment() != Fragment::None {
            return Err(CutError::Fragment);
        }
        if (headers.family(), headers.protocol()) != (family, number) {
            return Err(CutError::OtherProtocol);
        }
        if header.gso_size == 0 {
            return Err(CutError::SegmentSize);
        }
        if !header.needs_csum() {
            return Err(CutError::NotPartial);
        }
        let transport = headers.transport_offset();
        if (
            usize::from(header.csum_start),
            usize::from(header.csum_offset),
        ) != (transport, field)
        {
            return Err(CutError::ChecksumPlace);
        }
        Ok(SuperPacket {
            packet,
            family,
            is_tcp,
            transport,
            payload: transport + transport_header(&packet[transport..], is_tcp)?,
            size: header.gso_size.into(),
        })
    }

    /// Emits the segments; `buffer` holds the longest of them.
    fn segments(&self, buffer: &mut [u8], mut emit: impl FnMut(&[u8])) {
        let (headers, mut rest) = self.packet.split_at(self.payload);
        let mut index = 0;
        loop {
            let (payload, behind) = rest.split_at(rest.len().min(self.size));
            let segment = &mut buffer[..headers.len() + payload.len()];
            segment[..headers.len()].copy_from_slice(headers);
            segment[headers.len()..].copy_from_slice(payload);
            self.complete(segment, index, behind.is_empty());
            emit(segment);
            if behind.is_empty() {
                return;
            }
            rest = behind;
            index += 1;
        }
    }

    /// Makes the headers of the super-packet into those of its segment `index`.
    fn complete(&self, segment: &mut [u8], index: usize, is_last: bool) {
        let transport = self.transport;
        let length = segment.len();
        match self.family {
            Family::V4 => {
                let id = word(segment, 4).wrapping_add(index as u16);
                let delta = replace(segment, 2, length as u16) + replace(segment, 4, id);
                let checksum = delta.update(word(segment, 10));
                put(segment, 10, checksum);
            }
            // Extension headers, which every segment gets, count as payload.
            Family::V6 => put(segment, 4, (length - 40) as u16),
        }
        let new = (length - transport) as u16;
        if self.is_tcp {
            self.complete_tcp(&mut segment[transport..], index, is_last);
        } else {
            put(segment, transport + 4, new);
        }
        let old = (self.packet.len() - transport) as u16;
        let field = transport
            + if self.is_tcp {
                TCP_CHECKSUM
            } else {
                UDP_CHECKSUM
            };
        let partial = Delta::word(old, new).update_partial(word(segment, field));
        put(segment, field, partial);
        fill(segment, transport, field, !self.is_tcp);
    }

    fn complete_tcp(&self, segment: &mut [u8], index: usize, is_last: bool) {
        const FIN: u8 = 0x01;
        const CWR: u8 = 0x80;
        let advance = (index * self.size) as u32;
        let [a, b, c, d] = [segment[4], segment[5], segment[6], segment[7]];
        let sequence = u32::from_be_bytes([a, b, c, d]).wrapping_add(advance);
        segment[4..8].copy_from_slice(&sequence.to_be_bytes());
        let flags = &mut segment[13];
        if !is_last {
            *flags &= !(FIN | PSH);
        }
        if index > 0 {
            *flags &= !CWR;
        }
    }
}

/// The length of the transport header at the start of `bytes`.
fn transport_header(bytes: &[u8], is_tcp: bool) -> Result<usize, CutError> {
    const TCP_HEADER: usize = 20;
    const UDP_HEADER: usize = 8;
    if is_tcp {
        let fixed = bytes
            .first_chunk::<TCP_HEADER>()
            .ok_or(CutError::TransportHeader)?;
        let length = usize::from(fixed[12] >> 4) * 4;
        if length < TCP_HEADER || length > bytes.len() {
            return Err(CutError::TransportHeader);
        }
        Ok(length)
    } else {
        let fixed = bytes
            .first_chunk::<UDP_HEADER>()
            .ok_or(CutError::TransportHeader)?;
        if usize::from(word(fixed, 4)) != bytes.len() {
            return Err(CutError::UdpLength);
        }
        Ok(UDP_HEADER)
    }
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn put(bytes: &mut [u8], at: usize, word: u16) {
    bytes[at..at + 2].copy_from_slice(&word.to_be_bytes());
}

/// Stores a word and says what that does to a sum around it.
fn replace(bytes: &mut [u8], at: usize, new: u16) -> Delta {
    let old = word(bytes, at);
    put(bytes, at, new);
    Delta::word(old, new)
}

//! One packet's headers, read as far as joining needs them, and as words that compare quickly.

use std::ops::Range;

use crate::frame::{GSO_TCP_V4, GSO_TCP_V6, GSO_UDP_L4};
use crate::rewrite::protocol;

/// A kind of packet that can be joined. The kernel may take one kind and refuse another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over IPv4.
    Udp4,
    /// UDP over IPv6.
    Udp6,
}

impl Kind {
    pub(super) const fn is_v4(self) -> bool {
        matches!(self, Kind::Tcp4 | Kind::Udp4)
    }

    pub(super) const fn is_tcp(self) -> bool {
        matches!(self, Kind::Tcp4 | Kind::Tcp6)
    }

    pub(super) const fn protocol(self) -> u8 {
        if self.is_tcp() {
            protocol::TCP
        } else {
            protocol::UDP
        }
    }

    /// Where the addresses start; the transport header follows them directly.
    pub(super) const fn addresses(self) -> usize {
        addresses(self.is_v4()).start
    }

    /// Where the transport header starts.
    pub(super) const fn transport(self) -> usize {
        addresses(self.is_v4()).end
    }

    /// Where that is by which flows of this kind differ: addresses and ports.
    pub(super) const fn flow(self) -> Range<usize> {
        self.addresses()..self.transport() + 4
    }

    /// Where the checksum is, from the start of the transport header.
    pub(super) const fn checksum(self) -> usize {
        if self.is_tcp() { 16 } else { 6 }
    }

    /// From where on the transport header must be the same, byte for byte: in TCP the urgent
    /// pointer and the options, in UDP nothing.
    pub(super) const fn compared(self) -> usize {
        self.transport() + if self.is_tcp() { 18 } else { 8 }
    }

    /// The longest packet, headers included: 16 bits of total length, or of payload length.
    pub(super) const fn max_len(self) -> usize {
        0xFFFF + if self.is_v4() { 0 } else { 40 }
    }

    pub(super) const fn gso_type(self) -> u8 {
        match self {
            Kind::Tcp4 => GSO_TCP_V4,
            Kind::Tcp6 => GSO_TCP_V6,
            Kind::Udp4 | Kind::Udp6 => GSO_UDP_L4,
        }
    }
}

/// Flags of a TCP header (RFC 9293, section 3.1).
pub(super) const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const ECE: u8 = 0x40;

const fn addresses(is_v4: bool) -> Range<usize> {
    if is_v4 { 12..20 } else { 8..40 }
}

/// The addresses of a packet of whatever kind, if they are there.
pub(super) fn addresses_of(packet: &[u8]) -> Option<&[u8]> {
    let is_v4 = match packet.first()? >> 4 {
        4 => true,
        6 => false,
        _ => return None,
    };
    packet.get(addresses(is_v4))
}

/// A TCP segment or UDP datagram.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    pub(super) kind: Kind,
    /// A word that differs for most flows that differ; never zero.
    pub(super) tag: u32,
    /// Bytes of IP and transport header.
    pub(super) header: usize,
    /// Bytes of the packet as its IP header gives them.
    pub(super) end: usize,
    /// What else must be the same in packets to be joined. IP: type of service, fragment field and
    /// TTL, or traffic class, flow label and hop limit. TCP: acknowledgement number, header length,
    /// flags but PSH, window.
    pub(super) common: [u64; 2],
    /// IPv4 identification, where a packet that may be fragmented needs it.
    pub(super) id: Option<u16>,
    /// TCP sequence number.
    pub(super) sequence: Option<u32>,
    /// TCP wants the data handed to the reader now.
    pub(super) push: bool,
    /// Whether anything may be joined with it.
    pub(super) joinable: bool,
}

impl Segment {
    /// Bytes of payload.
    pub(super) fn payload(&self) -> usize {
        self.end - self.header
    }
}

/// Reads the headers of `packet`. None if it belongs to who knows which flow: a fragment, another
/// protocol, headers in between, or headers that make no sense.
pub(super) fn read(packet: &[u8]) -> Option<Segment> {
    match packet.first()? >> 4 {
        4 => read_v4(packet),
        6 => read_v6(packet),
        _ => None,
    }
}

fn read_v4(packet: &[u8]) -> Option<Segment> {
    const DONT_FRAGMENT: u16 = 0x4000;
    /// More fragments, and the offset.
    const FRAGMENT: u16 = 0x3FFF;
    let fixed = packet.first_chunk::<20>()?;
    let [version, class, t0, t1, i0, i1, f0, f1, ttl, protocol, ..] = *fixed;
    let [.., a, b, c, d, e, f, g, h] = *fixed;
    let fragment = u16::from_be_bytes([f0, f1]);
    let kind = match protocol {
        protocol::TCP => Kind::Tcp4,
        protocol::UDP => Kind::Udp4,
        _ => return None,
    };
    if version != 0x45 || fragment & FRAGMENT != 0 {
        return None;
    }
    let ip = Ip {
        addresses: u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
        end: usize::from(u16::from_be_bytes([t0, t1])),
        common: u64::from(u32::from_be_bytes([class, f0, f1, ttl])),
        id: (fragment & DONT_FRAGMENT == 0).then_some(u16::from_be_bytes([i0, i1])),
    };
    segment(packet, kind, &ip)
}

fn read_v6(packet: &[u8]) -> Option<Segment> {
    let fixed = packet.first_chunk::<40>()?;
    let [v0, v1, v2, v3, l0, l1, next, hop_limit, addresses @ ..] = fixed;
    let kind = match *next {
        protocol::TCP => Kind::Tcp6,
        protocol::UDP => Kind::Udp6,
        _ => return None,
    };
    let (words, _) = addresses.as_chunks::<8>();
    let first = u32::from_be_bytes([*v0, *v1, *v2, *v3]);
    let ip = Ip {
        addresses: words.iter().fold(0, |mixed, word| {
            u64::rotate_left(mixed, 16) ^ u64::from_ne_bytes(*word)
        }),
        end: fixed.len() + usize::from(u16::from_be_bytes([*l0, *l1])),
        common: u64::from(first) << 8 | u64::from(*hop_limit),
        id: None,
    };
    segment(packet, kind, &ip)
}

/// What the IP header contributes to a [`Segment`].
struct Ip {
    /// All of them in one word.
    addresses: u64,
    end: usize,
    common: u64,
    id: Option<u16>,
}

impl Ip {
    /// [`Segment::tag`], by Fibonacci hashing. Whoever makes tags collide gains a comparison of
    /// whole flows.
    fn tag(&self, ports: [u8; 4], kind: Kind) -> u32 {
        const SCATTER: u64 = 0x9E37_79B9_7F4A_7C15;
        let ends = u64::from(u32::from_ne_bytes(ports)) << 8 | u64::from(kind.protocol());
        let scattered = (self.addresses.wrapping_mul(SCATTER) ^ ends).wrapping_mul(SCATTER);
        (scattered >> 32) as u32 | 1
    }
}

/// None if the packet is shorter than it says or its transport header makes no sense.
fn segment(packet: &[u8], kind: Kind, ip: &Ip) -> Option<Segment> {
    let transport = packet.get(kind.transport()..ip.end)?;
    if kind.is_tcp() {
        tcp(transport, kind, ip)
    } else {
        udp(transport, kind, ip)
    }
}

fn tcp(transport: &[u8], kind: Kind, ip: &Ip) -> Option<Segment> {
    let fixed = transport.first_chunk::<20>()?;
    let [p0, p1, p2, p3, s0, s1, s2, s3, state @ ..] = fixed;
    let state = u64::from_be_bytes(*state.first_chunk()?);
    let length = usize::from(fixed[12] >> 4) * 4;
    if length < fixed.len() || length > transport.len() {
        return None;
    }
    let flags = fixed[13];
    Some(Segment {
        kind,
        tag: ip.tag([*p0, *p1, *p2, *p3], kind),
        header: kind.transport() + length,
        end: ip.end,
        // The flags are the third byte from the end of these eight.
        common: [ip.common, state & !(u64::from(PSH) << 16)],
        id: ip.id,
        sequence: Some(u32::from_be_bytes([*s0, *s1, *s2, *s3])),
        push: flags & PSH != 0,
        joinable: flags & !(ACK | PSH | ECE) == 0 && length < transport.len(),
    })
}

fn udp(transport: &[u8], kind: Kind, ip: &Ip) -> Option<Segment> {
    let [p0, p1, p2, p3, l0, l1, c0, c1] = *transport.first_chunk::<8>()?;
    let whole = usize::from(u16::from_be_bytes([l0, l1])) == transport.len();
    let has_checksum = [c0, c1] != [0, 0];
    Some(Segment {
        kind,
        tag: ip.tag([p0, p1, p2, p3], kind),
        header: kind.transport() + 8,
        end: ip.end,
        common: [ip.common, 0],
        id: ip.id,
        sequence: None,
        push: false,
        joinable: whole && has_checksum && transport.len() > 8,
    })
}

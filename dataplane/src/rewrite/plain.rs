//! The packets that nearly all traffic consists of: whole TCP segments and UDP datagrams straight
//! behind an IP header without options. Everything about them lies at a fixed place, and what two
//! new addresses change in their checksums can be known beforehand.
//!
//! [`rewrite`] does to them exactly what [`super::rewrite()`] does, in a tenth of the time; the
//! tests compare the two. Whatever is not plain is left to that one.

use std::net::IpAddr;

use super::checksum::Delta;
use super::translate::ChecksumState;
use super::transport::protocol;

/// Source and destination address as they lie in a packet, one behind the other, in 64-bit words
/// of native byte order: one word for IPv4, four for IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends<const W: usize>(pub [u64; W]);

/// A plain packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plain {
    /// Over IPv4.
    V4(Shape, Ends<1>),
    /// Over IPv6.
    V6(Shape, Ends<4>),
}

/// What is behind the IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

const V4_HEADER: usize = 20;
const V4_SOURCE: usize = 12;
const V6_HEADER: usize = 40;
const V6_SOURCE: usize = 8;

impl Plain {
    /// `None` if the packet is not plain, or is UDP from or to `reserved_port`.
    #[inline]
    pub fn parse(packet: &[u8], reserved_port: u16) -> Option<Plain> {
        match packet.first()? >> 4 {
            4 => {
                let header = packet.first_chunk::<V4_HEADER>()?;
                let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3FFF;
                let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
                if header[0] != 0x45 || fragment != 0 || total != packet.len() {
                    return None;
                }
                let shape = Shape::of(header[9], &packet[V4_HEADER..], reserved_port)?;
                Some(Plain::V4(shape, ends(packet.get(V4_SOURCE..)?)?))
            }
            6 => {
                let header = packet.first_chunk::<V6_HEADER>()?;
                let payload = usize::from(u16::from_be_bytes([header[4], header[5]]));
                if V6_HEADER + payload != packet.len() {
                    return None;
                }
                let shape = Shape::of(header[6], &packet[V6_HEADER..], reserved_port)?;
                Some(Plain::V6(shape, ends(packet.get(V6_SOURCE..)?)?))
            }
            _ => None,
        }
    }

    /// Where the transport header begins, in octets.
    #[inline]
    pub const fn transport(&self) -> usize {
        match self {
            Plain::V4(..) => V4_HEADER,
            Plain::V6(..) => V6_HEADER,
        }
    }
}

impl Shape {
    #[inline]
    fn of(number: u8, segment: &[u8], reserved_port: u16) -> Option<Shape> {
        match number {
            // The rest of the header is the receiver's affair.
            protocol::TCP if segment.len() >= 18 => Some(Shape::Tcp),
            protocol::UDP => {
                let [a, b, c, d, ..] = *segment.first_chunk::<8>()?;
                let ports = [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])];
                (!ports.contains(&reserved_port)).then_some(Shape::Udp)
            }
            _ => None,
        }
    }

    /// Offset of the checksum from the beginning of the transport header.
    #[inline]
    const fn checksum(self) -> usize {
        match self {
            Shape::Tcp => 16,
            Shape::Udp => 6,
        }
    }
}

impl<const W: usize> Ends<W> {
    /// Two addresses; zeros stand for one that is of the other family.
    pub fn new(source: IpAddr, destination: IpAddr) -> Self {
        let mut octets = [0; 32];
        let (first, second) = octets.split_at_mut(4 * W);
        for (place, ip) in [(first, source), (second, destination)] {
            match ip {
                IpAddr::V4(v4) if W == 1 => place[..4].copy_from_slice(&v4.octets()),
                IpAddr::V6(v6) if W == 4 => place.copy_from_slice(&v6.octets()),
                _ => {}
            }
        }
        let (words, _) = octets.as_chunks::<8>();
        Ends(std::array::from_fn(|i| u64::from_ne_bytes(words[i])))
    }

    /// Source and destination, the reverse of [`Ends::new`].
    pub fn addresses(&self) -> (IpAddr, IpAddr) {
        let mut octets = [0; 32];
        for (chunk, word) in octets.as_chunks_mut::<8>().0.iter_mut().zip(self.0) {
            *chunk = word.to_ne_bytes();
        }
        if let (1, [a, b, c, d, e, f, g, h, ..]) = (W, octets) {
            return ([a, b, c, d].into(), [e, f, g, h].into());
        }
        let (addresses, _) = octets.as_chunks::<16>();
        (addresses[0].into(), addresses[1].into())
    }

    /// The same with source and destination exchanged.
    #[inline]
    #[must_use]
    pub fn swapped(&self) -> Self {
        Ends(std::array::from_fn(|i| match W {
            1 => self.0[i].rotate_left(32),
            _ => self.0[(i + W / 2) % W],
        }))
    }

    /// The change of a checksum that covers both addresses when they become `new`.
    pub fn delta(&self, new: &Self) -> Delta {
        Delta::words(&self.0, &new.0)
    }
}

/// Gives a plain packet new addresses. `delta` is what they change in a checksum
/// ([`Ends::delta`]); the packet must be the one that was parsed, or its content is at stake, but
/// nothing else.
#[inline]
pub fn rewrite<const W: usize>(
    packet: &mut [u8],
    shape: Shape,
    new: &Ends<W>,
    delta: Delta,
    state: ChecksumState,
) {
    let (at, header) = if W == 1 {
        (V4_SOURCE, V4_HEADER)
    } else {
        (V6_SOURCE, V6_HEADER)
    };
    let Some((ip, segment)) = packet.split_at_mut_checked(header) else {
        return;
    };
    if W == 1 {
        let sum = u16::from_be_bytes([ip[10], ip[11]]);
        ip[10..12].copy_from_slice(&delta.update(sum).to_be_bytes());
    }
    let (words, _) = ip[at..].as_chunks_mut::<8>();
    for (place, word) in words.iter_mut().zip(new.0) {
        *place = word.to_ne_bytes();
    }
    let Some(field) = segment
        .get_mut(shape.checksum()..)
        .and_then(|rest| rest.first_chunk_mut::<2>())
    else {
        return;
    };
    let old = u16::from_be_bytes(*field);
    let new = match (state, shape) {
        (ChecksumState::Partial, _) => delta.update_partial(old),
        (ChecksumState::Full, Shape::Tcp) => delta.update(old),
        // RFC 768: zero is "none", and a sum of zero is sent as its other spelling.
        (ChecksumState::Full, Shape::Udp) => match (old, delta.update(old)) {
            (0, _) => 0,
            (_, 0) => 0xFFFF,
            (_, sum) => sum,
        },
    };
    *field = new.to_be_bytes();
}

#[inline]
fn ends<const W: usize>(octets: &[u8]) -> Option<Ends<W>> {
    let (words, _) = octets.as_chunks::<8>();
    let words = words.first_chunk::<W>()?;
    Some(Ends(std::array::from_fn(|i| u64::from_ne_bytes(words[i]))))
}

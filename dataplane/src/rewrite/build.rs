//! Packets of our own: UDP datagrams for control messages, and the ICMP errors a forwarder owes.
//!
//! Everything is written into a buffer of the caller's and carries complete checksums. Class
//! selector 6 (network control, RFC 2474) lets it pass queues that bulk traffic has filled.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thiserror::Error;

use mat_proto::Family;

use super::checksum;
use super::ip::Fragment;
use super::reason::Malformed;
use super::transport::protocol;
use super::view::{self, Headers, Packet};

/// Why a packet cannot be built, or must not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Error)]
pub enum BuildError {
    /// The buffer is smaller than the packet.
    #[error("the buffer is too small for the packet")]
    Buffer,
    /// The addresses are not all of one family.
    #[error("the addresses are of different families")]
    FamilyMismatch,
    /// The payload does not fit a length field.
    #[error("the payload is too long for a datagram")]
    PayloadTooLong,
    /// The offending packet cannot be read.
    #[error("the offending packet is malformed: {0}")]
    Malformed(Malformed),
    /// The offending packet is an ICMP error, or too short to tell.
    #[error("an ICMP error is never answered by another")]
    IcmpError,
    /// The offending packet is a later fragment.
    #[error("only the first fragment is answered by an ICMP error")]
    LaterFragment,
    /// The offending packet's source does not name a single host.
    #[error("the offending packet's source does not name a single host")]
    Source,
    /// The offending packet was sent to a group or to everybody.
    #[error("a packet to a multicast or broadcast address is not answered by an ICMP error")]
    Destination,
}

impl BuildError {
    /// A stable name for counters.
    pub const fn as_str(self) -> &'static str {
        match self {
            BuildError::Buffer => "buffer_too_small",
            BuildError::FamilyMismatch => "family_mismatch",
            BuildError::PayloadTooLong => "payload_too_long",
            BuildError::Malformed(reason) => reason.as_str(),
            BuildError::IcmpError => "answers_icmp_error",
            BuildError::LaterFragment => "answers_later_fragment",
            BuildError::Source => "answers_ambiguous_source",
            BuildError::Destination => "answers_group_destination",
        }
    }
}

/// Why a destination cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unreachable {
    /// Nobody is there: type 3 code 1, ICMPv6 type 1 code 3.
    Host,
    /// Somebody forbids it: type 3 code 13 (RFC 1812), ICMPv6 type 1 code 1.
    Prohibited,
}

/// Writes a UDP datagram; gives back its length in bytes. It may be fragmented on its way, and its
/// hop limit is 64.
pub fn udp(
    buffer: &mut [u8],
    from: SocketAddr,
    to: SocketAddr,
    payload: &[u8],
) -> Result<usize, BuildError> {
    const HEADER: usize = 8;
    let ends = Ends::new(from.ip(), to.ip())?;
    let length = HEADER + payload.len();
    let (header, segment) = ends.split(buffer, length)?;
    segment[0..2].copy_from_slice(&from.port().to_be_bytes());
    segment[2..4].copy_from_slice(&to.port().to_be_bytes());
    segment[4..6].copy_from_slice(&(length as u16).to_be_bytes());
    segment[6..8].fill(0);
    segment[HEADER..].copy_from_slice(payload);
    let checksum = match checksum::transport(from.ip(), to.ip(), protocol::UDP, segment) {
        0 => 0xFFFF,
        checksum => checksum,
    };
    segment[6..8].copy_from_slice(&checksum.to_be_bytes());
    ends.write_header(header, protocol::UDP, length, checksum);
    Ok(header.len() + length)
}

/// Writes "destination unreachable" from `from` to the sender of `offending`, quoting as much of
/// it as RFC 1812 (576 bytes in all) and RFC 4443 (1280) allow; gives back the length in bytes.
///
/// # Errors
/// Everything that must not be answered (RFC 1122, section 3.2.2; RFC 4443, section 2.4(e)):
/// ICMP errors, later fragments, packets to a group, packets from nobody in particular. Whether an
/// address is the broadcast address of some subnet is the caller's knowledge.
pub fn unreachable(
    buffer: &mut [u8],
    from: IpAddr,
    offending: &[u8],
    reason: Unreachable,
) -> Result<usize, BuildError> {
    const HEADER: usize = 8;
    let headers = Packet::parse(offending).map_err(BuildError::Malformed)?;
    may_answer(&headers)?;
    let to = headers.src();
    let ends = Ends::new(from, to)?;
    let (number, kind, code, limit) = match (headers.family(), reason) {
        (Family::V4, Unreachable::Host) => (protocol::ICMP, 3, 1, 576),
        (Family::V4, Unreachable::Prohibited) => (protocol::ICMP, 3, 13, 576),
        (Family::V6, Unreachable::Host) => (protocol::ICMPV6, 1, 3, 1280),
        (Family::V6, Unreachable::Prohibited) => (protocol::ICMPV6, 1, 1, 1280),
    };
    let room = limit - ends.header_len() - HEADER;
    let quote = &offending[..headers.total_len().min(room)];
    let length = HEADER + quote.len();
    let (header, segment) = ends.split(buffer, length)?;
    segment[..HEADER].copy_from_slice(&[kind, code, 0, 0, 0, 0, 0, 0]);
    segment[HEADER..].copy_from_slice(quote);
    let checksum = match headers.family() {
        Family::V4 => !checksum::sum(segment),
        Family::V6 => checksum::transport(from, to, number, segment),
    };
    segment[2..4].copy_from_slice(&checksum.to_be_bytes());
    ends.write_header(header, number, length, checksum);
    Ok(header.len() + length)
}

/// Whether an ICMP error may answer this packet.
fn may_answer(offending: &Headers) -> Result<(), BuildError> {
    const REDIRECT_V6: u8 = 137;
    if offending.fragment() == Fragment::Later {
        return Err(BuildError::LaterFragment);
    }
    if view::is_icmp(&offending.ip) {
        let redirect =
            offending.family() == Family::V6 && matches!(offending.icmp(), Some((REDIRECT_V6, _)));
        if offending.icmp().is_none() || offending.is_icmp_error() || redirect {
            return Err(BuildError::IcmpError);
        }
    }
    if is_group(offending.dst()) {
        return Err(BuildError::Destination);
    }
    let source = offending.src();
    if is_group(source) || source.is_unspecified() || source.is_loopback() {
        return Err(BuildError::Source);
    }
    Ok(())
}

/// Multicast, limited broadcast, and the reserved class E, which names no host either.
fn is_group(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets()[0] >= 224,
        IpAddr::V6(address) => address.is_multicast(),
    }
}

/// The two addresses of a packet, of one family.
#[derive(Clone, Copy)]
enum Ends {
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

impl Ends {
    fn new(from: IpAddr, to: IpAddr) -> Result<Ends, BuildError> {
        match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => Ok(Ends::V4(from, to)),
            (IpAddr::V6(from), IpAddr::V6(to)) => Ok(Ends::V6(from, to)),
            _ => Err(BuildError::FamilyMismatch),
        }
    }

    const fn header_len(self) -> usize {
        match self {
            Ends::V4(..) => 20,
            Ends::V6(..) => 40,
        }
    }

    /// Cuts the IP header and a payload of `length` bytes out of the buffer.
    fn split(self, buffer: &mut [u8], length: usize) -> Result<(&mut [u8], &mut [u8]), BuildError> {
        let total = self.header_len() + length;
        if total > usize::from(u16::MAX) {
            return Err(BuildError::PayloadTooLong);
        }
        let packet = buffer.get_mut(..total).ok_or(BuildError::Buffer)?;
        Ok(packet.split_at_mut(self.header_len()))
    }

    /// Writes the IP header. What may be fragmented needs an identification that differs between
    /// datagrams under way at a time (RFC 6864): the transport checksum of a datagram is as good
    /// as random, and repeats for certain only where the content does.
    fn write_header(self, header: &mut [u8], number: u8, length: usize, identification: u16) {
        const CLASS_SELECTOR_6: u8 = 0xC0;
        const HOP_LIMIT: u8 = 64;
        match self {
            Ends::V4(from, to) => {
                let total = (header.len() + length) as u16;
                header[0..2].copy_from_slice(&[0x45, CLASS_SELECTOR_6]);
                header[2..4].copy_from_slice(&total.to_be_bytes());
                header[4..6].copy_from_slice(&identification.to_be_bytes());
                header[6..12].copy_from_slice(&[0, 0, HOP_LIMIT, number, 0, 0]);
                header[12..16].copy_from_slice(&from.octets());
                header[16..20].copy_from_slice(&to.octets());
                let checksum = checksum::ipv4_header(header);
                header[10..12].copy_from_slice(&checksum.to_be_bytes());
            }
            Ends::V6(from, to) => {
                let start = 0x6000_0000 | u32::from(CLASS_SELECTOR_6) << 20;
                header[0..4].copy_from_slice(&start.to_be_bytes());
                header[4..6].copy_from_slice(&(length as u16).to_be_bytes());
                header[6..8].copy_from_slice(&[number, HOP_LIMIT]);
                header[8..24].copy_from_slice(&from.octets());
                header[24..40].copy_from_slice(&to.octets());
            }
        }
    }
}

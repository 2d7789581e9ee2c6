//! What the headers of one packet say, read once and kept while the packet is decided upon.

use std::net::IpAddr;

use mat_proto::Family;

use super::ip::{Fragment, Ip, Reading, Routing};
use super::reason::Malformed;
use super::transport::{self, protocol};

/// An IP packet as it comes from a TUN device: no link-layer header before it.
#[derive(Debug, Clone, Copy)]
pub struct Packet;

impl Packet {
    /// Reads the headers at the start of `bytes`, and of the packet quoted if it is an ICMP error.
    ///
    /// Bytes behind the length that the IP header gives are ignored. A transport header that is cut
    /// short is no error here: its accessors then say `None`.
    pub fn parse(bytes: &[u8]) -> Result<Headers, Malformed> {
        let ip = Ip::parse(bytes, Reading::Whole)?;
        let icmp = icmp_kind(bytes, &ip);
        Ok(Headers {
            ports: transport::ports(bytes, &ip),
            tcp_flags: tcp_flags(bytes, &ip),
            icmp,
            quote: icmp.and_then(|(kind, _)| quote(bytes, &ip, kind)),
            ip,
        })
    }
}

/// The headers of one packet. They hold copies, not borrows, so the packet can be rewritten
/// while they are at hand; after that they still say what the packet *was*.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    pub(super) ip: Ip,
    ports: Option<(u16, u16)>,
    tcp_flags: Option<TcpFlags>,
    icmp: Option<(u8, u8)>,
    pub(super) quote: Option<Quote>,
}

impl Headers {
    /// IPv4 or IPv6.
    pub fn family(&self) -> Family {
        self.ip.family()
    }

    /// The source address of the IP header.
    pub fn src(&self) -> IpAddr {
        self.ip.source
    }

    /// The destination address of the IP header; with [`routing`](Self::routing) segments left,
    /// the next stop only.
    pub fn dst(&self) -> IpAddr {
        self.ip.destination
    }

    /// The protocol behind the IPv4 header or the IPv6 extension headers; see
    /// [`protocol`]. In a later fragment over IPv6 it is what the fragment header names, which may be
    /// another extension header.
    pub fn protocol(&self) -> u8 {
        self.ip.protocol
    }

    /// Where the transport header starts (a later fragment's data), in bytes from the IP header.
    pub fn transport_offset(&self) -> usize {
        self.ip.transport
    }

    /// The packet's length as its IP header gives it, in bytes, headers included.
    pub fn total_len(&self) -> usize {
        self.ip.end
    }

    /// Which part of a datagram this is.
    pub fn fragment(&self) -> Fragment {
        self.ip.fragment
    }

    /// Time to live, or hop limit.
    pub fn hop_limit(&self) -> u8 {
        self.ip.hop_limit
    }

    /// The source route, used up or not; of several, one with segments left.
    pub fn routing(&self) -> Option<Routing> {
        self.ip.routing
    }

    /// Source and destination port of TCP, UDP, UDP-Lite, DCCP or SCTP. None in a later fragment.
    pub fn ports(&self) -> Option<(u16, u16)> {
        self.ports
    }

    /// Source and destination port if this is UDP.
    pub fn udp_ports(&self) -> Option<(u16, u16)> {
        self.ports.filter(|_| self.ip.protocol == protocol::UDP)
    }

    /// The flags if this is TCP and its header reaches that far.
    pub fn tcp_flags(&self) -> Option<TcpFlags> {
        self.tcp_flags
    }

    /// Type and code if this is ICMP over IPv4 or ICMPv6 over IPv6.
    pub fn icmp(&self) -> Option<(u8, u8)> {
        self.icmp
    }

    /// Whether this is an ICMP message about another packet, and so must not be answered by an
    /// ICMP error (RFC 1122, section 3.2.2; RFC 4443, section 2.1).
    pub fn is_icmp_error(&self) -> bool {
        self.icmp
            .is_some_and(|(kind, _)| is_error(self.family(), kind))
    }

    /// Whether this is an ICMP error saying that a network or host cannot be reached, which may
    /// just mean that it has moved.
    pub fn is_host_unreachable(&self) -> bool {
        match self.family() {
            Family::V4 => matches!(self.icmp, Some((3, 0 | 1))),
            Family::V6 => matches!(self.icmp, Some((1, 0 | 3))),
        }
    }

    /// The packet that an ICMP error quotes, if at least its fixed IP header is there.
    pub fn quoted(&self) -> Option<Quote> {
        self.quote
    }

    /// The source address of the quoted packet: in an error that reaches its rightful receiver,
    /// the receiver's own address.
    pub fn quoted_src(&self) -> Option<IpAddr> {
        self.quote.map(|quote| quote.src())
    }

    /// The destination address of the quoted packet.
    pub fn quoted_dst(&self) -> Option<IpAddr> {
        self.quote.map(|quote| quote.dst())
    }
}

/// A packet quoted by an ICMP error, possibly cut off behind its fixed IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    /// Where it starts, in bytes from the outer IP header.
    pub(super) at: usize,
    pub(super) ip: Ip,
    ports: Option<(u16, u16)>,
}

impl Quote {
    /// The source address of the quoted IP header.
    pub fn src(&self) -> IpAddr {
        self.ip.source
    }

    /// The destination address of the quoted IP header.
    pub fn dst(&self) -> IpAddr {
        self.ip.destination
    }

    /// The transport protocol, or the first header that could not be walked.
    pub fn protocol(&self) -> u8 {
        self.ip.protocol
    }

    /// Source and destination port, if the quote reaches that far.
    pub fn ports(&self) -> Option<(u16, u16)> {
        self.ports
    }

    /// Source and destination port if the quoted packet is UDP.
    pub fn udp_ports(&self) -> Option<(u16, u16)> {
        self.ports.filter(|_| self.ip.protocol == protocol::UDP)
    }
}

/// The flags of a TCP header (RFC 9293, section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const fn fin(self) -> bool {
        self.0 & 0x01 != 0
    }

    /// A connection is being opened.
    pub const fn syn(self) -> bool {
        self.0 & 0x02 != 0
    }

    /// The connection is reset.
    pub const fn rst(self) -> bool {
        self.0 & 0x04 != 0
    }

    /// The acknowledgement number counts.
    pub const fn ack(self) -> bool {
        self.0 & 0x10 != 0
    }
}

/// ICMP messages about another packet, all of which quote it behind eight bytes of their own.
/// Over IPv6 that is everything below 128, known or not (RFC 4443, section 2.4).
pub(super) fn is_error(family: Family, kind: u8) -> bool {
    match family {
        Family::V4 => matches!(kind, 3 | 4 | 5 | 11 | 12),
        Family::V6 => kind < 128,
    }
}

/// Whether the packet is of its family's ICMP.
pub(super) fn is_icmp(ip: &Ip) -> bool {
    matches!(
        (ip.protocol, ip.family()),
        (protocol::ICMP, Family::V4) | (protocol::ICMPV6, Family::V6)
    )
}

fn icmp_kind(packet: &[u8], ip: &Ip) -> Option<(u8, u8)> {
    if !is_icmp(ip) {
        return None;
    }
    ip.transport_bytes(packet)?
        .first_chunk()
        .map(|&[kind, code]| (kind, code))
}

fn tcp_flags(packet: &[u8], ip: &Ip) -> Option<TcpFlags> {
    if ip.protocol != protocol::TCP {
        return None;
    }
    ip.transport_bytes(packet)?
        .get(13)
        .map(|flags| TcpFlags(*flags))
}

fn quote(packet: &[u8], ip: &Ip, kind: u8) -> Option<Quote> {
    const ICMP_HEADER: usize = 8;
    if !is_error(ip.family(), kind) {
        return None;
    }
    let (header, body) = ip.transport_bytes(packet)?.split_at_checked(ICMP_HEADER)?;
    let quoted = &body[..body.len().min(quote_len(header, ip.family(), kind))];
    let inner = Ip::parse(quoted, Reading::Quote).ok()?;
    (inner.family() == ip.family()).then(|| Quote {
        at: ip.transport + ICMP_HEADER,
        ports: transport::ports(quoted, &inner),
        ip: inner,
    })
}

/// How much of the message body is the quoted packet, where extensions follow it (RFC 4884). They
/// want at least 128 bytes of it; less is no length but noise in a field once unused. Over IPv4 all
/// that is ever translated lies within those 128, so the length does not matter there.
fn quote_len(header: &[u8], family: Family, kind: u8) -> usize {
    const MIN_BEFORE_EXTENSIONS: usize = 128;
    let length = match (family, kind) {
        (Family::V6, 1 | 3) => usize::from(header[4]) * 8,
        _ => 0,
    };
    if length < MIN_BEFORE_EXTENSIONS {
        usize::MAX
    } else {
        length
    }
}

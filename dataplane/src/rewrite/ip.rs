//! The IP layer of one packet: header, IPv4 options, IPv6 extension headers; walked with bounds,
//! whether the packet stands alone or is quoted by an ICMP error.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mat_proto::Family;

use super::checksum::Delta;
use super::reason::Malformed;
use super::transport::protocol;

/// Which part of a datagram a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fragment {
    /// All of it, be it in an "atomic" fragment (RFC 6946).
    None,
    /// The part that starts with the transport header.
    First,
    /// A part without the transport header.
    Later,
}

/// A source route: an IPv4 option or an IPv6 routing header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Routing {
    /// What describes the route.
    pub kind: RoutingKind,
    /// How many addresses of the route are still to be visited. With any left, the header's
    /// destination is only the next stop.
    pub segments_left: u8,
}

/// What describes a source route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoutingKind {
    /// IPv4 Loose Source and Record Route.
    Loose,
    /// IPv4 Strict Source and Record Route.
    Strict,
    /// IPv6 routing header of this type.
    Header(u8),
}

impl RoutingKind {
    /// Whether the final destination is known to be in the route itself.
    const fn is_understood(self) -> bool {
        !matches!(self, RoutingKind::Header(kind) if !matches!(kind, 0 | 2 | 4))
    }
}

/// How to treat a packet that ends too early or makes no sense behind its fixed header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// A packet of its own: an error.
    Whole,
    /// Quoted in an ICMP error, which may cut it anywhere: read as far as it goes.
    Quote,
}

/// What the IP layer says. Offsets count from the first byte of this IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ip {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) hop_limit: u8,
    /// The protocol behind all headers walked.
    pub(super) protocol: u8,
    /// Where the transport header starts (the fragment's data, in a later fragment). In a quote it
    /// may lie behind `end`.
    pub(super) transport: usize,
    /// Where the bytes of this packet end: its own length, or an earlier cut of the quote.
    pub(super) end: usize,
    pub(super) fragment: Fragment,
    /// The source route, the one with segments left if there are several.
    pub(super) routing: Option<Routing>,
    /// An Authentication Header is there.
    pub(super) authenticated: bool,
    /// A Home Address option replaces the source in the pseudo-header.
    pub(super) home_address_option: bool,
}

/// Offset of the checksum in an IPv4 header.
const V4_CHECKSUM: usize = 10;
const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;

/// RFC 8200 names seven; a chain of hundreds serves only to slow down whoever walks it.
const MAX_EXTENSIONS: usize = 16;

impl Ip {
    pub(super) fn parse(bytes: &[u8], reading: Reading) -> Result<Ip, Malformed> {
        match bytes.first().ok_or(Malformed::Empty)? >> 4 {
            4 => parse_v4(bytes, reading),
            6 => parse_v6(bytes, reading),
            _ => Err(Malformed::Version),
        }
    }

    pub(super) fn family(&self) -> Family {
        Family::of(self.source)
    }

    /// A source route whose checksum cannot be told.
    pub(super) fn has_unknown_route(&self) -> bool {
        self.routing
            .is_some_and(|route| route.segments_left > 0 && !route.kind.is_understood())
    }

    /// The transport header and what follows; none in a later fragment.
    pub(super) fn transport_bytes<'a>(&self, packet: &'a [u8]) -> Option<&'a [u8]> {
        match self.fragment {
            Fragment::Later => None,
            Fragment::None | Fragment::First => packet.get(self.transport..self.end),
        }
    }

    /// The part of an address change that the pseudo-header sees.
    fn pseudo_header_delta(&self, source: Delta, destination: Delta) -> Delta {
        let en_route = self.routing.is_some_and(|route| route.segments_left > 0);
        let mut delta = Delta::ZERO;
        if !self.home_address_option {
            delta += source;
        }
        if !en_route {
            delta += destination;
        }
        delta
    }
}

/// What writing new addresses changed.
pub(super) struct Written {
    /// For checksums with a pseudo-header.
    pub(super) pseudo_header: Delta,
    /// For a checksum around the whole header.
    pub(super) header: Delta,
}

/// Writes new addresses into the header at the start of `packet` and corrects its IPv4 checksum.
/// `packet` has at least a fixed header and the addresses are of its family, or nothing happens.
pub(super) fn write_addresses(
    packet: &mut [u8],
    ip: &Ip,
    source: Option<IpAddr>,
    destination: Option<IpAddr>,
) -> Written {
    let (source, destination) = match ip.family() {
        Family::V4 => (
            write_address(packet, 12, source),
            write_address(packet, 16, destination),
        ),
        Family::V6 => (
            write_address(packet, 8, source),
            write_address(packet, 24, destination),
        ),
    };
    let addresses = source + destination;
    let mut header = addresses;
    if ip.family() == Family::V4
        && let Some(field) = packet
            .get_mut(V4_CHECKSUM..)
            .and_then(|at| at.first_chunk_mut::<2>())
    {
        let old = u16::from_be_bytes(*field);
        let new = addresses.update(old);
        *field = new.to_be_bytes();
        header += Delta::word(old, new);
    }
    Written {
        pseudo_header: ip.pseudo_header_delta(source, destination),
        header,
    }
}

/// The delta comes from the bytes replaced, not from what was parsed, so that it is right even if
/// the packet was rewritten since.
fn write_address(packet: &mut [u8], at: usize, address: Option<IpAddr>) -> Delta {
    match address {
        None => Delta::ZERO,
        Some(IpAddr::V4(new)) => match packet.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
            None => Delta::ZERO,
            Some(field) => {
                let old = Ipv4Addr::from(std::mem::replace(field, new.octets()));
                Delta::between(old.into(), new.into())
            }
        },
        Some(IpAddr::V6(new)) => match packet.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
            None => Delta::ZERO,
            Some(field) => {
                let old = Ipv6Addr::from(std::mem::replace(field, new.octets()));
                Delta::between(old.into(), new.into())
            }
        },
    }
}

fn parse_v4(bytes: &[u8], reading: Reading) -> Result<Ip, Malformed> {
    let fixed = bytes
        .first_chunk::<V4_HEADER>()
        .ok_or(Malformed::ShortHeader)?;
    let header = usize::from(fixed[0] & 0x0F) * 4;
    let total = usize::from(word(fixed, 2));
    if header < V4_HEADER {
        return Err(Malformed::HeaderLength);
    }
    let end = match reading {
        Reading::Whole if total < header => return Err(Malformed::HeaderLength),
        Reading::Whole if total > bytes.len() => return Err(Malformed::Truncated),
        Reading::Whole => total,
        // Some stacks quote the length field changed; an impossible one is no bound.
        Reading::Quote if total < header => bytes.len(),
        Reading::Quote => total.min(bytes.len()),
    };
    let routing = match (source_route(&bytes[V4_HEADER..header.min(end)]), reading) {
        (Err(reason), Reading::Whole) => return Err(reason),
        (Err(_), Reading::Quote) => None,
        (Ok(routing), _) => routing,
    };
    let protocol = fixed[9];
    Ok(Ip {
        source: Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15]).into(),
        destination: Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]).into(),
        hop_limit: fixed[8],
        protocol,
        transport: header,
        end,
        fragment: match word(fixed, 6) {
            position if position & 0x1FFF != 0 => Fragment::Later,
            position if position & 0x2000 != 0 => Fragment::First,
            _ => Fragment::None,
        },
        routing,
        authenticated: protocol == protocol::AH,
        home_address_option: false,
    })
}

/// Finds a source route among IPv4 options (RFC 791, section 3.1).
fn source_route(mut options: &[u8]) -> Result<Option<Routing>, Malformed> {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const LOOSE: u8 = 131;
    const STRICT: u8 = 137;
    let mut routing = None;
    while let Some((&kind, rest)) = options.split_first() {
        match kind {
            END => break,
            NO_OPERATION => options = rest,
            _ => {
                let length = usize::from(*rest.first().ok_or(Malformed::Options)?);
                let (option, behind) =
                    options.split_at_checked(length).ok_or(Malformed::Options)?;
                let [_, _, data @ ..] = option else {
                    return Err(Malformed::Options);
                };
                if kind == LOOSE || kind == STRICT {
                    let (pointer, route) = data.split_first().ok_or(Malformed::Options)?;
                    // The pointer counts from 1 at the option's first byte; the route starts at 4.
                    let visited = pointer.checked_sub(4).ok_or(Malformed::Options)?;
                    let left = route.len().saturating_sub(usize::from(visited)).div_ceil(4);
                    let kind = if kind == LOOSE {
                        RoutingKind::Loose
                    } else {
                        RoutingKind::Strict
                    };
                    keep_pending(
                        &mut routing,
                        Routing {
                            kind,
                            segments_left: left as u8,
                        },
                    );
                }
                options = behind;
            }
        }
    }
    Ok(routing)
}

fn parse_v6(bytes: &[u8], reading: Reading) -> Result<Ip, Malformed> {
    let fixed = bytes
        .first_chunk::<V6_HEADER>()
        .ok_or(Malformed::ShortHeader)?;
    let payload = usize::from(word(fixed, 4));
    let next = fixed[6];
    let end = match reading {
        Reading::Whole if payload == 0 && next == HOP_BY_HOP => return Err(Malformed::Jumbogram),
        Reading::Whole if V6_HEADER + payload > bytes.len() => return Err(Malformed::Truncated),
        Reading::Whole => V6_HEADER + payload,
        Reading::Quote if payload == 0 => bytes.len(),
        Reading::Quote => bytes.len().min(V6_HEADER + payload),
    };
    let mut ip = Ip {
        source: address_v6(&fixed[8..24]),
        destination: address_v6(&fixed[24..40]),
        hop_limit: fixed[7],
        protocol: next,
        transport: V6_HEADER,
        end,
        fragment: Fragment::None,
        routing: None,
        authenticated: false,
        home_address_option: false,
    };
    match (walk_extensions(&mut ip, &bytes[..end]), reading) {
        (Err(reason), Reading::Whole) => Err(reason),
        (Err(_), Reading::Quote) | (Ok(()), _) => Ok(ip),
    }
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// Advances `protocol` and `transport` over the extension headers (RFC 8200, section 4). The
/// Mobility Header is left to be the transport, since it has a checksum and ends the chain.
/// On an error `ip` describes the chain as far as it could be followed.
fn walk_extensions(ip: &mut Ip, packet: &[u8]) -> Result<(), Malformed> {
    for _ in 0..=MAX_EXTENSIONS {
        let rest = packet.get(ip.transport..).unwrap_or_default();
        let unit = match ip.protocol {
            HOP_BY_HOP | ROUTING | DESTINATION => 8,
            FRAGMENT => 0,
            protocol::AH => 4,
            _ => return Ok(()),
        };
        // Known even if the rest of it is cut off.
        ip.authenticated |= ip.protocol == protocol::AH;
        let start = rest.first_chunk::<8>().ok_or(Malformed::Extension)?;
        let length = 8 + unit * usize::from(start[1]);
        let header = rest.get(..length).ok_or(Malformed::Extension)?;
        match ip.protocol {
            DESTINATION => ip.home_address_option |= has_home_address(&header[2..]),
            ROUTING => {
                let kind = RoutingKind::Header(start[2]);
                keep_pending(
                    &mut ip.routing,
                    Routing {
                        kind,
                        segments_left: start[3],
                    },
                );
            }
            FRAGMENT => match word(start, 2) {
                position if position & 0xFFF8 != 0 => ip.fragment = Fragment::Later,
                position if position & 1 != 0 => ip.fragment = Fragment::First,
                _ => {}
            },
            _ => {}
        }
        ip.protocol = start[0];
        ip.transport += length;
        if ip.fragment == Fragment::Later {
            // What follows is data, whatever it looks like.
            ip.authenticated |= ip.protocol == protocol::AH;
            return Ok(());
        }
    }
    Err(Malformed::ExtensionCount)
}

/// A route with segments left decides what the checksum covers, wherever it stands; of several,
/// one that is not understood.
fn keep_pending(kept: &mut Option<Routing>, found: Routing) {
    let rank = |route: Routing| (route.segments_left > 0, !route.kind.is_understood());
    if kept.is_none_or(|kept| rank(found) > rank(kept)) {
        *kept = Some(found);
    }
}

/// Whether destination options hold a Home Address (RFC 6275, section 6.3). Options that make no
/// sense end the search: the destination will discard the packet.
fn has_home_address(mut options: &[u8]) -> bool {
    const PAD1: u8 = 0;
    const HOME_ADDRESS: u8 = 0xC9;
    while let Some((&kind, rest)) = options.split_first() {
        if kind == PAD1 {
            options = rest;
            continue;
        }
        let Some((&length, data)) = rest.split_first() else {
            return false;
        };
        if kind == HOME_ADDRESS && length == 16 {
            return data.len() >= 16;
        }
        options = data.get(usize::from(length)..).unwrap_or_default();
    }
    false
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn address_v6(bytes: &[u8]) -> IpAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(bytes);
    Ipv6Addr::from(octets).into()
}

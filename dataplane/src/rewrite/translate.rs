//! The one operation on a packet: new addresses in, every checksum right.

use std::net::IpAddr;

use mat_proto::Family;

use super::checksum::Delta;
use super::ip::{self, Fragment};
use super::reason::Refusal;
use super::transport::Field;
use super::view::{Headers, Quote};

/// The addresses a packet gets. `None` keeps the old one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Translation {
    /// The new source address.
    pub new_src: Option<IpAddr>,
    /// The new destination address.
    pub new_dst: Option<IpAddr>,
    /// New addresses for the packet that an ICMP error quotes.
    pub quoted: Option<Quoted>,
}

/// The addresses a quoted packet gets. `None` keeps the old one.
///
/// A quoted packet went the other way: what is translated at its destination's side in the outer
/// header stands as the source here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quoted {
    /// The new source address of the quoted packet.
    pub new_src: Option<IpAddr>,
    /// The new destination address of the quoted packet.
    pub new_dst: Option<IpAddr>,
}

/// What the packet's own transport checksum field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChecksumState {
    /// The checksum.
    Full,
    /// The folded, uncomplemented sum of the pseudo-header, to be completed by whoever puts the
    /// packet on a wire: virtio-net's `VIRTIO_NET_HDR_F_NEEDS_CSUM`, also of a super-packet (GSO).
    Partial,
}

impl ChecksumState {
    /// What a virtio-net header says about this packet.
    ///
    /// `transport` is where its transport header begins.
    /// `needs_csum` with a `csum_start` other than the packet's own transport header means a packet
    /// inside a tunnel: the outer checksum is complete then, and the inner one is not ours.
    pub fn from_virtio(needs_csum: bool, csum_start: u16, transport: usize) -> ChecksumState {
        if needs_csum && usize::from(csum_start) == transport {
            ChecksumState::Partial
        } else {
            ChecksumState::Full
        }
    }
}

/// Gives `packet` the addresses of `map` and corrects every checksum they are part of: of the
/// IPv4 header, of the transport, and for a quoted packet of both there and of the ICMP message
/// around it. All else (hop limit, DSCP, ECN, flow label, identification) stays.
///
/// `headers` are those of this packet. The packet may meanwhile have been rewritten, since the old
/// addresses are read from it anew.
///
/// # Errors
/// One [`Refusal`] per cause; the packet is then unchanged.
pub fn rewrite(
    packet: &mut [u8],
    headers: &Headers,
    map: &Translation,
    csum: ChecksumState,
) -> Result<(), Refusal> {
    let quote = check(packet, headers, map)?;
    let packet = &mut packet[..headers.total_len()];
    let written = ip::write_addresses(packet, &headers.ip, map.new_src, map.new_dst);
    let quoted = quote.map_or(Delta::ZERO, |(quote, new)| {
        rewrite_quote(packet, &quote, new)
    });
    if let Some(field) = Field::in_packet(&headers.ip) {
        let mut delta = if field.pseudo_header {
            written.pseudo_header
        } else {
            Delta::ZERO
        };
        // A partial checksum covers the pseudo-header alone; the payload is summed up later.
        if csum == ChecksumState::Full {
            delta += quoted;
        }
        field.update(packet, headers.ip.transport, delta, csum);
    }
    Ok(())
}

/// Everything that can be refused, before the first byte is written.
fn check(
    packet: &[u8],
    headers: &Headers,
    map: &Translation,
) -> Result<Option<(Quote, Quoted)>, Refusal> {
    let ip = &headers.ip;
    let version = match headers.family() {
        Family::V4 => 4,
        Family::V6 => 6,
    };
    if packet.len() < ip.end || packet.first().is_none_or(|byte| byte >> 4 != version) {
        return Err(Refusal::ForeignHeaders);
    }
    let quoted = map.quoted.unwrap_or_default();
    let addresses = [map.new_src, map.new_dst, quoted.new_src, quoted.new_dst];
    if addresses
        .into_iter()
        .flatten()
        .any(|address| Family::of(address) != headers.family())
    {
        return Err(Refusal::FamilyMismatch);
    }
    if ip.authenticated {
        return Err(Refusal::Ah);
    }
    if ip.has_unknown_route() {
        return Err(Refusal::RoutingType);
    }
    // ICMP over IPv4 covers no address; if it covers a quote, it is long enough for its checksum.
    if Field::in_packet(ip).is_some_and(|field| field.pseudo_header && !field.fits(ip)) {
        return Err(match ip.fragment {
            Fragment::First => Refusal::ShortFirstFragment,
            Fragment::None | Fragment::Later => Refusal::ShortTransport,
        });
    }
    match map.quoted {
        None => Ok(None),
        Some(new) => Ok(Some((headers.quote.ok_or(Refusal::NoQuote)?, new))),
    }
}

/// Translates the quoted packet as far as it is there; gives back the sum of all changes in it.
/// All fields lie at even offsets from the ICMP header, so its checksum adds them up as they are.
fn rewrite_quote(packet: &mut [u8], quote: &Quote, new: Quoted) -> Delta {
    let Some(quoted) = packet.get_mut(quote.at..quote.at + quote.ip.end) else {
        return Delta::ZERO;
    };
    let written = ip::write_addresses(quoted, &quote.ip, new.new_src, new.new_dst);
    let field = Field::in_packet(&quote.ip).filter(|field| field.pseudo_header);
    let checksum = field.map_or(Delta::ZERO, |field| {
        field.update(
            quoted,
            quote.ip.transport,
            written.pseudo_header,
            ChecksumState::Full,
        )
    });
    written.header + checksum
}

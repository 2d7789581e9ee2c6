//! Where each transport protocol keeps its checksum, ports and kind.

use mat_proto::Family;

use super::checksum::Delta;
use super::ip::{Fragment, Ip};
use super::translate::ChecksumState;

/// IP protocol numbers this module tells apart.
pub mod protocol {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// DCCP (RFC 4340).
    pub const DCCP: u8 = 33;
    /// ESP (RFC 4303).
    pub const ESP: u8 = 50;
    /// Authentication Header (RFC 4302).
    pub const AH: u8 = 51;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// SCTP; its checksum does not cover addresses.
    pub const SCTP: u8 = 132;
    /// Mobility Header (RFC 6275): formally an extension header, but always the last one and with
    /// a checksum of its own.
    pub const MOBILITY: u8 = 135;
    /// UDP-Lite (RFC 3828).
    pub const UDP_LITE: u8 = 136;
}

/// A checksum field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Field {
    /// Offset from the start of the transport header, in bytes.
    offset: usize,
    /// Whether the pseudo-header, and with it the addresses, is covered.
    pub(super) pseudo_header: bool,
    /// Whether a field of 0 means "no checksum", so that a computed 0 is stored as `0xFFFF`.
    /// In UDP-Lite, and in UDP over IPv6, a 0 is an error for the receiver to find.
    zero_is_none: bool,
}

impl Field {
    /// The checksum field of a protocol, if it has one that this module must keep right.
    pub(super) fn of(number: u8, family: Family) -> Option<Field> {
        let (offset, pseudo_header, zero_is_none) = match (number, family) {
            (protocol::TCP, _) => (16, true, false),
            (protocol::UDP | protocol::UDP_LITE, _) => (6, true, true),
            (protocol::DCCP, _) => (6, true, false),
            (protocol::ICMP, Family::V4) => (2, false, false),
            (protocol::ICMPV6, Family::V6) => (2, true, false),
            (protocol::MOBILITY, Family::V6) => (4, true, false),
            _ => return None,
        };
        Some(Field {
            offset,
            pseudo_header,
            zero_is_none,
        })
    }

    /// The field of this packet; none in a later fragment, which holds no transport header.
    pub(super) fn in_packet(ip: &Ip) -> Option<Field> {
        match ip.fragment {
            Fragment::Later => None,
            Fragment::None | Fragment::First => Field::of(ip.protocol, ip.family()),
        }
    }

    /// Whether the whole field lies within the packet.
    pub(super) fn fits(&self, ip: &Ip) -> bool {
        ip.transport + self.offset + 2 <= ip.end
    }

    /// Applies a change of covered bytes; gives back how the field itself changed, for a checksum
    /// around it. A field that lies outside is left out.
    pub(super) fn update(
        &self,
        packet: &mut [u8],
        transport: usize,
        delta: Delta,
        state: ChecksumState,
    ) -> Delta {
        let at = transport + self.offset;
        let Some(bytes) = packet
            .get_mut(at..)
            .and_then(|rest| rest.first_chunk_mut::<2>())
        else {
            return Delta::ZERO;
        };
        let old = u16::from_be_bytes(*bytes);
        let new = match state {
            ChecksumState::Partial => delta.update_partial(old),
            ChecksumState::Full if self.zero_is_none && old == 0 => 0,
            ChecksumState::Full => match delta.update(old) {
                0 if self.zero_is_none => 0xFFFF,
                checksum => checksum,
            },
        };
        *bytes = new.to_be_bytes();
        Delta::word(old, new)
    }
}

/// Source and destination port, where the protocol has ports and these bytes are there.
pub(super) fn ports(packet: &[u8], ip: &Ip) -> Option<(u16, u16)> {
    use protocol::{DCCP, SCTP, TCP, UDP, UDP_LITE};
    if !matches!(ip.protocol, TCP | UDP | UDP_LITE | DCCP | SCTP) {
        return None;
    }
    let [a, b, c, d] = *ip.transport_bytes(packet)?.first_chunk::<4>()?;
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

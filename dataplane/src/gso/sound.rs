//! Whether the checksums of a packet are right, so that replacing them hides nothing.

use super::flow::Kind;
use crate::frame::{DATA_VALID, Header};
use crate::rewrite::checksum;

/// Whether the IPv4 header checksum and the transport checksum of `packet` are what a sender
/// writes there: the whole value, in its one spelling, or the sum of the pseudo-header where the
/// rest is left to the kernel. `packet` is cut to its IP length and has the headers of `kind`.
///
/// A transport checksum that the kernel declares right is not computed again.
pub(super) fn is_sound(packet: &[u8], kind: Kind, header: &Header) -> bool {
    /// Counts as zero, which a sender spells `0x0000`. UDP is the other way round.
    const OTHER_ZERO: u16 = 0xFFFF;
    let transport = kind.transport();
    if kind.is_v4()
        && (checksum::ipv4_header(&packet[..transport]) != 0 || word(packet, 10) == OTHER_ZERO)
    {
        return false;
    }
    let field = word(packet, transport + kind.checksum());
    let sum = |end| {
        let covered = &packet[kind.addresses()..end];
        checksum::pseudo_header_and(covered, kind.protocol(), packet.len() - transport)
    };
    if header.needs_csum() {
        usize::from(header.csum_start) == transport
            && usize::from(header.csum_offset) == kind.checksum()
            && field == sum(transport)
    } else if kind.is_tcp() && field == OTHER_ZERO {
        false
    } else {
        header.flags & DATA_VALID != 0 || sum(packet.len()) == 0xFFFF
    }
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

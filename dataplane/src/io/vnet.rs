//! The virtio-net header that stands before every packet of a TUN opened with
//! `IFF_VNET_HDR`: which bytes still need a checksum, and how the packet is to
//! be cut on the wire.
//!
//! Layout (virtio 1.2, section 5.1.6; ten bytes, host byte order on a TUN):
//! flags, gso type, hdr_len, gso_size, csum_start, csum_offset. The two checksum
//! fields count from the beginning of the *packet*, not of the frame.

use std::ops::Range;

/// Length of the header, in bytes.
pub const VNET_HEADER: usize = 10;

/// The largest frame a TUN hands out: header, IPv6 header, and the 65535 bytes
/// its 16-bit payload length allows (RFC 8200, section 3). IPv4 packets are
/// shorter; jumbograms need a hop-by-hop option no TUN asks for.
pub const MAX_FRAME: usize = VNET_HEADER + 40 + 65_535;

const FLAG_NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCP_V4: u8 = 1;
const GSO_TCP_V6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// Set beside a TCP type when the first segment alone carries CWR (RFC 3168).
const GSO_ECN: u8 = 0x80;

/// What the header says about the packet behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Where the packet lies in the frame.
    pub packet: Range<usize>,
    /// The L4 checksum field holds the folded, *uncomplemented* sum of the
    /// pseudo-header; whoever puts the packet on a wire completes it.
    pub needs_csum: bool,
    /// With `needs_csum`: first byte summed, from the beginning of the packet.
    pub csum_start: u16,
    /// With `needs_csum`: place of the field, from `csum_start`.
    pub csum_offset: u16,
    /// How the packet is to be cut.
    pub gso: Gso,
}

/// Segmentation that is still to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gso {
    /// One packet as it is.
    None,
    /// TCP over IPv4, at most `size` bytes of payload each.
    TcpV4 {
        /// Payload bytes of a segment.
        size: u16,
    },
    /// TCP over IPv6, at most `size` bytes of payload each.
    TcpV6 {
        /// Payload bytes of a segment.
        size: u16,
    },
    /// UDP datagrams of `size` bytes of payload each.
    Udp {
        /// Payload bytes of a datagram.
        size: u16,
    },
    /// A kind this program did not ask for and must not touch.
    Unknown(u8),
}

impl Frame {
    /// Reads what stands before the packet; with `vnet` false the frame is the
    /// packet. `None` if the frame is too short for its header.
    pub fn parse(frame: &[u8], vnet: bool) -> Option<Self> {
        if !vnet {
            return Some(Self {
                packet: 0..frame.len(),
                needs_csum: false,
                csum_start: 0,
                csum_offset: 0,
                gso: Gso::None,
            });
        }
        let header = frame.first_chunk::<VNET_HEADER>()?;
        let [flags, gso_type, _, _, s0, s1, c0, c1, o0, o1] = *header;
        let size = u16::from_ne_bytes([s0, s1]);
        Some(Self {
            packet: VNET_HEADER..frame.len(),
            needs_csum: flags & FLAG_NEEDS_CSUM != 0,
            csum_start: u16::from_ne_bytes([c0, c1]),
            csum_offset: u16::from_ne_bytes([o0, o1]),
            gso: match gso_type & !GSO_ECN {
                GSO_NONE if gso_type == GSO_NONE => Gso::None,
                GSO_TCP_V4 => Gso::TcpV4 { size },
                GSO_TCP_V6 => Gso::TcpV6 { size },
                GSO_UDP_L4 if gso_type == GSO_UDP_L4 => Gso::Udp { size },
                _ => Gso::Unknown(gso_type),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(flags: u8, gso_type: u8, size: u16, start: u16, offset: u16) -> Vec<u8> {
        let mut bytes = vec![flags, gso_type, 0, 0];
        for field in [size, start, offset] {
            bytes.extend(field.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn without_the_header_the_frame_is_the_packet() {
        let frame = Frame::parse(&[0x45; 20], false).unwrap();
        assert_eq!(frame.packet, 0..20);
        assert_eq!((frame.needs_csum, frame.gso), (false, Gso::None));
    }

    #[test]
    fn a_partial_checksum_is_located() {
        let mut bytes = header(1, 1, 1448, 20, 16);
        bytes.extend([0; 60]);
        let frame = Frame::parse(&bytes, true).unwrap();
        assert_eq!(frame.packet, 10..70);
        assert!(frame.needs_csum);
        assert_eq!((frame.csum_start, frame.csum_offset), (20, 16));
        assert_eq!(frame.gso, Gso::TcpV4 { size: 1448 });
    }

    #[test]
    fn every_kind_of_segmentation_is_told_apart() {
        let gso = |kind| Frame::parse(&header(0, kind, 9, 0, 0), true).unwrap().gso;
        assert_eq!(gso(0), Gso::None);
        assert_eq!(gso(0x81), Gso::TcpV4 { size: 9 });
        assert_eq!(gso(0x84), Gso::TcpV6 { size: 9 });
        assert_eq!(gso(5), Gso::Udp { size: 9 });
        for unknown in [2, 3, 6, 0x7f, 0x80, 0x85] {
            assert_eq!(gso(unknown), Gso::Unknown(unknown));
        }
    }

    #[test]
    fn no_length_panics() {
        for length in 0..VNET_HEADER {
            assert_eq!(Frame::parse(&[0xff; 16][..length], true), None);
        }
    }
}

//! The virtio-net header in its parts (virtio 1.2, section 5.1.6; on a TUN in native byte order).

use crate::frame::Offload;

/// Flag: the transport checksum holds the sum of the pseudo-header and is to be completed.
pub(super) const NEEDS_CSUM: u8 = 1;
/// Flag: the kernel has found the transport checksum right.
pub(super) const DATA_VALID: u8 = 2;

/// Type: one packet as it is.
pub(super) const GSO_NONE: u8 = 0;
/// Type: TCP over IPv4.
pub(super) const GSO_TCP_V4: u8 = 1;
/// Type: TCP over IPv6.
pub(super) const GSO_TCP_V6: u8 = 4;
/// Type: UDP datagrams of equal size.
pub(super) const GSO_UDP_L4: u8 = 5;
/// Beside a TCP type: only the first segment has CWR (RFC 3168, section 6.1.2).
pub(super) const GSO_ECN: u8 = 0x80;

/// The fields of [`Offload`]; offsets count from the IP header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) flags: u8,
    pub(super) gso_type: u8,
    pub(super) hdr_len: u16,
    pub(super) gso_size: u16,
    pub(super) csum_start: u16,
    pub(super) csum_offset: u16,
}

impl Header {
    pub(super) fn needs_csum(&self) -> bool {
        self.flags & NEEDS_CSUM != 0
    }

    /// Whether it says nothing that a joined packet would lose.
    pub(super) fn is_ordinary(&self) -> bool {
        self.gso_type == GSO_NONE && self.flags & !(NEEDS_CSUM | DATA_VALID) == 0
    }
}

impl From<&Offload> for Header {
    fn from(offload: &Offload) -> Header {
        let [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1] = offload.0;
        Header {
            flags,
            gso_type,
            hdr_len: u16::from_ne_bytes([h0, h1]),
            gso_size: u16::from_ne_bytes([g0, g1]),
            csum_start: u16::from_ne_bytes([s0, s1]),
            csum_offset: u16::from_ne_bytes([o0, o1]),
        }
    }
}

impl From<Header> for Offload {
    fn from(header: Header) -> Offload {
        let [h0, h1] = header.hdr_len.to_ne_bytes();
        let [g0, g1] = header.gso_size.to_ne_bytes();
        let [s0, s1] = header.csum_start.to_ne_bytes();
        let [o0, o1] = header.csum_offset.to_ne_bytes();
        Offload([
            header.flags,
            header.gso_type,
            h0,
            h1,
            g0,
            g1,
            s0,
            s1,
            o0,
            o1,
        ])
    }
}

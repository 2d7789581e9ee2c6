//! A packet together with what the virtio-net header says about it: which bytes still
//! need a checksum, and how the packet is to be cut on the wire (virtio 1.2, section
//! 5.1.6; on a TUN ten octets in native byte order, before every packet).

use crate::rewrite::{ChecksumState, Headers};

/// The largest frame a TUN hands out: header, IPv6 header, and the 65535 bytes its 16-bit
/// payload length allows (RFC 8200, section 3). IPv4 packets are shorter; jumbograms need a
/// hop-by-hop option no TUN asks for.
pub const MAX_FRAME: usize = Offload::LEN + 40 + 65_535;

/// The 10-octet virtio-net header of a packet, native byte order, as Linux TUN
/// devices use it (`struct virtio_net_hdr`). All zero: an ordinary packet with
/// complete checksums. A rewriter carries it along unchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload(pub [u8; Offload::LEN]);

impl Offload {
    /// Octets of the header.
    pub const LEN: usize = 10;

    /// Whether the packet is to be cut into several.
    #[inline]
    pub fn is_super_packet(&self) -> bool {
        self.0[1] != GSO_NONE
    }

    /// Whether it is to be cut in a way that was asked for, or not at all.
    #[inline]
    pub fn is_known(&self) -> bool {
        matches!(
            (self.0[1], self.0[1] & !GSO_ECN),
            (_, GSO_TCP_V4 | GSO_TCP_V6) | (GSO_NONE | GSO_UDP_L4, _)
        )
    }

    /// What the packet's transport checksum field holds.
    pub fn checksum_state(&self, headers: &Headers) -> ChecksumState {
        self.checksum_state_at(headers.transport_offset())
    }

    /// The same for a packet whose transport header begins at `transport`, in octets.
    #[inline]
    pub fn checksum_state_at(&self, transport: usize) -> ChecksumState {
        let header = Header::from(self);
        ChecksumState::from_virtio(header.needs_csum(), header.csum_start, transport)
    }
}

/// An owned packet, on its way through a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its offload header.
    pub offload: Offload,
    /// The IP packet.
    pub packet: Vec<u8>,
}

impl Frame {
    /// A packet with complete checksums.
    pub fn plain(packet: Vec<u8>) -> Self {
        Frame {
            offload: Offload::default(),
            packet,
        }
    }

    /// Memory it stands for in the accounts of a queue.
    pub fn cost(&self) -> usize {
        self.packet.len() + size_of::<Frame>()
    }

    /// Header and packet in one run of octets, as RELAY carries them.
    pub fn to_octets(&self) -> Vec<u8> {
        [&self.offload.0[..], &self.packet].concat()
    }

    /// The reverse of [`Frame::to_octets`].
    pub fn from_octets(octets: &[u8]) -> Option<Self> {
        let (offload, packet) = octets.split_first_chunk()?;
        Some(Frame {
            offload: Offload(*offload),
            packet: packet.to_vec(),
        })
    }
}

/// Flag: the transport checksum holds the sum of the pseudo-header and is to be completed.
pub const NEEDS_CSUM: u8 = 1;
/// Flag: the kernel has found the transport checksum right.
pub const DATA_VALID: u8 = 2;

/// Type: one packet as it is.
pub const GSO_NONE: u8 = 0;
/// Type: TCP over IPv4.
pub const GSO_TCP_V4: u8 = 1;
/// Type: TCP over IPv6.
pub const GSO_TCP_V6: u8 = 4;
/// Type: UDP datagrams of equal size.
pub const GSO_UDP_L4: u8 = 5;
/// Beside a TCP type: only the first segment has CWR (RFC 3168, section 6.1.2).
pub const GSO_ECN: u8 = 0x80;

/// The fields of [`Offload`]; offsets count from the IP header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Header {
    /// [`NEEDS_CSUM`], [`DATA_VALID`].
    pub flags: u8,
    /// How the packet is to be cut: [`GSO_NONE`] and so on.
    pub gso_type: u8,
    /// Octets of IP and transport header, of a packet that is to be cut.
    pub hdr_len: u16,
    /// Octets of payload in each piece.
    pub gso_size: u16,
    /// With [`NEEDS_CSUM`]: the first octet that is summed up.
    pub csum_start: u16,
    /// With [`NEEDS_CSUM`]: the place of the checksum, from `csum_start`.
    pub csum_offset: u16,
}

impl Header {
    /// Whether the checksum is still to be completed.
    #[inline]
    pub fn needs_csum(&self) -> bool {
        self.flags & NEEDS_CSUM != 0
    }

    /// Whether it says nothing that a joined packet would lose.
    pub(crate) fn is_ordinary(&self) -> bool {
        self.gso_type == GSO_NONE && self.flags & !(NEEDS_CSUM | DATA_VALID) == 0
    }
}

impl From<&Offload> for Header {
    #[inline]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_lie_where_the_kernel_puts_them() {
        let mut octets = [0; Offload::LEN];
        octets[..2].copy_from_slice(&[NEEDS_CSUM, GSO_TCP_V4]);
        for (at, field) in [(2, 40u16), (4, 1448), (6, 20), (8, 16)] {
            octets[at..at + 2].copy_from_slice(&field.to_ne_bytes());
        }
        let header = Header::from(&Offload(octets));
        assert!(header.needs_csum());
        assert_eq!((header.hdr_len, header.gso_size), (40, 1448));
        assert_eq!((header.csum_start, header.csum_offset), (20, 16));
        assert_eq!(Offload::from(header), Offload(octets));
    }

    #[test]
    fn only_what_was_asked_for_is_known() {
        let offload = |kind| Offload([0, kind, 0, 0, 0, 0, 0, 0, 0, 0]);
        for known in [0, 1, 4, 5, 0x81, 0x84] {
            assert!(offload(known).is_known(), "{known:#x}");
            assert_eq!(offload(known).is_super_packet(), known != 0);
        }
        for unknown in [2, 3, 6, 0x7f, 0x80, 0x85] {
            assert!(!offload(unknown).is_known(), "{unknown:#x}");
        }
    }
}

//! A packet together with what the virtio-net header said about it.

use crate::rewrite::{ChecksumState, Headers};

/// The 10-octet virtio-net header of a packet, native byte order, as Linux TUN
/// devices use it (`struct virtio_net_hdr`). All zero: an ordinary packet with
/// complete checksums. A rewriter carries it along unchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload(pub [u8; Offload::LEN]);

impl Offload {
    /// Octets of the header.
    pub const LEN: usize = 10;
    const NEEDS_CSUM: u8 = 1;
    /// TCP over IPv4 and IPv6, each also with ECN, and UDP datagrams of equal size.
    const KNOWN: [u8; 6] = [0, 1, 4, 5, 0x81, 0x84];

    /// Whether the packet is to be cut into several.
    pub fn is_super_packet(&self) -> bool {
        self.0[1] != 0
    }

    /// Whether it is to be cut in a way that was asked for.
    pub fn is_known(&self) -> bool {
        Self::KNOWN.contains(&self.0[1])
    }

    /// What the packet's transport checksum field holds.
    pub fn checksum_state(&self, headers: &Headers) -> ChecksumState {
        self.checksum_state_at(headers.transport_offset())
    }

    /// The same for a packet whose transport header begins at `transport`, in octets.
    pub fn checksum_state_at(&self, transport: usize) -> ChecksumState {
        let needs_csum = self.0[0] & Self::NEEDS_CSUM != 0;
        let csum_start = u16::from_ne_bytes([self.0[6], self.0[7]]);
        ChecksumState::from_virtio(needs_csum, csum_start, transport)
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

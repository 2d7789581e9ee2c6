//! Descriptions of packets, their bytes as etherparse makes them, and ways through the joiner.

use etherparse::checksum::Sum16BitWords;
use etherparse::{
    IpDscp, IpEcn, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, TcpHeader, UdpHeader,
};
use mat_dataplane::frame::{Frame, Offload};
use mat_dataplane::gso::{Joinable, Joiner, Kind, Reply, cut};

pub const KINDS: [Kind; 4] = [Kind::Tcp4, Kind::Tcp6, Kind::Udp4, Kind::Udp6];

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;
pub const URG: u8 = 0x20;
pub const ECE: u8 = 0x40;
pub const CWR: u8 = 0x80;

/// A packet; what its kind does not have is ignored.
#[derive(Debug, Clone)]
pub struct Spec {
    pub kind: Kind,
    /// Last octet of the source address.
    pub host: u8,
    pub ports: (u16, u16),
    pub ttl: u8,
    pub class: u8,
    pub dont_fragment: bool,
    pub id: u16,
    pub label: u32,
    pub sequence: u32,
    pub ack: u32,
    pub window: u16,
    pub flags: u8,
    pub urgent: u16,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Spec {
    pub fn new(kind: Kind) -> Spec {
        Spec {
            kind,
            host: 1,
            ports: (5001, 443),
            ttl: 63,
            class: 0x02,
            dont_fragment: true,
            id: 0xFFFE,
            label: 0x12345,
            sequence: 0xFFFF_FF00,
            ack: 77,
            window: 501,
            flags: ACK,
            urgent: 0,
            options: vec![1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 5],
            payload: vec![],
        }
    }

    pub fn is_v4(&self) -> bool {
        is_v4(self.kind)
    }

    pub fn is_tcp(&self) -> bool {
        is_tcp(self.kind)
    }

    /// Where the transport header starts.
    pub fn transport(&self) -> usize {
        if self.is_v4() { 20 } else { 40 }
    }

    /// Where the payload starts.
    pub fn header(&self) -> usize {
        let transport = if self.is_tcp() {
            20 + self.options.len()
        } else {
            8
        };
        self.transport() + transport
    }

    /// Where the transport checksum is.
    pub fn checksum(&self) -> usize {
        self.transport() + self.checksum_offset()
    }

    fn checksum_offset(&self) -> usize {
        if self.is_tcp() { 16 } else { 6 }
    }

    /// The packet with complete checksums.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.ip();
        bytes.extend(self.segment());
        bytes
    }

    /// The packet as it comes off a wire.
    pub fn full(&self) -> Frame {
        Frame::plain(self.bytes())
    }

    /// The packet with its transport checksum left to be completed.
    pub fn partial(&self) -> Frame {
        let mut packet = self.bytes();
        let sum = self.pseudo_header(packet.len() - self.transport());
        let at = self.checksum();
        packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        Frame {
            offload: offload(1, 0, 0, 0, self.transport(), self.checksum_offset()),
            packet,
        }
    }

    /// The packet as a super-packet to be cut at `size` bytes of payload.
    pub fn whole(&self, size: usize) -> Frame {
        let mut frame = self.partial();
        let gso_type = match self.kind {
            Kind::Tcp4 => 1,
            Kind::Tcp6 => 4,
            Kind::Udp4 | Kind::Udp6 => 5,
        };
        let (start, offset) = (self.transport(), self.checksum_offset());
        frame.offload = offload(1, gso_type, self.header(), size, start, offset);
        frame
    }

    /// The folded, uncomplemented sum of the pseudo-header.
    pub fn pseudo_header(&self, length: usize) -> u16 {
        let (source, destination) = self.addresses();
        let sum = Sum16BitWords::new()
            .add_slice(&source)
            .add_slice(&destination)
            .add_4bytes((length as u32).to_be_bytes())
            .add_2bytes([0, if self.is_tcp() { 6 } else { 17 }]);
        !sum.ones_complement().to_be()
    }

    fn addresses(&self) -> (Vec<u8>, Vec<u8>) {
        if self.is_v4() {
            (vec![192, 0, 2, self.host], vec![198, 51, 100, 7])
        } else {
            let v6 = |last| [&[0x20, 0x01, 0x0D, 0xB8][..], &[0; 11], &[last]].concat();
            (v6(self.host), v6(200))
        }
    }

    fn ip(&self) -> Vec<u8> {
        let length = self.header() - self.transport() + self.payload.len();
        let number = if self.is_tcp() {
            IpNumber::TCP
        } else {
            IpNumber::UDP
        };
        let (source, destination) = self.addresses();
        if self.is_v4() {
            let (source, destination) = (source.try_into().unwrap(), destination.try_into());
            let length = length as u16;
            let mut header =
                Ipv4Header::new(length, self.ttl, number, source, destination.unwrap()).unwrap();
            header.dscp = IpDscp::try_new(self.class >> 2).unwrap();
            header.ecn = IpEcn::try_new(self.class & 3).unwrap();
            header.identification = self.id;
            header.dont_fragment = self.dont_fragment;
            header.header_checksum = header.calc_header_checksum();
            header.to_bytes().to_vec()
        } else {
            Ipv6Header {
                traffic_class: self.class,
                flow_label: Ipv6FlowLabel::try_new(self.label).unwrap(),
                payload_length: length as u16,
                next_header: number,
                hop_limit: self.ttl,
                source: source.try_into().unwrap(),
                destination: destination.try_into().unwrap(),
            }
            .to_bytes()
            .to_vec()
        }
    }

    fn segment(&self) -> Vec<u8> {
        let (source, destination) = self.addresses();
        let payload = &self.payload;
        if self.is_tcp() {
            let mut header = TcpHeader::new(self.ports.0, self.ports.1, self.sequence, self.window);
            header.acknowledgment_number = self.ack;
            header.urgent_pointer = self.urgent;
            header.set_options_raw(&self.options).unwrap();
            header.fin = self.flags & FIN != 0;
            header.syn = self.flags & SYN != 0;
            header.rst = self.flags & RST != 0;
            header.psh = self.flags & PSH != 0;
            header.ack = self.flags & ACK != 0;
            header.urg = self.flags & URG != 0;
            header.ece = self.flags & ECE != 0;
            header.cwr = self.flags & CWR != 0;
            header.checksum = if self.is_v4() {
                let (source, destination) = (source.try_into().unwrap(), destination.try_into());
                header.calc_checksum_ipv4_raw(source, destination.unwrap(), payload)
            } else {
                let (source, destination) = (source.try_into().unwrap(), destination.try_into());
                header.calc_checksum_ipv6_raw(source, destination.unwrap(), payload)
            }
            .unwrap();
            [header.to_bytes().as_slice(), payload].concat()
        } else {
            let (from, to) = self.ports;
            let mut header = UdpHeader::without_ipv4_checksum(from, to, payload.len()).unwrap();
            header.checksum = if self.is_v4() {
                let (source, destination) = (source.try_into().unwrap(), destination.try_into());
                header.calc_checksum_ipv4_raw(source, destination.unwrap(), payload)
            } else {
                let (source, destination) = (source.try_into().unwrap(), destination.try_into());
                header.calc_checksum_ipv6_raw(source, destination.unwrap(), payload)
            }
            .unwrap();
            [header.to_bytes().as_slice(), payload].concat()
        }
    }
}

pub fn is_v4(kind: Kind) -> bool {
    matches!(kind, Kind::Tcp4 | Kind::Udp4)
}

pub fn is_tcp(kind: Kind) -> bool {
    matches!(kind, Kind::Tcp4 | Kind::Tcp6)
}

/// Packets with payloads of these sizes, each where the one before ends.
pub fn train(first: &Spec, sizes: &[usize]) -> Vec<Spec> {
    let mut next = first.clone();
    (sizes.iter().enumerate())
        .map(|(index, &size)| {
            let payload = (0..size).map(|at| (at * 31 + index * 101) as u8).collect();
            let packet = Spec {
                payload,
                ..next.clone()
            };
            next.sequence = next.sequence.wrapping_add(size as u32);
            next.id = next.id.wrapping_add(1);
            packet
        })
        .collect()
}

pub fn full(specs: &[Spec]) -> Vec<Frame> {
    specs.iter().map(Spec::full).collect()
}

/// A virtio-net header.
pub fn offload(
    flags: u8,
    gso_type: u8,
    hdr_len: usize,
    gso_size: usize,
    csum_start: usize,
    csum_offset: usize,
) -> Offload {
    let mut bytes = [flags, gso_type, 0, 0, 0, 0, 0, 0, 0, 0];
    let words = [hdr_len, gso_size, csum_start, csum_offset];
    for (at, word) in bytes[2..].chunks_mut(2).zip(words) {
        at.copy_from_slice(&(word as u16).to_ne_bytes());
    }
    Offload(bytes)
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub frame: Frame,
    /// Where its first packet lay in the batch.
    pub at: usize,
    pub joined: Option<Kind>,
    /// How many pieces it was gathered from.
    pub packets: usize,
}

/// Sends one batch through `joiner`, answering each write by `reply`.
pub fn batch(
    joiner: &mut Joiner,
    frames: &[Frame],
    mut reply: impl FnMut(&Written) -> Reply,
) -> Vec<Written> {
    let mut arena = vec![0xEE; 7];
    let places: Vec<_> = (frames.iter())
        .map(|frame| {
            let start = arena.len();
            arena.extend(&frame.packet);
            let end = arena.len();
            arena.extend([0xEE; 3]);
            start..end
        })
        .collect();
    for (frame, place) in frames.iter().zip(places) {
        joiner.push(&arena, frame.offload, place);
    }
    let mut written = vec![];
    joiner.finish(&mut arena, |write| {
        let packet = write.slices().collect::<Vec<_>>().concat();
        let one = Written {
            frame: Frame {
                offload: write.offload,
                packet,
            },
            at: write.pieces[0].start,
            joined: write.joined,
            packets: write.pieces.len(),
        };
        let answer = reply(&one);
        written.push(one);
        answer
    });
    written
}

/// Joins whatever may be joined.
pub fn join(frames: &[Frame]) -> Vec<Written> {
    let mut joiner = Joiner::new(frames.len(), Joinable::ALL);
    batch(&mut joiner, frames, |_| Reply::Done)
}

/// How many packets each write carries.
pub fn sizes(frames: &[Frame]) -> Vec<usize> {
    join(frames).iter().map(|one| one.packets).collect()
}

/// What becomes of a frame on a wire.
pub fn wire(frame: &Frame) -> Vec<Vec<u8>> {
    let mut packets = vec![];
    let mut buffer = vec![0; frame.packet.len()];
    cut(&frame.offload, &frame.packet, &mut buffer, |packet| {
        packets.push(packet.to_vec());
    })
    .unwrap();
    packets
}

/// Whether `packet` is what was sent as `sent`: byte for byte, but for the identification of an
/// IPv4 packet that may not be fragmented and for the header checksum that follows from it.
pub fn is_same(packet: &[u8], sent: &[u8]) -> bool {
    let is_atomic = |bytes: &[u8]| bytes.len() >= 20 && bytes[0] >> 4 == 4 && bytes[6] == 0x40;
    if packet == sent {
        return true;
    }
    if !is_atomic(packet) || !is_atomic(sent) || packet.len() != sent.len() {
        return false;
    }
    let header = |bytes: &[u8]| Ipv4Header::from_slice(bytes).unwrap().0;
    let is_right = |header: &Ipv4Header| header.header_checksum == header.calc_header_checksum();
    let (mut a, b) = (header(packet), header(sent));
    let both_right = is_right(&a) && is_right(&b);
    a.identification = b.identification;
    a.header_checksum = b.header_checksum;
    both_right && a == b && packet[20..] == sent[20..]
}

/// Asserts that joining and cutting `frames`, which are of one flow, gives `sent`.
#[track_caller]
pub fn assert_arrives(frames: &[Frame], sent: &[Vec<u8>]) {
    let packets: Vec<_> = (join(frames).iter())
        .flat_map(|one| wire(&one.frame))
        .collect();
    assert_eq!(packets.len(), sent.len());
    for (index, (packet, sent)) in packets.iter().zip(sent).enumerate() {
        assert!(
            is_same(packet, sent),
            "packet {index}: {packet:02x?}, sent: {sent:02x?}"
        );
    }
}

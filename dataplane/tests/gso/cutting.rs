//! The cutter against packets built one by one.

use etherparse::checksum::Sum16BitWords;
use mat_dataplane::frame::{Frame, Offload};
use mat_dataplane::gso::{CutError, Kind, cut};
use mat_dataplane::rewrite::Malformed;

use crate::packets::*;

/// The packets of these payload sizes, and the super-packet of them all.
fn example(first: &Spec, sizes: &[usize]) -> (Vec<Spec>, Frame) {
    let specs = train(first, sizes);
    let payload = specs.iter().flat_map(|spec| spec.payload.clone()).collect();
    let whole = Spec {
        payload,
        ..first.clone()
    };
    (specs, whole.whole(sizes[0]))
}

fn bytes(specs: &[Spec]) -> Vec<Vec<u8>> {
    specs.iter().map(Spec::bytes).collect()
}

fn refusal(frame: &Frame) -> CutError {
    let mut buffer = vec![0; frame.packet.len()];
    cut(&frame.offload, &frame.packet, &mut buffer, |_| {
        panic!("something was emitted")
    })
    .unwrap_err()
}

#[test]
fn a_super_packet_is_the_packets_it_stands_for() {
    for kind in KINDS {
        for sizes in [
            &[100, 100, 100][..],
            &[101, 101, 7],
            &[1],
            &[0],
            &[1448; 45],
            &[1; 300],
        ] {
            let mut frames = example(&Spec::new(kind), sizes);
            if sizes == [0] {
                frames.1 = train(&Spec::new(kind), sizes)[0].whole(9);
            }
            let (specs, whole) = frames;
            assert_eq!(wire(&whole), bytes(&specs), "{kind:?} {sizes:?}");
        }
    }
}

#[test]
fn flags_go_where_they_belong() {
    for kind in [Kind::Tcp4, Kind::Tcp6] {
        let first = Spec {
            flags: ACK | FIN | PSH | CWR | ECE,
            ..Spec::new(kind)
        };
        let (mut specs, mut whole) = example(&first, &[50, 50, 50]);
        for (spec, flags) in
            specs
                .iter_mut()
                .zip([CWR | ECE | ACK, ECE | ACK, ECE | ACK | FIN | PSH])
        {
            spec.flags = flags;
        }
        assert_eq!(wire(&whole), bytes(&specs));
        // The kernel says so where only the first has CWR.
        whole.offload.0[1] |= 0x80;
        assert_eq!(wire(&whole), bytes(&specs));
    }
}

#[test]
fn a_partial_checksum_is_completed() {
    for kind in KINDS {
        for size in [0, 1, 2, 1448] {
            let spec = &train(&Spec::new(kind), &[size])[0];
            let mut frame = spec.partial();
            frame.packet.extend([9; 5]);
            assert_eq!(wire(&frame), [spec.bytes()], "{kind:?} {size}");
        }
    }
}

#[test]
fn a_datagrams_zero_checksum_is_spelled_with_ones() {
    for kind in [Kind::Udp4, Kind::Udp6] {
        let mut spec = train(&Spec::new(kind), &[2]).remove(0);
        spec.payload.fill(0);
        let at = spec.checksum();
        spec.payload = spec.bytes()[at..at + 2].to_vec();
        let packet = &wire(&spec.partial())[0];
        assert_eq!(packet[at..at + 2], [0xFF, 0xFF]);
        assert_eq!(*packet, spec.bytes());
    }
}

#[test]
fn a_checksum_inside_a_tunnel_is_completed() {
    let inner = train(&Spec::new(Kind::Tcp4), &[30]).remove(0);
    let mut frame = inner.partial();
    let header = [
        0x45, 0, 0, 0, 0, 1, 0, 0, 64, 4, 0, 0, 192, 0, 2, 9, 198, 51, 100, 9,
    ];
    frame.packet.splice(0..0, header);
    frame.packet[3] = frame.packet.len() as u8;
    frame.offload = offload(1, 0, 0, 0, 40, 16);
    assert_eq!(wire(&frame)[0][20..], inner.bytes());
    assert_eq!(wire(&frame)[0][..20], frame.packet[..20]);
}

#[test]
fn a_packet_with_nothing_to_do_passes_whatever_it_is() {
    for packet in [vec![], vec![0xFF; 40], Spec::new(Kind::Udp6).bytes()] {
        let mut emitted = vec![];
        cut(&Offload::default(), &packet, &mut [], |packet| {
            emitted.push(packet.to_vec());
        })
        .unwrap();
        assert_eq!(emitted, [packet]);
    }
}

#[test]
fn options_and_extension_headers_go_into_every_segment() {
    for kind in KINDS {
        let spec = Spec::new(kind);
        let (specs, mut whole) = example(&spec, &[40, 40, 13]);
        // No-operations and the end of options; destination options that are padding.
        let (at, extra): (usize, &[u8]) = if is_v4(kind) {
            (20, &[1, 1, 1, 0])
        } else {
            (
                40,
                &[if is_tcp(kind) { 6 } else { 17 }, 0, 1, 4, 0, 0, 0, 0],
            )
        };
        let lengthen = |packet: &mut Vec<u8>| {
            packet.splice(at..at, extra.iter().copied());
            if is_v4(kind) {
                packet[0] = 0x46;
                let total = packet.len() as u16;
                packet[2..4].copy_from_slice(&total.to_be_bytes());
                packet[10..12].fill(0);
                let sum = Sum16BitWords::new().add_slice(&packet[..24]);
                packet[10..12].copy_from_slice(&sum.ones_complement().to_ne_bytes());
            } else {
                packet[6] = 60;
                let length = packet.len() as u16 - 40;
                packet[4..6].copy_from_slice(&length.to_be_bytes());
            }
        };
        lengthen(&mut whole.packet);
        let start = (spec.transport() + extra.len()) as u16;
        whole.offload.0[6..8].copy_from_slice(&start.to_ne_bytes());
        let mut expected = bytes(&specs);
        expected.iter_mut().for_each(lengthen);
        assert_eq!(wire(&whole), expected, "{kind:?}");
    }
}

#[test]
fn what_was_wrong_stays_wrong_in_every_segment() {
    let sum = |sum: Sum16BitWords, bytes: &[u8]| sum.add_slice(bytes).ones_complement();
    for kind in KINDS {
        let (specs, mut whole) = example(&Spec::new(kind), &[50, 50, 9]);
        whole.packet[specs[0].checksum()] ^= 0x40;
        if is_v4(kind) {
            whole.packet[10] ^= 0x40;
        }
        for (packet, spec) in wire(&whole).iter().zip(&specs) {
            let transport = &packet[spec.transport()..];
            let pseudo = spec.pseudo_header(transport.len());
            let covered = Sum16BitWords::new().add_2bytes(pseudo.to_be_bytes());
            assert_ne!(sum(covered, transport), 0, "{kind:?}");
            if is_v4(kind) {
                assert_ne!(sum(Sum16BitWords::new(), &packet[..20]), 0);
            }
        }
    }
}

#[test]
fn each_inconsistency_has_its_name() {
    for kind in KINDS {
        let whole = example(&Spec::new(kind), &[50, 50, 9]).1;
        let transport = Spec::new(kind).transport();
        let refused = |change: &dyn Fn(&mut Frame)| {
            let mut frame = whole.clone();
            change(&mut frame);
            refusal(&frame)
        };
        for unknown in [2, 3, 6, 0x7F, 0x80, 0x85] {
            let error = refused(&|frame| frame.offload.0[1] = unknown);
            assert_eq!(error, CutError::Type(unknown));
        }
        for other in [1, 4, 5].into_iter().filter(|&t| t != whole.offload.0[1]) {
            let error = refused(&|frame| frame.offload.0[1] = other);
            assert_eq!(error, CutError::OtherProtocol, "{kind:?} as {other}");
        }
        let error = refused(&|frame| frame.offload.0[4..6].fill(0));
        assert_eq!(error, CutError::SegmentSize);
        let error = refused(&|frame| frame.offload.0[0] = 0);
        assert_eq!(error, CutError::NotPartial);
        for field in 6..10 {
            let error = refused(&|frame| frame.offload.0[field] ^= 4);
            assert_eq!(error, CutError::ChecksumPlace);
        }
        let error = refused(&|frame| frame.packet.truncate(99));
        assert_eq!(error, CutError::Malformed(Malformed::Truncated));
        let short = |frame: &mut Frame, length: usize| {
            frame.packet.truncate(transport + length);
            let (at, length) = if is_v4(kind) {
                (2, transport + length)
            } else {
                (4, length)
            };
            frame.packet[at..at + 2].copy_from_slice(&(length as u16).to_be_bytes());
        };
        let error = refused(&|frame| short(frame, 7));
        assert_eq!(error, CutError::TransportHeader);
        if is_tcp(kind) {
            for offset in [0x40, 0xF0] {
                let error = refused(&|frame| {
                    short(frame, 30);
                    frame.packet[transport + 12] = offset;
                });
                assert_eq!(error, CutError::TransportHeader);
            }
        } else {
            let error = refused(&|frame| frame.packet[transport + 5] ^= 1);
            assert_eq!(error, CutError::UdpLength);
        }
        if is_v4(kind) {
            let error = refused(&|frame| frame.packet[6] = 0x20);
            assert_eq!(error, CutError::Fragment);
        }
    }
}

#[test]
fn a_partial_checksum_outside_the_packet_is_refused() {
    for kind in KINDS {
        let spec = &train(&Spec::new(kind), &[20])[0];
        let length = spec.bytes().len();
        for (start, offset) in [
            (0, 10),
            (spec.transport() - 1, 6),
            (spec.transport(), length - spec.transport() - 1),
            (length, 0),
            (0xFFFF, 0xFFFF),
        ] {
            let mut frame = spec.partial();
            frame.offload = offload(1, 0, 0, 0, start, offset);
            assert_eq!(refusal(&frame), CutError::ChecksumPlace, "{start} {offset}");
        }
    }
}

#[test]
fn the_buffer_needs_room_for_one_packet() {
    for kind in KINDS {
        let (specs, whole) = example(&Spec::new(kind), &[50, 50, 9]);
        let longest = specs[0].bytes().len();
        let partial = specs[0].partial();
        for (frame, count) in [(whole, 3), (partial, 1)] {
            let attempt = |room| {
                let mut count = 0;
                let buffer = &mut vec![0; room];
                cut(&frame.offload, &frame.packet, buffer, |_| count += 1).map(|()| count)
            };
            assert_eq!(attempt(longest), Ok(count));
            assert_eq!(attempt(longest - 1), Err(CutError::Buffer));
        }
    }
}

//! Order within a flow.

use mat_dataplane::frame::Frame;
use mat_dataplane::gso::Kind;

use crate::packets::*;

/// Interleaves one packet of each.
fn mixed(trains: &[Vec<Frame>]) -> Vec<Frame> {
    (0..trains[0].len())
        .flat_map(|index| trains.iter().map(move |train| train[index].clone()))
        .collect()
}

/// The source port of each packet written.
fn ports(frames: &[Frame], transport: usize) -> Vec<(u16, usize)> {
    (join(frames).iter())
        .map(|one| {
            let port = &one.frame.packet[transport..transport + 2];
            (u16::from_be_bytes([port[0], port[1]]), one.packets)
        })
        .collect()
}

#[test]
fn flows_are_written_in_the_order_of_their_first_packets() {
    for kind in KINDS {
        let flow = |port| {
            let first = Spec {
                ports: (port, 443),
                ..Spec::new(kind)
            };
            full(&train(&first, &[80; 4]))
        };
        let frames = mixed(&[flow(3), flow(1), flow(2)]);
        let transport = Spec::new(kind).transport();
        assert_eq!(
            ports(&frames, transport),
            [(3, 4), (1, 4), (2, 4)],
            "{kind:?}"
        );
    }
}

#[test]
fn protocols_and_families_with_the_same_ports_are_different_flows() {
    let trains = KINDS.map(|kind| full(&train(&Spec::new(kind), &[80; 3])));
    let written = join(&mixed(&trains));
    let kinds: Vec<_> = written.iter().filter_map(|one| one.joined).collect();
    assert_eq!(kinds, KINDS);
    assert!(written.iter().all(|one| one.packets == 3));
}

#[test]
fn the_two_directions_are_different_flows() {
    let there = full(&train(&Spec::new(Kind::Tcp4), &[80; 3]));
    let mut back = there.clone();
    for frame in &mut back {
        let bytes = frame.packet.clone();
        frame.packet[12..16].copy_from_slice(&bytes[16..20]);
        frame.packet[16..20].copy_from_slice(&bytes[12..16]);
        frame.packet[20..22].copy_from_slice(&bytes[22..24]);
        frame.packet[22..24].copy_from_slice(&bytes[20..22]);
    }
    assert_eq!(sizes(&mixed(&[there, back])), [3, 3]);
}

#[test]
fn a_packet_that_is_not_joined_parts_its_own_flow_only() {
    for kind in [Kind::Tcp4, Kind::Tcp6] {
        let other = Spec {
            ports: (9, 9),
            ..Spec::new(kind)
        };
        let mut frames = mixed(&[
            full(&train(&Spec::new(kind), &[80, 80, 80, 80])),
            full(&train(&other, &[80, 80, 0, 80])),
        ]);
        let transport = Spec::new(kind).transport();
        let expected = [(5001, 4), (9, 2), (9, 1), (9, 1)];
        assert_eq!(ports(&frames, transport), expected);
        // A retransmission too, but what follows goes on where that one ends.
        frames[5] = frames[3].clone();
        let expected = [(5001, 4), (9, 2), (9, 2)];
        assert_eq!(ports(&frames, transport), expected);
    }
}

/// Turns a packet into one whose flow cannot be told.
fn disguise(frame: &mut Frame, how: usize) {
    let packet = &mut frame.packet;
    match (packet[0] >> 4, how) {
        // A fragment with more to come, a later one, options.
        (4, 0) => packet[6] = 0x20,
        (4, 1) => packet[7] = 0x01,
        (4, 2) => packet[0] = 0x46,
        // Extension headers: fragment, hop by hop, destination.
        (6, 0) => packet[6] = 44,
        (6, 1) => packet[6] = 0,
        (6, 2) => packet[6] = 60,
        // Another protocol, and a packet cut off.
        (4, 3) => packet[9] = 50,
        (6, 3) => packet[6] = 50,
        _ => packet.truncate(45),
    }
}

#[test]
fn a_packet_of_an_unknown_flow_parts_every_flow_between_its_addresses() {
    for kind in KINDS {
        for how in 0..5 {
            let flow = |host, port| {
                let first = Spec {
                    host,
                    ports: (port, 443),
                    ..Spec::new(kind)
                };
                full(&train(&first, &[80; 4]))
            };
            let mut frames = mixed(&[flow(1, 1), flow(1, 2), flow(9, 3)]);
            let mut strange = flow(1, 4)[0].clone();
            disguise(&mut strange, how);
            frames.insert(6, strange.clone());
            let written = join(&frames);
            let packets: Vec<_> = written.iter().map(|one| one.packets).collect();
            assert_eq!(packets, [2, 2, 4, 1, 2, 2], "{kind:?} {how}");
            assert_eq!(written[3].frame, strange);
        }
    }
}

#[test]
fn an_impossible_transport_header_makes_a_packet_of_an_unknown_flow() {
    for kind in [Kind::Tcp4, Kind::Tcp6] {
        for offset in [0x40, 0xF0] {
            let mut frames = full(&train(&Spec::new(kind), &[20; 5]));
            let at = Spec::new(kind).transport() + 12;
            frames[2].packet[at] = offset;
            assert_eq!(sizes(&frames), [2, 1, 2]);
        }
    }
}

#[test]
fn a_packet_without_addresses_parts_everything() {
    for strange in [vec![], vec![0x45; 19], vec![0x60; 39], vec![0x50; 60]] {
        let trains = KINDS.map(|kind| full(&train(&Spec::new(kind), &[80; 2])));
        let mut frames = mixed(&trains);
        frames.insert(4, Frame::plain(strange.clone()));
        let written = join(&frames);
        assert_eq!(written.len(), 9);
        assert_eq!(written[4].frame.packet, strange);
    }
}

#[test]
fn batches_are_apart() {
    let frames = full(&train(&Spec::new(Kind::Tcp4), &[80; 4]));
    let mut joiner = mat_dataplane::gso::Joiner::new(4, mat_dataplane::gso::Joinable::ALL);
    for half in frames.chunks(2) {
        let written = batch(&mut joiner, half, |_| mat_dataplane::gso::Reply::Done);
        assert_eq!(written.len(), 1);
        assert_eq!(written[0].packets, 2);
    }
}

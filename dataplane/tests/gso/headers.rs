//! What stands before a joined packet, as an independent library sees it.

use etherparse::{Ipv4Header, Ipv6Header};

use crate::packets::*;

#[test]
fn the_headers_of_a_joined_packet_are_those_of_a_super_packet() {
    for kind in KINDS {
        for last in [100, 33] {
            let specs = train(&Spec::new(kind), &[100, 100, 100, last]);
            let written = join(&full(&specs));
            assert_eq!(written.len(), 1);
            assert_eq!(written[0].joined, Some(kind));
            // One packet with all the payload, built from the start.
            let payload = specs.iter().flat_map(|spec| spec.payload.clone()).collect();
            let whole = Spec {
                payload,
                ..specs[0].clone()
            };
            assert_eq!(written[0].frame, whole.whole(100), "{kind:?}");
        }
    }
}

#[test]
fn lengths_and_checksums_are_right_up_to_the_longest_packet() {
    for kind in KINDS {
        let specs = train(&Spec::new(kind), &[1424; 46]);
        let packet = &join(&full(&specs))[0].frame.packet;
        let transport = if is_v4(kind) {
            let (header, rest) = Ipv4Header::from_slice(packet).unwrap();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert_eq!(usize::from(header.total_len), packet.len());
            rest
        } else {
            let (header, rest) = Ipv6Header::from_slice(packet).unwrap();
            assert_eq!(usize::from(header.payload_length), rest.len());
            rest
        };
        let length = u16::from_be_bytes([transport[4], transport[5]]);
        if !is_tcp(kind) {
            assert_eq!(usize::from(length), transport.len());
        }
    }
}

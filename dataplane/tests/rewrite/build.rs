//! Packets of our own, read back and verified by etherparse.

use std::net::{IpAddr, SocketAddr};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use mat_dataplane::rewrite::build::{BuildError, Unreachable, udp, unreachable};
use mat_dataplane::rewrite::{Family, Malformed, Packet};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::packets::{Cut, Ends, Spec, V4Option, plain_network};
use crate::segments::Body;
use crate::strategies::{address, ends, family, spec};

const REASONS: [Unreachable; 2] = [Unreachable::Host, Unreachable::Prohibited];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// What every packet of ours has in its IP header.
fn check_header(packet: &[u8], ends: Ends) {
    match SlicedPacket::from_ip(packet).unwrap().net.unwrap() {
        NetSlice::Ipv4(slice) => {
            let header = slice.header().to_header();
            assert_eq!(
                Ends {
                    src: header.source.into(),
                    dst: header.destination.into()
                },
                ends
            );
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert_eq!(usize::from(header.total_len), packet.len());
            assert_eq!((header.dscp.value(), header.ecn.value()), (48, 0));
            assert_eq!((header.time_to_live, header.dont_fragment), (64, false));
            assert!(!header.is_fragmenting_payload());
        }
        NetSlice::Ipv6(slice) => {
            let header = slice.header().to_header();
            assert_eq!(
                Ends {
                    src: header.source.into(),
                    dst: header.destination.into()
                },
                ends
            );
            assert_eq!(usize::from(header.payload_length) + 40, packet.len());
            assert_eq!((header.traffic_class, header.hop_limit), (0xC0, 64));
            assert_eq!(header.flow_label.value(), 0);
        }
        NetSlice::Arp(_) => panic!("not an IP packet"),
    }
}

fn built_udp(ends: Ends, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let (from, to) = (
        SocketAddr::new(ends.src, ports.0),
        SocketAddr::new(ends.dst, ports.1),
    );
    let mut buffer = vec![0xEE; payload.len() + 100];
    let length = udp(&mut buffer, from, to, payload).unwrap();
    assert!(
        buffer[length..].iter().all(|byte| *byte == 0xEE),
        "wrote behind the packet"
    );
    buffer.truncate(length);
    buffer
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_datagram(
        ends in family().prop_flat_map(ends), ports: (u16, u16), payload in vec(any::<u8>(), 0..1300)
    ) {
        let packet = built_udp(ends, ports, &payload);
        check_header(&packet, ends);
        let sliced = SlicedPacket::from_ip(&packet).unwrap();
        let Some(TransportSlice::Udp(slice)) = sliced.transport else {
            panic!("not UDP: {sliced:?}");
        };
        let header = slice.to_header();
        prop_assert_eq!((header.source_port, header.destination_port), ports);
        prop_assert_eq!(slice.payload(), payload.as_slice());
        let checksum = match (ends.src, ends.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                header.calc_checksum_ipv4_raw(src.octets(), dst.octets(), &payload)
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                header.calc_checksum_ipv6_raw(src.octets(), dst.octets(), &payload)
            }
            _ => panic!("mixed families"),
        };
        prop_assert_eq!(header.checksum, checksum.unwrap());
    }

    #[test]
    fn an_error_answers_the_sender_and_quotes_the_packet(
        (spec, offending, from) in family().prop_flat_map(|family| {
            (spec(family), ends(family), address(family))
        }),
        tail in 0..9usize,
    ) {
        let mut packet = spec.build(offending).bytes;
        let whole = packet.len();
        packet.resize(whole + tail, 0xEE);
        for reason in REASONS {
            let mut buffer = [0; 1280];
            let Ok(length) = unreachable(&mut buffer, from, &packet, reason) else { continue };
            let answer = &buffer[..length];
            check_header(answer, Ends { src: from, dst: offending.src });
            let transport = SlicedPacket::from_ip(answer).unwrap().transport;
            let (kind, code, quote) = match (&transport, from) {
                (Some(TransportSlice::Icmpv4(icmp)), _) => {
                    prop_assert_eq!(
                        icmp.checksum(),
                        icmp.icmp_type().calc_checksum(icmp.payload())
                    );
                    (icmp.type_u8(), icmp.code_u8(), icmp.payload())
                }
                (Some(TransportSlice::Icmpv6(icmp)), IpAddr::V6(from)) => {
                    let IpAddr::V6(to) = offending.src else { panic!("mixed families") };
                    prop_assert!(icmp.is_checksum_valid(from.octets(), to.octets()));
                    (icmp.type_u8(), icmp.code_u8(), icmp.payload())
                }
                _ => panic!("not ICMP: {transport:?}"),
            };
            let expected = match (spec.family(), reason) {
                (Family::V4, Unreachable::Host) => (3, 1),
                (Family::V4, Unreachable::Prohibited) => (3, 13),
                (Family::V6, Unreachable::Host) => (1, 3),
                (Family::V6, Unreachable::Prohibited) => (1, 1),
            };
            prop_assert_eq!((kind, code), expected);
            prop_assert_eq!(quote, &packet[..whole], "these packets are short: quoted whole");
        }
    }
}

/// A payload equal to the checksum without it makes the checksum compute to 0.
#[test]
fn a_datagram_whose_checksum_computes_to_zero() {
    for (src, dst) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
        let ends = Ends {
            src: ip(src),
            dst: ip(dst),
        };
        let checksum = |packet: &[u8]| {
            let at = packet.len() - 4;
            [packet[at], packet[at + 1]]
        };
        let balance = checksum(&built_udp(ends, (1, 2), &[0, 0]));
        assert_eq!(checksum(&built_udp(ends, (1, 2), &balance)), [0xFF, 0xFF]);
    }
}

#[test]
fn a_long_packet_is_quoted_up_to_the_limit() {
    for (src, dst, limit) in [
        ("192.0.2.1", "192.0.2.2", 576),
        ("2001:db8::1", "2001:db8::2", 1280),
    ] {
        let ends = Ends {
            src: ip(src),
            dst: ip(dst),
        };
        let offending = built_udp(ends, (1, 2), &[7; 2000]);
        let mut buffer = [0; 1280];
        let length = unreachable(&mut buffer, ends.dst, &offending, Unreachable::Host).unwrap();
        assert_eq!(length, limit);
        let headers = Packet::parse(&buffer[..length]).unwrap();
        assert!(headers.is_host_unreachable());
        assert_eq!(headers.quoted().unwrap().udp_ports(), Some((1, 2)));
        let refused = unreachable(&mut buffer[..limit - 1], ends.dst, &offending, REASONS[0]);
        assert_eq!(refused, Err(BuildError::Buffer));
    }
}

#[test]
fn some_packets_are_never_answered() {
    let refusal = |spec: Spec, src: &str, dst: &str| {
        let packet = spec
            .build(Ends {
                src: ip(src),
                dst: ip(dst),
            })
            .bytes;
        let from = match spec.family() {
            Family::V4 => ip("192.0.2.254"),
            Family::V6 => ip("2001:db8::fe"),
        };
        unreachable(&mut [0; 1280], from, &packet, Unreachable::Host).err()
    };
    let spec = |family, body| Spec {
        network: plain_network(family),
        body,
        fragment: Cut::Whole,
    };
    let udp = |family| {
        spec(
            family,
            Body::Udp {
                ports: (1, 2),
                checksum: true,
                payload: vec![],
            },
        )
    };
    let error = |family, kind| {
        spec(
            family,
            Body::Error {
                kind,
                code: 0,
                rest: [0; 4],
                quote: vec![0; 8],
            },
        )
    };
    let echo = |family| {
        spec(
            family,
            Body::Echo {
                reply: false,
                rest: [0; 4],
                payload: vec![],
            },
        )
    };
    let (a, b) = ("192.0.2.1", "198.51.100.2");
    let (a6, b6) = ("2001:db8::1", "2001:db8::2");

    assert_eq!(refusal(udp(Family::V4), a, b), None);
    assert_eq!(refusal(udp(Family::V6), a6, b6), None);
    assert_eq!(refusal(echo(Family::V4), a, b), None);
    assert_eq!(refusal(echo(Family::V6), a6, b6), None);
    for kind in [3, 4, 5, 11, 12] {
        assert_eq!(
            refusal(error(Family::V4, kind), a, b),
            Some(BuildError::IcmpError)
        );
    }
    for kind in [1, 2, 3, 4, 100, 127, 137] {
        assert_eq!(
            refusal(error(Family::V6, kind), a6, b6),
            Some(BuildError::IcmpError)
        );
    }
    for destination in ["224.0.0.1", "239.255.255.255", "255.255.255.255"] {
        let refused = refusal(udp(Family::V4), a, destination);
        assert_eq!(refused, Some(BuildError::Destination));
    }
    assert_eq!(
        refusal(udp(Family::V6), a6, "ff02::1"),
        Some(BuildError::Destination)
    );
    for source in [
        "0.0.0.0",
        "127.0.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
    ] {
        assert_eq!(
            refusal(udp(Family::V4), source, b),
            Some(BuildError::Source)
        );
    }
    for source in ["::", "::1", "ff02::1"] {
        assert_eq!(
            refusal(udp(Family::V6), source, b6),
            Some(BuildError::Source)
        );
    }
    // Too short to tell whether it is an error.
    let cut = |family, number| {
        spec(
            family,
            Body::Other {
                number,
                payload: vec![8],
            },
        )
    };
    assert_eq!(
        refusal(cut(Family::V4, 1), a, b),
        Some(BuildError::IcmpError)
    );
    assert_eq!(
        refusal(cut(Family::V6, 58), a6, b6),
        Some(BuildError::IcmpError)
    );
    let payload = vec![0; 64];
    for (family, src, dst) in [(Family::V4, a, b), (Family::V6, a6, b6)] {
        let body = Body::Udp {
            ports: (1, 2),
            checksum: true,
            payload: payload.clone(),
        };
        let later = Spec {
            fragment: Cut::Later(1),
            ..spec(family, body.clone())
        };
        assert_eq!(refusal(later, src, dst), Some(BuildError::LaterFragment));
        let first = Spec {
            fragment: Cut::First(1),
            ..spec(family, body)
        };
        assert_eq!(refusal(first, src, dst), None);
    }
}

#[test]
fn what_cannot_be_built_says_why() {
    let (four, six) = (ip("192.0.2.1"), ip("2001:db8::1"));
    let socket = |address| SocketAddr::new(address, 6283);
    let mut large = vec![0; 70_000];
    assert_eq!(
        udp(&mut large, socket(four), socket(six), b"x"),
        Err(BuildError::FamilyMismatch)
    );
    assert_eq!(
        udp(&mut [0; 28], socket(four), socket(four), b"x"),
        Err(BuildError::Buffer)
    );
    assert_eq!(udp(&mut [0; 29], socket(four), socket(four), b"x"), Ok(29));
    let too_long = vec![0; 65_508];
    assert_eq!(
        udp(&mut large, socket(four), socket(four), &too_long),
        Err(BuildError::PayloadTooLong)
    );
    assert_eq!(
        udp(&mut large, socket(four), socket(four), &too_long[1..]),
        Ok(65_535)
    );
    let network = crate::packets::Network::V4 {
        class: 0,
        identification: 0,
        ttl: 1,
        option: V4Option::Padding,
    };
    let body = Body::Other {
        number: 47,
        payload: vec![],
    };
    let packet = Spec {
        network,
        body,
        fragment: Cut::Whole,
    }
    .build(Ends {
        src: four,
        dst: four,
    })
    .bytes;
    let answer = |from, packet: &[u8]| unreachable(&mut [0; 576], from, packet, REASONS[0]);
    assert_eq!(answer(six, &packet), Err(BuildError::FamilyMismatch));
    assert_eq!(answer(four, &packet), Ok(20 + 8 + 24));
    assert_eq!(
        answer(four, &packet[..23]),
        Err(BuildError::Malformed(Malformed::Truncated))
    );
}

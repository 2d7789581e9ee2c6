//! Incremental update = full recomputation, and there and back = identity.

use std::net::IpAddr;

use etherparse::checksum::Sum16BitWords;
use mat_dataplane::rewrite::{
    ChecksumState, Family, Fragment, Malformed, Packet, Refusal, Translation, protocol, rewrite,
};
use proptest::prelude::*;

use crate::packets::{Cut, Ends, Extension, Network, Spec, V4Option, plain_network};
use crate::segments::{Body, complement, pseudo_header};
use crate::strategies::{address, ends, family, spec};

fn case() -> impl Strategy<Value = (Spec, Ends, Translation)> {
    family().prop_flat_map(|family| {
        let new = proptest::option::of(address(family));
        let new_too = proptest::option::of(address(family));
        let map = (new, new_too).prop_map(|(new_src, new_dst)| Translation {
            new_src,
            new_dst,
            quoted: None,
        });
        (spec(family), ends(family), map)
    })
}

fn translate(bytes: &[u8], map: &Translation, state: ChecksumState) -> Result<Vec<u8>, Refusal> {
    let mut packet = bytes.to_vec();
    let headers = Packet::parse(&packet).expect("a valid packet");
    rewrite(&mut packet, &headers, map, state).map(|()| packet)
}

fn back(old: Ends) -> Translation {
    Translation {
        new_src: Some(old.src),
        new_dst: Some(old.dst),
        quoted: None,
    }
}

/// Completes a partial checksum the way a card does: over everything from the transport header,
/// the sum of the pseudo-header already standing in the field.
fn complete_like_a_card(packet: &mut [u8], transport: usize, field: usize, number: u8) {
    let checksum = complement(Sum16BitWords::new().add_slice(&packet[transport..]));
    let checksum = if checksum == 0 && number == protocol::UDP {
        0xFFFF
    } else {
        checksum
    };
    packet[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn rewriting_gives_the_packet_built_with_the_new_addresses((spec, old, map) in case()) {
        let rewritten = translate(&spec.build(old).bytes, &map, ChecksumState::Full).unwrap();
        prop_assert_eq!(rewritten, spec.build(old.with(map.new_src, map.new_dst)).bytes);
    }

    #[test]
    fn a_partial_checksum_stays_a_pseudo_header_sum_that_a_card_completes(
        (mut spec, old, map) in case()
    ) {
        // Nobody asks a card to complete an absent checksum, or one of partial coverage.
        if let Body::Udp { checksum, .. } = &mut spec.body {
            *checksum = true;
        }
        prop_assume!(!matches!(spec.body, Body::UdpLite { .. } | Body::Dccp { .. }));
        spec.fragment = Cut::Whole;
        let new = old.with(map.new_src, map.new_dst);
        let partial = spec.build_partial(new);
        let mut rewritten =
            translate(&spec.build_partial(old).bytes, &map, ChecksumState::Partial).unwrap();
        prop_assert_eq!(&rewritten, &partial.bytes);
        if let Some(field) = partial.checksum {
            let number = spec.body.number(spec.family());
            complete_like_a_card(&mut rewritten, partial.transport, field, number);
            prop_assert_eq!(rewritten, spec.build(new).bytes);
        }
    }

    #[test]
    fn there_and_back_is_the_same_packet((spec, old, map) in case()) {
        for (built, state) in [
            (spec.build(old).bytes, ChecksumState::Full),
            (spec.build_partial(old).bytes, ChecksumState::Partial),
        ] {
            let there = translate(&built, &map, state).unwrap();
            prop_assert_eq!(translate(&there, &back(old), state).unwrap(), built);
        }
    }

    #[test]
    fn the_headers_say_what_was_built((spec, old, _) in case()) {
        let built = spec.build(old);
        let headers = Packet::parse(&built.bytes).unwrap();
        prop_assert_eq!(headers.family(), spec.family());
        prop_assert_eq!(Ends { src: headers.src(), dst: headers.dst() }, old);
        prop_assert_eq!(headers.total_len(), built.bytes.len());
        prop_assert_eq!(headers.transport_offset(), built.transport);
        let expected = match spec.fragment {
            Cut::Whole => Fragment::None,
            Cut::First(_) => Fragment::First,
            // The cut may have fallen at the very start of an empty body.
            Cut::Later(_) if headers.fragment() == Fragment::None => Fragment::None,
            Cut::Later(_) => Fragment::Later,
        };
        prop_assert_eq!(headers.fragment(), expected);
        if let (Body::Udp { ports, .. }, Fragment::None | Fragment::First) = (&spec.body, expected) {
            prop_assert_eq!(headers.ports(), Some(*ports));
            prop_assert_eq!(headers.udp_ports(), Some(*ports));
        }
        if let (Body::Tcp { ports, flags, .. }, Fragment::None) = (&spec.body, expected) {
            prop_assert_eq!(headers.ports(), Some(*ports));
            prop_assert_eq!(headers.udp_ports(), None);
            let seen = headers.tcp_flags().unwrap();
            prop_assert_eq!(
                (seen.fin(), seen.syn(), seen.rst(), seen.ack()),
                (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0, flags & 16 != 0)
            );
        }
        prop_assert!(!headers.is_icmp_error());
    }

    #[test]
    fn bytes_behind_the_packet_are_left_alone((spec, old, map) in case(), tail: [u8; 7]) {
        let built = spec.build(old).bytes;
        let padded = [built.as_slice(), &tail].concat();
        let rewritten = translate(&padded, &map, ChecksumState::Full).unwrap();
        let alone = translate(&built, &map, ChecksumState::Full).unwrap();
        prop_assert_eq!(rewritten, [alone.as_slice(), &tail].concat());
    }

    #[test]
    fn a_packet_cut_short_is_malformed((spec, old, _) in case(), keep: prop::sample::Index) {
        let built = spec.build(old).bytes;
        let cut = &built[..keep.index(built.len())];
        let reason = Packet::parse(cut).unwrap_err();
        prop_assert!(
            matches!(reason, Malformed::Empty | Malformed::ShortHeader | Malformed::Truncated),
            "{reason:?}"
        );
    }

    #[test]
    fn a_wrong_checksum_stays_wrong((mut spec, old, map) in case(), flip in 0..16u32) {
        spec.fragment = Cut::Whole;
        if let Body::Udp { checksum, .. } = &mut spec.body {
            *checksum = true;
        }
        let mut built = spec.build(old);
        let Some(at) = built.checksum else { return Ok(()) };
        let right = spec.build(old.with(map.new_src, map.new_dst)).bytes;
        let field = u16::from_be_bytes([built.bytes[at], built.bytes[at + 1]]) ^ (1 << flip);
        // Flipping a bit must not spell "no checksum".
        prop_assume!(field != 0);
        built.bytes[at..at + 2].copy_from_slice(&field.to_be_bytes());
        let rewritten = translate(&built.bytes, &map, ChecksumState::Full).unwrap();
        let error = |a: &[u8], b: &[u8]| {
            let word = |bytes: &[u8]| u32::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
            (word(a) + 0xFFFF - word(b)) % 0xFFFF
        };
        prop_assert_eq!(error(&rewritten, &right), error(&built.bytes, &spec.build(old).bytes));
        prop_assert_ne!(error(&rewritten, &right), 0);
    }

    #[test]
    fn an_authentication_header_is_refused((mut spec, old, map) in case(), inner: bool) {
        match &mut spec.network {
            Network::V4 { .. } => spec.body = Body::Other { number: 51, payload: vec![9; 64] },
            Network::V6 { extensions, .. } if !inner => extensions.push(Extension::Authentication),
            Network::V6 { inner, .. } => inner.insert(0, Extension::Authentication),
        }
        let built = spec.build(old).bytes;
        prop_assert_eq!(translate(&built, &map, ChecksumState::Full), Err(Refusal::Ah));
    }

    #[test]
    fn an_unknown_routing_header_with_segments_left_is_refused(
        (mut spec, old, map) in case(), left in 1..=255u8, kind in 5..=255u8
    ) {
        let Network::V6 { extensions, .. } = &mut spec.network else { return Ok(()) };
        let bytes = |left| Extension::Routing { kind, left, addresses: vec![std::net::Ipv6Addr::LOCALHOST] };
        extensions.push(bytes(left));
        let refused = translate(&spec.build(old).bytes, &map, ChecksumState::Full);
        prop_assert_eq!(refused, Err(Refusal::RoutingType));
    }

    #[test]
    fn addresses_of_the_other_family_are_refused((spec, old, _) in case(), place in 0..4u8) {
        let other: IpAddr = match spec.family() {
            Family::V4 => "2001:db8::1".parse().unwrap(),
            Family::V6 => "192.0.2.1".parse().unwrap(),
        };
        let mut map = Translation::default();
        let quoted = map.quoted.get_or_insert_default();
        match place {
            0 => map.new_src = Some(other),
            1 => map.new_dst = Some(other),
            2 => quoted.new_src = Some(other),
            _ => quoted.new_dst = Some(other),
        }
        let refused = translate(&spec.build(old).bytes, &map, ChecksumState::Full);
        prop_assert_eq!(refused, Err(Refusal::FamilyMismatch));
    }
}

/// A first fragment is refused up to the byte before its checksum ends, and not beyond.
#[test]
fn a_first_fragment_must_hold_its_checksum() {
    for (family, src, dst) in [
        (Family::V4, "192.0.2.1", "192.0.2.2"),
        (Family::V6, "2001:db8::1", "2001:db8::2"),
    ] {
        let old = Ends {
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
        };
        let ports = (1, 2);
        let bodies = [
            (
                Body::Tcp {
                    ports,
                    sequence: 1,
                    flags: 2,
                    payload: vec![0; 64],
                },
                18,
            ),
            (
                Body::Udp {
                    ports,
                    checksum: true,
                    payload: vec![0; 64],
                },
                8,
            ),
            (
                Body::UdpLite {
                    ports,
                    coverage: 0,
                    payload: vec![0; 64],
                },
                8,
            ),
            (
                Body::Dccp {
                    ports,
                    coverage: 0,
                    payload: vec![0; 64],
                },
                8,
            ),
            (
                Body::Echo {
                    reply: false,
                    rest: [0; 4],
                    payload: vec![0; 64],
                },
                if family == Family::V6 { 4 } else { 0 },
            ),
        ];
        for (body, needed) in bodies {
            let spec = Spec {
                network: plain_network(family),
                body,
                fragment: Cut::First(8),
            };
            let built = spec.build(old);
            for kept in 0..32 {
                let mut packet = built.bytes[..built.transport + kept].to_vec();
                set_total_length(&mut packet);
                let result = translate(&packet, &back(old), ChecksumState::Full);
                if kept < needed {
                    assert_eq!(result, Err(Refusal::ShortFirstFragment), "{spec:?} {kept}");
                } else {
                    assert_eq!(result, Ok(packet), "{spec:?} {kept}");
                }
            }
            let whole = Spec {
                fragment: Cut::Whole,
                ..spec
            };
            let built = whole.build(old);
            let mut packet = built.bytes[..built.transport + needed.saturating_sub(1)].to_vec();
            set_total_length(&mut packet);
            let result = translate(&packet, &back(old), ChecksumState::Full);
            let expected = if needed == 0 {
                Ok(packet)
            } else {
                Err(Refusal::ShortTransport)
            };
            assert_eq!(result, expected, "{whole:?}");
        }
    }
}

/// Makes the IP header agree with a packet that was cut.
pub fn set_total_length(packet: &mut [u8]) {
    let total = packet.len() as u16;
    if packet[0] >> 4 == 4 {
        packet[2..4].copy_from_slice(&total.to_be_bytes());
        packet[10..12].fill(0);
        let checksum = complement(Sum16BitWords::new().add_slice(&packet[..20]));
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    } else {
        packet[4..6].copy_from_slice(&(total - 40).to_be_bytes());
    }
}

/// A super-packet's field holds the pseudo-header sum over its whole length; the card takes that
/// length out again for each segment. Neither step may notice the rewriting.
#[test]
fn a_super_packet_is_cut_into_segments_with_right_checksums() {
    const MSS: usize = 1000;
    let old = Ends {
        src: "192.0.2.1".parse().unwrap(),
        dst: "198.51.100.2".parse().unwrap(),
    };
    let new = Ends {
        src: "203.0.113.9".parse().unwrap(),
        dst: "192.0.2.77".parse().unwrap(),
    };
    let payload: Vec<u8> = (0..60_000u32).map(|n| (n * 7) as u8).collect();
    let tcp = |payload: &[u8]| Spec {
        network: plain_network(Family::V4),
        body: Body::Tcp {
            ports: (80, 4000),
            sequence: 5,
            flags: 16,
            payload: payload.to_vec(),
        },
        fragment: Cut::Whole,
    };
    let built = tcp(&payload).build_partial(old);
    let map = Translation {
        new_src: Some(new.src),
        new_dst: Some(new.dst),
        quoted: None,
    };
    let packet = translate(&built.bytes, &map, ChecksumState::Partial).unwrap();
    let header = &packet[built.transport..][..20];
    for segment in payload.chunks(MSS) {
        let whole = complement(pseudo_header(new, protocol::TCP, 20 + payload.len()));
        let part = complement(pseudo_header(new, protocol::TCP, 20 + segment.len()));
        let field = u16::from_be_bytes([header[16], header[17]]);
        let mut cut = [header, segment].concat();
        let sum = Sum16BitWords::new()
            .add_2bytes(field.to_be_bytes())
            .add_2bytes(whole.to_be_bytes())
            .add_2bytes((!part).to_be_bytes());
        cut[16..18].copy_from_slice(&(!complement(sum)).to_be_bytes());
        complete_like_a_card(&mut cut, 0, 16, protocol::TCP);
        assert_eq!(cut, tcp(segment).build(new).bytes[20..]);
    }
}

/// Only a checksum that starts at this packet's own transport header is this packet's.
#[test]
fn a_partial_checksum_inside_a_tunnel_is_not_ours() {
    let old = Ends {
        src: "192.0.2.1".parse().unwrap(),
        dst: "198.51.100.2".parse().unwrap(),
    };
    let option = V4Option::Padding;
    let spec = Spec {
        network: Network::V4 {
            class: 0,
            identification: 1,
            ttl: 9,
            option,
        },
        body: Body::Udp {
            ports: (4789, 4789),
            checksum: true,
            payload: vec![1; 80],
        },
        fragment: Cut::Whole,
    };
    let headers = Packet::parse(&spec.build(old).bytes).unwrap();
    assert_eq!(
        ChecksumState::from_virtio(true, 24, headers.transport_offset()),
        ChecksumState::Partial
    );
    assert_eq!(
        ChecksumState::from_virtio(true, 66, headers.transport_offset()),
        ChecksumState::Full
    );
    assert_eq!(
        ChecksumState::from_virtio(false, 24, headers.transport_offset()),
        ChecksumState::Full
    );
}

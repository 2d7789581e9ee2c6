//! Random packets, addresses and parts of them, for properties.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mat_dataplane::rewrite::Family;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::packets::{Cut, Ends, Extension, Network, Spec, V4Option};
use crate::segments::Body;

pub fn family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::V4), Just(Family::V6)]
}

/// Random addresses, and the two that are all zeros and all ones.
pub fn address(family: Family) -> BoxedStrategy<IpAddr> {
    match family {
        Family::V4 => prop_oneof![8 => any::<u32>(), 1 => Just(0), 1 => Just(u32::MAX)]
            .prop_map(|bits| Ipv4Addr::from(bits).into())
            .boxed(),
        Family::V6 => prop_oneof![8 => any::<u128>(), 1 => Just(0), 1 => Just(u128::MAX)]
            .prop_map(|bits| Ipv6Addr::from(bits).into())
            .boxed(),
    }
}

pub fn ends(family: Family) -> impl Strategy<Value = Ends> {
    (address(family), address(family)).prop_map(|(src, dst)| Ends { src, dst })
}

/// Any packet but an ICMP error.
pub fn spec(family: Family) -> impl Strategy<Value = Spec> {
    (network(family), body(family), cut()).prop_map(|(network, body, fragment)| Spec {
        network,
        body,
        fragment,
    })
}

pub fn network(family: Family) -> BoxedStrategy<Network> {
    match family {
        Family::V4 => (any::<u8>(), any::<u16>(), any::<u8>(), v4_option())
            .prop_map(|(class, identification, ttl, option)| Network::V4 {
                class,
                identification,
                ttl,
                option,
            })
            .boxed(),
        Family::V6 => (
            any::<u8>(),
            0..0x10_0000u32,
            any::<u8>(),
            vec(extension(), 0..4),
            vec(extension(), 0..3),
        )
            .prop_map(|(class, label, hops, extensions, inner)| {
                let (extensions, inner) = one_of_each(extensions, inner);
                Network::V6 {
                    class,
                    label,
                    hops,
                    extensions,
                    inner,
                }
            })
            .boxed(),
    }
}

/// At most one header decides about the pseudo-header's source, one about its destination.
fn one_of_each(
    extensions: Vec<Extension>,
    inner: Vec<Extension>,
) -> (Vec<Extension>, Vec<Extension>) {
    let (mut homes, mut routes) = (0, 0);
    let mut keep = |extension: &Extension| {
        homes += usize::from(matches!(extension, Extension::HomeAddress(_)));
        routes += usize::from(matches!(extension, Extension::Routing { .. }));
        homes < 2 && routes < 2 || matches!(extension, Extension::HopByHop { .. })
    };
    let extensions = extensions.into_iter().filter(&mut keep).collect();
    (extensions, inner.into_iter().filter(keep).collect())
}

fn v4_option() -> impl Strategy<Value = V4Option> {
    let route = vec(any::<u32>().prop_map(Ipv4Addr::from), 1..9);
    prop_oneof![
        3 => Just(V4Option::None),
        1 => Just(V4Option::Padding),
        1 => Just(V4Option::Timestamp),
        2 => (any::<bool>(), route, any::<usize>()).prop_map(|(strict, route, visited)| {
            let visited = visited % (route.len() + 1);
            V4Option::SourceRoute { strict, route, visited }
        }),
    ]
}

fn extension() -> impl Strategy<Value = Extension> {
    let address = any::<u128>().prop_map(Ipv6Addr::from);
    prop_oneof![
        (0..4u8).prop_map(|units| Extension::HopByHop { units }),
        (0..4u8).prop_map(|units| Extension::Destination { units }),
        address.clone().prop_map(Extension::HomeAddress),
        any::<bool>().prop_map(|cut| Extension::NoHomeAddress { cut }),
        any::<u32>().prop_map(Extension::AtomicFragment),
        (
            prop_oneof![Just(0u8), Just(2), Just(4)],
            any::<u8>(),
            vec(address, 1..4)
        )
            .prop_map(|(kind, left, addresses)| Extension::Routing {
                kind,
                left: left % (addresses.len() as u8 + 1),
                addresses,
            }),
        // A type that nobody knows, but used up.
        Just(Extension::Routing {
            kind: 99,
            left: 0,
            addresses: vec![]
        }),
    ]
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..48)
}

pub fn body(family: Family) -> BoxedStrategy<Body> {
    let ports = any::<(u16, u16)>();
    let common = prop_oneof![
        (ports, any::<u32>(), any::<u8>(), payload()).prop_map(
            |(ports, sequence, flags, payload)| Body::Tcp {
                ports,
                sequence,
                flags,
                payload
            }
        ),
        (ports, any::<bool>(), payload()).prop_map(|(ports, checksum, payload)| Body::Udp {
            ports,
            checksum,
            payload
        }),
        (ports, any::<usize>(), payload()).prop_map(|(ports, coverage, payload)| Body::UdpLite {
            ports,
            coverage,
            payload
        }),
        (ports, any::<u8>(), payload()).prop_map(|(ports, coverage, payload)| Body::Dccp {
            ports,
            coverage,
            payload
        }),
        (any::<bool>(), any::<[u8; 4]>(), payload()).prop_map(|(reply, rest, payload)| {
            Body::Echo {
                reply,
                rest,
                payload,
            }
        }),
        // SCTP, GRE, ESP, one unknown, and each family's ICMP in the other family.
        (
            prop_oneof![Just(132u8), Just(47), Just(50), Just(200)],
            payload()
        )
            .prop_map(|(number, payload)| Body::Other { number, payload }),
    ];
    match family {
        Family::V4 => prop_oneof![
            6 => common,
            1 => payload().prop_map(|payload| Body::Other { number: 58, payload }),
        ]
        .boxed(),
        Family::V6 => prop_oneof![
            7 => common,
            1 => payload().prop_map(|payload| Body::Mobility { payload }),
            1 => payload().prop_map(|payload| Body::Other { number: 1, payload }),
        ]
        .boxed(),
    }
}

fn cut() -> impl Strategy<Value = Cut> {
    prop_oneof![
        3 => Just(Cut::Whole),
        1 => (0..9usize).prop_map(Cut::First),
        1 => (0..9usize).prop_map(Cut::Later),
    ]
}

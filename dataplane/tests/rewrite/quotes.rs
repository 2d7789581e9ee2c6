//! ICMP errors: the quoted packet is translated as far as it is there, and the message around it
//! stays right, wherever the quote is cut.

use mat_dataplane::rewrite::{
    ChecksumState, Family, Packet, Quoted, Refusal, Translation, rewrite,
};
use proptest::prelude::*;

use crate::packets::{Built, Cut, Ends, Extension, Network, Spec, plain_network};
use crate::segments::Body;
use crate::strategies::{address, ends, family, network, spec};

/// An error from `outer.src` to `outer.dst` about a packet between `inner`.
#[derive(Debug, Clone)]
struct Case {
    network: Network,
    kind: (u8, u8),
    rest: [u8; 4],
    quoted: Spec,
    outer: Ends,
    inner: Ends,
    map: Translation,
}

impl Case {
    fn error(&self, ends: Ends, quote: Vec<u8>) -> Built {
        let (kind, code) = self.kind;
        let body = Body::Error {
            kind,
            code,
            rest: self.rest,
            quote,
        };
        Spec {
            network: self.network.clone(),
            body,
            fragment: Cut::Whole,
        }
        .build(ends)
    }

    /// The error before and after, its quote cut to so many bytes.
    fn cut_to(&self, length: usize) -> (Built, Built) {
        let new = self.map.quoted.unwrap();
        let before = self.quoted.build(self.inner);
        let after = self.quoted.build(self.inner.with(new.new_src, new.new_dst));
        let mut expected = after.bytes[..length].to_vec();
        // Half a checksum is no checksum: it stays as it was.
        if let Some(at) = before.checksum.filter(|at| at + 1 == length) {
            expected[at] = before.bytes[at];
        }
        let outer = self.outer.with(self.map.new_src, self.map.new_dst);
        (
            self.error(self.outer, before.bytes[..length].to_vec()),
            self.error(outer, expected),
        )
    }
}

fn case() -> impl Strategy<Value = Case> {
    family().prop_flat_map(|family| {
        let new = || proptest::option::of(address(family));
        let map = (new(), new(), new(), new()).prop_map(|(a, b, c, d)| Translation {
            new_src: a,
            new_dst: b,
            quoted: Some(Quoted {
                new_src: c,
                new_dst: d,
            }),
        });
        (
            network(family),
            kind(family),
            spec(family),
            ends(family),
            ends(family),
            map,
        )
            .prop_map(|(network, (kind, rest), quoted, outer, inner, map)| Case {
                network,
                kind,
                rest,
                quoted,
                outer,
                inner,
                map,
            })
    })
}

/// Type, code, and a word of their own that is no length of the quote (RFC 4884).
fn kind(family: Family) -> BoxedStrategy<((u8, u8), [u8; 4])> {
    let kinds = match family {
        Family::V4 => vec![(3, 0), (3, 1), (3, 4), (4, 0), (5, 1), (11, 0), (12, 0)],
        Family::V6 => vec![(1, 0), (1, 3), (2, 0), (3, 0), (4, 1), (100, 0), (127, 9)],
    };
    (prop::sample::select(kinds), any::<[u8; 4]>())
        .prop_map(move |(kind, mut rest)| {
            let length = if family == Family::V4 { 1 } else { 0 };
            rest[length] = 0;
            (kind, rest)
        })
        .boxed()
}

fn fixed_header(family: Family) -> usize {
    match family {
        Family::V4 => 20,
        Family::V6 => 40,
    }
}

fn translate(bytes: &[u8], map: &Translation, state: ChecksumState) -> Result<Vec<u8>, Refusal> {
    let mut packet = bytes.to_vec();
    let headers = Packet::parse(&packet).expect("a valid packet");
    rewrite(&mut packet, &headers, map, state).map(|()| packet)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn an_error_is_the_one_built_about_the_new_addresses_wherever_its_quote_is_cut(case in case()) {
        let full = case.quoted.build(case.inner).bytes.len();
        for length in fixed_header(case.quoted.family())..=full {
            let (before, after) = case.cut_to(length);
            let rewritten = translate(&before.bytes, &case.map, ChecksumState::Full).unwrap();
            prop_assert_eq!(&rewritten, &after.bytes, "cut to {} of {}", length, full);
            let back = Translation {
                new_src: Some(case.outer.src),
                new_dst: Some(case.outer.dst),
                quoted: Some(Quoted {
                    new_src: Some(case.inner.src),
                    new_dst: Some(case.inner.dst),
                }),
            };
            let returned = translate(&rewritten, &back, ChecksumState::Full).unwrap();
            prop_assert_eq!(returned, before.bytes, "cut to {} of {}", length, full);
        }
    }

    #[test]
    fn a_quote_without_its_fixed_header_is_no_quote(case in case()) {
        for length in 0..fixed_header(case.quoted.family()) {
            let (before, _) = case.cut_to(length);
            let headers = Packet::parse(&before.bytes).unwrap();
            prop_assert!(headers.is_icmp_error());
            prop_assert_eq!(headers.quoted(), None);
            let refused = translate(&before.bytes, &case.map, ChecksumState::Full);
            prop_assert_eq!(refused, Err(Refusal::NoQuote));
        }
    }

    #[test]
    fn the_quote_says_what_was_built(case in case()) {
        let quoted = case.quoted.build(case.inner);
        let headers = Packet::parse(&case.error(case.outer, quoted.bytes).bytes).unwrap();
        prop_assert!(headers.is_icmp_error());
        prop_assert_eq!(headers.icmp(), Some(case.kind));
        prop_assert_eq!(headers.quoted_src(), Some(case.inner.src));
        prop_assert_eq!(headers.quoted_dst(), Some(case.inner.dst));
        if let (Body::Udp { ports, .. }, Cut::Whole) = (&case.quoted.body, case.quoted.fragment) {
            prop_assert_eq!(headers.quoted().unwrap().udp_ports(), Some(*ports));
        }
    }

    #[test]
    fn the_quote_stays_if_only_the_outer_addresses_change(mut case in case()) {
        let quote = case.quoted.build(case.inner).bytes;
        let before = case.error(case.outer, quote.clone());
        case.map.quoted = None;
        let after = case.error(case.outer.with(case.map.new_src, case.map.new_dst), quote);
        let rewritten = translate(&before.bytes, &case.map, ChecksumState::Full).unwrap();
        prop_assert_eq!(rewritten, after.bytes);
    }

    /// A card sums up the quote as it finds it, so the field follows the outer addresses alone.
    #[test]
    fn a_partial_checksum_around_a_quote(case in case()) {
        let (kind, code) = case.kind;
        let spec = |quote| Spec {
            network: case.network.clone(),
            body: Body::Error { kind, code, rest: case.rest, quote },
            fragment: Cut::Whole,
        };
        prop_assume!(case.quoted.family() == Family::V6);
        let new = case.map.quoted.unwrap();
        let before = spec(case.quoted.build(case.inner).bytes).build_partial(case.outer);
        let after = spec(case.quoted.build(case.inner.with(new.new_src, new.new_dst)).bytes)
            .build_partial(case.outer.with(case.map.new_src, case.map.new_dst));
        let rewritten = translate(&before.bytes, &case.map, ChecksumState::Partial).unwrap();
        prop_assert_eq!(rewritten, after.bytes);
    }

    /// The first fragment holds the outer checksum and all of the quote that changes, and cuts what
    /// comes behind. Extension headers before the message take up to 14 units of their own.
    #[test]
    fn an_error_that_is_itself_a_first_fragment(case in case(), more in 0..9usize) {
        let new = case.map.quoted.unwrap();
        let quoted = case.quoted.build(case.inner);
        let (kind, code) = case.kind;
        let kept = (8 + quoted.bytes.len()).div_ceil(8);
        let spec = |mut quote: Vec<u8>| {
            quote.extend([0xA5; 400]);
            let body = Body::Error { kind, code, rest: case.rest, quote };
            Spec { network: case.network.clone(), body, fragment: Cut::First(kept + 14 + more) }
        };
        let before = spec(quoted.bytes).build(case.outer);
        let after = spec(case.quoted.build(case.inner.with(new.new_src, new.new_dst)).bytes)
            .build(case.outer.with(case.map.new_src, case.map.new_dst));
        let rewritten = translate(&before.bytes, &case.map, ChecksumState::Full).unwrap();
        prop_assert_eq!(rewritten, after.bytes);
    }
}

/// RFC 4884: what follows the quote is not the quoted packet, even where its headers point there.
#[test]
fn extensions_behind_the_quote_are_left_alone() {
    let outer = Ends {
        src: "2001:db8::1".parse().unwrap(),
        dst: "2001:db8::2".parse().unwrap(),
    };
    let inner = Ends {
        src: "2001:db8::2".parse().unwrap(),
        dst: "2001:db8::3".parse().unwrap(),
    };
    let long = Spec {
        network: Network::V6 {
            class: 0,
            label: 0,
            hops: 1,
            extensions: vec![Extension::Destination { units: 11 }],
            inner: vec![],
        },
        body: Body::Udp {
            ports: (1, 2),
            checksum: true,
            payload: vec![3; 40],
        },
        fragment: Cut::Whole,
    };
    let quoted = long.build(inner);
    // 128 bytes of quote end before the UDP header at 136 does begin.
    assert_eq!(quoted.transport, 136);
    let error = |ends, quote: &[u8]| {
        let rest = [128 / 8, 0, 0, 0];
        let quote = [&quote[..128], &[0xEE; 32]].concat();
        let body = Body::Error {
            kind: 1,
            code: 3,
            rest,
            quote,
        };
        Spec {
            network: plain_network(Family::V6),
            body,
            fragment: Cut::Whole,
        }
        .build(ends)
        .bytes
    };
    let new = "2001:db8:7::7".parse().unwrap();
    let map = Translation {
        new_dst: Some(new),
        quoted: Some(Quoted {
            new_src: Some(new),
            new_dst: None,
        }),
        ..Translation::default()
    };
    let rewritten = translate(&error(outer, &quoted.bytes), &map, ChecksumState::Full).unwrap();
    let after = long.build(inner.with(Some(new), None));
    assert_eq!(rewritten, error(outer.with(None, Some(new)), &after.bytes));
}

/// A length below the 128 bytes that RFC 4884 asks for is noise: it hides nothing of the quote.
#[test]
fn noise_in_the_length_field_hides_nothing() {
    let outer = Ends {
        src: "2001:db8::1".parse().unwrap(),
        dst: "2001:db8::2".parse().unwrap(),
    };
    let inner = Ends {
        src: "2001:db8::2".parse().unwrap(),
        dst: "2001:db8::3".parse().unwrap(),
    };
    let spec = |body| Spec {
        network: plain_network(Family::V6),
        body,
        fragment: Cut::Whole,
    };
    let quoted = spec(Body::Udp {
        ports: (1, 2),
        checksum: true,
        payload: vec![3; 100],
    });
    let error = |quote: Built| {
        let rest = [40 / 8, 0, 0, 0];
        spec(Body::Error {
            kind: 1,
            code: 3,
            rest,
            quote: quote.bytes,
        })
        .build(outer)
        .bytes
    };
    let new = Some("2001:db8:7::7".parse().unwrap());
    let map = Translation {
        quoted: Some(Quoted {
            new_src: new,
            new_dst: None,
        }),
        ..Translation::default()
    };
    let rewritten = translate(&error(quoted.build(inner)), &map, ChecksumState::Full).unwrap();
    assert_eq!(rewritten, error(quoted.build(inner.with(new, None))));
}

/// A quote of the other family is nobody's: it is not looked into.
#[test]
fn a_quote_of_the_other_family_is_no_quote() {
    let outer = Ends {
        src: "192.0.2.1".parse().unwrap(),
        dst: "192.0.2.2".parse().unwrap(),
    };
    let inner = Ends {
        src: "2001:db8::2".parse().unwrap(),
        dst: "2001:db8::3".parse().unwrap(),
    };
    let body = || Body::Udp {
        ports: (1, 2),
        checksum: true,
        payload: vec![],
    };
    let quoted = Spec {
        network: plain_network(Family::V6),
        body: body(),
        fragment: Cut::Whole,
    }
    .build(inner);
    let body = Body::Error {
        kind: 3,
        code: 1,
        rest: [0; 4],
        quote: quoted.bytes,
    };
    let error = Spec {
        network: plain_network(Family::V4),
        body,
        fragment: Cut::Whole,
    }
    .build(outer);
    let headers = Packet::parse(&error.bytes).unwrap();
    assert!(headers.is_icmp_error() && headers.is_host_unreachable());
    assert_eq!(headers.quoted(), None);
}

/// Stacks have been seen to quote the length in host order, without the header, or as zero.
#[test]
fn a_quote_with_a_mangled_length_is_still_translated() {
    let ends = |src: &str, dst: &str| Ends {
        src: src.parse().unwrap(),
        dst: dst.parse().unwrap(),
    };
    let v4 = (
        ends("192.0.2.1", "192.0.2.2"),
        ends("192.0.2.2", "192.0.2.3"),
        "198.51.100.9",
    );
    let v6 = (
        ends("2001:db8::1", "2001:db8::2"),
        ends("2001:db8::2", "2001:db8::3"),
        "2001:db8::9",
    );
    let cases = [
        (Family::V4, 2, v4, vec![0x2000u16, 12, 0]),
        (Family::V6, 4, v6, vec![0x0C00, 0]),
    ];
    for (family, field, (outer, inner, new), lengths) in cases {
        let spec = |body| Spec {
            network: plain_network(family),
            body,
            fragment: Cut::Whole,
        };
        let quoted = spec(Body::Udp {
            ports: (1, 2),
            checksum: true,
            payload: vec![1; 4],
        });
        let new = Some(new.parse().unwrap());
        let map = Translation {
            quoted: Some(Quoted {
                new_src: new,
                new_dst: None,
            }),
            ..Translation::default()
        };
        for length in lengths {
            let error = |mut quote: Built| {
                quote.bytes[field..field + 2].copy_from_slice(&length.to_be_bytes());
                let kind = if family == Family::V4 { 3 } else { 1 };
                spec(Body::Error {
                    kind,
                    code: 3,
                    rest: [0; 4],
                    quote: quote.bytes,
                })
                .build(outer)
                .bytes
            };
            let before = error(quoted.build(inner));
            let after = error(quoted.build(inner.with(new, None)));
            let rewritten = translate(&before, &map, ChecksumState::Full).unwrap();
            assert_eq!(rewritten, after, "{family:?} {length}");
        }
    }
}

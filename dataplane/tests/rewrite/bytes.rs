//! No bytes break a promise: random ones, valid packets with bytes changed, and a corpus of nasty
//! packets that stays for good.

use std::path::Path;

use mat_dataplane::rewrite::{ChecksumState, Packet, Translation, exercise, rewrite};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::packets::{Cut, Ends, Network, Spec};
use crate::segments::Body;
use crate::strategies::{ends, family, network, spec};

/// A valid packet, or a valid ICMP error about one.
fn valid() -> impl Strategy<Value = Vec<u8>> {
    family().prop_flat_map(|family| {
        let outer = (network(family), ends(family), 0..130u8, any::<[u8; 4]>());
        (spec(family), ends(family), proptest::option::of(outer)).prop_map(|(spec, ends, outer)| {
            let packet = spec.build(ends).bytes;
            match outer {
                None => packet,
                Some((network, ends, kind, rest)) => about(network, ends, kind, rest, packet),
            }
        })
    })
}

fn about(network: Network, ends: Ends, kind: u8, rest: [u8; 4], quote: Vec<u8>) -> Vec<u8> {
    let body = Body::Error {
        kind,
        code: 0,
        rest,
        quote,
    };
    Spec {
        network,
        body,
        fragment: Cut::Whole,
    }
    .build(ends)
    .bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn random_bytes(mut bytes in vec(any::<u8>(), 0..200), version in prop_oneof![Just(4u8), Just(6)]) {
        exercise(&bytes);
        // Nearly all random bytes fail at the version or the length: help them in.
        if bytes.len() >= 40 {
            bytes[0] = version << 4 | if version == 4 { 5 + bytes[0] % 5 } else { 0 };
            let length = if version == 4 { bytes.len() } else { bytes.len() - 40 };
            let at = if version == 4 { 2 } else { 4 };
            bytes[at..at + 2].copy_from_slice(&(length as u16).to_be_bytes());
            exercise(&bytes);
        }
    }

    #[test]
    fn valid_packets(packet in valid()) {
        prop_assert!(Packet::parse(&packet).is_ok());
        exercise(&packet);
    }

    #[test]
    fn mutated_packets(
        mut packet in valid(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        keep in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        for (at, value) in changes {
            let at = at.index(packet.len());
            packet[at] = value;
        }
        if let Some(keep) = keep {
            packet.truncate(keep.index(packet.len()) + 1);
        }
        exercise(&packet);
    }

    /// Headers of one packet used on another are a mistake of ours, but not one to die of.
    #[test]
    fn headers_of_another_packet(one in valid(), mut other in valid(), cut: prop::sample::Index) {
        let headers = Packet::parse(&one).unwrap();
        other.truncate(cut.index(other.len() + 1));
        let map = Translation {
            new_src: Some(headers.dst()),
            new_dst: Some(headers.src()),
            quoted: headers.quoted().map(|_| Default::default()),
        };
        for state in [ChecksumState::Full, ChecksumState::Partial] {
            let untouched = other.get(headers.total_len()..).map(<[u8]>::to_vec);
            let result = rewrite(&mut other, &headers, &map, state);
            prop_assert!(result.is_err() || untouched.is_some());
            prop_assert_eq!(other.get(headers.total_len()..).map(<[u8]>::to_vec), untouched);
        }
    }
}

/// Each file names what must become of it: `malformed REASON`, `refused REASON` or `rewritten`.
#[test]
fn the_corpus() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/rewrite");
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 20, "the corpus is not all there");
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let (first, _) = text.split_once('\n').unwrap();
        let expected = first
            .strip_prefix("# expect: ")
            .expect("an expectation comes first");
        let packet = hex(&text);
        exercise(&packet);
        assert_eq!(outcome(&packet), expected, "{}", file.display());
    }
}

fn outcome(bytes: &[u8]) -> String {
    let headers = match Packet::parse(bytes) {
        Ok(headers) => headers,
        Err(reason) => return format!("malformed {}", reason.as_str()),
    };
    let map = Translation {
        new_src: Some(headers.dst()),
        new_dst: Some(headers.src()),
        quoted: headers.is_icmp_error().then(Default::default),
    };
    match rewrite(&mut bytes.to_vec(), &headers, &map, ChecksumState::Full) {
        Ok(()) => "rewritten".to_owned(),
        Err(reason) => format!("refused {}", reason.as_str()),
    }
}

/// Bytes in hexadecimal, white space between them, `#` to the end of the line a comment.
fn hex(text: &str) -> Vec<u8> {
    let code = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default());
    let words: Vec<&str> = code.flat_map(str::split_whitespace).collect();
    let digits = words.concat();
    assert!(digits.len() % 2 == 0, "half a byte");
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal"))
        .collect()
}

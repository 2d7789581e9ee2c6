//! The data path allocates nothing: counted, not claimed.

use mat_dataplane::rewrite::build::{Unreachable, unreachable};
use mat_dataplane::rewrite::{ChecksumState, Packet, Quoted, Translation, rewrite};

use crate::counting::allocations;
use crate::packets::{Cut, Ends, Spec, plain_network};
use crate::segments::Body;

#[test]
fn reading_rewriting_and_answering_allocate_nothing() {
    for (a, b) in [
        ("192.0.2.1", "198.51.100.2"),
        ("2001:db8::1", "2001:db8::2"),
    ] {
        let ends = Ends {
            src: a.parse().unwrap(),
            dst: b.parse().unwrap(),
        };
        let family = mat_dataplane::rewrite::Family::of(ends.src);
        let spec = |body| Spec {
            network: plain_network(family),
            body,
            fragment: Cut::Whole,
        };
        let tcp = Body::Tcp {
            ports: (1, 2),
            sequence: 3,
            flags: 2,
            payload: vec![4; 100],
        };
        let quote = spec(tcp).build(ends).bytes;
        let kind = if ends.src.is_ipv4() { 3 } else { 1 };
        let mut tcp = quote.clone();
        let mut error = spec(Body::Error {
            kind,
            code: 1,
            rest: [0; 4],
            quote,
        })
        .build(ends)
        .bytes;
        let mut buffer = [0; 1280];
        let before = allocations();
        let headers = Packet::parse(&tcp).unwrap();
        let map = Translation {
            new_src: Some(ends.dst),
            new_dst: Some(ends.src),
            quoted: None,
        };
        rewrite(&mut tcp, &headers, &map, ChecksumState::Partial).unwrap();
        let headers = Packet::parse(&error).unwrap();
        let quoted = Some(Quoted {
            new_src: Some(ends.dst),
            new_dst: Some(ends.src),
        });
        rewrite(
            &mut error,
            &headers,
            &Translation { quoted, ..map },
            ChecksumState::Full,
        )
        .unwrap();
        unreachable(&mut buffer, ends.dst, &tcp, Unreachable::Host).unwrap();
        assert_eq!(allocations(), before);
        drop(vec![0u8; 8]);
        assert_ne!(allocations(), before, "the counter counts");
    }
}

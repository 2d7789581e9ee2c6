//! The answer to the most frequent question, octets to octets: one unsigned question for a set
//! that is there. Everything else is for the whole server, which would answer the same; a test
//! compares them. Pure.

use hickory_proto::rr::RecordType;
use hickory_proto::serialize::binary::BinEncodable as _;

use super::reply::UDP_PAYLOAD;
use crate::zone::Zone;

const HEADER: usize = 12;
/// An OPT record without options (RFC 6891 section 6.1.2).
const OPT: usize = 11;
/// A name that is the one at offset 12.
const SAME_NAME: [u8; 2] = [0xc0, HEADER as u8];

/// Writes the answer to the datagram `asked` into `out`, if it is such a question.
pub(super) fn answer(zone: &Zone, asked: &[u8], out: &mut Vec<u8>) -> Option<()> {
    // A query, whole, with one question and nothing else but perhaps an OPT record.
    let head = asked.get(..HEADER)?;
    let [0, 1, 0, 0, 0, 0, 0, extra @ (0 | 1)] = head[4..] else {
        return None;
    };
    if head[2] & 0b1111_1010 != 0 {
        return None;
    }
    let name = wire_name(&asked[HEADER..])?;
    let end = HEADER + name.len() + 4;
    let [kind_high, kind_low, 0, 1] = *asked.get(end - 4..end)? else {
        return None;
    };
    let kind = RecordType::from(u16::from_be_bytes([kind_high, kind_low]));
    // Names in data would have to be compressed, or not, as the whole server does it.
    if !matches!(kind, RecordType::SVCB | RecordType::A | RecordType::AAAA) {
        return None;
    }
    let edns = match (extra, asked.len() - end) {
        (0, 0) => None,
        (1, OPT) => Some(Edns::read(&asked[end..])?),
        _ => return None,
    };
    let set = zone.set_at(name, kind)?;

    out.clear();
    out.extend([head[0], head[1]]);
    // A response, authoritative; what was asked is repeated (RFC 1035 section 4.1.1).
    out.extend([0b1000_0100 | head[2] & 1, head[3] & 0b0001_0000]);
    out.extend([0, 1]);
    out.extend((set.data.len() as u16).to_be_bytes());
    out.extend([0, 0, 0, extra]);
    out.extend(&asked[HEADER..end]);
    for data in &set.data {
        let data = data.to_bytes().ok()?;
        out.extend(SAME_NAME);
        out.extend([kind_high, kind_low, 0, 1]);
        out.extend(set.ttl.to_be_bytes());
        out.extend((data.len() as u16).to_be_bytes());
        out.extend(data);
    }
    let limit = edns.map_or(512, |edns| edns.limit());
    if let Some(edns) = edns {
        edns.write(out);
    }
    // What is too long is cut by the whole server.
    (out.len() <= limit.into()).then_some(())
}

/// The uncompressed name that `octets` begin with (RFC 1035 section 3.1).
fn wire_name(octets: &[u8]) -> Option<&[u8]> {
    let mut at = 0;
    loop {
        match *octets.get(at)? {
            0 => return octets.get(..=at),
            label @ 1..=63 if at < 255 => at += 1 + usize::from(label),
            _ => return None,
        }
    }
}

/// What an asker says about itself.
#[derive(Clone, Copy)]
struct Edns {
    payload: u16,
    dnssec_ok: bool,
}

impl Edns {
    /// Of version 0 and without options.
    fn read(octets: &[u8]) -> Option<Self> {
        let [0, 0, 41, high, low, 0, 0, flags, 0, 0, 0] = *octets else {
            return None;
        };
        (flags & 0x7f == 0).then_some(Edns {
            payload: u16::from_be_bytes([high, low]),
            dnssec_ok: flags & 0x80 != 0,
        })
    }

    fn limit(self) -> u16 {
        self.payload.clamp(512, UDP_PAYLOAD)
    }

    fn write(self, out: &mut Vec<u8>) {
        let [high, low] = self.limit().to_be_bytes();
        let flags = if self.dnssec_ok { 0x80 } else { 0 };
        out.extend([0, 0, 41, high, low, 0, 0, flags, 0, 0, 0]);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use futures_util::FutureExt as _;
    use hickory_proto::op::{Edns as EdnsRecord, Message, MessageType, OpCode, Query};
    use hickory_proto::rr::rdata::{A, TXT};
    use hickory_proto::rr::{DNSClass, RData};
    use hickory_server::net::xfer::Protocol;
    use hickory_server::server::Request;

    use super::*;
    use crate::replay::Memory;
    use crate::server::reply::Way;
    use crate::server::{Handler, KeyRing};
    use crate::writer::Shared;
    use crate::zone::tests::{apex, name, put};

    /// Keeps what is answered.
    #[derive(Clone, Default)]
    struct Answers(Arc<Mutex<Vec<Vec<u8>>>>);

    impl Way for Answers {
        async fn send(&self, message: Vec<u8>) -> bool {
            self.0.lock().unwrap().push(message);
            true
        }
    }

    fn zone() -> Zone {
        let mut zone = Zone::new(&apex());
        let text = include_str!("../../tests/zones/small.txt");
        for record in crate::zonefile::parse(text, &name("map.example.")).unwrap() {
            put(&mut zone, &record.name.to_ascii(), record.data);
        }
        for n in 0..60 {
            let data = RData::A(A::new(192, 0, 2, n));
            let owner = name("many.map.example.");
            let held = zone.answer(&owner, RecordType::A).answers;
            let data = held.into_iter().map(|record| record.data).chain([data]);
            let set = crate::zone::RrSet {
                ttl: 5,
                data: data.collect(),
            };
            zone.apply(crate::zone::Change {
                sets: [((owner, RecordType::A), Some(set))].into(),
                ..Default::default()
            });
        }
        put(
            &mut zone,
            "map.example.",
            RData::TXT(TXT::new(vec!["x".to_owned()])),
        );
        zone
    }

    /// Every question, in many forms: what is answered quickly is what the whole server says.
    #[test]
    fn the_quick_answer_is_the_one_of_the_whole_server() {
        let zone = zone();
        let shared = Arc::new(Shared::new(zone.clone(), Memory::default()));
        let (queue, _orders) = tokio::sync::mpsc::channel(1);
        let push = crate::push::Push::new(shared.clone());
        let keys = Arc::new(KeyRing::default());
        let handler = Handler::new(shared, keys, queue, Arc::default(), push);
        let from = "192.0.2.1:5353".parse().unwrap();
        let names = [
            "10.2.0.192.h4.map.example.",
            "10.2.0.192.H4.Map.EXAMPLE.",
            "11.2.0.192.h4.map.example.",
            "2.0.192.h4.map.example.",
            "alias.map.example.",
            "many.map.example.",
            "map.example.",
            "elsewhere.example.",
            ".",
        ];
        let kinds = [1, 5, 6, 16, 28, 64, 65, 251, 252, 255, 65_280].map(RecordType::from);
        let mut quick = 0;
        for n in names {
            for kind in kinds {
                for form in 0..64_u8 {
                    let wire = question(n, kind, form);
                    let mut answered = Vec::new();
                    if answer(&zone, &wire, &mut answered).is_none() {
                        continue;
                    }
                    quick += 1;
                    let whole = Answers::default();
                    let request = Request::from_bytes(wire, from, Protocol::Udp).unwrap();
                    let responding = handler.respond(&request, &whole, 0);
                    responding.now_or_never().unwrap();
                    // It compresses less, so octets differ.
                    let read = |octets: &Vec<u8>| Message::from_vec(octets).unwrap();
                    let whole: Vec<Message> = whole.0.lock().unwrap().iter().map(read).collect();
                    assert_eq!(whole, [read(&answered)], "{n} {kind} {form}");
                }
            }
        }
        // SVCB and A at the first two names, in every form of class IN and with one question; of
        // the many only what fits.
        assert_eq!(quick, 2 * 2 * 32 + 8);
    }

    /// The bits of `form`: RD, CD, EDNS, DNSSEC OK, payload, and another class.
    fn question(owner: &str, kind: RecordType, form: u8) -> Vec<u8> {
        let bit = |n: u8| form & 1 << n != 0;
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = bit(0);
        message.metadata.checking_disabled = bit(1);
        if bit(2) {
            let mut edns = EdnsRecord::new();
            edns.set_dnssec_ok(bit(3));
            edns.set_max_payload(if bit(4) { 4096 } else { 100 });
            message.edns = Some(edns);
        }
        let mut query = Query::query(name(owner), kind);
        query.set_query_class(if bit(5) { DNSClass::CH } else { DNSClass::IN });
        message.add_query(query);
        message.to_vec().unwrap()
    }

    #[test]
    fn a_name_ends_where_it_ends() {
        assert_eq!(wire_name(b"\x01a\x00rest"), Some(&b"\x01a\x00"[..]));
        assert_eq!(wire_name(b"\x00"), Some(&b"\x00"[..]));
        for none in [&b""[..], b"\x01", b"\x01a", b"\xc0\x0c", b"\x40aa"] {
            assert_eq!(wire_name(none), None);
        }
        let long = [&b"\x3f"[..], &[b'x'; 63]].concat().repeat(5);
        assert_eq!(wire_name(&[&long[..], b"\x00"].concat()), None);
    }
}

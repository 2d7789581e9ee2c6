//! The answer to the most frequent question, octets to octets: one unsigned question for a set
//! that is there. Everything else is for the whole server, which would answer the same; a test
//! compares them. Pure.

use hickory_proto::rr::RecordType;
use hickory_proto::serialize::binary::BinEncodable as _;

use super::cookie::WHOLE as COOKIE;
use super::reply::UDP_PAYLOAD;
use crate::zone::Zone;

const HEADER: usize = 12;
/// An OPT record but for its options (RFC 6891 section 6.1.2).
const OPT: usize = 11;
/// A name that is the one at offset 12.
const SAME_NAME: [u8; 2] = [0xc0, HEADER as u8];

/// Such a question.
pub(super) struct Question<'a> {
    /// The header and the question.
    asked: &'a [u8],
    name: &'a [u8],
    kind: RecordType,
    edns: Option<Edns<'a>>,
}

/// Flags of an answer: a response, and authoritative or truncated (RFC 1035 section 4.1.1).
const AUTHORITATIVE: u8 = 0b1000_0100;
const TRUNCATED: u8 = 0b1000_0010;

impl<'a> Question<'a> {
    /// Reads the datagram `asked`, if it is such a question.
    pub(super) fn read(asked: &'a [u8]) -> Option<Self> {
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
        let (asked, rest) = asked.split_at(end);
        let edns = match (extra, rest) {
            (0, []) => None,
            (1, opt) => Some(Edns::read(opt)?),
            _ => return None,
        };
        Some(Question {
            asked,
            name,
            kind,
            edns,
        })
    }

    /// Its COOKIE option, the client's cookie or that with one like ours.
    pub(super) fn cookie(&self) -> Option<&'a [u8]> {
        self.edns?.cookie
    }

    /// Whether it asks for DNSSEC signatures.
    pub(super) fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }

    /// Writes the answer with this `cookie` into `out`, if the set is there.
    pub(super) fn answer(
        &self,
        zone: &Zone,
        cookie: Option<&[u8; COOKIE]>,
        out: &mut Vec<u8>,
    ) -> Option<()> {
        let set = zone.set_at(self.name, self.kind)?;
        self.begin(AUTHORITATIVE, set.data.len() as u16, out);
        for data in &set.data {
            let data = data.to_bytes().ok()?;
            out.extend(SAME_NAME);
            out.extend(u16::from(self.kind).to_be_bytes());
            out.extend([0, 1]);
            out.extend(set.ttl.to_be_bytes());
            out.extend((data.len() as u16).to_be_bytes());
            out.extend(data);
        }
        self.end(cookie, out);
        let limit = self.edns.map_or(512, Edns::limit);
        // What is too long is cut by the whole server.
        (out.len() <= limit.into()).then_some(())
    }

    /// Writes the answer that there is one by TCP.
    pub(super) fn truncate(&self, cookie: Option<&[u8; COOKIE]>, out: &mut Vec<u8>) {
        self.begin(TRUNCATED, 0, out);
        self.end(cookie, out);
    }

    fn begin(&self, flags: u8, answers: u16, out: &mut Vec<u8>) {
        out.clear();
        out.extend(&self.asked[..2]);
        // What was asked is repeated (RFC 1035 section 4.1.1).
        out.extend([flags | self.asked[2] & 1, self.asked[3] & 0b0001_0000]);
        out.extend([0, 1]);
        out.extend(answers.to_be_bytes());
        out.extend([0, 0, 0, self.edns.is_some().into()]);
        out.extend(&self.asked[HEADER..]);
    }

    fn end(&self, cookie: Option<&[u8; COOKIE]>, out: &mut Vec<u8>) {
        if let Some(edns) = self.edns {
            edns.write(cookie, out);
        }
    }
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
struct Edns<'a> {
    payload: u16,
    dnssec_ok: bool,
    cookie: Option<&'a [u8]>,
}

impl<'a> Edns<'a> {
    /// Of version 0 and without options but perhaps a cookie (RFC 6891 section 6.1.2).
    fn read(octets: &'a [u8]) -> Option<Self> {
        let (fixed, options) = octets.split_first_chunk::<OPT>()?;
        let [0, 0, 41, high, low, 0, 0, flags, 0, 0, length] = *fixed else {
            return None;
        };
        if usize::from(length) != options.len() || flags & 0x7f != 0 {
            return None;
        }
        let cookie = match options {
            [] => None,
            [0, 10, 0, length @ (8 | 24), cookie @ ..] if cookie.len() == usize::from(*length) => {
                Some(cookie)
            }
            _ => return None,
        };
        Some(Edns {
            payload: u16::from_be_bytes([high, low]),
            dnssec_ok: flags & 0x80 != 0,
            cookie,
        })
    }

    fn limit(self) -> u16 {
        self.payload.clamp(512, UDP_PAYLOAD)
    }

    fn write(self, cookie: Option<&[u8; COOKIE]>, out: &mut Vec<u8>) {
        let [high, low] = self.limit().to_be_bytes();
        let flags = if self.dnssec_ok { 0x80 } else { 0 };
        out.extend([0, 0, 41, high, low, 0, 0, flags, 0, 0]);
        match cookie {
            None => out.push(0),
            Some(cookie) => {
                out.extend([4 + COOKIE as u8, 0, 10, 0, COOKIE as u8]);
                out.extend(cookie);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};
    use std::num::NonZeroU32;
    use std::sync::Arc;

    use futures_util::FutureExt as _;
    use hickory_proto::op::{Edns as EdnsRecord, Message, MessageType, OpCode, Query};
    use hickory_proto::rr::rdata::opt::EdnsOption;
    use hickory_proto::rr::rdata::{A, TXT};
    use hickory_proto::rr::{DNSClass, RData};
    use hickory_server::net::xfer::Protocol;
    use hickory_server::server::Request;

    use super::*;
    use crate::config::Keys;
    use crate::past::Past;
    use crate::policy::Scope;
    use crate::push::Push;
    use crate::replay::Memory;
    use crate::server::cookie::{Cookie, Secrets};
    use crate::server::exercise::Answers;
    use crate::server::limit::Verdict;
    use crate::server::{Handler, InForce, KeyRing};
    use crate::writer::Shared;
    use crate::zone::tests::{apex, name, put};

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const NOW: u64 = 1_800_000_000;

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

    const SECRET: [u8; 16] = [5; 16];

    /// A server that anybody may ask, up to so many times a second.
    fn server(zone: &Zone, responses_per_second: u32) -> Handler {
        let shared = Arc::new(Shared::new(
            zone.clone(),
            Memory::default(),
            Past::default(),
        ));
        let (queue, _orders) = tokio::sync::mpsc::channel(1);
        let keys = KeyRing::new(InForce {
            keys: Keys::new(),
            private: Scope::Prefixes(Vec::new()),
            cookies: Secrets::new(&SECRET, None),
            responses_per_second: NonZeroU32::new(responses_per_second),
            signer: None,
        });
        let push = Push::new(shared.clone());
        Handler::new(shared, Arc::new(keys), queue, Arc::default(), push)
    }

    /// What the whole server says.
    fn ask(handler: &Handler, wire: &[u8]) -> Vec<Message> {
        let from = SocketAddr::new(CLIENT, 5353);
        let request = Request::from_bytes(wire.to_vec(), from, Protocol::Udp).unwrap();
        let answers = Answers::default();
        let responding = handler.respond(&request, &answers, NOW);
        responding.now_or_never().unwrap();
        // It compresses less, so octets differ.
        let read = |octets: &Vec<u8>| Message::from_vec(octets).unwrap();
        answers.all().iter().map(read).collect()
    }

    fn cookie_of(question: &Question) -> Cookie {
        let octets = question.cookie();
        octets.map_or(Cookie::None, |octets| {
            Secrets::new(&SECRET, None).read(octets, CLIENT, NOW)
        })
    }

    /// Every question, in many forms: what is answered quickly is what the whole server says.
    #[test]
    fn the_quick_answer_is_the_one_of_the_whole_server() {
        let zone = zone();
        let handler = server(&zone, 0);
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
                for form in 0..=255 {
                    let wire = question(n, kind, form);
                    let mut answered = Vec::new();
                    let answer = Question::read(&wire).and_then(|question| {
                        let cookie = cookie_of(&question);
                        question.answer(&zone, cookie.answer(), &mut answered)
                    });
                    if answer.is_none() {
                        continue;
                    }
                    quick += 1;
                    let answered = Message::from_vec(&answered).unwrap();
                    assert_eq!(ask(&handler, &wire), [answered], "{n} {kind} {form}");
                }
            }
        }
        // SVCB and A at the first two names, in every form of class IN and with one question; of
        // the many only what fits.
        assert_eq!(quick, 2 * 2 * 128 + 32);
    }

    /// The same of what is said to those who ask too often.
    #[test]
    fn what_is_too_much_is_truncated_as_by_the_whole_server() {
        let zone = zone();
        for form in 0..64 {
            let wire = question("10.2.0.192.h4.map.example.", RecordType::SVCB, form);
            let Some(question) = Question::read(&wire) else {
                continue;
            };
            let mut truncated = Vec::new();
            question.truncate(cookie_of(&question).answer(), &mut truncated);
            let truncated = Message::from_vec(&truncated).unwrap();
            assert!(truncated.metadata.truncation && truncated.answers.is_empty());
            let handler = server(&zone, 1);
            assert!(!ask(&handler, &wire)[0].metadata.truncation);
            assert_eq!(ask(&handler, &wire), [truncated], "{form}");
            assert_eq!(ask(&handler, &wire), []);

            let handler = server(&zone, 1);
            let mut out = Vec::new();
            let verdicts = [(); 3].map(|()| handler.quickly(&wire, CLIENT, &mut out));
            let [answer, truncate, drop] = [Verdict::Answer, Verdict::Truncate, Verdict::Drop];
            assert_eq!(verdicts, [answer, truncate, drop].map(Some));
        }
    }

    /// The bits of `form`: RD, CD, EDNS, DNSSEC OK, payload, another class, and a cookie, the
    /// client's alone or with one that is not ours.
    fn question(owner: &str, kind: RecordType, form: u8) -> Vec<u8> {
        let bit = |n: u8| form & 1 << n != 0;
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = bit(0);
        message.metadata.checking_disabled = bit(1);
        if bit(2) {
            let mut edns = EdnsRecord::new();
            edns.set_dnssec_ok(bit(3));
            edns.set_max_payload(if bit(4) { 4096 } else { 100 });
            if bit(6) {
                let octets = vec![9; if bit(7) { 24 } else { 8 }];
                edns.options_mut().insert(EdnsOption::Unknown(10, octets));
            }
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

//! The messages of DNS Stateful Operations (RFC 8490) and of DNS Push Notifications (RFC 8765),
//! for both sides. Pure.
//!
//! They have a header like all of DNS, all counts of which are 0, and behind it TLVs, of which the
//! first says what the message is about. A message with an identifier is a request, one without is
//! unidirectional.
//!
//! A [`Subscription`] to everything below a name is ours: a SUBSCRIBE with another number, one of
//! those for local use (RFC 8490 section 10.3), so that a server which does not know it says so
//! (DSOTYPENI).
//!
//! # Limitations
//! Names are sent uncompressed, and read either way. Additional TLVs are passed over.

use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};
use hickory_proto::serialize::binary::{
    BinDecodable as _, BinDecoder, BinEncodable as _, BinEncoder, NameEncoding,
};

/// The opcode (RFC 8490 section 5.4).
pub const OPCODE: u8 = 6;

/// The code that says that a TLV is not known (RFC 8490 section 10.2).
pub const DSOTYPENI: u8 = 11;

/// Largest PUSH message (RFC 8765 section 6.3.1): whatever is in it can be pointed at.
pub const MAX_PUSH: usize = 16_382;

/// TTL of a record that is gone (RFC 8765 section 6.3.1).
const GONE: u32 = u32::MAX;
/// TTL of a set that is gone, or of all at a name.
const ALL_GONE: u32 = u32::MAX - 1;
/// Largest TTL of a record that is there.
const MAX_TTL: u32 = u32::MAX >> 1;

const HEADER: usize = 12;

const KEEPALIVE: u16 = 1;
const RETRY_DELAY: u16 = 2;
const SUBSCRIBE: u16 = 0x40;
const PUSH: u16 = 0x41;
const UNSUBSCRIBE: u16 = 0x42;
const RECONFIRM: u16 = 0x43;
const SUBSCRIBE_BELOW: u16 = 0xf840;

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Wants a response.
    Request {
        /// Not 0.
        id: u16,
        /// What it is about.
        tlv: Tlv,
    },
    /// Wants none.
    Unidirectional {
        /// Why, in a [`Tlv::RetryDelay`]; else NOERROR.
        code: u8,
        /// What it is about.
        tlv: Tlv,
    },
    /// To a request.
    Response {
        /// That of the request.
        id: u16,
        /// What came of it.
        code: u8,
        /// What else is to be said.
        tlv: Option<Tlv>,
    },
}

/// What messages are about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tlv {
    /// How long a session may be idle (RFC 8490 section 7.1).
    Keepalive {
        /// Without a subscription.
        inactivity: Duration,
        /// Without any message.
        interval: Duration,
    },
    /// The session is to be closed, and not to be opened again before so long (section 7.2).
    RetryDelay(Duration),
    /// Asks for what is there and for changes of it (RFC 8765 section 6.2).
    Subscribe(Subscription),
    /// What has changed (section 6.3).
    Push(Vec<News>),
    /// Wants no more of it; the identifier is that of the SUBSCRIBE (section 6.4).
    Unsubscribe(u16),
    /// Doubts that a record is still so (section 6.5).
    Reconfirm,
    /// Anything else.
    Unknown(u16),
}

/// What can be subscribed to: the set of a name and a type.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subscription {
    /// The name, in lower case.
    pub name: Name,
    /// The type; ANY stands for all.
    pub kind: RecordType,
    /// The class.
    pub class: u16,
    /// The same type at every name below it as well.
    pub below: bool,
}

impl Subscription {
    /// In class IN, at `name` alone.
    pub fn at(name: &Name, kind: RecordType) -> Self {
        Subscription {
            name: name.to_lowercase(),
            kind,
            class: DNSClass::IN.into(),
            below: false,
        }
    }

    /// In class IN, at `name` and below it.
    pub fn below(name: &Name, kind: RecordType) -> Self {
        Subscription {
            below: true,
            ..Subscription::at(name, kind)
        }
    }

    /// Whether it is about such a set.
    pub fn concerns(&self, name: &Name, kind: RecordType) -> bool {
        self.covers(name) && is_of(self.kind, kind)
    }

    /// Whether it is about anything at `name`.
    pub fn covers(&self, name: &Name) -> bool {
        match self.below {
            true => self.name.zone_of(name),
            false => self.name == *name,
        }
    }
}

/// Whether a subscription to sets of type `wanted` is about those of `kind`. An alias stands for
/// whatever is asked for.
pub(crate) fn is_of(wanted: RecordType, kind: RecordType) -> bool {
    wanted == kind
        || matches!(
            (wanted, kind),
            (RecordType::ANY, _) | (_, RecordType::CNAME)
        )
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// This record is there.
    Added(Record),
    /// It is not any more.
    Removed(Record),
    /// No record of that name and type is there any more; of no type if it is ANY.
    Cleared(Name, RecordType),
}

/// Why a message cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A request: it is to be answered with this code.
    Refuse {
        /// That of the request.
        id: u16,
        /// What to answer.
        code: u8,
    },
    /// Anything else: the session is to be aborted (RFC 8490 section 5.4).
    Fatal(&'static str),
}

/// Whether octets are a message of this kind, as far as their header says.
pub fn is_dso(octets: &[u8]) -> bool {
    octets.len() >= HEADER && octets[2] >> 3 & 0xf == OPCODE
}

impl Message {
    /// Reads a message; an unknown TLV in a request is for the server to refuse.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn parse(octets: &[u8]) -> Result<Self, Fault> {
        if !is_dso(octets) {
            return Err(Fault::Fatal("not a DSO message"));
        }
        let id = u16::from_be_bytes([octets[0], octets[1]]);
        let response = octets[2] & 0x80 != 0;
        let code = octets[3] & 0xf;
        let refuse = |what| match (response, id) {
            (false, id @ 1..) => Fault::Refuse {
                id,
                code: octet(ResponseCode::FormErr),
            },
            _ => Fault::Fatal(what),
        };
        if octets[4..HEADER].iter().any(|octet| *octet != 0) {
            return Err(refuse("a DSO message with counts"));
        }
        let mut tlvs = Vec::new();
        let mut at = HEADER;
        while at < octets.len() {
            let header = octets.get(at..at + 4).and_then(|h| h.first_chunk::<4>());
            let [t1, t0, l1, l0] = *header.ok_or_else(|| refuse("a TLV without header"))?;
            let from = at + 4;
            at = from + usize::from(u16::from_be_bytes([l1, l0]));
            if at > octets.len() {
                return Err(refuse("a TLV that is cut off"));
            }
            tlvs.push((u16::from_be_bytes([t1, t0]), from..at));
        }
        let primary = match tlvs.into_iter().next() {
            Some((kind, place)) => {
                let tlv = Tlv::parse(kind, octets, place.start, place.end);
                Some(tlv.ok_or_else(|| refuse("a TLV that cannot be read"))?)
            }
            None => None,
        };
        match (response, id, primary) {
            (true, 0, _) => Err(Fault::Fatal("a response to nothing")),
            (true, id, tlv) => Ok(Message::Response { id, code, tlv }),
            (false, _, None) => Err(refuse("a DSO message about nothing")),
            (false, 0, Some(tlv)) => Ok(Message::Unidirectional { code, tlv }),
            (false, id, Some(tlv)) => Ok(Message::Request { id, tlv }),
        }
    }

    /// As it goes over the wire, without the length before it; `None` if it is too long, or a
    /// name is.
    pub fn emit(&self) -> Option<Vec<u8>> {
        let (id, response, code, tlv) = match self {
            Message::Request { id, tlv } => (*id, 0, 0, Some(tlv)),
            Message::Unidirectional { code, tlv } => (0, 0, *code, Some(tlv)),
            Message::Response { id, code, tlv } => (*id, 0x80, *code, tlv.as_ref()),
        };
        let mut octets = vec![0; HEADER];
        octets[..2].copy_from_slice(&id.to_be_bytes());
        octets[2] = response | OPCODE << 3;
        octets[3] = code;
        if let Some(tlv) = tlv {
            tlv.emit(&mut octets)?;
        }
        Some(octets)
    }
}

/// A response code as the four bits of the header.
pub fn octet(code: ResponseCode) -> u8 {
    u16::from(code) as u8 & 0xf
}

impl Tlv {
    /// Reads one of `octets`, the whole message: names may point anywhere before them.
    fn parse(kind: u16, octets: &[u8], from: usize, to: usize) -> Option<Self> {
        let data = &octets[from..to];
        let mut decoder = BinDecoder::new(&octets[..to]).clone(from.try_into().ok()?);
        match kind {
            KEEPALIVE => {
                let [a, b] = *data.as_chunks::<4>().0.first_chunk::<2>()?;
                let whole = data.len() == 8;
                whole.then_some(Tlv::Keepalive {
                    inactivity: millis(a),
                    interval: millis(b),
                })
            }
            RETRY_DELAY => Some(Tlv::RetryDelay(millis(data.try_into().ok()?))),
            SUBSCRIBE | SUBSCRIBE_BELOW => {
                let below = kind == SUBSCRIBE_BELOW;
                Some(Tlv::Subscribe(Subscription::parse(&mut decoder, below)?))
            }
            PUSH => {
                let mut news = Vec::new();
                while !decoder.is_empty() {
                    // What has a TTL that means nothing is to be passed over.
                    news.extend(News::of(Record::read(&mut decoder).ok()?));
                }
                Some(Tlv::Push(news))
            }
            UNSUBSCRIBE => Some(Tlv::Unsubscribe(u16::from_be_bytes(data.try_into().ok()?))),
            RECONFIRM => Some(Tlv::Reconfirm),
            unknown => Some(Tlv::Unknown(unknown)),
        }
    }

    fn emit(&self, octets: &mut Vec<u8>) -> Option<()> {
        let kind = match self {
            Tlv::Keepalive { .. } => KEEPALIVE,
            Tlv::RetryDelay(_) => RETRY_DELAY,
            Tlv::Subscribe(Subscription { below: false, .. }) => SUBSCRIBE,
            Tlv::Subscribe(_) => SUBSCRIBE_BELOW,
            Tlv::Push(_) => PUSH,
            Tlv::Unsubscribe(_) => UNSUBSCRIBE,
            Tlv::Reconfirm => RECONFIRM,
            Tlv::Unknown(kind) => *kind,
        };
        octets.extend(kind.to_be_bytes());
        octets.extend([0; 2]);
        let from = octets.len();
        match self {
            Tlv::Keepalive {
                inactivity,
                interval,
            } => {
                octets.extend(as_millis(*inactivity));
                octets.extend(as_millis(*interval));
            }
            Tlv::RetryDelay(delay) => octets.extend(as_millis(*delay)),
            Tlv::Subscribe(subscription) => subscription.emit(octets)?,
            Tlv::Push(news) => news.iter().try_for_each(|news| news.emit(octets))?,
            Tlv::Unsubscribe(id) => octets.extend(id.to_be_bytes()),
            Tlv::Reconfirm | Tlv::Unknown(_) => {}
        }
        let length = u16::try_from(octets.len() - from).ok()?;
        octets[from - 2..from].copy_from_slice(&length.to_be_bytes());
        Some(())
    }
}

impl Subscription {
    fn parse(decoder: &mut BinDecoder<'_>, below: bool) -> Option<Self> {
        let mut name = Name::read(decoder).ok()?.to_lowercase();
        name.set_fqdn(true);
        let kind = RecordType::read(decoder).ok()?;
        let class = decoder.read_u16().ok()?.unverified(/* any is a class */);
        decoder.is_empty().then_some(Subscription {
            name,
            kind,
            class,
            below,
        })
    }

    fn emit(&self, octets: &mut Vec<u8>) -> Option<()> {
        octets.extend(self.name.to_bytes().ok()?);
        octets.extend(u16::from(self.kind).to_be_bytes());
        octets.extend(self.class.to_be_bytes());
        Some(())
    }
}

impl News {
    fn of(mut record: Record) -> Option<Self> {
        record.name = record.name.to_lowercase();
        match record.ttl {
            0..=MAX_TTL => Some(News::Added(record)),
            GONE => Some(News::Removed(record)),
            ALL_GONE => {
                let kind = record.record_type();
                Some(News::Cleared(record.name, kind))
            }
            _ => None,
        }
    }

    /// As it stands in a PUSH.
    pub(crate) fn emit(&self, octets: &mut Vec<u8>) -> Option<()> {
        let mut record = match self {
            News::Added(record) | News::Removed(record) => record.clone(),
            News::Cleared(name, kind) => Record::update0(name.clone(), ALL_GONE, *kind),
        };
        match self {
            News::Added(_) => record.ttl = record.ttl.min(MAX_TTL),
            News::Removed(_) => record.ttl = GONE,
            News::Cleared(..) => {}
        }
        let mut wire = Vec::new();
        let mut encoder = BinEncoder::new(&mut wire);
        encoder.set_name_encoding(NameEncoding::Uncompressed);
        record.emit(&mut encoder).ok()?;
        octets.extend(wire);
        Some(())
    }
}

fn millis(octets: [u8; 4]) -> Duration {
    Duration::from_millis(u32::from_be_bytes(octets).into())
}

fn as_millis(duration: Duration) -> [u8; 4] {
    let millis = u32::try_from(duration.as_millis());
    millis.unwrap_or(u32::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::tests::name;
    use hickory_proto::rr::RData;
    use hickory_proto::rr::rdata::{A, TXT};
    use proptest::prelude::*;

    fn record(owner: &str, data: RData) -> Record {
        Record::from_rdata(name(owner), 5, data)
    }

    fn all() -> Vec<Message> {
        let home = name("10.2.0.192.h4.Map.example.");
        let a = record("a.map.example.", RData::A(A::new(192, 0, 2, 1)));
        let mut gone = record("b.map.example.", RData::TXT(TXT::new(vec!["x".to_owned()])));
        gone.ttl = GONE;
        let request = |id, tlv| Message::Request { id, tlv };
        let unidirectional = |tlv| Message::Unidirectional { code: 0, tlv };
        vec![
            request(
                1,
                Tlv::Keepalive {
                    inactivity: Duration::from_millis(15_000),
                    interval: Duration::from_secs(60),
                },
            ),
            request(2, Tlv::Subscribe(Subscription::at(&home, RecordType::SVCB))),
            request(
                65_535,
                Tlv::Subscribe(Subscription::below(&home, RecordType::ANY)),
            ),
            request(3, Tlv::Unknown(0xf841)),
            unidirectional(Tlv::Push(vec![
                News::Cleared(name("c.map.example."), RecordType::SVCB),
                News::Added(a),
                News::Removed(gone),
                News::Cleared(name("c.map.example."), RecordType::ANY),
            ])),
            unidirectional(Tlv::Unsubscribe(2)),
            Message::Unidirectional {
                code: 2,
                tlv: Tlv::RetryDelay(Duration::from_millis(7)),
            },
            Message::Response {
                id: 2,
                code: DSOTYPENI,
                tlv: None,
            },
        ]
    }

    #[test]
    fn messages_read_as_they_were_written() {
        for message in all() {
            let octets = message.emit().unwrap();
            assert!(is_dso(&octets));
            assert_eq!(Message::parse(&octets), Ok(message));
        }
    }

    /// The figures of RFC 8765 sections 6.2.1 and 6.4.1, written by hand.
    #[test]
    fn the_wire_is_that_of_the_rfc() {
        let subscribe = [
            &[0x12, 0x34, 0x30, 0, 0, 0, 0, 0, 0, 0, 0, 0][..],
            &[0, 0x40, 0, 17],
            b"\x03map\x07example\x00\x00\x40\x00\x01",
        ]
        .concat();
        let message = Message::Request {
            id: 0x1234,
            tlv: Tlv::Subscribe(Subscription::at(&name("map.example."), RecordType::SVCB)),
        };
        assert_eq!(message.emit(), Some(subscribe));
        let unsubscribe = [
            0, 0, 0x30, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x42, 0, 2, 0x12, 0x34,
        ];
        let tlv = Tlv::Unsubscribe(0x1234);
        let message = Message::Unidirectional { code: 0, tlv };
        assert_eq!(message.emit().as_deref(), Some(&unsubscribe[..]));
    }

    #[test]
    fn names_may_be_compressed_and_padding_may_follow() {
        let message = [
            &[0, 0, 0x30, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x41, 0, 39][..],
            b"\x01a\x03map\x07example\x00\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\xc0\x00\x02\x01",
            b"\xc0\x12\x00\xff\x00\xff\xff\xff\xff\xfe\x00\x00",
            b"\x00\x03\x00\x04\x00\x00\x00\x00",
        ];
        let mut octets = message.concat();
        // The pointer and what follows it are 12 octets.
        octets[15] = (octets.len() - 16 - 8) as u8;
        let parsed = Message::parse(&octets);
        let Ok(Message::Unidirectional {
            tlv: Tlv::Push(news),
            ..
        }) = &parsed
        else {
            panic!("{parsed:?}");
        };
        let a = record("a.map.example.", RData::A(A::new(192, 0, 2, 1)));
        let cleared = News::Cleared(name("map.example."), RecordType::ANY);
        assert_eq!(news, &[News::Added(a), cleared]);
    }

    #[test]
    fn what_cannot_be_read_is_refused_or_fatal() {
        let whole = all()[1].emit().unwrap();
        let refuse = Err(Fault::Refuse { id: 2, code: 1 });
        for length in HEADER..whole.len() {
            assert_eq!(Message::parse(&whole[..length]), refuse, "{length}");
        }
        let mut counted = whole.clone();
        counted[5] = 1;
        assert_eq!(Message::parse(&counted), refuse);
        counted[1] = 0;
        assert!(matches!(Message::parse(&counted), Err(Fault::Fatal(_))));
        let mut answer = whole;
        answer[1] = 0;
        answer[2] |= 0x80;
        assert!(matches!(Message::parse(&answer), Err(Fault::Fatal(_))));
    }

    proptest! {
        #[test]
        fn anything_may_come(octets in proptest::collection::vec(any::<u8>(), 0..200), n in 0usize..8) {
            let _any = Message::parse(&octets);
            // The same behind the beginning of something true.
            let mut begun = all()[n].emit().unwrap();
            begun.truncate(HEADER + 4 + usize::from(octets.first().copied().unwrap_or(0)) % 24);
            begun.extend(&octets);
            if let Ok(message) = Message::parse(&begun) {
                let again = message.emit().map(|octets| Message::parse(&octets));
                prop_assert!(again.is_none_or(|again| again.is_ok()));
            }
        }
    }
}

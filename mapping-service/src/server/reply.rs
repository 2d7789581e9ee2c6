//! An answer on its way out: size, truncation, signature.

use std::future::Future;

use hickory_proto::op::{Edns, Metadata, ResponseCode};
use hickory_proto::rr::Record;
use hickory_proto::rr::rdata::TSIG;
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};
use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;
use hickory_server::zone_handler::MessageResponseBuilder;

use super::Asker;
use crate::dnssec::COMPACT_OK;

/// Largest UDP answer, whatever the asker offers: fits any path unfragmented
/// (RFC 9715).
pub(super) const UDP_PAYLOAD: u16 = 1232;

/// What to say.
#[derive(Default)]
pub(super) struct Reply {
    pub(super) code: ResponseCode,
    pub(super) authoritative: bool,
    /// Compact Answers OK (RFC 9824 section 5.1).
    pub(super) compact_ok: bool,
    /// There is more by TCP.
    pub(super) truncated: bool,
    pub(super) answers: Vec<Record>,
    /// What to answer instead if `answers` do not fit and being truncated means nothing.
    pub(super) shorter: Vec<Record>,
    pub(super) authority: Vec<Record>,
}

impl Reply {
    /// An answer without records.
    pub(super) fn code(code: ResponseCode) -> Self {
        Reply {
            code,
            ..Reply::default()
        }
    }

    /// That the answer is to be had by TCP.
    pub(super) fn by_tcp() -> Self {
        Reply {
            truncated: true,
            ..Reply::default()
        }
    }
}

/// How answers get to whoever has asked.
pub(super) trait Way: Sync {
    /// Sends one message; `false` if the asker is gone.
    fn send(&self, message: Vec<u8>) -> impl Future<Output = bool> + Send;
}

/// What was sent.
pub(super) struct Sent {
    /// Its MAC, which a further message continues.
    pub(super) mac: Vec<u8>,
    pub(super) truncated: bool,
    /// The shorter answer was given.
    pub(super) shortened: bool,
}

/// Sends `reply` to `request` with the cookie of its `asker`, signed as its signature demands. `prior` is set for
/// further messages of one answer. `None` if it could not be sent.
pub(super) async fn send(
    request: &Request,
    way: &impl Way,
    mut reply: Reply,
    asker: &Asker,
    prior: Option<&[u8]>,
    now: u64,
) -> Option<Sent> {
    let limit = limit(request);
    let edns = request.edns.as_ref().map(|asked| {
        let mut edns = Edns::new();
        edns.set_max_payload(limit.clamp(512, UDP_PAYLOAD));
        edns.set_dnssec_ok(asked.flags().dnssec_ok);
        if reply.compact_ok {
            edns.flags_mut().z |= COMPACT_OK;
        }
        if let Some(cookie) = asker.cookie.answer() {
            let cookie = EdnsOption::Unknown(EdnsCode::Cookie.into(), cookie.to_vec());
            edns.options_mut().insert(cookie);
        }
        edns
    });
    let mut meta = Metadata::response_from_request(&request.metadata);
    meta.response_code = reply.code;
    meta.authoritative = reply.authoritative;
    meta.truncation = reply.truncated;
    let mut shortened = false;
    loop {
        let mut message = Vec::with_capacity(512);
        let response = MessageResponseBuilder::new(&request.queries, edns.as_ref());
        let (answers, authority) = (reply.answers.iter(), reply.authority.iter());
        let response = response.build(meta, answers, authority, [], []);
        let encoded = response.destructive_emit(&mut BinEncoder::new(&mut message));
        let mut mac = Vec::new();
        let whole = encoded.is_ok_and(|info| info.truncation == meta.truncation);
        if whole && let Some(tsig) = asker.auth.sign(&message, prior, now).ok()? {
            append(&mut message, &tsig)?;
            mac = tsig.data.mac;
        }
        if whole && (message.len() <= limit.into() || meta.truncation) {
            return way.send(message).await.then_some(Sent {
                mac,
                truncated: meta.truncation,
                shortened,
            });
        }
        if meta.truncation {
            return None;
        }
        if !reply.shorter.is_empty() {
            reply.answers = std::mem::take(&mut reply.shorter);
            shortened = true;
            continue;
        }
        // Say so, and leave everything out: a part of a set is no set.
        meta.truncation = true;
        reply.answers.clear();
        reply.authority.clear();
    }
}

/// A signature is the last record of a message (RFC 8945 section 5.1).
fn append(message: &mut Vec<u8>, tsig: &Record<TSIG>) -> Option<()> {
    let [high, low] = message.get(10..12)?.try_into().ok()?;
    let additional = u16::from_be_bytes([high, low]).checked_add(1)?;
    message[10..12].copy_from_slice(&additional.to_be_bytes());
    message.extend(tsig.to_bytes().ok()?);
    Some(())
}

fn limit(request: &Request) -> u16 {
    match (request.protocol(), &request.edns) {
        (Protocol::Udp, Some(_)) => request.max_payload().clamp(512, UDP_PAYLOAD),
        (Protocol::Udp, None) => 512,
        _ => u16::MAX,
    }
}

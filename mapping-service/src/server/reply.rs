//! An answer on its way out: size, truncation, signature.

use hickory_proto::op::{Edns, Header, HeaderCounts, Metadata, ResponseCode};
use hickory_proto::rr::Record;
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;

use super::auth::Auth;

/// Largest UDP answer, whatever the asker offers: fits any path unfragmented
/// (RFC 9715).
pub(super) const UDP_PAYLOAD: u16 = 1232;

/// What to say.
#[derive(Default)]
pub(super) struct Reply {
    pub(super) code: ResponseCode,
    pub(super) authoritative: bool,
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
}

/// What was sent.
pub(super) struct Sent {
    pub(super) info: ResponseInfo,
    /// Its MAC, which a further message continues.
    pub(super) mac: Vec<u8>,
    pub(super) truncated: bool,
    /// The shorter answer was given.
    pub(super) shortened: bool,
}

/// Sends `reply` to `request`, signed as `auth` demands. `prior` is set for
/// further messages of one answer. `None` if it could not be sent.
pub(super) async fn send<R: ResponseHandler>(
    request: &Request,
    mut handle: R,
    mut reply: Reply,
    auth: &Auth,
    prior: Option<&[u8]>,
    now: u64,
) -> Option<Sent> {
    let limit = limit(request);
    let edns = request.edns.as_ref().map(|asked| {
        let mut edns = Edns::new();
        edns.set_max_payload(limit.clamp(512, UDP_PAYLOAD));
        edns.set_dnssec_ok(asked.flags().dnssec_ok);
        edns
    });
    let mut meta = Metadata::response_from_request(&request.metadata);
    meta.response_code = reply.code;
    meta.authoritative = reply.authoritative;
    let mut shortened = false;
    loop {
        let build = || {
            MessageResponseBuilder::new(&request.queries, edns.as_ref()).build(
                meta,
                reply.answers.iter(),
                reply.authority.iter(),
                [],
                [],
            )
        };
        let mut unsigned = Vec::new();
        let mut encoder = BinEncoder::new(&mut unsigned);
        let encoded = build().destructive_emit(&mut encoder).ok();
        let fitted = match encoded {
            Some(info) if info.truncation == meta.truncation => {
                let tsig = auth.sign(&unsigned, prior, now).ok()?;
                let tsig_len = tsig
                    .as_ref()
                    .map_or(Ok(0), |t| t.to_bytes().map(|b| b.len()));
                let fits = unsigned.len() + tsig_len.ok()? <= limit.into();
                (fits || meta.truncation).then_some(tsig)
            }
            _ => None,
        };
        let Some(tsig) = fitted else {
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
            continue;
        };
        let mac = tsig.as_ref().map_or(Vec::new(), |t| t.data.mac.clone());
        let mut response = build();
        if let Some(tsig) = tsig {
            response.set_signature(tsig);
        }
        let info = handle.send_response(response).await.ok()?;
        return Some(Sent {
            info,
            mac,
            truncated: meta.truncation,
            shortened,
        });
    }
}

fn limit(request: &Request) -> u16 {
    match (request.protocol(), &request.edns) {
        (Protocol::Udp, Some(_)) => request.max_payload().clamp(512, UDP_PAYLOAD),
        (Protocol::Udp, None) => 512,
        _ => u16::MAX,
    }
}

/// For hickory-server's own bookkeeping where nothing was sent.
pub(super) fn silence(request: &Request, code: ResponseCode) -> ResponseInfo {
    let mut metadata = Metadata::response_from_request(&request.metadata);
    metadata.response_code = code;
    ResponseInfo::from(Header {
        metadata,
        counts: HeaderCounts::default(),
    })
}

//! Zone transfer (RFC 5936): the SOA, everything, the SOA again, in as many
//! messages as it takes, each signed (RFC 8945 section 5.3.1).
//!
//! # Limitations
//! The zone is copied once for each transfer, so that all of it is of one moment.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Record, RecordType};
use hickory_proto::serialize::binary::BinEncodable;
use hickory_server::server::{Request, ResponseHandler, ResponseInfo};

use super::auth::Auth;
use super::reply::{self, Reply, silence};
use crate::writer::Shared;

/// Octets of records per message, before name compression.
const CHUNK: usize = 48 << 10;

pub(super) async fn send<R: ResponseHandler>(
    request: &Request,
    handle: R,
    shared: &Shared,
    auth: &Auth,
    now: u64,
) -> ResponseInfo {
    let mut info = silence(request, ResponseCode::ServFail);
    let mut prior: Option<Vec<u8>> = None;
    for answers in messages(shared.read(|zone| zone.records().collect())) {
        let reply = Reply {
            authoritative: true,
            answers,
            ..Reply::default()
        };
        let sent = reply::send(request, handle.clone(), reply, auth, prior.as_deref(), now).await;
        let Some(sent) = sent else {
            tracing::warn!(from = %request.src(), "transfer broken off: the asker is gone");
            return info;
        };
        info = sent.info;
        prior = Some(sent.mac);
    }
    tracing::info!(from = %request.src(), "zone transferred");
    info
}

/// The records of the zone, SOA first and last, cut into messages.
fn messages(zone: Vec<Record>) -> Vec<Vec<Record>> {
    let is_soa = |r: &Record| r.record_type() == RecordType::SOA;
    let soa = zone.iter().find(|r| is_soa(r)).cloned();
    let inner = zone.into_iter().filter(|r| !is_soa(r));
    let all = soa.clone().into_iter().chain(inner).chain(soa);
    let mut messages = vec![Vec::new()];
    let mut size = 0;
    for record in all {
        let len = record.to_bytes().map_or(CHUNK, |bytes| bytes.len());
        if size + len > CHUNK && size > 0 {
            messages.push(Vec::new());
            size = 0;
        }
        size += len;
        if let Some(last) = messages.last_mut() {
            last.push(record);
        }
    }
    messages
}

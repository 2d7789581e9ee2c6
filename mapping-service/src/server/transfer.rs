//! Zone transfer, in as many messages as it takes, each signed (RFC 8945 section 5.3.1): the
//! whole zone (RFC 5936), or what has changed since the asker's copy (RFC 1995).
//!
//! # Limitations
//! The zone is copied once for each transfer, so that all of it is of one moment.

use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::BinEncodable;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;

use super::Asker;
use super::counters::{Cause, Counters};
use super::reply::{self, Reply, UDP_PAYLOAD, Way};
use crate::history::{Difference, History};
use crate::writer::Shared;
use crate::zone::{View as _, Zone, serial_newer};

/// Octets of records per message, before name compression.
const CHUNK: usize = 48 << 10;

/// Changes that are worth a try over UDP: of any more not even the record headers fit.
const UDP_CHANGES: usize = UDP_PAYLOAD as usize / 12;

/// What to send.
struct Content {
    cause: Cause,
    /// The first and the last are the zone's SOA.
    records: Vec<Record>,
    /// To be sent if those do not fit a datagram.
    shorter: Vec<Record>,
}

/// The serial of the asker's copy, which an IXFR question names in a SOA of the zone in its
/// authority section (RFC 1995 section 3); `None` if it does not.
pub(super) fn serial_of(request: &Request) -> Option<u32> {
    let ([asked], [soa]) = (request.queries.queries(), &request.authorities[..]) else {
        return None;
    };
    match &soa.data {
        RData::SOA(data) if soa.name == Name::from(asked.name()) => Some(data.serial),
        _ => None,
    }
}

/// Sends the zone, or what has changed of it `since` that serial.
pub(super) async fn send(
    request: &Request,
    way: &impl Way,
    (shared, counters): (&Shared, &Counters),
    asker: &Asker,
    since: Option<u32>,
    now: u64,
) {
    let content = shared.read_with_history(|zone, history| match since {
        None => whole(zone, Cause::Transfer),
        Some(serial) => changed(zone, history, serial, request.protocol()),
    });
    let count = content.records.len();
    let mut cause = content.cause;
    let mut shorter = content.shorter;
    let mut prior: Option<Vec<u8>> = None;
    for answers in messages(content.records) {
        let reply = Reply {
            authoritative: true,
            answers,
            shorter: std::mem::take(&mut shorter),
            ..Reply::default()
        };
        let sent = reply::send(request, way, reply, asker, prior.as_deref(), now).await;
        let Some(sent) = sent else {
            tracing::warn!(from = %request.src(), "transfer broken off: the asker is gone");
            return;
        };
        if sent.shortened {
            cause = Cause::NeedsTcp;
        }
        prior = Some(sent.mac);
    }
    counters.add(cause);
    let from = request.src();
    match cause {
        Cause::Transfer => tracing::info!(%from, "zone transferred"),
        Cause::Forgotten => {
            counters.add(Cause::Transfer);
            tracing::info!(%from, since, "zone transferred: what has changed is not known any more");
        }
        // Secondaries of a busy zone ask all the time.
        cause => tracing::debug!(%from, since, ?cause, records = count, "changes transferred"),
    }
}

/// The zone, its SOA first and last.
fn whole(zone: &Zone, cause: Cause) -> Content {
    let inner = zone
        .records()
        .filter(|r| r.record_type() != RecordType::SOA);
    Content {
        cause,
        records: soa(zone).chain(inner).chain(soa(zone)).collect(),
        shorter: Vec::new(),
    }
}

/// What has changed since `serial` (RFC 1995 section 4).
fn changed(zone: &Zone, history: &History, serial: u32, protocol: Protocol) -> Content {
    let current = |cause| Content {
        cause,
        records: soa(zone).collect(),
        shorter: Vec::new(),
    };
    // Section 2: also if the asker's copy is newer.
    if !serial_newer(zone.serial(), serial) {
        return current(Cause::UpToDate);
    }
    if protocol == Protocol::Udp {
        let few = history
            .count_since(serial)
            .is_some_and(|n| n <= UDP_CHANGES);
        if !few {
            return current(Cause::NeedsTcp);
        }
    }
    match history.since(serial, zone) {
        None => whole(zone, Cause::Forgotten),
        Some(Difference { deleted, added }) => {
            let old = soa(zone).map(|mut record| {
                if let RData::SOA(soa) = &mut record.data {
                    soa.serial = serial;
                }
                record
            });
            let sequence = old.chain(deleted).chain(soa(zone)).chain(added);
            Content {
                cause: Cause::Incremental,
                records: soa(zone).chain(sequence).chain(soa(zone)).collect(),
                shorter: match protocol {
                    Protocol::Udp => soa(zone).collect(),
                    _ => Vec::new(),
                },
            }
        }
    }
}

fn soa(zone: &Zone) -> impl Iterator<Item = Record> + '_ {
    let set = zone.set(zone.origin(), RecordType::SOA).into_iter();
    set.flat_map(|set| set.records(zone.origin()))
}

/// Cuts records into messages.
fn messages(records: Vec<Record>) -> Vec<Vec<Record>> {
    let mut messages = vec![Vec::new()];
    let mut size = 0;
    for record in records {
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

//! The update core against RFC 2136 and the rules for home addresses. Pure: no
//! socket, no disk, no clock.

mod bindings;
mod corpus;
mod model;
mod policy;
mod prefixes;
mod rfc2136;

use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, NS, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use mat_mapping::zone::update::{Draft, Refusal, Update};
use mat_mapping::zone::{Apex, Change, View, Zone};

const ZONE: &str = "map.example.";

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn zone() -> Zone {
    Zone::new(&Apex {
        origin: name(ZONE),
        nameservers: vec![name("ns1.map.example."), name("ns2.map.example.")],
        contact: name("hostmaster.map.example."),
        ttl: 300,
        negative_ttl: 2,
    })
}

/// Checks, and publishes if accepted.
fn update(zone: &mut Zone, update: &Update) -> Result<Change, Refusal> {
    let change = Draft::new(zone).update(update, |_| Ok::<_, Refusal>(()))?;
    zone.apply(change.clone());
    Ok(change)
}

fn message(prerequisites: Vec<Record>, updates: Vec<Record>) -> Update {
    let mut zone = Query::query(name(ZONE), RecordType::SOA);
    zone.set_query_class(DNSClass::IN);
    Update {
        zone: vec![zone],
        prerequisites,
        updates,
    }
}

fn code(result: &Result<Change, Refusal>) -> ResponseCode {
    match result {
        Ok(_) => ResponseCode::NoError,
        Err(refusal) => refusal.code(),
    }
}

fn add(owner: &str, ttl: u32, data: RData) -> Record {
    Record::from_rdata(name(owner), ttl, data)
}

/// A record without data, as prerequisites and deletions have it.
fn bare(owner: &str, class: DNSClass, kind: RecordType) -> Record {
    let mut record = Record::update0(name(owner), 0, kind);
    record.dns_class = class;
    record
}

fn delete_record(owner: &str, data: RData) -> Record {
    let mut record = Record::from_rdata(name(owner), 0, data);
    record.dns_class = DNSClass::NONE;
    record
}

fn txt(text: &str) -> RData {
    RData::TXT(TXT::new(vec![text.to_owned()]))
}

fn a(last: u8) -> RData {
    RData::A(A::new(198, 51, 100, last))
}

fn cname(target: &str) -> RData {
    RData::CNAME(CNAME(name(target)))
}

fn ns(target: &str) -> RData {
    RData::NS(NS(name(target)))
}

fn data_of(zone: &Zone, owner: &str, kind: RecordType) -> Vec<RData> {
    zone.set(&name(owner), kind)
        .map_or(Vec::new(), |set| set.data.clone())
}

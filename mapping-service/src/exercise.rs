//! One door for fuzz targets (`fuzz/`) and replayed inputs: any octets go through everything that
//! reads what strangers or a disk have written, and what is promised of it is checked. The only
//! place that panics on purpose.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::rdata::{CNAME, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_server::net::xfer::Protocol;
use mat_proto::{Binding, Epoch, record};
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

use crate::client::push;
use crate::config::{KeyEntry, Keys};
use crate::dnssec::{Signer, ZoneKey};
use crate::dso;
use crate::journal::{self, Entry};
use crate::past::Past;
use crate::policy::{Policy, Scope};
use crate::push::Push;
use crate::replay::Memory;
use crate::server::{self, Handler, InForce, KeyRing};
use crate::tsig::{Algorithm, TsigKey};
use crate::writer::Shared;
use crate::zone::update::{Draft, Refusal, Update};
use crate::zone::{Apex, View as _, Zone};

const NOW: u64 = 1_795_000_000;

/// A message as it comes by UDP and by TCP: whatever it is, there are no more answers than a
/// message may have, and each can be read.
///
/// # Panics
/// If that is not so.
pub fn message(octets: &[u8]) {
    let from = SocketAddr::from(([198, 51, 100, 9], 5353));
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        let answers = server::exercise::message(handler(), octets, from, protocol, NOW);
        // A transfer of the zone is the longest answer.
        assert!(answers.len() <= 2);
        for answer in answers {
            assert!(protocol == Protocol::Tcp || answer.len() <= 1232);
            Message::from_vec(&answer).expect("an answer can be read");
        }
    }
}

/// An UPDATE, carried out by whoever may do anything: the zone keeps its promises, and does not
/// change if it was refused.
///
/// # Panics
/// If that is not so.
pub fn update(octets: &[u8]) {
    let Ok(message) = Message::from_vec(octets) else {
        return;
    };
    let update = Update {
        zone: message.queries.clone(),
        prerequisites: message.answers.clone(),
        updates: message.authorities.clone(),
    };
    let mut zone = zone();
    let changed = Draft::new(&zone).update(&update, |_| Ok::<_, Refusal>(()));
    let Ok(change) = changed else {
        return;
    };
    let stored = Entry::from(change.clone())
        .encode()
        .expect("it can be kept");
    let kept = Entry::decode(&stored)
        .expect("what was kept is read")
        .change;
    assert_eq!((&kept.sets, &kept.buried), (&change.sets, &change.buried));
    let before = zone.clone();
    zone.apply(kept);
    keeps_its_promises(&before, &zone);
    // Twice is once.
    let once: Vec<Record> = zone.records().collect();
    zone.apply(change);
    assert_eq!(once, zone.records().collect::<Vec<_>>());
}

fn keeps_its_promises(before: &Zone, zone: &Zone) {
    let origin = zone.origin();
    let count = |kind| zone.set(origin, kind).map_or(0, |set| set.data.len());
    assert!(count(RecordType::SOA) == 1 && count(RecordType::NS) >= 1);
    for record in zone.records() {
        assert!(origin.zone_of(&record.name) && record.name == record.name.to_lowercase());
        if record.record_type() == RecordType::CNAME {
            assert_eq!(zone.kinds(&record.name).len(), 1);
        }
        let Some(home) = record::home(&record.name, origin) else {
            continue;
        };
        let binding = |zone: &Zone| {
            let set = zone.set(&record.name, RecordType::SVCB)?;
            let svcb = set.data.iter().filter_map(|data| match data {
                RData::SVCB(svcb) => Some(svcb),
                _ => None,
            });
            let binding = record::from_svcb(home, svcb);
            Some(binding.expect("a set of SVCB at an owner is a binding"))
        };
        if let (Some(was), Some(is)) = (binding(before), binding(zone)) {
            assert!(was == is || is.epoch() > was.epoch());
        }
    }
}

/// What comes on a TLS connection, to the server as well as to a client: messages with their
/// lengths before them. The server answers in messages that the client's side can read.
///
/// # Panics
/// If that is not so.
pub fn session(octets: &[u8]) {
    for message in server::exercise::session(handler(), frames(octets)) {
        dso::Message::parse(&message).expect("a message of ours can be read");
    }
    push::exercise(origin(), frames(octets));
}

fn frames(octets: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = octets;
    std::iter::from_fn(move || {
        let (length, after) = rest.split_first_chunk::<2>()?;
        let (message, next) = after.split_at_checked(u16::from_be_bytes(*length).into())?;
        rest = next;
        Some(message)
    })
}

/// An entry of a journal, a journal, and what stands behind a sound one: nothing is made up, and
/// what is sound is not lost.
///
/// # Panics
/// If that is not so.
pub fn journal(octets: &[u8]) {
    if let Ok(entry) = Entry::decode(octets) {
        let again = entry.encode().expect("it can be kept");
        assert_eq!(Entry::decode(&again).expect("and read"), entry);
    }
    let path = Path::new("journal");
    // A journal of somebody else, most of the time.
    let _any = journal::read_all(path, octets, &origin());
    let (sound, entries) = journal::sample(&origin());
    let behind = [&sound, octets].concat();
    if let Ok(read) = journal::read_all(path, &behind, &origin()) {
        assert_eq!(read[..entries.len()], entries);
    }
}

fn origin() -> Name {
    Name::from_ascii("map.example.").expect("a name")
}

fn below(label: &str) -> Name {
    origin().prepend_label(label).expect("a short name")
}

fn apex() -> Apex {
    Apex {
        origin: origin(),
        nameservers: vec![below("ns")],
        contact: below("hostmaster"),
        ttl: 300,
        negative_ttl: 2,
    }
}

fn zone() -> Zone {
    let mut zone = Zone::new(&apex());
    let text = RData::TXT(TXT::new(vec!["x".repeat(200)]));
    let alias = RData::CNAME(CNAME(below("text")));
    let mut records = vec![
        Record::from_rdata(below("text"), 5, text),
        Record::from_rdata(below("alias"), 5, alias),
    ];
    for (home, locator) in [
        ("192.0.2.10", "198.51.100.7"),
        ("192.0.2.11", "198.51.100.8"),
        ("2001:db8:1::7", "2001:db8:2::7"),
    ] {
        let binding = Binding::single(
            home.parse().expect("a home"),
            Epoch(7),
            30,
            locator.parse().expect("a locator"),
            6283,
        );
        let binding = binding.expect("a binding");
        records.extend(record::to_records(&binding, &origin(), 0).expect("a short zone"));
    }
    let update = Update {
        zone: vec![Query::query(origin(), RecordType::SOA)],
        prerequisites: Vec::new(),
        updates: records,
    };
    let change = Draft::new(&zone).update(&update, |_| Ok::<_, Refusal>(()));
    zone.apply(change.expect("they may be added"));
    zone
}

/// One for all inputs: it remembers nothing of them but what it counts.
fn handler() -> &'static Arc<Handler> {
    static HANDLER: LazyLock<Arc<Handler>> = LazyLock::new(make_handler);
    &HANDLER
}

fn make_handler() -> Arc<Handler> {
    let shared = Arc::new(Shared::new(zone(), Memory::default(), Past::default()));
    let name = Name::from_ascii("site-a.").expect("a name");
    let key = TsigKey::new(name.clone(), Algorithm::HmacSha256, vec![7; 32]).expect("a key");
    let policy = Policy {
        homes: Scope::All,
        locators: Scope::All,
        types: vec![RecordType::SVCB],
        other_names: true,
        transfer: true,
        reads: Scope::All,
    };
    let entry = KeyEntry {
        key,
        policy: Arc::new(policy),
    };
    let keys = KeyRing::new(InForce {
        keys: Keys::from([(name, Arc::new(entry))]),
        private: Scope::Prefixes(Vec::new()),
        cookies: server::cookie::Secrets::new(&[5; 16], None),
        responses_per_second: None,
        signer: Some(Signer::new(Arc::new(zone_key()), &apex())),
    });
    // Updates end here.
    let (queue, _closed) = tokio::sync::mpsc::channel(1);
    let push = Push::new(shared.clone());
    Arc::new(Handler::new(
        shared,
        Arc::new(keys),
        queue,
        Arc::default(),
        push,
    ))
}

/// An Ed25519 key that everybody knows (RFC 8410 section 7).
fn zone_key() -> ZoneKey {
    let head = [
        0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20,
    ];
    let key = PrivatePkcs8KeyDer::from([&head[..], &[7; 32]].concat());
    ZoneKey::new(&key.into()).expect("a key")
}

//! RFC 2136: what an UPDATE message changes, or why it is refused.
//!
//! A [`Draft`] is the zone with changes on top that are decided and not yet on
//! disk, so that a batch of updates sees one another before any is published.
//! [`Draft::update`] takes a message whole or not at all: it works on a layer
//! of its own that is merged only when everything has been checked.
//!
//! Section numbers below are RFC 2136's.
//!
//! # Limitations
//! Sets of more than [`MAX_SET`] records, or too large for an answer, are refused. What may be written at a
//! home address's owner is narrower still: see [`super::rules`].

use std::collections::BTreeMap;

use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::BinEncodable as _;
use ipnet::IpNet;
use mat_proto::{Epoch, Locator, record};

use super::rules::{self, Breach};
use super::spans::{self, Span};
use super::tree::Key;
use super::{Change, RrSet, View, Zone, lower, next_serial, serial_newer};

/// Records in one RRset, at most.
pub const MAX_SET: usize = 256;

/// Octets of one RRset in an answer, at most: with question and signature they fit a message.
const MAX_OCTETS: usize = 60_000;

/// Octets of a record without its data, its name compressed.
const RECORD: usize = 12;

/// The sections of an UPDATE message.
#[derive(Clone, Debug, Default)]
pub struct Update {
    /// Zone section.
    pub zone: Vec<Query>,
    /// Prerequisite section.
    pub prerequisites: Vec<Record>,
    /// Update section.
    pub updates: Vec<Record>,
}

/// Why an UPDATE changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// FORMERR.
    #[error("malformed update: {0}")]
    Format(&'static str),
    /// NOTAUTH: another zone or class.
    #[error("not authoritative for zone {0}")]
    NotAuth(Name),
    /// NOTZONE: a name outside the zone named.
    #[error("{0} is outside the zone")]
    NotZone(Name),
    /// NXDOMAIN: "name is in use" fails.
    #[error("prerequisite: {0} is not in use")]
    NameMissing(Name),
    /// YXDOMAIN: "name is not in use" fails.
    #[error("prerequisite: {0} is in use")]
    NameInUse(Name),
    /// NXRRSET: "RRset exists", with or without value, fails.
    #[error("prerequisite: {1} of {0} is not as expected")]
    SetDiffers(Name, RecordType),
    /// YXRRSET: "RRset does not exist" fails.
    #[error("prerequisite: {1} of {0} exists")]
    SetExists(Name, RecordType),
    /// REFUSED: the result would break a rule of this service.
    #[error(transparent)]
    Breach(#[from] Breach),
}

impl Refusal {
    /// The response code.
    pub fn code(&self) -> ResponseCode {
        match self {
            Refusal::Format(_) => ResponseCode::FormErr,
            Refusal::NotAuth(_) => ResponseCode::NotAuth,
            Refusal::NotZone(_) => ResponseCode::NotZone,
            Refusal::NameMissing(_) => ResponseCode::NXDomain,
            Refusal::NameInUse(_) => ResponseCode::YXDomain,
            Refusal::SetDiffers(..) => ResponseCode::NXRRSet,
            Refusal::SetExists(..) => ResponseCode::YXRRSet,
            Refusal::Breach(_) => ResponseCode::Refused,
        }
    }
}

/// The zone with a batch of undisclosed changes on top.
pub struct Draft<'z> {
    zone: &'z Zone,
    /// New contents of sets; `None` if there are none.
    sets: BTreeMap<(Key, RecordType), Option<RrSet>>,
    /// Epochs of bindings deleted.
    buried: BTreeMap<Name, Epoch>,
    /// Who has come to a locator in this batch.
    holders: BTreeMap<Locator, Name>,
    /// What prefixes have come to in it; nothing if they have no binding any more.
    spans: BTreeMap<IpNet, Vec<Span>>,
}

impl<'z> Draft<'z> {
    /// Nothing changed yet.
    pub fn new(zone: &'z Zone) -> Self {
        Draft {
            zone,
            sets: BTreeMap::new(),
            buried: BTreeMap::new(),
            holders: BTreeMap::new(),
            spans: BTreeMap::new(),
        }
    }

    /// Checks `update` against the draft and returns what it changes (possibly
    /// nothing). `permit` may still refuse the change by its own error. Only if
    /// neither does does the draft contain it.
    pub fn update<E: From<Refusal>>(
        &mut self,
        update: &Update,
        permit: impl FnOnce(&Change) -> Result<(), E>,
    ) -> Result<Change, E> {
        let change = self.check(update)?;
        permit(&change)?;
        self.buried.extend(change.buried.clone());
        for ((name, kind), set) in &change.sets {
            self.sets.insert((Key::of(name), *kind), set.clone());
            if *kind != RecordType::SVCB {
                continue;
            }
            if let Some(prefix) = record::prefix(name, self.zone.origin()) {
                let spans = set.iter().flat_map(|set| super::spans_of(prefix, set));
                self.spans.insert(prefix, spans.collect());
            } else if let Some(set) = set {
                let named = super::locators(name, self.zone.origin(), set);
                let named = named.into_iter().map(|locator| (locator, name.clone()));
                self.holders.extend(named);
            }
        }
        Ok(change)
    }

    /// RFC 2136 sections 3.1 to 3.4 and 3.6, without taking the result over.
    fn check(&self, update: &Update) -> Result<Change, Refusal> {
        zone_section(&update.zone, self.zone.origin())?;
        prerequisites(self, self.zone.origin(), &update.prerequisites)?;
        prescan(self.zone.origin(), &update.updates)?;
        let mut layer = Layer {
            below: self,
            sets: BTreeMap::new(),
        };
        for record in &update.updates {
            layer.apply(record)?;
        }
        layer.finish()
    }
}

impl View for Draft<'_> {
    fn set(&self, name: &Name, kind: RecordType) -> Option<&RrSet> {
        match self.sets.get(&(Key::of(name), kind)) {
            Some(changed) => changed.as_ref(),
            None => self.zone.set(name, kind),
        }
    }

    fn kinds(&self, name: &Name) -> Vec<RecordType> {
        merged_kinds(self.zone.kinds(name), &self.sets, &Key::of(name))
    }

    fn last_epoch(&self, name: &Name) -> Epoch {
        // The batch may hold a newer binding or a deletion; the zone's own
        // memory never exceeds either.
        let held = self.set(name, RecordType::SVCB);
        match held.and_then(super::epoch_of) {
            Some(epoch) => epoch,
            None => {
                let buried = self.buried.get(name).copied().unwrap_or_default();
                buried.max(self.zone.last_epoch(name))
            }
        }
    }

    fn withdrawn(&self, name: &Name) -> Option<Epoch> {
        let known = self.zone.withdrawn(name);
        known.max(self.buried.get(name).copied())
    }

    fn holder(&self, locator: Locator) -> Option<&Name> {
        let stands = |name: &&Name| {
            let held = self.set(name, RecordType::SVCB);
            held.is_some_and(|set| {
                super::locators(name, self.zone.origin(), set).contains(&locator)
            })
        };
        let came = self.holders.get(&locator).filter(stands);
        came.or_else(|| self.zone.holder(locator).filter(stands))
    }

    fn holders_in(&self, locators: IpNet) -> Vec<Name> {
        let inside = |locator: &Locator| locators.contains(&locator.ip());
        let stands = |name: &Name| {
            let held = self.set(name, RecordType::SVCB);
            held.is_some_and(|set| {
                let named = super::locators(name, self.zone.origin(), set);
                named.iter().any(inside)
            })
        };
        let came = self.holders.iter().filter(|(locator, _)| inside(locator));
        let came = came.map(|(_, name)| name.clone());
        let held = self.zone.holders_in(locators).into_iter();
        held.chain(came).filter(stands).collect()
    }

    fn spans(&self) -> Vec<Span> {
        let mut spans = self.zone.spans();
        spans.retain(|span| !self.spans.contains_key(&span.homes));
        spans.extend(self.spans.values().flatten());
        spans
    }

    fn deep_below(&self, name: &Name) -> Option<Name> {
        let mut from = self.sets.range((Key::of(name), RecordType::from(0))..);
        let came = from.find_map(|((key, _), set)| {
            let came = set.as_ref().and_then(|_| key.name())?;
            spans::is_deep(&came, name).then_some(came)
        });
        came.or_else(|| self.zone.deep_below(name))
    }
}

type Sets = BTreeMap<(Name, RecordType), Option<RrSet>>;

fn merged_kinds<K: Ord + Clone>(
    mut kinds: Vec<RecordType>,
    sets: &BTreeMap<(K, RecordType), Option<RrSet>>,
    name: &K,
) -> Vec<RecordType> {
    let from = (name.clone(), RecordType::from(0));
    for ((_, kind), set) in sets.range(from..).take_while(|((n, _), _)| n == name) {
        kinds.retain(|k| k != kind);
        if set.is_some() {
            kinds.push(*kind);
        }
    }
    kinds
}

/// Section 3.1.
fn zone_section(zone: &[Query], origin: &Name) -> Result<(), Refusal> {
    let [zone] = zone else {
        return Err(Refusal::Format("the zone section needs exactly one record"));
    };
    if zone.query_type() != RecordType::SOA {
        return Err(Refusal::Format("the zone section's type must be SOA"));
    }
    if lower(zone.name()) != *origin || zone.query_class() != DNSClass::IN {
        return Err(Refusal::NotAuth(zone.name().clone()));
    }
    Ok(())
}

/// Section 3.2, with the exact comparison of whole sets of section 3.2.3.
fn prerequisites(view: &impl View, origin: &Name, records: &[Record]) -> Result<(), Refusal> {
    let mut expected: BTreeMap<(Name, RecordType), Vec<&RData>> = BTreeMap::new();
    for record in records {
        let name = lower(&record.name);
        let kind = record.record_type();
        if record.ttl != 0 {
            return Err(Refusal::Format("a prerequisite's TTL must be 0"));
        }
        if !origin.zone_of(&name) {
            return Err(Refusal::NotZone(name));
        }
        let empty = matches!(record.data, RData::Update0(_));
        match (record.dns_class, kind) {
            (DNSClass::ANY | DNSClass::NONE, _) if !empty => {
                return Err(Refusal::Format("a prerequisite of this class has no data"));
            }
            (DNSClass::ANY, RecordType::ANY) if view.kinds(&name).is_empty() => {
                return Err(Refusal::NameMissing(name));
            }
            (DNSClass::NONE, RecordType::ANY) if !view.kinds(&name).is_empty() => {
                return Err(Refusal::NameInUse(name));
            }
            (DNSClass::ANY | DNSClass::NONE, RecordType::ANY) => {}
            (DNSClass::ANY, _) if view.set(&name, kind).is_none() => {
                return Err(Refusal::SetDiffers(name, kind));
            }
            (DNSClass::NONE, _) if view.set(&name, kind).is_some() => {
                return Err(Refusal::SetExists(name, kind));
            }
            (DNSClass::ANY | DNSClass::NONE, _) => {}
            (DNSClass::IN, _) if lacks_data(record) || is_meta(kind) => {
                return Err(Refusal::Format(
                    "a prerequisite with a value needs data of a real type",
                ));
            }
            (DNSClass::IN, _) => expected.entry((name, kind)).or_default().push(&record.data),
            _ => return Err(Refusal::Format("a prerequisite of another class")),
        }
    }
    for ((name, kind), data) in expected {
        let equal = view.set(&name, kind).is_some_and(|held| {
            data.iter().all(|d| held.data.contains(d))
                && held.data.iter().all(|d| data.contains(&d))
        });
        if !equal {
            return Err(Refusal::SetDiffers(name, kind));
        }
    }
    Ok(())
}

/// Section 3.4.1: the whole update section is sound, before any of it counts.
fn prescan(origin: &Name, records: &[Record]) -> Result<(), Refusal> {
    for record in records {
        let kind = record.record_type();
        let empty = matches!(record.data, RData::Update0(_));
        if !origin.zone_of(&lower(&record.name)) {
            return Err(Refusal::NotZone(record.name.clone()));
        }
        match record.dns_class {
            DNSClass::IN if is_meta(kind) => {
                return Err(Refusal::Format("a record of a query type cannot be added"));
            }
            DNSClass::IN if lacks_data(record) => {
                return Err(Refusal::Format("a record to add has no data"));
            }
            DNSClass::IN => {}
            DNSClass::ANY if record.ttl != 0 || !empty => {
                return Err(Refusal::Format("to delete a set, TTL and data must be 0"));
            }
            DNSClass::ANY if is_meta(kind) && kind != RecordType::ANY => {
                return Err(Refusal::Format("a set of a query type cannot be deleted"));
            }
            DNSClass::ANY => {}
            DNSClass::NONE if record.ttl != 0 => {
                return Err(Refusal::Format("to delete a record, its TTL must be 0"));
            }
            DNSClass::NONE if is_meta(kind) => {
                return Err(Refusal::Format(
                    "a record of a query type cannot be deleted",
                ));
            }
            DNSClass::NONE if lacks_data(record) => {
                return Err(Refusal::Format("a record to delete has no data"));
            }
            DNSClass::NONE => {}
            _ => return Err(Refusal::Format("an update of another class")),
        }
    }
    Ok(())
}

/// Whether a record that should have data has none. Of a type that is not known here, no octets
/// are data as good as any (RFC 3597 section 5); hickory-proto keeps both the same way.
fn lacks_data(record: &Record) -> bool {
    matches!(record.data, RData::Update0(kind) if !matches!(kind, RecordType::Unknown(_)))
}

/// Types that exist in questions and messages only (RFC 6895 section 3.1).
fn is_meta(kind: RecordType) -> bool {
    let code = u16::from(kind);
    code == 0 || code == u16::from(RecordType::OPT) || (128..=255).contains(&code)
}

/// The changes of one message.
struct Layer<'d, 'z> {
    below: &'d Draft<'z>,
    sets: Sets,
}

impl Layer<'_, '_> {
    /// Section 3.4.2.
    fn apply(&mut self, record: &Record) -> Result<(), Refusal> {
        let name = lower(&record.name);
        let kind = record.record_type();
        let apex = name == *self.below.zone.origin();
        match record.dns_class {
            DNSClass::ANY if kind == RecordType::ANY => {
                for kind in self.kinds(&name) {
                    if !(apex && is_apex_kind(kind)) {
                        self.put(&name, kind, None);
                    }
                }
            }
            DNSClass::ANY => {
                if !(apex && is_apex_kind(kind)) {
                    self.put(&name, kind, None);
                }
            }
            DNSClass::NONE => self.delete_one(name, kind, apex, &record.data),
            _ => return self.add(name, kind, apex, record),
        }
        Ok(())
    }

    fn add(
        &mut self,
        name: Name,
        kind: RecordType,
        apex: bool,
        record: &Record,
    ) -> Result<(), Refusal> {
        let kinds = self.kinds(&name);
        let has_cname = kinds.contains(&RecordType::CNAME);
        let others = kinds.iter().any(|k| *k != RecordType::CNAME);
        // Section 3.4.2.2: a CNAME stays alone, whoever was there first.
        if (kind == RecordType::CNAME && others) || (kind != RecordType::CNAME && has_cname) {
            return Ok(());
        }
        let old = self.set(&name, kind).cloned();
        if let RData::SOA(new) = &record.data {
            // Only at the apex, and only forwards.
            match old.as_ref().and_then(|set| set.data.first()) {
                Some(RData::SOA(held)) if apex && serial_newer(new.serial, held.serial) => {}
                _ => return Ok(()),
            }
        }
        let replaces = matches!(kind, RecordType::CNAME | RecordType::SOA);
        let mut data = match old {
            Some(set) if !replaces => set.data,
            _ => Vec::new(),
        };
        if !data.contains(&record.data) {
            let octets = |data: &RData| {
                data.to_bytes()
                    .map_or(0, |wire: Vec<u8>| wire.len() + RECORD)
            };
            let size = || data.iter().map(octets).sum::<usize>() + octets(&record.data);
            if data.len() >= MAX_SET || (!data.is_empty() && size() > MAX_OCTETS) {
                return Err(Breach::SetTooLarge(name, kind).into());
            }
            // Kept for long, and most sets have one record.
            data.reserve_exact(1);
            data.push(record.data.clone());
        }
        let ttl = record.ttl;
        self.put(&name, kind, Some(RrSet { ttl, data }));
        Ok(())
    }

    /// Section 3.4.2.4. The apex keeps its SOA and its last NS.
    fn delete_one(&mut self, name: Name, kind: RecordType, apex: bool, data: &RData) {
        let Some(mut set) = self.set(&name, kind).cloned() else {
            return;
        };
        let kept = kind == RecordType::SOA || (apex && kind == RecordType::NS);
        if kept && (kind == RecordType::SOA || set.data.len() == 1) {
            return;
        }
        set.data.retain(|d| d != data);
        let left = (!set.data.is_empty()).then_some(set);
        self.put(&name, kind, left);
    }

    fn put(&mut self, name: &Name, kind: RecordType, set: Option<RrSet>) {
        self.sets.insert((name.clone(), kind), set);
    }

    /// Drops what changes nothing, holds the rest against the rules, and raises
    /// the serial (section 3.6) if anything is left.
    fn finish(mut self) -> Result<Change, Refusal> {
        let below = self.below;
        let origin = below.zone.origin();
        self.sets
            .retain(|(name, kind), set| match (below.set(name, *kind), set) {
                (None, None) => false,
                (Some(old), Some(new)) => old.ttl != new.ttl || !old.same_data(new),
                _ => true,
            });
        let mut change = Change {
            sets: self.sets,
            ..Change::default()
        };
        rules::enforce(below, origin, &mut change)?;
        let key = (origin.clone(), RecordType::SOA);
        if !change.is_empty() && !change.sets.contains_key(&key) {
            let soa = below.set(origin, RecordType::SOA).cloned();
            change.sets.insert(key, soa.map(raised));
        }
        Ok(change)
    }
}

impl Layer<'_, '_> {
    fn set(&self, name: &Name, kind: RecordType) -> Option<&RrSet> {
        match self.sets.get(&(name.clone(), kind)) {
            Some(changed) => changed.as_ref(),
            None => self.below.set(name, kind),
        }
    }

    fn kinds(&self, name: &Name) -> Vec<RecordType> {
        merged_kinds(self.below.kinds(name), &self.sets, name)
    }
}

fn is_apex_kind(kind: RecordType) -> bool {
    matches!(kind, RecordType::SOA | RecordType::NS)
}

fn raised(mut soa: RrSet) -> RrSet {
    for data in &mut soa.data {
        if let RData::SOA(soa) = data {
            soa.serial = next_serial(soa.serial);
        }
    }
    soa
}

//! The zone: what the mapping service knows, in memory, and how it answers.
//!
//! Pure: no clock, no socket, no disk. [`update`] decides what an UPDATE
//! changes (RFC 2136), [`rules`] what a change may make of a home address's
//! owner. Both yield a [`Change`], the new contents of every RRset concerned,
//! which is what the journal stores and [`Zone::apply`] publishes; so applying
//! a change twice is the same as applying it once.
//!
//! Invariants: the apex has exactly one SOA and at least one NS; no node is
//! empty; a node with a CNAME holds nothing else; SVCB at an owner under `h4`
//! or `h6` always is a valid binding, whose epoch never falls, not even when
//! the name is deleted and made again; a locator stands in one binding at most.
//!
//! A wildcard that is the owner of a [prefix](record::prefix) answers for the homes in it that have
//! nothing of their own (RFC 4592). Its binding is subject to the same promises; and as long as its
//! epoch is not above the last one of a home that had a binding of its own, that home is not bound,
//! which [`withdrawn`] says in the zone.
//!
//! # Limitations
//! Only memory knows of homes that were bound before their prefix was, if that is more than one
//! label shorter: a name of their own would be in the way. Copies of the zone answer for such a
//! home if its last epoch is above the prefix's. No other wildcards, no delegations (NS below the
//! apex). Names are kept in lower case.

pub mod epochs;
pub mod rules;
pub mod spans;
mod tree;
pub mod update;
mod withdrawn;

use std::collections::BTreeMap;

use hickory_proto::ProtoError;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{NS, SOA, SVCB};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinEncodable as _, BinEncoder};
use ipnet::IpNet;
use mat_proto::record::{self, RecordError};
use mat_proto::{Binding, Epoch, Home, Locator, Whose};

use epochs::Epochs;
use spans::Span;
use tree::{Node, Tree};

/// The CNAMEs followed within the zone for one question.
const CNAME_CHAIN: usize = 8;

/// The records of one name and type. Their order is that of arrival; two sets
/// are equal if they hold the same data, whatever the order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RrSet {
    /// TTL in seconds, one for the whole set (RFC 2181 section 5.2).
    pub ttl: u32,
    /// The data, without repetition, never empty.
    pub data: Vec<RData>,
}

impl RrSet {
    /// Whether both hold the same data (TTL and order aside).
    pub fn same_data(&self, other: &RrSet) -> bool {
        self.data.len() == other.data.len() && self.data.iter().all(|d| other.data.contains(d))
    }

    pub(crate) fn records<'a>(&'a self, name: &'a Name) -> impl Iterator<Item = Record> + 'a {
        self.data
            .iter()
            .map(|data| Record::from_rdata(name.clone(), self.ttl, data.clone()))
    }
}

/// Writes a record of class IN without making one of its parts.
pub(crate) fn emit_record(
    encoder: &mut BinEncoder<'_>,
    name: &Name,
    ttl: u32,
    data: &RData,
) -> Result<(), ProtoError> {
    name.emit(encoder)?;
    data.record_type().emit(encoder)?;
    DNSClass::IN.emit(encoder)?;
    encoder.emit_u32(ttl)?;
    let length = encoder.place::<u16>()?;
    data.emit(encoder)?;
    let octets = u16::try_from(encoder.len_since_place(&length));
    length.replace(encoder, octets.map_err(|_| "too long for a record")?)
}

/// What the configuration says about the apex.
#[derive(Clone, Debug)]
pub struct Apex {
    /// The zone's name.
    pub origin: Name,
    /// Name servers; the first is the SOA's MNAME.
    pub nameservers: Vec<Name>,
    /// The SOA's RNAME.
    pub contact: Name,
    /// TTL of the apex records, seconds.
    pub ttl: u32,
    /// How long a negative answer may be believed, seconds.
    pub negative_ttl: u32,
}

/// What a change does: the new contents of each RRset it touches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// New contents; `None` deletes the RRset.
    pub sets: BTreeMap<(Name, RecordType), Option<RrSet>>,
    /// Epochs of bindings deleted by this change, by owner.
    pub buried: BTreeMap<Name, Epoch>,
    /// The same in the words of bindings, for policy and log; not stored.
    pub moves: Vec<Move>,
}

/// What a change does to one binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// Whose.
    pub whose: Whose,
    /// The binding before, if there was one.
    pub from: Option<Binding>,
    /// The binding after, unless it was deleted.
    pub to: Option<Binding>,
    /// Set if nobody asked for that: this locator is another home's from now on.
    pub displaced_from: Option<Locator>,
}

impl Change {
    /// Nothing would be different.
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }
}

/// Something RRsets can be read from: the zone, or the zone with changes on top
/// that are decided and not yet published.
pub trait View {
    /// The RRset of `name` and `kind`.
    fn set(&self, name: &Name, kind: RecordType) -> Option<&RrSet>;
    /// The types at `name`.
    fn kinds(&self, name: &Name) -> Vec<RecordType>;
    /// A new binding at `name` must have a higher epoch than this.
    fn last_epoch(&self, name: &Name) -> Epoch;
    /// The epoch at which the binding of `name` was withdrawn, if that is remembered.
    fn withdrawn(&self, name: &Name) -> Option<Epoch>;
    /// The owner of the home's binding in which a locator stands.
    fn holder(&self, locator: Locator) -> Option<&Name>;
    /// The owners of homes' bindings in which locators of a prefix stand.
    fn holders_in(&self, locators: IpNet) -> Vec<Name>;
    /// The prefixes that share bindings, and the places in these.
    fn spans(&self) -> Vec<Span>;
    /// A name that exists two labels or more below this one.
    fn deep_below(&self, name: &Name) -> Option<Name>;
}

/// The authoritative data of one zone.
#[derive(Clone, Debug)]
pub struct Zone {
    origin: Name,
    nodes: Tree,
    buried: Epochs,
    holders: BTreeMap<Locator, Name>,
    /// The places in the bindings that prefixes share.
    spans: BTreeMap<IpNet, Vec<Span>>,
}

/// The answer to one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// NOERROR, NXDOMAIN, or REFUSED for names outside the zone.
    pub code: ResponseCode,
    /// Answer section.
    pub answers: Vec<Record>,
    /// Authority section: the SOA of negative answers (RFC 2308 section 3).
    pub authority: Vec<Record>,
    /// The name at which there is not what was asked for, if the answer is negative.
    pub denied: Option<Name>,
}

impl Zone {
    /// An empty zone at serial 1.
    pub fn new(apex: &Apex) -> Self {
        let mut zone = Zone {
            origin: lower(&apex.origin),
            nodes: Tree::default(),
            buried: Epochs::default(),
            holders: BTreeMap::new(),
            spans: BTreeMap::new(),
        };
        let sets = apex_sets(apex, 1);
        zone.apply(Change {
            sets,
            ..Change::default()
        });
        zone
    }

    /// The zone's name, in lower case.
    pub fn origin(&self) -> &Name {
        &self.origin
    }

    /// The SOA serial.
    pub fn serial(&self) -> u32 {
        self.soa().map_or(0, |soa| soa.serial)
    }

    /// The SOA.
    pub fn soa(&self) -> Option<&SOA> {
        match self.set(&self.origin, RecordType::SOA)?.data.first()? {
            RData::SOA(soa) => Some(soa),
            _ => None,
        }
    }

    /// The change that gives the zone the apex of the configuration, empty if
    /// it has it already.
    pub fn reconfigure(&self, apex: &Apex) -> Change {
        let stay = |(key, set): &(_, Option<RrSet>)| {
            let (name, kind): &(Name, RecordType) = key;
            self.set(name, *kind) == set.as_ref()
        };
        let same = apex_sets(apex, self.serial()).into_iter().all(|s| stay(&s));
        Change {
            sets: if same {
                BTreeMap::new()
            } else {
                apex_sets(apex, next_serial(self.serial()))
            },
            ..Change::default()
        }
    }

    /// The set of `kind` at a name in uncompressed wire form.
    pub(crate) fn set_at(&self, name: &[u8], kind: RecordType) -> Option<&RrSet> {
        self.nodes.at(name)?.get(kind)
    }

    /// Publishes a change.
    pub fn apply(&mut self, change: Change) {
        for ((name, kind), set) in change.sets {
            if kind == RecordType::SVCB {
                self.note_holders(&name, set.as_ref());
                self.note_spans(&name, set.as_ref());
            }
            match set {
                Some(set) => {
                    // A binding's own epoch now guards the name.
                    if kind == RecordType::SVCB {
                        self.buried.forget(&name);
                    }
                    self.nodes.insert(name, kind, set);
                }
                None => self.nodes.remove(&name, kind),
            }
        }
        for (name, epoch) in change.buried {
            self.buried.bury(name, epoch);
        }
    }

    fn note_holders(&mut self, name: &Name, new: Option<&RrSet>) {
        let held = self.set(name, RecordType::SVCB);
        for locator in held.map_or_else(Vec::new, |set| locators(name, &self.origin, set)) {
            // Another may have it already, in the same change.
            if self.holders.get(&locator) == Some(name) {
                self.holders.remove(&locator);
            }
        }
        for locator in new.map_or_else(Vec::new, |set| locators(name, &self.origin, set)) {
            self.holders.insert(locator, name.clone());
        }
    }

    fn note_spans(&mut self, name: &Name, new: Option<&RrSet>) {
        if let Some(prefix) = record::prefix(name, &self.origin) {
            match new {
                Some(set) => self.spans.insert(prefix, spans_of(prefix, set)),
                None => self.spans.remove(&prefix),
            };
        }
    }

    /// What answers for `name`: what is there, or else, for a home, the binding of its prefix.
    fn find(&self, name: &Name) -> Option<&Node> {
        let own = self.nodes.get(name);
        if own.is_some() || self.spans.is_empty() {
            return own;
        }
        record::home(name, &self.origin)?;
        let mut above = name.base_name();
        while above.num_labels() > self.origin.num_labels() {
            if let Some(node) = self.nodes.get(&above.prepend_label("*").ok()?) {
                let set = node.get(RecordType::SVCB);
                let epoch = set.and_then(epoch_of);
                // Nobody goes back to an older epoch.
                return Some(node).filter(|_| epoch > self.buried.remembered(name));
            }
            if self.exists(&above) {
                return None;
            }
            above = above.base_name();
        }
        None
    }

    /// Answers a question (RFC 1034 section 4.3.2, RFC 2308).
    pub fn answer(&self, name: &Name, kind: RecordType) -> Answer {
        let mut name = lower(name);
        let mut answer = Answer {
            code: ResponseCode::NoError,
            answers: Vec::new(),
            authority: Vec::new(),
            denied: None,
        };
        if !self.origin.zone_of(&name) {
            answer.code = ResponseCode::Refused;
            return answer;
        }
        for _ in 0..CNAME_CHAIN {
            let Some(node) = self.find(&name) else {
                if !self.nodes.has_names_below(&name) {
                    answer.code = ResponseCode::NXDomain;
                }
                return self.deny(answer, name);
            };
            let before = answer.answers.len();
            for (of, set) in node.iter() {
                if kind == RecordType::ANY || of == kind {
                    answer.answers.extend(set.records(&name));
                }
            }
            if answer.answers.len() > before {
                return answer;
            }
            let Some(set) = node.get(RecordType::CNAME) else {
                return self.deny(answer, name);
            };
            answer.answers.extend(set.records(&name));
            match set.data.first() {
                Some(RData::CNAME(target)) if self.origin.zone_of(&target.0) => {
                    name = lower(&target.0);
                    if answer.answers.iter().any(|record| record.name == name) {
                        break;
                    }
                }
                _ => return answer,
            }
        }
        // In a circle, or so far that whoever asks has to go on.
        answer
    }

    /// Says that there is no more than `answer` at `name`.
    fn deny(&self, mut answer: Answer, name: Name) -> Answer {
        if let Some(soa) = self.set(&self.origin, RecordType::SOA) {
            let ttl = self.negative_ttl();
            answer
                .authority
                .extend(soa.records(&self.origin).map(|mut record| {
                    record.ttl = ttl;
                    record
                }));
        }
        answer.denied = Some(name);
        answer
    }

    /// How long a negative answer may be believed (RFC 2308 section 5).
    pub(crate) fn negative_ttl(&self) -> u32 {
        let minimum = self.soa().map_or(0, |soa| soa.minimum);
        let own = self.set(&self.origin, RecordType::SOA);
        own.map_or(0, |set| set.ttl.min(minimum))
    }

    /// The name of what answers for `name`.
    pub(crate) fn source(&self, name: &Name) -> Option<&Name> {
        Some(&self.find(&lower(name))?.name)
    }

    /// The types that are answered with at `name`.
    pub(crate) fn kinds_told(&self, name: &Name) -> Vec<RecordType> {
        let node = self.find(name).into_iter();
        node.flat_map(|node| node.iter().map(|(kind, _)| kind))
            .collect()
    }

    /// Whether there is something at `name` or below it (RFC 4592 section 2.2.2).
    pub(crate) fn exists(&self, name: &Name) -> bool {
        self.nodes.get(name).is_some() || self.nodes.has_names_below(name)
    }

    /// Everything, each name's records together, in canonical order.
    pub fn records(&self) -> impl Iterator<Item = Record> + '_ {
        self.nodes
            .iter()
            .flat_map(|node| node.iter().flat_map(|(_, set)| set.records(&node.name)))
    }

    /// Everything as one change: a snapshot.
    pub fn snapshot(&self) -> Change {
        let sets = self.nodes.iter().flat_map(sets_of);
        Change {
            sets: sets.collect(),
            buried: self.buried.iter().collect(),
            moves: Vec::new(),
        }
    }

    /// What is remembered of names that are gone.
    pub(crate) fn buried(&self) -> Vec<(Name, Epoch)> {
        self.buried.iter().collect()
    }

    /// The sets of up to `count` names from `from` on, as a change, and the name behind them.
    pub(crate) fn piece(&self, from: &Name, count: usize) -> (Change, Option<Name>) {
        let mut nodes = self.nodes.iter_from(from);
        let sets = nodes.by_ref().take(count).flat_map(sets_of).collect();
        let change = Change {
            sets,
            ..Change::default()
        };
        (change, nodes.next().map(|node| node.name.clone()))
    }

    /// The number of names.
    pub fn names(&self) -> usize {
        self.nodes.len()
    }

    /// The number of locators in bindings.
    pub fn locators(&self) -> usize {
        self.holders.len()
    }

    /// The number of bindings and of other names.
    pub fn count(&self) -> (usize, usize) {
        let bound = self
            .nodes
            .iter()
            .filter(|node| {
                let bound = Whose::of_owner(&node.name, &self.origin).is_some();
                bound && node.get(RecordType::SVCB).is_some()
            })
            .count();
        (bound, self.nodes.len() - bound)
    }
}

fn sets_of(node: &Node) -> impl Iterator<Item = ((Name, RecordType), Option<RrSet>)> + '_ {
    let sets = node.iter();
    sets.map(|(kind, set)| ((node.name.clone(), kind), Some(set.clone())))
}

impl View for Zone {
    fn set(&self, name: &Name, kind: RecordType) -> Option<&RrSet> {
        self.nodes.get(name)?.get(kind)
    }

    fn kinds(&self, name: &Name) -> Vec<RecordType> {
        let node = self.nodes.get(name);
        node.map_or(Vec::new(), |node| {
            node.iter().map(|(kind, _)| kind).collect()
        })
    }

    fn last_epoch(&self, name: &Name) -> Epoch {
        let held = self.set(name, RecordType::SVCB).and_then(epoch_of);
        held.unwrap_or_else(|| self.buried.last(name))
    }

    fn withdrawn(&self, name: &Name) -> Option<Epoch> {
        self.buried.remembered(name)
    }

    fn holder(&self, locator: Locator) -> Option<&Name> {
        self.holders.get(&locator)
    }

    fn holders_in(&self, locators: IpNet) -> Vec<Name> {
        let first = Locator::new(locators.network());
        let held = first.map(|first| self.holders.range(first..));
        held.into_iter()
            .flatten()
            .take_while(|(locator, _)| locators.contains(&locator.ip()))
            .map(|(_, name)| name.clone())
            .collect()
    }

    fn spans(&self) -> Vec<Span> {
        self.spans.values().flatten().copied().collect()
    }

    fn deep_below(&self, name: &Name) -> Option<Name> {
        let below = self.nodes.iter_from(name).map(|node| &node.name);
        let mut below = below.take_while(|below| name.zone_of(below));
        below.find(|below| spans::is_deep(below, name)).cloned()
    }
}

/// The places in the binding that homes of `prefix` share.
fn spans_of(prefix: IpNet, set: &RrSet) -> Vec<Span> {
    let whose = Whose::new(prefix).ok();
    let shared = whose.and_then(|whose| binding_for(whose, set).ok());
    shared.iter().flat_map(|to| Span::all(prefix, to)).collect()
}

/// The epoch of a binding, whoever's it is.
fn epoch_of(set: &RrSet) -> Option<Epoch> {
    svcb(set).next().and_then(record::epoch)
}

fn svcb(set: &RrSet) -> impl Iterator<Item = &SVCB> + Clone {
    set.data.iter().filter_map(|data| match data {
        RData::SVCB(svcb) => Some(svcb),
        _ => None,
    })
}

/// The locators in the binding of `name`, if it is a home's owner.
fn locators(name: &Name, origin: &Name, set: &RrSet) -> Vec<Locator> {
    let binding = binding_of(name, origin, set);
    binding.map_or_else(Vec::new, |(_, b)| {
        b.entries().iter().map(|e| e.locator).collect()
    })
}

/// The binding that an RRset describes, if it is that of these homes.
pub(crate) fn binding_for(whose: Whose, set: &RrSet) -> Result<Binding, RecordError> {
    whose.from_svcb(svcb(set))
}

/// The binding an RRset at `name` describes, if `name` is a home's owner.
pub fn binding_of(name: &Name, origin: &Name, set: &RrSet) -> Option<(Home, Binding)> {
    let home = record::home(name, origin)?;
    Some((home, record::from_svcb(home, svcb(set)).ok()?))
}

/// RFC 1982: serials wrap, and 0 is left out because some secondaries take it
/// for "unset".
pub fn next_serial(serial: u32) -> u32 {
    match serial.wrapping_add(1) {
        0 => 1,
        next => next,
    }
}

/// RFC 1982 section 3.2: `a` is newer than `b`.
pub fn serial_newer(a: u32, b: u32) -> bool {
    a != b && a.wrapping_sub(b) < 1 << 31
}

pub(crate) fn lower(name: &Name) -> Name {
    let mut name = name.to_lowercase();
    name.set_fqdn(true);
    name
}

fn apex_sets(apex: &Apex, serial: u32) -> BTreeMap<(Name, RecordType), Option<RrSet>> {
    let origin = lower(&apex.origin);
    let mname = apex.nameservers.first().unwrap_or(&origin);
    // Refresh, retry, expire: for secondaries, which are also notified.
    let soa = SOA::new(
        lower(mname),
        lower(&apex.contact),
        serial,
        60,
        10,
        86_400,
        apex.negative_ttl,
    );
    let ns = apex.nameservers.iter().map(|n| RData::NS(NS(lower(n))));
    let set = |data| RrSet {
        ttl: apex.ttl,
        data,
    };
    BTreeMap::from([
        (
            (origin.clone(), RecordType::SOA),
            Some(set(vec![RData::SOA(soa)])),
        ),
        ((origin, RecordType::NS), Some(set(ns.collect()))),
    ])
}

#[cfg(test)]
pub(crate) mod tests {
    use hickory_proto::rr::rdata::{CNAME, TXT};

    use super::*;

    pub(crate) fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    pub(crate) fn apex() -> Apex {
        Apex {
            origin: name("map.example."),
            nameservers: vec![name("ns1.map.example."), name("ns2.example.net.")],
            contact: name("hostmaster.map.example."),
            ttl: 300,
            negative_ttl: 2,
        }
    }

    pub(crate) fn put(zone: &mut Zone, owner: &str, data: RData) {
        let set = RrSet {
            ttl: 5,
            data: vec![data.clone()],
        };
        zone.apply(Change {
            sets: BTreeMap::from([((name(owner), data.record_type()), Some(set))]),
            ..Change::default()
        });
    }

    fn text() -> RData {
        RData::TXT(TXT::new(vec!["x".to_owned()]))
    }

    #[test]
    fn negative_answers_tell_missing_names_from_missing_types() {
        let mut zone = Zone::new(&apex());
        put(&mut zone, "10.2.0.192.h4.map.example.", text());
        let code = |owner: &str| zone.answer(&name(owner), RecordType::SVCB).code;
        assert_eq!(code("10.2.0.192.h4.map.example."), ResponseCode::NoError);
        for empty in ["2.0.192.h4.map.example.", "H4.map.example."] {
            let answer = zone.answer(&name(empty), RecordType::SVCB);
            assert_eq!(answer.code, ResponseCode::NoError, "{empty}");
            assert!(answer.answers.is_empty());
            assert_eq!(answer.authority.len(), 1);
            assert_eq!(answer.authority[0].record_type(), RecordType::SOA);
            assert_eq!(answer.authority[0].ttl, 2);
        }
        for missing in [
            "11.2.0.192.h4.map.example.",
            "h6.map.example.",
            "1.10.2.0.192.h4.map.example.",
            "0.192.h.map.example.",
        ] {
            assert_eq!(code(missing), ResponseCode::NXDomain, "{missing}");
        }
        assert_eq!(code("example."), ResponseCode::Refused);
        assert_eq!(code("xmap.example."), ResponseCode::Refused);
    }

    #[test]
    fn an_emptied_name_leaves_nothing_behind() {
        let mut zone = Zone::new(&apex());
        let before = zone.snapshot();
        put(&mut zone, "a.b.map.example.", text());
        zone.apply(Change {
            sets: BTreeMap::from([((name("a.b.map.example."), RecordType::TXT), None)]),
            ..Change::default()
        });
        assert_eq!(zone.snapshot(), before);
        let answer = zone.answer(&name("b.map.example."), RecordType::TXT);
        assert_eq!(answer.code, ResponseCode::NXDomain);
    }

    #[test]
    fn cnames_are_followed_and_loops_end() {
        let mut zone = Zone::new(&apex());
        let cname = |target: &str| RData::CNAME(CNAME(name(target)));
        put(&mut zone, "a.map.example.", cname("b.map.example."));
        put(&mut zone, "b.map.example.", text());
        put(&mut zone, "c.map.example.", cname("c.map.example."));
        put(&mut zone, "d.map.example.", cname("nowhere.map.example."));
        let ask = |owner: &str, kind| zone.answer(&name(owner), kind);
        assert_eq!(ask("a.map.example.", RecordType::TXT).answers.len(), 2);
        assert_eq!(ask("a.map.example.", RecordType::CNAME).answers.len(), 1);
        let circle = ask("c.map.example.", RecordType::TXT);
        assert_eq!((circle.answers.len(), circle.authority.len()), (1, 0));
        let dangling = ask("d.map.example.", RecordType::TXT);
        assert_eq!(dangling.code, ResponseCode::NXDomain);
    }

    #[test]
    fn a_snapshot_makes_the_same_zone() {
        let mut zone = Zone::new(&apex());
        put(&mut zone, "a.map.example.", text());
        zone.buried.bury(name("b.map.example."), Epoch(7));
        let mut copy = Zone::new(&apex());
        copy.apply(zone.snapshot());
        assert_eq!(copy.snapshot(), zone.snapshot());
    }

    #[test]
    fn a_new_apex_raises_the_serial_and_the_same_one_does_not() {
        let mut zone = Zone::new(&apex());
        assert!(zone.reconfigure(&apex()).is_empty());
        let mut other = apex();
        other.nameservers.pop();
        let change = zone.reconfigure(&other);
        zone.apply(change);
        assert_eq!(zone.serial(), 2);
        assert!(zone.reconfigure(&other).is_empty());
    }

    #[test]
    fn serials_wrap() {
        assert_eq!(next_serial(u32::MAX), 1);
        assert!(serial_newer(1, u32::MAX));
        assert!(!serial_newer(5, 5));
        assert!(!serial_newer(4, 5));
    }
}

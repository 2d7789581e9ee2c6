//! What has changed of late, for secondaries that have an older copy (RFC 1995). Pure.
//!
//! Kept are only the RRsets that changes have replaced: the new ones are in the zone, or were
//! replaced in turn. So "what has changed since serial S" is, for every RRset touched since,
//! the oldest of those kept beside what the zone holds now: one difference, condensed as
//! RFC 1995 section 5 allows, in which a binding that moved a hundred times stands once.
//!
//! # Limitations
//! It begins empty: a secondary that asks for what was before the start gets the whole zone.
//! A difference is put together while nothing can be published, some us for each set in it.
//! The SOA is taken to change in nothing but its serial; the rest of it comes from the
//! configuration, which is read at the start.

use std::collections::{HashMap, VecDeque};

use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder, BinEncoder};

use crate::zone::{Change, RrSet, View as _, Zone, emit_record, serial_newer};

/// RRsets kept at most: two seconds of as many changes as the disk takes, and of usual ones
/// days. Secondaries ask within a second; one that was away for longer is as well off with the
/// whole zone.
const SETS: usize = 1 << 15;

/// Octets of records kept at most: what [`SETS`] bindings need five times over, so that only large
/// sets come up against it.
const OCTETS: usize = 16 << 20;

/// An RRset as it was before a change.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Replaced {
    /// The serial that the change was made on.
    serial: u32,
    name: Name,
    kind: RecordType,
    /// Its records in wire form, a third of what they take otherwise; empty if there were none.
    records: Box<[u8]>,
}

impl Replaced {
    fn set(&self) -> Option<RrSet> {
        let mut decoder = BinDecoder::new(&self.records);
        let mut set: Option<RrSet> = None;
        while !decoder.is_empty() {
            let Record { ttl, data, .. } = Record::read(&mut decoder).ok()?;
            let none = || RrSet {
                ttl,
                data: Vec::new(),
            };
            set.get_or_insert_with(none).data.push(data);
        }
        set
    }
}

/// The records of a set, all at the root.
fn wire(set: &RrSet) -> Box<[u8]> {
    let mut octets = Vec::new();
    let mut encoder = BinEncoder::new(&mut octets);
    for data in &set.data {
        // What has no wire form has never come over a wire.
        emit_record(&mut encoder, &Name::root(), set.ttl, data).unwrap_or_default();
    }
    octets.into()
}

/// What a change replaces, to be noted once it is published.
#[derive(Debug, Default)]
pub struct Before(Vec<Replaced>);

/// What a copy at an older serial lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Records that it has and the zone has not. The SOA is in neither list.
    pub deleted: Vec<Record>,
    /// Records that the zone has and it has not.
    pub added: Vec<Record>,
}

/// The RRsets replaced by the latest changes, oldest first.
#[derive(Debug)]
pub struct History {
    replaced: VecDeque<Replaced>,
    octets: usize,
    most: (usize, usize),
}

impl Default for History {
    fn default() -> Self {
        History::of(SETS, OCTETS)
    }
}

impl Before {
    /// What `change` is about to replace in `zone`.
    pub fn of(zone: &Zone, change: &Change) -> Self {
        let soa = (zone.origin(), RecordType::SOA);
        let touched = change.sets.keys().filter(|(n, kind)| (n, *kind) != soa);
        let replaced = touched.map(|(name, kind)| {
            let set = zone.set(name, *kind);
            Replaced {
                serial: zone.serial(),
                name: name.clone(),
                kind: *kind,
                records: set.map(wire).unwrap_or_default(),
            }
        });
        Before(replaced.collect())
    }
}

impl History {
    fn of(sets: usize, octets: usize) -> Self {
        History {
            replaced: VecDeque::new(),
            octets: 0,
            most: (sets, octets),
        }
    }

    /// Notes a change that is published in the same step.
    pub fn note(&mut self, before: Before) {
        for replaced in before.0 {
            self.octets += replaced.records.len();
            self.replaced.push_back(replaced);
        }
        while self.replaced.len() > self.most.0 || self.octets > self.most.1 {
            self.forget_oldest();
        }
    }

    /// Half a change is none: all that it replaced goes at once.
    fn forget_oldest(&mut self) {
        let oldest = self.replaced.front().map(|replaced| replaced.serial);
        while self.replaced.front().map(|replaced| replaced.serial) == oldest {
            let Some(replaced) = self.replaced.pop_front() else {
                return;
            };
            self.octets -= replaced.records.len();
        }
    }

    /// How many RRsets were replaced since the zone was at `serial`, each as often as it was;
    /// `None` if that is not known.
    pub fn count_since(&self, serial: u32) -> Option<usize> {
        // Serials wrap (RFC 1982), and all that are kept lie within half their circle.
        let older = |replaced: &Replaced| serial_newer(serial, replaced.serial);
        let first = self.replaced.partition_point(older);
        let known = self.replaced.get(first)?.serial == serial;
        known.then_some(self.replaced.len() - first)
    }

    /// What a copy of `zone` at `serial` lacks; `None` if that is not known.
    pub fn since(&self, serial: u32, zone: &Zone) -> Option<Difference> {
        let count = self.count_since(serial)?;
        let mut oldest = HashMap::new();
        for replaced in self.replaced.iter().skip(self.replaced.len() - count) {
            let key = (&replaced.name, replaced.kind);
            oldest.entry(key).or_insert(replaced);
        }
        let mut difference = Difference::default();
        for ((name, kind), old) in oldest {
            let (old, new) = (old.set(), zone.set(name, kind));
            let old = old.as_ref();
            difference.deleted.extend(lacking(name, old, new));
            difference.added.extend(lacking(name, new, old));
        }
        Some(difference)
    }
}

/// The records of `set` that are not in `other`.
fn lacking<'a>(
    name: &'a Name,
    set: Option<&'a RrSet>,
    other: Option<&'a RrSet>,
) -> impl Iterator<Item = Record> + 'a {
    let ttl = set.map(|set| set.ttl);
    let kept: &[RData] = match other {
        Some(other) if Some(other.ttl) == ttl => &other.data,
        _ => &[],
    };
    let records = set.into_iter().flat_map(|set| set.records(name));
    records.filter(|record| !kept.contains(&record.data))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use hickory_proto::rr::rdata::TXT;
    use proptest::prelude::*;

    use super::*;
    use crate::zone::next_serial;
    use crate::zone::tests::{apex, name};

    /// A zone at `serial`.
    fn zone(serial: u32) -> Zone {
        let mut zone = Zone::new(&apex());
        zone.apply(raise(&zone, serial));
        zone
    }

    /// The change of the SOA alone.
    fn raise(zone: &Zone, serial: u32) -> Change {
        let mut soa = zone.set(zone.origin(), RecordType::SOA).unwrap().clone();
        for data in &mut soa.data {
            if let RData::SOA(soa) = data {
                soa.serial = serial;
            }
        }
        Change {
            sets: BTreeMap::from([((zone.origin().clone(), RecordType::SOA), Some(soa))]),
            ..Change::default()
        }
    }

    fn text(words: &[u8]) -> RData {
        RData::TXT(TXT::from_bytes(vec![words]))
    }

    /// Publishes: each owner gets a TTL and texts, or loses them.
    fn publish(zone: &mut Zone, history: &mut History, sets: &[(u8, u32, Vec<u8>)]) {
        let mut change = raise(zone, next_serial(zone.serial()));
        for (owner, ttl, texts) in sets {
            let texts: BTreeSet<u8> = texts.iter().copied().collect();
            let data: Vec<RData> = texts.into_iter().map(|t| text(&[t])).collect();
            let key = (name(&format!("n{owner}.map.example.")), RecordType::TXT);
            let set = (!data.is_empty()).then_some(RrSet { ttl: *ttl, data });
            change.sets.insert(key, set);
        }
        history.note(Before::of(zone, &change));
        zone.apply(change);
    }

    /// All but the SOA, as text.
    fn content(zone: &Zone) -> BTreeSet<String> {
        let records = zone
            .records()
            .filter(|r| r.record_type() != RecordType::SOA);
        records.map(|record| record.to_string()).collect()
    }

    #[test]
    fn what_is_not_known_is_not_told() {
        let (mut zone, mut history) = (zone(7), History::default());
        assert_eq!(history.since(7, &zone), None);
        publish(&mut zone, &mut history, &[(1, 5, vec![1])]);
        assert_eq!(history.since(6, &zone), None);
        assert_eq!(history.since(8, &zone), None);
        assert_eq!(history.since(7 + (1 << 31), &zone), None);
        assert_eq!(history.since(7, &zone).unwrap().added.len(), 1);
    }

    #[test]
    fn a_set_that_changed_often_stands_once_and_one_that_went_back_not_at_all() {
        let (mut zone, mut history) = (zone(1), History::default());
        for i in 0..100 {
            publish(&mut zone, &mut history, &[(1, 5, vec![i])]);
        }
        publish(&mut zone, &mut history, &[(2, 5, vec![1])]);
        publish(&mut zone, &mut history, &[(2, 5, vec![])]);
        let difference = history.since(2, &zone).unwrap();
        let texts = |records: &[Record]| -> Vec<RData> {
            records.iter().map(|record| record.data.clone()).collect()
        };
        assert_eq!(texts(&difference.deleted), [text(&[0])]);
        assert_eq!(texts(&difference.added), [text(&[99])]);
        assert_eq!(history.count_since(2), Some(101));
    }

    #[test]
    fn records_that_stay_are_left_out_unless_their_ttl_changes() {
        let (mut zone, mut history) = (zone(1), History::default());
        publish(&mut zone, &mut history, &[(1, 5, vec![1, 2])]);
        publish(&mut zone, &mut history, &[(1, 5, vec![2, 3])]);
        let difference = history.since(2, &zone).unwrap();
        let lengths = (difference.deleted.len(), difference.added.len());
        assert_eq!(lengths, (1, 1));
        publish(&mut zone, &mut history, &[(1, 6, vec![2, 3])]);
        let difference = history.since(2, &zone).unwrap();
        let lengths = (difference.deleted.len(), difference.added.len());
        assert_eq!(lengths, (2, 2));
    }

    #[test]
    fn serials_wrap() {
        let (mut zone, mut history) = (zone(u32::MAX - 1), History::default());
        for i in 0..4 {
            publish(&mut zone, &mut history, &[(i, 5, vec![1])]);
        }
        assert_eq!(zone.serial(), 3);
        let known = [u32::MAX - 1, u32::MAX, 1, 2];
        assert_eq!(
            known.map(|s| history.count_since(s)),
            [4, 3, 2, 1].map(Some)
        );
        assert_eq!(history.count_since(0), None);
    }

    #[test]
    fn the_oldest_is_forgotten_by_count_and_by_size_and_whole() {
        let mut zone = zone(1);
        let mut few = History::of(5, OCTETS);
        for i in 0..3 {
            publish(
                &mut zone,
                &mut few,
                &[(i, 5, vec![1]), (i + 10, 5, vec![1])],
            );
        }
        assert_eq!(few.count_since(1), None);
        assert_eq!(few.count_since(2), Some(4));
        let mut small = History::of(SETS, 30);
        for i in 0..3 {
            publish(&mut zone, &mut small, &[(1, 5, vec![1, i + 2])]);
        }
        // 13 octets are a text of one octet; the first change replaced one, the others two each.
        assert_eq!(small.octets, 26);
        assert_eq!(small.count_since(5), None);
        assert_eq!(small.count_since(6), Some(1));
    }

    proptest! {
        /// A secondary that deletes and adds what it is told has the zone.
        #[test]
        fn a_copy_and_what_it_lacks_make_the_zone(
            start in prop_oneof![Just(1), Just(u32::MAX - 10), any::<u32>()],
            most in 1usize..60,
            changes in proptest::collection::vec(
                proptest::collection::vec(
                    (0u8..6, 5u32..7, proptest::collection::vec(0u8..5, 0..4)),
                    1..4,
                ),
                1..30,
            ),
        ) {
            let (mut zone, mut history) = (zone(start), History::of(most, OCTETS));
            let mut copies = vec![zone.clone()];
            for sets in &changes {
                publish(&mut zone, &mut history, sets);
                copies.push(zone.clone());
            }
            copies.pop();
            let mut known = false;
            for copy in &copies {
                let difference = history.since(copy.serial(), &zone);
                // What is known once stays known for all that is newer.
                prop_assert!(difference.is_some() || !known);
                let Some(difference) = difference else { continue };
                known = true;
                let mut content_then = content(copy);
                for record in &difference.deleted {
                    prop_assert!(content_then.remove(&record.to_string()));
                }
                for record in &difference.added {
                    prop_assert!(content_then.insert(record.to_string()));
                }
                prop_assert_eq!(content_then, content(&zone));
            }
        }
    }
}

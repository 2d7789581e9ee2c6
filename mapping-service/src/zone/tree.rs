//! The names of a zone in canonical order (RFC 4034 section 6.1), and the RRsets of each.
//!
//! A name has a key of octets that sort as names do, since comparing names label by label takes
//! most of the time of a look-up among many. Questions are for one name, which is found by the hash
//! of its key: on the way through an ordered tree each comparison would wait for memory.

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, RandomState};
use std::ops::Bound;
use std::sync::Arc;

use hashbrown::HashTable;
use hickory_proto::rr::{Name, RecordType};

use super::RrSet;

/// Octets that sort as names do: labels from the root on, in lower case, each with a 0 behind
/// it; so the keys of all names below a name begin with its own. 0 and 1 in a label are escaped.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(Arc<[u8]>);

impl Key {
    pub(super) fn of(name: &Name) -> Self {
        Key(octets_of(name).into())
    }

    /// The name that it is of.
    pub(super) fn name(&self) -> Option<Name> {
        let mut labels = vec![Vec::new()];
        let mut octets = self.0.iter();
        while let Some(octet) = octets.next() {
            match octet {
                0 => labels.push(Vec::new()),
                1 => labels.last_mut()?.push(octets.next()?.checked_sub(1)?),
                octet => labels.last_mut()?.push(*octet),
            }
        }
        labels.pop();
        let mut name = Name::from_labels(labels.iter().rev().map(Vec::as_slice)).ok()?;
        name.set_fqdn(true);
        Some(name)
    }
}

/// What the key of a name holds.
fn octets_of(name: &Name) -> Vec<u8> {
    let mut key = Vec::with_capacity(name.len() + 1);
    name.iter().rev().for_each(|label| put(&mut key, label));
    key
}

fn put(key: &mut Vec<u8>, label: &[u8]) {
    for octet in label {
        match octet {
            0 | 1 => key.extend([1, octet + 1]),
            octet => key.push(octet.to_ascii_lowercase()),
        }
    }
    key.push(0);
}

/// A name and its RRsets, of which there is at least one.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// In lower case.
    pub(super) name: Name,
    /// In the order of their types.
    sets: Vec<(RecordType, RrSet)>,
}

impl Node {
    pub(super) fn get(&self, kind: RecordType) -> Option<&RrSet> {
        let at = self.find(kind).ok()?;
        Some(&self.sets[at].1)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (RecordType, &RrSet)> {
        self.sets.iter().map(|(kind, set)| (*kind, set))
    }

    fn find(&self, kind: RecordType) -> Result<usize, usize> {
        self.sets.binary_search_by_key(&kind, |(kind, _)| *kind)
    }
}

/// See the module's page one.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    order: BTreeSet<Key>,
    nodes: Nodes,
}

impl Tree {
    pub(super) fn get(&self, name: &Name) -> Option<&Node> {
        self.nodes.get(&octets_of(name))
    }

    /// The node of a name in uncompressed wire form.
    pub(super) fn at(&self, name: &[u8]) -> Option<&Node> {
        // As many labels as fit into 255 octets.
        let mut labels: [&[u8]; 128] = [&[]; 128];
        let (mut count, mut rest) = (0, name);
        while let [length @ 1..=255, tail @ ..] = rest {
            let (label, tail) = tail.split_at_checked(usize::from(*length))?;
            *labels.get_mut(count)? = label;
            count += 1;
            rest = tail;
        }
        let mut key = Vec::with_capacity(name.len() + 1);
        labels[..count]
            .iter()
            .rev()
            .for_each(|label| put(&mut key, label));
        self.nodes.get(&key)
    }

    pub(super) fn insert(&mut self, name: Name, kind: RecordType, set: RrSet) {
        let octets = octets_of(&name);
        let hash = self.nodes.hash(&octets);
        let Some(node) = self.nodes.get_mut(hash, &octets) else {
            let key = Key(octets.into());
            let sets = vec![(kind, set)];
            self.nodes.insert(hash, key.clone(), Node { name, sets });
            self.order.insert(key);
            return;
        };
        match node.find(kind) {
            Ok(at) => node.sets[at].1 = set,
            Err(at) => node.sets.insert(at, (kind, set)),
        }
    }

    pub(super) fn remove(&mut self, name: &Name, kind: RecordType) {
        let key = Key::of(name);
        let hash = self.nodes.hash(&key.0);
        let Some(node) = self.nodes.get_mut(hash, &key.0) else {
            return;
        };
        if let Ok(at) = node.find(kind) {
            node.sets.remove(at);
        }
        if node.sets.is_empty() {
            self.nodes.remove(hash, &key.0);
            self.order.remove(&key);
        }
    }

    /// An empty non-terminal exists although it owns nothing (RFC 4592 section 2.2.2).
    pub(super) fn has_names_below(&self, name: &Name) -> bool {
        let key = Key::of(name);
        let after = (Bound::Excluded(&key), Bound::Unbounded);
        let next = self.order.range::<Key, _>(after).next();
        next.is_some_and(|next| next.0.starts_with(&key.0))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Node> {
        self.order.iter().filter_map(|key| self.nodes.get(&key.0))
    }

    /// From `name` on, or from what would come behind it.
    pub(super) fn iter_from(&self, name: &Name) -> impl Iterator<Item = &Node> {
        let keys = self.order.range(Key::of(name)..);
        keys.filter_map(|key| self.nodes.get(&key.0))
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }
}

/// Tables that grow by themselves: all readers wait while one is made larger.
const PARTS: usize = 256;

/// Nodes by the hash of their keys, in no order.
#[derive(Clone, Debug)]
struct Nodes {
    seed: RandomState,
    parts: Box<[HashTable<Slot>]>,
}

/// What is moved when a table grows, for which nothing else is looked at.
#[derive(Clone, Debug)]
struct Slot {
    hash: u64,
    entry: Box<(Key, Node)>,
}

impl Slot {
    fn is(&self, hash: u64, key: &[u8]) -> bool {
        self.hash == hash && *self.entry.0.0 == *key
    }
}

impl Default for Nodes {
    fn default() -> Self {
        Nodes {
            seed: RandomState::new(),
            parts: (0..PARTS).map(|_| HashTable::new()).collect(),
        }
    }
}

impl Nodes {
    fn hash(&self, key: &[u8]) -> u64 {
        self.seed.hash_one(key)
    }

    /// Other bits than those that a table goes by.
    fn part(hash: u64) -> usize {
        (hash >> 32) as usize % PARTS
    }

    fn get(&self, key: &[u8]) -> Option<&Node> {
        let hash = self.hash(key);
        let found = self.parts[Self::part(hash)].find(hash, |slot| slot.is(hash, key));
        found.map(|slot| &slot.entry.1)
    }

    fn get_mut(&mut self, hash: u64, key: &[u8]) -> Option<&mut Node> {
        let part = &mut self.parts[Self::part(hash)];
        let found = part.find_mut(hash, |slot| slot.is(hash, key));
        found.map(|slot| &mut slot.entry.1)
    }

    /// There is none with this key yet.
    fn insert(&mut self, hash: u64, key: Key, node: Node) {
        let entry = Box::new((key, node));
        let part = &mut self.parts[Self::part(hash)];
        part.insert_unique(hash, Slot { hash, entry }, |slot| slot.hash);
    }

    fn remove(&mut self, hash: u64, key: &[u8]) {
        let part = &mut self.parts[Self::part(hash)];
        if let Ok(there) = part.find_entry(hash, |slot| slot.is(hash, key)) {
            there.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// hickory compares names in canonical order.
        #[test]
        fn keys_sort_as_names_do(
            a in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..4), 0..4),
            b in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..4), 0..4),
        ) {
            let name = |labels: &Vec<Vec<u8>>| {
                let mut name = Name::from_labels(labels.iter().map(Vec::as_slice)).unwrap();
                name.set_fqdn(true);
                name.to_lowercase()
            };
            let (a, b) = (name(&a), name(&b));
            prop_assert_eq!(Key::of(&a).cmp(&Key::of(&b)), a.cmp(&b));
            prop_assert_eq!(Key::of(&a).name(), Some(a.clone()));
            let mut tree = Tree::default();
            let set = RrSet { ttl: 0, data: Vec::new() };
            tree.insert(a.clone(), RecordType::TXT, set);
            let wire = hickory_proto::serialize::binary::BinEncodable::to_bytes(&b).unwrap();
            prop_assert_eq!(tree.at(&wire).is_some(), a == b);
            prop_assert_eq!(Key::of(&b).0.starts_with(&Key::of(&a).0), a.zone_of(&b));
        }
    }
}

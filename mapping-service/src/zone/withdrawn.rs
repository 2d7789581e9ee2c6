//! Homes that had a binding of their own, in prefixes whose binding is older: what says so in the
//! zone itself. Pure.
//!
//! A wildcard answers for every name that is not there, so one must be there, or a secondary (or
//! whoever imports the zone) would take the home back in time, to where its prefix was before:
//!
//! ```text
//! 10.2.0.192.h4.map.example. 5 IN TXT "withdrawn" "epoch=1795420470"
//! ```
//!
//! It comes and goes by itself, in the change that makes the difference.

use std::collections::BTreeSet;

use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::{Name, RData, RecordType};
use ipnet::IpNet;
use mat_proto::{Epoch, Home, record};

use super::rules::MAX_TTL;
use super::{Change, RrSet, View, epoch_of};

/// The type of the record, which stands for nothing else at a home's owner.
pub(super) const KIND: RecordType = RecordType::TXT;

const WORD: &str = "withdrawn";
const EPOCH: &str = "epoch=";

/// Says that a home's binding was withdrawn at `epoch`.
fn note(epoch: Epoch) -> RrSet {
    let words = vec![WORD.to_owned(), format!("{EPOCH}{epoch}")];
    RrSet {
        ttl: MAX_TTL,
        data: vec![RData::TXT(TXT::new(words))],
    }
}

/// The epoch at which a home's binding was withdrawn, if the set says that.
pub(super) fn epoch(set: &RrSet) -> Option<Epoch> {
    let [RData::TXT(txt)] = set.data.as_slice() else {
        return None;
    };
    let [word, epoch] = &txt.txt_data[..] else {
        return None;
    };
    let digits = std::str::from_utf8(epoch).ok()?.strip_prefix(EPOCH)?;
    let epoch = Epoch(digits.parse().ok()?);
    (**word == *WORD.as_bytes() && epoch.to_string() == digits).then_some(epoch)
}

/// Has the homes that `change` concerns say of themselves what they are after it.
pub(super) fn mark(view: &impl View, origin: &Name, change: &mut Change) {
    let touched = change.sets.keys();
    let touched = touched.filter(|(_, kind)| matches!(*kind, RecordType::SVCB | KIND));
    let touched = touched.map(|(name, _)| name.clone());
    let mut names: BTreeSet<Name> = touched
        .filter(|name| record::home(name, origin).is_some())
        .collect();
    let prefixes = change.moves.iter().filter_map(|step| step.whose.prefix());
    names.extend(prefixes.flat_map(|prefix| one_below(prefix, origin)));
    for name in names {
        let new = outlasted(view, change, &name).map(note);
        let (held, key) = (view.set(&name, KIND), (name.clone(), KIND));
        if held == new.as_ref() {
            change.sets.remove(&key);
        } else {
            change.sets.insert(key, new);
        }
    }
}

/// The last epoch of a home without a binding, if that of its prefix is not above it once `change`
/// is made.
fn outlasted(view: &impl View, change: &Change, name: &Name) -> Option<Epoch> {
    if after(view, change, name).is_some() {
        return None;
    }
    let shared = name.base_name().prepend_label("*").ok()?;
    let shared = epoch_of(after(view, change, &shared)?)?;
    let given = change.sets.get(&(name.clone(), KIND));
    let given = given.and_then(Option::as_ref);
    let said = [given, view.set(name, KIND)].map(|set| epoch(set?));
    let known = [change.buried.get(name).copied(), view.withdrawn(name)];
    let last = said.into_iter().chain(known).max().flatten();
    last.filter(|last| shared <= *last)
}

/// The binding at `name` once `change` is made.
fn after<'a>(view: &'a impl View, change: &'a Change, name: &Name) -> Option<&'a RrSet> {
    let key = (name.clone(), RecordType::SVCB);
    match change.sets.get(&key) {
        Some(set) => set.as_ref(),
        None => view.set(name, RecordType::SVCB),
    }
}

/// The owners of homes one label below the wildcard of `prefix`: no others have names of their own
/// beside it.
fn one_below(prefix: IpNet, origin: &Name) -> Vec<Name> {
    let step = match prefix {
        IpNet::V4(_) => 8,
        IpNet::V6(_) => 4,
    };
    if prefix.prefix_len() + step != prefix.max_prefix_len() {
        return Vec::new();
    }
    let homes = prefix
        .subnets(prefix.max_prefix_len())
        .into_iter()
        .flatten();
    let homes = homes.filter_map(|home| Home::new(home.addr()).ok());
    homes
        .filter_map(|home| record::owner(home, origin).ok())
        .collect()
}

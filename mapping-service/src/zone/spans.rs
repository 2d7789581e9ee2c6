//! Bindings that all homes of a prefix share: nothing is in the way of their wildcards, and each
//! home is alone at its locator. Pure.
//!
//! Each change that registers something is held against all of them, since there are few.

use hickory_proto::rr::{Name, RecordType};
use ipnet::IpNet;
use mat_proto::{Entry, Home, Locator, record};

use super::rules::Breach;
use super::{Change, View, binding_of};

/// Prefixes that share a binding, at most.
pub const MAX_PREFIXES: usize = 1024;

/// Such a binding, or one of the places in it.
#[derive(Clone, Copy)]
struct Span<'n> {
    /// Its owner, a wildcard.
    wildcard: &'n Name,
    /// Whose homes share it.
    homes: IpNet,
    /// One locator for each.
    locators: IpNet,
}

impl Span<'_> {
    fn overlaps(&self, other: &Span) -> bool {
        let (a, b) = (&self.locators, &other.locators);
        a.contains(b) || b.contains(a)
    }

    /// Whether the locator is one of these, and not that of this home.
    fn is_anothers(&self, home: Home, locator: Locator) -> bool {
        self.locators.contains(&locator.ip()) && self.place(home) != Some(locator)
    }

    fn place(&self, home: Home) -> Option<Locator> {
        let first = Locator::new(self.locators.network()).ok()?;
        let place = record::in_place(home, first, self.locators.prefix_len());
        place.ok().filter(|_| self.homes.contains(&home.ip()))
    }

    /// Fewer labels than a name has that takes others out of it.
    fn reach(&self) -> usize {
        self.wildcard.iter().count()
    }

    fn breach(&self, locators: IpNet) -> Breach {
        let homes = self.homes;
        Breach::Span { locators, homes }
    }
}

/// Whether `change` leaves them apart from each other, and from everything else.
pub(super) fn apart(view: &impl View, origin: &Name, change: &Change) -> Result<(), Breach> {
    let changed = |name: &Name| {
        let key = (name.clone(), RecordType::SVCB);
        change.sets.contains_key(&key)
    };
    let mut known = view.spans();
    known.retain(|(name, _)| !changed(name));
    let new = registered(origin, change);
    let mut owners: Vec<_> = known.iter().map(|(name, _)| name).collect();
    owners.dedup();
    if !new.is_empty() && owners.len() >= MAX_PREFIXES {
        return Err(Breach::TooManyPrefixes);
    }
    let known = known.iter().filter_map(|(wildcard, locators)| {
        Some(Span {
            wildcard,
            homes: record::prefix(wildcard, origin)?,
            locators: *locators,
        })
    });
    let known: Vec<Span> = known.collect();
    for (i, span) in new.iter().enumerate() {
        let others = known.iter().chain(&new[..i]);
        let mut others = others.filter(|other| other.wildcard != span.wildcard);
        if let Some(other) = others.find(|other| other.overlaps(span)) {
            return Err(other.breach(span.locators));
        }
        if let Some(name) = view.deep_below(&span.wildcard.base_name()) {
            let homes = span.homes;
            return Err(Breach::Deeper { name, homes });
        }
        for name in view.holders_in(span.locators) {
            let held = view
                .set(&name, RecordType::SVCB)
                .filter(|_| !changed(&name));
            let Some((home, held)) = held.and_then(|held| binding_of(&name, origin, held)) else {
                continue;
            };
            let mut entries = held.entries().iter();
            if entries.any(|entry| span.is_anothers(home, entry.locator)) {
                let locators = span.locators;
                return Err(Breach::Occupied { locators, home });
            }
        }
    }
    for span in known.iter().chain(&new) {
        let above = span.wildcard.base_name();
        let came = change.sets.iter().filter(|(_, set)| set.is_some());
        let mut came = came.map(|((name, _), _)| name);
        let deep = |name: &&Name| above.zone_of(name) && name.iter().count() > span.reach();
        if let Some(name) = came.find(deep) {
            let (name, homes) = (name.clone(), span.homes);
            return Err(Breach::Deeper { name, homes });
        }
        for step in change.moves.iter().filter(|step| step.prefix.is_none()) {
            let mut entries = step.to.iter().flat_map(|to| to.entries());
            if let Some(entry) = entries.find(|entry| span.is_anothers(step.home, entry.locator)) {
                return Err(span.breach(entry.locator.ip().into()));
            }
        }
    }
    Ok(())
}

/// What `change` registers for prefixes.
fn registered<'c>(origin: &Name, change: &'c Change) -> Vec<Span<'c>> {
    let shared = change.moves.iter().filter(|step| step.prefix.is_some());
    shared
        .filter_map(|step| {
            let (homes, to) = (step.prefix?, step.to.as_ref()?);
            let mut names = change.sets.keys().map(|(name, _)| name);
            let wildcard = names.find(|name| record::prefix(name, origin) == Some(homes))?;
            Some((wildcard, homes, to))
        })
        .flat_map(|(wildcard, homes, to)| {
            let span = move |entry: &Entry| {
                Some(Span {
                    wildcard,
                    homes,
                    locators: IpNet::new(entry.locator.ip(), homes.prefix_len()).ok()?,
                })
            };
            to.entries().iter().filter_map(span)
        })
        .collect()
}

//! Bindings that all homes of a prefix share: nothing is in the way of their wildcards, and each
//! home is alone at its locator. Pure.
//!
//! Each change that registers something is held against all of them, since there are few.

use std::collections::BTreeSet;

use hickory_proto::rr::{Name, RecordType};
use ipnet::IpNet;
use mat_proto::{Binding, Home, Locator, record};

use super::rules::Breach;
use super::{Change, View, binding_of};

/// Prefixes that share a binding, at most.
pub const MAX_PREFIXES: usize = 1024;

/// Homes that share a binding, and one of the places in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Whose it is.
    pub homes: IpNet,
    /// One locator for each of them.
    pub locators: IpNet,
}

impl Span {
    /// All places in the binding that these homes share.
    pub(super) fn all(homes: IpNet, shared: &Binding) -> impl Iterator<Item = Span> {
        shared.entries().iter().filter_map(move |entry| {
            let locators = IpNet::new(entry.locator.ip(), homes.prefix_len()).ok()?;
            Some(Span { homes, locators })
        })
    }

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

    fn breach(&self, locators: IpNet) -> Breach {
        let homes = self.homes;
        Breach::Span { locators, homes }
    }
}

/// Whether a name is so far below another one that a wildcard there no longer answers for its
/// neighbours (the closest encloser, RFC 4592).
pub(super) fn is_deep(name: &Name, above: &Name) -> bool {
    above.zone_of(name) && name.iter().count() >= above.iter().count() + 2
}

/// Whether `change` leaves them apart from each other, and from everything else.
pub(super) fn apart(view: &impl View, origin: &Name, change: &Change) -> Result<(), Breach> {
    let mut known = view.spans();
    known.retain(|span| {
        change
            .moves
            .iter()
            .all(|m| m.whose.prefix() != Some(span.homes))
    });
    let shared = change.moves.iter();
    let shared = shared.filter_map(|step| Some((step.whose.prefix()?, step.to.as_ref()?)));
    let new: Vec<Span> = shared
        .flat_map(|(homes, to)| Span::all(homes, to))
        .collect();
    let prefixes: BTreeSet<_> = known.iter().map(|span| span.homes).collect();
    if !new.is_empty() && prefixes.len() >= MAX_PREFIXES {
        return Err(Breach::TooManyPrefixes);
    }
    let above = |span: &Span| record::above(span.homes, origin).ok();
    for (i, span) in new.iter().enumerate() {
        let Span { homes, locators } = *span;
        let others = known.iter().chain(&new[..i]);
        let mut others = others.filter(|other| other.homes != homes);
        if let Some(other) = others.find(|other| other.overlaps(span)) {
            return Err(other.breach(locators));
        }
        if let Some(name) = above(span).and_then(|above| view.deep_below(&above)) {
            return Err(Breach::Deeper { name, homes });
        }
        for name in view.holders_in(locators) {
            let key = (name, RecordType::SVCB);
            if change.sets.contains_key(&key) {
                continue;
            }
            let held = view.set(&key.0, RecordType::SVCB);
            let Some((home, held)) = held.and_then(|held| binding_of(&key.0, origin, held)) else {
                continue;
            };
            let mut entries = held.entries().iter();
            if entries.any(|entry| span.is_anothers(home, entry.locator)) {
                return Err(Breach::Occupied { locators, home });
            }
        }
    }
    for span in known.iter().chain(&new) {
        let came = change.sets.iter().filter(|(_, set)| set.is_some());
        let mut came = came.map(|((name, _), _)| name);
        if let Some(above) = above(span)
            && let Some(name) = came.find(|name| is_deep(name, &above))
        {
            let (name, homes) = (name.clone(), span.homes);
            return Err(Breach::Deeper { name, homes });
        }
        for step in change
            .moves
            .iter()
            .filter(|step| step.whose.prefix().is_none())
        {
            let mut entries = step.to.iter().flat_map(|to| to.entries());
            if let Some(entry) =
                entries.find(|entry| span.is_anothers(step.whose.first(), entry.locator))
            {
                return Err(span.breach(entry.locator.ip().into()));
            }
        }
    }
    Ok(())
}

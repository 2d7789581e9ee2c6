//! What a change may make of the names under `h4` and `h6`, beyond RFC 2136.
//!
//! Forwarders believe what stands there, so a set that is no binding, or an
//! older binding put in place of a newer one, is refused as a whole message
//! (REFUSED, and the log says why) rather than served.
//!
//! A locator stands in one binding at most. Whoever registers it last has it: an older
//! binding in which it stands tells of somebody who is no longer there (a site that lost
//! its memory, a laptop asleep whose address was given away), and who would get what is
//! not meant for it. That binding is withdrawn by the same change; if it only stands by there, the
//! place is taken out of it, under the next epoch. Whoever is to stand by somewhere takes no place
//! that another home is in: a site that forgot that one learns of it so, and chooses another place.
//!
//! A binding that homes of a prefix share stands at a wildcard, which in DNS answers only where
//! nothing is on the way (the closest encloser, RFC 4592): a name two labels below it would take
//! all its neighbours out of it. So the two are refused together, and a home can have a binding of
//! its own only where the prefix is but one label shorter (a /24, a /124). The locators of a prefix
//! are one for each home in it: nobody else has any of them.
//!
//! # Limitations
//! At most [`spans::MAX_PREFIXES`] prefixes have a binding.

use std::collections::BTreeMap;

use hickory_proto::rr::{Name, RData, RecordType};
use ipnet::IpNet;
use mat_proto::apl::{self, AplError};
use mat_proto::record::{self, RecordError};
use mat_proto::{Binding, Epoch, Family, Home, Locator, Priority, Whose};

use super::{Change, Move, RrSet, View, binding_for, binding_of, spans, withdrawn};
use crate::dnssec::is_made_here;

/// Longest TTL of what stands at an owner, seconds. A longer one is lowered:
/// the TTL concerns resolvers only, and a binding may change at any time.
pub const MAX_TTL: u32 = 5;

/// An epoch above this leaves no room to rise.
const MAX_EPOCH: Epoch = Epoch(i64::MAX as u64);

/// Why a change is refused although RFC 2136 would allow it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Breach {
    /// A name under `h4` or `h6` that names no home address.
    #[error(
        "{0} names no home address: an owner is d.c.b.a.h4 or 32 nibbles under h6, or a wildcard with fewer of them"
    )]
    NotAnOwner(Name),
    /// A wildcard elsewhere.
    #[error("{0}: wildcards are served under h4 and h6 alone")]
    Wildcard(Name),
    /// Something else than a binding for the homes of a prefix.
    #[error("{1} for all of {0}: only SVCB (the binding) may stand there")]
    SharedKind(IpNet, RecordType),
    /// SVCB at a wildcard that is no binding for its homes.
    #[error("SVCB for all of {0} is not a binding: {1}")]
    NotShared(IpNet, RecordError),
    /// A binding of one home that says it is for many.
    #[error("SVCB of {0} is for a prefix (key65283), which has a wildcard as its owner")]
    NotOne(Home),
    /// A name below a wildcard's, which would take others out of it.
    #[error(
        "{name} and a binding for all of {homes} cannot both be: neighbours of the first would no longer be answered for by the second; bind the prefix one label above the home, or each home by itself"
    )]
    Deeper {
        /// The name.
        name: Name,
        /// The wildcard's prefix.
        homes: IpNet,
    },
    /// A locator that is for a home in a prefix.
    #[error("{locators} overlaps the locators of {homes}, one for each home there")]
    Span {
        /// What was to be registered.
        locators: IpNet,
        /// Whose they are.
        homes: IpNet,
    },
    /// Locators for a prefix, one of which is another home's.
    #[error("{locators} cannot be the locators of a prefix: {home} is at one of them")]
    Occupied {
        /// What was to be registered.
        locators: IpNet,
        /// Who is there.
        home: Home,
    },
    /// Too many prefixes with a binding.
    #[error("{max} prefixes have a binding already", max = spans::MAX_PREFIXES)]
    TooManyPrefixes,
    /// Delegations are not served.
    #[error("{0}: {1} is not served below the apex")]
    Delegation(Name, RecordType),
    /// A list of prefixes that forwarders could not read.
    #[error("APL of {0}: {1}")]
    NotAList(Name, AplError),
    /// What DNSSEC adds is made when it is asked for.
    #[error("{1} of {0}: {1} records are made by the server that signs the zone")]
    OfDnssec(Name, RecordType),
    /// Another type at a home's owner.
    #[error(
        "{1} at the owner of {0}: only SVCB (the binding), A and AAAA (for people) may stand there"
    )]
    Kind(Home, RecordType),
    /// SVCB that is not a binding.
    #[error("SVCB of {0} is not a binding: {1}")]
    NotABinding(Home, RecordError),
    /// An epoch that does not rise.
    #[error(
        "the epoch of {whose} must rise above {last}, not be {new} (new = max(old + 1, Unix seconds))"
    )]
    Epoch {
        /// Whose binding.
        whose: Whose,
        /// The last epoch, also of a deleted binding.
        last: Epoch,
        /// The epoch refused.
        new: Epoch,
    },
    /// An epoch that could never be followed by another.
    #[error("epoch {new} of {home} leaves no room to rise; use Unix seconds")]
    EpochTooHigh {
        /// Whose binding.
        home: Home,
        /// The epoch refused.
        new: Epoch,
    },
    /// Two homes of one message at one locator.
    #[error("{locator} cannot be the locator of both {} and {}", homes[0], homes[1])]
    Shared {
        /// The locator.
        locator: Locator,
        /// The homes.
        homes: [Home; 2],
    },
    /// A place to stand by that another home is served at.
    #[error("nobody can stand by at {0}, where {1} is registered")]
    InUse(Locator, Home),
    /// More records than [`super::update::MAX_SET`], or more octets than an answer takes.
    #[error("{1} of {0} would have more than {max} records, or not fit an answer", max = super::update::MAX_SET)]
    SetTooLarge(Name, RecordType),
}

/// Holds `change` against the rules, lowers TTLs, and notes what happens to
/// bindings and to the epochs of those it deletes.
pub(super) fn enforce(view: &impl View, origin: &Name, change: &mut Change) -> Result<(), Breach> {
    for ((name, kind), set) in &mut change.sets {
        let Some(whose) = Whose::of_owner(name, origin) else {
            if let Some(set) = set {
                elsewhere(name, *kind, origin)?;
                lists(name, set)?;
            }
            continue;
        };
        let home = whose.first();
        if let Some(set) = set {
            if let Some(prefix) = whose.prefix()
                && *kind != RecordType::SVCB
            {
                return Err(Breach::SharedKind(prefix, *kind));
            }
            match *kind {
                RecordType::SVCB | RecordType::A | RecordType::AAAA => {}
                withdrawn::KIND => {
                    let epoch = withdrawn::epoch(set).ok_or(Breach::Kind(home, *kind))?;
                    within_reason(home, epoch)?;
                    bury(&mut change.buried, name, epoch);
                }
                _ => return Err(Breach::Kind(home, *kind)),
            }
            set.ttl = set.ttl.min(MAX_TTL);
        }
        if *kind == RecordType::SVCB {
            let last = view.last_epoch(name);
            let old = view.set(name, RecordType::SVCB);
            let to = match set {
                Some(new) => {
                    // A home with a binding of its own was never told of a later one of its prefix.
                    let above = match (whose.prefix(), old) {
                        (None, None) => shared_epoch(view, name),
                        _ => Epoch(0),
                    };
                    Some(binding(whose, last.max(above), old, new)?)
                }
                None => {
                    bury(&mut change.buried, name, last);
                    None
                }
            };
            change.moves.push(Move {
                whose,
                from: old.and_then(|old| binding_for(whose, old).ok()),
                to,
                displaced_from: None,
            });
        }
    }
    spans::apart(view, origin, change)?;
    displace(view, origin, change)?;
    withdrawn::mark(view, origin, change);
    Ok(())
}

/// Notes that the binding of `name` is gone, with this epoch or one already noted.
fn bury(buried: &mut BTreeMap<Name, Epoch>, name: &Name, epoch: Epoch) {
    let last = buried.entry(name.clone()).or_default();
    *last = epoch.max(*last);
}

/// The last epoch of the binding that the home at `name` shares with its neighbours.
fn shared_epoch(view: &impl View, name: &Name) -> Epoch {
    let wildcard = name.base_name().prepend_label("*");
    wildcard.map_or(Epoch(0), |wildcard| view.last_epoch(&wildcard))
}

/// Takes the locators that are registered now out of the bindings of others: a place where one only
/// stands by, and the whole of a binding that is left without a place in use. Whoever is only to
/// stand by takes nobody's place in use.
fn displace(view: &impl View, origin: &Name, change: &mut Change) -> Result<(), Breach> {
    let mut registered: BTreeMap<Locator, (Home, Priority)> = BTreeMap::new();
    for step in change
        .moves
        .iter()
        .filter(|step| step.whose.prefix().is_none())
    {
        for entry in step.to.iter().flat_map(|b| b.entries()) {
            let locator = entry.locator;
            let first = step.whose.first();
            if let Some((other, _)) = registered.insert(locator, (first, entry.priority)) {
                let homes = [other, first];
                return Err(Breach::Shared { locator, homes });
            }
        }
    }
    let mut taken: BTreeMap<&Name, Vec<(Locator, Priority)>> = BTreeMap::new();
    for (locator, (home, priority)) in registered {
        let Some(name) = view.holder(locator) else {
            continue;
        };
        let its_own = record::home(name, origin) == Some(home);
        let asked = change.sets.contains_key(&(name.clone(), RecordType::SVCB));
        if !its_own && !asked {
            taken.entry(name).or_default().push((locator, priority));
        }
    }
    for (name, locators) in taken {
        let Some(held) = view.set(name, RecordType::SVCB) else {
            continue;
        };
        let Some((_, from)) = binding_of(name, origin, held) else {
            continue;
        };
        for (locator, priority) in &locators {
            let in_use = from.active().is_some_and(|used| used.locator == *locator);
            if in_use && *priority != Priority::ACTIVE {
                return Err(Breach::InUse(*locator, from.home()));
            }
        }
        let locators: Vec<Locator> = locators.into_iter().map(|(locator, _)| locator).collect();
        let last = view.last_epoch(name);
        let rest = without(&from, &locators, last).and_then(|rest| {
            let records = record::to_records(&rest, origin, held.ttl).ok()?;
            Some((records, rest))
        });
        let to = match rest {
            Some((records, rest)) => {
                let set = RrSet {
                    ttl: held.ttl,
                    data: records.into_iter().map(|record| record.data).collect(),
                };
                let key = (name.clone(), RecordType::SVCB);
                change.sets.insert(key, Some(set));
                Some(rest)
            }
            None => {
                for kind in view.kinds(name) {
                    change.sets.insert((name.clone(), kind), None);
                }
                change.buried.insert(name.clone(), last);
                None
            }
        };
        change.moves.push(Move {
            whose: from.home().into(),
            from: Some(from),
            to,
            displaced_from: locators.first().copied(),
        });
    }
    Ok(())
}

/// What is left of a binding without these locators, if one of the rest is in use.
fn without(from: &Binding, locators: &[Locator], last: Epoch) -> Option<Binding> {
    let rest = from.entries().iter();
    let rest = rest.filter(|entry| !locators.contains(&entry.locator));
    let epoch = Epoch(last.0.saturating_add(1));
    let rest = Binding::new(
        from.home(),
        epoch,
        from.lease_seconds(),
        rest.cloned().collect(),
    );
    rest.ok()
        .filter(|rest| rest.active().is_some() && epoch <= MAX_EPOCH)
}

/// Whoever is told a list of prefixes can read it.
fn lists(name: &Name, set: &RrSet) -> Result<(), Breach> {
    for data in &set.data {
        if let RData::Unknown { code, rdata } = data
            && u16::from(*code) == apl::TYPE
        {
            let read = apl::decode(&rdata.anything);
            read.map_err(|error| Breach::NotAList(name.clone(), error))?;
        }
    }
    Ok(())
}

fn elsewhere(name: &Name, kind: RecordType, origin: &Name) -> Result<(), Breach> {
    for family in [Family::V4, Family::V6] {
        let label = record::family_label(family);
        if let Ok(top) = origin.prepend_label(label)
            && top.zone_of(name)
        {
            return Err(Breach::NotAnOwner(name.clone()));
        }
    }
    if name.is_wildcard() {
        return Err(Breach::Wildcard(name.clone()));
    }
    if is_made_here(kind) {
        return Err(Breach::OfDnssec(name.clone(), kind));
    }
    let delegates = kind == RecordType::NS && name != origin;
    if delegates || u16::from(kind) == DNAME {
        return Err(Breach::Delegation(name.clone(), kind));
    }
    Ok(())
}

const DNAME: u16 = 39;

fn binding(whose: Whose, last: Epoch, old: Option<&RrSet>, new: &RrSet) -> Result<Binding, Breach> {
    let home = whose.first();
    let binding = binding_for(whose, new).map_err(|error| match (whose.prefix(), error) {
        (Some(prefix), error) => Breach::NotShared(prefix, error),
        (None, RecordError::Length(_)) => Breach::NotOne(home),
        (None, error) => Breach::NotABinding(home, error),
    })?;
    let new_epoch = binding.epoch();
    // Another TTL alone is no change of the binding.
    let changed = !old.is_some_and(|old| old.same_data(new));
    if changed && new_epoch <= last {
        return Err(Breach::Epoch {
            whose,
            last,
            new: new_epoch,
        });
    }
    within_reason(home, new_epoch)?;
    Ok(binding)
}

fn within_reason(home: Home, new: Epoch) -> Result<(), Breach> {
    match new > MAX_EPOCH {
        true => Err(Breach::EpochTooHigh { home, new }),
        false => Ok(()),
    }
}

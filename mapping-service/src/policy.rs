//! Who may change what. Pure.
//!
//! Reading is open to all, but for the home prefixes that are private
//! ([`may_read`]). Changing needs a TSIG key, and each key has a
//! [`Policy`]: the home addresses whose bindings it may write, the locator
//! prefixes it may register, and the record types it may touch.
//!
//! A key needs the right to a locator only where it *adds* it. A site that
//! prepares a move to itself writes a set in which the other site's locator
//! still stands; it may keep that one and drop it, and may not bring it in.
//!
//! A key with locators of its own says who is there: registering one takes it out of whatever
//! binding it stood in, which may be the end of that. A key that may register anything can do so
//! only to its own homes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hickory_proto::rr::{Name, RecordType};
use ipnet::IpNet;
use mat_proto::{Home, Locator, Whose, record};

use crate::zone::update::Update;
use crate::zone::{Change, Zone, lower};

/// A list of prefixes, or everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every address.
    All,
    /// Addresses inside one of these.
    Prefixes(Vec<IpNet>),
}

impl Scope {
    /// Whether everything in `other` is inside.
    fn covers(&self, other: &Scope) -> bool {
        match (self, other) {
            (Scope::All, _) => true,
            (_, Scope::All) => false,
            (Scope::Prefixes(own), Scope::Prefixes(others)) => {
                let inside = |net: &IpNet| own.iter().any(|own| own.contains(net));
                others.iter().all(inside)
            }
        }
    }

    /// Whether something in `net` is inside.
    fn overlaps(&self, net: IpNet) -> bool {
        match self {
            Scope::All => true,
            Scope::Prefixes(list) => list.iter().any(|own| overlap(*own, net)),
        }
    }

    /// Whether nothing is inside.
    pub fn is_empty(&self) -> bool {
        matches!(self, Scope::Prefixes(list) if list.is_empty())
    }

    /// Whether all of `net` is inside.
    pub(crate) fn covers_net(&self, net: IpNet) -> bool {
        match self {
            Scope::All => true,
            Scope::Prefixes(list) => list.iter().any(|own| own.contains(&net)),
        }
    }

    /// Whether `ip` is inside.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match self {
            Scope::All => true,
            Scope::Prefixes(list) => list.iter().any(|net| net.contains(&ip)),
        }
    }
}

/// Whether there are addresses in both.
pub(crate) fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// What one key may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Home addresses whose owners it may change.
    pub homes: Scope,
    /// Locators it may register.
    pub locators: Scope,
    /// Record types it may change.
    pub types: Vec<RecordType>,
    /// Whether it may change names that are no home's owner.
    pub other_names: bool,
    /// Whether it may transfer the zone (AXFR, IXFR), private homes included.
    pub transfer: bool,
    /// Private home addresses whose bindings it may read.
    pub reads: Scope,
}

/// Whether what stands at `name` in the zone `origin` may be told to whoever asks, with the policy
/// of the key that signed the question, if one did. Where homes are `private`, names that only
/// lead to them are told to those alone who may read all of them: whether they exist says who is
/// there. What all homes of a prefix share tells where the private ones among them are.
pub fn may_read(private: &Scope, key: Option<&Policy>, name: &Name, origin: &Name) -> bool {
    if private.is_empty() || !origin.zone_of(name) {
        return true;
    }
    if let Some(whose) = Whose::of_owner(name, origin) {
        return !private.overlaps(whose.net())
            || key
                .is_some_and(|key| key.reads.covers(private) || key.reads.covers_net(whose.net()));
    }
    let above = origin.iter().count() + 1;
    let family = name.iter().count().checked_sub(above);
    let family = family.and_then(|at| name.iter().nth(at));
    let leads_to_homes =
        family.is_some_and(|l| l.eq_ignore_ascii_case(b"h4") || l.eq_ignore_ascii_case(b"h6"));
    !leads_to_homes || key.is_some_and(|key| key.reads.covers(private))
}

/// The same of what answers for `name` in a zone: a home may be answered for by what its prefix
/// shares.
pub(crate) fn may_read_in(zone: &Zone, private: &Scope, key: Option<&Policy>, name: &Name) -> bool {
    let may = |name: &Name| may_read(private, key, name, zone.origin());
    private.is_empty() || may(name) && zone.source(name).is_none_or(may)
}

/// Why a key may not do something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// A home address outside the key's.
    #[error("its key may not change the binding of {0}")]
    Home(Home),
    /// A prefix outside the key's.
    #[error("its key may not change the binding of all of {0}")]
    Prefix(IpNet),
    /// A name that is no home's owner.
    #[error("its key may not change {0} (no home's owner; needs other_names = true)")]
    Name(Name),
    /// A locator outside the key's prefixes.
    #[error("its key may not register locator {locator} for {home}")]
    Locator {
        /// Whose binding.
        home: Home,
        /// The locator refused.
        locator: Locator,
    },
    /// A locator that stands in the binding of a home that is not the key's.
    #[error(
        "{locator} is registered for {home}: to take it over its key needs the right to that home, or locators = [...] with a prefix that it speaks for"
    )]
    Taken {
        /// Whose it is.
        home: Home,
        /// The locator asked for.
        locator: Locator,
    },
    /// A record type the key may not touch.
    #[error("its key may not change {1} records (at {0})")]
    Kind(Name, RecordType),
    /// The apex is the configuration's.
    #[error("SOA and NS of the apex come from the server's configuration")]
    Apex,
}

impl Policy {
    /// Whether a holder of this policy may do what `update` asks for, which
    /// amounts to `change`.
    pub fn permits(&self, origin: &Name, update: &Update, change: &Change) -> Result<(), Denial> {
        // Also where nothing would change: whose name it is does not depend on
        // what stands there.
        let mut asked = BTreeSet::new();
        for record in &update.updates {
            let name = lower(&record.name);
            self.permits_name(origin, &name)?;
            asked.insert((name, record.record_type()));
        }
        let displaced = change.moves.iter().filter(|m| m.displaced_from.is_some());
        let displaced: BTreeSet<Home> = displaced.map(|step| step.whose.first()).collect();
        for set @ (name, kind) in change.sets.keys() {
            // Its records change, or go, because its locator is another home's now.
            if record::home(name, origin).is_some_and(|home| displaced.contains(&home)) {
                let mut here = asked.range((name.clone(), RecordType::ZERO)..);
                if here.next().is_none_or(|(next, _)| next != name) {
                    continue;
                }
            }
            let serial = name == origin && *kind == RecordType::SOA;
            let wanted = asked.contains(set);
            match kind {
                RecordType::SOA if serial && !wanted => {}
                // What is left in place of a withdrawn binding.
                RecordType::TXT if !wanted && record::home(name, origin).is_some() => {}
                RecordType::SOA | RecordType::NS => return Err(Denial::Apex),
                kind if !self.types.contains(kind) => {
                    return Err(Denial::Kind(name.clone(), *kind));
                }
                _ => {}
            }
        }
        for step in &change.moves {
            if let Some(locator) = step.displaced_from {
                let speaks_for_it = matches!(self.locators, Scope::Prefixes(_));
                if !speaks_for_it && !self.homes.contains(step.whose.first().ip()) {
                    let home = step.whose.first();
                    return Err(Denial::Taken { home, locator });
                }
            }
            let Some(to) = &step.to else { continue };
            for entry in to.entries() {
                let locator = entry.locator;
                let kept = step.from.as_ref().and_then(|b| b.entry(locator)).is_some();
                let may = match step.whose.prefix() {
                    None => self.locators.contains(locator.ip()),
                    Some(prefix) => IpNet::new(locator.ip(), prefix.prefix_len())
                        .is_ok_and(|all| self.locators.covers_net(all)),
                };
                if !kept && !may {
                    return Err(Denial::Locator {
                        home: step.whose.first(),
                        locator,
                    });
                }
            }
        }
        Ok(())
    }

    /// Of which homes a holder may hear who has changed their bindings: of those that it may change
    /// itself, and may read where they are `private`.
    pub(crate) fn past_of(&self, private: &Scope) -> impl Fn(Whose) -> bool {
        let changes = self.types.contains(&RecordType::SVCB);
        let reads_all = self.reads.covers(private);
        move |whose| {
            let net = whose.net();
            let may_read = reads_all || !private.overlaps(net) || self.reads.covers_net(net);
            changes && self.homes.covers_net(net) && may_read
        }
    }

    /// Whether there may be such homes among these (`None`: all).
    pub(crate) fn may_hear_past(&self, private: &Scope, homes: Option<IpNet>) -> bool {
        let among = |scope: &Scope| homes.map_or(!scope.is_empty(), |homes| scope.overlaps(homes));
        let all_private = homes.is_some_and(|homes| private.covers_net(homes));
        self.types.contains(&RecordType::SVCB)
            && among(&self.homes)
            && (!all_private || among(&self.reads))
    }

    fn permits_name(&self, origin: &Name, name: &Name) -> Result<(), Denial> {
        if let Some(prefix) = record::prefix(name, origin) {
            let own = self.homes.covers_net(prefix);
            return own.then_some(()).ok_or(Denial::Prefix(prefix));
        }
        match record::home(name, origin) {
            Some(home) if !self.homes.contains(home.ip()) => Err(Denial::Home(home)),
            None if !self.other_names => Err(Denial::Name(name.clone())),
            _ => Ok(()),
        }
    }
}

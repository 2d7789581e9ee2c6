//! Contexts, found by either key.
//!
//! A context is the state between one own home and one peer home. Outbound
//! packets find it by (own home, peer home), inbound packets by (peer locator,
//! own locator); one look-up each.
//!
//! Invariants:
//! * a pair of homes has at most one context, a pair of locators leads to at
//!   most one;
//! * a context sends to exactly one locator, and accepts from the active, the
//!   standby and, until grace ends, the previous locators of its peer;
//! * only contexts whose tokens were exchanged are found by locators;
//! * a locator belongs to at most one peer home: binding it to another evicts
//!   the older holder everywhere.
//!
//! The data threads do not look here but into the forwarding table ([`crate::fib`]),
//! where each context has a record. Every change of a context is remembered until
//! the agent has brought its record in line ([`Table::changed`]).

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mat_proto::auth::{Key, Token};
use mat_proto::{Binding, Epoch, Home, Locator};

use crate::agent::hold::Hold;
use crate::clock::Time;
use crate::fib::{Fib, Slot, Tally, Way, Writer};

/// Names a context; never reused for another while anything refers to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContextId(u64);

/// The tokens both sides exchanged, and the key made from them.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    pub(crate) mine: Token,
    pub(crate) theirs: Token,
    pub(crate) key: Key,
}

impl Keys {
    pub(crate) fn new(mine: Token, theirs: Token) -> Self {
        Keys {
            mine,
            theirs,
            key: Key::of_context(mine, theirs),
        }
    }
}

/// An OPEN of ours that waits for its ACCEPT.
#[derive(Clone, Debug)]
pub(crate) struct Opening {
    pub(crate) token: Token,
    pub(crate) cookie: Token,
    pub(crate) attempts: u32,
    pub(crate) next: Time,
}

/// An ACCEPT of ours that waits for its CONFIRM.
#[derive(Clone, Debug)]
pub(crate) struct Offered {
    pub(crate) keys: Keys,
    /// The OPEN said that its sender had an open context already.
    pub(crate) resume: bool,
    /// Set if it was made where the home was before, and the peer is to be told where it is now:
    /// where it went.
    pub(crate) elsewhere: Option<Locator>,
    pub(crate) attempts: u32,
    pub(crate) next: Time,
}

/// A MOVED of ours that waits for its ACK.
#[derive(Clone, Debug)]
pub(crate) struct Announcing {
    pub(crate) sequence: u64,
    pub(crate) binding: Binding,
    pub(crate) attempts: u32,
    pub(crate) next: Time,
}

/// A binding taken from an authenticated MOVED that the mapping service has not
/// confirmed yet.
#[derive(Clone, Debug)]
pub(crate) struct Provisional {
    pub(crate) deadline: Time,
    pub(crate) next: Time,
    pub(crate) attempts: u32,
}

/// A locator that is to show that the peer is there, or will be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Proving {
    pub(crate) locator: Locator,
    /// The control port there.
    pub(crate) port: u16,
    /// The PROBE that is to be answered.
    pub(crate) nonce: u64,
    pub(crate) attempts: u32,
    pub(crate) next: Time,
}

/// Octets that had been received from the peer at the last two looks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ReceivedBefore {
    pub(crate) at: Time,
    pub(crate) counts: [u64; 2],
}

/// Until the peer's END: packets that it sent directly wait for those that it sent to
/// the old site of our move.
#[derive(Debug)]
pub(crate) struct Behind {
    pub(crate) hold: Hold,
    /// Released at this time, END or not.
    pub(crate) until: Time,
}

/// An END of ours, which is sent more than once, since nobody acknowledges it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ending {
    /// Where the peer was.
    pub(crate) to: SocketAddr,
    pub(crate) epoch: Epoch,
    pub(crate) attempts: u32,
    pub(crate) next: Time,
}

/// The state between one own home and one peer home.
#[derive(Debug)]
pub struct Context {
    /// The home attached here.
    pub own: Home,
    /// The home it talks to.
    pub peer: Home,
    /// Where packets of the own home come from.
    pub(crate) local: Option<Locator>,
    /// Where they came from before, until the given time.
    pub(crate) local_previous: Option<(Locator, Time)>,
    /// Where else the own home can be at once: the peer may hear that it is before we do.
    pub(crate) local_others: Vec<Locator>,
    /// The peer's binding as of the highest epoch known.
    pub(crate) binding: Option<Binding>,
    /// Where the peer was before, until the given time.
    pub(crate) previous: Vec<(Locator, Time)>,
    /// `binding` may be used until then without being renewed.
    pub(crate) lease_until: Time,
    pub(crate) keys: Option<Keys>,
    pub(crate) opening: Option<Opening>,
    pub(crate) offered: Option<Offered>,
    pub(crate) announcing: Option<Announcing>,
    pub(crate) provisional: Option<Provisional>,
    /// Sequence number of our last MOVED.
    pub(crate) sequence_out: u64,
    /// Highest sequence number of the peer's MOVED.
    pub(crate) sequence_in: u64,
    /// What was sent to where the peer is now was for it: it has been heard of there, or
    /// nobody else has been there lately.
    pub(crate) confirmed_here: bool,
    /// Locators where the peer has answered, the latest last; a few.
    pub(crate) proven: Vec<Locator>,
    /// Locators of its binding that have been asked, and have not answered yet.
    pub(crate) proving: Vec<Proving>,
    /// While the peer is at one of these: what may still be sent there, in octets.
    pub(crate) credit: Option<u64>,
    pub(crate) received_before: ReceivedBefore,
    /// The last PROBE: its number and when it was sent.
    pub(crate) probing: Option<(u64, Time)>,
    pub(crate) round_trip_us: Option<u64>,
    pub(crate) created: Time,
    /// When we last asked to be told of changes of the peer.
    pub(crate) watched: Option<Time>,
    /// When the peer's forwarder was last heard of. Packets are in the tally.
    pub(crate) heard: Option<Time>,
    /// When a stranger last made us OPEN again.
    pub(crate) last_reopen: Option<Time>,
    pub(crate) hold: Hold,
    pub(crate) behind: Option<Behind>,
    pub(crate) ending: Option<Ending>,
    pub(crate) timer: Option<Time>,
    /// Nothing has come by for a while, so nobody looks after it: the next packet comes
    /// to the agent, to say that somebody should.
    pub(crate) parked: bool,
    /// Its record in the forwarding table.
    pub(crate) slot: Slot,
    /// Whether it is in `Table::changed`.
    changed: bool,
    /// What `Table::inbound` says because of this context.
    pairs: Vec<(Locator, Locator)>,
    /// What `Table::holders` says because of this context.
    claims: Vec<Locator>,
}

impl Context {
    fn new(own: Home, peer: Home, now: Time, slot: Slot) -> Self {
        Context {
            own,
            peer,
            local: None,
            local_previous: None,
            local_others: Vec::new(),
            binding: None,
            previous: Vec::new(),
            lease_until: Time(0),
            keys: None,
            opening: None,
            offered: None,
            announcing: None,
            provisional: None,
            sequence_out: 0,
            sequence_in: 0,
            confirmed_here: false,
            proven: Vec::new(),
            proving: Vec::new(),
            credit: None,
            received_before: ReceivedBefore::default(),
            probing: None,
            round_trip_us: None,
            created: now,
            watched: None,
            heard: None,
            last_reopen: None,
            hold: Hold::default(),
            behind: None,
            ending: None,
            timer: None,
            parked: false,
            slot,
            changed: false,
            pairs: Vec::new(),
            claims: Vec::new(),
        }
    }

    /// The one locator packets to the peer go to.
    pub(crate) fn remote(&self) -> Option<Locator> {
        Some(self.binding.as_ref()?.active()?.locator)
    }

    /// The control port there.
    pub(crate) fn remote_port(&self) -> Option<u16> {
        Some(self.binding.as_ref()?.active()?.port)
    }

    /// The epoch of the peer's binding, 0 if none is known.
    pub(crate) fn epoch(&self) -> Epoch {
        self.binding.as_ref().map_or(Epoch(0), Binding::epoch)
    }

    /// Whether packets may flow.
    pub(crate) fn is_open(&self) -> bool {
        self.keys.is_some() && self.local.is_some() && self.remote().is_some()
    }

    /// Whether the peer is, or was a moment ago, at a locator.
    pub(crate) fn claims(&self, locator: Locator) -> bool {
        self.claims.contains(&locator)
    }

    /// What it accepts, as (peer locator, own locator).
    pub(crate) fn pairs(&self) -> &[(Locator, Locator)] {
        &self.pairs
    }

    fn wanted_pairs(&self) -> BTreeSet<(Locator, Locator)> {
        let mut pairs = BTreeSet::new();
        if self.keys.is_none() {
            return pairs;
        }
        let named = self
            .binding
            .iter()
            .flat_map(|b| b.entries())
            .map(|e| e.locator);
        let locals = self
            .local
            .into_iter()
            .chain(self.local_previous.map(|(l, _)| l))
            .chain(self.local_others.iter().copied());
        let locals: Vec<Locator> = locals.collect();
        for remote in named.chain(self.previous.iter().map(|(l, _)| *l)) {
            pairs.extend(locals.iter().map(|local| (remote, *local)));
        }
        pairs
    }
}

/// What a change of contexts means for the steering of exclusive locators.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct PairChanges {
    /// Now accepted: (peer locator, own locator).
    pub(crate) added: Vec<(Locator, Locator)>,
    /// No longer accepted.
    pub(crate) removed: Vec<(Locator, Locator)>,
    /// Peers that have lost a locator to another.
    pub(crate) evicted: Vec<Home>,
}

/// All contexts of a forwarder.
#[derive(Debug)]
pub struct Table {
    fib: Writer,
    /// Contexts that may have changed since their records were looked after.
    changed: Vec<ContextId>,
    contexts: HashMap<ContextId, Context>,
    outbound: HashMap<(IpAddr, IpAddr), ContextId>,
    inbound: HashMap<(IpAddr, IpAddr), ContextId>,
    by_peer: HashMap<Home, BTreeSet<ContextId>>,
    by_own: HashMap<Home, BTreeSet<ContextId>>,
    holders: HashMap<Locator, Home>,
    next: u64,
}

impl Table {
    /// A table with room for so many contexts of each family. `seed` is for
    /// [`Fib::new`].
    pub fn new(capacity: usize, seed: [u64; 4]) -> Self {
        let (_, fib) = Fib::new(capacity, seed);
        Table {
            fib,
            changed: Vec::new(),
            contexts: HashMap::new(),
            outbound: HashMap::new(),
            inbound: HashMap::new(),
            by_peer: HashMap::new(),
            by_own: HashMap::new(),
            holders: HashMap::new(),
            next: 0,
        }
    }

    /// The forwarding table made from this one.
    pub fn fib(&self) -> &Arc<Fib> {
        self.fib.fib()
    }

    /// What went through a context.
    pub fn tally(&self, context: &Context) -> Tally {
        self.fib().tally(context.slot)
    }

    /// The way of a context's packets at present.
    pub(crate) fn way(&self, id: ContextId) -> Option<Way> {
        self.fib.way(self.contexts.get(&id)?.slot)
    }

    /// The packets of a context go this way from now on, or to the agent.
    pub(crate) fn set_way(&mut self, id: ContextId, way: Option<Way>) {
        if let Some(context) = self.contexts.get(&id) {
            self.fib.set(context.slot, way);
        }
    }

    /// The contexts that may have changed since they were last asked for.
    pub(crate) fn take_changed(&mut self) -> Vec<ContextId> {
        let changed = std::mem::take(&mut self.changed);
        for id in &changed {
            if let Some(context) = self.contexts.get_mut(id) {
                context.changed = false;
            }
        }
        changed
    }

    /// Whether [`Table::take_changed`] would give anything.
    pub(crate) fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// The context of an outbound packet, by its addresses.
    pub fn outbound(&self, own: IpAddr, peer: IpAddr) -> Option<ContextId> {
        self.outbound.get(&(own, peer)).copied()
    }

    /// The context of an inbound packet, by its addresses.
    pub fn inbound(&self, from: IpAddr, to: IpAddr) -> Option<ContextId> {
        self.inbound.get(&(from, to)).copied()
    }

    /// A context by its name.
    pub fn get(&self, id: ContextId) -> Option<&Context> {
        self.contexts.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: ContextId) -> Option<&mut Context> {
        let context = self.contexts.get_mut(&id)?;
        if !std::mem::replace(&mut context.changed, true) {
            self.changed.push(id);
        }
        Some(context)
    }

    /// Something that is not in the context decides about its way, and has changed.
    pub(crate) fn mark_changed(&mut self, id: ContextId) {
        let _marked = self.get_mut(id);
    }

    /// How many contexts there are.
    pub fn len(&self) -> usize {
        self.contexts.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.contexts.is_empty()
    }

    /// The contexts whose peer is `home`, in a stable order.
    pub fn of_peer(&self, home: Home) -> Vec<ContextId> {
        listed(&self.by_peer, home)
    }

    /// The contexts of the own home `home`, in a stable order.
    pub fn of_own(&self, home: Home) -> Vec<ContextId> {
        listed(&self.by_own, home)
    }

    /// The peer home that holds `locator`.
    pub fn holder(&self, locator: Locator) -> Option<Home> {
        self.holders.get(&locator).copied()
    }

    /// The context of a pair of homes, made if it is not there and there is room.
    pub(crate) fn obtain(&mut self, own: Home, peer: Home, now: Time) -> Option<ContextId> {
        if let Some(id) = self.outbound(own.ip(), peer.ip()) {
            return Some(id);
        }
        let slot = self.fib.claim(own, peer)?;
        self.next += 1;
        let id = ContextId(self.next);
        self.contexts.insert(id, Context::new(own, peer, now, slot));
        self.outbound.insert((own.ip(), peer.ip()), id);
        self.by_peer.entry(peer).or_default().insert(id);
        self.by_own.entry(own).or_default().insert(id);
        Some(id)
    }

    /// Forgets a context; it is given back for its queue to be emptied.
    pub(crate) fn remove(&mut self, id: ContextId) -> Option<(Context, PairChanges)> {
        let mut context = self.contexts.remove(&id)?;
        self.fib.release(context.slot);
        self.outbound.remove(&(context.own.ip(), context.peer.ip()));
        unlist(&mut self.by_peer, context.peer, id);
        unlist(&mut self.by_own, context.own, id);
        let removed = std::mem::take(&mut context.pairs);
        for (from, to) in &removed {
            self.inbound.remove(&(from.ip(), to.ip()));
        }
        self.release(&std::mem::take(&mut context.claims), context.peer);
        Some((
            context,
            PairChanges {
                removed,
                ..PairChanges::default()
            },
        ))
    }

    /// Brings the look-up by locators in line with a context that changed, and
    /// evicts older holders of the locators it now accepts from.
    pub(crate) fn reindex(&mut self, id: ContextId) -> PairChanges {
        let mut changes = PairChanges::default();
        let Some(context) = self.get_mut(id) else {
            return changes;
        };
        let peer = context.peer;
        let named = context.binding.iter().flat_map(|b| b.entries());
        let named: Vec<Locator> = named.map(|e| e.locator).collect();
        let dropped = std::mem::take(&mut context.claims);
        self.release(&dropped, peer);
        for locator in &named {
            if let Some(older) = self.holders.insert(*locator, peer).filter(|h| *h != peer) {
                changes.evicted.push(older);
                self.evict(older, *locator, &mut changes);
            }
        }
        let Some(context) = self.contexts.get_mut(&id) else {
            return changes;
        };
        // Where the peer was, somebody else may be by now; otherwise it is still the peer's,
        // until somebody is said to be there.
        let holders = &mut self.holders;
        context
            .previous
            .retain(|(locator, _)| *holders.entry(*locator).or_insert(peer) == peer);
        let previous = context.previous.iter().map(|(locator, _)| *locator);
        context.claims = named.into_iter().chain(previous).collect();
        let wanted = context.wanted_pairs();
        let had: BTreeSet<_> = std::mem::take(&mut context.pairs).into_iter().collect();
        for pair in had.difference(&wanted) {
            if self.inbound.get(&key(pair)) == Some(&id) {
                self.inbound.remove(&key(pair));
                changes.removed.push(*pair);
            }
        }
        for pair in &wanted {
            if self.inbound.insert(key(pair), id) != Some(id) {
                changes.added.push(*pair);
            }
        }
        context.pairs = wanted.into_iter().collect();
        changes
    }

    /// Every context, in a stable order.
    pub fn ids(&self) -> Vec<ContextId> {
        let mut ids: Vec<_> = self.contexts.keys().copied().collect();
        ids.sort();
        ids
    }

    fn release(&mut self, locators: &[Locator], home: Home) {
        for locator in locators {
            let claims = |id: &ContextId| {
                let context = self.contexts.get(id);
                context.is_some_and(|c| c.claims.contains(locator))
            };
            let claimed = self
                .by_peer
                .get(&home)
                .is_some_and(|ids| ids.iter().any(claims));
            if !claimed && self.holder(*locator) == Some(home) {
                self.holders.remove(locator);
            }
        }
    }

    /// Nobody else is at `locator` any more: it is ours.
    pub(crate) fn take_locator(&mut self, locator: Locator) -> PairChanges {
        let mut changes = PairChanges::default();
        if let Some(older) = self.holders.remove(&locator) {
            changes.evicted.push(older);
            self.evict(older, locator, &mut changes);
        }
        changes
    }

    /// `locator` is no longer `home`'s: its contexts neither send there nor
    /// accept from there until they are resolved again.
    fn evict(&mut self, home: Home, locator: Locator, changes: &mut PairChanges) {
        for id in self.of_peer(home) {
            self.mark_changed(id);
            let Some(context) = self.contexts.get_mut(&id) else {
                continue;
            };
            if context
                .binding
                .as_ref()
                .is_some_and(|b| b.entry(locator).is_some())
            {
                context.binding = None;
            }
            context.previous.retain(|(l, _)| *l != locator);
            context.pairs.retain(|pair| {
                let keep = pair.0 != locator;
                if !keep && self.inbound.get(&key(pair)) == Some(&id) {
                    self.inbound.remove(&key(pair));
                    changes.removed.push(*pair);
                }
                keep
            });
        }
    }
}

fn key(pair: &(Locator, Locator)) -> (IpAddr, IpAddr) {
    (pair.0.ip(), pair.1.ip())
}

fn listed(index: &HashMap<Home, BTreeSet<ContextId>>, home: Home) -> Vec<ContextId> {
    index.get(&home).into_iter().flatten().copied().collect()
}

fn unlist(index: &mut HashMap<Home, BTreeSet<ContextId>>, home: Home, id: ContextId) {
    if let Some(set) = index.get_mut(&home) {
        set.remove(&id);
        if set.is_empty() {
            index.remove(&home);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time(0);

    fn binding(home: &str, epoch: u64, locator: &str) -> Binding {
        let (home, locator) = (home.parse().unwrap(), locator.parse().unwrap());
        Binding::single(home, Epoch(epoch), 30, locator, 6283).unwrap()
    }

    fn open(
        table: &mut Table,
        own: &str,
        peer: &str,
        epoch: u64,
        local: &str,
        remote: &str,
    ) -> ContextId {
        let obtained = table.obtain(own.parse().unwrap(), peer.parse().unwrap(), NOW);
        let id = obtained.unwrap();
        let context = table.get_mut(id).unwrap();
        context.local = Some(local.parse().unwrap());
        context.binding = Some(binding(peer, epoch, remote));
        context.keys = Some(Keys::new(Token([1; 16]), Token([2; 16])));
        table.reindex(id);
        id
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn contexts_are_found_by_both_keys_and_forgotten_wholly() {
        let mut table = Table::new(16, [1, 2, 3, 4]);
        let id = open(
            &mut table,
            "192.0.2.1",
            "192.0.2.2",
            1,
            "198.51.100.1",
            "203.0.113.1",
        );
        assert_eq!(table.outbound(ip("192.0.2.1"), ip("192.0.2.2")), Some(id));
        assert_eq!(
            table.inbound(ip("203.0.113.1"), ip("198.51.100.1")),
            Some(id)
        );
        assert_eq!(table.inbound(ip("203.0.113.2"), ip("198.51.100.1")), None);
        let (_, changes) = table.remove(id).unwrap();
        assert_eq!(changes.removed.len(), 1);
        assert!(table.is_empty() && table.inbound.is_empty() && table.outbound.is_empty());
        assert!(table.by_own.is_empty() && table.by_peer.is_empty() && table.holders.is_empty());
    }

    #[test]
    fn a_context_without_tokens_is_not_found_by_locators() {
        let mut table = Table::new(16, [1, 2, 3, 4]);
        let id = open(
            &mut table,
            "192.0.2.1",
            "192.0.2.2",
            1,
            "198.51.100.1",
            "203.0.113.1",
        );
        table.get_mut(id).unwrap().keys = None;
        let changes = table.reindex(id);
        assert_eq!(changes.removed.len(), 1);
        assert_eq!(table.inbound(ip("203.0.113.1"), ip("198.51.100.1")), None);
    }

    #[test]
    fn a_reused_locator_leaves_its_older_holder() {
        let mut table = Table::new(16, [1, 2, 3, 4]);
        let old = open(
            &mut table,
            "192.0.2.1",
            "192.0.2.2",
            1,
            "198.51.100.1",
            "203.0.113.1",
        );
        let new = open(
            &mut table,
            "192.0.2.1",
            "192.0.2.3",
            5,
            "198.51.100.1",
            "203.0.113.1",
        );
        assert_eq!(
            table.inbound(ip("203.0.113.1"), ip("198.51.100.1")),
            Some(new)
        );
        assert_eq!(table.get(old).unwrap().remote(), None);
        assert_eq!(
            table.holder("203.0.113.1".parse().unwrap()),
            Some("192.0.2.3".parse().unwrap())
        );
        // Forgetting the older one must not take the pair from the newer.
        table.remove(old);
        assert_eq!(
            table.inbound(ip("203.0.113.1"), ip("198.51.100.1")),
            Some(new)
        );
    }

    #[test]
    fn the_previous_locator_is_accepted_but_not_sent_to() {
        let mut table = Table::new(16, [1, 2, 3, 4]);
        let id = open(
            &mut table,
            "192.0.2.1",
            "192.0.2.2",
            1,
            "198.51.100.1",
            "203.0.113.1",
        );
        let context = table.get_mut(id).unwrap();
        context.previous = vec![("203.0.113.1".parse().unwrap(), Time(9))];
        context.binding = Some(binding("192.0.2.2", 2, "203.0.113.129"));
        let changes = table.reindex(id);
        assert_eq!((changes.added.len(), changes.removed.len()), (1, 0));
        assert_eq!(
            table.inbound(ip("203.0.113.1"), ip("198.51.100.1")),
            Some(id)
        );
        assert_eq!(
            table.get(id).unwrap().remote(),
            Some("203.0.113.129".parse().unwrap())
        );
        table.get_mut(id).unwrap().previous.clear();
        assert_eq!(table.reindex(id).removed.len(), 1);
    }
}

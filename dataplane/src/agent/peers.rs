//! Where peers are: look-ups, the bindings they bring, and how long these last.
//!
//! A context pursues its goal (a fresh binding, exchanged tokens) whenever a
//! packet waits for it or one of its timers runs out; [`Agent::pursue`] is the
//! single place that decides what is missing.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use mat_proto::{Binding, Home};

use super::packet::Arrival;
use super::{Agent, Answer, Now, Output, Proof, Timer};
use crate::clock::Time;
use crate::counters::Cause;
use crate::rewrite::Packet;
use crate::rewrite::build::Unreachable;
use crate::table::{ContextId, Provisional};

/// What is known about a home that is not attached here.
#[derive(Debug)]
pub(super) struct Cached {
    /// `None`: it has no binding.
    binding: Option<Binding>,
    pub(super) until: Time,
}

/// A question to the mapping service that has not been answered.
#[derive(Debug)]
pub(super) struct Lookup {
    /// Asked again at this time, after a failure.
    retry: Option<Time>,
}

/// How the mapping service has been lately, for people.
#[derive(Debug, Default)]
pub(super) struct MappingState {
    /// By the number of the zone.
    pub(super) faults: BTreeMap<usize, MapFault>,
    pub(super) unverified: bool,
}

impl MappingState {
    /// What is the matter with any zone; that of the first one if there are several.
    pub(super) fn fault(&self) -> Option<&MapFault> {
        self.faults.first_key_value().map(|(_, fault)| fault)
    }
}

/// The last trouble with the mapping service.
#[derive(Clone, Debug)]
pub(super) struct MapFault {
    pub(super) why: String,
    pub(super) since_unix_us: u64,
}

impl MapFault {
    pub(super) fn new(why: &str, now: Now) -> Self {
        MapFault {
            why: why.to_owned(),
            since_unix_us: now.unix_us,
        }
    }
}

/// How long "it has no binding" is believed.
const NEGATIVE: Duration = Duration::from_secs(2);
/// After a failed look-up the next one waits this long.
const RETRY: Duration = Duration::from_millis(250);
/// A MOVED not confirmed by the mapping service is believed this long while
/// the service answers with an older epoch.
const PROVISIONAL: Duration = Duration::from_secs(3);
/// Traffic in one direction only, for this long, makes us ask.
const ONE_WAY: Duration = Duration::from_secs(2);
/// For so long a packet may lie about that was sent to a place before somebody else came
/// there: twice as long as anybody holds one.
pub(super) const VACATED: Duration = Duration::from_secs(10);
/// Two moves within grace are plausible, more are noise.
pub(super) const PREVIOUS: usize = 2;
/// How often a context with traffic is looked after.
const MAINTENANCE: Duration = Duration::from_secs(1);
/// So often it is said that a peer is of interest.
const WATCH: Duration = Duration::from_secs(60);
/// A PROBE unanswered for this long leads to a look-up.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);

impl Agent {
    /// What the mapping service said.
    pub fn handle_lookup(&mut self, now: Now, home: Home, answer: Answer) {
        self.now = now;
        self.lookups.remove(&home);
        let answer = self.trusted(answer);
        match &answer {
            Answer::Failed(why) => self.zone_failed(home, why),
            _ => self.zone_answers(home),
        }
        if self.own.contains_key(&home) {
            self.own_answer(home, &answer);
        }
        match answer {
            Answer::Found { binding, .. } => {
                self.remember(home, Some(binding.clone()));
                let until = self.now.time + binding.lease();
                for id in self.table.of_peer(home) {
                    self.verified(id, &binding, until);
                }
                self.verify_opens(home, Some(&binding));
            }
            Answer::NotFound { .. } => {
                self.remember(home, None);
                for id in self.table.of_peer(home) {
                    self.refuse_held(id);
                    self.note_pair(id, "the peer's home address has no binding");
                    self.drop_context(id, Cause::NoBinding);
                }
                self.verify_opens(home, None);
            }
            Answer::Failed(_) => {
                if self.is_wanted(home) {
                    let retry = self.now.time + RETRY;
                    self.lookups.insert(home, Lookup { retry: Some(retry) });
                    self.at(retry, Timer::Lookup(home));
                }
            }
        }
    }

    /// What the mapping service has pushed, or pushed a while ago: things may have gone on
    /// since, and be known here.
    pub fn handle_news(&mut self, now: Now, home: Home, answer: Answer) {
        let contexts = self.table.of_peer(home).into_iter();
        let peers = contexts.filter_map(|id| Some(self.table.get(id)?.epoch()));
        let own = self.own.get(&home).map(|own| own.epoch());
        let known = peers.chain(own).max();
        match &answer {
            Answer::Found { binding, .. } if known.is_some_and(|k| binding.epoch() >= k) => {
                self.handle_lookup(now, home, answer);
            }
            _ => {
                self.now = now;
                self.lookups.remove(&home);
                if known.is_some() {
                    self.lookup(home);
                }
            }
        }
    }

    pub(super) fn lookup_due(&mut self, home: Home) {
        let due = self.lookups.get(&home).and_then(|l| l.retry);
        if due.is_some_and(|at| at <= self.now.time) {
            self.lookups.remove(&home);
            if self.is_wanted(home) {
                self.lookup(home);
            }
        }
    }

    /// Asks the mapping service about `home`, unless it is being asked.
    pub(super) fn lookup(&mut self, home: Home) {
        self.ask(home, Output::Lookup(home));
    }

    /// The same, where it is only to be seen that things are as they were.
    pub(super) fn refresh(&mut self, home: Home) {
        self.ask(home, Output::Refresh(home));
    }

    fn ask(&mut self, home: Home, output: Output) {
        if let Entry::Vacant(slot) = self.lookups.entry(home) {
            slot.insert(Lookup { retry: None });
            self.outputs.push_back(output);
        }
    }

    /// The binding of a home that was verified within its lease, and when that
    /// ends.
    pub(super) fn cached(&self, home: Home) -> Option<(&Binding, Time)> {
        let cached = self.cache.get(&home)?;
        let binding = cached.binding.as_ref()?;
        (cached.until > self.now.time).then_some((binding, cached.until))
    }

    /// What was cached has turned out to be wrong.
    pub(super) fn forget_cached(&mut self, home: Home) {
        self.cache.remove(&home);
    }

    pub(super) fn known_absent(&self, home: Home) -> bool {
        self.cache
            .get(&home)
            .is_some_and(|c| c.binding.is_none() && c.until > self.now.time)
    }

    /// The context of a pair of homes, made if there is room.
    pub(super) fn context(&mut self, own: Home, peer: Home) -> Option<ContextId> {
        let there = self.table.outbound(own.ip(), peer.ip());
        if there.is_none() && self.table.len() >= self.config.limits.contexts {
            return None;
        }
        let id = self.table.obtain(own, peer, self.now.time)?;
        let local = self.own.get(&own).and_then(|own| own.serving());
        // Later they follow the uplink.
        let others = there.is_none().then(|| self.uplink_if_exclusive(own));
        if let Some(context) = self.table.get_mut(id) {
            context.local = local.or(context.local);
            if let Some(others) = others {
                context.local_others = others;
            }
        }
        Some(id)
    }

    /// Does whatever is missing for packets of this context to flow.
    pub(super) fn pursue(&mut self, id: ContextId) {
        let time = self.now.time;
        let Some(context) = self.table.get(id) else {
            return;
        };
        let peer = context.peer;
        if context.binding.is_none() || context.lease_until <= time {
            match self.cached(peer) {
                Some((binding, until)) if binding.epoch() >= context.epoch() => {
                    let binding = binding.clone();
                    return self.verified(id, &binding, until);
                }
                _ => {
                    let known = context.binding.is_some();
                    if context.keys.is_some() && context.remote().is_some() {
                        // The peer itself may renew the lease, if the service cannot.
                        self.probe(id);
                    }
                    match known {
                        true => self.refresh(peer),
                        false => self.lookup(peer),
                    }
                    self.context_at(id, time + RETRY);
                    return;
                }
            }
        }
        let Some(context) = self.table.get(id) else {
            return;
        };
        if context.remote().is_none() {
            // A binding without active locator: it is being prepared somewhere.
            self.context_at(id, time + RETRY);
        } else if context.keys.is_none() {
            // Whoever has answered an OPEN need not send one.
            if context.offered.is_none() {
                self.open(id);
            }
        } else {
            self.credit_due(id);
            self.flow(id);
        }
    }

    /// The mapping service's (verified) word about the peer of a context, good
    /// until `lease_until`.
    pub(super) fn verified(&mut self, id: ContextId, binding: &Binding, lease_until: Time) {
        let time = self.now.time;
        let Some(context) = self.table.get_mut(id) else {
            return;
        };
        if binding.epoch() >= context.epoch() {
            let news = context.binding.as_ref() != Some(binding);
            context.lease_until = lease_until;
            context.provisional = None;
            if news {
                self.rebind(id, binding.clone());
            }
            return self.pursue(id);
        }
        let Some(provisional) = &mut context.provisional else {
            // A secondary that lags behind; what we have was verified.
            return;
        };
        if time < provisional.deadline {
            provisional.attempts += 1;
            let wait = 50u64 << provisional.attempts.min(5);
            provisional.next = time + Duration::from_millis(wait);
            let next = provisional.next;
            self.context_at(id, next);
        } else {
            context.provisional = None;
            context.lease_until = lease_until;
            self.note_pair(
                id,
                "a MOVED was not confirmed by the mapping service: taken back",
            );
            self.rebind(id, binding.clone());
        }
    }

    /// An authenticated MOVED: used at once, confirmed in parallel.
    pub(super) fn provisional(&mut self, id: ContextId, binding: Binding) {
        let time = self.now.time;
        let peer = binding.home();
        if let Some(context) = self.table.get_mut(id) {
            context.provisional = Some(Provisional {
                deadline: time + PROVISIONAL,
                next: time + PROVISIONAL,
                attempts: 0,
            });
            context.lease_until = time + binding.lease();
        }
        self.rebind(id, binding);
        self.forget_cached(peer);
        self.lookup(peer);
        self.context_at(id, time + PROVISIONAL);
        self.pursue(id);
    }

    /// Whether a binding puts a peer where somebody else is by now: one of our own homes,
    /// or a peer whose binding is newer, even if that one has just left. Epochs are times,
    /// or a little later.
    pub(super) fn is_outdated(&self, binding: &Binding) -> bool {
        let home = binding.home();
        binding.entries().iter().any(|entry| {
            let ours = self.own_locators.get(&entry.locator);
            let holder = self.table.holder(entry.locator).filter(|h| *h != home);
            let newer = holder.is_some_and(|holder| {
                let contexts = self.table.of_peer(holder).into_iter();
                let mut contexts = contexts.filter_map(|id| self.table.get(id));
                contexts.any(|c| c.claims(entry.locator) && c.epoch() >= binding.epoch())
            });
            ours.is_some_and(|owner| *owner != home) || newer
        })
    }

    /// The context uses this binding of its peer from now on.
    pub(super) fn rebind(&mut self, id: ContextId, binding: Binding) {
        if self.is_outdated(&binding) {
            // Asked for again, but not at once.
            let (peer, retry) = (binding.home(), self.now.time + RETRY);
            if let Some(context) = self.table.get_mut(id) {
                context.binding = None;
            }
            self.forget_cached(peer);
            self.lookups.insert(peer, Lookup { retry: Some(retry) });
            self.at(retry, Timer::Lookup(peer));
            return self.reindexed(id);
        }
        let grace = self.now.time + self.config.grace;
        let Some(context) = self.table.get_mut(id) else {
            return;
        };
        let before = context.remote();
        let port = context.remote_port();
        let epoch = binding.epoch();
        context.binding = Some(binding);
        let after = context.remote();
        context.previous.retain(|(l, _)| Some(*l) != after);
        let pair = context.local.zip(after);
        if before != after {
            // Unless somebody else was there a moment ago, all that we have sent there, and
            // that may still wait there, is for this peer.
            let used = pair.and_then(|(own, peer)| self.table.inbound(peer.ip(), own.ip()));
            let left = pair.and_then(|(own, peer)| self.vacated.get(&(peer, own)));
            let left = left.copied().max(self.restored);
            let others = used.is_some_and(|other| other != id)
                || left.is_some_and(|left| self.now.time.since(left) < VACATED);
            if let Some(context) = self.table.get_mut(id) {
                context.confirmed_here = !others;
            }
        }
        let Some(context) = self.table.get_mut(id) else {
            return;
        };
        if let Some(old) = before.filter(|_| before != after) {
            context.previous.push((old, grace));
            if context.previous.len() > PREVIOUS {
                context.previous.remove(0);
            }
        }
        self.reindexed(id);
        if before != after
            && let (Some(before), Some(after)) = (before, after)
        {
            self.note_pair(
                id,
                format!("the peer moved from {before} to {after}, epoch {epoch}"),
            );
            self.context_at(id, grace);
            self.end(id, (before.ip(), port.unwrap_or_default()).into(), epoch);
            // Tokens that went to another place prove nothing about this one.
            if let Some(context) = self.table.get_mut(id) {
                context.offered = None;
                if context.opening.take().is_some() {
                    self.open(id);
                }
            }
        }
        self.prove(id);
    }

    /// After a change that concerns the look-up by locators.
    pub(super) fn reindexed(&mut self, id: ContextId) {
        let changes = self.table.reindex(id);
        let added = changes.added.clone();
        for older in &changes.evicted {
            // What was known of it put it where somebody else is now.
            self.cache.remove(older);
        }
        self.steer(changes);
        self.release_strangers(&added);
    }

    /// Sends what waited for the context, now that it is open.
    pub(super) fn flow(&mut self, id: ContextId) {
        while let Some(context) = self.table.get_mut(id) {
            if !context.is_open() || context.lease_until <= self.now.time {
                return;
            }
            let next = context.hold.first_len();
            if next.is_some_and(|len| context.credit.is_some_and(|left| left < len as u64)) {
                return;
            }
            let Some(frame) = context.hold.pop(&mut self.budget) else {
                return;
            };
            self.replay(frame, Arrival::Direct);
        }
    }

    pub(super) fn context_due(&mut self, id: ContextId) {
        let time = self.now.time;
        let (age, idle) = (self.config.limits.hold_age, self.config.limits.idle);
        let Some(tally) = self.table.get(id).map(|c| self.table.tally(c)) else {
            return;
        };
        let Some(context) = self.table.get_mut(id) else {
            return;
        };
        let heard = tally.last_received;
        context.timer = None;
        let expired = context.hold.expire(time, age, &mut self.budget);
        let cause = match (&context.binding, &context.keys) {
            (None, _) => Cause::MappingUnreachable,
            (Some(_), None) => Cause::PeerSilent,
            _ => Cause::HoldExpired,
        };
        self.counters.add(cause, expired);
        let last = heard
            .max(tally.last_sent)
            .max(context.heard)
            .unwrap_or(context.created);
        let waiting =
            context.hold.len() > 0 || context.opening.is_some() || context.offered.is_some();
        if !waiting && (context.keys.is_none() || time.since(last) >= idle) {
            return self.drop_context(id, Cause::HoldExpired);
        }
        let had = context.previous.len() + usize::from(context.local_previous.is_some());
        context.previous.retain(|(_, until)| *until > time);
        context.local_previous.take_if(|(_, until)| *until <= time);
        if context.previous.len() + usize::from(context.local_previous.is_some()) < had {
            self.reindexed(id);
        }
        self.exchange_due(id);
        self.order_due(id);
        self.credit_due(id);
        self.look_back(id);
        self.maintain(id);
        if self.table.get(id).is_some_and(|c| c.hold.len() > 0) {
            self.pursue(id);
        }
    }

    /// Confirms what is provisional, renews leases before they end, and
    /// notices peers that have fallen silent.
    fn maintain(&mut self, id: ContextId) {
        let time = self.now.time;
        let Some(context) = self.table.get(id) else {
            return;
        };
        let peer = context.peer;
        let mut next = time + MAINTENANCE;
        if let Some(provisional) = &context.provisional {
            if provisional.next <= time {
                self.lookup(peer);
            } else {
                next = next.min(provisional.next);
            }
        }
        let Some(context) = self.table.get(id) else {
            return;
        };
        let tally = self.table.tally(context);
        let (last_in, last_out) = (context.heard.max(tally.last_received), tally.last_sent);
        let recent = |t: Option<Time>| t.is_some_and(|t| time.since(t) < ONE_WAY);
        let used = recent(last_out) || recent(last_in);
        let lease = context
            .binding
            .as_ref()
            .map_or(Duration::ZERO, Binding::lease);
        let one_way = recent(last_out)
            && last_in.is_none_or(|t| time.since(t) >= ONE_WAY)
            && time.since(context.created) >= ONE_WAY;
        let ageing = used && context.lease_until <= time + lease / 2;
        match context.probing {
            Some((_, sent)) if time.since(sent) >= PROBE_PATIENCE => self.lookup(peer),
            Some(_) => {}
            None if context.is_open() && (one_way || ageing) => self.probe(id),
            None => {}
        }
        let Some(context) = self.table.get_mut(id) else {
            return;
        };
        let watched = context.watched.is_some_and(|at| time.since(at) < WATCH);
        if context.is_open() && used && !watched {
            context.watched = Some(time);
            self.outputs.push_back(Output::Watch(peer));
        }
        context
            .probing
            .take_if(|(_, sent)| time.since(*sent) >= PROBE_PATIENCE);
        if !used && context.provisional.is_none() {
            // Nobody waits for anything: look again when something can expire, and
            // before the lease does, lest a flow that goes on then has to wait.
            context.parked = context.is_open();
            next = time + Duration::from_secs(10);
            let before_end = context.lease_until - 2 * MAINTENANCE;
            if before_end > time {
                next = next.min(before_end);
            }
        }
        for at in context.previous.iter().map(|(_, until)| *until) {
            next = next.min(at.max(time));
        }
        self.context_at(id, next);
    }

    /// A packet of a context has come by: if nobody looks after it, that begins again.
    pub(super) fn wake(&mut self, id: ContextId) {
        if self.table.get(id).is_some_and(|c| c.parked) {
            if let Some(context) = self.table.get_mut(id) {
                context.parked = false;
            }
            self.context_at(id, self.now.time + MAINTENANCE);
        }
    }

    /// Forgets a context and what waits for it.
    pub(super) fn drop_context(&mut self, id: ContextId, cause: Cause) {
        if let Some((mut context, changes)) = self.table.remove(id) {
            if let Some(at) = context.timer {
                self.timers.remove(&(at, Timer::Context(id)));
            }
            let mut dropped = context.hold.clear(&mut self.budget);
            if let Some(mut behind) = context.behind.take() {
                dropped += behind.hold.clear(&mut self.budget);
            }
            self.counters.add(cause, dropped);
            self.accounts.close((context.own, Some(context.peer)));
            self.steer(changes);
        }
    }

    /// An ICMP error said that the peer cannot be reached: perhaps it moved.
    pub(super) fn peer_unreachable(&mut self, id: Option<ContextId>) {
        if let Some(peer) = id.and_then(|id| self.table.get(id)).map(|c| c.peer) {
            self.forget_cached(peer);
            self.lookup(peer);
        }
    }

    pub(super) fn note_pair(&mut self, id: ContextId, what: impl Into<String>) {
        if let Some((own, peer)) = self.table.get(id).map(|c| (c.own, c.peer)) {
            self.note(own, Some(peer), what);
        }
    }

    fn refuse_held(&mut self, id: ContextId) {
        loop {
            let Some(context) = self.table.get_mut(id) else {
                return;
            };
            let Some(frame) = context.hold.pop(&mut self.budget) else {
                return;
            };
            self.counters.count(Cause::NoBinding);
            if let Ok(headers) = Packet::parse(&frame.packet) {
                self.refuse(&frame.packet, &headers, Unreachable::Host);
            }
        }
    }

    /// Whether anything here still depends on knowing where `home` is.
    fn is_wanted(&self, home: Home) -> bool {
        let waits = |id: &ContextId| {
            self.table
                .get(*id)
                .is_some_and(|c| c.hold.len() > 0 || c.provisional.is_some())
        };
        self.table.of_peer(home).iter().any(waits)
            || self.opens.keys().any(|(from, _)| *from == home)
    }

    fn remember(&mut self, home: Home, binding: Option<Binding>) {
        let life = binding.as_ref().map_or(NEGATIVE, Binding::lease);
        let full = self.cache.len() >= self.config.limits.cached_bindings;
        if full && !self.cache.contains_key(&home) {
            // The one that ends first is the least worth keeping.
            let first = self
                .cache
                .iter()
                .min_by_key(|(_, c)| c.until)
                .map(|(h, _)| *h);
            if let Some(first) = first {
                self.cache.remove(&first);
            }
        }
        let until = self.now.time + life;
        self.cache.insert(home, Cached { binding, until });
    }

    /// The zone that speaks for this home has given no usable answer.
    pub(super) fn zone_failed(&mut self, home: Home, why: &str) {
        let zone = self.config.zoning.of(home);
        let fault = MapFault::new(why, self.now);
        let known = self.mapping.faults.entry(zone).or_insert(fault);
        why.clone_into(&mut known.why);
    }

    /// The zone that speaks for this home answers.
    pub(super) fn zone_answers(&mut self, home: Home) {
        let zone = self.config.zoning.of(home);
        self.mapping.faults.remove(&zone);
    }

    /// An answer that is not authenticated counts only where the network is
    /// trusted.
    fn trusted(&mut self, answer: Answer) -> Answer {
        let proof = match &answer {
            Answer::Found { proof, .. } | Answer::NotFound { proof } => *proof,
            Answer::Failed(_) => return answer,
        };
        self.mapping.unverified = proof != Proof::Signed;
        if proof != Proof::Missing {
            return answer;
        }
        self.counters.count(Cause::Unverified);
        Answer::Failed("its answer is not authenticated (mapping.trust = \"tsig\")".to_owned())
    }
}

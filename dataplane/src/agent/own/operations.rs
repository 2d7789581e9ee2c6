//! Attach, prepare, activate, detach: homes come and go, and so do their links
//! and locators.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;
use mat_proto::auth::MoveKey;
use mat_proto::{Binding, Family, Home, Locator};

use super::{
    Attach, Handover, Link, OpError, Own, PREPARED_FOR, Plan, Prepared, RelayTo, Role, TAKE_BACK,
    Updating,
};
use crate::agent::relay::Sent;
use crate::agent::snapshot::{ArrivingRecord, ContextRecord, DepartedRecord, OwnRecord};
use crate::agent::{Agent, Now, Output, Timer};
use crate::clock::Time;
use crate::counters::Cause;

impl Agent {
    /// Attaches an instance. The end comes as [`Output::Settled`].
    pub fn attach(&mut self, now: Now, request: Attach) -> Result<(), OpError> {
        self.now = now;
        let reserved = self.reserve(request.home)?;
        self.note(request.home, None, "attached");
        self.take_up(request, reserved);
        Ok(())
    }

    /// Reserves a locator for an instance that is about to come.
    pub fn prepare(
        &mut self,
        now: Now,
        home: Home,
        key: MoveKey,
        link: Option<Link>,
    ) -> Result<Prepared, OpError> {
        self.now = now;
        let reserved = self.reserve(home)?;
        let locator = *reserved.first().ok_or(OpError::NoLocator(home))?;
        let mut own = Own::new(Role::Prepared(Plan::Wait), reserved, now.time);
        own.link = link;
        own.move_key = Some(key);
        own.deadline = Some(now.time + PREPARED_FOR);
        self.install(home, own);
        self.note(home, None, format!("prepared at {locator}"));
        Ok(Prepared {
            locator,
            port: self.config.control_port,
        })
    }

    /// Takes over a prepared home: registers its binding and tells its peers. The end comes
    /// as [`Output::Settled`]; its link is to be set up again, since its link-layer address
    /// may be known only now, and [`Agent::link_ready`] to follow.
    pub fn activate(&mut self, now: Now, handover: Handover) -> Result<(), OpError> {
        self.now = now;
        let home = handover.home;
        let own = self.own.get_mut(&home).ok_or(OpError::NotAttached(home))?;
        if !own.prepared() || own.updating.is_some() {
            return Err(OpError::NotPrepared(home, own.role.as_str()));
        }
        own.role = Role::Prepared(Plan::Wait);
        own.imports = handover.contexts;
        // The old site may not have heard yet that we stand by.
        let newer = handover.binding.filter(|b| b.epoch() > own.epoch());
        if newer.is_some() {
            own.know(newer, now.time);
        }
        if let (Some(link), Some(mac)) = (&mut own.link, handover.mac)
            && link.mac.is_none()
        {
            // Packets wait for the instance: the kernel has neither time nor room for them
            // while it looks for it. They wait here until it has been told.
            link.mac = Some(mac);
            own.ready = false;
        }
        self.register(home)
    }

    /// Lets go of a home. With `to`, everything that still arrives is relayed
    /// there until grace ends, and the answer holds what the new site needs;
    /// without, its binding is withdrawn, and the end comes as
    /// [`Output::Settled`].
    pub fn detach(
        &mut self,
        now: Now,
        home: Home,
        to: Option<RelayTo>,
    ) -> Result<Handover, OpError> {
        self.now = now;
        let own = self.own.get_mut(&home).ok_or(OpError::NotAttached(home))?;
        if own.departed() || (to.is_some() && own.serving().is_none()) {
            return Err(OpError::NotServing(home, own.role.as_str()));
        }
        let fault = self.mapping.faults.get(&self.config.zoning.of(home));
        if let (Some(_), Some(fault)) = (&to, fault) {
            // The new site could not commit, and nobody would serve until it can.
            return Err(OpError::Mapping(home, fault.why.clone()));
        }
        let (serving, claim) = (own.serving().is_some(), own.claim);
        let Handover {
            binding, contexts, ..
        } = self.handover(home)?;
        let ids = self.table.of_own(home);
        let pairs = ids.iter().filter_map(|id| self.table.get(*id));
        let open = pairs.flat_map(|c| c.pairs()).map(|(peer, _)| peer.ip());
        let offered = contexts.iter().filter(|record| record.offered.is_some());
        let offered = offered.flat_map(|record| record.binding.entries());
        let peers = open.chain(offered.map(|e| e.locator.ip())).collect();
        match to {
            Some(to) => {
                let until = now.time + TAKE_BACK;
                if let Some(own) = self.own.get_mut(&home) {
                    own.role = Role::Departed { to, until };
                    own.updating = None;
                    own.sent = Some(Sent::new(home, own.epoch(), peers, now.time));
                    own.imports.clone_from(&contexts);
                    own.taken_over = false;
                    own.gone = false;
                    own.left = Some(now.time);
                    own.deadline = None;
                }
                self.home_changed(home);
                self.send_on(home);
                self.at(until, Timer::Own(home));
                self.note(home, None, format!("handed to {}", to.locator));
            }
            None if self.own.get(&home).is_some_and(Own::prepared) => {
                self.note(home, None, "detached");
                if !self.release(home) {
                    self.settle_gone(home, binding.as_ref());
                }
            }
            None => {
                self.note(home, None, "detached");
                self.release(home);
                match binding.clone().filter(|_| serving && claim) {
                    Some(binding) => self.outputs.push_back(Output::Update {
                        home,
                        expect: Some(binding),
                        new: None,
                    }),
                    None => self.settle_gone(home, binding.as_ref()),
                }
            }
        }
        Ok(Handover {
            home,
            binding,
            contexts,
            mac: None,
        })
    }

    /// Packets can (or cannot) be given to the instance now.
    pub fn link_ready(&mut self, now: Now, home: Home, ready: bool) {
        self.now = now;
        let Some(own) = self.own.get_mut(&home) else {
            return;
        };
        if own.departed() {
            // A link that comes back is not its instance coming back.
            if !ready {
                own.gone = true;
                self.silence(home);
            }
            return;
        }
        if ready && own.serving().is_some() {
            own.deadline = None;
        }
        own.arrived |= ready && own.missed && own.prepared();
        own.missed = !ready;
        own.ready = ready;
        self.home_changed(home);
        self.flush(home);
        self.comes_alone(home);
    }

    /// Homes at the interface `name`: with its link if an instance is here or
    /// about to come, without if it is leaving.
    pub fn links(&self, name: &str) -> Vec<(Home, Option<Link>)> {
        let plugged = |own: &Own| own.link.clone().filter(|link| link.interface == name);
        let here = self.own.iter();
        here.filter_map(|(home, own)| Some((*home, own.departed(), plugged(own)?)))
            .map(|(home, departed, link)| (home, Some(link).filter(|_| !departed)))
            .collect()
    }

    /// The addresses of the uplink are now these: what exclusive homes can use.
    pub fn handle_uplink(&mut self, now: Now, locators: Vec<Locator>) {
        self.now = now;
        self.uplink = locators;
        if !self.config.exclusive {
            return;
        }
        for home in self.own.keys().copied().collect::<Vec<_>>() {
            let usable = self.uplink_for(home);
            let Some(own) = self.own.get_mut(&home) else {
                continue;
            };
            let lost = own.serving().filter(|l| !usable.contains(l));
            own.reserved.clone_from(&usable);
            // Packets on their way to a lost address would find nobody anyway.
            self.own_locators.retain(|_, owner| *owner != home);
            self.own_locators.extend(usable.iter().map(|l| (*l, home)));
            self.home_changed(home);
            for id in self.table.of_own(home) {
                if let Some(context) = self.table.get_mut(id) {
                    context.local_others.clone_from(&usable);
                }
                self.reindexed(id);
            }
            if let (Some(lost), false) = (lost, usable.is_empty()) {
                self.note(home, None, format!("{lost} is gone from the uplink"));
                self.renumber(home);
            } else if own_waits(&self.own, home) {
                self.lookup(home);
            }
        }
    }

    /// Takes up a home of an earlier life, with the locators it had then.
    pub(in crate::agent) fn resume(&mut self, request: Attach, reserved: Vec<Locator>) {
        let home = request.home;
        self.note(home, None, "taken up again after a restart");
        self.take_up(request, reserved);
        let elsewhere = |own: &Own| own.serving().is_none() && own.known.is_some();
        if self.own.get(&home).is_some_and(elsewhere) {
            // Its binding was another place's already: not to be claimed back.
            self.stop_serving(home);
        }
    }

    /// The same for one that was on its way to another site. What arrives for it is not
    /// relayed any more: the new site has counted what came before, and would take it
    /// for something it has.
    pub(in crate::agent) fn resume_departed(
        &mut self,
        record: &OwnRecord,
        departed: &DepartedRecord,
        until: Time,
        contexts: Vec<ContextRecord>,
    ) {
        let to = departed.to;
        let mut own = Own::new(
            Role::Departed { to, until },
            record.reserved.clone(),
            self.now.time,
        );
        own.claim = record.claim;
        own.link = record.link.clone();
        own.known = record.known.clone();
        own.taken_over = departed.taken_over;
        // It may have gone while nobody looked.
        own.gone = true;
        own.imports = contexts;
        self.install(record.home, own);
    }

    /// The same for one that was on its way here. An update that was under way is read back:
    /// whoever waited for its answer does not any more, and may have undone the move.
    pub(in crate::agent) fn resume_arriving(
        &mut self,
        record: &OwnRecord,
        arriving: &ArrivingRecord,
        deadline: Time,
        contexts: Vec<ContextRecord>,
    ) {
        let now = self.now.time;
        let mut own = Own::new(Role::Prepared(Plan::Wait), record.reserved.clone(), now);
        own.claim = record.claim;
        own.link = record.link.clone();
        own.known = record.known.clone();
        own.move_key = Some(arriving.key);
        own.deadline = Some(deadline);
        own.updating = arriving.registering.clone().map(|new| Updating {
            new: Some(new),
            epoch_before: own.epoch(),
            since: now,
            lost: true,
        });
        own.imports = contexts;
        let text = "its move here is taken up again after a restart";
        self.note(record.home, None, text);
        self.install(record.home, own);
    }

    pub(in crate::agent) fn take_up(&mut self, request: Attach, reserved: Vec<Locator>) {
        let home = request.home;
        let mut own = Own::new(Role::Registering, reserved, self.now.time);
        own.claim = request.claim;
        own.link = request.link;
        own.ready = request.ready;
        own.imports = request.contexts;
        own.known = request.binding;
        let epoch = own.epoch();
        let active = own.known.as_ref().and_then(|b| b.active());
        let ours = active.is_some_and(|e| own.reserved.contains(&e.locator));
        self.install(home, own);
        if ours {
            self.serve_known(home, epoch, Duration::ZERO);
        }
        self.refresh(home);
    }

    pub(in crate::agent) fn install(&mut self, home: Home, own: Own) {
        self.lay_claim(home, &own.reserved);
        for id in self.table.of_own(home) {
            self.drop_context(id, Cause::Departed);
        }
        if let Some(mut old) = self.own.insert(home, own) {
            // A move that is undone: what the new site has not delivered is ours again.
            if let Some(own) = self.own.get_mut(&home).filter(|own| own.is_settled()) {
                own.sent = old.sent.take();
            }
            let dropped = old.clear(&mut self.budget);
            self.counters.add(Cause::Departed, dropped);
        }
        self.home_changed(home);
        self.let_neighbours_go_on(home);
        self.at(self.now.time, Timer::Own(home));
    }

    /// A locator for `home`: the one it had here before, or a free one.
    pub(in crate::agent) fn reserve(&self, home: Home) -> Result<Vec<Locator>, OpError> {
        if !self.in_homes(home.ip()) {
            return Err(OpError::NotAHome(home));
        }
        if let Some(own) = self.own.get(&home) {
            if own.departed() {
                return Ok(own.reserved.clone());
            }
            return Err(OpError::Attached(home, own.role.as_str()));
        }
        if self.config.exclusive {
            let other = self.own.keys().find(|h| h.family() == home.family());
            return match other {
                // One home each: the host's address cannot be shared.
                Some(_) => Err(OpError::NoLocator(home)),
                None => Ok(self.uplink_for(home)),
            };
        }
        let free = |locator: &Locator| {
            !self.own_locators.contains_key(locator) && !self.rests_for_another(*locator, home)
        };
        // Its old locator first: peers that missed a move still know it.
        let before = self
            .quarantine
            .iter()
            .find(|(_, (h, _))| *h == Some(home))
            .map(|(l, _)| *l);
        let locator = before.filter(free).or_else(|| {
            let pools = self.config.pool.iter().filter(|p| same_family(p, home));
            pools.flat_map(addresses).find(free)
        });
        locator.map(|l| vec![l]).ok_or(OpError::NoLocator(home))
    }

    /// A home is attached whose binding names a locator that we may give away, but do not
    /// know as its own: we have lost our memory, or somebody has put it there by hand, perhaps
    /// with its whole prefix. It gets that one, so that nobody else does: its peers, and packets
    /// on their way, look for it there.
    pub(in crate::agent) fn adopt(&mut self, home: Home, binding: &Binding) {
        let settles = |own: &Own| {
            matches!(own.role, Role::Registering | Role::Idle) && own.updating.is_none()
        };
        let Some(there) = binding.active().map(|e| e.locator) else {
            return;
        };
        let Some(own) = self.own.get(&home).filter(|own| settles(own)) else {
            return;
        };
        let ours = !self.config.exclusive && self.in_pool(there.ip());
        if !ours || own.reserved.contains(&there) {
            return;
        }
        let before = own.reserved.clone();
        match self.own_locators.get(&there).copied() {
            // If somebody is said to be there, it is this one.
            None if self.rested(there).is_some_and(|holder| holder != home) => return,
            None => {
                for locator in &before {
                    self.own_locators.remove(locator);
                    self.outputs.push_back(Output::RemoveLocator(*locator));
                }
            }
            // Another one that does not know yet where it belongs: they change places.
            Some(other) => {
                let Some(other_own) = self.own.get_mut(&other).filter(|own| settles(own)) else {
                    return;
                };
                other_own.reserved.clone_from(&before);
                for locator in before {
                    self.own_locators.insert(locator, other);
                }
            }
        }
        if let Some(own) = self.own.get_mut(&home) {
            own.reserved = vec![there];
        }
        self.lay_claim(home, &[there]);
    }

    /// These locators are this home's, and nobody else is there.
    fn lay_claim(&mut self, home: Home, locators: &[Locator]) {
        for locator in locators {
            self.own_locators.insert(*locator, home);
            self.quarantine.remove(locator);
            // Whoever was there before is not, even if the mapping service says so.
            let changes = self.table.take_locator(*locator);
            for older in &changes.evicted {
                self.cache.remove(older);
            }
            self.steer(changes);
            if !self.config.exclusive {
                self.outputs.push_back(Output::AddLocator(*locator));
            }
        }
    }

    /// Whose a locator in quarantine was.
    fn rested(&self, locator: Locator) -> Option<Home> {
        self.quarantine
            .get(&locator)
            .and_then(|(holder, _)| *holder)
    }

    fn rests_for_another(&self, locator: Locator, home: Home) -> bool {
        self.quarantine
            .get(&locator)
            .is_some_and(|(holder, _)| *holder != Some(home))
    }

    pub(in crate::agent) fn uplink_for(&self, home: Home) -> Vec<Locator> {
        let usable = self.uplink.iter().copied();
        usable
            .filter(|l| l.family() == home.family() && self.in_locators(l.ip()))
            .collect()
    }

    /// The same, if they are the host's own: what is not led to us it answers itself, and
    /// refuses.
    pub(in crate::agent) fn uplink_if_exclusive(&self, home: Home) -> Vec<Locator> {
        match self.config.exclusive {
            true => self.uplink_for(home),
            false => Vec::new(),
        }
    }

    /// The instance that left no longer speaks from here.
    pub(in crate::agent) fn silence(&mut self, home: Home) {
        if let Some(own) = self.own.get_mut(&home) {
            own.ready = false;
        }
        for id in self.table.of_own(home) {
            self.drop_context(id, Cause::Departed);
        }
    }

    /// How long a locator that is given up now stays out of use.
    pub(in crate::agent) fn rest_until(&self) -> Time {
        let lease = Duration::from_secs(self.config.lease_seconds.into());
        self.now.time + lease + self.config.limits.quarantine
    }

    /// Forgets a home; its locators stay out of use for a while. If it was to stand by here,
    /// that is withdrawn: `true`, and what becomes of it is heard later.
    pub(in crate::agent) fn release(&mut self, home: Home) -> bool {
        for id in self.table.of_own(home) {
            self.drop_context(id, Cause::NotAttached);
        }
        let Some(mut own) = self.own.remove(&home) else {
            return false;
        };
        let withdraws = self.withdraw(home, &own);
        let dropped = own.clear(&mut self.budget);
        self.counters.add(Cause::NotAttached, dropped);
        self.released.insert(home, (own.epoch(), self.now.time));
        self.accounts.close((home, None));
        self.outputs.push_back(Output::Disconnect(home, own.link));
        let until = self.rest_until();
        self.home_changed(home);
        for locator in own.reserved {
            self.own_locators.remove(&locator);
            if !self.config.exclusive {
                self.quarantine.insert(locator, (Some(home), until));
                self.outputs.push_back(Output::RemoveLocator(locator));
            }
        }
        withdraws
    }
}

fn own_waits(own: &BTreeMap<Home, Own>, home: Home) -> bool {
    own.get(&home)
        .is_some_and(|own| matches!(own.role, Role::Registering | Role::Idle))
}

fn same_family(prefix: &IpNet, home: Home) -> bool {
    Family::of(prefix.addr()) == home.family()
}

/// The usable addresses of a pool, lowest first.
fn addresses(prefix: &IpNet) -> impl Iterator<Item = Locator> {
    prefix.hosts().filter_map(|ip| Locator::new(ip).ok())
}

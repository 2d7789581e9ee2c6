//! Whether a home attached here is served here: what the mapping service says of
//! its binding, what it is told, and what follows for packets and peers.

use std::time::Duration;

use mat_proto::{Binding, Entry, Epoch, Home, Locator, Modes, Priority};

use super::{Activated, FRESH, OpError, Own, Plan, READ_BACK, Role, Updating};
use crate::agent::hold::Hold;
use crate::agent::packet::Arrival;
use crate::agent::{Agent, Answer, Now, Output, Timer, UpdateResult};
use crate::counters::Cause;
use crate::frame::Frame;
use crate::table::ContextId;

impl Agent {
    /// What became of the update that was to make `new` the binding of a home.
    pub fn handle_update(
        &mut self,
        now: Now,
        home: Home,
        new: Option<&Binding>,
        result: UpdateResult,
    ) {
        self.now = now;
        let Some(own) = self.own.get_mut(&home) else {
            return self.withdrawn(home, result);
        };
        // An older one may still have been under way when the home came back.
        let ours = |updating: &mut Updating| updating.new.as_ref() == new;
        let Some(updating) = own.updating.take_if(ours) else {
            return;
        };
        let prepared = own.prepared();
        match result {
            UpdateResult::Committed if updating.new.is_none() => self.given_back(home),
            UpdateResult::Committed => {
                let took = now.time.since(updating.since);
                own.confirmed = now.time;
                own.know(updating.new, now.time);
                let stands_by = prepared && !own.names_ours();
                let gone = own.names_lost_locator();
                self.zone_answers(home);
                if stands_by {
                    self.stands_by(home, updating.epoch_before, took);
                } else if gone {
                    // The uplink has changed again while the update was on its way.
                    self.renumber(home);
                } else {
                    self.serve_known(home, updating.epoch_before, took);
                }
            }
            UpdateResult::Conflict => {
                if matches!(own.role, Role::Prepared(Plan::StandBy)) {
                    self.lookup(home);
                } else if prepared {
                    self.settle(home, Err(OpError::Conflict(home)));
                    self.release(home);
                } else {
                    self.lookup(home);
                }
            }
            UpdateResult::Refused(why) if matches!(own.role, Role::Prepared(Plan::StandBy)) => {
                self.not_to_stand_by(home, why);
            }
            UpdateResult::Refused(why) => {
                self.note(home, None, format!("registration refused: {why}"));
                self.settle(home, Err(OpError::Refused(home, why)));
                if prepared {
                    self.release(home);
                }
            }
            UpdateResult::Unknown(why) => {
                // It may be committed: nobody serves until it has been read back.
                own.updating = Some(Updating {
                    lost: true,
                    ..updating
                });
                own.next_poll = now.time + READ_BACK;
                let next = own.next_poll;
                let stands_by = matches!(own.role, Role::Prepared(Plan::StandBy));
                self.at(next, Timer::Own(home));
                self.zone_failed(home, &why);
                if stands_by {
                    // Nothing is lost yet: whoever wants to move it need not wait until it is
                    // known, and the old site withdraws what nobody else does.
                    self.not_published(home, OpError::Mapping(home, why));
                }
            }
        }
    }

    /// The mapping service's word about a home attached here.
    pub(in crate::agent) fn own_answer(&mut self, home: Home, answer: &Answer) {
        let time = self.now.time;
        let Some(own) = self.own.get_mut(&home) else {
            return;
        };
        if !matches!(answer, Answer::Failed(_)) {
            own.confirmed = time;
        }
        if let Some(updating) = &own.updating {
            // Only an update whose answer was lost is read back; while one is
            // under way, answers may be older than it.
            let result = match answer {
                _ if !updating.lost => return,
                Answer::Failed(_) => return,
                Answer::NotFound { .. } if updating.new.is_none() => UpdateResult::Committed,
                Answer::Found { binding, .. } if Some(binding) == updating.new.as_ref() => {
                    UpdateResult::Committed
                }
                _ => UpdateResult::Conflict,
            };
            let new = updating.new.clone();
            return self.handle_update(self.now, home, new.as_ref(), result);
        }
        if let Role::Departed { until, .. } = own.role {
            return self.departed_answer(home, until, answer);
        }
        if let Role::Prepared(plan) = own.role {
            return match plan {
                Plan::Wait | Plan::Alone => {}
                Plan::StandBy => self.publish(home, answer),
                Plan::TakeOver => self.finish_alone(home, answer),
            };
        }
        match answer {
            Answer::Found { binding, .. } if binding.epoch() >= own.epoch() => {
                self.adopt(home, binding);
                let Some(own) = self.own.get_mut(&home) else {
                    return;
                };
                let before = own.epoch();
                let news = own.known.as_ref() != Some(binding);
                own.know(Some(binding.clone()), time);
                let here = binding
                    .active()
                    .filter(|e| own.reserved.contains(&e.locator));
                let registering = matches!(own.role, Role::Registering);
                match here {
                    Some(entry) if own.serving() != Some(entry.locator) => {
                        self.serve_known(home, before, Duration::ZERO);
                    }
                    Some(_) if news => {
                        // Another site stands by for it, or no longer does.
                        self.announce(home);
                    }
                    Some(_) => {}
                    None if !news && own.names_lost_locator() => self.renumber(home),
                    None if registering && own.claim => self.try_register(home),
                    None if news || registering => self.stop_serving(home),
                    None => {}
                }
            }
            // Deleted, or restored from an old backup: whoever serves says so again.
            Answer::Found { binding, .. } => {
                let behind = binding.clone();
                self.reregister(home, Some(behind));
            }
            Answer::NotFound { .. } => {
                let serves = matches!(own.role, Role::Registering) || own.serving().is_some();
                if own.claim {
                    self.reregister(home, None);
                } else if serves {
                    self.stop_serving(home);
                }
            }
            Answer::Failed(why) => {
                if matches!(own.role, Role::Registering) {
                    let why = why.clone();
                    self.settle(home, Err(OpError::Mapping(home, why)));
                }
            }
        }
    }

    pub(in crate::agent) fn own_due(&mut self, home: Home) {
        let time = self.now.time;
        let age = self.config.limits.hold_age;
        let poll = self.config.poll;
        let Some(own) = self.own.get_mut(&home) else {
            return;
        };
        let expired = own.expire(time, age, &mut self.budget);
        self.counters.add(Cause::HoldExpired, expired);
        self.relay_due(home);
        let Some(own) = self.own.get_mut(&home) else {
            return;
        };
        if let Role::Departed { until, .. } = own.role {
            let over = until <= time;
            if over && own.taken_over && !own.may_be_given_back(time) {
                self.release(home);
                return;
            }
            // Once somebody else serves it, it must not speak here; and if nobody does
            // in the end, it is still ours.
            let asks = !own.taken_over || own.may_be_given_back(time);
            if asks && (own.next_poll <= time || over) {
                own.next_poll = time + poll;
                self.lookup(home);
            }
            let next = if over { time + poll } else { until };
            return self.at(next.min(time + poll), Timer::Own(home));
        }
        self.comes_alone(home);
        let Some(own) = self.own.get_mut(&home) else {
            return;
        };
        if own.prepared() && own.deadline.is_some_and(|d| d <= time) {
            self.not_activated(home);
        }
        let Some(own) = self.own.get(&home) else {
            return;
        };
        if own.serving().is_some() {
            let silence = time.since(own.confirmed);
            if self.config.stop_after.is_some_and(|most| silence >= most) {
                self.isolate(home);
            } else if own.updating.is_none() && own.deadline.is_some_and(|d| d <= time) {
                self.give_back(home);
            } else {
                self.stand_alone(home);
            }
        }
        let Some(own) = self.own.get_mut(&home) else {
            return;
        };
        if own.next_poll <= time {
            own.next_poll = time + poll;
            match own.role {
                // An update whose answer was lost is to be read back.
                _ if own.updating.is_some() => self.lookup(home),
                Role::Prepared(Plan::Wait | Plan::Alone) => {}
                Role::Prepared(_) | Role::Departed { .. } => self.lookup(home),
                Role::Registering | Role::Serving { .. } | Role::Idle => self.refresh(home),
            }
        }
        if let Some(own) = self.own.get(&home) {
            let next = own.next_poll;
            self.at(next, Timer::Own(home));
        }
    }

    /// Asks for the binding to name our locator from now on.
    pub(in crate::agent) fn register(&mut self, home: Home) -> Result<(), OpError> {
        let expect = self.own.get(&home).and_then(|own| own.known.clone());
        let epoch = expect.as_ref().map_or(Epoch(0), Binding::epoch);
        self.swap(home, expect, epoch)
    }

    pub(in crate::agent) fn try_register(&mut self, home: Home) {
        if let Err(error) = self.register(home) {
            self.settle(home, Err(error));
        }
    }

    /// The locator of a home is gone from the uplink, and another one is there: has that
    /// registered, and speaks from it at once. Nobody else can have the home meanwhile who
    /// could not have had it before, and peers believe it on credit until the mapping service
    /// says so too, or somebody else.
    pub(in crate::agent) fn renumber(&mut self, home: Home) {
        self.try_register(home);
        let Some(own) = self.own.get_mut(&home) else {
            return;
        };
        let before = own.epoch();
        let Some(updating) = &mut own.updating else {
            return;
        };
        let active = |binding: &Binding| binding.active().map(|entry| entry.locator);
        let ours = |b: &Binding| active(b).is_some_and(|l| own.reserved.contains(&l));
        if let Some(new) = updating.new.clone().filter(ours) {
            // When it is committed nobody has to be told again.
            updating.epoch_before = new.epoch();
            own.know(Some(new), self.now.time);
            self.serve_known(home, before, Duration::ZERO);
        }
    }

    /// The mapping service has forgotten what it once knew: says it again.
    pub(in crate::agent) fn reregister(&mut self, home: Home, there: Option<Binding>) {
        let Some(own) = self.own.get(&home) else {
            return;
        };
        let wants = matches!(own.role, Role::Serving { .. } | Role::Registering);
        if !own.claim || !wants {
            return;
        }
        let epoch = own
            .epoch()
            .max(there.as_ref().map_or(Epoch(0), Binding::epoch));
        self.try_swap(home, there, epoch);
    }

    pub(super) fn try_swap(&mut self, home: Home, expect: Option<Binding>, epoch: Epoch) {
        if let Err(error) = self.swap(home, expect, epoch) {
            self.settle(home, Err(error));
        }
    }

    pub(in crate::agent) fn swap(
        &mut self,
        home: Home,
        expect: Option<Binding>,
        epoch: Epoch,
    ) -> Result<(), OpError> {
        let last = self
            .released
            .get(&home)
            .map_or(Epoch(0), |(epoch, _)| *epoch);
        let epoch = epoch.max(last);
        let own = self.own.get(&home).ok_or(OpError::NotAttached(home))?;
        if own.updating.is_some() {
            return Ok(());
        }
        let locator = own.serving().filter(|l| own.reserved.contains(l));
        let locator = locator.or(own.reserved.first().copied());
        let locator = locator.ok_or(OpError::NoLocator(home))?;
        let entry = self.entry(locator, Priority::ACTIVE);
        self.propose(home, expect, epoch, vec![entry])
    }

    /// How a locator of ours stands in a binding.
    pub(super) fn entry(&self, locator: Locator, priority: Priority) -> Entry {
        Entry {
            priority,
            locator,
            port: self.config.control_port,
            modes: Modes::NATIVE,
        }
    }

    /// Asks for the binding of a home to name these places, after the one of `epoch`.
    pub(super) fn propose(
        &mut self,
        home: Home,
        expect: Option<Binding>,
        epoch: Epoch,
        entries: Vec<Entry>,
    ) -> Result<(), OpError> {
        let next = epoch.next(self.now.unix_seconds());
        let new = Binding::new(home, next, self.config.lease_seconds, entries)
            .map_err(|e| OpError::Refused(home, e.to_string()))?;
        self.update(home, expect, epoch, Some(new));
        Ok(())
    }

    pub(super) fn update(
        &mut self,
        home: Home,
        expect: Option<Binding>,
        epoch_before: Epoch,
        new: Option<Binding>,
    ) {
        if let Some(own) = self.own.get_mut(&home) {
            own.updating = Some(Updating {
                new: new.clone(),
                epoch_before,
                since: self.now.time,
                lost: false,
            });
            self.outputs.push_back(Output::Update { home, expect, new });
        }
    }

    /// The binding known names a locator of ours: serve it there.
    pub(in crate::agent) fn serve_known(
        &mut self,
        home: Home,
        epoch_before: Epoch,
        took: Duration,
    ) {
        let time = self.now.time;
        let Some(own) = self.own.get_mut(&home) else {
            return;
        };
        let Some(binding) = own.known.clone() else {
            return;
        };
        let active = binding.active().map(|e| e.locator);
        let Some(locator) = active.filter(|l| own.reserved.contains(l)) else {
            return self.stop_serving(home);
        };
        // That nobody had it may have been heard a moment ago.
        self.forget_cached(home);
        let Some(own) = self.own.get_mut(&home) else {
            return;
        };
        let before = own.serving();
        let moved_here = own.prepared();
        if own.departed() && !own.ready {
            let connect = Output::Connect(home, own.link.clone());
            self.outputs.push_back(connect);
        }
        let fresh = !own.departed() || own.left.is_some_and(|at| time.since(at) < FRESH);
        own.role = Role::Serving { locator };
        if own.ready || !moved_here {
            own.deadline = None;
        }
        let imports = std::mem::take(&mut own.imports);
        self.recall(home);
        // The neighbours of a prepared one know, and this is no time to bother the kernel.
        if !self.config.exclusive && !moved_here {
            self.outputs.push_back(Output::Announce(locator));
        }
        for record in imports {
            self.import(&record, fresh);
            if moved_here {
                self.await_end(record.own, record.peer);
            }
        }
        if moved_here {
            self.end_of_neighbours(home, binding.epoch());
        }
        let grace = time + self.config.grace;
        let contexts = self.table.of_own(home);
        for id in &contexts {
            if let Some(context) = self.table.get_mut(*id) {
                if let Some(old) = context.local.filter(|l| *l != locator) {
                    context.local_previous = Some((old, grace));
                }
                context.local = Some(locator);
            }
            self.reindexed(*id);
        }
        self.note(
            home,
            None,
            format!("serving at {locator}, epoch {}", binding.epoch()),
        );
        let peers = if before != Some(locator) || epoch_before != binding.epoch() {
            self.announce(home)
        } else {
            0
        };
        self.settle(
            home,
            Ok(Activated {
                locator: Some(locator),
                epoch_before,
                epoch_after: binding.epoch(),
                map_update_us: took.as_micros() as u64,
                peers,
            }),
        );
        self.flush(home);
        if before.is_none() {
            self.let_neighbours_go_on(home);
        }
    }

    /// The binding names another place: that place serves. Peers are told on
    /// its behalf, since it does not know them.
    pub(in crate::agent) fn stop_serving(&mut self, home: Home) {
        let Some(own) = self.own.get_mut(&home) else {
            return;
        };
        let served = own.serving().is_some();
        let epoch = own.epoch();
        let place = own
            .known
            .as_ref()
            .and_then(|b| b.active())
            .map(|e| e.locator);
        let text = match place {
            Some(place) => format!("not serving: epoch {epoch} names {place}"),
            None => format!("not serving: epoch {epoch} names no active locator"),
        };
        self.fall_idle(home, text);
        if served {
            self.announce(home);
        }
        self.settle(
            home,
            Ok(Activated {
                locator: None,
                epoch_before: epoch,
                epoch_after: epoch,
                map_update_us: 0,
                peers: 0,
            }),
        );
    }

    /// The mapping service has said nothing of a home for too long: another site may serve
    /// it by now. We do again as soon as we hear that it is still ours.
    fn isolate(&mut self, home: Home) {
        self.fall_idle(home, "not serving: the mapping service is silent");
    }

    fn fall_idle(&mut self, home: Home, why: impl Into<String>) {
        let Some(own) = self.own.get_mut(&home) else {
            return;
        };
        own.role = Role::Idle;
        let dropped = own.clear(&mut self.budget);
        self.counters.add(Cause::NotServing, dropped);
        self.home_changed(home);
        self.note(home, None, why);
    }

    /// Lets go what waited for this home to be served.
    pub(in crate::agent) fn flush(&mut self, home: Home) {
        let Some(own) = self.own.get_mut(&home) else {
            return;
        };
        if own.serving().is_none() {
            return;
        }
        if own.ready {
            self.empty(home, Arrival::Relayed, |own| &mut own.hold_relayed);
            self.empty(home, Arrival::Direct, |own| &mut own.hold_in);
        }
        self.empty(home, Arrival::Direct, |own| &mut own.hold_out);
        self.home_changed(home);
        self.report(home);
    }

    /// What waits for a context to open, or for its peer.
    pub(in crate::agent) fn take_held(&mut self, id: ContextId) -> Vec<Frame> {
        let Some(context) = self.table.get_mut(id) else {
            return Vec::new();
        };
        std::iter::from_fn(|| context.hold.pop(&mut self.budget)).collect()
    }

    /// Handles what waits in a queue of a home, and nothing that joins it meanwhile.
    pub(in crate::agent) fn empty(
        &mut self,
        home: Home,
        arrival: Arrival,
        queue: fn(&mut Own) -> &mut Hold,
    ) {
        let Some(own) = self.own.get_mut(&home) else {
            return;
        };
        let queue = queue(own);
        let mut frames = Vec::with_capacity(queue.len());
        while let Some(frame) = queue.pop(&mut self.budget) {
            frames.push(frame);
        }
        for frame in frames {
            self.let_in(home, frame, arrival);
        }
    }

    pub(in crate::agent) fn settle(&mut self, home: Home, result: Result<Activated, OpError>) {
        self.outputs.push_back(Output::Settled(home, result));
    }

    pub(in crate::agent) fn settle_gone(&mut self, home: Home, binding: Option<&Binding>) {
        let epoch = binding.map_or(Epoch(0), Binding::epoch);
        self.settle(
            home,
            Ok(Activated {
                locator: None,
                epoch_before: epoch,
                epoch_after: epoch,
                map_update_us: 0,
                peers: 0,
            }),
        );
    }

    pub(in crate::agent) fn withdrawn(&mut self, home: Home, result: UpdateResult) {
        match result {
            // Conflict: somebody else has it now, so it is theirs to withdraw.
            UpdateResult::Committed | UpdateResult::Conflict => self.settle_gone(home, None),
            UpdateResult::Refused(why) => self.settle(home, Err(OpError::Refused(home, why))),
            UpdateResult::Unknown(why) => self.settle(home, Err(OpError::Mapping(home, why))),
        }
    }
}

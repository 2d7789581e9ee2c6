//! Standing by: the new site of a move is published before the move, so that peers know it
//! and have had an answer from there when the instance comes, and ask nobody in the gap.

use std::net::SocketAddr;
use std::time::Duration;

use mat_proto::message::{Message, Pair, Received};
use mat_proto::{Binding, Epoch, Home, Locator, Priority};

use super::{Activated, Handover, OpError, Own, Plan, Role, TAKE_BACK};
use crate::agent::exchange::outgoing;
use crate::agent::snapshot::ContextRecord;
use crate::agent::{Agent, Answer, Now, Output};
use crate::counters::Cause;

impl Agent {
    /// What another site needs to serve a home of ours, as it is now; nothing changes here.
    ///
    /// # Errors
    /// It is not attached.
    pub fn handover(&self, home: Home) -> Result<Handover, OpError> {
        let own = self.own.get(&home).ok_or(OpError::NotAttached(home))?;
        let ids = self.table.of_own(home).into_iter();
        let records = ids.filter_map(|id| self.table.get(id));
        Ok(Handover {
            home,
            binding: own.known.clone(),
            contexts: records.filter_map(ContextRecord::of).collect(),
            mac: None,
        })
    }

    /// Publishes our locator for a prepared home beside the one where it is served, and
    /// answers for it when peers ask whether it is reachable. The end comes as
    /// [`Output::Settled`].
    ///
    /// # Errors
    /// It is not prepared here.
    pub fn stand_by(&mut self, now: Now, handover: Handover) -> Result<(), OpError> {
        self.now = now;
        let home = handover.home;
        let own = self.own.get_mut(&home).ok_or(OpError::NotAttached(home))?;
        if !matches!(own.role, Role::Prepared(Plan::Wait)) || own.updating.is_some() {
            return Err(OpError::NotPrepared(home, own.role.as_str()));
        }
        own.role = Role::Prepared(Plan::StandBy);
        own.imports = handover.contexts;
        own.know(handover.binding, now.time);
        let binding = own.known.clone().ok_or(OpError::Conflict(home));
        // If the old site has not heard the latest, the mapping service is asked for it.
        let asked = binding.and_then(|binding| self.publish_beside(home, binding));
        if let (Err(_), Some(own)) = (&asked, self.own.get_mut(&home)) {
            own.role = Role::Prepared(Plan::Wait);
        }
        asked
    }

    /// The binding of a home of ours has been changed on behalf of a move: told without
    /// asking the mapping service, by somebody who may.
    ///
    /// # Errors
    /// It is not attached.
    pub fn learn(&mut self, now: Now, binding: Binding) -> Result<(), OpError> {
        self.now = now;
        let home = binding.home();
        let own = self.own.get_mut(&home).ok_or(OpError::NotAttached(home))?;
        let active = binding.active().map(|entry| entry.locator);
        let same = active.is_some() && active == own.serving();
        if same && own.updating.is_none() && binding.epoch() > own.epoch() {
            own.know(Some(binding), now.time);
            self.announce(home);
        } else {
            self.lookup(home);
        }
        Ok(())
    }

    /// The binding of a home that is to stand by here, which was not what the old site
    /// thought: still at that site, or the move is off.
    pub(super) fn publish(&mut self, home: Home, answer: &Answer) {
        let Some(own) = self.own.get_mut(&home) else {
            return;
        };
        let place = |b: &Binding| b.active().map(|entry| entry.locator);
        let old = own.known.as_ref().and_then(place);
        own.role = Role::Prepared(Plan::Wait);
        let result = match answer {
            Answer::Failed(why) => Err(OpError::Mapping(home, why.clone())),
            Answer::Found { binding, .. } if place(binding) == old => {
                self.publish_beside(home, binding.clone())
            }
            _ => Err(OpError::Conflict(home)),
        };
        if let Err(error) = result {
            self.not_published(home, error);
        }
    }

    /// Nobody waits any more for a home to stand by here.
    pub(super) fn not_published(&mut self, home: Home, error: OpError) {
        if let Some(own) = self.own.get_mut(&home) {
            own.role = Role::Prepared(Plan::Wait);
        }
        self.settle(home, Err(error));
    }

    /// The mapping service does not let a home stand by here: another one is registered at that
    /// place, perhaps, of which this site knows nothing (any more). The next try gets another place.
    /// Where there is only one, the host's own, the other one is not there any more, and the move
    /// goes on without having been published: who is served there in the end has it.
    pub(super) fn not_to_stand_by(&mut self, home: Home, why: String) {
        let Some(own) = self.own.get_mut(&home) else {
            return;
        };
        own.role = Role::Prepared(Plan::Wait);
        let (epoch, reserved) = (own.epoch(), own.reserved.clone());
        let places: Vec<String> = reserved.iter().map(Locator::to_string).collect();
        let text = format!("may not stand by at {}: {why}", places.join(", "));
        self.note(home, None, text);
        if self.config.exclusive {
            let unpublished = Activated {
                locator: reserved.first().copied(),
                epoch_before: epoch,
                epoch_after: epoch,
                map_update_us: 0,
                peers: 0,
            };
            return self.settle(home, Ok(unpublished));
        }
        self.settle(home, Err(OpError::Refused(home, why)));
        self.release(home);
        let until = self.rest_until();
        for locator in reserved {
            self.quarantine.insert(locator, (None, until));
        }
    }

    fn publish_beside(&mut self, home: Home, there: Binding) -> Result<(), OpError> {
        let ours = self.own.get(&home).and_then(|own| own.reserved.first());
        let (ours, active) = (ours.copied(), there.active().copied());
        let (Some(ours), Some(active)) = (ours, active) else {
            return Err(OpError::Conflict(home));
        };
        let entries = vec![active, self.entry(ours, Priority::STANDBY)];
        let epoch = there.epoch();
        self.propose(home, Some(there), epoch, entries)
    }

    /// It is published.
    pub(super) fn stands_by(&mut self, home: Home, epoch_before: Epoch, took: Duration) {
        let Some(own) = self.own.get_mut(&home) else {
            return;
        };
        own.role = Role::Prepared(Plan::Wait);
        let (epoch_after, locator) = (own.epoch(), own.reserved.first().copied());
        let text = format!("standing by, epoch {epoch_after}");
        self.note(home, None, text);
        self.settle(
            home,
            Ok(Activated {
                locator,
                epoch_before,
                epoch_after,
                map_update_us: took.as_micros() as u64,
                peers: 0,
            }),
        );
    }

    /// A prepared home is given up: nobody is to believe that it may come here. `true` if
    /// that had been said.
    pub(super) fn withdraw(&mut self, home: Home, own: &Own) -> bool {
        let Some(rest) = own.known_beside_us().filter(|_| own.prepared()) else {
            return false;
        };
        let (lease, next) = (
            self.config.lease_seconds,
            own.epoch().next(self.now.unix_seconds()),
        );
        let Ok(new) = Binding::new(home, next, lease, rest) else {
            return false;
        };
        self.outputs.push_back(Output::Update {
            home,
            expect: own.known.clone(),
            new: Some(new),
        });
        true
    }

    /// Whoever stood by for a home of ours has had its time, and has not withdrawn: it is gone.
    pub(super) fn stand_alone(&mut self, home: Home) {
        let Some(own) = self.own.get(&home) else {
            return;
        };
        let over = self.now.time.since(own.known_since) >= TAKE_BACK;
        if !over || !own.claim || own.updating.is_some() || own.known_beside_us().is_none() {
            return;
        }
        let (expect, epoch) = (own.known.clone(), own.epoch());
        self.note(home, None, "nobody stands by for it any more");
        self.try_swap(home, expect, epoch);
    }

    /// A peer asks whether a home that is to come could be reached here.
    pub(in crate::agent) fn asked_ahead(
        &mut self,
        pair: Pair,
        from: SocketAddr,
        sequence: u64,
        received: &Received<'_>,
    ) -> Result<(), Cause> {
        let own = self.own.get(&pair.to).filter(|own| own.prepared());
        let own = own.ok_or(Cause::ControlUnexpected)?;
        let key = own.key_with(pair.from).ok_or(Cause::ControlUnexpected)?;
        if !received.verify(&key) {
            return Err(Cause::ControlMac);
        }
        let reply = Message::Reply {
            pair: outgoing(pair.to, pair.from),
            sequence,
            from_epoch: own.epoch(),
            counters: Vec::new(),
        };
        if let Some(local) = own.reserved.first().copied() {
            self.transmit(local, from, &reply.encode_signed(&key));
        }
        Ok(())
    }
}

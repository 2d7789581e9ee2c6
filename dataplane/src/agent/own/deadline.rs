//! Moves that nobody finishes: whoever started them is gone, or the other site is.
//!
//! Two sites each know half of a move. The mapping service decides between them: the
//! new one serves if it has registered the instance, otherwise the old one does.

use super::{GIVEN_BACK, OpError, Own, Plan, Role, UNATTENDED};
use crate::agent::{Agent, Answer, Now, Timer};
use crate::clock::Time;
use crate::counters::Cause;
use mat_proto::{Binding, Home};

impl Own {
    /// Whether the site that has taken the home over may still find that its instance has
    /// not followed.
    pub(super) fn may_be_given_back(&self, now: Time) -> bool {
        let waits = self.left.is_some_and(|at| now.since(at) < GIVEN_BACK);
        self.taken_over && !self.gone && waits
    }
}

impl Agent {
    /// The deadline of a prepared home has passed. If its instance has come, it is
    /// not sent away again: the move is finished here.
    pub(super) fn not_activated(&mut self, home: Home) {
        let Some(own) = self.own.get_mut(&home) else {
            return;
        };
        own.deadline = None;
        if own.updating.is_some() || matches!(own.role, Role::Prepared(Plan::TakeOver)) {
            return;
        }
        if own.arrived && own.ready {
            own.role = Role::Prepared(Plan::TakeOver);
            self.note(home, None, "here, but activated by nobody: activated");
            return self.lookup(home);
        }
        self.note(home, None, "prepared, but not activated in time: withdrawn");
        self.settle(home, Err(OpError::Deadline(home)));
        self.release(home);
    }

    /// Whoever moved a home is gone. The instance may still be on its way, so what is
    /// prepared for it stays, and is used as soon as it comes. Where it has not left it is
    /// served again soon, unless the new site registers it first.
    pub fn unattended(&mut self, now: Now, home: Home) {
        self.now = now;
        let Some(own) = self.own.get_mut(&home) else {
            return;
        };
        let stays = own.ready && !own.gone && !own.taken_over;
        match &mut own.role {
            Role::Prepared(plan @ Plan::Wait) if own.updating.is_none() => {
                *plan = Plan::Alone;
                self.comes_alone(home);
            }
            Role::Departed { until, .. } if stays => {
                *until = (*until).min(now.time + UNATTENDED);
                let until = *until;
                self.note(home, None, "nobody sees to its move any more");
                self.at(until, Timer::Own(home));
            }
            _ => {}
        }
    }

    /// Its instance may have come to where nobody will activate it.
    pub(super) fn comes_alone(&mut self, home: Home) {
        let own = self.own.get(&home);
        let come = |own: &Own| own.arrived && own.ready;
        if own.is_some_and(|own| matches!(own.role, Role::Prepared(Plan::Alone)) && come(own)) {
            self.not_activated(home);
        }
    }

    /// The binding of a home whose move nobody else finishes.
    pub(super) fn finish_alone(&mut self, home: Home, answer: &Answer) {
        let Some(own) = self.own.get_mut(&home) else {
            return;
        };
        let there = match answer {
            Answer::Found { binding, .. } => Some(binding.clone()),
            Answer::NotFound { .. } => None,
            // It is asked for again.
            Answer::Failed(_) => return,
        };
        own.know(there, self.now.time);
        own.role = Role::Prepared(Plan::Wait);
        self.try_register(home);
    }

    /// What the mapping service says of a home that has left: whether another site
    /// has it, or nobody although it should have one by now.
    pub(super) fn departed_answer(&mut self, home: Home, until: Time, answer: &Answer) {
        let over = until <= self.now.time;
        let Some(own) = self.own.get_mut(&home) else {
            return;
        };
        if let Answer::Found { binding, .. } = answer
            && let Some(active) = binding.active()
            && binding.epoch() > own.epoch()
            && own.reserved.contains(&active.locator)
        {
            // What the new site had said when it was to stand by was heard too late.
            own.know(Some(binding.clone()), self.now.time);
        }
        match answer {
            Answer::Found { binding, .. } if binding.epoch() > own.epoch() => {
                self.served_elsewhere(home, binding);
            }
            Answer::Found { .. } if over && !own.taken_over => self.take_back(home),
            Answer::NotFound { .. } if own.may_be_given_back(self.now.time) => {
                let epoch = own.epoch();
                self.note(home, None, "the new site has given it back: taking it back");
                self.try_swap(home, None, epoch);
            }
            Answer::NotFound { .. } if over => {
                self.release(home);
            }
            _ => {}
        }
    }

    /// Another site serves a home that has left.
    fn served_elsewhere(&mut self, home: Home, binding: &Binding) {
        let Some(own) = self.own.get_mut(&home) else {
            return;
        };
        if own.taken_over || binding.active().is_none() {
            return;
        }
        own.taken_over = true;
        let grace = self.now.time + self.config.grace;
        if let Role::Departed { until, .. } = &mut own.role {
            *until = grace;
        }
        self.at(grace, Timer::Own(home));
        self.silence(home);
    }

    /// We serve a home whose instance was to follow, and has not: it is where it was, and
    /// that site takes it back as soon as nobody else has it.
    pub(super) fn give_back(&mut self, home: Home) {
        let Some(own) = self.own.get(&home) else {
            return;
        };
        let (expect, epoch) = (own.known.clone(), own.epoch());
        self.note(home, None, "its instance has not come: giving it back");
        self.update(home, expect, epoch, None);
    }

    /// Nobody has it any more.
    pub(super) fn given_back(&mut self, home: Home) {
        if self.own.get(&home).is_some_and(|own| own.ready) {
            // It came in the last moment.
            return self.reregister(home, None);
        }
        self.release(home);
    }

    /// Nobody has taken the home over: it is to be ours as before, under a new epoch,
    /// so that nobody can take it over any more. Until that is committed it stays
    /// departed.
    fn take_back(&mut self, home: Home) {
        self.note(home, None, "nobody has taken it over: taking it back");
        self.try_register(home);
    }

    /// What was relayed, but not delivered by the new site, is to be delivered here.
    pub(super) fn recall(&mut self, home: Home) {
        let (time, budget) = (self.now.time, &mut self.budget);
        let Some(own) = self.own.get_mut(&home) else {
            return;
        };
        let Own { sent, hold_in, .. } = own;
        let Some(mut sent) = sent.take() else {
            return;
        };
        while let Some(frame) = sent.pop(budget) {
            if !hold_in.push(time, frame, usize::MAX, budget) {
                self.counters.count(Cause::HoldFull);
            }
        }
    }
}

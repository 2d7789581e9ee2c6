//! Order across a move: what a peer sent directly to the new site is not delivered
//! before what it had sent to the old one.
//!
//! A peer that follows a move sends END to the old locator, behind its last packet
//! there. The old site relays it in its turn, so at the new site END comes when
//! everything before it has come; until then packets that the peer sends directly wait.
//! They do not wait for long after the last packet that has come so: END may be lost, or there may
//! be nobody left to relay it.

use std::net::SocketAddr;
use std::time::Duration;

use mat_proto::message::{Message, Pair, Received};
use mat_proto::{Epoch, Home};

use super::exchange::outgoing;
use super::hold::Hold;
use super::packet::Arrival;
use super::{Agent, Verdict};
use crate::counters::Cause;
use crate::frame::Frame;
use crate::table::{Behind, ContextId, Ending};

/// How long the first direct packet of a peer waits for its END, since another packet of it has
/// come by the old site.
const PATIENCE: Duration = Duration::from_millis(100);
/// END is sent so often, the second time after [`REPEAT`], then after twice that.
const ATTEMPTS: u32 = 3;
const REPEAT: Duration = Duration::from_millis(5);

impl Agent {
    /// The peer of a context is no longer at `old`, but somewhere else under this epoch: says
    /// so there, if nobody else speaks for our home.
    pub(super) fn end(&mut self, id: ContextId, old: SocketAddr, epoch: Epoch) {
        let now = self.now.time;
        let own = self.table.get(id).and_then(|c| self.own.get(&c.own));
        if own.is_none_or(|own| own.serving().is_none()) {
            return;
        }
        let Some(context) = self.table.get_mut(id) else {
            return;
        };
        context.ending = Some(Ending {
            to: old,
            epoch,
            attempts: 0,
            next: now,
        });
        self.order_due(id);
    }

    /// The home has come here by a move: what this peer sends directly waits for its
    /// END.
    pub(super) fn await_end(&mut self, own: Home, peer: Home) {
        let until = self.now.time + self.config.grace;
        let Some(id) = self.table.outbound(own.ip(), peer.ip()) else {
            return;
        };
        if let Some(context) = self.table.get_mut(id) {
            context.behind = Some(Behind {
                hold: Hold::default(),
                until,
            });
        }
        self.context_at(id, until);
    }

    /// A packet that came directly, before END has.
    pub(super) fn wait_for_end(&mut self, id: ContextId, frame: Frame) -> Verdict {
        let (now, max) = (self.now.time, self.config.limits.hold_bytes_per_home);
        let Some(behind) = self.table.get_mut(id).and_then(|c| c.behind.as_mut()) else {
            return Verdict::Drop(Cause::NotOurs);
        };
        if behind.hold.len() == 0 {
            behind.until = behind.until.min(now + PATIENCE);
        }
        let until = behind.until;
        let verdict = Agent::hold_in(&mut behind.hold, now, frame, max, &mut self.budget);
        self.context_at(id, until);
        verdict
    }

    /// Whether what the peer of a context sends directly waits for its END.
    pub(super) fn is_behind(&self, id: ContextId) -> bool {
        self.table.get(id).is_some_and(|c| c.behind.is_some())
    }

    /// A packet of the peer has come by the old site, so its END comes later.
    pub(super) fn end_is_to_come(&mut self, id: ContextId) {
        let until = self.now.time + PATIENCE;
        if let Some(behind) = self.table.get_mut(id).and_then(|c| c.behind.as_mut()) {
            behind.until = behind.until.max(until);
        }
    }

    /// The peer's END: everything it sent to the old site has been delivered.
    pub(super) fn ended(
        &mut self,
        pair: Pair,
        epoch: Epoch,
        received: &Received<'_>,
    ) -> Result<(), Cause> {
        let id = self.authentic(pair, received)?;
        let own = self.own.get(&pair.to).map_or(Epoch(0), |own| own.epoch());
        if epoch != own {
            return Err(Cause::ControlReplay);
        }
        self.release_behind(id);
        Ok(())
    }

    /// Delivers what waited for END.
    pub(super) fn release_behind(&mut self, id: ContextId) {
        let context = self.table.get_mut(id);
        let waiting = context.and_then(|c| Some((c.own, c.behind.take()?)));
        let Some((own, mut behind)) = waiting else {
            return;
        };
        while let Some(frame) = behind.hold.pop(&mut self.budget) {
            self.let_in(own, frame, Arrival::Direct);
        }
    }

    /// Repeats END; waits for the peer's no longer.
    pub(super) fn order_due(&mut self, id: ContextId) {
        let now = self.now.time;
        let Some(context) = self.table.get_mut(id) else {
            return;
        };
        let pair = outgoing(context.own, context.peer);
        if let Some(ending) = &mut context.ending {
            let due = ending.next <= now;
            if due {
                ending.next = now + REPEAT * (1 << ending.attempts);
                ending.attempts += 1;
            }
            let Ending {
                to,
                epoch,
                attempts,
                next,
            } = *ending;
            if attempts >= ATTEMPTS {
                context.ending = None;
            } else {
                self.context_at(id, next);
            }
            if due {
                self.answer(id, to, &Message::End { pair, epoch });
            }
        }
        match self.table.get(id).and_then(|c| c.behind.as_ref()) {
            Some(behind) if behind.until <= now => self.release_behind(id),
            Some(behind) => {
                let until = behind.until;
                self.context_at(id, until);
            }
            None => {}
        }
    }
}

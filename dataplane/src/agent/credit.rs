//! How much a locator may get before it has answered.
//!
//! Neither a peer's word nor a binding shows that the peer is where it says: traffic
//! could be led to a victim. So a new locator gets no more than a credit until it has
//! answered a PROBE, whose number nobody else knows: 64 KiB, and what the peer itself
//! has sent in the last seconds, at most 1 MiB. Another new locator does not renew the
//! credit; what is beyond it waits.

use std::time::Duration;

use mat_proto::Locator;
use mat_proto::message::Message;

use super::Agent;
use super::exchange::outgoing;
use crate::table::{Context, ContextId, Credit};

/// What any locator may get, in octets.
const LEAST: u64 = 64 << 10;
/// What none may exceed.
const MOST: u64 = 1 << 20;
/// First repetition of a PROBE; doubled each time, up to [`SLOWEST`].
const REPEAT: Duration = Duration::from_millis(50);
const SLOWEST: u32 = 5;
/// So often it is asked if nothing waits for the answer.
const TRIES: u32 = 8;
/// Between two looks at how much the peer has sent; two of them count.
const LOOK_BACK: Duration = Duration::from_secs(1);
/// Locators that are remembered as proven.
const PROVEN: usize = 4;

impl Agent {
    /// The context has got another locator to send to.
    pub(super) fn prove(&mut self, id: ContextId) {
        let nonce = self.nonce();
        let now = self.now.time;
        let received = self.received(id);
        let Some(context) = self.table.get_mut(id) else {
            return;
        };
        if context.keys.is_none() || context.remote().is_none_or(|l| context.proven.contains(&l)) {
            context.credit = None;
            return;
        }
        let recent = received.saturating_sub(context.received_before.counts[0]);
        let allowance = (LEAST + recent).min(MOST);
        context.credit = Some(Credit {
            left: context.credit.map_or(allowance, |c| c.left),
            nonce,
            attempts: 0,
            next: now,
        });
        self.credit_due(id);
    }

    /// The peer has answered at this locator.
    pub(super) fn proven(context: &mut Context, locator: Locator) {
        context.proven.retain(|l| *l != locator);
        if context.proven.len() == PROVEN {
            context.proven.remove(0);
        }
        context.proven.push(locator);
        if context.remote() == Some(locator) {
            context.confirmed_here = true;
            context.credit = None;
        }
    }

    /// Whether so many octets may be sent now; if so, they are charged.
    pub(super) fn charge(context: &mut Context, octets: usize) -> bool {
        let Some(credit) = &mut context.credit else {
            return true;
        };
        match credit.left.checked_sub(octets as u64) {
            Some(left) => {
                credit.left = left;
                true
            }
            None => {
                // Nothing smaller overtakes what waits.
                credit.left = 0;
                false
            }
        }
    }

    /// Asks again.
    pub(super) fn credit_due(&mut self, id: ContextId) {
        let now = self.now.time;
        let Some(context) = self.table.get_mut(id) else {
            return;
        };
        let pair = outgoing(context.own, context.peer);
        let waits = context.hold.len() > 0;
        let Some(credit) = &mut context.credit else {
            return;
        };
        if credit.attempts >= TRIES && !waits {
            return;
        }
        let due = credit.next <= now;
        if due {
            credit.next = now + REPEAT * (1 << credit.attempts.min(SLOWEST));
            credit.attempts += 1;
        }
        let (next, sequence) = (credit.next, credit.nonce);
        self.context_at(id, next);
        if due {
            self.send(id, &Message::Probe { pair, sequence });
        }
    }

    /// Remembers how much the peer has sent.
    pub(super) fn look_back(&mut self, id: ContextId) {
        let now = self.now.time;
        let received = self.received(id);
        let Some(context) = self.table.get_mut(id) else {
            return;
        };
        let before = &mut context.received_before;
        if now.since(before.at) >= LOOK_BACK {
            before.at = now;
            before.counts = [before.counts[1], received];
        }
    }

    fn received(&self, id: ContextId) -> u64 {
        let context = self.table.get(id);
        context.map_or(0, |c| self.table.tally(c).received.bytes)
    }

    /// A number that nobody can guess.
    pub(super) fn nonce(&mut self) -> u64 {
        let mut octets = [0; 8];
        (self.entropy)(&mut octets);
        u64::from_be_bytes(octets)
    }
}

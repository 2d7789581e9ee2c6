//! How much a locator may get before it has answered.
//!
//! Neither a peer's word nor a binding shows that the peer is where it says: traffic
//! could be led to a victim. So a new locator gets no more than a credit until it has
//! answered a PROBE, whose number nobody else knows: 64 KiB, and what the peer itself
//! has sent in the last seconds, at most 1 MiB. Another new locator does not renew the
//! credit; what is beyond it waits.

use std::time::Duration;

use mat_proto::message::Message;
use mat_proto::{Binding, Locator};

use super::Agent;
use super::exchange::outgoing;
use crate::clock::Time;
use crate::table::{Context, ContextId, Proving};

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
    /// The context has got another binding: asks whether the peer is where that says, and
    /// whether it could be where that says that it may come.
    pub(super) fn prove(&mut self, id: ContextId) {
        let now = self.now.time;
        let received = self.received(id);
        let nonces = [(); Binding::MAX_LOCATORS].map(|()| self.nonce());
        let Some(context) = self.table.get_mut(id) else {
            return;
        };
        let entries = context.binding.iter().flat_map(|b| b.entries());
        let unproven = entries.filter(|entry| !context.proven.contains(&entry.locator));
        let unproven: Vec<_> = unproven.filter(|_| context.keys.is_some()).collect();
        let asked = std::mem::take(&mut context.proving);
        let proving = unproven.iter().zip(nonces).map(|(entry, nonce)| {
            let before = asked.iter().find(|asked| asked.locator == entry.locator);
            before.copied().unwrap_or(Proving {
                locator: entry.locator,
                port: entry.port,
                nonce,
                attempts: 0,
                next: now,
            })
        });
        context.proving = proving.collect();
        let there = context.remote();
        let proven = !context.proving.iter().any(|p| Some(p.locator) == there);
        let recent = received.saturating_sub(context.received_before.counts[0]);
        let allowance = (LEAST + recent).min(MOST);
        let left = context.credit.unwrap_or(allowance);
        context.credit = (!proven).then_some(left);
        self.credit_due(id);
    }

    /// The peer has answered at this locator.
    pub(super) fn proven(context: &mut Context, locator: Locator) {
        context.proven.retain(|l| *l != locator);
        if context.proven.len() == PROVEN {
            context.proven.remove(0);
        }
        context.proven.push(locator);
        context.proving.retain(|p| p.locator != locator);
        if context.remote() == Some(locator) {
            context.confirmed_here = true;
            context.credit = None;
        }
    }

    /// Whether so many octets may be sent now; if so, they are charged.
    pub(super) fn charge(context: &mut Context, octets: usize) -> bool {
        let Some(left) = &mut context.credit else {
            return true;
        };
        let rest = left.checked_sub(octets as u64);
        // Nothing smaller overtakes what waits.
        *left = rest.unwrap_or(0);
        rest.is_some()
    }

    /// Asks again.
    pub(super) fn credit_due(&mut self, id: ContextId) {
        let now = self.now.time;
        let Some(context) = self.table.get_mut(id) else {
            return;
        };
        let pair = outgoing(context.own, context.peer);
        let waits = context.hold.len() > 0;
        let there = context.remote();
        let mut due = Vec::new();
        let mut next: Option<Time> = None;
        for asked in &mut context.proving {
            if asked.attempts >= TRIES && !(waits && Some(asked.locator) == there) {
                continue;
            }
            if asked.next <= now {
                asked.next = now + REPEAT * (1 << asked.attempts.min(SLOWEST));
                asked.attempts += 1;
                due.push(*asked);
            }
            next = Some(next.map_or(asked.next, |next| next.min(asked.next)));
        }
        if let Some(next) = next {
            self.context_at(id, next);
        }
        for asked in due {
            let sequence = asked.nonce;
            let probe = Message::Probe { pair, sequence };
            self.send_to(id, asked.locator, asked.port, &probe);
        }
    }

    /// The answer to a PROBE of ours: the locator that has shown thereby that the peer is
    /// there.
    pub(super) fn proof(context: &mut Context, sequence: u64) -> Option<Locator> {
        let asked = context.proving.iter().find(|p| p.nonce == sequence)?;
        let locator = asked.locator;
        Agent::proven(context, locator);
        Some(locator)
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

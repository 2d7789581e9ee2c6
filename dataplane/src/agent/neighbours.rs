//! Instances at one site: their packets stay there and need no context, until one of them moves.
//!
//! While a home stands by elsewhere, whoever talks to it here gets a context with it, and it one
//! with them, of tokens that we make for both: the new site takes its half over with all others,
//! and finds the neighbour as it finds any peer. From detach on what the neighbour sends goes by
//! that context, to the home's locator here, and is relayed as if it had come from outside.
//! A home that comes has its contexts already; [`super::order`] sees to it that nothing overtakes.

use std::net::IpAddr;

use mat_proto::{Binding, Epoch, Home};

use super::own::Role;
use super::packet::{Arrival, copy};
use super::{Agent, ContextRecord, Verdict};
use crate::counters::Cause;
use crate::frame::{Frame, Offload};
use crate::rewrite::{Headers, Packet};
use crate::table::{ContextId, Keys};

/// One direction of a context between two instances here.
#[derive(Clone, Copy)]
struct Half<'a> {
    id: ContextId,
    keys: &'a Keys,
    /// It needs nothing for a while.
    fresh: bool,
}

impl Agent {
    /// One instance here sends to another one: if one of them is about to leave they can go on
    /// when it has.
    pub(super) fn acquaint(&mut self, from: Home, to: Home) {
        let served = |home| self.own.get(&home).filter(|own| own.serving().is_some());
        let (Some(one), Some(other)) = (served(from), served(to)) else {
            return;
        };
        let leaves = one.may_leave() || other.may_leave();
        let known = one.known.as_ref().zip(other.known.as_ref());
        let Some((of_from, of_to)) = known.filter(|_| leaves && from != to) else {
            return;
        };
        let halves = [(from, of_to), (to, of_from)].map(|(own, of_peer)| self.half(own, of_peer));
        let keys = halves[0].zip(halves[1]).filter(|(a, b)| {
            let (a, b) = (&a.keys, &b.keys);
            (a.mine, a.theirs) == (b.theirs, b.mine)
        });
        if keys.is_some_and(|(a, b)| a.fresh && b.fresh) {
            return;
        }
        let ids = keys.map(|(a, b)| [a.id, b.id]);
        let bindings = [of_to.clone(), of_from.clone()];
        match ids {
            Some(ids) => self.refresh_halves(ids, bindings),
            None => self.make_halves([from, to], bindings),
        }
    }

    /// What an instance here has of a context with another one, as `of_peer` has it.
    fn half(&self, own: Home, of_peer: &Binding) -> Option<Half<'_>> {
        let id = self.table.outbound(own.ip(), of_peer.home().ip())?;
        let context = self.table.get(id)?;
        let lasts = context.lease_until >= self.now.time + of_peer.lease() / 2;
        Some(Half {
            id,
            keys: context.keys.as_ref()?,
            fresh: lasts
                && context
                    .binding
                    .as_ref()
                    .is_some_and(|b| b.epoch() >= of_peer.epoch()),
        })
    }

    fn refresh_halves(&mut self, ids: [ContextId; 2], bindings: [Binding; 2]) {
        for (id, binding) in ids.into_iter().zip(bindings) {
            self.verified(id, &binding, self.now.time + binding.lease());
        }
    }

    fn make_halves(&mut self, homes: [Home; 2], bindings: [Binding; 2]) {
        let tokens = [self.token(), self.token()];
        for (n, binding) in bindings.into_iter().enumerate() {
            let record = ContextRecord {
                own: homes[n],
                peer: binding.home(),
                binding,
                previous: Vec::new(),
                mine: tokens[n],
                theirs: tokens[1 - n],
                sequence_out: 0,
                sequence_in: 0,
                offered: None,
            };
            self.import(&record, true);
        }
    }

    /// The home has come to where its peers are, some of them: these send nothing to the old site
    /// any more.
    pub(super) fn end_of_neighbours(&mut self, home: Home, epoch: Epoch) {
        for id in self.table.of_peer(home) {
            let context = self.table.get(id).filter(|c| c.keys.is_some());
            let old = context.and_then(|c| Some((c.remote()?, c.remote_port()?)));
            // Those that have heard of it before us have said so already.
            let old = old.filter(|(remote, _)| !self.own_locators.contains_key(remote));
            if let Some((remote, port)) = old {
                self.end(id, (remote.ip(), port).into(), epoch);
            }
        }
    }

    /// What an instance at the same site has sent to a home of ours, here or at the old site of its
    /// move.
    pub(super) fn pass_on(
        &mut self,
        headers: &Headers,
        offload: &Offload,
        packet: &[u8],
        relayed: bool,
    ) -> Verdict {
        let (src, dst) = (headers.src(), headers.dst());
        if relayed && !self.in_homes(src) {
            return Verdict::Drop(Cause::HomeOutside);
        }
        let frame = || copy(offload, packet, headers);
        let behind = self.behind_neighbour(dst, src);
        if let Some(id) = behind.filter(|_| relayed) {
            self.end_is_to_come(id);
        }
        let behind = behind.filter(|_| !relayed);
        let own = self
            .own_home(dst)
            .and_then(|home| Some((home, self.own.get_mut(&home)?)));
        let Some((home, own)) = own else {
            return Verdict::Drop(Cause::NotAttached);
        };
        match own.role {
            Role::Serving { .. } if own.ready => match behind {
                Some(id) => self.wait_for_end(id, frame()),
                None => Verdict::Send,
            },
            Role::Serving { .. } | Role::Registering | Role::Prepared(_) => {
                let (now, max) = (self.now.time, self.config.limits.hold_bytes_per_home);
                let hold = if relayed {
                    &mut own.hold_relayed
                } else {
                    &mut own.hold_in
                };
                Agent::hold_in(hold, now, frame(), max, &mut self.budget)
            }
            Role::Departed { .. } => {
                self.relay_out(home, frame(), 0);
                Verdict::Taken
            }
            Role::Idle => Verdict::Drop(Cause::NotServing),
        }
    }

    /// Handles a packet that has waited for this home, whoever sent it.
    pub(super) fn let_in(&mut self, home: Home, frame: Frame, arrival: Arrival) {
        let beside = Packet::parse(&frame.packet).is_ok_and(|headers| headers.dst() == home.ip());
        let relayed = arrival == Arrival::Relayed;
        let arrival = if beside {
            Arrival::Neighbour { relayed }
        } else {
            arrival
        };
        self.replay(frame, arrival);
    }

    /// The context in which what `peer`, who is here too, sends to this home waits for END.
    fn behind_neighbour(&self, home: IpAddr, peer: IpAddr) -> Option<ContextId> {
        let id = self.table.outbound(home, peer)?;
        self.table.get(id)?.behind.as_ref().map(|_| id)
    }

    /// What instances here want to send to a home that is here now waits for no context any more.
    pub(super) fn let_neighbours_go_on(&mut self, home: Home) {
        for id in self.table.of_peer(home) {
            for frame in self.take_held(id) {
                self.replay(frame, Arrival::Direct);
            }
        }
    }
}

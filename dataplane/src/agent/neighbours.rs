//! Instances at one site: their packets stay there and need no context, until one of them moves.
//!
//! While a home stands by elsewhere, whoever talks to it here gets a context with it, and it one
//! with them, of tokens that we make for both: the new site takes its half over with all others,
//! and finds the neighbour as it finds any peer. From detach on what the neighbour sends goes by
//! that context, to the home's locator here, and is relayed as if it had come from outside.
//! A home that comes has its contexts already; [`super::order`] sees to it that nothing overtakes.

use std::net::IpAddr;

use mat_proto::{Epoch, Home};

use super::own::{Own, Role};
use super::packet::{Arrival, copy};
use super::{Agent, ContextRecord, Verdict};
use crate::counters::Cause;
use crate::frame::{Frame, Offload};
use crate::rewrite::{Headers, Packet};
use crate::table::{ContextId, Keys};

impl Agent {
    /// One instance here sends to another one: if one of them is about to leave they can go on
    /// when it has.
    fn acquaint(&mut self, from: Home, to: Home) {
        let known = |home| self.own.get(&home)?.serving().and(self.binding_here(home));
        let (Some(of_from), Some(of_to)) = (known(from), known(to)) else {
            return;
        };
        if self.are_acquainted(from, to) {
            return;
        }
        let bindings = [of_to.clone(), of_from.clone()];
        let tokens = [self.token(), self.token()];
        for (n, binding) in bindings.into_iter().enumerate() {
            let record = ContextRecord {
                own: [from, to][n],
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

    /// Whether each of two homes here has a context with the other, and the same one. What it
    /// needs to stay fresh comes with what is heard of the two homes themselves.
    fn are_acquainted(&self, one: Home, other: Home) -> bool {
        let keys = |own: Home, peer: Home| -> Option<&Keys> {
            let id = self.table.outbound(own.ip(), peer.ip())?;
            self.table.get(id)?.keys.as_ref()
        };
        let both = keys(one, other).zip(keys(other, one));
        both.is_some_and(|(a, b)| (a.mine, a.theirs) == (b.theirs, b.mine))
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

    /// One instance here sends to another one.
    pub(super) fn send_beside(
        &mut self,
        [from, to]: [Home; 2],
        headers: &Headers,
        offload: &Offload,
        packet: &[u8],
    ) -> Verdict {
        let leaves = |home| self.own.get(&home).is_some_and(Own::may_leave);
        if from != to && (leaves(from) || leaves(to)) {
            self.acquaint(from, to);
        }
        self.pass_on(headers, offload, packet, false)
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
        let own = self
            .own_home(dst)
            .and_then(|home| Some((home, self.own.get_mut(&home)?)));
        let Some((home, own)) = own else {
            return Verdict::Drop(Cause::NotAttached);
        };
        match own.role {
            Role::Serving { .. } if own.ready => match behind {
                Some(id) if !relayed => self.wait_for_end(id, frame()),
                Some(id) => {
                    self.end_is_to_come(id);
                    Verdict::Send
                }
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
        let id = self.table.outbound(home, peer);
        id.filter(|id| self.is_behind(*id))
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

//! Instances at one site: their packets stay there and need no context, until one of them moves.
//!
//! While a home stands by elsewhere, whoever talks to it here gets a context with it, and it one
//! with them, of tokens that we make for both: the new site takes its half over with all others,
//! and finds the neighbour as it finds any peer. From detach on what the neighbour sends goes by
//! that context, to the home's locator here, and is relayed as if it had come from outside.
//! A home that comes has its contexts already; [`super::order`] sees to it that nothing overtakes.

use std::net::IpAddr;

use mat_proto::{Epoch, Home};

use super::packet::Arrival;
use super::{Agent, ContextRecord};
use crate::table::{ContextId, Keys};

impl Agent {
    /// One instance here sends to another one: if one of them is about to leave they can go on
    /// when it has.
    pub(super) fn acquaint(&mut self, from: Home, to: Home) {
        let homes = [from, to].map(|home| self.own.get(&home));
        if homes.iter().flatten().any(|own| own.may_leave()) && !self.are_acquainted(from, to) {
            let bindings = homes.map(|own| own.and_then(|own| own.known.clone()));
            let [Some(of_from), Some(of_to)] = bindings else {
                return;
            };
            let (mine, theirs) = (self.token(), self.token());
            for (own, binding, mine, theirs) in
                [(from, of_to, mine, theirs), (to, of_from, theirs, mine)]
            {
                let record = ContextRecord {
                    own,
                    peer: binding.home(),
                    binding,
                    mine,
                    theirs,
                    sequence_out: 0,
                    sequence_in: 0,
                    offered: None,
                };
                self.import(&record, true);
            }
        }
    }

    /// Whether each of two homes here has a context with the other, and the same one.
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

    /// The context in which what `peer`, who is here too, sends to this home waits for END.
    pub(super) fn behind_neighbour(&self, home: IpAddr, peer: Home) -> Option<ContextId> {
        let id = self.table.outbound(home, peer.ip())?;
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

//! What the data threads may do without asking: the forwarding table, derived from
//! contexts and homes.
//!
//! Everything that changes a context's way is noted by the table as it happens
//! ([`crate::table::Table::get_mut`]), or here, for what a home decides
//! ([`Agent::home_changed`]). [`Agent::way`] alone says what the way is.

use mat_proto::{Binding, Home};

use super::Agent;
use super::own::Role;
use crate::fib::Way;
use crate::table::ContextId;

impl Agent {
    /// Packets of a context whose way has changed come to the agent from now on.
    pub(super) fn detour(&mut self) {
        for id in self.table.take_changed() {
            let (is, shall) = (self.table.way(id), self.way(id));
            let same = |a: Way, b: Way| (a.local, a.remote) == (b.local, b.remote);
            match (is, shall) {
                (None, None) => {}
                // Longer or shorter, but the same way.
                (Some(is), Some(shall)) if same(is, shall) => self.table.set_way(id, Some(shall)),
                _ => {
                    self.table.set_way(id, None);
                    self.detoured.push(id);
                }
            }
        }
    }

    /// Nothing waits any more: packets of these contexts go their new way.
    pub(super) fn lead_on(&mut self) {
        for id in std::mem::take(&mut self.detoured) {
            let way = self.way(id);
            self.table.set_way(id, way);
        }
    }

    /// The home is served, or can be reached, otherwise than before.
    pub(super) fn home_changed(&mut self, home: Home) {
        let contexts = self.table.of_own(home).into_iter();
        for id in contexts.chain(self.table.of_peer(home)) {
            self.table.mark_changed(id);
        }
    }

    /// Whether what instances here send to this home stays here.
    pub(super) fn is_here(&self, home: Home) -> bool {
        let own = self.own.get(&home);
        own.is_some_and(|own| matches!(own.role, Role::Serving { .. } | Role::Registering))
    }

    /// The binding of a home that is here, as this site knows it.
    pub(super) fn binding_here(&self, home: Home) -> Option<&Binding> {
        let own = self.own.get(&home).filter(|_| self.is_here(home));
        own?.known.as_ref()
    }

    /// The way of a context's ordinary packets, if the agent has nothing to say about
    /// each of them: tokens exchanged, the home served and reachable, the peer's
    /// binding fresh and its locator proven, somebody looking after it, and nothing waiting
    /// that they would overtake.
    pub(super) fn way(&self, id: ContextId) -> Option<Way> {
        let context = self.table.get(id)?;
        let own = self.own.get(&context.own)?;
        let (local, remote) = (context.local?, context.remote()?);
        let clear = own.waiting() + context.hold.len() == 0 && context.behind.is_none();
        let ours = own.ready && own.serving() == Some(local);
        let theirs = context.keys.is_some()
            && context.credit.is_none()
            && !context.parked
            && self.in_homes(context.peer.ip())
            && !self.is_here(context.peer)
            && !self.own_locators.contains_key(&remote);
        let to_us = self.own_locators.get(&local) == Some(&context.own)
            && self.table.inbound(remote.ip(), local.ip()) == Some(id);
        (clear && ours && theirs && to_us).then_some(Way {
            local,
            remote,
            until: context.lease_until,
        })
    }
}

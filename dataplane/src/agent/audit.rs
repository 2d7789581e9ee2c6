//! What must always hold, checked by simulations and tests after every event.

use std::collections::BTreeMap;

use mat_proto::Locator;

use super::Agent;
use crate::fib::Way;

impl Agent {
    /// Looks through everything: bounds, accounts, and that what is kept twice agrees.
    /// To be called when all outputs have been taken.
    ///
    /// # Errors
    /// What is wrong.
    pub fn audit(&self) -> Result<(), String> {
        self.audit_queues()?;
        self.audit_homes()?;
        self.audit_contexts()
    }

    fn audit_queues(&self) -> Result<(), String> {
        let limits = &self.config.limits;
        let (used, most) = (self.budget.used(), limits.hold_bytes_total);
        let ids = self.table.ids();
        let contexts = ids.iter().filter_map(|id| self.table.get(*id));
        let in_contexts: usize = contexts
            .map(|c| c.hold.bytes() + c.behind.as_ref().map_or(0, |b| b.hold.bytes()))
            .sum();
        let in_homes: usize = self.own.values().map(|own| own.held_bytes()).sum();
        let elsewhere = self.strangers_bytes() + self.gates_bytes();
        let sum = in_contexts + in_homes + elsewhere;
        if sum != used || used > most {
            return Err(format!(
                "{used} octets are accounted for, {most} allowed, {sum} there"
            ));
        }
        for (name, count, most) in [
            ("contexts", self.table.len(), limits.contexts),
            ("strangers", self.strangers.len(), limits.strangers),
            ("OPENs", self.opens.len(), limits.opens),
            ("bindings", self.cache.len(), limits.cached_bindings),
        ] {
            if count > most {
                return Err(format!("{count} {name}, where {most} are allowed"));
            }
        }
        Ok(())
    }

    fn audit_homes(&self) -> Result<(), String> {
        let mut owners = BTreeMap::new();
        for (home, own) in &self.own {
            for locator in &own.reserved {
                if let Some(other) = owners.insert(*locator, *home) {
                    return Err(format!("{locator} is reserved for {other} and {home}"));
                }
            }
            let serving = own.serving();
            if serving.is_some_and(|l| own.known.as_ref().is_none_or(|b| !is_active(b, l))) {
                return Err(format!(
                    "{home} is served where its binding does not say so"
                ));
            }
        }
        if owners != self.own_locators {
            return Err("locators and their homes do not agree".to_owned());
        }
        Ok(())
    }

    fn audit_contexts(&self) -> Result<(), String> {
        if self.table.has_changed() || !self.detoured.is_empty() {
            return Err("the forwarding table was left behind".to_owned());
        }
        let ends = |way: Way| (way.local, way.remote, way.until.0 >> 16);
        for id in self.table.ids() {
            let Some(context) = self.table.get(id) else {
                return Err(format!("{id:?} is listed, and not there"));
            };
            let (is, shall) = (self.table.way(id).map(ends), self.way(id).map(ends));
            let pair = (context.own, context.peer);
            if is != shall {
                return Err(format!(
                    "{pair:?} is forwarded {is:?}, and should be {shall:?}"
                ));
            }
            if is.is_some() && (context.keys.is_none() || context.credit.is_some()) {
                return Err(format!("{pair:?} is forwarded without proof"));
            }
            if let Some(remote) = context.remote()
                && self.table.holder(remote).is_some_and(|h| h != context.peer)
                && is.is_some()
            {
                return Err(format!("{pair:?} is sent to {remote}, which is another's"));
            }
            if context.hold.len() > 0 && context.timer.is_none() {
                return Err(format!("{pair:?} waits for ever"));
            }
        }
        Ok(())
    }
}

fn is_active(binding: &mat_proto::Binding, locator: Locator) -> bool {
    binding.active().is_some_and(|e| e.locator == locator)
}

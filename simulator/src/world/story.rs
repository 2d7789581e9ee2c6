//! What is told of a run.

use super::{Telling, World};
use crate::check;

impl World {
    pub(super) fn violated(&mut self, what: String) {
        if self.outcome.violation.is_none() {
            self.tell_states();
        }
        self.tell(format!("VIOLATION: {what}"));
        self.outcome.violation.get_or_insert(what);
    }

    pub(super) fn tell_segment(&mut self, what: &str, packet: &[u8]) {
        if self.telling >= Telling::Segments
            && let Some(segment) = check::segment(packet)
        {
            self.tell(format!("an instance {what} {segment}"));
        }
    }

    /// What the forwarders say of themselves.
    pub(super) fn tell_states(&mut self) {
        if self.telling < Telling::Story {
            return;
        }
        let now = self.now();
        for site in 0..self.sites.len() {
            let Some(status) = self.sites[site].agent.as_ref().map(|a| a.status(now)) else {
                continue;
            };
            for c in status.contexts {
                let (remote, epoch) = (c.remote.map(|l| l.to_string()), c.epoch);
                self.tell(format!(
                    "s{site} has {} with {} at {remote:?}, before {:?}, epoch {epoch}: {}, {} held, {} sent, {} received",
                    c.own, c.peer, c.previous, c.state, c.held, c.sent.packets, c.received.packets
                ));
            }
            let counts = status.counters.iter().filter(|(_, n)| *n > &0);
            let counts: Vec<String> = counts.map(|(name, n)| format!("{n} {name}")).collect();
            self.tell(format!("s{site} counts {}", counts.join(", ")));
        }
    }

    pub(crate) fn tell(&mut self, what: String) {
        if self.telling >= Telling::Story {
            self.outcome.story.push(format!("{} {what}", self.now));
        }
    }
}

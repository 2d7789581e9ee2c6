//! Exclusive locators: no message leaves for a peer before what the peer sends
//! in return would come to us.
//!
//! An exclusive locator is the host's own address. Until its pair with the
//! peer's locator is steered into the TUN, the host's kernel takes the peer's
//! packets, and answers what it does not know with a RST. Steering takes a few
//! milliseconds, an ACCEPT is answered with data at once: so the control
//! messages to a new pair wait here until it is steered.
//!
//! # Limitations
//! A *peer* that moves sends from its new locator at once, and the host's kernel
//! takes what comes from there until MOVED has had it steered.

use std::collections::BTreeMap;
use std::time::Duration;

use mat_proto::Locator;

use super::hold::Hold;
use super::{Agent, Output};
use crate::clock::{Now, Time};
use crate::counters::Cause;
use crate::frame::Frame;
use crate::table::PairChanges;

/// Control messages of one pair that may wait: some of the largest kind.
const WAITING_BYTES: usize = 16 << 10;
/// A pair that no context came of is given back to the host after this time;
/// one that could not be steered is tried again after it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Pairs that are remembered as left lately.
const MAX_VACATED: usize = 1 << 16;

/// Pairs of locators (peer, own) that are steered, or are about to be.
pub(super) type Gates = BTreeMap<(Locator, Locator), Gate>;

#[derive(Debug)]
pub(super) struct Gate {
    open: bool,
    since: Time,
    waiting: Hold,
}

impl Agent {
    /// Follows the pairs of the table.
    pub(super) fn steer(&mut self, changes: PairChanges) {
        for (peer, own) in changes.removed {
            if self.vacated.len() >= MAX_VACATED {
                self.vacated.pop_first();
            }
            self.vacated.insert((peer, own), self.now.time);
            self.unsteer_pair(peer, own);
        }
        for (peer, own) in changes.added {
            self.steer_pair(peer, own);
        }
    }

    /// Makes sure that what comes from `peer` to `own` comes to us, or soon will.
    pub(super) fn steer_pair(&mut self, peer: Locator, own: Locator) {
        if !self.config.exclusive || self.gates.contains_key(&(peer, own)) {
            return;
        }
        let gate = Gate {
            open: false,
            since: self.now.time,
            waiting: Hold::default(),
        };
        self.gates.insert((peer, own), gate);
        self.outputs.push_back(Output::Steer(peer, own));
    }

    /// The answer to [`Output::Steer`]: the pair is steered now.
    pub fn handle_steered(&mut self, now: Now, peer: Locator, own: Locator) {
        self.now = now;
        let Some(gate) = self.gates.get_mut(&(peer, own)) else {
            return;
        };
        gate.open = true;
        while let Some(frame) = gate.waiting.pop(&mut self.budget) {
            self.outputs.push_back(Output::Write(frame));
        }
    }

    /// Writes a control message of ours, once its answer can reach us.
    pub(super) fn write_gated(&mut self, peer: Option<Locator>, own: Locator, frame: Frame) {
        let gate = peer.and_then(|peer| self.gates.get_mut(&(peer, own)));
        match gate.filter(|gate| !gate.open) {
            None => self.outputs.push_back(Output::Write(frame)),
            Some(gate) => {
                let (time, max) = (self.now.time, WAITING_BYTES);
                if !gate.waiting.push(time, frame, max, &mut self.budget) {
                    self.counters.count(Cause::HoldFull);
                }
            }
        }
    }

    /// What waits here takes so much in the accounts.
    pub(super) fn gates_bytes(&self) -> usize {
        self.gates.values().map(|gate| gate.waiting.bytes()).sum()
    }

    /// Gives back what no context came of, and tries again what failed.
    pub(super) fn sweep_gates(&mut self) {
        let time = self.now.time;
        let old = self.gates.iter_mut();
        let old: Vec<_> = old
            .filter(|(_, gate)| time.since(gate.since) >= PATIENCE)
            .map(|(pair, gate)| {
                gate.since = time;
                (*pair, gate.open)
            })
            .collect();
        for ((peer, own), open) in old {
            if self.table.inbound(peer.ip(), own.ip()).is_none() {
                self.unsteer_pair(peer, own);
            } else if !open {
                self.outputs.push_back(Output::Steer(peer, own));
            }
        }
    }

    fn unsteer_pair(&mut self, peer: Locator, own: Locator) {
        if let Some(mut gate) = self.gates.remove(&(peer, own)) {
            let dropped = gate.waiting.clear(&mut self.budget);
            self.counters.add(Cause::PeerSilent, dropped);
            self.outputs.push_back(Output::Unsteer(peer, own));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::{AgentConfig, Limits};

    fn at(seconds: u64) -> Now {
        Now {
            time: Time(seconds * 1_000_000),
            unix_us: 1_800_000_000_000_000 + seconds * 1_000_000,
        }
    }

    fn agent(exclusive: bool) -> Agent {
        let config = AgentConfig {
            homes: vec!["192.0.2.0/24".parse().expect("a prefix")],
            locators: vec!["198.51.100.0/24".parse().expect("a prefix")],
            pool: Vec::new(),
            exclusive,
            control_port: 6283,
            lease_seconds: 30,
            poll: Duration::from_secs(1),
            stop_after: None,
            zoning: crate::zoning::Zoning::default(),
            grace: Duration::from_secs(10),
            limits: Limits::default(),
        };
        Agent::new(config, at(0), |octets| octets.fill(7))
    }

    fn pair() -> (Locator, Locator) {
        let locator = |text: &str| text.parse::<Locator>().expect("a locator");
        (locator("198.51.100.1"), locator("198.51.100.2"))
    }

    /// Sends a message; says what the agent wants done.
    fn send(agent: &mut Agent) -> Vec<Output> {
        let (peer, own) = pair();
        agent.steer_pair(peer, own);
        agent.transmit(own, (peer.ip(), 6283).into(), b"message");
        std::iter::from_fn(|| agent.poll_output()).collect()
    }

    #[test]
    fn messages_wait_until_the_pair_is_steered() {
        let (peer, own) = pair();
        let mut agent = agent(true);
        assert_eq!(send(&mut agent), [Output::Steer(peer, own)]);
        assert_eq!(send(&mut agent), []);
        agent.handle_steered(at(0), peer, own);
        for _ in 0..2 {
            assert!(matches!(agent.poll_output(), Some(Output::Write(_))));
        }
        assert!(matches!(send(&mut agent)[..], [Output::Write(_)]));
    }

    #[test]
    fn a_pair_without_context_is_given_back() {
        let (peer, own) = pair();
        let mut agent = agent(true);
        send(&mut agent);
        agent.handle_timeout(at(9));
        assert_eq!(agent.poll_output(), None);
        agent.handle_timeout(at(10));
        assert_eq!(agent.poll_output(), Some(Output::Unsteer(peer, own)));
        assert_eq!(agent.budget.used(), 0);
    }

    #[test]
    fn a_dedicated_locator_needs_no_gate() {
        assert!(matches!(send(&mut agent(false))[..], [Output::Write(_)]));
    }
}

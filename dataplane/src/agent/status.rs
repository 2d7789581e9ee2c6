//! What people and programs see of an agent.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;

use mat_proto::{Epoch, Home, Locator};
use serde::{Deserialize, Serialize};

use super::own::Link;
use super::{Agent, Now};
use crate::counters::{Party, Traffic};
use crate::table::Context;

/// Everything about a forwarder.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Homes attached here.
    pub homes: Vec<OwnStatus>,
    /// Contexts with peers.
    pub contexts: Vec<ContextStatus>,
    /// Homes that peers look for here although they are not attached, and the
    /// locator at which they were looked for.
    pub not_attached: BTreeMap<String, Locator>,
    /// Whether the mapping service answers; otherwise why not.
    pub mapping: MappingStatus,
    /// Bytes of packets that wait.
    pub held_bytes: usize,
    /// Packets and messages that were not simply forwarded, by cause.
    pub counters: BTreeMap<String, u64>,
}

/// How a forwarder is, in a few numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vitals {
    /// Homes attached here.
    pub homes: usize,
    /// Homes served here.
    pub serving: usize,
    /// Contexts with peers.
    pub contexts: usize,
    /// Bytes of packets that wait.
    pub held_bytes: usize,
    /// Whether the last exchange with the mapping service succeeded.
    pub mapping_reachable: bool,
}

/// The mapping service as seen from here.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MappingStatus {
    /// Whether the last exchange succeeded.
    pub reachable: bool,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// Since when, Unix time in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault_since_unix_us: Option<u64>,
    /// Whether answers were authenticated; "network" trust accepts others too.
    pub authenticated: bool,
}

/// A home attached here.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OwnStatus {
    /// The home.
    pub home: Home,
    /// `serving`, `prepared`, `registering`, `not serving` or `departed`.
    pub state: String,
    /// The locator in use here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locator: Option<Locator>,
    /// Locators set aside for it here.
    pub reserved: Vec<Locator>,
    /// The epoch of the binding known.
    pub epoch: Epoch,
    /// The active locator of that binding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registered_at: Option<Locator>,
    /// How it is plugged in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<Link>,
    /// It is in no home prefix of the configuration: nothing of it is forwarded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub outside: bool,
    /// Whether packets can be given to the instance.
    pub ready: bool,
    /// Bytes of packets that wait for it.
    pub held_bytes: usize,
    /// How peers followed the last move.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub switch: Option<SwitchStatus>,
    /// What befell its packets, beside those of its contexts.
    #[serde(flatten)]
    pub account: AccountStatus,
}

/// How peers followed a move.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct SwitchStatus {
    /// Peers told.
    pub peers: usize,
    /// Peers that acknowledged.
    pub acknowledged: usize,
    /// From the commit to the last acknowledgement so far, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_ack_us: Option<u64>,
}

/// One context.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContextStatus {
    /// The home attached here.
    pub own: Home,
    /// The home it talks to.
    pub peer: Home,
    /// `resolving`, `opening`, `open` or `unconfirmed` (moved, but the mapping
    /// service has not said so yet).
    pub state: String,
    /// Wire mode.
    pub mode: String,
    /// Where packets come from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<Locator>,
    /// Where packets go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<Locator>,
    /// Older locators of the peer that are still accepted.
    pub previous: Vec<Locator>,
    /// Epoch of the peer's binding.
    pub epoch: Epoch,
    /// What is left of its lease, in milliseconds.
    pub lease_ms: u64,
    /// Round trip of the last PROBE, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub round_trip_us: Option<u64>,
    /// Packets waiting.
    pub held: usize,
    /// Sent to the peer.
    pub sent: Traffic,
    /// Received from the peer.
    pub received: Traffic,
    /// What else befell its packets.
    #[serde(flatten)]
    pub account: AccountStatus,
}

/// What befell the packets of a home or a pair, beside being forwarded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountStatus {
    /// Dropped, by cause.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dropped: BTreeMap<String, u64>,
    /// Kept for a while, since it began.
    #[serde(default)]
    pub kept: u64,
    /// Sent after an instance that has left.
    #[serde(default)]
    pub relayed: u64,
}

/// Something that happened to a home or a pair.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EventStatus {
    /// Unix time in microseconds.
    pub unix_us: u64,
    /// The home.
    pub home: Home,
    /// The peer, if it is about a pair.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<Home>,
    /// What happened.
    pub what: String,
}

/// What would become of a packet from one address to another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// `native`, `local`, `pass`, `hold` or `drop`.
    pub verdict: String,
    /// Why, in a sentence.
    pub reason: String,
    /// The context it would use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<ContextStatus>,
    /// What happened to the two lately, oldest first.
    pub events: Vec<EventStatus>,
}

impl Agent {
    /// The few numbers, without going through contexts.
    pub fn vitals(&self) -> Vitals {
        let serving = self.own.values().filter(|own| own.serving().is_some());
        Vitals {
            homes: self.own.len(),
            serving: serving.count(),
            contexts: self.table.len(),
            held_bytes: self.budget.used(),
            mapping_reachable: self.mapping.faults.is_empty(),
        }
    }

    /// A description of everything.
    pub fn status(&self, now: Now) -> Status {
        let contexts = self.table.ids().into_iter();
        Status {
            homes: self
                .own
                .keys()
                .filter_map(|home| self.own_status(*home))
                .collect(),
            contexts: contexts
                .filter_map(|id| self.table.get(id))
                .map(|c| self.context_status(c, now))
                .collect(),
            not_attached: self
                .misdirected
                .iter()
                .map(|(home, (locator, _))| (home.to_string(), *locator))
                .collect(),
            mapping: MappingStatus {
                reachable: self.mapping.faults.is_empty(),
                fault: self.mapping.fault().map(|f| f.why.clone()),
                fault_since_unix_us: self.mapping.fault().map(|f| f.since_unix_us),
                authenticated: !self.mapping.unverified,
            },
            held_bytes: self.held_bytes(),
            counters: self
                .counters
                .iter()
                .map(|(name, n)| (name.to_owned(), n))
                .collect(),
        }
    }

    /// A description of one home attached here.
    pub fn own_status(&self, home: Home) -> Option<OwnStatus> {
        let own = self.own.get(&home)?;
        let known = own.known.as_ref();
        Some(OwnStatus {
            home,
            state: own.role.as_str().to_owned(),
            locator: own.serving(),
            reserved: own.reserved.clone(),
            epoch: own.epoch(),
            registered_at: known.and_then(|b| b.active()).map(|e| e.locator),
            link: own.link.clone(),
            outside: !self.in_homes(home.ip()),
            ready: own.ready,
            held_bytes: own.held_bytes(),
            switch: own.switch.map(|s| SwitchStatus {
                peers: s.peers,
                acknowledged: s.acknowledged,
                last_ack_us: s.last_ack.map(|t| t.since(s.since).as_micros() as u64),
            }),
            account: self.account_status((home, None)),
        })
    }

    /// What would become of a packet from `src` to `dst`, read from the TUN now.
    pub fn explain(&self, now: Now, src: IpAddr, dst: IpAddr) -> Explanation {
        let related = |home: Home| home.ip() == src || home.ip() == dst;
        let events = self
            .events
            .iter()
            .filter(|(_, e)| related(e.home) && e.peer.is_none_or(related));
        let events = events
            .map(|(at, e)| EventStatus {
                unix_us: at.unix_us,
                home: e.home,
                peer: e.peer,
                what: e.what.clone(),
            })
            .collect();
        let id = self
            .table
            .outbound(src, dst)
            .or_else(|| self.table.inbound(src, dst));
        let context = id.and_then(|id| self.table.get(id));
        let (verdict, reason) = self.judge(src, dst, context);
        Explanation {
            verdict: verdict.to_owned(),
            reason,
            context: context.map(|c| self.context_status(c, now)),
            events,
        }
    }

    fn judge(&self, src: IpAddr, dst: IpAddr, context: Option<&Context>) -> (&'static str, String) {
        let own = |ip: IpAddr| Home::new(ip).ok().and_then(|h| self.own.get(&h));
        let holder = Locator::new(dst)
            .ok()
            .and_then(|l| self.own_locators.get(&l));
        if let (Some(home), None) = (holder, own(src)) {
            return match context {
                Some(c) => ("native", format!("comes from {} for {home}", c.peer)),
                None if self.in_locators(src) => (
                    "hold",
                    format!("for {home}, but there is no context with {src}"),
                ),
                None if self.in_homes(src) => (
                    "drop",
                    format!("{src} is a home address: what it sends comes from a locator"),
                ),
                None => ("pass", format!("{src} is not mobile; goes to {home}")),
            };
        }
        let Some(from) = own(src) else {
            let reason = format!("neither is {src} attached here nor is {dst} a locator of ours");
            return ("drop", reason);
        };
        let Some(local) = from.serving() else {
            return ("drop", format!("{src} is {} here", from.role.as_str()));
        };
        if own(dst).is_some_and(|there| there.serving().is_some()) {
            return ("local", "both are attached here".to_owned());
        }
        if self.in_homes(dst) {
            return match context {
                Some(c) if c.is_open() => ("native", "the context is open".to_owned()),
                Some(_) => ("hold", "the context is being opened".to_owned()),
                None => ("hold", format!("{dst} would be looked up first")),
            };
        }
        if self.in_locators(dst) {
            return ("drop", format!("{dst} is a locator; use the home address"));
        }
        if self.config.exclusive {
            return (
                "drop",
                format!("{dst} is not mobile, and {src} has no locator of its own"),
            );
        }
        (
            "pass",
            format!("{dst} is not mobile: sent from {local}, which a move would change"),
        )
    }

    fn context_status(&self, c: &Context, now: Now) -> ContextStatus {
        let tally = self.table.tally(c);
        let state = match (&c.binding, &c.keys, &c.provisional) {
            (None, ..) => "resolving",
            (_, None, _) => "opening",
            (_, _, Some(_)) => "unconfirmed",
            _ => "open",
        };
        ContextStatus {
            own: c.own,
            peer: c.peer,
            state: state.to_owned(),
            mode: "native".to_owned(),
            local: c.local,
            remote: c.remote(),
            previous: c.previous.iter().map(|(l, _)| *l).collect(),
            epoch: c.epoch(),
            lease_ms: c.lease_until.since(now.time).as_millis() as u64,
            round_trip_us: c.round_trip_us,
            held: c.hold.len(),
            sent: tally.sent,
            received: tally.received,
            account: self.account_status((c.own, Some(c.peer))),
        }
    }

    fn account_status(&self, party: Party) -> AccountStatus {
        let Some(account) = self.accounts.get(party) else {
            return AccountStatus::default();
        };
        let dropped = account.dropped.iter();
        AccountStatus {
            dropped: dropped.map(|(cause, n)| (cause.to_owned(), n)).collect(),
            kept: account.held.load(Relaxed),
            relayed: account.relayed.load(Relaxed),
        }
    }
}

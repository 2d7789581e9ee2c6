//! Homes attached here: which locator is theirs, and whether we serve them.
//!
//! A forwarder serves a home if and only if the instance is attached here *and*
//! the highest-epoch binding it knows names one of its locators as active. A
//! higher epoch alone does not silence it.

mod deadline;
mod operations;
mod relaying;
mod serving;
mod standby;

use std::net::SocketAddr;
use std::time::Duration;

use mat_proto::auth::{Key, MoveKey};
use mat_proto::{Binding, Entry, Epoch, Home, Locator};
use serde::{Deserialize, Serialize};

use super::hold::{Budget, Hold};
use super::relay::{Arrivals, Sent};
use super::snapshot::ContextRecord;
use crate::clock::Time;
use crate::table::Keys;

/// What a home attached here is doing.
#[derive(Clone, Debug)]
pub(in crate::agent) enum Role {
    /// A locator is reserved; nothing leaves, everything that arrives is held.
    Prepared(Plan),
    /// Attached; its binding is being found out or registered.
    Registering,
    /// Attached, and the binding names this locator.
    Serving { locator: Locator },
    /// Attached, but the binding names another place.
    Idle,
    /// Handed to another site, which gets what still arrives: until grace ends, once
    /// that site serves it.
    Departed { to: RelayTo, until: Time },
}

impl Role {
    pub(in crate::agent) fn as_str(&self) -> &'static str {
        match self {
            Role::Prepared(_) => "prepared",
            Role::Registering => "registering",
            Role::Serving { .. } => "serving",
            Role::Idle => "not serving",
            Role::Departed { .. } => "departed",
        }
    }
}

/// What the binding of a prepared home is being asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::agent) enum Plan {
    /// It is not: somebody will say what comes next.
    Wait,
    /// To be published at its locator here as well, standing by.
    StandBy,
    /// It is not, and nobody will say: when its instance comes, that is all there is to it.
    Alone,
    /// To be registered here: its instance has come, but nobody says that its move is
    /// complete.
    TakeOver,
}

/// A home attached here.
#[derive(Debug)]
pub(in crate::agent) struct Own {
    pub(in crate::agent) role: Role,
    /// Whether we register its binding, or leave that to others.
    pub(in crate::agent) claim: bool,
    pub(in crate::agent) link: Option<Link>,
    /// Whether packets can be given to the instance.
    pub(in crate::agent) ready: bool,
    /// Locators of ours that are this home's.
    pub(in crate::agent) reserved: Vec<Locator>,
    /// The binding of the highest epoch known.
    pub(in crate::agent) known: Option<Binding>,
    /// Since when that is so.
    known_since: Time,
    /// What came for it directly.
    pub(in crate::agent) hold_in: Hold,
    /// What the old site of its move has relayed: older than that.
    pub(in crate::agent) hold_relayed: Hold,
    /// What it sent.
    pub(in crate::agent) hold_out: Hold,
    /// A compare-and-swap under way.
    updating: Option<Updating>,
    /// When its move is over at the latest, if its instance has not come here by then.
    deadline: Option<Time>,
    move_key: Option<MoveKey>,
    /// On their way here from the old site of its move.
    arrivals: Arrivals,
    /// What that site was last told of them.
    reported: Reported,
    /// On their way from here to the new site of its move.
    sent: Option<Sent>,
    /// Contexts to take over once we serve.
    pub(in crate::agent) imports: Vec<ContextRecord>,
    /// Its instance has come since this home was prepared: its link has, or it has spoken.
    pub(in crate::agent) arrived: bool,
    /// Its link was looked at and is not there: if it appears, it comes. One that was there
    /// from the start says nothing.
    missed: bool,
    /// Another site serves it since it left.
    pub(in crate::agent) taken_over: bool,
    /// When it left.
    left: Option<Time>,
    /// Its link has gone since it left, so its instance really has.
    gone: bool,
    next_poll: Time,
    /// When the mapping service was last heard of it.
    confirmed: Time,
    /// The last time peers were told of a move.
    pub(in crate::agent) switch: Option<Switch>,
}

#[derive(Debug)]
struct Updating {
    new: Option<Binding>,
    epoch_before: Epoch,
    since: Time,
    /// Its answer was lost: it has to be read back.
    lost: bool,
}

/// What the old site of a move knows of the packets that it relays.
#[derive(Debug, Default)]
struct Reported {
    /// Where they come from.
    to: Option<(SocketAddr, Epoch)>,
    at: Option<Time>,
    received: u32,
    delivered: u32,
    /// It sends what it need not: the last report was lost.
    again: bool,
}

/// How the peers of a home followed its last move.
#[derive(Clone, Copy, Debug)]
pub(in crate::agent) struct Switch {
    pub(in crate::agent) since: Time,
    pub(in crate::agent) peers: usize,
    pub(in crate::agent) acknowledged: usize,
    pub(in crate::agent) last_ack: Option<Time>,
}

/// Where an instance behind a gateway is plugged in. Only carried along for
/// those who set up the link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// The interface on this machine: host end of a veth, or a TAP.
    pub interface: String,
    /// The instance's link-layer address, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

/// What to attach.
#[derive(Clone, Debug)]
pub struct Attach {
    /// Its home address.
    pub home: Home,
    /// Register the binding if nobody has, or another place has; otherwise only
    /// serve if the binding already names us.
    pub claim: bool,
    /// How the instance is plugged in; `None` for a node's own home address.
    pub link: Option<Link>,
    /// Whether the link works already.
    pub ready: bool,
    /// Contexts of an earlier [`Agent::detach`], to take up again.
    pub contexts: Vec<ContextRecord>,
    /// Its binding then, if certainly nobody has changed it since: the home is
    /// served at once, whether or not the mapping service answers.
    pub binding: Option<Binding>,
}

/// Answer of [`Agent::prepare`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// The locator reserved.
    pub locator: Locator,
    /// The control port there.
    pub port: u16,
}

/// Where the old site of a move sends what still arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelayTo {
    /// The locator reserved at the new site.
    pub locator: Locator,
    /// The control port there.
    pub port: u16,
    /// The key both sites got for this move.
    pub key: MoveKey,
}

/// What the old site knows and the new site needs. What a newer forwarder says beyond this is left
/// out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handover {
    /// The home.
    pub home: Home,
    /// Its binding as the old site knows it.
    pub binding: Option<Binding>,
    /// Its contexts, tokens included: secret.
    pub contexts: Vec<ContextRecord>,
    /// Its link-layer address, as the old site's kernel knew it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

/// The end of an attach or activate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activated {
    /// The locator in use; `None`: attached, but the binding names another
    /// place, or the home is detached.
    pub locator: Option<Locator>,
    /// Epoch before.
    pub epoch_before: Epoch,
    /// Epoch now.
    pub epoch_after: Epoch,
    /// How long the mapping service took to commit, in microseconds.
    pub map_update_us: u64,
    /// Peers that are being told.
    pub peers: usize,
}

/// Why an operation on a home was refused or failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpError {
    /// Not in the home prefixes.
    #[error("{0} is in none of the configured home prefixes")]
    NotAHome(Home),
    /// Attached already.
    #[error("{0} is already attached here ({1})")]
    Attached(Home, &'static str),
    /// Not attached.
    #[error("{0} is not attached here")]
    NotAttached(Home),
    /// No locator left.
    #[error("no free locator for {0}: the pool is used up or in quarantine")]
    NoLocator(Home),
    /// Activated without having been prepared.
    #[error("{0} is not prepared here (it is {1})")]
    NotPrepared(Home, &'static str),
    /// Detached although another place serves it or it is not settled.
    #[error("{0} cannot be handed over: it is {1} here")]
    NotServing(Home, &'static str),
    /// Somebody else changed the binding meanwhile.
    #[error("somebody else changed the binding of {0}; look at it and try again")]
    Conflict(Home),
    /// The mapping service refused.
    #[error("the mapping service refuses the binding of {0}: {1}")]
    Refused(Home, String),
    /// The mapping service does not answer.
    #[error("the mapping service gives no usable answer about {0}: {1}")]
    Mapping(Home, String),
    /// Withdrawn because the deadline passed.
    #[error("{0} was prepared, but not activated in time")]
    Deadline(Home),
}

/// A prepared move that is not activated within this time is withdrawn; so is one whose
/// instance has not come.
const PREPARED_FOR: Duration = Duration::from_secs(30);
/// A home that left and that nobody has taken over by then is taken back: not before
/// the new site has decided.
const TAKE_BACK: Duration = Duration::from_secs(35);
/// One that nobody sees to any more, and whose instance is still here, is taken back by then.
const UNATTENDED: Duration = Duration::from_secs(2);
/// Whether the new site gives back an instance that has not left is waited for until then.
const GIVEN_BACK: Duration = Duration::from_secs(45);
/// Where peers are who were there when a home left, for so long.
const FRESH: Duration = Duration::from_secs(5);
/// An update whose outcome is unknown is read back after this time.
const READ_BACK: Duration = Duration::from_millis(200);

impl Own {
    fn new(role: Role, reserved: Vec<Locator>, now: Time) -> Self {
        Own {
            role,
            claim: true,
            link: None,
            ready: false,
            reserved,
            known: None,
            known_since: now,
            hold_in: Hold::default(),
            hold_relayed: Hold::default(),
            hold_out: Hold::default(),
            updating: None,
            deadline: None,
            move_key: None,
            arrivals: Arrivals::default(),
            reported: Reported::default(),
            sent: None,
            imports: Vec::new(),
            arrived: false,
            missed: false,
            taken_over: false,
            left: None,
            gone: false,
            next_poll: now,
            confirmed: now,
            switch: None,
        }
    }

    /// The locator in use, if this home is served here.
    pub(in crate::agent) fn serving(&self) -> Option<Locator> {
        match self.role {
            Role::Serving { locator } => Some(locator),
            _ => None,
        }
    }

    /// Where packets of a departed instance still come from, as long as its link
    /// is there and nobody serves it elsewhere.
    pub(in crate::agent) fn departing_from(&self) -> Option<Locator> {
        let locator = self.reserved.first().copied();
        locator.filter(|_| self.departed() && self.ready)
    }

    pub(in crate::agent) fn departed(&self) -> bool {
        matches!(self.role, Role::Departed { .. })
    }

    pub(in crate::agent) fn prepared(&self) -> bool {
        matches!(self.role, Role::Prepared(_))
    }

    /// Takes note of its binding.
    fn know(&mut self, binding: Option<Binding>, now: Time) {
        if self.known != binding {
            self.known = binding;
            self.known_since = now;
        }
    }

    /// Whether its binding says that it is served at a locator of ours.
    fn names_ours(&self) -> bool {
        let active = self.known.as_ref().and_then(|b| b.active());
        active.is_some_and(|entry| self.reserved.contains(&entry.locator))
    }

    /// Where else its binding says that it is, or may come, if it names us too.
    fn known_beside_us(&self) -> Option<Vec<Entry>> {
        let entries = self.known.as_ref()?.entries();
        let others = entries.iter().copied();
        let others = others.filter(|entry| !self.reserved.contains(&entry.locator));
        let others: Vec<Entry> = others.collect();
        (!others.is_empty() && others.len() < entries.len()).then_some(others)
    }

    /// Whether it is served here, and its binding says that it may come somewhere else.
    pub(in crate::agent) fn may_leave(&self) -> bool {
        let entries = self.known.as_ref().map_or(0, |b| b.entries().len());
        entries > 1 && self.serving().is_some()
    }

    /// The key of a context with this peer that is not in our table: of one that has left, or
    /// is to come.
    fn key_with(&self, peer: Home) -> Option<Key> {
        let mut records = self.imports.iter();
        let record = records.find(|record| record.peer == peer)?;
        Some(Keys::new(record.mine, record.theirs).key)
    }

    /// The key of the move that brings it here, when that is given up, and what is being
    /// registered.
    pub(in crate::agent) fn arriving(&self) -> Option<(MoveKey, Time, Option<&Binding>)> {
        let key = self.move_key.filter(|_| self.prepared())?;
        // Without a deadline it has passed, and the binding is being found out.
        let deadline = self.deadline.unwrap_or(self.next_poll);
        let registering = self.updating.as_ref().and_then(|u| u.new.as_ref());
        Some((key, deadline, registering))
    }

    /// Whether our own registration names a locator that is no longer ours, while
    /// another one is: the uplink's address has changed.
    fn names_lost_locator(&self) -> bool {
        let active = self.known.as_ref().and_then(|b| b.active());
        let lost = active.is_some_and(|e| !self.reserved.contains(&e.locator));
        let spoke = matches!(self.role, Role::Serving { .. });
        lost && spoke && self.claim && !self.reserved.is_empty()
    }

    /// Neither on its way in nor on its way out.
    pub(in crate::agent) fn is_settled(&self) -> bool {
        !self.prepared() && !self.departed()
    }

    /// Packets that wait for it, or of it.
    pub(in crate::agent) fn waiting(&self) -> usize {
        self.hold_in.len() + self.hold_relayed.len() + self.hold_out.len()
    }

    /// The memory these stand for, and those that are kept until the new site has them.
    pub(in crate::agent) fn held_bytes(&self) -> usize {
        let sent = self.sent.as_ref().map_or(0, Sent::bytes);
        self.hold_in.bytes() + self.hold_relayed.bytes() + self.hold_out.bytes() + sent
    }

    fn holds(&mut self) -> [&mut Hold; 3] {
        [
            &mut self.hold_relayed,
            &mut self.hold_in,
            &mut self.hold_out,
        ]
    }

    /// Drops what waits; gives back how many.
    fn clear(&mut self, all: &mut Budget) -> u64 {
        let mut dropped: u64 = self.holds().into_iter().map(|h| h.clear(all)).sum();
        if let Some(mut sent) = self.sent.take() {
            while sent.pop(all).is_some() {
                dropped += 1;
            }
        }
        dropped
    }

    /// Drops what has waited longer than `age`; gives back how many.
    fn expire(&mut self, now: Time, age: Duration, all: &mut Budget) -> u64 {
        let holds = self.holds().into_iter();
        let dropped: u64 = holds.map(|h| h.expire(now, age, all)).sum();
        dropped + self.sent.as_mut().map_or(0, |s| s.expire(now, age, all))
    }

    pub(in crate::agent) fn epoch(&self) -> Epoch {
        self.known.as_ref().map_or(Epoch(0), Binding::epoch)
    }
}

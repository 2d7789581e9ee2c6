//! Homes attached here: which locator is theirs, and whether we serve them.
//!
//! A forwarder serves a home if and only if the instance is attached here *and*
//! the highest-epoch binding it knows names one of its locators as active. A
//! higher epoch alone does not silence it.

use std::time::Duration;

use ipnet::IpNet;
use mat_proto::auth::MoveKey;
use mat_proto::message::Relay;
use mat_proto::{Binding, Epoch, Home, Locator};
use serde::{Deserialize, Serialize};

use super::hold::Hold;
use super::peers::MapFault;
use super::relay::{self, Joiner};
use super::snapshot::ContextRecord;
use super::{Agent, Answer, Output, Timer, UpdateResult};
use crate::clock::Time;
use crate::counters::Cause;
use crate::frame::Frame;
use crate::rewrite::{Packet, Translation, rewrite};

/// What a home attached here is doing.
#[derive(Clone, Debug)]
pub(super) enum Role {
    /// A locator is reserved; nothing leaves, everything that arrives is held.
    Prepared,
    /// Attached; its binding is being found out or registered.
    Registering,
    /// Attached, and the binding names this locator.
    Serving { locator: Locator },
    /// Attached, but the binding names another place.
    Idle,
    /// Handed to another site, which gets what still arrives.
    Departed {
        to: RelayTo,
        until: Time,
        next_id: u32,
    },
}

impl Role {
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Role::Prepared => "prepared",
            Role::Registering => "registering",
            Role::Serving { .. } => "serving",
            Role::Idle => "not serving",
            Role::Departed { .. } => "departed",
        }
    }
}

/// A home attached here.
#[derive(Debug)]
pub(super) struct Own {
    pub(super) role: Role,
    /// Whether we register its binding, or leave that to others.
    pub(super) claim: bool,
    pub(super) link: Option<Link>,
    /// Whether packets can be given to the instance.
    pub(super) ready: bool,
    /// Locators of ours that are this home's.
    pub(super) reserved: Vec<Locator>,
    /// The binding of the highest epoch known.
    pub(super) known: Option<Binding>,
    pub(super) hold_in: Hold,
    pub(super) hold_out: Hold,
    /// A compare-and-swap under way.
    updating: Option<Updating>,
    /// Prepared or registering is given up at this time.
    deadline: Option<Time>,
    move_key: Option<MoveKey>,
    joiner: Joiner,
    /// Contexts to take over once we serve.
    imports: Vec<ContextRecord>,
    next_poll: Time,
    /// The last time peers were told of a move.
    pub(super) switch: Option<Switch>,
}

#[derive(Debug)]
struct Updating {
    new: Option<Binding>,
    epoch_before: Epoch,
    since: Time,
    /// Its answer was lost: it has to be read back.
    lost: bool,
}

/// How the peers of a home followed its last move.
#[derive(Clone, Copy, Debug)]
pub(super) struct Switch {
    pub(super) since: Time,
    pub(super) peers: usize,
    pub(super) acknowledged: usize,
    pub(super) last_ack: Option<Time>,
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

/// What the old site knows and the new site needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
    #[error("the mapping service does not answer about {0}: {1}")]
    Mapping(Home, String),
    /// Withdrawn because the deadline passed.
    #[error("{0} was prepared, but not activated in time")]
    Deadline(Home),
}

/// A prepared move that is not activated within this time is withdrawn.
const PREPARED_FOR: Duration = Duration::from_secs(30);
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
            hold_in: Hold::default(),
            hold_out: Hold::default(),
            updating: None,
            deadline: None,
            move_key: None,
            joiner: Joiner::default(),
            imports: Vec::new(),
            next_poll: now,
            switch: None,
        }
    }

    /// The locator in use, if this home is served here.
    pub(super) fn serving(&self) -> Option<Locator> {
        match self.role {
            Role::Serving { locator } => Some(locator),
            _ => None,
        }
    }

    /// Where packets of a departed instance still come from, as long as its link
    /// is there and nobody serves it elsewhere.
    pub(super) fn departing_from(&self) -> Option<Locator> {
        let locator = self.reserved.first().copied();
        locator.filter(|_| self.departed() && self.ready)
    }

    pub(super) fn departed(&self) -> bool {
        matches!(self.role, Role::Departed { .. })
    }

    /// Neither on its way in nor on its way out.
    pub(super) fn is_settled(&self) -> bool {
        !matches!(self.role, Role::Prepared | Role::Departed { .. })
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.known.as_ref().map_or(Epoch(0), Binding::epoch)
    }
}

impl Agent {
    /// Attaches an instance. The end comes as [`Output::Settled`].
    pub fn attach(&mut self, now: super::Now, request: Attach) -> Result<(), OpError> {
        self.now = now;
        let reserved = self.reserve(request.home)?;
        self.note(request.home, None, "attached");
        self.take_up(request, reserved);
        Ok(())
    }

    /// Reserves a locator for an instance that is about to come.
    pub fn prepare(
        &mut self,
        now: super::Now,
        home: Home,
        key: MoveKey,
        link: Option<Link>,
    ) -> Result<Prepared, OpError> {
        self.now = now;
        let reserved = self.reserve(home)?;
        let locator = *reserved.first().ok_or(OpError::NoLocator(home))?;
        let mut own = Own::new(Role::Prepared, reserved, now.time);
        own.link = link;
        own.move_key = Some(key);
        own.deadline = Some(now.time + PREPARED_FOR);
        self.install(home, own);
        self.note(home, None, format!("prepared at {locator}"));
        Ok(Prepared {
            locator,
            port: self.config.control_port,
        })
    }

    /// Takes over a prepared home: registers its binding and tells its peers.
    /// The end comes as [`Output::Settled`].
    pub fn activate(&mut self, now: super::Now, handover: Handover) -> Result<(), OpError> {
        self.now = now;
        let home = handover.home;
        let own = self.own.get_mut(&home).ok_or(OpError::NotAttached(home))?;
        if !matches!(own.role, Role::Prepared) || own.updating.is_some() {
            return Err(OpError::NotPrepared(home, own.role.as_str()));
        }
        own.imports = handover.contexts;
        own.known = handover.binding;
        self.register(home)
    }

    /// Lets go of a home. With `to`, everything that still arrives is relayed
    /// there until grace ends, and the answer holds what the new site needs;
    /// without, its binding is withdrawn, and the end comes as
    /// [`Output::Settled`].
    pub fn detach(
        &mut self,
        now: super::Now,
        home: Home,
        to: Option<RelayTo>,
    ) -> Result<Handover, OpError> {
        self.now = now;
        let own = self.own.get_mut(&home).ok_or(OpError::NotAttached(home))?;
        if own.departed() || (to.is_some() && own.serving().is_none()) {
            return Err(OpError::NotServing(home, own.role.as_str()));
        }
        if let (Some(_), Some(fault)) = (&to, &self.mapping.fault) {
            // The new site could not commit, and nobody would serve until it can.
            return Err(OpError::Mapping(home, fault.why.clone()));
        }
        let (serving, claim) = (own.serving().is_some(), own.claim);
        let binding = own.known.clone();
        let ids = self.table.of_own(home);
        let records = ids.iter().filter_map(|id| self.table.get(*id));
        let contexts = records.filter_map(ContextRecord::of).collect();
        match to {
            Some(to) => {
                let until = now.time + self.config.grace;
                if let Some(own) = self.own.get_mut(&home) {
                    own.role = Role::Departed {
                        to,
                        until,
                        next_id: 0,
                    };
                    own.ready = false;
                    own.updating = None;
                }
                self.at(until, Timer::Own(home));
                self.note(home, None, format!("handed to {}", to.locator));
            }
            None => {
                self.note(home, None, "detached");
                self.release(home);
                match binding.clone().filter(|_| serving && claim) {
                    Some(binding) => self.outputs.push_back(Output::Update {
                        home,
                        expect: Some(binding),
                        new: None,
                    }),
                    None => self.settle_gone(home, binding.as_ref()),
                }
            }
        }
        Ok(Handover {
            home,
            binding,
            contexts,
            mac: None,
        })
    }

    /// Packets can (or cannot) be given to the instance now.
    pub fn link_ready(&mut self, now: super::Now, home: Home, ready: bool) {
        self.now = now;
        let Some(own) = self.own.get_mut(&home) else {
            return;
        };
        if own.departed() {
            // A link that comes back is not its instance coming back.
            if !ready {
                self.silence(home);
            }
            return;
        }
        own.ready = ready;
        self.flush(home);
    }

    /// The instance that left no longer speaks from here.
    fn silence(&mut self, home: Home) {
        if let Some(own) = self.own.get_mut(&home) {
            own.ready = false;
        }
        for id in self.table.of_own(home) {
            self.drop_context(id, Cause::Departed);
        }
    }

    /// Homes at the interface `name`: with its link if an instance is here or
    /// about to come, without if it is leaving.
    pub fn links(&self, name: &str) -> Vec<(Home, Option<Link>)> {
        let plugged = |own: &Own| own.link.clone().filter(|link| link.interface == name);
        let here = self.own.iter();
        here.filter_map(|(home, own)| Some((*home, own.departed(), plugged(own)?)))
            .map(|(home, departed, link)| (home, Some(link).filter(|_| !departed)))
            .collect()
    }

    /// The addresses of the uplink are now these: what exclusive homes can use.
    pub fn handle_uplink(&mut self, now: super::Now, locators: Vec<Locator>) {
        self.now = now;
        self.uplink = locators;
        if !self.config.exclusive {
            return;
        }
        for home in self.own.keys().copied().collect::<Vec<_>>() {
            let usable = self.uplink_for(home);
            let Some(own) = self.own.get_mut(&home) else {
                continue;
            };
            let lost = own.serving().filter(|l| !usable.contains(l));
            own.reserved.clone_from(&usable);
            // Packets on their way to a lost address would find nobody anyway.
            self.own_locators.retain(|_, owner| *owner != home);
            self.own_locators.extend(usable.iter().map(|l| (*l, home)));
            if let (Some(lost), false) = (lost, usable.is_empty()) {
                self.note(home, None, format!("{lost} is gone from the uplink"));
                self.try_register(home);
            } else if own_waits(&self.own, home) {
                self.lookup(home);
            }
        }
    }

    /// What became of an update that was asked for.
    pub fn handle_update(&mut self, now: super::Now, home: Home, result: UpdateResult) {
        self.now = now;
        let Some(own) = self.own.get_mut(&home) else {
            return self.withdrawn(home, result);
        };
        let Some(updating) = own.updating.take() else {
            return;
        };
        let prepared = matches!(own.role, Role::Prepared);
        match result {
            UpdateResult::Committed => {
                let took = now.time.since(updating.since);
                own.known.clone_from(&updating.new);
                self.mapping.fault = None;
                self.serve_known(home, updating.epoch_before, took);
            }
            UpdateResult::Conflict => {
                if prepared {
                    self.settle(home, Err(OpError::Conflict(home)));
                    self.release(home);
                } else {
                    self.lookup(home);
                }
            }
            UpdateResult::Refused(why) => {
                self.note(home, None, format!("registration refused: {why}"));
                self.mapping.fault = Some(MapFault::new(&why, now));
                self.settle(home, Err(OpError::Refused(home, why)));
                if prepared {
                    self.release(home);
                }
            }
            UpdateResult::Unknown(why) => {
                // It may be committed: nobody serves until it has been read back.
                self.mapping.fault = Some(MapFault::new(&why, now));
                own.updating = Some(Updating {
                    lost: true,
                    ..updating
                });
                own.next_poll = now.time + READ_BACK;
                let next = own.next_poll;
                self.at(next, Timer::Own(home));
            }
        }
    }

    /// The mapping service's word about a home attached here.
    pub(super) fn own_answer(&mut self, home: Home, answer: &Answer) {
        let Some(own) = self.own.get_mut(&home) else {
            return;
        };
        if own.departed() {
            if let Answer::Found { binding, .. } = answer
                && binding.epoch() > own.epoch()
            {
                self.silence(home);
            }
            return;
        }
        if let Some(updating) = &own.updating {
            // Only an update whose answer was lost is read back; while one is
            // under way, answers may be older than it.
            let result = match answer {
                _ if !updating.lost => return,
                Answer::Failed(_) => return,
                Answer::Found { binding, .. } if Some(binding) == updating.new.as_ref() => {
                    UpdateResult::Committed
                }
                _ => UpdateResult::Conflict,
            };
            return self.handle_update(self.now, home, result);
        }
        if matches!(own.role, Role::Prepared) {
            return;
        }
        match answer {
            Answer::Found { binding, .. } if binding.epoch() >= own.epoch() => {
                let before = own.epoch();
                let news = own.known.as_ref() != Some(binding);
                own.known = Some(binding.clone());
                let here = binding
                    .active()
                    .filter(|e| own.reserved.contains(&e.locator));
                let registering = matches!(own.role, Role::Registering);
                match here {
                    Some(entry) if own.serving() == Some(entry.locator) => {}
                    Some(_) => self.serve_known(home, before, Duration::ZERO),
                    None if registering && own.claim => self.try_register(home),
                    None if news || registering => self.stop_serving(home),
                    None => {}
                }
            }
            // Deleted, or restored from an old backup: whoever serves says so again.
            Answer::Found { binding, .. } => {
                let behind = binding.clone();
                self.reregister(home, Some(behind));
            }
            Answer::NotFound { .. } => {
                if matches!(own.role, Role::Registering) && !own.claim {
                    self.stop_serving(home);
                } else {
                    self.reregister(home, None);
                }
            }
            Answer::Failed(why) => {
                if matches!(own.role, Role::Registering) {
                    let why = why.clone();
                    self.settle(home, Err(OpError::Mapping(home, why)));
                }
            }
        }
    }

    pub(super) fn own_due(&mut self, home: Home) {
        let time = self.now.time;
        let age = self.config.limits.hold_age;
        let poll = self.config.poll;
        let Some(own) = self.own.get_mut(&home) else {
            return;
        };
        let expired = own.hold_in.expire(time, age, &mut self.budget)
            + own.hold_out.expire(time, age, &mut self.budget);
        self.counters.add(Cause::HoldExpired, expired);
        if let Role::Departed { until, .. } = own.role {
            if until <= time {
                self.release(home);
            } else {
                // Somebody else may serve it by now: then it must not speak here.
                let speaking = own.ready;
                if speaking && own.next_poll <= time {
                    own.next_poll = time + poll;
                    self.lookup(home);
                }
                self.at((time + poll).min(until), Timer::Own(home));
            }
            return;
        }
        if matches!(own.role, Role::Prepared) && own.deadline.is_some_and(|d| d <= time) {
            self.note(home, None, "prepared, but not activated in time: withdrawn");
            self.settle(home, Err(OpError::Deadline(home)));
            return self.release(home);
        }
        if own.next_poll <= time {
            own.next_poll = time + poll;
            if !matches!(own.role, Role::Prepared) || own.updating.is_some() {
                self.lookup(home);
            }
        }
        if let Some(own) = self.own.get(&home) {
            let next = own.next_poll;
            self.at(next, Timer::Own(home));
        }
    }

    /// Sends a packet for a departed home after it; `hops` is how many sites
    /// have relayed it before.
    pub(super) fn relay_out(&mut self, home: Home, frame: Frame, hops: u8) {
        let Some(own) = self.own.get_mut(&home) else {
            return;
        };
        let epoch = own.epoch();
        let Role::Departed { to, next_id, .. } = &mut own.role else {
            return;
        };
        if hops >= relay::MAX_HOPS {
            return self.counters.count(Cause::RelayHops);
        }
        let (to, id) = (*to, *next_id);
        *next_id = next_id.wrapping_add(1);
        let Some(from) = own.reserved.first().copied() else {
            return;
        };
        let key = mat_proto::auth::Key::of_move(to.key);
        let address = (to.locator.ip(), to.port).into();
        for piece in relay::cut(home, epoch, hops + 1, id, &frame) {
            let octets = mat_proto::message::Message::Relay(piece).encode_signed(&key);
            self.transmit(from, address, &octets);
        }
    }

    /// A piece of a packet from the old site; the MAC is checked here, because
    /// only here the key is known.
    pub(super) fn relay_in(
        &mut self,
        received: &mat_proto::message::Received<'_>,
        piece: &Relay,
    ) -> Result<(), Cause> {
        let own = self.own.get_mut(&piece.home).ok_or(Cause::NotAttached)?;
        let key = own.move_key.ok_or(Cause::ControlUnexpected)?;
        if !received.verify(&mat_proto::auth::Key::of_move(key)) {
            return Err(Cause::ControlMac);
        }
        let departed = own.departed();
        if departed && piece.epoch >= own.epoch() {
            return Err(Cause::RelayHops);
        }
        let Some(mut frame) = own.joiner.add(piece) else {
            return Ok(());
        };
        if departed {
            self.relay_out(piece.home, frame, piece.hops);
            return Ok(());
        }
        let local = own.reserved.first().ok_or(Cause::RelayBroken)?.ip();
        // From here on it is a packet that came to our own locator.
        let headers = Packet::parse(&frame.packet).map_err(Cause::Malformed)?;
        let map = Translation {
            new_dst: Some(local),
            ..Translation::default()
        };
        let csum = frame.offload.checksum_state(&headers);
        rewrite(&mut frame.packet, &headers, &map, csum).map_err(Cause::Refused)?;
        self.replay(frame);
        Ok(())
    }

    /// Takes up a home of an earlier life, with the locators it had then.
    pub(super) fn resume(&mut self, request: Attach, reserved: Vec<Locator>) {
        let home = request.home;
        self.note(home, None, "taken up again after a restart");
        self.take_up(request, reserved);
        let elsewhere = |own: &Own| own.serving().is_none() && own.known.is_some();
        if self.own.get(&home).is_some_and(elsewhere) {
            // Its binding was another place's already: not to be claimed back.
            self.stop_serving(home);
        }
    }

    fn take_up(&mut self, request: Attach, reserved: Vec<Locator>) {
        let home = request.home;
        let mut own = Own::new(Role::Registering, reserved, self.now.time);
        own.claim = request.claim;
        own.link = request.link;
        own.ready = request.ready;
        own.imports = request.contexts;
        own.known = request.binding;
        let epoch = own.epoch();
        let active = own.known.as_ref().and_then(|b| b.active());
        let ours = active.is_some_and(|e| own.reserved.contains(&e.locator));
        self.install(home, own);
        if ours {
            self.serve_known(home, epoch, Duration::ZERO);
        }
        self.lookup(home);
    }

    fn install(&mut self, home: Home, own: Own) {
        for locator in &own.reserved {
            self.own_locators.insert(*locator, home);
            self.quarantine.remove(locator);
            if !self.config.exclusive {
                self.outputs.push_back(Output::AddLocator(*locator));
            }
        }
        for id in self.table.of_own(home) {
            self.drop_context(id, Cause::Departed);
        }
        if let Some(mut old) = self.own.insert(home, own) {
            let dropped =
                old.hold_in.clear(&mut self.budget) + old.hold_out.clear(&mut self.budget);
            self.counters.add(Cause::Departed, dropped);
        }
        self.at(self.now.time, Timer::Own(home));
    }

    /// A locator for `home`: the one it had here before, or a free one.
    fn reserve(&self, home: Home) -> Result<Vec<Locator>, OpError> {
        if !self.in_homes(home.ip()) {
            return Err(OpError::NotAHome(home));
        }
        if let Some(own) = self.own.get(&home) {
            if own.departed() {
                return Ok(own.reserved.clone());
            }
            return Err(OpError::Attached(home, own.role.as_str()));
        }
        if self.config.exclusive {
            let other = self.own.keys().find(|h| h.family() == home.family());
            return match other {
                // One home each: the host's address cannot be shared.
                Some(_) => Err(OpError::NoLocator(home)),
                None => Ok(self.uplink_for(home)),
            };
        }
        let free = |locator: &Locator| {
            !self.own_locators.contains_key(locator)
                && self.quarantine.get(locator).is_none_or(|(h, _)| *h == home)
        };
        // Its old locator first: peers that missed a move still know it.
        let before = self
            .quarantine
            .iter()
            .find(|(_, (h, _))| *h == home)
            .map(|(l, _)| *l);
        let locator = before.filter(free).or_else(|| {
            let pools = self.config.pool.iter().filter(|p| same_family(p, home));
            pools.flat_map(addresses).find(free)
        });
        locator.map(|l| vec![l]).ok_or(OpError::NoLocator(home))
    }

    fn uplink_for(&self, home: Home) -> Vec<Locator> {
        let usable = self.uplink.iter().copied();
        usable
            .filter(|l| l.family() == home.family() && self.in_locators(l.ip()))
            .collect()
    }

    /// Forgets a home; its locators stay out of use for a while.
    fn release(&mut self, home: Home) {
        for id in self.table.of_own(home) {
            self.drop_context(id, Cause::NotAttached);
        }
        let Some(mut own) = self.own.remove(&home) else {
            return;
        };
        let dropped = own.hold_in.clear(&mut self.budget) + own.hold_out.clear(&mut self.budget);
        self.counters.add(Cause::NotAttached, dropped);
        self.released.insert(home, (own.epoch(), self.now.time));
        self.outputs.push_back(Output::Disconnect(home, own.link));
        let lease = Duration::from_secs(self.config.lease_seconds.into());
        for locator in own.reserved {
            self.own_locators.remove(&locator);
            if !self.config.exclusive {
                let until = self.now.time + lease + self.config.limits.quarantine;
                self.quarantine.insert(locator, (home, until));
                self.outputs.push_back(Output::RemoveLocator(locator));
            }
        }
    }

    /// Asks for the binding to name our locator from now on.
    fn register(&mut self, home: Home) -> Result<(), OpError> {
        let expect = self.own.get(&home).and_then(|own| own.known.clone());
        let epoch = expect.as_ref().map_or(Epoch(0), Binding::epoch);
        self.swap(home, expect, epoch)
    }

    fn try_register(&mut self, home: Home) {
        if let Err(error) = self.register(home) {
            self.settle(home, Err(error));
        }
    }

    /// The mapping service has forgotten what it once knew: says it again.
    fn reregister(&mut self, home: Home, there: Option<Binding>) {
        let Some(own) = self.own.get(&home) else {
            return;
        };
        let wants = matches!(own.role, Role::Serving { .. } | Role::Registering);
        if !own.claim || !wants {
            return;
        }
        let epoch = own
            .epoch()
            .max(there.as_ref().map_or(Epoch(0), Binding::epoch));
        if let Err(error) = self.swap(home, there, epoch) {
            self.settle(home, Err(error));
        }
    }

    fn swap(&mut self, home: Home, expect: Option<Binding>, epoch: Epoch) -> Result<(), OpError> {
        let unix = self.now.unix_seconds();
        let last = self
            .released
            .get(&home)
            .map_or(Epoch(0), |(epoch, _)| *epoch);
        let epoch = epoch.max(last);
        let own = self.own.get_mut(&home).ok_or(OpError::NotAttached(home))?;
        if own.updating.is_some() {
            return Ok(());
        }
        let locator = own.serving().filter(|l| own.reserved.contains(l));
        let locator = locator.or(own.reserved.first().copied());
        let locator = locator.ok_or(OpError::NoLocator(home))?;
        let lease = self.config.lease_seconds;
        let port = self.config.control_port;
        let new = Binding::single(home, epoch.next(unix), lease, locator, port)
            .map_err(|e| OpError::Refused(home, e.to_string()))?;
        own.updating = Some(Updating {
            new: Some(new.clone()),
            epoch_before: epoch,
            since: self.now.time,
            lost: false,
        });
        self.outputs.push_back(Output::Update {
            home,
            expect,
            new: Some(new),
        });
        Ok(())
    }

    /// The binding known names a locator of ours: serve it there.
    fn serve_known(&mut self, home: Home, epoch_before: Epoch, took: Duration) {
        let time = self.now.time;
        let Some(own) = self.own.get_mut(&home) else {
            return;
        };
        let Some(binding) = own.known.clone() else {
            return;
        };
        let active = binding.active().map(|e| e.locator);
        let Some(locator) = active.filter(|l| own.reserved.contains(l)) else {
            return self.stop_serving(home);
        };
        let before = own.serving();
        own.role = Role::Serving { locator };
        own.deadline = None;
        let imports = std::mem::take(&mut own.imports);
        if !self.config.exclusive {
            self.outputs.push_back(Output::Announce(locator));
        }
        for record in imports {
            self.import(&record, time);
        }
        let grace = time + self.config.grace;
        let contexts = self.table.of_own(home);
        for id in &contexts {
            if let Some(context) = self.table.get_mut(*id) {
                if let Some(old) = context.local.filter(|l| *l != locator) {
                    context.local_previous = Some((old, grace));
                }
                context.local = Some(locator);
            }
            self.reindexed(*id);
        }
        self.note(
            home,
            None,
            format!("serving at {locator}, epoch {}", binding.epoch()),
        );
        let peers = if before != Some(locator) || epoch_before != binding.epoch() {
            self.announce(home)
        } else {
            0
        };
        self.settle(
            home,
            Ok(Activated {
                locator: Some(locator),
                epoch_before,
                epoch_after: binding.epoch(),
                map_update_us: took.as_micros() as u64,
                peers,
            }),
        );
        self.flush(home);
    }

    /// The binding names another place: that place serves. Peers are told on
    /// its behalf, since it does not know them.
    fn stop_serving(&mut self, home: Home) {
        let Some(own) = self.own.get_mut(&home) else {
            return;
        };
        let served = own.serving().is_some();
        own.role = Role::Idle;
        let epoch = own.epoch();
        let place = own
            .known
            .as_ref()
            .and_then(|b| b.active())
            .map(|e| e.locator);
        let text = match place {
            Some(place) => format!("not serving: epoch {epoch} names {place}"),
            None => format!("not serving: epoch {epoch} names no active locator"),
        };
        let dropped = own.hold_in.clear(&mut self.budget) + own.hold_out.clear(&mut self.budget);
        self.counters.add(Cause::NotServing, dropped);
        self.note(home, None, text);
        if served {
            self.announce(home);
        }
        self.settle(
            home,
            Ok(Activated {
                locator: None,
                epoch_before: epoch,
                epoch_after: epoch,
                map_update_us: 0,
                peers: 0,
            }),
        );
    }

    /// Lets go what waited for this home to be served.
    fn flush(&mut self, home: Home) {
        let Some(own) = self.own.get_mut(&home) else {
            return;
        };
        if own.serving().is_none() {
            return;
        }
        let mut frames = Vec::new();
        if own.ready {
            while let Some(frame) = own.hold_in.pop(&mut self.budget) {
                frames.push(frame);
            }
        }
        while let Some(frame) = own.hold_out.pop(&mut self.budget) {
            frames.push(frame);
        }
        for frame in frames {
            self.replay(frame);
        }
    }

    fn settle(&mut self, home: Home, result: Result<Activated, OpError>) {
        self.outputs.push_back(Output::Settled(home, result));
    }

    fn settle_gone(&mut self, home: Home, binding: Option<&Binding>) {
        let epoch = binding.map_or(Epoch(0), Binding::epoch);
        self.settle(
            home,
            Ok(Activated {
                locator: None,
                epoch_before: epoch,
                epoch_after: epoch,
                map_update_us: 0,
                peers: 0,
            }),
        );
    }

    fn withdrawn(&mut self, home: Home, result: UpdateResult) {
        match result {
            // Conflict: somebody else has it now, so it is theirs to withdraw.
            UpdateResult::Committed | UpdateResult::Conflict => self.settle_gone(home, None),
            UpdateResult::Refused(why) => self.settle(home, Err(OpError::Refused(home, why))),
            UpdateResult::Unknown(why) => self.settle(home, Err(OpError::Mapping(home, why))),
        }
    }
}

fn own_waits(own: &std::collections::BTreeMap<Home, Own>, home: Home) -> bool {
    own.get(&home)
        .is_some_and(|own| matches!(own.role, Role::Registering | Role::Idle))
}

fn same_family(prefix: &IpNet, home: Home) -> bool {
    mat_proto::Family::of(prefix.addr()) == home.family()
}

/// The usable addresses of a pool, lowest first.
fn addresses(prefix: &IpNet) -> impl Iterator<Item = Locator> {
    prefix.hosts().filter_map(|ip| Locator::new(ip).ok())
}

//! The control messages of contexts: first contact, moves, probes.
//!
//! Home, locator and epoch are public, so an OPEN proves nothing: its sender is
//! looked up, and the answer goes to the registered locator only. A context is
//! replaced only once CONFIRM has shown that our token arrived there. Everything
//! after that is authenticated by the key made from both tokens, and matched by
//! it rather than by addresses.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mat_proto::auth::Token;
use mat_proto::message::{DecodeError, Message, ModeCount, Pair, Reason, Received, VERSION};
use mat_proto::{Binding, Epoch, Family, Home, Locator, Modes};
use subtle::ConstantTimeEq;

use super::Agent;
use super::own::{Role, Switch};
use super::peers::PREVIOUS;
use super::snapshot::ContextRecord;
use crate::clock::Time;
use crate::counters::Cause;
use crate::table::{Announcing, ContextId, Keys, Offered, Opening};

/// An OPEN whose sender is being looked up.
#[derive(Debug)]
pub(super) struct PendingOpen {
    from: Locator,
    epoch: Epoch,
    token: Token,
    to: Locator,
    resume: bool,
    cookie: Token,
    attempts: u32,
}

/// First retransmission; doubled each time.
const RETRANSMIT: Duration = Duration::from_millis(50);
/// Tries of OPEN and ACCEPT: about three seconds in all.
const ATTEMPTS: u32 = 6;
/// After so many OPENs without an answer, 150 ms, each further one is accompanied by a
/// look-up: nobody tells us of a move of a peer that we have no context with, and its old
/// site is silent once grace is over, while what is cached lives as long as a lease.
const UNANSWERED: u32 = 2;
/// Tries of MOVED: a peer that is away for longer asks the mapping service.
const ANNOUNCE_ATTEMPTS: u32 = 8;
/// UNKNOWN, which anybody can forge, makes us OPEN again no more often.
const REOPEN_INTERVAL: Duration = Duration::from_millis(200);
/// When MOVED has been sent so often, UNKNOWN means that it is not understood.
const REOPEN_AFTER: u32 = 3;
/// In a message that has none.
const NO_COOKIE: Token = Token([0; 16]);
/// A cookie is good for this time, and for once more.
const COOKIE_LIFE: Duration = Duration::from_secs(60);
/// OPENs of unknown senders that are looked up without a cookie, each second, and at
/// once after a pause; none while there are more.
pub(super) const OPENS_PER_SECOND: u64 = 200;
/// A look-up that brings an older epoch than an OPEN claims is repeated.
const OPEN_LOOKUPS: u32 = 3;

impl Agent {
    /// A control message, from wherever it came.
    pub(super) fn control(
        &mut self,
        from: SocketAddr,
        to: IpAddr,
        payload: &[u8],
    ) -> Result<(), Cause> {
        let received = Message::decode(payload).map_err(|error| match error {
            DecodeError::Magic => Cause::ControlMagic,
            DecodeError::Version(_) => Cause::ControlVersion,
            _ => Cause::ControlMalformed,
        })?;
        match &received.message {
            Message::Open {
                pair,
                versions,
                resume,
                from_epoch,
                token,
                cookie,
                ..
            } => {
                let from = Locator::new(from.ip()).map_err(|_| Cause::ControlMalformed)?;
                let to = Locator::new(to).map_err(|_| Cause::ControlMalformed)?;
                let open = PendingOpen {
                    from,
                    epoch: *from_epoch,
                    token: *token,
                    to,
                    resume: *resume,
                    cookie: *cookie,
                    attempts: 0,
                };
                self.opened(*pair, *versions, open)
            }
            Message::Accept { version, .. } if *version != VERSION => Err(Cause::ControlVersion),
            Message::Accept {
                pair,
                resume,
                token,
                echo,
                ..
            } => self.accepted(*pair, from, *resume, *token, *echo),
            Message::Confirm { pair } => {
                let result = self.confirmed(*pair, &received);
                self.other_keys(from.ip(), to, result)
            }
            Message::Reject {
                pair,
                reason,
                retry_after_ms,
                echo,
                cookie,
            } => self.rejected(*pair, *reason, *retry_after_ms, *echo, *cookie),
            Message::Moved {
                pair,
                sequence,
                binding,
            } => {
                let result = self.moved(*pair, from, *sequence, binding, &received);
                self.other_keys(from.ip(), to, result)
            }
            Message::Ack { pair, sequence } => self.acknowledged(*pair, *sequence, &received),
            Message::Probe { pair, sequence } => {
                let result = self.probed(*pair, from, *sequence, &received);
                self.other_keys(from.ip(), to, result)
            }
            Message::Reply {
                pair,
                sequence,
                from_epoch,
                ..
            } => self.replied(*pair, *sequence, *from_epoch, &received),
            Message::Unknown => self.unknown(from.ip(), to),
            Message::Relay(piece) => self.relay_in(&received, from, piece),
            Message::Flushed(report) => self.flushed(&received, report),
            Message::End { pair, epoch } => self.ended(*pair, *epoch, &received),
        }
    }

    /// Sends an OPEN, unless one is under way.
    pub(super) fn open(&mut self, id: ContextId) {
        let under_way = self.table.get(id).is_none_or(|c| c.opening.is_some());
        if under_way {
            return;
        }
        let token = self.token();
        let Some(context) = self.table.get_mut(id) else {
            return;
        };
        // Simultaneous OPENs merge: one token per side, whoever was first.
        let token = context.offered.as_ref().map_or(token, |o| o.keys.mine);
        context.opening = Some(Opening {
            token,
            cookie: NO_COOKIE,
            attempts: 0,
            next: self.now.time,
        });
        self.exchange_due(id);
    }

    /// Asks the peer whether it is there.
    pub(super) fn probe(&mut self, id: ContextId) {
        let time = self.now.time;
        let sequence = self.nonce();
        let Some(context) = self.table.get_mut(id) else {
            return;
        };
        if context.probing.is_some() {
            return;
        }
        context.probing = Some((sequence, time));
        let message = Message::Probe {
            pair: outgoing(context.own, context.peer),
            sequence,
        };
        self.send(id, &message);
    }

    /// Tells every peer of `home` where it is now; gives back how many.
    pub(super) fn announce(&mut self, home: Home) -> usize {
        let time = self.now.time;
        let mut peers = 0;
        for id in self.table.of_own(home) {
            peers += usize::from(self.announce_to(id));
        }
        if let Some(own) = self.own.get_mut(&home) {
            own.switch = Some(Switch {
                since: time,
                peers,
                acknowledged: 0,
                last_ack: None,
            });
        }
        peers
    }

    /// Tells the peer of a context where the home is; false if nothing is shared with it yet.
    fn announce_to(&mut self, id: ContextId) -> bool {
        let time = self.now.time;
        let own = self.table.get(id).and_then(|c| self.own.get(&c.own));
        let Some(binding) = own.and_then(|own| own.known.clone()) else {
            return false;
        };
        let context = self.table.get_mut(id);
        let Some(context) = context.filter(|c| c.keys.is_some()) else {
            return false;
        };
        context.sequence_out += 1;
        context.announcing = Some(Announcing {
            sequence: context.sequence_out,
            binding,
            attempts: 0,
            next: time,
        });
        self.exchange_due(id);
        true
    }

    /// Takes over a context of another forwarder, or of an earlier life; where the peer is,
    /// only if that was so a moment ago (`fresh`). If it has moved since, it has done so before
    /// our eyes.
    pub(super) fn import(&mut self, record: &ContextRecord, fresh: bool) {
        let time = self.now.time;
        let (own, peer) = (record.own, record.peer);
        if own == peer || own.family() != peer.family() || record.binding.home() != peer {
            return self.counters.count(Cause::ControlUnexpected);
        }
        let Some(id) = self.context(own, peer) else {
            return self.counters.count(Cause::ContextsFull);
        };
        let cached = self.cached(peer).map(|(binding, _)| binding);
        let newer = self.binding_here(peer).or(cached);
        let newer = newer.filter(|binding| binding.epoch() > record.binding.epoch());
        let newer = newer.cloned();
        let binding = fresh.then(|| record.binding.clone());
        let binding = binding.filter(|binding| !self.is_outdated(binding));
        // What was heard of it meanwhile, while nobody here spoke with it, may be old, too.
        if !fresh || newer.is_none() && binding.is_none() {
            self.lookup(peer);
        }
        let keys = Keys::new(record.mine, record.theirs);
        if let Some(context) = self.table.get_mut(id) {
            if record.offered.is_none() {
                context.keys = Some(keys.clone());
            }
            context.sequence_in = record.sequence_in;
            // Whoever had it may have sent more than it wrote down.
            context.sequence_out = record.sequence_out + ContextRecord::SEQUENCE_GAP;
            context.lease_until = time + record.binding.lease();
            context.binding = binding;
            let grace = time + self.config.grace;
            let previous = record.previous.iter().take(PREVIOUS).filter(|_| fresh);
            context.previous = previous.map(|locator| (*locator, grace)).collect();
            if let (Some(locator), None) = (context.remote(), record.offered) {
                Agent::proven(context, locator);
                context.heard = Some(time);
            }
        }
        self.reindexed(id);
        self.context_at(id, time + RETRANSMIT);
        if let Some(newer) = newer {
            self.rebind(id, newer);
        }
        // It holds although the peer has moved: what it proves is the place that it went to.
        if let (Some(resume), Some(went_to)) = (record.offered, record.binding.active())
            && let Some(context) = self.table.get_mut(id)
        {
            context.offered = Some(Offered {
                keys,
                resume,
                elsewhere: Some(went_to.locator),
                attempts: 0,
                next: time + RETRANSMIT,
            });
        }
    }

    /// Sends what is due again, and gives up what was tried often enough.
    pub(super) fn exchange_due(&mut self, id: ContextId) {
        let time = self.now.time;
        let own_epoch = self
            .table
            .get(id)
            .and_then(|c| self.own.get(&c.own))
            .map_or(Epoch(0), |own| own.epoch());
        let Some(context) = self.table.get_mut(id) else {
            return;
        };
        let pair = outgoing(context.own, context.peer);
        let mut messages = Vec::new();
        let mut next: Option<Time> = None;
        let mut doubtful = false;
        let mut gave_up = false;
        let mut wake = |at: Time| next = Some(next.map_or(at, |n| n.min(at)));
        if let Some(opening) = &mut context.opening {
            if opening.next > time {
                wake(opening.next);
            } else if opening.attempts >= ATTEMPTS {
                gave_up = true;
            } else {
                doubtful = opening.attempts >= UNANSWERED;
                opening.next = time + RETRANSMIT * (1 << opening.attempts);
                opening.attempts += 1;
                wake(opening.next);
                messages.push(Message::Open {
                    pair,
                    versions: (VERSION, VERSION),
                    modes: Modes::NATIVE,
                    resume: context.keys.is_some() && context.confirmed_here,
                    from_epoch: own_epoch,
                    to_epoch: context.binding.as_ref().map_or(Epoch(0), Binding::epoch),
                    token: opening.token,
                    cookie: opening.cookie,
                });
            }
        }
        if let Some(offered) = &mut context.offered {
            if offered.next > time {
                wake(offered.next);
            } else if offered.attempts >= ATTEMPTS {
                context.offered = None;
            } else {
                offered.next = time + RETRANSMIT * (1 << offered.attempts);
                offered.attempts += 1;
                wake(offered.next);
                messages.push(Message::Accept {
                    pair,
                    version: VERSION,
                    modes: Modes::NATIVE,
                    resume: context.keys.is_some() && context.confirmed_here,
                    from_epoch: own_epoch,
                    token: offered.keys.mine,
                    echo: offered.keys.theirs,
                });
            }
        }
        if let Some(announcing) = &mut context.announcing {
            if announcing.next > time {
                wake(announcing.next);
            } else if announcing.attempts >= ANNOUNCE_ATTEMPTS {
                context.announcing = None;
            } else {
                announcing.next = time + RETRANSMIT * (1 << announcing.attempts);
                announcing.attempts += 1;
                wake(announcing.next);
                messages.push(Message::Moved {
                    pair,
                    sequence: announcing.sequence,
                    binding: announcing.binding.clone(),
                });
            }
        }
        for message in messages {
            self.send(id, &message);
        }
        if let Some(next) = next {
            self.context_at(id, next);
        }
        if doubtful {
            self.lookup(pair.to);
        }
        if gave_up {
            self.silent(id);
        }
    }

    /// The peer did not answer any OPEN.
    fn silent(&mut self, id: ContextId) {
        let Some(context) = self.table.get_mut(id) else {
            return;
        };
        context.opening = None;
        let (peer, open) = (context.peer, context.keys.is_some());
        self.note_pair(id, "the peer's forwarder does not answer");
        self.forget_cached(peer);
        if !open {
            self.drop_context(id, Cause::PeerSilent);
        }
    }

    /// Sends a message to the peer of a context, from our locator to its.
    pub(super) fn send(&mut self, id: ContextId, message: &Message) {
        let context = self.table.get(id);
        if let Some((remote, port)) = context.and_then(|c| Some((c.remote()?, c.remote_port()?))) {
            self.send_to(id, remote, port, message);
        }
    }

    /// The same, to another locator of the peer's.
    pub(super) fn send_to(&mut self, id: ContextId, remote: Locator, port: u16, message: &Message) {
        let Some(context) = self.table.get(id) else {
            return;
        };
        let Some(local) = context.local else {
            return;
        };
        let octets = match (&context.keys, message.needs_mac()) {
            (_, false) => message.encode(),
            (Some(keys), true) => message.encode_signed(&keys.key),
            (None, true) => return,
        };
        self.steer_pair(remote, local);
        self.transmit(local, SocketAddr::new(remote.ip(), port), &octets);
    }

    /// Answers a message of a context to where it came from: the MAC matched,
    /// the address may be that of a site we do not know yet.
    pub(super) fn answer(&mut self, id: ContextId, to: SocketAddr, message: &Message) {
        let context = self.table.get(id);
        let parts = context.and_then(|c| Some((c.local?, c.keys.as_ref()?)));
        if let Some((local, keys)) = parts {
            let octets = message.encode_signed(&keys.key);
            if Family::of(to.ip()) == local.family() {
                self.transmit(local, to, &octets);
            }
        }
    }

    fn opened(&mut self, pair: Pair, versions: (u8, u8), open: PendingOpen) -> Result<(), Cause> {
        if !self.in_homes(pair.from.ip()) || !self.in_locators(open.from.ip()) {
            return Err(Cause::ControlUnexpected);
        }
        if !(versions.0..=versions.1).contains(&VERSION) {
            self.reject(pair, &open, Reason::Version, 0, NO_COOKIE);
            return Err(Cause::ControlVersion);
        }
        let own = self.own.get(&pair.to);
        match own.map(|own| &own.role) {
            Some(Role::Serving { .. }) => {}
            // It will be served in a moment; the sender tries again.
            Some(Role::Prepared(_) | Role::Registering) => return Ok(()),
            _ => {
                if own.is_none() && self.misdirected.len() < 256 {
                    let seen = (open.to, self.now.time);
                    self.misdirected.insert(pair.to, seen);
                }
                self.reject(pair, &open, Reason::NotServing, 200, NO_COOKIE);
                return Err(Cause::NotAttached);
            }
        }
        if own.is_some_and(|own| !own.reserved.contains(&open.to)) {
            self.reject(pair, &open, Reason::NotServing, 200, NO_COOKIE);
            return Err(Cause::WrongHome);
        }
        let cached = self.cached(pair.from).map(|(binding, _)| binding);
        if let Some(binding) = cached.filter(|b| confirms(b, &open)).cloned() {
            self.offer(pair, open, &binding);
            return Ok(());
        }
        let key = (pair.from, pair.to);
        if !self.opens.contains_key(&key) {
            // From here on it costs a question and memory: not for everybody.
            if !self.hears_us(pair, &open) && !self.open_rate.take(self.now.time) {
                self.ask_for_cookie(pair, &open);
                return Err(Cause::OpenWithoutCookie);
            }
            if self.opens.len() >= self.config.limits.opens {
                self.reject(pair, &open, Reason::Retry, 500, NO_COOKIE);
                return Err(Cause::OpensFull);
            }
        }
        let other = |waits: &PendingOpen| waits.token != open.token;
        if self.opens.get(&key).is_some_and(other) && !self.hears_us(pair, &open) {
            self.ask_for_cookie(pair, &open);
            return Err(Cause::OpenWithoutCookie);
        }
        self.opens.insert(key, open);
        self.lookup(pair.from);
        Ok(())
    }

    /// The mapping service has spoken about `home`: decides the OPENs in its
    /// name.
    pub(super) fn verify_opens(&mut self, home: Home, binding: Option<&Binding>) {
        let waiting: Vec<(Home, Home)> = self
            .opens
            .keys()
            .filter(|(from, _)| *from == home)
            .copied()
            .collect();
        for key in waiting {
            let Some(mut open) = self.opens.remove(&key) else {
                continue;
            };
            let pair = Pair {
                from: key.0,
                to: key.1,
            };
            match binding {
                Some(binding) if confirms(binding, &open) => {
                    let binding = binding.clone();
                    self.offer(pair, open, &binding);
                }
                Some(binding) if binding.epoch() < open.epoch && open.attempts < OPEN_LOOKUPS => {
                    // Registered a moment ago, perhaps; the service may lag.
                    open.attempts += 1;
                    self.opens.insert(key, open);
                    self.lookup(home);
                }
                _ => {
                    self.counters.count(Cause::OpenNotVerified);
                    self.reject(pair, &open, Reason::NotVerified, 200, NO_COOKIE);
                }
            }
        }
    }

    /// Answers an OPEN whose sender is confirmed.
    fn offer(&mut self, pair: Pair, open: PendingOpen, binding: &Binding) {
        let time = self.now.time;
        let token = self.token();
        let Some(id) = self.context(pair.to, pair.from) else {
            return self.counters.count(Cause::ContextsFull);
        };
        // Somebody may be about to confirm that: not to be spoilt by anybody.
        let offered = self.table.get(id).and_then(|c| c.offered.as_ref());
        let other = offered.is_some_and(|o| o.keys.theirs != open.token);
        if other && !self.hears_us(pair, &open) {
            return self.ask_for_cookie(pair, &open);
        }
        let Some(context) = self.table.get_mut(id) else {
            return;
        };
        let live = context.keys.as_ref().filter(|k| k.theirs == open.token);
        let offered = context.offered.as_ref().map(|offered| &offered.keys);
        let offered = offered.filter(|k| k.theirs == open.token);
        let keys = match (live.or(offered), &context.opening) {
            // The ACCEPT was lost: the same again.
            (Some(same), _) => same.clone(),
            (_, Some(opening)) => Keys::new(opening.token, open.token),
            _ => Keys::new(token, open.token),
        };
        let first = live.or(offered).is_none();
        context.offered = Some(Offered {
            keys,
            resume: open.resume,
            elsewhere: None,
            attempts: 0,
            next: time,
        });
        self.verified(id, binding, time + binding.lease());
        if first && !open.resume {
            // The peer sends nothing before it has our ACCEPT: what came before it is another's.
            self.discard_strangers(id);
        }
        self.exchange_due(id);
    }

    fn ask_for_cookie(&mut self, pair: Pair, open: &PendingOpen) {
        let cookie = self.cookie(pair, open, self.now.time);
        self.reject(pair, open, Reason::Retry, 0, cookie);
    }

    /// What the sender of an OPEN must have received at its address, to send it back.
    /// It is made anew each [`COOKIE_LIFE`]; nothing of it is remembered.
    fn cookie(&self, pair: Pair, open: &PendingOpen, time: Time) -> Token {
        let period = time.0 / COOKIE_LIFE.as_micros() as u64;
        let places = [pair.from.ip(), pair.to.ip(), open.from.ip(), open.to.ip()];
        let mut text = [0; 4 * 16 + 8];
        let (addresses, since) = text.split_at_mut(4 * 16);
        for (octets, place) in addresses.chunks_exact_mut(16).zip(places) {
            // In the form that no address of family 6 has.
            let place = match place {
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => v6,
            };
            octets.copy_from_slice(&place.octets());
        }
        since.copy_from_slice(&period.to_be_bytes());
        Token(self.cookie_key.mac(&text))
    }

    /// Whether the sender of an OPEN has sent our cookie back: it gets what we send to where it
    /// says that it is.
    fn hears_us(&self, pair: Pair, open: &PendingOpen) -> bool {
        if open.cookie == NO_COOKIE {
            return false;
        }
        let now = self.now.time;
        let before = Time(now.0.saturating_sub(COOKIE_LIFE.as_micros() as u64));
        [now, before].iter().any(|time| {
            self.cookie(pair, open, *time)
                .0
                .ct_eq(&open.cookie.0)
                .into()
        })
    }

    fn reject(
        &mut self,
        pair: Pair,
        open: &PendingOpen,
        reason: Reason,
        retry_after_ms: u16,
        cookie: Token,
    ) {
        let message = Message::Reject {
            pair: Pair {
                from: pair.to,
                to: pair.from,
            },
            reason,
            retry_after_ms,
            echo: open.token,
            cookie,
        };
        let to = SocketAddr::new(open.from.ip(), self.config.control_port);
        self.transmit(open.to, to, &message.encode());
    }

    fn accepted(
        &mut self,
        pair: Pair,
        from: SocketAddr,
        resume: bool,
        token: Token,
        echo: Token,
    ) -> Result<(), Cause> {
        let id = self.context_of(pair)?;
        let context = self.table.get_mut(id).ok_or(Cause::ControlUnexpected)?;
        let registered = context.remote();
        if registered.map(Locator::ip) != Some(from.ip()) {
            return Err(Cause::ControlUnexpected);
        }
        match (&context.opening, &context.keys) {
            (Some(opening), _) if opening.token == echo => {
                context.keys = Some(Keys::new(echo, token));
                context.opening = None;
                if !resume {
                    self.discard_strangers(id);
                }
                self.established(id, registered);
            }
            // Our CONFIRM was lost.
            (_, Some(keys)) if keys.mine == echo && keys.theirs == token => {}
            _ => return Err(Cause::ControlUnexpected),
        }
        let confirm = Message::Confirm {
            pair: outgoing(pair.to, pair.from),
        };
        self.send(id, &confirm);
        self.flow(id);
        Ok(())
    }

    fn confirmed(&mut self, pair: Pair, received: &Received<'_>) -> Result<(), Cause> {
        let id = self.context_of(pair)?;
        let context = self.table.get_mut(id).ok_or(Cause::ControlUnexpected)?;
        if let Some(offered) = context.offered.take_if(|o| received.verify(&o.keys.key)) {
            let same = |o: &Opening| o.token == offered.keys.mine;
            context.opening.take_if(|o| same(o));
            let known = context.keys.as_ref();
            let known = known
                .is_some_and(|k| k.mine == offered.keys.mine && k.theirs == offered.keys.theirs);
            if !known {
                // A late OPEN ends here a second time: sequence numbers go on.
                context.keys = Some(offered.keys);
                let elsewhere = offered.elsewhere.is_some();
                let there = offered.elsewhere.or(context.remote());
                if elsewhere && !offered.resume {
                    // It does not send here before it is told to.
                    self.discard_strangers(id);
                }
                self.established(id, there);
                if elsewhere {
                    self.announce_to(id);
                }
            }
            self.flow(id);
            return Ok(());
        }
        match &context.keys {
            Some(keys) if received.verify(&keys.key) => Ok(()),
            _ => Err(Cause::ControlMac),
        }
    }

    /// Both sides have both tokens: the peer has got ours at `there`. What strangers have sent
    /// is this context's.
    fn established(&mut self, id: ContextId, there: Option<Locator>) {
        let time = self.now.time;
        if let Some(context) = self.table.get_mut(id) {
            context.sequence_in = 0;
            context.sequence_out = 0;
            context.announcing = None;
            context.heard = Some(time);
            if let Some(locator) = there {
                Agent::proven(context, locator);
            }
        }
        self.note_pair(id, "context open");
        self.reindexed(id);
        self.prove(id);
        self.context_at(id, time + Duration::from_secs(1));
    }

    fn rejected(
        &mut self,
        pair: Pair,
        reason: Reason,
        retry_after_ms: u16,
        echo: Token,
        cookie: Token,
    ) -> Result<(), Cause> {
        let time = self.now.time;
        let id = self.context_of(pair)?;
        let context = self.table.get_mut(id).ok_or(Cause::ControlUnexpected)?;
        let peer = context.peer;
        let opening = context.opening.as_mut().filter(|o| o.token == echo);
        let opening = opening.ok_or(Cause::ControlUnexpected)?;
        opening.cookie = cookie;
        // A cookie is wanted back at once; otherwise nobody makes us hurry.
        let patience = if cookie == NO_COOKIE { 50 } else { 0 };
        opening.next = time + Duration::from_millis(retry_after_ms.max(patience).into());
        let next = opening.next;
        self.context_at(id, next);
        self.note_pair(id, format!("the peer's forwarder refuses: {reason:?}"));
        if reason == Reason::NotServing {
            if let Some(context) = self.table.get_mut(id) {
                // Whoever has that locator now is somebody else.
                context.keys = None;
            }
            self.reindexed(id);
            self.forget_cached(peer);
            self.lookup(peer);
        }
        Ok(())
    }

    fn moved(
        &mut self,
        pair: Pair,
        from: SocketAddr,
        sequence: u64,
        binding: &Binding,
        received: &Received<'_>,
    ) -> Result<(), Cause> {
        let Ok(id) = self.context_of(pair) else {
            // Without a key it is only a reason to ask; nobody waits here.
            self.forget_cached(pair.from);
            return Err(Cause::ControlUnexpected);
        };
        let context = self.table.get_mut(id).ok_or(Cause::ControlUnexpected)?;
        let keys = context.keys.as_ref().ok_or(Cause::ControlUnexpected)?;
        if !received.verify(&keys.key) {
            return Err(Cause::ControlMac);
        }
        // The epoch orders moves, and makes old ones useless. Sequence numbers do
        // not: while a move is rolled back both sites go on from the same ones.
        let news = binding.epoch() > context.epoch();
        if !news && sequence < context.sequence_in {
            return Err(Cause::ControlReplay);
        }
        context.sequence_in = context.sequence_in.max(sequence);
        let ack = Message::Ack {
            pair: outgoing(pair.to, pair.from),
            sequence,
        };
        if news && self.may_be_at(pair.from, binding) {
            self.provisional(id, binding.clone());
        } else if news {
            self.lookup(pair.from);
        }
        self.answer(id, from, &ack);
        Ok(())
    }

    /// Whether a peer's own word is enough, for a moment, that it is there: not
    /// outside the locator prefixes, nor where another peer is.
    fn may_be_at(&self, peer: Home, binding: &Binding) -> bool {
        binding.entries().iter().all(|e| {
            let holder = self.table.holder(e.locator);
            self.in_locators(e.locator.ip()) && holder.is_none_or(|h| h == peer)
        })
    }

    fn acknowledged(
        &mut self,
        pair: Pair,
        sequence: u64,
        received: &Received<'_>,
    ) -> Result<(), Cause> {
        let time = self.now.time;
        let id = self.authentic(pair, received)?;
        let context = self.table.get_mut(id).ok_or(Cause::ControlUnexpected)?;
        let done = context.announcing.take_if(|a| a.sequence == sequence);
        context.heard = Some(time);
        if let (Some(_), Some(own)) = (done, self.own.get_mut(&pair.to))
            && let Some(switch) = &mut own.switch
        {
            switch.acknowledged += 1;
            switch.last_ack = Some(time);
        }
        Ok(())
    }

    fn probed(
        &mut self,
        pair: Pair,
        from: SocketAddr,
        sequence: u64,
        received: &Received<'_>,
    ) -> Result<(), Cause> {
        if self.own.get(&pair.to).is_some_and(|own| own.prepared()) {
            return self.asked_ahead(pair, from, sequence, received);
        }
        let id = self.authentic(pair, received)?;
        let own = self.own.get(&pair.to).filter(|own| own.serving().is_some());
        let from_epoch = own.ok_or(Cause::NotServing)?.epoch();
        let context = self.table.get(id).ok_or(Cause::ControlUnexpected)?;
        let reply = Message::Reply {
            pair: outgoing(pair.to, pair.from),
            sequence,
            from_epoch,
            counters: vec![ModeCount {
                mode: Modes::NATIVE.bits(),
                packets: self.table.tally(context).received.packets,
            }],
        };
        self.answer(id, from, &reply);
        Ok(())
    }

    fn replied(
        &mut self,
        pair: Pair,
        sequence: u64,
        from_epoch: Epoch,
        received: &Received<'_>,
    ) -> Result<(), Cause> {
        let time = self.now.time;
        let id = self.authentic(pair, received)?;
        let context = self.table.get_mut(id).ok_or(Cause::ControlUnexpected)?;
        let probing = context.probing.take_if(|(s, _)| *s == sequence);
        let proof = Agent::proof(context, sequence);
        let proof = match (probing, proof) {
            (_, Some(locator)) if Some(locator) != context.remote() => {
                // It stands by, and says nothing of the one in use.
                return Ok(());
            }
            (Some((_, sent)), proof) => {
                context.round_trip_us = Some(time.since(sent).as_micros() as u64);
                proof.is_some()
            }
            (None, Some(_)) => true,
            (None, None) => return Err(Cause::ControlReplay),
        };
        context.heard = Some(time);
        if from_epoch == context.epoch() {
            let lease = context
                .binding
                .as_ref()
                .map_or(Duration::ZERO, Binding::lease);
            context.lease_until = context.lease_until.max(time + lease);
            self.flow(id);
        } else if from_epoch > context.epoch() {
            self.forget_cached(pair.from);
            self.lookup(pair.from);
        }
        if proof {
            self.flow(id);
        }
        Ok(())
    }

    /// The forwarder at `from` says it has no context for packets from `to`.
    fn unknown(&mut self, from: IpAddr, to: IpAddr) -> Result<(), Cause> {
        let time = self.now.time;
        let id = self
            .table
            .inbound(from, to)
            .ok_or(Cause::ControlUnexpected)?;
        let context = self.table.get_mut(id).ok_or(Cause::ControlUnexpected)?;
        if context
            .last_reopen
            .is_some_and(|t| time.since(t) < REOPEN_INTERVAL)
        {
            return Err(Cause::ControlReplay);
        }
        context.last_reopen = Some(time);
        match &mut context.announcing {
            // It has not heard yet that we moved.
            Some(announcing) if announcing.attempts < REOPEN_AFTER => {
                announcing.next = time;
                self.exchange_due(id);
            }
            // Or has, and our keys are not its keys.
            _ => self.open(id),
        }
        Ok(())
    }

    /// An ICMP error about one of our control messages.
    pub(super) fn control_failed(&mut self, id: Option<ContextId>) {
        self.peer_unreachable(id);
    }

    /// A peer whose keys are not ours has opened a context of which we do not know, in the
    /// moment of a move or before we lost our memory: it is told to open another.
    fn other_keys(
        &mut self,
        from: IpAddr,
        to: IpAddr,
        result: Result<(), Cause>,
    ) -> Result<(), Cause> {
        if result == Err(Cause::ControlMac) && self.in_locators(from) {
            self.tell_stranger((from, to));
        }
        result
    }

    /// The context a received message speaks about.
    fn context_of(&self, pair: Pair) -> Result<ContextId, Cause> {
        self.table
            .outbound(pair.to.ip(), pair.from.ip())
            .ok_or(Cause::ControlUnexpected)
    }

    pub(super) fn authentic(
        &self,
        pair: Pair,
        received: &Received<'_>,
    ) -> Result<ContextId, Cause> {
        let id = self.context_of(pair)?;
        let keys = self.table.get(id).and_then(|c| c.keys.as_ref());
        match keys {
            Some(keys) if received.verify(&keys.key) => Ok(id),
            Some(_) => Err(Cause::ControlMac),
            None => Err(Cause::ControlUnexpected),
        }
    }
}

pub(super) fn outgoing(own: Home, peer: Home) -> Pair {
    Pair {
        from: own,
        to: peer,
    }
}

/// Whether the binding makes the OPEN's sender who it says it is.
fn confirms(binding: &Binding, open: &PendingOpen) -> bool {
    binding.epoch() >= open.epoch && binding.entry(open.from).is_some()
}

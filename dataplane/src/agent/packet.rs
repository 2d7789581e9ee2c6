//! Where a packet goes: the verdict on everything read from the TUN.
//!
//! The addresses alone decide, in this order: from a home of ours (outbound), to
//! a locator of ours (inbound), or an ICMP error that this machine's own kernel
//! made about an inbound packet. Nothing else belongs here.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mat_proto::message::Message;
use mat_proto::{Family, Home, Locator};

use super::hold::Hold;
use super::own::Role;
use super::{Agent, Verdict};
use crate::clock::Time;
use crate::counters::Cause;
use crate::fib::{Direction, Slot};
use crate::frame::{Frame, Offload};
use crate::gso;
use crate::rewrite::build::{self, Unreachable};
use crate::rewrite::{
    ChecksumState, Fragment, Headers, Packet, Quoted, Translation, checksum, rewrite,
};
use crate::table::ContextId;

/// How a packet has come here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// By itself.
    Direct,
    /// By the old site of a move.
    Relayed,
    /// From one instance to another one at the same site, here or at the old site of its move:
    /// it was let pass there, and whoever sent it may be gone by now.
    Neighbour {
        /// The old site has relayed it.
        relayed: bool,
    },
}

/// A mobile sender without context here.
#[derive(Debug, Default)]
pub(super) struct Stranger {
    hold: Hold,
    /// When it was last told so.
    told: Option<Time>,
    since: Time,
}

/// UNKNOWN goes to one pair of locators no more often than this.
const UNKNOWN_INTERVAL: Duration = Duration::from_millis(100);
/// What one stranger may make us hold: a few packets of a running stream, until
/// its forwarder has opened the context again.
const STRANGER_BYTES: usize = 512 << 10;

impl Agent {
    /// The verdict; does everything but counting drops.
    pub(super) fn route(
        &mut self,
        offload: &Offload,
        packet: &mut [u8],
        arrival: Arrival,
    ) -> Verdict {
        let headers = match Packet::parse(packet) {
            Ok(headers) => headers,
            Err(malformed) => return Verdict::Drop(Cause::Malformed(malformed)),
        };
        if is_neighbour_discovery(&headers) {
            // Of one link only; answers to our announcements come by here.
            return Verdict::Drop(Cause::NotOurs);
        }
        let (src, dst) = (headers.src(), headers.dst());
        if let Arrival::Neighbour { relayed } = arrival {
            return self.pass_on(&headers, offload, packet, relayed);
        }
        let (own, locator) = (self.own_home(src), self.own_locator(dst));
        // A node's kernel speaks from the home address about what we have written.
        let to_itself = own.is_some() && own == locator.and_then(|(_, holder)| holder);
        if let Some(own) = own.filter(|_| !(to_itself && headers.is_icmp_error())) {
            self.outbound(own, &headers, offload, packet)
        } else if let Some((locator, home)) = locator {
            self.inbound((locator, home), &headers, offload, packet, arrival)
        } else if headers.is_icmp_error() && self.in_homes(dst) {
            self.kernel_error(&headers, offload, packet)
        } else {
            Verdict::Drop(Cause::NotOurs)
        }
    }

    fn own_locator(&self, ip: IpAddr) -> Option<(Locator, Option<Home>)> {
        let locator = Locator::new(ip).ok()?;
        match self.own_locators.get(&locator) {
            Some(home) => Some((locator, Some(*home))),
            None => self.in_pool(ip).then_some((locator, None)),
        }
    }

    pub(super) fn own_home(&self, ip: IpAddr) -> Option<Home> {
        let home = Home::new(ip).ok()?;
        self.own.contains_key(&home).then_some(home)
    }

    fn inbound(
        &mut self,
        (to, home): (Locator, Option<Home>),
        headers: &Headers,
        offload: &Offload,
        packet: &mut [u8],
        arrival: Arrival,
    ) -> Verdict {
        if self.is_control(headers) {
            if offload.is_super_packet() {
                return self.joined_control(offload, packet);
            }
            return self.inbound_control(to, home, headers, offload, packet);
        }
        let Some(home) = home else {
            if self.in_locators(headers.src()) {
                // So that its sender finds out whom we do not serve here.
                self.tell_stranger((headers.src(), headers.dst()));
            }
            return Verdict::Drop(Cause::NotAttached);
        };
        self.party = Some((home, None));
        let Some(own) = self.own.get_mut(&home) else {
            return Verdict::Drop(Cause::NotAttached);
        };
        match &own.role {
            Role::Serving { .. } if own.ready => {
                let id = self.table.inbound(headers.src(), headers.dst());
                match id.filter(|id| self.is_behind(*id)) {
                    Some(id) if arrival == Arrival::Direct => {
                        return self.wait_for_end(id, copy(offload, packet, headers));
                    }
                    Some(id) => self.end_is_to_come(id),
                    None => {}
                }
                self.deliver(home, headers, offload, packet)
            }
            Role::Serving { .. } | Role::Prepared(_) | Role::Registering => {
                let frame = copy(offload, packet, headers);
                let max = self.config.limits.hold_bytes_per_home;
                let time = self.now.time;
                Agent::hold_in(&mut own.hold_in, time, frame, max, &mut self.budget)
            }
            Role::Departed { .. } => {
                if !self.is_of_a_peer(home, headers.src()) {
                    return Verdict::Drop(Cause::Departed);
                }
                self.relay_out(home, copy(offload, packet, headers), 0);
                Verdict::Taken
            }
            Role::Idle => Verdict::Drop(Cause::NotServing),
        }
    }

    /// Gives a packet that came for a served home to its instance: it was sent
    /// to one of its locators, now or before a move.
    pub(super) fn deliver(
        &mut self,
        home: Home,
        headers: &Headers,
        offload: &Offload,
        packet: &mut [u8],
    ) -> Verdict {
        let Some(local) = self.own.get(&home).and_then(|own| own.serving()) else {
            return Verdict::Drop(Cause::NotServing);
        };
        let (src, dst) = (headers.src(), headers.dst());
        let id = self
            .table
            .inbound(src, dst)
            .or_else(|| self.table.inbound(src, local.ip()));
        let mut map = Translation {
            new_dst: Some(home.ip()),
            ..Translation::default()
        };
        if let Some(quote) = headers.quoted() {
            // An error about something the instance sent; it may come from any
            // router on the way as well as from the peer itself.
            let about = self
                .table
                .inbound(quote.dst(), quote.src())
                .or_else(|| self.table.inbound(quote.dst(), local.ip()));
            if self.is_control_quote(&quote) {
                self.control_failed(about);
                return Verdict::Taken;
            }
            if about.is_some() && headers.is_host_unreachable() {
                self.peer_unreachable(about);
                return Verdict::Drop(Cause::IcmpSwallowed);
            }
            let peer = about.and_then(|id| self.table.get(id)).map(|c| c.peer.ip());
            if peer.is_none() && self.in_locators(quote.dst()) {
                return Verdict::Drop(Cause::IcmpUnknown);
            }
            map.quoted = Some(Quoted {
                new_src: Some(home.ip()),
                new_dst: peer,
            });
            if src == quote.dst() {
                map.new_src = peer;
            }
            return finish(packet, headers, offload, &map);
        }
        match id {
            Some(id) => {
                let Some(context) = self.table.get(id) else {
                    return Verdict::Drop(Cause::NotOurs);
                };
                if context.own != home {
                    return Verdict::Drop(Cause::WrongHome);
                }
                self.party = Some((home, Some(context.peer)));
                map.new_src = Some(context.peer.ip());
                let slot = context.slot;
                self.count_packet(slot, Direction::In, headers);
                self.wake(id);
                finish(packet, headers, offload, &map)
            }
            None if self.in_locators(src) => self.stranger(headers, offload, packet),
            // What a mobile peer sends comes from its locator: the sender lies.
            None if self.in_homes(src) => Verdict::Drop(Cause::HomeOutside),
            None => finish(packet, headers, offload, &map),
        }
    }

    fn outbound(
        &mut self,
        own: Home,
        headers: &Headers,
        offload: &Offload,
        packet: &mut [u8],
    ) -> Verdict {
        let dst = headers.dst();
        self.party = Some((own, None));
        if self.is_control(headers) {
            return Verdict::Drop(Cause::ControlPort);
        }
        let time = self.now.time;
        let Some(state) = self.own.get_mut(&own) else {
            return Verdict::Drop(Cause::NotOurs);
        };
        let local = match state.role {
            Role::Serving { locator } => locator,
            Role::Prepared(_) | Role::Registering => {
                state.arrived = true;
                let max = self.config.limits.hold_bytes_per_home;
                let frame = copy(offload, packet, headers);
                return Agent::hold_in(&mut state.hold_out, time, frame, max, &mut self.budget);
            }
            // Until it has stopped, what it sends is still its peers'. They accept
            // it from here as long as grace lasts.
            Role::Departed { .. } => match state.departing_from() {
                Some(locator) => locator,
                None => return Verdict::Drop(Cause::Departed),
            },
            Role::Idle => return Verdict::Drop(Cause::NotServing),
        };
        let departed = state.departed();
        if let Some(neighbour) = self.own_home(dst).filter(|home| self.is_here(*home)) {
            return self.send_beside([own, neighbour], headers, offload, packet);
        }
        if self.in_homes(dst) {
            let id = self.table.outbound(own.ip(), dst);
            let context = id.and_then(|id| self.table.get(id));
            if departed && context.is_none_or(|c| c.keys.is_none()) {
                // The new site makes the first contact.
                self.relay_out(own, copy(offload, packet, headers), 0);
                return Verdict::Taken;
            }
            return self.mobile(own, headers, offload, packet);
        }
        if self.in_locators(dst) {
            self.refuse(packet, headers, Unreachable::Prohibited);
            return Verdict::Drop(Cause::ToLocator);
        }
        if self.config.exclusive {
            // The address is the host's: its kernel would take the answers.
            return Verdict::Drop(Cause::PassImpossible);
        }
        let map = Translation {
            new_src: Some(local.ip()),
            quoted: headers.is_icmp_error().then_some(Quoted {
                new_src: None,
                new_dst: Some(local.ip()),
            }),
            ..Translation::default()
        };
        finish(packet, headers, offload, &map)
    }

    fn mobile(
        &mut self,
        own: Home,
        headers: &Headers,
        offload: &Offload,
        packet: &mut [u8],
    ) -> Verdict {
        let time = self.now.time;
        let Some(id) = self.table.outbound(own.ip(), headers.dst()) else {
            return self.first_packet(own, headers, offload, packet);
        };
        let Some(context) = self.table.get(id) else {
            return Verdict::Drop(Cause::NotOurs);
        };
        self.party = Some((own, Some(context.peer)));
        self.wake(id);
        let Some(context) = self.table.get(id) else {
            return Verdict::Drop(Cause::NotOurs);
        };
        let fresh = context.lease_until > time;
        let (Some(local), Some(remote), true) = (context.local, context.remote(), fresh) else {
            return self.wait_for_context(id, copy(offload, packet, headers));
        };
        if context.keys.is_none() {
            return self.wait_for_context(id, copy(offload, packet, headers));
        }
        let slot = context.slot;
        if context.credit.is_some() {
            let context = self.table.get_mut(id);
            if !context.is_some_and(|c| Agent::charge(c, headers.total_len())) {
                return self.wait_for_context(id, copy(offload, packet, headers));
            }
        }
        self.count_packet(slot, Direction::Out, headers);
        let map = Translation {
            new_src: Some(local.ip()),
            new_dst: Some(remote.ip()),
            quoted: headers.is_icmp_error().then_some(Quoted {
                new_src: Some(remote.ip()),
                new_dst: Some(local.ip()),
            }),
        };
        match finish(packet, headers, offload, &map) {
            // To a neighbour that is leaving, or has just come.
            Verdict::Send if self.own_locators.contains_key(&remote) => {
                self.route(offload, packet, Arrival::Direct)
            }
            verdict => verdict,
        }
    }

    fn count_packet(&self, slot: Slot, direction: Direction, headers: &Headers) {
        let bytes = headers.total_len() as u64;
        self.fib().count(slot, direction, 1, bytes, self.now.time);
    }

    fn first_packet(
        &mut self,
        own: Home,
        headers: &Headers,
        offload: &Offload,
        packet: &mut [u8],
    ) -> Verdict {
        let Ok(peer) = Home::new(headers.dst()) else {
            return Verdict::Drop(Cause::NotOurs);
        };
        if self.known_absent(peer) {
            self.refuse(packet, headers, Unreachable::Host);
            return Verdict::Drop(Cause::NoBinding);
        }
        match self.context(own, peer) {
            Some(id) => {
                self.party = Some((own, Some(peer)));
                self.wait_for_context(id, copy(offload, packet, headers))
            }
            None => Verdict::Drop(Cause::ContextsFull),
        }
    }

    fn wait_for_context(&mut self, id: ContextId, frame: Frame) -> Verdict {
        let limits = &self.config.limits;
        let time = self.now.time;
        let Some(context) = self.table.get_mut(id) else {
            return Verdict::Drop(Cause::NotOurs);
        };
        // A flow under way, whose lease has run out, comes faster than a first flight.
        let max = match context.keys {
            Some(_) => limits.hold_bytes_per_home,
            None => limits.hold_bytes_per_context,
        };
        let verdict = Agent::hold_in(&mut context.hold, time, frame, max, &mut self.budget);
        self.pursue(id);
        verdict
    }

    /// An ICMP error that this machine's kernel made about a packet on its way
    /// to an instance: it is addressed to the peer's home and quotes homes.
    fn kernel_error(&mut self, headers: &Headers, offload: &Offload, packet: &mut [u8]) -> Verdict {
        let Some(quote) = headers.quoted() else {
            return Verdict::Drop(Cause::IcmpUnknown);
        };
        if quote.src() != headers.dst() {
            return Verdict::Drop(Cause::IcmpUnknown);
        }
        let context = self
            .table
            .outbound(quote.dst(), quote.src())
            .and_then(|id| self.table.get(id));
        let Some((local, remote)) = context.and_then(|c| Some((c.local?, c.remote()?))) else {
            return Verdict::Drop(Cause::IcmpUnknown);
        };
        let map = Translation {
            // A link-local source would not be forwarded, nor mean anything there.
            new_src: Some(local.ip()),
            new_dst: Some(remote.ip()),
            quoted: Some(Quoted {
                new_src: Some(remote.ip()),
                new_dst: Some(local.ip()),
            }),
        };
        finish(packet, headers, offload, &map)
    }

    fn is_control(&self, headers: &Headers) -> bool {
        let port = self.config.control_port;
        headers
            .udp_ports()
            .is_some_and(|(from, to)| from == port || to == port)
    }

    fn is_control_quote(&self, quote: &crate::rewrite::Quote) -> bool {
        let port = self.config.control_port;
        quote
            .udp_ports()
            .is_some_and(|(from, to)| from == port && to == port)
    }

    /// Messages that the kernel has joined on their way (`rx-udp-gro-forwarding`): each for
    /// itself.
    fn joined_control(&mut self, offload: &Offload, packet: &[u8]) -> Verdict {
        let mut messages = Vec::new();
        let mut buffer = vec![0; packet.len()];
        let emit = |message: &[u8]| messages.push(message.to_vec());
        if gso::cut(offload, packet, &mut buffer, emit).is_err() {
            return Verdict::Drop(Cause::ControlMalformed);
        }
        for mut message in messages {
            self.decide(&Offload::default(), &mut message, Arrival::Direct);
        }
        Verdict::Taken
    }

    fn inbound_control(
        &mut self,
        to: Locator,
        home: Option<Home>,
        headers: &Headers,
        offload: &Offload,
        packet: &mut [u8],
    ) -> Verdict {
        let Some((from_port, to_port)) = headers.udp_ports() else {
            return Verdict::Drop(Cause::ControlMalformed);
        };
        if to_port != self.config.control_port || headers.fragment() != Fragment::None {
            return Verdict::Drop(Cause::ControlPort);
        }
        let segment = packet
            .get(headers.transport_offset()..headers.total_len())
            .unwrap_or_default();
        // Nobody else looks at it: this packet ends here.
        let complete = offload.checksum_state(headers) == ChecksumState::Full;
        if complete && !checksum::is_right_udp(headers.src(), headers.dst(), segment) {
            return Verdict::Drop(Cause::ControlChecksum);
        }
        let payload = segment.get(8..).unwrap_or_default();
        // Two homes that move at the same moment must still meet.
        let departed = home
            .and_then(|h| self.own.get(&h))
            .is_some_and(|own| own.departed());
        if let (Some(home), true) = (home, departed) {
            let received = Message::decode(payload).ok();
            if let Some(received) = &received {
                self.peer_moves(home, received);
            }
            let message = received.map(|received| received.message);
            let of_a_move = matches!(message, Some(Message::Relay(_) | Message::Flushed(_)));
            if !of_a_move && self.is_of_a_peer(home, headers.src()) {
                self.relay_out(home, copy(offload, packet, headers), 0);
                return Verdict::Taken;
            }
        }
        let from = SocketAddr::new(headers.src(), from_port);
        match self.control(from, to.ip(), payload) {
            Ok(()) => Verdict::Taken,
            Err(cause) => Verdict::Drop(cause),
        }
    }

    fn stranger(&mut self, headers: &Headers, offload: &Offload, packet: &[u8]) -> Verdict {
        let pair = (headers.src(), headers.dst());
        let time = self.now.time;
        self.tell_stranger(pair);
        let Some(stranger) = self.strangers.get_mut(&pair) else {
            return Verdict::Drop(Cause::Stranger);
        };
        let frame = copy(offload, packet, headers);
        let hold = &mut stranger.hold;
        Agent::hold_in(hold, time, frame, STRANGER_BYTES, &mut self.budget)
    }

    /// Answers UNKNOWN, not too often, and keeps the pair in mind.
    pub(super) fn tell_stranger(&mut self, pair: (IpAddr, IpAddr)) {
        let time = self.now.time;
        let full = self.strangers.len() >= self.config.limits.strangers;
        if full && !self.strangers.contains_key(&pair) {
            let oldest = self.strangers.iter().min_by_key(|(_, s)| s.since);
            if let Some(oldest) = oldest.map(|(pair, _)| *pair) {
                self.forget_stranger(oldest);
            }
        }
        let stranger = self.strangers.entry(pair).or_insert_with(|| Stranger {
            since: time,
            ..Stranger::default()
        });
        if stranger
            .told
            .is_none_or(|t| time.since(t) >= UNKNOWN_INTERVAL)
        {
            stranger.told = Some(time);
            if let Ok(own) = Locator::new(pair.1) {
                let to = SocketAddr::new(pair.0, self.config.control_port);
                self.transmit(own, to, &Message::Unknown.encode());
            }
        }
    }

    fn forget_stranger(&mut self, pair: (IpAddr, IpAddr)) {
        if let Some(mut gone) = self.strangers.remove(&pair) {
            let dropped = gone.hold.clear(&mut self.budget);
            self.counters.add(Cause::Stranger, dropped);
        }
    }

    /// What was held from the locators of a context was meant for somebody else.
    pub(super) fn discard_strangers(&mut self, id: ContextId) {
        let Some(context) = self.table.get(id) else {
            return;
        };
        let locals = context
            .local
            .into_iter()
            .chain(context.local_previous.map(|(l, _)| l));
        let remotes = context
            .binding
            .iter()
            .flat_map(|b| b.entries())
            .map(|e| e.locator);
        let remotes: Vec<_> = remotes.collect();
        for own in locals.collect::<Vec<_>>() {
            for peer in &remotes {
                self.forget_stranger((peer.ip(), own.ip()));
            }
        }
    }

    /// Delivers what strangers sent who are known now.
    pub(super) fn release_strangers(&mut self, pairs: &[(Locator, Locator)]) {
        for (peer, own) in pairs {
            let Some(mut stranger) = self.strangers.remove(&(peer.ip(), own.ip())) else {
                continue;
            };
            while let Some(frame) = stranger.hold.pop(&mut self.budget) {
                self.replay(frame, Arrival::Direct);
            }
        }
    }

    /// What strangers have waiting takes so much in the accounts.
    pub(super) fn strangers_bytes(&self) -> usize {
        self.strangers.values().map(|s| s.hold.bytes()).sum()
    }

    pub(super) fn sweep_strangers(&mut self) {
        let (time, age) = (self.now.time, self.config.limits.hold_age);
        let mut dropped = 0;
        let budget = &mut self.budget;
        self.strangers.retain(|_, stranger| {
            dropped += stranger.hold.expire(time, age, budget);
            stranger.hold.len() > 0 || stranger.told.is_some_and(|t| time.since(t) < age)
        });
        self.counters.add(Cause::Stranger, dropped);
    }

    /// Answers a packet of an instance with "unreachable", as a router would.
    pub(super) fn refuse(&mut self, packet: &[u8], headers: &Headers, why: Unreachable) {
        let mut buffer = [0; 1280];
        // In the name of the destination: no other address of ours means
        // anything to the instance.
        if let Ok(length) = build::unreachable(&mut buffer, headers.dst(), packet, why) {
            let frame = Frame::plain(buffer[..length].to_vec());
            self.outputs.push_back(super::Output::Write(frame));
        }
    }
}

pub(super) fn copy(offload: &Offload, packet: &[u8], headers: &Headers) -> Frame {
    Frame {
        offload: *offload,
        packet: packet[..headers.total_len()].to_vec(),
    }
}

/// RFC 4861, section 4: router and neighbour messages.
fn is_neighbour_discovery(headers: &Headers) -> bool {
    let v6 = headers.family() == Family::V6;
    v6 && headers
        .icmp()
        .is_some_and(|(kind, _)| (133..=137).contains(&kind))
}

fn finish(packet: &mut [u8], headers: &Headers, offload: &Offload, map: &Translation) -> Verdict {
    match rewrite(packet, headers, map, offload.checksum_state(headers)) {
        Ok(()) => Verdict::Send,
        Err(refusal) => Verdict::Drop(Cause::Refused(refusal)),
    }
}

//! Packets that arrive at the old site of a move, on their way to the new one.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use mat_proto::Home;
use mat_proto::auth::Key;
use mat_proto::message::{Flushed, Message, Received, Relay};

use super::{Reported, Role};
use crate::agent::packet::Arrival;
use crate::agent::{Agent, Timer, relay};
use crate::counters::Cause;
use crate::frame::Frame;
use crate::rewrite::{Packet, Translation, rewrite};

/// The old site hears how far we are no more often than this.
const REPORT: Duration = Duration::from_millis(5);

impl Agent {
    /// Sends a packet for a departed home after it; `hops` is how many sites
    /// have relayed it before.
    pub(in crate::agent) fn relay_out(&mut self, home: Home, frame: Frame, hops: u8) {
        let (now, max) = (self.now.time, self.config.limits.hold_bytes_per_home);
        if hops >= relay::MAX_HOPS {
            return self.counters.count(Cause::RelayHops);
        }
        let own = self.own.get_mut(&home);
        let Some(sent) = own.and_then(|own| own.sent.as_mut()) else {
            return;
        };
        match sent.push(now, hops, frame, max, &mut self.budget) {
            Some(pieces) => {
                let account = self.accounts.of((home, None));
                account.relayed.fetch_add(1, Relaxed);
                self.relay(home, pieces);
            }
            None => self.counters.count(Cause::HoldFull),
        }
    }

    /// Whether what comes from there for a departed home is from a peer that it had a
    /// context with: nothing else follows it. Our locator may once have been another
    /// home's, and not everybody knows that it no longer is.
    pub(in crate::agent) fn is_of_a_peer(&self, home: Home, from: IpAddr) -> bool {
        let sent = self.own.get(&home).and_then(|own| own.sent.as_ref());
        !self.in_locators(from) || sent.is_some_and(|sent| sent.is_peer(from))
    }

    /// A peer of a departed home moves at the same time: what it sends from its new place
    /// follows the home as well.
    pub(in crate::agent) fn peer_moves(&mut self, home: Home, received: &Received<'_>) {
        let Message::Moved { pair, binding, .. } = &received.message else {
            return;
        };
        let Some(own) = self.own.get_mut(&home).filter(|_| pair.to == home) else {
            return;
        };
        let authentic = own
            .key_with(pair.from)
            .is_some_and(|key| received.verify(&key));
        if let (Some(sent), true) = (&mut own.sent, authentic) {
            for entry in binding.entries() {
                sent.add_peer(entry.locator.ip());
            }
        }
    }

    /// Everything that waits here for a home that leaves goes after it.
    pub(in crate::agent) fn send_on(&mut self, home: Home) {
        self.empty(home, Arrival::Relayed, |own| &mut own.hold_relayed);
        self.empty(home, Arrival::Direct, |own| &mut own.hold_in);
        for id in self.table.of_own(home) {
            self.release_behind(id);
            // What it wanted to send to peers that have not answered yet, too: the new site asks
            // them anew.
            if self.table.get(id).is_some_and(|c| c.keys.is_none()) {
                for frame in self.take_held(id) {
                    self.relay_out(home, frame, 0);
                }
                self.drop_context(id, Cause::Departed);
            }
        }
    }

    /// A report of the new site.
    pub(in crate::agent) fn flushed(
        &mut self,
        received: &Received<'_>,
        report: &Flushed,
    ) -> Result<(), Cause> {
        let own = self.own.get_mut(&report.home).ok_or(Cause::NotAttached)?;
        let (Role::Departed { to, .. }, Some(sent)) = (&own.role, &mut own.sent) else {
            return Err(Cause::ControlUnexpected);
        };
        if !received.verify(&Key::of_move(to.key)) {
            return Err(Cause::ControlMac);
        }
        if report.epoch != sent.epoch() {
            return Err(Cause::ControlReplay);
        }
        let again = sent.flushed(self.now.time, report, &mut self.budget);
        self.relay(report.home, again);
        Ok(())
    }

    /// A piece of a packet from the old site; the MAC is checked here, because
    /// only here the key is known.
    pub(in crate::agent) fn relay_in(
        &mut self,
        received: &Received<'_>,
        from: SocketAddr,
        piece: &Relay,
    ) -> Result<(), Cause> {
        let own = self.own.get_mut(&piece.home).ok_or(Cause::NotAttached)?;
        let key = own.move_key.ok_or(Cause::ControlUnexpected)?;
        if !received.verify(&Key::of_move(key)) {
            return Err(Cause::ControlMac);
        }
        if own.departed() && piece.epoch >= own.epoch() {
            return Err(Cause::RelayHops);
        }
        own.reported.to = Some((from, piece.epoch));
        own.reported.again |= !own.arrivals.add(piece);
        self.take_relayed(piece.home);
        Ok(())
    }

    /// What is due of relaying: packets whose loss nobody reports, reports that would
    /// have come too often.
    pub(in crate::agent) fn relay_due(&mut self, home: Home) {
        let (now, age) = (self.now.time, self.config.limits.hold_age);
        let Some(own) = self.own.get_mut(&home) else {
            return;
        };
        own.arrivals.skip(now, age);
        if let Some(sent) = &mut own.sent {
            let again = sent.due(now);
            self.relay(home, again);
        }
        self.take_relayed(home);
    }

    fn relay(&mut self, home: Home, pieces: Vec<Relay>) {
        let Some(own) = self.own.get(&home) else {
            return;
        };
        let Role::Departed { to, .. } = &own.role else {
            return;
        };
        let next = own.sent.as_ref().and_then(|sent| sent.next());
        let from = own.reserved.first().copied();
        let (key, address) = (Key::of_move(to.key), (to.locator.ip(), to.port).into());
        if let Some(next) = next {
            self.at(next, Timer::Own(home));
        }
        for piece in pieces {
            if let Some(from) = from {
                let octets = Message::Relay(piece).encode_signed(&key);
                self.transmit(from, address, &octets);
            }
        }
    }

    /// Takes what has arrived in order, as long as there is room for it: only what
    /// is taken is reported as received.
    fn take_relayed(&mut self, home: Home) {
        let max = self.config.limits.hold_bytes_per_home;
        while let Some(own) = self.own.get_mut(&home) {
            if !own.hold_relayed.has_room(max, &self.budget) {
                break;
            }
            let Some((hops, mut frame)) = own.arrivals.take() else {
                break;
            };
            if own.departed() {
                self.relay_out(home, frame, hops);
                continue;
            }
            let local = own.reserved.first().copied();
            let clear = own.serving().is_some() && own.ready && own.hold_relayed.len() == 0;
            let Some(local) = local else {
                break;
            };
            if let Err(cause) = readdress(&mut frame, home, local.ip()) {
                self.counters.count(cause);
            } else if clear {
                self.let_in(home, frame, Arrival::Relayed);
            } else {
                let (now, hold) = (self.now.time, &mut own.hold_relayed);
                let _room = hold.push(now, frame, usize::MAX, &mut self.budget);
            }
        }
        self.report(home);
    }

    /// Tells the old site how far we are, if that is news to it, and not too often.
    pub(in crate::agent) fn report(&mut self, home: Home) {
        let now = self.now.time;
        let Some(own) = self.own.get_mut(&home) else {
            return;
        };
        let (Some(key), Some((to, epoch))) = (own.move_key, own.reported.to) else {
            return;
        };
        let received = own.arrivals.received();
        let delivered = received.wrapping_sub(own.hold_relayed.len() as u32);
        let before = &mut own.reported;
        let news = (received, delivered) != (before.received, before.delivered);
        let gap = own.arrivals.has_gap();
        if !news && !gap && !before.again {
            return;
        }
        let due = before.at.map_or(now, |at| at + REPORT);
        if due > now {
            return self.at(due, Timer::Own(home));
        }
        *before = Reported {
            to: before.to,
            at: Some(now),
            received,
            delivered,
            again: false,
        };
        let report = Message::Flushed(Flushed {
            home,
            epoch,
            received,
            delivered,
            missing: own.arrivals.missing(),
        });
        let from = own.reserved.first().copied();
        if let Some(from) = from {
            let octets = report.encode_signed(&Key::of_move(key));
            self.transmit(from, to, &octets);
        }
        if gap {
            self.at(now + REPORT, Timer::Own(home));
        }
    }
}

/// From here on it is a packet that came to our own locator, or one that the instance sends, or that
/// it gets from a neighbour.
fn readdress(frame: &mut Frame, home: Home, local: IpAddr) -> Result<(), Cause> {
    let headers = Packet::parse(&frame.packet).map_err(Cause::Malformed)?;
    if [headers.src(), headers.dst()].contains(&home.ip()) {
        return Ok(());
    }
    let map = Translation {
        new_dst: Some(local),
        ..Translation::default()
    };
    let csum = frame.offload.checksum_state(&headers);
    rewrite(&mut frame.packet, &headers, &map, csum).map_err(Cause::Refused)
}

//! Packets that arrive at the old site of a move, on their way to the new one.

use std::sync::atomic::Ordering::Relaxed;

use mat_proto::Home;
use mat_proto::auth::Key;
use mat_proto::message::{Message, Received, Relay};

use super::Role;
use crate::agent::{Agent, relay};
use crate::counters::Cause;
use crate::frame::Frame;
use crate::rewrite::{Packet, Translation, rewrite};

impl Agent {
    /// Sends a packet for a departed home after it; `hops` is how many sites
    /// have relayed it before.
    pub(in crate::agent) fn relay_out(&mut self, home: Home, frame: Frame, hops: u8) {
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
        let account = self.accounts.of((home, None));
        account.relayed.fetch_add(1, Relaxed);
        let key = Key::of_move(to.key);
        let address = (to.locator.ip(), to.port).into();
        for piece in relay::cut(home, epoch, hops + 1, id, &frame) {
            let octets = Message::Relay(piece).encode_signed(&key);
            self.transmit(from, address, &octets);
        }
    }

    /// A piece of a packet from the old site; the MAC is checked here, because
    /// only here the key is known.
    pub(in crate::agent) fn relay_in(
        &mut self,
        received: &Received<'_>,
        piece: &Relay,
    ) -> Result<(), Cause> {
        let own = self.own.get_mut(&piece.home).ok_or(Cause::NotAttached)?;
        let key = own.move_key.ok_or(Cause::ControlUnexpected)?;
        if !received.verify(&Key::of_move(key)) {
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
}

//! What must hold, beside what [`mat_dataplane::agent::Agent::audit`] looks at.
//!
//! 1. No packet reaches an instance that another one did not send to it.
//! 2. What is sent to a place is for a home that has been registered there.
//! 3. What a forwarder knows of its homes never grows older.
//!
//! That at most one site gives a home its packets is looked at where they are given
//! ([`crate::world`]).

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use mat_dataplane::rewrite::Packet;
use mat_proto::{Epoch, Home, Locator};

use crate::mapping::Mapping;

/// What instances have sent.
#[derive(Default)]
pub struct Ledger {
    sent: HashSet<(Home, Home, u64)>,
    /// To whom a payload was sent.
    receivers: BTreeMap<u64, HashSet<Home>>,
    epochs: BTreeMap<(usize, u32, Home), Epoch>,
}

impl Ledger {
    /// An instance sends a packet.
    pub fn sends(&mut self, packet: &[u8]) {
        if let Some((src, dst, mark)) = ends(packet)
            && let (Ok(src), Ok(dst)) = (Home::new(src), Home::new(dst))
        {
            self.sent.insert((src, dst, mark));
            self.receivers.entry(mark).or_default().insert(dst);
        }
    }

    /// An instance is given a packet.
    ///
    /// # Errors
    /// Nobody sent it that.
    pub fn receives(&self, packet: &[u8]) -> Result<(), String> {
        let Some((src, dst, mark)) = ends(packet) else {
            return Ok(());
        };
        let known = match (Home::new(src), Home::new(dst)) {
            (Ok(src), Ok(dst)) => self.sent.contains(&(src, dst, mark)),
            _ => false,
        };
        known
            .then_some(())
            .ok_or_else(|| format!("{dst} is given a packet from {src} that was not sent to it"))
    }

    /// A packet leaves a site for another.
    ///
    /// # Errors
    /// It goes to a place where whom it is for has never been.
    pub fn leaves(&self, packet: &[u8], map: &Mapping) -> Result<(), String> {
        let Some((_, dst, mark)) = ends(packet) else {
            return Ok(());
        };
        let to = Locator::new(dst).map_err(|_| format!("{dst} is no place to send to"))?;
        let receivers = self.receivers.get(&mark);
        let known = receivers.is_some_and(|homes| homes.iter().any(|home| map.knew(*home, to)));
        known
            .then_some(())
            .ok_or_else(|| format!("a packet goes to {to}, where nobody it is for has been"))
    }

    /// A forwarder, in one of its lives, knows this of a home.
    ///
    /// # Errors
    /// It has known better before.
    pub fn knows(
        &mut self,
        site: usize,
        life: u32,
        home: Home,
        epoch: Epoch,
    ) -> Result<(), String> {
        let last = self.epochs.insert((site, life, home), epoch);
        match last {
            Some(last) if last > epoch => Err(format!(
                "s{site} knew epoch {last} of {home}, and now {epoch}"
            )),
            _ => Ok(()),
        }
    }

    /// A home is no longer there, or comes anew.
    pub fn forgets(&mut self, site: usize, life: u32, home: Home) {
        self.epochs.remove(&(site, life, home));
    }
}

/// Whether it is a TCP segment or a datagram of an instance, and no error that a site made.
pub fn is_of_an_instance(packet: &[u8]) -> bool {
    ends(packet).is_some()
}

/// Addresses of a TCP segment or a datagram of an instance, and something that stays the same
/// when they change. Others (ICMP, control messages) are not looked at.
fn ends(packet: &[u8]) -> Option<(IpAddr, IpAddr, u64)> {
    const TCP: u8 = 6;
    let headers = Packet::parse(packet).ok()?;
    let checksum = match headers.udp_ports() {
        Some((_, to)) if to != crate::world::PORT => 6..8,
        None if packet.get(9) == Some(&TCP) => 16..18,
        _ => return None,
    };
    let mut segment = packet
        .get(headers.transport_offset()..headers.total_len())?
        .to_vec();
    segment.get_mut(checksum)?.fill(0);
    let mut hasher = DefaultHasher::new();
    segment.hash(&mut hasher);
    Some((headers.src(), headers.dst(), hasher.finish()))
}

/// A TCP segment in a few words.
pub fn segment(packet: &[u8]) -> Option<String> {
    let (from, to, _) = ends(packet)?;
    let headers = Packet::parse(packet).ok()?;
    if let Some((_, port)) = headers.udp_ports() {
        return Some(format!("a datagram from {from} to {to}, port {port}"));
    }
    let tcp = packet.get(headers.transport_offset()..headers.total_len())?;
    let number = |at: usize| Some(u32::from_be_bytes(*tcp.get(at..)?.first_chunk()?));
    let short = |at: usize| Some(u16::from_be_bytes(*tcp.get(at..)?.first_chunk()?));
    let flags = tcp.get(13)?;
    let length = tcp.len().checked_sub(usize::from(tcp.get(12)? >> 4) * 4)?;
    Some(format!(
        "{}:{} > {}:{} flags {flags:02x} seq {} ack {} window {} length {length}",
        headers.src(),
        short(0)?,
        headers.dst(),
        short(2)?,
        number(4)?,
        number(8)?,
        short(14)?,
    ))
}

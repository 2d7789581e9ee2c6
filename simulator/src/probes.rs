//! Numbered datagrams between instances: where nothing fails but moves are made, none is lost,
//! none comes twice, and none overtakes another, unless the sender itself has just moved: its new
//! way may be shorter than its old one.

use std::net::SocketAddr;
use std::time::Duration;

use mat_dataplane::rewrite::{Packet, build};
use mat_proto::Home;

/// Between two datagrams of a stream.
pub const PACE: Duration = Duration::from_millis(5);
/// The first stream's port; the others follow.
const PORT: u16 = 9000;
/// Octets of a datagram: headers and a number.
const LENGTH: usize = 20 + 8 + 4;

/// Datagrams from one instance to another.
#[derive(Debug)]
pub struct Stream {
    /// Who sends.
    pub from: usize,
    from_home: Home,
    to_home: Home,
    port: u16,
    count: u32,
    sent: u32,
    /// Which of those sent have come.
    seen: Vec<bool>,
    /// The last of those that have come.
    highest: u32,
}

/// What a packet is that an instance is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// Not a datagram of a stream.
    Other,
    /// Later than none that was sent after it.
    InOrder,
    /// Datagram `number` of this stream, after one that was sent later.
    Overtaken { stream: usize, number: u32 },
}

/// All streams of a run.
#[derive(Debug, Default)]
pub struct Probes(pub Vec<Stream>);

impl Probes {
    /// Another stream; gives back its number.
    pub fn begin(&mut self, from: (usize, Home), to: Home, count: u32) -> usize {
        self.0.push(Stream {
            from: from.0,
            from_home: from.1,
            to_home: to,
            port: PORT + self.0.len() as u16,
            count,
            sent: 0,
            seen: vec![false; count as usize],
            highest: 0,
        });
        self.0.len() - 1
    }

    /// A packet that an instance is given.
    ///
    /// # Errors
    /// It comes for the second time.
    pub fn receives(&mut self, packet: &[u8]) -> Result<Came, String> {
        let Some((_, port)) = Packet::parse(packet).ok().and_then(|h| h.udp_ports()) else {
            return Ok(Came::Other);
        };
        let n = usize::from(port.wrapping_sub(PORT));
        let number = packet.get(LENGTH - 4..).and_then(|n| n.first_chunk());
        let stream = self.0.get_mut(n);
        let (Some(stream), Some(number)) = (stream, number) else {
            return Ok(Came::Other);
        };
        let number = u32::from_be_bytes(*number);
        let Some(seen) = stream.seen.get_mut(number as usize) else {
            return Ok(Came::Other);
        };
        if std::mem::replace(seen, true) {
            let (from, to) = (stream.from_home, stream.to_home);
            return Err(format!("datagram {number} of {from} to {to} comes twice"));
        }
        if number < stream.highest {
            return Ok(Came::Overtaken { stream: n, number });
        }
        stream.highest = number;
        Ok(Came::InOrder)
    }

    /// Streams that are not through.
    pub fn unfinished(&self) -> Vec<String> {
        let open = self.0.iter().filter(|s| s.seen.contains(&false));
        open.map(|s| {
            let missing = (0..).zip(&s.seen).filter(|(_, seen)| !**seen);
            let missing: Vec<u32> = missing.map(|(n, _)| n).take(5).collect();
            format!(
                "datagrams of {} to {}: {} of {} sent, missing {missing:?} ..",
                s.from_home, s.to_home, s.sent, s.count
            )
        })
        .collect()
    }
}

impl Stream {
    /// The next datagram; `None` when all are sent.
    pub fn next(&mut self) -> Option<Vec<u8>> {
        if self.sent == self.count {
            return None;
        }
        let number = self.sent.to_be_bytes();
        self.sent += 1;
        let ends = [self.from_home, self.to_home].map(|h| SocketAddr::new(h.ip(), self.port));
        let mut packet = vec![0; LENGTH];
        build::udp(&mut packet, ends[0], ends[1], &number).expect("room for a number");
        Some(packet)
    }
}

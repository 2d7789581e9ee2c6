//! All streams and flows of one cell at once.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::Ends;
use super::datagrams::{BURST, Schedule};
use super::matrix::{Cell, Family, Path};
use super::payload;
use super::tcp::{Stream, Writes};
use super::udp::{Flow, Kind, Outcome};
use crate::interrupt;

/// Bytes of TCP for each datagram of each flow, and how many datagrams there are at least.
const BYTES_PER_DATAGRAM: u64 = 100_000;
const LEAST_DATAGRAMS: u64 = 16 * BURST;
/// How many bytes of the largest packet are not payload of a datagram.
const HEADERS: [usize; 2] = [20 + 8, 40 + 8];
const MTU: usize = 1500;

/// What a cell has to carry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// Of TCP, both directions together.
    pub(super) bytes: u64,
    /// How long it may send.
    pub(super) time: Option<Duration>,
    pub(super) seed: u64,
}

/// What became of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Carried {
    pub(super) tcp_bytes: u64,
    pub(super) datagrams_sent: u64,
    pub(super) datagrams_received: u64,
    pub(super) datagram_bytes: u64,
    pub(super) datagrams_twice: u64,
    pub(super) wrong: u64,
    pub(super) faults: Vec<String>,
}

/// Sends everything in both directions and waits until it has arrived, or has not.
pub(super) fn run(both_ways: &[Ends<'_>; 2], load: &Load, cell: &Cell) -> Result<Carried> {
    let (mut streams, mut flows) = (Vec::new(), Vec::new());
    for (ends, bytes) in both_ways.iter().zip(halves(load.bytes)) {
        for (writes, bytes) in portions(bytes) {
            let seed = payload::seed(load.seed, streams.len() as u64);
            streams.push(Stream::open(ends, seed, bytes, writes)?);
        }
        for kind in kinds(cell) {
            let seed = payload::seed(!load.seed, flows.len() as u64);
            flows.push(Flow::open(ends, schedule(cell, load, seed), kind)?);
        }
    }
    let until = load.time.map(|time| Instant::now() + time);
    let duplicates = cell.path == Path::Mess;
    let mut carried = Carried::default();
    thread::scope(|scope| {
        let streams: Vec<_> = streams
            .iter()
            .map(|stream| {
                let sending = scope.spawn(move || stream.send(until));
                (sending, scope.spawn(move || stream.receive()))
            })
            .collect();
        let flows: Vec<_> = flows
            .iter()
            .map(|flow| {
                let sending = scope.spawn(move || flow.send(until));
                (sending, scope.spawn(move || flow.receive(duplicates)))
            })
            .collect();
        for (sending, receiving) in streams {
            let sent = sending.join().expect("sending does not panic");
            let received = receiving.join().expect("receiving does not panic");
            match (sent, received) {
                (Ok(sent), Ok(received)) => match sent.fault(&received) {
                    None => carried.tcp_bytes += received.bytes,
                    Some(fault) => {
                        carried.wrong += 1;
                        carried.faults.push(format!("TCP: {fault}"));
                    }
                },
                (Err(error), _) | (_, Err(error)) => {
                    carried.faults.push(format!("TCP: {error:#}"));
                }
            }
        }
        for (sending, receiving) in flows {
            let sent = sending.join().expect("sending does not panic");
            let received = receiving.join().expect("receiving does not panic");
            match (sent, received) {
                (Ok(()), Ok(outcome)) => carried.add(outcome),
                (Err(error), _) | (_, Err(error)) => {
                    carried.faults.push(format!("UDP: {error:#}"));
                }
            }
        }
    });
    // What an interruption has broken off is no fault.
    ensure!(!interrupt::requested(), "interrupted");
    Ok(carried)
}

impl Carried {
    fn add(&mut self, flow: Outcome) {
        self.datagrams_sent += flow.sent;
        self.datagrams_received += flow.received;
        self.datagram_bytes += flow.bytes;
        self.datagrams_twice += flow.duplicates;
        self.wrong += flow.wrong;
        let faults = flow.complaints.iter().map(|what| format!("UDP: {what}"));
        self.faults.extend(faults);
        // The window waits for the receiver, so little gets lost but on purpose.
        if flow.received < flow.sent / 2 {
            let (received, sent) = (flow.received, flow.sent);
            self.faults
                .push(format!("UDP: {received} of {sent} datagrams arrived"));
        }
    }
}

fn halves(bytes: u64) -> [u64; 2] {
    [bytes / 2, bytes - bytes / 2]
}

/// The bytes of one direction's streams; the first gets what does not divide.
fn portions(bytes: u64) -> Vec<(Writes, u64)> {
    let part = |share: u64| bytes / 100 * share;
    let mut portions: Vec<_> = Writes::SHARES
        .into_iter()
        .map(|(writes, share)| (writes, part(share)))
        .collect();
    let sum: u64 = portions.iter().map(|(_, bytes)| bytes).sum();
    portions[0].1 += bytes - sum;
    portions
}

fn kinds(cell: &Cell) -> Vec<Kind> {
    // Without a checksum nobody notices a flipped bit; in IPv6 there always is one.
    if cell.family == Family::Ipv4 && cell.path != Path::Corrupt {
        vec![Kind::Single, Kind::Segmented, Kind::Unchecked]
    } else {
        vec![Kind::Single, Kind::Single, Kind::Segmented]
    }
}

fn schedule(cell: &Cell, load: &Load, seed: u64) -> Schedule {
    let headers = match cell.family {
        Family::Ipv4 => HEADERS[0],
        Family::Ipv6 => HEADERS[1],
    };
    let datagrams = (load.bytes / BYTES_PER_DATAGRAM).max(LEAST_DATAGRAMS);
    Schedule {
        seed,
        total: datagrams.next_multiple_of(BURST),
        unfragmented: MTU - headers,
        // A flipped bit in one of several fragments is not counted for itself.
        fragments: cell.path != Path::Corrupt,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stream_has_bytes_and_none_are_left_over() {
        for bytes in [1000, 9_999, 15_000_000_001] {
            let all = halves(bytes).map(portions).concat();
            assert!(all.iter().all(|(_, bytes)| *bytes > 0), "{all:?}");
            assert_eq!(all.iter().map(|(_, bytes)| bytes).sum::<u64>(), bytes);
        }
    }
}

//! A data thread's work on a device of the tests' own.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mat_proto::auth::Token;
use mat_proto::{Binding, CONTROL_PORT, Epoch, Home, Locator};
use nix::errno::Errno;
use tokio::sync::mpsc;

use super::worker::{BATCH, Shared, Worker};
use super::*;
use crate::agent::{AgentConfig, ContextRecord, Limits, OwnRecord, Snapshot};
use crate::counters::Cause;
use crate::frame::{GSO_UDP_L4, Header, Offload};
use crate::gso;
use crate::rewrite::{build, checksum};

#[path = "../../../tests/common/counting.rs"]
mod counting;

use counting::allocations;

const NOW: Now = Now {
    time: Time(0),
    unix_us: 1_795_000_000_000_000,
};
const OWN: &str = "192.0.2.1";
const PEER: &str = "192.0.2.2";
const LOCAL: &str = "198.51.100.1";
const REMOTE: &str = "198.51.100.2";

/// Packets go in at one end and come out at the other.
#[derive(Default)]
struct Pipe {
    vnet: bool,
    refuses: Cell<Option<u8>>,
    waiting: RefCell<VecDeque<Vec<u8>>>,
    written: RefCell<Vec<(Offload, Vec<u8>)>>,
    /// Bytes written, for who does not want to know more.
    counting: Cell<Option<usize>>,
}

impl Device for &Pipe {
    fn vnet(&self) -> bool {
        self.vnet
    }

    fn recv(&self, frame: &mut [u8]) -> io::Result<Option<usize>> {
        let Some(next) = self.waiting.borrow_mut().pop_front() else {
            return Ok(None);
        };
        frame[..next.len()].copy_from_slice(&next);
        Ok(Some(next_len(frame, self.vnet)))
    }

    fn send(&self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        if let Some(bytes) = self.counting.get() {
            let more: usize = pieces.iter().map(|piece| piece.len()).sum();
            self.counting.set(Some(bytes + more));
            return Ok(());
        }
        let mut frame: Vec<u8> = pieces.iter().flat_map(|piece| piece.to_vec()).collect();
        let mut offload = Offload::default();
        if self.vnet {
            offload.0.copy_from_slice(&frame[..Offload::LEN]);
            frame.drain(..Offload::LEN);
        }
        if self.refuses.get() == Some(offload.0[1]) && offload.is_super_packet() {
            return Err(Errno::EINVAL.into());
        }
        self.written.borrow_mut().push((offload, frame));
        Ok(())
    }
}

/// How long a frame is, by its IPv4 header.
fn next_len(frame: &[u8], vnet: bool) -> usize {
    let at = if vnet { Offload::LEN } else { 0 };
    at + usize::from(u16::from_be_bytes([frame[at + 2], frame[at + 3]]))
}

impl Pipe {
    fn new(vnet: bool) -> Self {
        Pipe {
            vnet,
            ..Pipe::default()
        }
    }

    fn put(&self, offload: Offload, packet: &[u8]) {
        let header = if self.vnet { &offload.0[..] } else { &[] };
        let frame = [header, packet].concat();
        self.waiting.borrow_mut().push_back(frame);
    }

    /// What came out, super-packets cut again.
    fn packets(&self) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        for (offload, packet) in self.written.borrow().iter() {
            let buffer = &mut vec![0; packet.len()];
            gso::cut(offload, packet, buffer, |piece| {
                packets.push(piece.to_vec())
            })
            .unwrap();
        }
        packets
    }
}

/// A worker whose agent has one open context.
fn worker(pipe: &Pipe) -> Worker<&Pipe> {
    let agent = agent();
    let (wanted, _) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared {
        fib: Arc::clone(agent.fib()),
        counters: Arc::clone(agent.counters()),
        control_port: CONTROL_PORT,
        agent: Mutex::new(agent),
        wanted,
    });
    let joins = if pipe.vnet {
        Joins::ALL
    } else {
        Joins::PLAIN_GUEST
    };
    Worker::new(pipe, joins, shared, Arc::default())
}

fn agent() -> Agent {
    let config = AgentConfig {
        homes: vec!["192.0.2.0/24".parse().unwrap()],
        locators: vec!["198.51.100.0/24".parse().unwrap()],
        pool: vec!["198.51.100.0/31".parse().unwrap()],
        exclusive: false,
        control_port: CONTROL_PORT,
        lease_seconds: 30,
        poll: Duration::from_secs(1),
        stop_after: None,
        zoning: crate::zoning::Zoning::default(),
        grace: Duration::from_secs(10),
        limits: Limits::default(),
    };
    let home = |text: &str| text.parse::<Home>().unwrap();
    let locator = |text: &str| text.parse::<Locator>().unwrap();
    let binding = |at: &str, locator_at: &str| {
        Binding::single(home(at), Epoch(1), 30, locator(locator_at), CONTROL_PORT).unwrap()
    };
    let mut agent = Agent::new(config, NOW, |buffer| buffer.fill(7));
    let snapshot = Snapshot {
        homes: vec![OwnRecord {
            home: home(OWN),
            reserved: vec![locator(LOCAL)],
            claim: true,
            link: None,
            known: Some(binding(OWN, LOCAL)),
            departed: None,
            arriving: None,
        }],
        contexts: vec![ContextRecord {
            own: home(OWN),
            peer: home(PEER),
            binding: binding(PEER, REMOTE),
            previous: Vec::new(),
            mine: Token([1; 16]),
            theirs: Token([2; 16]),
            sequence_out: 0,
            sequence_in: 0,
            offered: None,
        }],
        resting: Vec::new(),
    };
    agent.restore(NOW, snapshot);
    agent.link_ready(NOW, home(OWN), true);
    while agent.poll_output().is_some() {}
    agent
}

fn udp(from: &str, to: &str, port: u16, payload: &[u8]) -> Vec<u8> {
    let at = |text: &str, port| SocketAddr::new(text.parse::<IpAddr>().unwrap(), port);
    let mut packet = vec![0; payload.len() + 28];
    build::udp(&mut packet, at(from, port), at(to, 7), payload).unwrap();
    // The identification of what may not be fragmented means nothing.
    packet[4..6].fill(0);
    packet[6] = 0x40;
    packet[10..12].fill(0);
    let sum = checksum::ipv4_header(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// A packet as the peer's forwarder gets it, but for the identification, which the
/// kernel's way of cutting counts up.
fn sent(port: u16, payload: &[u8]) -> Vec<u8> {
    udp(LOCAL, REMOTE, port, payload)
}

fn without_identification(mut packets: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    for packet in &mut packets {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
        let sum = checksum::ipv4_header(&packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    packets
}

fn pump(worker: &mut Worker<&Pipe>) {
    while worker.pump(NOW).unwrap() {}
}

#[test]
fn what_comes_fast_is_joined_and_arrives_as_it_was() {
    let pipe = Pipe::new(true);
    let mut worker = worker(&pipe);
    let payloads: Vec<[u8; 64]> = (0..BATCH as u8).map(|n| [n; 64]).collect();
    for payload in &payloads {
        pipe.put(Offload::default(), &udp(OWN, PEER, 5000, payload));
    }
    pump(&mut worker);
    assert_eq!(pipe.written.borrow().len(), 1);
    let expected: Vec<_> = payloads.iter().map(|p| sent(5000, p)).collect();
    assert_eq!(without_identification(pipe.packets()), expected);
    let meter = worker.meter().reading();
    assert_eq!((meter.joined, meter.joined_writes), (64, 1));
    assert_eq!((meter.reads, meter.forwarded, meter.writes), (64, 64, 1));
    let agent = worker.shared().agent();
    let status = agent.status(NOW);
    assert_eq!(status.contexts[0].sent.packets, 64);
    assert_eq!(status.contexts[0].sent.bytes, 64 * (64 + 28));
}

#[test]
fn a_kernel_that_refuses_joined_packets_gets_them_singly() {
    let pipe = Pipe::new(true);
    pipe.refuses.set(Some(GSO_UDP_L4));
    let mut worker = worker(&pipe);
    for round in 0..10 {
        for n in 0..4 {
            pipe.put(
                Offload::default(),
                &udp(OWN, PEER, 5000, &[round * 4 + n; 64]),
            );
        }
        pump(&mut worker);
    }
    let expected: Vec<_> = (0..40).map(|n| sent(5000, &[n; 64])).collect();
    assert_eq!(pipe.packets(), expected);
    // By now it is not asked any more.
    pipe.refuses.set(None);
    pipe.written.borrow_mut().clear();
    for n in 0..4 {
        pipe.put(Offload::default(), &udp(OWN, PEER, 5000, &[n; 64]));
    }
    pump(&mut worker);
    assert_eq!(pipe.written.borrow().len(), 4);
    assert_eq!(
        sink::forgone(&[Arc::clone(worker.meter())]),
        ["UDP over IPv4"]
    );
}

/// One TCP segment with a right checksum.
fn tcp(from: &str, to: &str, sequence: u32, payload: &[u8]) -> Vec<u8> {
    const HEADERS: usize = 40;
    let mut packet = udp(from, to, 5000, &[&[0; 12], payload].concat());
    assert_eq!(packet.len(), HEADERS + payload.len());
    packet[9] = 6;
    packet[10..12].fill(0);
    let sum = checksum::ipv4_header(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet[24..28].copy_from_slice(&sequence.to_be_bytes());
    packet[28..32].fill(1);
    packet[32..34].copy_from_slice(&[0x50, 0x10]);
    packet[34..HEADERS].fill(0);
    let ends = [from, to].map(|text| text.parse().unwrap());
    let sum = checksum::transport(ends[0], ends[1], 6, &packet[20..]);
    packet[36..38].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// A host takes a TCP segment of any size; a peer's network does not.
#[test]
fn without_a_header_only_what_is_for_this_host_is_joined() {
    let pipe = Pipe::new(false);
    let mut worker = worker(&pipe);
    let payload: Vec<u8> = (0..999).map(|n| n as u8).collect();
    let pieces: Vec<&[u8]> = payload.chunks(333).collect();
    for (from, to) in [(REMOTE, LOCAL), (OWN, PEER)] {
        for (n, piece) in pieces.iter().enumerate() {
            pipe.put(Offload::default(), &tcp(from, to, 333 * n as u32, piece));
        }
    }
    pump(&mut worker);
    let mut expected = vec![tcp(PEER, OWN, 0, &payload)];
    for (n, piece) in pieces.iter().enumerate() {
        expected.push(tcp(LOCAL, REMOTE, 333 * n as u32, piece));
    }
    assert_eq!(pipe.packets(), expected);

    // What was spoilt on the way stays so, for the receiver to find out.
    pipe.written.borrow_mut().clear();
    let mut expected = Vec::new();
    for (n, piece) in pieces.iter().enumerate() {
        let spoilt = |from, to| {
            let mut packet = tcp(from, to, 333 * n as u32, piece);
            packet[100] ^= u8::from(n == 1);
            packet
        };
        pipe.put(Offload::default(), &spoilt(REMOTE, LOCAL));
        expected.push(spoilt(PEER, OWN));
    }
    pump(&mut worker);
    assert_eq!(pipe.packets(), expected);
}

/// A batch of datagrams as the kernel hands it over, with a partial checksum.
fn super_packet() -> (Offload, Vec<u8>) {
    let mut packet = udp(OWN, PEER, 5000, &[9; 3000]);
    let ends = (OWN.parse().unwrap(), PEER.parse().unwrap());
    let sum = checksum::pseudo_header(ends.0, ends.1, 17, 3008);
    packet[26..28].copy_from_slice(&sum.to_be_bytes());
    let header = Header {
        flags: 1,
        gso_type: GSO_UDP_L4,
        hdr_len: 28,
        gso_size: 1000,
        csum_start: 20,
        csum_offset: 6,
    };
    (header.into(), packet)
}

#[test]
fn a_super_packet_goes_whole_or_if_that_is_refused_in_pieces() {
    let expected: Vec<_> = (0..3).map(|_| sent(5000, &[9; 1000])).collect();
    for refuses in [None, Some(GSO_UDP_L4)] {
        let pipe = Pipe::new(true);
        pipe.refuses.set(refuses);
        let mut worker = worker(&pipe);
        let (offload, packet) = super_packet();
        pipe.put(offload, &packet);
        pump(&mut worker);
        let whole = refuses.is_none();
        assert_eq!(pipe.written.borrow().len(), if whole { 1 } else { 3 });
        assert_eq!(without_identification(pipe.packets()), expected);
        assert_eq!(worker.meter().reading().cut, u64::from(!whole));
    }
}

#[test]
fn a_kind_of_super_packet_nobody_asked_for_is_dropped_and_counted() {
    let pipe = Pipe::new(true);
    let mut worker = worker(&pipe);
    let (mut offload, packet) = super_packet();
    offload.0[1] = 3;
    pipe.put(offload, &packet);
    pump(&mut worker);
    assert!(pipe.written.borrow().is_empty());
    let mut counted = worker.shared().counters.iter();
    assert!(counted.any(|counted| counted == (Cause::UnknownGso.as_str(), 1)));
}

#[test]
fn a_plain_device_carries_packets_without_header() {
    let pipe = Pipe::new(false);
    let mut worker = worker(&pipe);
    pipe.put(Offload::default(), &udp(OWN, PEER, 5000, &[1; 100]));
    pipe.put(Offload::default(), &udp(REMOTE, LOCAL, 5000, &[2; 100]));
    pump(&mut worker);
    let expected = [sent(5000, &[1; 100]), udp(PEER, OWN, 5000, &[2; 100])];
    assert_eq!(pipe.packets(), expected);
}

/// What the agent decides about stays where it was among what the table decides about.
#[test]
fn packets_for_the_agent_keep_their_place() {
    let pipe = Pipe::new(true);
    let mut worker = worker(&pipe);
    let mut expected = Vec::new();
    for n in 0..20u8 {
        let mut packet = udp(OWN, PEER, 5000, &[n; 64]);
        let mut arrives = sent(5000, &[n; 64]);
        if n % 5 == 4 {
            // A first fragment: nothing plain.
            for packet in [&mut packet, &mut arrives] {
                packet[6] = 0x20;
                packet[10..12].fill(0);
                let sum = checksum::ipv4_header(&packet[..20]);
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
            }
        }
        pipe.put(Offload::default(), &packet);
        expected.push(arrives);
    }
    pump(&mut worker);
    let mut packets = without_identification(pipe.packets());
    packets
        .iter_mut()
        .chain(&mut expected)
        .for_each(|packet| packet[6] = 0);
    let payloads = |packets: &[Vec<u8>]| -> Vec<u8> { packets.iter().map(|p| p[28]).collect() };
    assert_eq!(payloads(&packets), payloads(&expected));
    assert_eq!(worker.meter().reading().forwarded, 16);
}

#[test]
fn no_packet_allocates_anything() {
    let pipe = Pipe::new(true);
    let mut worker = worker(&pipe);
    pipe.counting.set(Some(0));
    let (offload, whole) = super_packet();
    // Buffers of the joiner find their size in the first round.
    let mut before = 0;
    for _round in 0..2 {
        for n in 0..10 * BATCH {
            let port = 5000 + (n % 3) as u16;
            pipe.put(Offload::default(), &udp(OWN, PEER, port, &[1; 64]));
            pipe.put(Offload::default(), &udp(REMOTE, LOCAL, port, &[1; 900]));
            if n % 100 == 0 {
                pipe.put(offload, &whole);
            }
        }
        before = allocations();
        pump(&mut worker);
    }
    assert_eq!(allocations(), before);
    assert!(pipe.counting.get() > Some(0));
    drop(vec![0u8; 8]);
    assert_eq!(allocations(), before + 1, "the counter counts");
    let locked = worker.shared().agent.try_lock().is_ok();
    assert!(locked && worker.meter().forwarded.load(Relaxed) > 2000);
}

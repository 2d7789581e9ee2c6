//! The whole verdict on a packet of an open context: look-ups, accounts and rewriting, in both
//! directions, with one context and with 10,000 that take turns.
//!
//! Every iteration starts from a fresh copy of the packet, since the agent rewrites in place;
//! the copy is part of the time.

mod packets;

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mat_dataplane::agent::{
    Agent, AgentConfig, ContextRecord, Limits, OwnRecord, Snapshot, Verdict,
};
use mat_dataplane::clock::{Now, Time};
use mat_dataplane::fib::Candidate;
use mat_dataplane::frame::Offload;
use mat_proto::auth::Token;
use mat_proto::{Binding, CONTROL_PORT, Epoch, Home, Locator};

use packets::{Ends, families, tcp};

const PAYLOAD: usize = 64;
const NOW: Now = Now {
    time: Time(0),
    unix_us: 1_795_000_000_000_000,
};

fn one_context(c: &mut Criterion) {
    for Ends {
        name,
        homes,
        locators,
    } in families()
    {
        let peers = [(homes.1, locators.1)];
        directions(
            c,
            &format!("agent/{name}/1 context"),
            (homes.0, locators.0),
            &peers,
        );
    }
}

fn many_contexts(c: &mut Criterion) {
    let address = |net: u8, n: u16| {
        let [high, low] = n.to_be_bytes();
        IpAddr::from(Ipv4Addr::new(198, net, high, low))
    };
    // A step that is prime to 10,000 visits all of them in an order no cache foresees.
    let order = (0..10_000).map(|n: u32| (n * 7_919 % 10_000) as u16 + 256);
    let peers: Vec<_> = order.map(|n| (address(18, n), address(19, n))).collect();
    let own = (address(18, 1), address(19, 1));
    directions(c, "agent/ipv4/10,000 contexts", own, &peers);
}

/// Outbound: an own home to a peer's home. Inbound: a peer's locator to an own locator.
fn directions(c: &mut Criterion, name: &str, own: (IpAddr, IpAddr), peers: &[(IpAddr, IpAddr)]) {
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements(1));
    let mut agent = agent(own, peers);
    let outbound: Vec<_> = peers
        .iter()
        .map(|peer| tcp((own.0, peer.0), PAYLOAD))
        .collect();
    let inbound: Vec<_> = peers
        .iter()
        .map(|peer| tcp((peer.1, own.1), PAYLOAD))
        .collect();
    for (direction, packets) in [("outbound", outbound), ("inbound", inbound)] {
        for packet in &packets {
            let verdict = agent.handle_packet(NOW, &Offload::default(), &mut packet.clone());
            assert_eq!(verdict, Verdict::Send, "the context is open");
        }
        let fib = Arc::clone(agent.fib());
        let mut taken = packets.iter().cycle();
        let mut buffer = taken.next().expect("at least one").clone();
        group.bench_function(format!("{direction}, forwarding table alone"), |b| {
            b.iter(|| {
                buffer.copy_from_slice(taken.next().expect("endless"));
                let packet = black_box(&mut buffer);
                let candidate = Candidate::of(&fib, packet, CONTROL_PORT).expect("plain");
                let hit = candidate.forward(&fib, &Offload::default(), packet, NOW.time);
                let (slot, direction) = hit.expect("the context is open");
                fib.count(slot, direction, 1, packet.len() as u64, NOW.time);
            });
        });
        let mut packets = packets.iter().cycle();
        let mut buffer = packets.next().expect("at least one").clone();
        group.bench_function(direction, |b| {
            b.iter(|| {
                buffer.copy_from_slice(packets.next().expect("endless"));
                agent.handle_packet(NOW, &Offload::default(), black_box(&mut buffer))
            });
        });
    }
    group.finish();
}

/// An agent with open contexts, as it comes back from a restart.
fn agent(own: (IpAddr, IpAddr), peers: &[(IpAddr, IpAddr)]) -> Agent {
    let everything = ["0.0.0.0/0", "::/0"].map(|net| net.parse().expect("a literal prefix"));
    let prefix = |ip: IpAddr| ip.into();
    let config = AgentConfig {
        homes: everything.to_vec(),
        locators: everything.to_vec(),
        pool: vec![prefix(own.1)],
        exclusive: false,
        control_port: CONTROL_PORT,
        lease_seconds: 30,
        poll: Duration::from_secs(1),
        stop_after: None,
        zoning: mat_dataplane::zoning::Zoning::default(),
        grace: Duration::from_secs(10),
        limits: Limits::default(),
    };
    let mut agent = Agent::new(config, NOW, |buffer| buffer.fill(7));
    let home = home(own.0);
    let contexts = peers.iter().map(|peer| ContextRecord {
        own: home,
        peer: binding(*peer).home(),
        binding: binding(*peer),
        previous: Vec::new(),
        mine: Token([1; 16]),
        theirs: Token([2; 16]),
        sequence_out: 0,
        sequence_in: 0,
        offered: None,
    });
    let snapshot = Snapshot {
        homes: vec![OwnRecord {
            home,
            reserved: vec![locator(own.1)],
            claim: true,
            link: None,
            known: Some(binding(own)),
            departed: None,
            arriving: None,
        }],
        contexts: contexts.collect(),
        resting: Vec::new(),
    };
    agent.restore(NOW, snapshot);
    agent.link_ready(NOW, home, true);
    while agent.poll_output().is_some() {}
    agent
}

fn binding((at_home, at): (IpAddr, IpAddr)) -> Binding {
    let binding = Binding::single(home(at_home), Epoch(1), 30, locator(at), CONTROL_PORT);
    binding.expect("one locator of the same family")
}

fn home(ip: IpAddr) -> Home {
    Home::new(ip).expect("a unicast address")
}

fn locator(ip: IpAddr) -> Locator {
    Locator::new(ip).expect("a unicast address")
}

criterion_group!(benches, one_context, many_contexts);
criterion_main!(benches);

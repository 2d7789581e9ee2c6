//! Packets between instances, and what happens to the rest.

use super::world::*;
use crate::agent::Proof;

/// Two sites, one instance each.
fn pair() -> World {
    let mut world = World::new(2);
    world.attach(0, home(10));
    world.attach(1, home(20));
    world.run_for(SECOND);
    world
}

#[test]
fn the_first_packet_waits_for_the_context_and_arrives() {
    let mut world = pair();
    assert_eq!(
        world.map[&home(10)].active().unwrap().locator,
        locator(0, 1)
    );
    world.send(0, home(10), home(20).ip(), b"first");
    world.send(0, home(10), home(20).ip(), b"second");
    world.run_for(SECOND);
    assert_eq!(
        world.payloads(home(20), home(10).ip()),
        [b"first".to_vec(), b"second".to_vec()]
    );
    let begin = world.now;
    world.send(1, home(20), home(10).ip(), b"answer");
    world.run_for(DELAY);
    assert_eq!(
        world.payloads(home(10), home(20).ip()),
        [b"answer"],
        "{begin} open: no waiting"
    );
    assert_eq!(world.misdelivered, 0);
}

#[test]
fn simultaneous_first_packets_merge_into_one_context() {
    let mut world = pair();
    world.send(0, home(10), home(20).ip(), b"there");
    world.send(1, home(20), home(10).ip(), b"here");
    world.run_for(SECOND);
    assert_eq!(world.payloads(home(20), home(10).ip()), [b"there"]);
    assert_eq!(world.payloads(home(10), home(20).ip()), [b"here"]);
    for agent in &world.agents {
        let status = agent.status(world.clock());
        assert_eq!(status.contexts.len(), 1);
        assert_eq!(status.contexts[0].state, "open");
    }
}

#[test]
fn the_exchange_survives_the_loss_of_any_of_its_messages() {
    for lost in 1..=4 {
        let mut world = pair();
        let mut seen = 0;
        world.lose = Box::new(move |_, packet| {
            seen += u32::from(is_control(packet));
            is_control(packet) && seen == lost
        });
        world.send(0, home(10), home(20).ip(), b"x");
        world.run_for(SECOND);
        assert_eq!(
            world.payloads(home(20), home(10).ip()),
            [b"x"],
            "message {lost} lost"
        );
    }
}

#[test]
fn a_home_without_binding_is_unreachable_at_once() {
    let mut world = pair();
    world.send(0, home(10), home(99).ip(), b"x");
    world.run_for(SECOND);
    assert_eq!(world.counter(0, "no_binding"), 1);
    // The instance hears of it: an ICMP error from the absent home.
    assert_eq!(world.payloads(home(10), home(99).ip()).len(), 1);
    assert!(world.agents[0].status(world.clock()).contexts.is_empty());
}

#[test]
fn an_unreachable_mapping_service_is_not_the_same_as_no_binding() {
    let mut world = pair();
    world.map_up = false;
    world.send(0, home(10), home(20).ip(), b"patience");
    world.run_for(3 * SECOND);
    assert_eq!(world.counter(0, "no_binding"), 0);
    assert!(!world.agents[0].status(world.clock()).mapping.reachable);
    world.map_up = true;
    world.run_for(SECOND);
    assert_eq!(world.payloads(home(20), home(10).ip()), [b"patience"]);
}

#[test]
fn established_flows_outlive_the_mapping_service() {
    let mut world = pair();
    world.send(0, home(10), home(20).ip(), b"0");
    world.run_for(SECOND);
    world.map_up = false;
    for _ in 0..200 {
        world.send(0, home(10), home(20).ip(), b"x");
        world.send(1, home(20), home(10).ip(), b"y");
        world.run_for(SECOND);
    }
    assert_eq!(world.payloads(home(20), home(10).ip()).len(), 201);
    assert_eq!(world.payloads(home(10), home(20).ip()).len(), 200);
}

#[test]
fn peers_that_are_not_mobile_are_reached_one_to_one() {
    let mut world = pair();
    let far = "203.0.113.80".parse().unwrap();
    let mut packet = udp(home(10).ip(), far, b"q");
    let now = world.clock();
    let verdict = world.agents[0].handle_packet(now, &Default::default(), &mut packet);
    assert_eq!(verdict, crate::agent::Verdict::Send);
    let headers = crate::rewrite::Packet::parse(&packet).unwrap();
    assert_eq!((headers.src(), headers.dst()), (locator(0, 1).ip(), far));
    world.enter(0, udp(far, locator(0, 1).ip(), b"a"));
    assert_eq!(world.payloads(home(10), far), [b"a"]);
    let explanation = world.agents[0].explain(world.clock(), home(10).ip(), far);
    assert_eq!(explanation.verdict, "pass");
}

#[test]
fn mobile_locators_and_the_control_port_are_closed_to_instances() {
    let mut world = pair();
    world.send(0, home(10), locator(1, 1).ip(), b"x");
    assert_eq!(world.counter(0, "to_mobile_locator"), 1);
    let mut packet = udp(home(10).ip(), home(20).ip(), b"x");
    packet[22..24].copy_from_slice(&6283u16.to_be_bytes());
    world.enter(0, packet);
    assert_eq!(world.counter(0, "control_port_reserved"), 1);
}

#[test]
fn instances_at_one_site_talk_without_rewriting() {
    let mut world = pair();
    world.attach(0, home(11));
    world.run_for(SECOND);
    world.send(0, home(10), home(11).ip(), b"neighbour");
    assert_eq!(world.payloads(home(11), home(10).ip()), [b"neighbour"]);
    assert_eq!(
        world.agents[0]
            .explain(world.clock(), home(10).ip(), home(11).ip())
            .verdict,
        "local"
    );
}

#[test]
fn a_receiver_that_lost_its_memory_loses_no_packet() {
    let mut world = pair();
    world.send(0, home(10), home(20).ip(), b"1");
    world.run_for(SECOND);
    world.agents[1] = world.fresh(1);
    world.attach(1, home(20));
    world.run_for(SECOND);
    world.send(0, home(10), home(20).ip(), b"2");
    world.run_for(SECOND);
    assert_eq!(
        world.payloads(home(20), home(10).ip()),
        [b"1".to_vec(), b"2".to_vec()]
    );
    assert_eq!(world.misdelivered, 0);
}

#[test]
fn a_restart_with_its_state_goes_on_without_a_message() {
    let mut world = pair();
    world.send(0, home(10), home(20).ip(), b"1");
    world.run_for(SECOND);
    world.restart(1);
    world.send(0, home(10), home(20).ip(), b"2");
    world.run_for(DELAY);
    assert_eq!(
        world.payloads(home(20), home(10).ip()).last().unwrap(),
        b"2"
    );
}

#[test]
fn strangers_cannot_make_us_deliver_or_hold_without_bound() {
    let mut world = pair();
    for n in 0..5000u32 {
        let from = std::net::Ipv4Addr::from(u32::from_be_bytes([198, 51, 100, 0]) | (n % 256));
        world.enter(0, udp(from.into(), locator(0, 1).ip(), &[0; 1000]));
    }
    assert!(world.received.is_empty());
    let held = world.agents[0].status(world.clock()).held_bytes;
    assert!(held < 64 << 20, "{held}");
    world.run_for(10 * SECOND);
    assert_eq!(world.agents[0].status(world.clock()).held_bytes, 0);
}

#[test]
fn an_unverified_answer_counts_only_where_the_network_is_trusted() {
    let mut world = pair();
    let now = world.clock();
    world.send(0, home(10), home(20).ip(), b"x");
    let answer = crate::agent::Answer::Found {
        binding: world.map[&home(20)].clone(),
        proof: Proof::Missing,
    };
    world.agents[0].handle_lookup(now, home(20), answer);
    assert_eq!(world.counter(0, "unverified_answer"), 1);
    assert!(world.agents[0].status(now).contexts[0].remote.is_none());
}

/// A lease of 30 s runs out while the flow goes on, 20 s after it fell silent.
#[test]
fn a_flow_that_goes_on_after_a_pause_does_not_wait_for_its_lease() {
    const PACKETS: u64 = 1500;
    let mut world = pair();
    world.send(0, home(10), home(20).ip(), b"first");
    world.run_for(20 * SECOND);
    let before = world.forwarded;
    for _ in 0..PACKETS {
        world.send(0, home(10), home(20).ip(), b"later");
        world.run_for(DELAY);
    }
    // Two forwarders each, and each has asked its agent once, after the pause.
    assert_eq!(world.forwarded - before, 2 * (PACKETS - 1));
    assert_eq!(world.payloads(home(20), home(10).ip()).len(), 1501);
}

//! Homes that change their place.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use mat_proto::Epoch;

use super::world::*;
use crate::agent::{Handover, OpError, Proof};
use crate::frame::Offload;
use crate::gso::{Joinable, Joiner, Reply};
use crate::rewrite::{Packet, checksum};

#[test]
fn a_planned_move_loses_nothing_that_was_sent_to_the_instance() {
    let mut world = World::talking(3);
    let numbers: Vec<Vec<u8>> = (0..200u32).map(|n| n.to_be_bytes().to_vec()).collect();
    for (i, number) in numbers.iter().enumerate() {
        world.send(1, home(20), home(10).ip(), number);
        world.run_for(MILLISECOND);
        if i == 50 {
            world.move_home(home(10), 0, 2, 20 * MILLISECOND);
        }
    }
    world.run_for(SECOND);
    assert_eq!(world.payloads(home(10), home(20).ip()), numbers);
    assert_eq!(world.misdelivered, 0);
    assert_eq!(
        world.map[&home(10)].active().unwrap().locator,
        locator(2, 1)
    );
    let status = world.agents[2].own_status(home(10)).unwrap();
    assert_eq!(
        (status.state.as_str(), status.switch.unwrap().acknowledged),
        ("serving", 1)
    );
}

#[test]
fn a_move_there_and_back_and_there_again() {
    let mut world = World::talking(3);
    for (from, to) in [(0, 2), (2, 0), (0, 2)] {
        world.move_home(home(10), from, to, 20 * MILLISECOND);
        world.run_for(SECOND);
        world.send(1, home(20), home(10).ip(), b"in");
        world.send(to, home(10), home(20).ip(), b"out");
        world.run_for(SECOND);
        assert_eq!(world.received.len(), 2, "{from} -> {to}");
        assert_eq!(world.received[0].0, to);
        world.received.clear();
    }
    assert_eq!(world.misdelivered, 0);
}

#[test]
fn both_ends_move_at_the_same_moment() {
    let mut world = World::talking(4);
    world.move_home(home(10), 0, 2, Duration::ZERO);
    world.move_home(home(20), 1, 3, Duration::ZERO);
    world.run_for(SECOND);
    world.send(2, home(10), home(20).ip(), b"a");
    world.send(3, home(20), home(10).ip(), b"b");
    world.run_for(DELAY);
    assert_eq!(world.payloads(home(20), home(10).ip()), [b"a"]);
    assert_eq!(world.payloads(home(10), home(20).ip()), [b"b"]);
    assert_eq!(world.misdelivered, 0);
}

#[test]
fn moved_is_repeated_until_it_is_acknowledged() {
    let mut world = World::talking(3);
    let mut lost = 0;
    world.lose = Box::new(move |_, packet| {
        lost += u32::from(is_control(packet));
        is_control(packet) && lost <= 3
    });
    world.move_home(home(10), 0, 2, Duration::ZERO);
    world.run_for(2 * SECOND);
    let switch = world.agents[2]
        .own_status(home(10))
        .unwrap()
        .switch
        .unwrap();
    assert_eq!((switch.peers, switch.acknowledged), (1, 1));
}

#[test]
fn the_record_alone_hands_an_instance_from_one_site_to_another() {
    let mut world = World::talking(3);
    world.attach_as(2, home(10), false);
    world.run_for(SECOND);
    assert_eq!(
        world.agents[2].own_status(home(10)).unwrap().state,
        "not serving"
    );
    world.set_map(home(10), locator(2, 1));
    world.run_for(Duration::from_millis(1100));
    assert_eq!(
        world.agents[0].own_status(home(10)).unwrap().state,
        "not serving"
    );
    assert_eq!(
        world.agents[2].own_status(home(10)).unwrap().state,
        "serving"
    );
    world.send(1, home(20), home(10).ip(), b"follow");
    world.run_for(SECOND);
    assert_eq!(world.received.last().unwrap().0, 2);
    assert_eq!(world.payloads(home(10), home(20).ip()), [b"follow"]);

    // It serves by the record, and not beyond it.
    world.map.remove(&home(10));
    world.run_for(Duration::from_millis(1100));
    assert_eq!(
        world.agents[2].own_status(home(10)).unwrap().state,
        "not serving"
    );
}

#[test]
fn a_record_that_names_a_site_without_the_instance_is_shown_there() {
    let mut world = World::talking(3);
    world.set_map(home(10), locator(2, 1));
    world.run_for(2 * SECOND);
    world.send(1, home(20), home(10).ip(), b"x");
    world.run_for(2 * SECOND);
    let status = world.agents[2].status(world.clock());
    assert_eq!(status.not_attached.get("192.0.2.10"), Some(&locator(2, 1)));
    assert!(world.payloads(home(10), home(20).ip()).is_empty());
    assert_eq!(world.misdelivered, 0);
}

/// Whoever has a binding cached, but no context, is not told of moves; and the old site is silent
/// before what is cached has run out.
#[test]
fn a_first_contact_with_a_peer_that_has_moved_since_it_was_looked_up_loses_nothing() {
    let mut world = World::talking(3);
    let now = world.clock();
    world.agents[0].detach(now, home(10), None).unwrap();
    world.attach(0, home(11));
    // What comes to a locator that is given up ends in a blackhole.
    let given_up = [locator(0, 1).ip(), locator(1, 1).ip()];
    world.lose =
        Box::new(move |_, packet| given_up.contains(&Packet::parse(packet).unwrap().dst()));
    world.move_home(home(20), 1, 2, 20 * MILLISECOND);
    world.run_for(SECOND);
    world.send(0, home(11), home(20).ip(), b"first");
    world.run_for(300 * MILLISECOND);
    assert_eq!(world.payloads(home(20), home(11).ip()), [b"first"]);
}

#[test]
fn a_reused_locator_never_gets_the_wrong_instances_packets() {
    let mut world = World::talking(3);
    // The instance vanishes; its site forgets it and gives its locator away.
    world.plugged.remove(&(0, home(10)));
    world.agents[0] = world.fresh(0);
    world.map.remove(&home(10));
    world.attach(0, home(11));
    world.run_for(100 * MILLISECOND);
    assert_eq!(
        world.map[&home(11)].active().unwrap().locator,
        locator(0, 1)
    );
    for _ in 0..20 {
        world.send(1, home(20), home(10).ip(), b"for 10 only");
        world.run_for(50 * MILLISECOND);
    }
    world.send(1, home(20), home(11).ip(), b"for 11");
    world.run_for(SECOND);
    world.send(1, home(20), home(10).ip(), b"for 10 only");
    world.run_for(SECOND);
    assert_eq!(world.payloads(home(11), home(20).ip()), [b"for 11"]);
    assert_eq!(world.misdelivered, 0);
}

#[test]
fn a_move_that_fails_is_rolled_back() {
    let mut world = World::talking(3);
    let handover = world.depart(home(10), 0, 2);
    world.run_for(100 * MILLISECOND);
    world.map_up = false;
    world.reattach(0, handover);
    world.send(1, home(20), home(10).ip(), b"still here");
    world.run_for(DELAY);
    assert_eq!(world.payloads(home(10), home(20).ip()), [b"still here"]);
    // The new site withdraws by itself.
    world.run_for(60 * SECOND);
    assert!(world.agents[2].own_status(home(10)).is_none());
}

#[test]
fn nothing_is_handed_over_while_the_mapping_service_is_known_to_be_away() {
    let mut world = World::talking(3);
    world.map_up = false;
    world.run_for(2 * SECOND);
    let relay = world.prepare(2, home(10));
    let now = world.clock();
    let refused = world.agents[0].detach(now, home(10), Some(relay));
    assert!(matches!(refused, Err(OpError::Mapping(..))), "{refused:?}");
    world.send(1, home(20), home(10).ip(), b"still here");
    world.run_for(SECOND);
    assert_eq!(world.payloads(home(10), home(20).ip()), [b"still here"]);
    world.map_up = true;
    world.run_for(2 * SECOND);
    let now = world.clock();
    assert!(world.agents[0].detach(now, home(10), Some(relay)).is_ok());
}

#[test]
fn a_commit_whose_answer_is_lost_is_read_back() {
    let mut world = World::talking(3);
    world.lose_answers = true;
    world.move_home(home(10), 0, 2, Duration::ZERO);
    world.run_for(100 * MILLISECOND);
    // Nobody knows yet whether it is committed: nobody serves.
    assert_eq!(
        world.agents[2].own_status(home(10)).unwrap().state,
        "prepared"
    );
    assert_eq!(
        world.agents[0].own_status(home(10)).unwrap().state,
        "departed"
    );
    world.run_for(SECOND);
    let status = world.agents[2].own_status(home(10)).unwrap();
    assert_eq!(status.state, "serving");
}

#[test]
fn a_mapping_service_that_forgot_is_told_again_with_a_higher_epoch() {
    let mut world = World::talking(3);
    let before = world.map[&home(10)].epoch();
    world.map.remove(&home(10));
    world.run_for(2 * SECOND);
    let after = world.map[&home(10)].epoch();
    assert!(after > before && before > Epoch(0));
    assert_eq!(
        world.agents[0].own_status(home(10)).unwrap().state,
        "serving"
    );
}

#[test]
fn detaching_withdraws_the_record() {
    let mut world = World::talking(3);
    let now = world.clock();
    world.agents[0].detach(now, home(10), None).unwrap();
    world.drain(0);
    world.run_for(SECOND);
    assert!(!world.map.contains_key(&home(10)));
    assert!(world.agents[0].status(world.clock()).homes.is_empty());
}

#[test]
fn what_a_departing_instance_still_sends_reaches_its_peers_until_its_link_is_gone() {
    let mut world = World::talking(3);
    world.depart(home(10), 0, 2);
    world.send(0, home(10), home(20).ip(), b"last words");
    world.run_for(DELAY);
    assert_eq!(world.payloads(home(20), home(10).ip()), [b"last words"]);
    let now = world.clock();
    world.agents[0].link_ready(now, home(10), false);
    world.send(0, home(10), home(20).ip(), b"from the grave");
    world.run_for(SECOND);
    assert_eq!(world.payloads(home(20), home(10).ip()).len(), 1);
    assert_eq!(world.counter(0, "departed"), 1);
}

#[test]
fn a_peer_cannot_claim_to_be_where_another_one_is() {
    let mut world = World::talking(3);
    world.attach(2, home(30));
    world.run_for(SECOND);
    world.send(1, home(20), home(30).ip(), b"x");
    world.run_for(SECOND);
    // The site of 10 says, with a good MAC, that 10 has moved to the locator of 30.
    let stolen = world.map[&home(30)].active().unwrap().locator;
    world.set_map(home(10), stolen);
    let true_binding = world.map[&home(10)].clone();
    world.map_up = false;
    let now = world.clock();
    let answer = crate::agent::Answer::Found {
        binding: true_binding,
        proof: Proof::Signed,
    };
    world.agents[0].handle_lookup(now, home(10), answer);
    world.drain(0);
    world.run_for(100 * MILLISECOND);
    world.send(1, home(20), home(30).ip(), b"still for 30");
    world.run_for(DELAY);
    let last = world.payloads(home(30), home(20).ip());
    assert_eq!(last.last().unwrap(), b"still for 30");
    let status = world.agents[1].status(world.clock());
    let other = status.contexts.iter().find(|c| c.peer == home(10)).unwrap();
    assert_ne!(other.remote, Some(stolen));
}

#[test]
fn peers_follow_back_when_a_move_that_was_committed_late_is_taken_back() {
    let mut world = World::talking(3);
    let handover = world.depart(home(10), 0, 2);
    let given_away = Handover {
        binding: None,
        ..handover.clone()
    };
    world.activate(2, handover);
    world.run_for(200 * MILLISECOND);
    // Both sites have taken the same contexts, and speak with the same numbers.
    world.reattach(0, given_away);
    world.run_for(20 * MILLISECOND);
    let now = world.clock();
    world.agents[2].detach(now, home(10), None).unwrap();
    world.drain(2);
    world.run_for(100 * MILLISECOND);
    world.send(1, home(20), home(10).ip(), b"home again");
    world.run_for(DELAY);
    assert_eq!(world.payloads(home(10), home(20).ip()), [b"home again"]);
    assert_eq!(world.received.last().unwrap().0, 0);
}

/// Relayed packets of one size are what a kernel joins first (`rx-udp-gro-forwarding`).
#[test]
fn control_messages_that_arrive_joined_are_heard_one_by_one() {
    let mut world = World::talking(3);
    let handover = world.depart(home(10), 0, 2);
    let caught = Arc::new(Mutex::new(Vec::new()));
    let catch = Arc::clone(&caught);
    world.lose = Box::new(move |_, packet| {
        let relayed = is_control(packet);
        if relayed {
            catch.lock().unwrap().push(packet.to_vec());
        }
        relayed
    });
    let sent = [b"first.", b"second", b"third."];
    for payload in sent {
        world.send(1, home(20), home(10).ip(), payload);
    }
    world.run_for(DELAY);
    world.lose = Box::new(|_, _| false);

    let (offload, mut joined) = join(&caught.lock().unwrap());
    let now = world.clock();
    world.agents[2].handle_packet(now, &offload, &mut joined);
    world.drain(2);
    world.plugged.insert((2, home(10)));
    world.activate(2, handover);
    world.run_for(SECOND);
    assert_eq!(world.payloads(home(10), home(20).ip()), sent);
}

/// All of them in one, as if they had come from a sender whose packets may be joined whatever
/// their identifications are.
fn join(packets: &[Vec<u8>]) -> (Offload, Vec<u8>) {
    /// Of the flags in an IPv4 header (RFC 791, section 3.1).
    const DONT_FRAGMENT: u8 = 0x40;
    let mut arena = Vec::new();
    for packet in packets {
        let at = arena.len();
        arena.extend(packet);
        arena[at + 6] |= DONT_FRAGMENT;
        arena[at + 10..][..2].fill(0);
        let sum = checksum::ipv4_header(&arena[at..][..20]);
        arena[at + 10..][..2].copy_from_slice(&sum.to_be_bytes());
    }
    let mut joiner = Joiner::new(packets.len(), Joinable::ALL);
    let mut start = 0;
    for packet in packets {
        joiner.push(&arena, Offload::default(), start..start + packet.len());
        start += packet.len();
    }
    let mut written = Vec::new();
    joiner.finish(&mut arena.clone(), |write| {
        written.push((write.offload, write.slices().collect::<Vec<_>>().concat()));
        Reply::Done
    });
    assert_eq!(written.len(), 1, "{} packets were joined", packets.len());
    written.remove(0)
}

//! What strangers and liars can make a forwarder do, and what they cannot.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mat_proto::auth::{Key, Token};
use mat_proto::message::{Message, Pair, Reason};
use mat_proto::{Binding, Entry, Epoch, Locator, Modes, Priority};

use super::world::*;
use crate::agent::{Answer, Output, Proof};
use crate::rewrite::Packet;

/// Counts octets and messages on their way to an address, and loses them.
fn watch(world: &mut World, victim: IpAddr) -> [Arc<AtomicU64>; 2] {
    let counts = [Arc::<AtomicU64>::default(), Arc::default()];
    let [octets, messages] = counts.clone();
    world.lose = Box::new(move |_, packet| {
        let hit = Packet::parse(packet).is_ok_and(|headers| headers.dst() == victim);
        if hit && is_control(packet) {
            messages.fetch_add(1, Ordering::Relaxed);
        } else if hit {
            octets.fetch_add(packet.len() as u64, Ordering::Relaxed);
        }
        hit
    });
    counts
}

#[test]
fn a_victim_that_a_mapping_points_at_gets_no_more_than_the_credit() {
    let mut world = World::talking(3);
    let victim = locator(2, 5);
    let [octets, messages] = watch(&mut world, victim.ip());
    let mut epoch = world.map[&home(10)].epoch();
    for n in 0..2000u32 {
        if n % 200 == 0 {
            // Again and again, under ever higher epochs.
            epoch = epoch.next(0);
            let binding = Binding::single(home(10), epoch, 30, victim, 6283).unwrap();
            let now = world.clock();
            let answer = Answer::Found {
                binding,
                proof: Proof::Signed,
            };
            world.agents[1].handle_lookup(now, home(10), answer);
            world.drain(1);
        }
        world.send(1, home(20), home(10).ip(), &[0; 1000]);
        world.run_for(5 * MILLISECOND);
    }
    let got = octets.load(Ordering::Relaxed);
    assert!(got > 60_000, "{got}");
    assert!(got <= (64 << 10) + 2000, "{got}");
    let messages = messages.load(Ordering::Relaxed);
    assert!(messages < 60, "{messages}");
}

/// Our answer goes to where a peer is, whatever its OPEN says where it comes from.
#[test]
fn an_open_from_where_it_only_stands_by_proves_nothing_of_that_place() {
    let mut world = World::new(3);
    world.attach(1, home(20));
    world.run_for(SECOND);
    let (liar, victim) = (locator(0, 1), locator(2, 5));
    let entry = |locator, priority| Entry {
        priority,
        locator,
        port: 6283,
        modes: Modes::NATIVE,
    };
    let entries = [(liar, Priority::ACTIVE), (victim, Priority::STANDBY)];
    let entries = entries.map(|(locator, priority)| entry(locator, priority));
    let binding = Binding::new(home(10), Epoch(1), 30, entries.to_vec()).unwrap();
    world.map.insert(home(10), binding);
    let accept = Arc::new(Mutex::new(None));
    let heard = accept.clone();
    world.lose = Box::new(move |_, packet| {
        if is_control(packet)
            && let Ok(received) = Message::decode(&packet[28..])
            && let Message::Accept { token, .. } = received.message
        {
            *heard.lock().unwrap() = Some(token);
        }
        false
    });
    let to = locator(1, 1).ip();
    let say = |world: &mut World, from: Locator, octets: &[u8]| {
        let now = world.clock();
        world.agents[1].handle_control(now, SocketAddr::new(from.ip(), 6283), to, octets);
        world.drain(1);
        world.run_for(10 * MILLISECOND);
    };
    say(&mut world, victim, &open(10, Token([0; 16])));
    let ours = accept.lock().unwrap().expect("an answer");
    let pair = Pair {
        from: home(10),
        to: home(20),
    };
    let key = Key::of_context(Token([10; 16]), ours);
    say(
        &mut world,
        liar,
        &Message::Confirm { pair }.encode_signed(&key),
    );

    let [octets, _] = watch(&mut world, victim.ip());
    let there = Binding::new(
        home(10),
        Epoch(2),
        30,
        vec![entry(victim, Priority::ACTIVE)],
    );
    let moved = Message::Moved {
        pair,
        sequence: 1,
        binding: there.unwrap(),
    };
    say(&mut world, liar, &moved.encode_signed(&key));
    for _ in 0..400 {
        world.send(1, home(20), home(10).ip(), &[0; 1000]);
        world.run_for(MILLISECOND);
    }
    let got = octets.load(Ordering::Relaxed);
    assert!(
        got > 60_000,
        "it is believed as far as the credit goes: {got}"
    );
    assert!(got <= (64 << 10) + 2000, "{got}");
}

/// A place that only stands by gets questions, a few, and never data.
#[test]
fn a_victim_that_a_binding_names_as_standing_by_gets_next_to_nothing() {
    let mut world = World::talking(3);
    let victim = locator(2, 5);
    let [octets, messages] = watch(&mut world, victim.ip());
    let before = world.map[&home(10)].clone();
    let entry = |locator, priority| Entry {
        priority,
        locator,
        port: 6283,
        modes: Modes::NATIVE,
    };
    let entries = vec![
        entry(locator(0, 1), Priority::ACTIVE),
        entry(victim, Priority::STANDBY),
    ];
    let epoch = Epoch(before.epoch().0 + 1);
    let binding = Binding::new(home(10), epoch, 30, entries).unwrap();
    world.map.insert(home(10), binding);
    for _ in 0..200 {
        world.send(1, home(20), home(10).ip(), &[0; 1000]);
        world.run_for(50 * MILLISECOND);
    }
    assert_eq!(world.payloads(home(10), home(20).ip()).len(), 200);
    assert_eq!(octets.load(Ordering::Relaxed), 0);
    let messages = messages.load(Ordering::Relaxed);
    assert!(messages > 0 && messages <= 16, "{messages}");
}

#[test]
fn one_that_answers_gets_everything_after_a_round_trip() {
    let mut world = World::talking(3);
    world.move_home(home(10), 0, 2, Duration::ZERO);
    // More than the credit, in less than a round trip.
    for n in 0..400u32 {
        let mut payload = vec![0; 1000];
        payload[..4].copy_from_slice(&n.to_be_bytes());
        world.send(1, home(20), home(10).ip(), &payload);
        world.run_for(Duration::from_micros(50));
    }
    world.run_for(SECOND);
    let payloads = world.payloads(home(10), home(20).ip());
    let numbers: Vec<u8> = payloads.iter().map(|p| p[3]).collect();
    assert_eq!(numbers, (0..400u32).map(|n| n as u8).collect::<Vec<_>>());
}

fn open(from: u8, cookie: Token) -> Vec<u8> {
    Message::Open {
        pair: Pair {
            from: home(from),
            to: home(20),
        },
        versions: (1, 1),
        modes: Modes::NATIVE,
        resume: false,
        from_epoch: Epoch(1),
        to_epoch: Epoch(1),
        token: Token([from; 16]),
        cookie,
    }
    .encode()
}

#[test]
fn a_flood_of_first_contacts_costs_little_and_amplifies_nothing() {
    let mut world = World::talking(3);
    let to = locator(1, 1).ip();
    let (mut lookups, mut answers) = (0, 0);
    for n in 0..10_000u32 {
        let from = SocketAddr::new(locator(2, 1 + (n % 14) as usize).ip(), 6283);
        let request = open(100 + (n % 150) as u8, Token([0; 16]));
        let now = world.clock();
        world.agents[1].handle_control(now, from, to, &request);
        while let Some(output) = world.agents[1].poll_output() {
            match output {
                Output::Lookup(home) => {
                    lookups += 1;
                    let answer = Answer::NotFound {
                        proof: Proof::Signed,
                    };
                    world.agents[1].handle_lookup(now, home, answer);
                }
                Output::Write(frame) => {
                    answers += 1;
                    assert!(frame.packet.len() <= request.len() + 28);
                }
                _ => {}
            }
        }
        world.run_for(Duration::from_micros(100));
    }
    assert!(lookups <= 450, "{lookups}");
    assert!(answers <= 10_000, "{answers}");
    assert!(world.counter(1, "open_without_cookie") > 9000);
    // Those who were there before do not notice.
    world.send(1, home(20), home(10).ip(), b"on");
    world.run_for(DELAY);
    assert_eq!(world.payloads(home(10), home(20).ip()), [b"on"]);
    // And whoever can receive gets in.
    world.attach(2, home(30));
    world.run_for(SECOND / 100);
    let sent = world.now;
    world.send(2, home(30), home(20).ip(), b"new");
    while world.payloads(home(20), home(30).ip()).is_empty() {
        assert!(world.now.since(sent) < SECOND);
        let now = world.clock();
        let from = SocketAddr::new(locator(2, 9).ip(), 6283);
        world.agents[1].handle_control(now, from, to, &open(101, Token([0; 16])));
        world.drain(1);
        world.run_for(Duration::from_micros(100));
    }
}

#[test]
fn a_cookie_is_good_for_its_sender_only() {
    let mut world = World::talking(3);
    let to = locator(1, 1).ip();
    let mut ask = |host: usize, cookie| {
        let from = SocketAddr::new(locator(2, host).ip(), 6283);
        let now = world.clock();
        world.agents[1].handle_control(now, from, to, &open(200, cookie));
        let mut given = None;
        let mut asked = false;
        while let Some(output) = world.agents[1].poll_output() {
            match output {
                Output::Lookup(_) => asked = true,
                Output::Write(frame) => {
                    let received = Message::decode(&frame.packet[28..]).unwrap();
                    if let Message::Reject { reason, cookie, .. } = received.message {
                        assert_eq!(reason, Reason::Retry);
                        given = Some(cookie);
                    }
                }
                _ => {}
            }
        }
        // The question stays open; another OPEN for the same homes would not ask.
        if asked {
            let unknown = Answer::NotFound {
                proof: Proof::Signed,
            };
            world.agents[1].handle_lookup(now, home(200), unknown);
            while world.agents[1].poll_output().is_some() {}
        }
        (asked, given)
    };
    let cookie = (0..1000).find_map(|_| ask(1, Token([0; 16])).1).unwrap();
    assert_ne!(cookie, Token([0; 16]));
    assert!(!ask(2, cookie).0, "another address");
    assert!(!ask(1, Token([9; 16])).0, "another cookie");
    assert!(ask(1, cookie).0);
}

/// Whoever can write our peer's address on a letter, but does not read its letters.
#[test]
fn an_open_in_another_s_name_does_not_spoil_an_exchange_under_way() {
    let mut world = World::new(2);
    world.attach(0, home(10));
    world.attach(1, home(20));
    world.run_for(SECOND);
    world.send(1, home(20), home(10).ip(), b"known");
    world.run_for(SECOND);
    world.agents[0] = world.fresh(0);
    world.attach(0, home(10));
    world.run_for(SECOND);
    world.send(0, home(10), home(20).ip(), b"first");
    for n in 0..200u8 {
        let mut forged = Message::decode(&open(10, Token([0; 16]))).unwrap().message;
        if let Message::Open { token, .. } = &mut forged {
            *token = Token([n; 16]);
        }
        let from = SocketAddr::new(locator(0, 1).ip(), 6283);
        let (now, to) = (world.clock(), locator(1, 1).ip());
        world.agents[1].handle_control(now, from, to, &forged.encode());
        world.drain(1);
        world.run_for(MILLISECOND);
    }
    assert_eq!(world.payloads(home(20), home(10).ip()), [b"first"]);
    assert!(
        same_keys(&world, 0, 1),
        "while it goes on, and not after it"
    );
}

/// Whether 10 at one site and 20 at the other have one context.
fn same_keys(world: &World, one: usize, other: usize) -> bool {
    let [ten, twenty] = [one, other].map(|site| world.agents[site].snapshot().contexts);
    assert_eq!((ten.len(), twenty.len()), (1, 1));
    (ten[0].mine, ten[0].theirs) == (twenty[0].theirs, twenty[0].mine)
}

/// However they have come to differ.
#[test]
fn a_move_reaches_a_peer_whose_keys_are_not_ours() {
    let mut world = World::talking(3);
    let mut snapshot = world.agents[1].snapshot();
    for context in &mut snapshot.contexts {
        context.theirs = Token([1; 16]);
    }
    world.restart_with(1, snapshot);
    world.run_for(SECOND);
    world.move_home(home(10), 0, 2, 20 * MILLISECOND);
    for n in 0..100u32 {
        world.send(2, home(10), home(20).ip(), &n.to_be_bytes());
        world.run_for(MILLISECOND);
    }
    world.run_for(2 * SECOND);
    assert_eq!(world.payloads(home(20), home(10).ip()).len(), 100);
    assert!(same_keys(&world, 2, 1));
}

/// A release that knows more versions of the protocol is answered with the one both know; one
/// that has given ours up is told so.
#[test]
fn versions_are_negotiated() {
    for (versions, accepted) in [((1, 9), true), ((2, 9), false)] {
        let mut world = World::talking(2);
        let (sender, receiver) = (locator(1, 1), locator(0, 1));
        let seen = Arc::new(AtomicU64::new(0));
        let told = seen.clone();
        world.lose = Box::new(move |_, packet| {
            let headers = Packet::parse(packet).expect("a packet of ours");
            if is_control(packet) && headers.dst() == sender.ip() {
                let answer = Message::decode(&packet[28..]).map(|received| received.message);
                match answer.expect("a message of ours") {
                    Message::Accept { version: 1, .. } => told.store(1, Ordering::Relaxed),
                    Message::Reject {
                        reason: Reason::Version,
                        ..
                    } => told.store(2, Ordering::Relaxed),
                    _ => {}
                }
            }
            false
        });
        let open = Message::Open {
            pair: Pair {
                from: home(20),
                to: home(10),
            },
            versions,
            modes: Modes::NATIVE,
            resume: false,
            from_epoch: world.map[&home(20)].epoch(),
            to_epoch: Epoch(0),
            token: Token([3; 16]),
            cookie: Token([0; 16]),
        };
        let from = SocketAddr::new(sender.ip(), 6283);
        let now = world.clock();
        world.agents[0].handle_control(now, from, receiver.ip(), &open.encode());
        world.drain(0);
        world.run_for(SECOND);
        let expected = if accepted { 1 } else { 2 };
        assert_eq!(seen.load(Ordering::Relaxed), expected, "{versions:?}");
    }
}

//! What a move does to the packets under way: none is lost, none overtakes another,
//! also if the network loses messages or the move is undone.

use std::time::Duration;

use mat_proto::Home;

use super::world::*;

/// Sends one packet each millisecond in both directions, while the instance moves from
/// site 0 to site 2.
fn talk_through_a_move(world: &mut World, freeze: Duration) -> (Vec<u32>, Vec<u32>) {
    talk_through_a_move_to(2, world, freeze)
}

fn talk_through_a_move_to(to: usize, world: &mut World, freeze: Duration) -> (Vec<u32>, Vec<u32>) {
    let (mut to_it, mut from_it) = (Vec::new(), Vec::new());
    let mut site = Some(0);
    let mut handover = None;
    for n in 0..400u32 {
        let at = n * MILLISECOND;
        if n == 50 {
            handover = Some(world.depart(home(10), 0, to));
            world.plugged.remove(&(0, home(10)));
            site = None;
        }
        if at >= 50 * MILLISECOND + freeze
            && let Some(handover) = handover.take()
        {
            world.plugged.insert((to, home(10)));
            world.activate(to, handover);
            site = Some(to);
        }
        world.send(1, home(20), home(10).ip(), &n.to_be_bytes());
        to_it.push(n);
        if let Some(site) = site {
            world.send(site, home(10), home(20).ip(), &n.to_be_bytes());
            from_it.push(n);
        }
        world.run_for(MILLISECOND);
    }
    world.run_for(5 * SECOND);
    (to_it, from_it)
}

fn numbers(world: &World, to: Home, from: Home) -> Vec<u32> {
    let payloads = world.payloads(to, from.ip()).into_iter();
    payloads
        .map(|p| u32::from_be_bytes(p.try_into().expect("four octets")))
        .collect()
}

#[test]
fn direct_packets_wait_for_those_that_took_the_long_way() {
    let mut world = World::talking(3);
    let (to_it, from_it) = talk_through_a_move(&mut world, 20 * MILLISECOND);
    assert_eq!(numbers(&world, home(10), home(20)), to_it);
    assert_eq!(numbers(&world, home(20), home(10)), from_it);
    assert_eq!(world.misdelivered, 0);
    for site in 0..3 {
        assert_eq!(world.agents[site].held_bytes(), 0, "site {site}");
    }
}

/// The instance comes to where its peer is, who from then on is its neighbour.
#[test]
fn what_a_neighbour_sends_is_in_order_as_well() {
    for pushes in [false, true] {
        let mut world = World::talking(2);
        world.pushes = pushes;
        let (to_it, from_it) = talk_through_a_move_to(1, &mut world, 20 * MILLISECOND);
        assert_eq!(numbers(&world, home(10), home(20)), to_it);
        assert_eq!(numbers(&world, home(20), home(10)), from_it);
        assert_eq!(world.misdelivered, 0);
        for site in 0..2 {
            assert_eq!(world.agents[site].held_bytes(), 0, "site {site}");
        }
    }
}

/// The instance leaves its neighbour behind, with whom it had no context.
#[test]
fn what_was_a_neighbour_s_is_in_order_as_well() {
    for (pushes, seconds) in [(false, 0), (true, 0), (true, 20)] {
        let mut world = World::new(2);
        world.pushes = pushes;
        world.attach(0, home(10));
        world.attach(0, home(11));
        world.run_for(SECOND);
        let (mut to_it, mut from_it) = (Vec::new(), Vec::new());
        let mut site = Some(0);
        let mut move_ = None;
        let mut handover = None;
        for n in 0..400u32 {
            let now = world.clock();
            match n {
                20 => {
                    move_ = Some(world.prepare(1, home(10)));
                    let known = world.agents[0].handover(home(10)).unwrap();
                    world.agents[1].stand_by(now, known).unwrap();
                    world.drain(1);
                }
                30 => {
                    let binding = world.map[&home(10)].clone();
                    assert_eq!(binding.entries().len(), 2);
                    world.agents[0].learn(now, binding).unwrap();
                    world.drain(0);
                    // While its memory is copied, say. To themselves they talk as well.
                    for _ in 0..seconds {
                        for (from, to) in [(10, 11), (11, 10), (10, 10)] {
                            world.send(0, home(from), home(to).ip(), &n.to_be_bytes());
                        }
                        to_it.push(n);
                        from_it.push(n);
                        world.run_for(SECOND);
                    }
                    let contexts = world.agents[0].snapshot().contexts;
                    assert!(contexts.len() == 2 || seconds == 0, "{contexts:?}");
                }
                50 => {
                    handover = world.agents[0].detach(now, home(10), move_).ok();
                    world.drain(0);
                    world.plugged.remove(&(0, home(10)));
                    site = None;
                }
                70 => {
                    world.plugged.insert((1, home(10)));
                    world.activate(1, handover.take().unwrap());
                    site = Some(1);
                }
                // After the update, and one round trip: of packets that waited for a relay
                // or for the mapping service, nothing is left.
                100 => {
                    let last = numbers(&world, home(10), home(11)).pop();
                    assert!(last >= Some(88), "{last:?}, pushes: {pushes}");
                    let last = numbers(&world, home(11), home(10)).pop();
                    assert!(last >= Some(88), "{last:?}, pushes: {pushes}");
                }
                _ => {}
            }
            world.send(0, home(11), home(10).ip(), &n.to_be_bytes());
            to_it.push(n);
            if let Some(site) = site {
                world.send(site, home(10), home(11).ip(), &n.to_be_bytes());
                from_it.push(n);
            }
            world.run_for(MILLISECOND);
        }
        world.run_for(5 * SECOND);
        assert_eq!(numbers(&world, home(10), home(11)), to_it);
        assert_eq!(numbers(&world, home(11), home(10)), from_it);
        assert_eq!(world.misdelivered, 0);
        for site in 0..2 {
            assert_eq!(world.agents[site].held_bytes(), 0, "site {site}");
        }
    }
}

/// From where to where each of two goes: neighbours to the same site or to different ones, peers to
/// the same site, to each other's, or one to where the other was.
const WAYS: [[(usize, usize); 2]; 5] = [
    [(0, 1), (0, 1)],
    [(0, 1), (0, 2)],
    [(0, 2), (1, 2)],
    [(0, 1), (1, 0)],
    [(0, 1), (1, 2)],
];

/// Both ends move, the second one a little after the first.
#[test]
fn two_that_move_together_go_on_talking() {
    for (ways, pushes) in WAYS
        .into_iter()
        .flat_map(|ways| [(ways, false), (ways, true)])
    {
        for later in (0..90).step_by(3) {
            let what = format!("{ways:?}, {later} ms later, pushes: {pushes}");
            two_move(ways, later, pushes, [0, 0], &what);
        }
    }
}

/// The same, but they say their first word while they move.
#[test]
fn two_that_move_together_get_to_know_each_other() {
    for ways in WAYS {
        for later in (0..90).step_by(15) {
            for start in (70..250).step_by(11) {
                for starts in [[start, start], [start, NEVER], [NEVER, start]] {
                    let what = format!("{ways:?}, {later} ms later, from {starts:?} ms on");
                    two_move(ways, later, true, starts, &what);
                }
            }
        }
    }
}

const NEVER: u32 = u32::MAX;

fn two_move(ways: [(usize, usize); 2], later: u32, pushes: bool, starts: [u32; 2], what: &str) {
    /// Both are away for 20 ms, which may follow each other; the update takes 4, and what was
    /// sent last before goes to the old site and from there to the new one.
    const LONGEST: u32 = 2 * (20 + 4) + 2 * 10;
    let mut world = World::new(3);
    world.pushes = pushes;
    let homes = [home(10), home(11)];
    for (home, (from, _)) in homes.into_iter().zip(ways) {
        world.attach(from, home);
    }
    world.run_for(SECOND);
    let mut places = ways.map(|(from, _)| Some(from));
    let mut relays = [None, None];
    let mut handovers = [None, None];
    let mut sent = [Vec::new(), Vec::new()];
    let mut lag = [0, 0];
    for n in 0..400u32 {
        for i in [0, 1] {
            let (home, (from, to)) = (homes[i], ways[i]);
            let now = world.clock();
            match n.wrapping_sub(100 + i as u32 * later) {
                0 => {
                    relays[i] = Some(world.prepare(to, home));
                    let known = world.agents[from].handover(home).unwrap();
                    world.agents[to].stand_by(now, known).unwrap();
                    world.drain(to);
                }
                10 => {
                    let binding = world.map[&home].clone();
                    world.agents[from].learn(now, binding).unwrap();
                    world.drain(from);
                }
                30 => {
                    handovers[i] = world.agents[from].detach(now, home, relays[i]).ok();
                    world.drain(from);
                    world.plugged.remove(&(from, home));
                    places[i] = None;
                }
                50 => {
                    world.plugged.insert((to, home));
                    world.activate(to, handovers[i].take().unwrap());
                    places[i] = Some(to);
                }
                _ => {}
            }
            if let Some(place) = places[i].filter(|_| n >= starts[i]) {
                world.send(place, home, homes[1 - i].ip(), &n.to_be_bytes());
                sent[i].push(n);
            }
        }
        world.run_for(MILLISECOND);
        // Not of the first packets: they wait for a context.
        for i in [0, 1].into_iter().filter(|_| n >= 100 && starts == [0, 0]) {
            let came = numbers(&world, homes[1 - i], homes[i]).pop();
            let newest = sent[i].last().copied();
            lag[i] = lag[i].max(newest.unwrap_or(0) - came.unwrap_or(0));
        }
    }
    world.run_for(5 * SECOND);
    for i in [0, 1] {
        let came = numbers(&world, homes[1 - i], homes[i]);
        assert_eq!(came, sent[i], "{what}");
        assert!(lag[i] <= LONGEST, "{what}: {lag:?}");
    }
    assert_eq!(world.misdelivered, 0, "{what}");
}

/// It is on its way for as long as it takes to copy its memory, or it never comes.
#[test]
fn an_instance_is_reached_where_it_is_from_where_it_is_to_come() {
    let mut world = World::talking(2);
    world.prepare(1, home(10));
    world.send(1, home(21), home(10).ip(), b"no instance");
    world.attach(1, home(21));
    for _ in 0..3 {
        world.run_for(SECOND);
        world.send(1, home(20), home(10).ip(), b"known");
        world.send(1, home(21), home(10).ip(), b"new");
        world.send(0, home(10), home(20).ip(), b"back");
    }
    world.run_for(SECOND);
    let forwarded = world.forwarded;
    world.send(1, home(20), home(10).ip(), b"known");
    assert_eq!(
        world.forwarded,
        forwarded + 1,
        "nothing to ask the agent for"
    );
    world.run_for(2 * DELAY);
    assert_eq!(world.payloads(home(10), home(20).ip()), [b"known"; 4]);
    assert_eq!(world.payloads(home(10), home(21).ip()), [b"new"; 3]);
    assert_eq!(world.payloads(home(20), home(10).ip()), [b"back"; 3]);
    assert!(
        world
            .received
            .iter()
            .all(|(site, h, ..)| (*site == 0) == (*h == home(10)))
    );
}

#[test]
fn lost_messages_cost_no_packet_and_no_order() {
    for seed in 1..=50u64 {
        let mut world = World::talking(3);
        let mut state = seed;
        world.lose = Box::new(move |_, packet| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            is_control(packet) && state >> 56 < 13
        });
        let (to_it, from_it) = talk_through_a_move(&mut world, 20 * MILLISECOND);
        assert_eq!(numbers(&world, home(10), home(20)), to_it, "seed {seed}");
        assert_eq!(numbers(&world, home(20), home(10)), from_it, "seed {seed}");
    }
}

#[test]
fn without_end_direct_packets_wait_a_tenth_of_a_second() {
    let mut world = World::talking(3);
    world.lose = Box::new(|_, packet| packet.windows(6).any(|w| w == b"MAT\n\x01\x0b"));
    world.move_home(home(10), 0, 2, 20 * MILLISECOND);
    world.run_for(50 * MILLISECOND);
    world.send(1, home(20), home(10).ip(), b"direct");
    world.run_for(DELAY + 99 * MILLISECOND);
    assert!(world.payloads(home(10), home(20).ip()).is_empty());
    world.run_for(2 * MILLISECOND);
    assert_eq!(world.payloads(home(10), home(20).ip()), [b"direct"]);
}

/// A peer that fills its path: what it has sent takes longer than a tenth of a second to come.
#[test]
fn direct_packets_wait_as_long_as_others_come_the_long_way() {
    let mut world = World::talking(3);
    world.lose = Box::new(|_, packet| packet.windows(6).any(|w| w == b"MAT\n\x01\x0b"));
    world.move_home(home(10), 0, 2, Duration::ZERO);
    world.run_for(50 * MILLISECOND);
    world.send(1, home(20), home(10).ip(), b"direct");
    for n in 0..10u8 {
        world.enter(0, udp(locator(1, 1).ip(), locator(0, 1).ip(), &[n]));
        world.run_for(30 * MILLISECOND);
    }
    world.run_for(SECOND);
    let payloads = world.payloads(home(10), home(20).ip());
    assert_eq!(payloads.len(), 11);
    assert_eq!(payloads[10], b"direct");
}

#[test]
fn a_move_that_is_undone_gives_back_what_was_relayed() {
    let mut world = World::talking(3);
    let handover = world.depart(home(10), 0, 2);
    for n in 0..50u32 {
        world.send(1, home(20), home(10).ip(), &n.to_be_bytes());
        world.run_for(MILLISECOND);
    }
    world.reattach(0, handover);
    world.run_for(SECOND);
    let expected: Vec<u32> = (0..50).collect();
    assert_eq!(numbers(&world, home(10), home(20)), expected);
    assert!(world.received.iter().all(|(site, ..)| *site == 0));
}

#[test]
fn twice_in_a_row_within_a_round_trip() {
    let mut world = World::talking(4);
    for n in 0..300u32 {
        world.send(1, home(20), home(10).ip(), &n.to_be_bytes());
        world.run_for(MILLISECOND);
        match n {
            50 => world.move_home(home(10), 0, 2, Duration::ZERO),
            60 => world.move_home(home(10), 2, 3, Duration::ZERO),
            _ => {}
        }
    }
    world.run_for(SECOND);
    let mut received = numbers(&world, home(10), home(20));
    received.sort_unstable();
    assert_eq!(received, (0..300).collect::<Vec<_>>());
    assert_eq!(world.misdelivered, 0);
}

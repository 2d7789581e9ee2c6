//! What a move does to the packets under way: none is lost, none overtakes another,
//! also if the network loses messages or the move is undone.

use std::time::Duration;

use mat_proto::Home;

use super::world::*;
use crate::agent::{AgentConfig, Handover, RelayTo};

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

/// Each of two homes has got what the other one has sent, in order, and nothing waits any more.
fn all_is_there(world: &World, homes: [Home; 2], sent: [Vec<u32>; 2], what: &str) {
    for i in [0, 1] {
        assert_eq!(numbers(world, homes[1 - i], homes[i]), sent[i], "{what}");
    }
    assert_eq!(world.misdelivered, 0, "{what}");
    for (site, agent) in world.agents.iter().enumerate() {
        assert_eq!(agent.held_bytes(), 0, "site {site}: {what}");
    }
}

#[test]
fn direct_packets_wait_for_those_that_took_the_long_way() {
    let mut world = World::talking(3);
    let (to_it, from_it) = talk_through_a_move(&mut world, 20 * MILLISECOND);
    all_is_there(&world, [home(10), home(20)], [from_it, to_it], "");
}

/// The instance comes to where its peer is, who from then on is its neighbour.
#[test]
fn what_a_neighbour_sends_is_in_order_as_well() {
    for pushes in [false, true] {
        let mut world = World::talking(2);
        world.pushes = pushes;
        let (to_it, from_it) = talk_through_a_move_to(1, &mut world, 20 * MILLISECOND);
        all_is_there(&world, [home(10), home(20)], [from_it, to_it], "");
    }
}

/// A home on its way, published beforehand.
struct Traveller {
    home: Home,
    from: usize,
    to: usize,
    relay: Option<RelayTo>,
    handover: Option<Handover>,
    /// Where its instance is.
    place: Option<usize>,
}

impl Traveller {
    /// One that stays if both sites are the same.
    fn new(world: &mut World, home: Home, (from, to): (usize, usize)) -> Self {
        world.attach(from, home);
        Traveller {
            home,
            from,
            to,
            relay: None,
            handover: None,
            place: Some(from),
        }
    }

    /// What happens so many milliseconds after it is prepared.
    fn step(&mut self, world: &mut World, at: u32) {
        let (home, from, to, now) = (self.home, self.from, self.to, world.clock());
        match at {
            _ if from == to => {}
            0 => {
                self.relay = Some(world.prepare(to, home));
                let known = world.agents[from].handover(home).unwrap();
                world.agents[to].stand_by(now, known).unwrap();
                world.drain(to);
            }
            10 => {
                let binding = world.map[&home].clone();
                assert_eq!(binding.entries().len(), 2);
                world.agents[from].learn(now, binding).unwrap();
                world.drain(from);
            }
            30 => {
                let detached = world.agents[from].detach(now, home, self.relay);
                self.handover = Some(detached.unwrap());
                world.drain(from);
                world.plugged.remove(&(from, home));
                self.place = None;
            }
            50 => {
                world.plugged.insert((to, home));
                world.activate(to, self.handover.take().unwrap());
                self.place = Some(to);
            }
            _ => {}
        }
    }
}

/// The instance leaves its neighbour behind, with whom it had no context.
#[test]
fn what_was_a_neighbour_s_is_in_order_as_well() {
    for pushes in [false, true] {
        let what = format!("pushes: {pushes}");
        two_move([(0, 1), (0, 0)], 0, pushes, [0, 0], &what);
    }
}

/// While the memory of one of them is copied, say, for longer than a lease. To itself it talks as
/// well.
#[test]
fn what_neighbours_have_in_common_stays_fresh_while_one_is_on_its_way() {
    let mut world = World::new(2);
    for site in [0, 1] {
        let short = AgentConfig {
            lease_seconds: 10,
            ..config(site)
        };
        world.agents[site] = world.fresh_as(site, short);
    }
    let mut traveller = Traveller::new(&mut world, home(10), (0, 1));
    world.attach(0, home(11));
    world.run_for(SECOND);
    for at in 0..=10 {
        traveller.step(&mut world, at);
        world.run_for(MILLISECOND);
    }
    for _ in 0..20 {
        for (from, to) in [(10, 11), (11, 10), (10, 10)] {
            world.send(0, home(from), home(to).ip(), b"before");
        }
        world.run_for(SECOND);
    }
    assert_eq!(world.agents[0].snapshot().contexts.len(), 2);
    traveller.step(&mut world, 30);
    world.send(0, home(11), home(10).ip(), b"after");
    let contexts = world.agents[0].status(world.clock()).contexts;
    let held: usize = contexts.iter().map(|context| context.held).sum();
    assert_eq!(held, 0, "relayed at once");
    world.run_for(2 * DELAY);
    traveller.step(&mut world, 50);
    world.run_for(MAP_TIME);
    let got = world.payloads(home(10), home(11).ip());
    assert_eq!(got.last().map(Vec::as_slice), Some(&b"after"[..]));
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
    let mut travellers = [0, 1].map(|i| Traveller::new(&mut world, homes[i], ways[i]));
    world.run_for(SECOND);
    let mut sent = [Vec::new(), Vec::new()];
    let mut lag = [0, 0];
    for n in 0..400u32 {
        for (i, traveller) in travellers.iter_mut().enumerate() {
            traveller.step(&mut world, n.wrapping_sub(100 + i as u32 * later));
            if let Some(place) = traveller.place.filter(|_| n >= starts[i]) {
                world.send(place, homes[i], homes[1 - i].ip(), &n.to_be_bytes());
                sent[i].push(n);
            }
        }
        world.run_for(MILLISECOND);
        // Not of the first packets: they wait for a context.
        for i in [0, 1].into_iter().filter(|_| n >= 100 && starts == [0, 0]) {
            let came = numbers(&world, homes[1 - i], homes[i]).pop();
            let newest = sent[i].last().copied();
            let late = newest.unwrap_or(0) - came.unwrap_or(0);
            lag[i] = lag[i].max(late);
            // The update, and there and back, by the old site if both move: nothing waits for a
            // relay or an answer any more.
            let both = ways.iter().all(|(from, to)| from != to);
            let over = 100 + later + 50 + if both { 50 } else { 30 };
            assert!(n < over || late <= 12, "{what}: {late} ms at {n}");
        }
    }
    world.run_for(5 * SECOND);
    assert!(lag.iter().all(|lag| *lag <= LONGEST), "{what}: {lag:?}");
    all_is_there(&world, homes, sent, what);
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

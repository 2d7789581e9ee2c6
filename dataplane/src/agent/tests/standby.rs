//! The new site of a move is published before the instance comes.

use mat_proto::Locator;

use super::world::*;
use crate::agent::{Handover, RelayTo};

/// 10 at site 0 talks with 20 at site 1; site 2 stands by for it, and peers know.
fn published() -> (World, RelayTo) {
    let mut world = World::talking(3);
    let relay = world.prepare(2, home(10));
    stand_by(&mut world);
    world.run_for(2 * MAP_TIME);
    let now = world.clock();
    let binding = world.map[&home(10)].clone();
    world.agents[0].learn(now, binding).unwrap();
    world.drain(0);
    world.run_for(10 * DELAY);
    (world, relay)
}

fn stand_by(world: &mut World) {
    let handover = world.agents[0].handover(home(10)).unwrap();
    let now = world.clock();
    world.agents[2].stand_by(now, handover).unwrap();
    world.drain(2);
}

/// Where the mapping service says that 10 is, and may come.
fn named(world: &World) -> Vec<(u16, Locator)> {
    let entries = world.map[&home(10)].entries().iter();
    entries.map(|e| (e.priority.get(), e.locator)).collect()
}

fn detach(world: &mut World, to: Option<RelayTo>) -> Handover {
    let now = world.clock();
    let handover = world.agents[0].detach(now, home(10), to).unwrap();
    world.drain(0);
    handover
}

fn alone_at_the_old_site(world: &mut World) {
    assert_eq!(named(world), [(1, locator(0, 1))]);
    let text = format!("{} from site 0", world.map[&home(10)].epoch());
    world.received.clear();
    world.send(0, home(10), home(20).ip(), text.as_bytes());
    world.run_for(3 * DELAY);
    let got = world.payloads(home(20), home(10).ip());
    assert_eq!(got, [text.as_bytes()]);
}

#[test]
fn peers_have_made_sure_of_the_new_site_when_the_instance_comes() {
    let (mut world, relay) = published();
    assert_eq!(named(&world), [(1, locator(0, 1)), (2, locator(2, 1))]);
    let handover = detach(&mut world, Some(relay));
    world.plugged.remove(&(0, home(10)));
    world.plugged.insert((2, home(10)));
    world.activate(2, handover);
    // The update, and MOVED on its way to the peer.
    world.run_for(MAP_TIME + DELAY + MILLISECOND);
    world.received.clear();
    // Far beyond the credit of a place that nobody has heard of, at once.
    let octets = [0; 1000];
    for _ in 0..200 {
        world.send(1, home(20), home(10).ip(), &octets);
    }
    assert_eq!(world.agents[1].held_bytes(), 0);
    world.run_for(4 * DELAY);
    assert_eq!(world.payloads(home(10), home(20).ip()).len(), 200);
    assert_eq!(named(&world), [(1, locator(2, 1))]);
}

#[test]
fn a_site_that_stood_by_in_vain_is_withdrawn() {
    // By whoever asked for it, and by itself when it has waited long enough.
    for told in [true, false] {
        let (mut world, _) = published();
        let epoch = world.map[&home(10)].epoch();
        if told {
            let now = world.clock();
            world.agents[2].detach(now, home(10), None).unwrap();
            world.drain(2);
            world.run_for(SECOND);
            let settled = world.settled.last().cloned();
            assert_eq!(settled, Some((2, home(10), Ok(None))));
        } else {
            world.run_for(31 * SECOND);
        }
        world.run_for(2 * SECOND);
        assert!(world.map[&home(10)].epoch() > epoch);
        alone_at_the_old_site(&mut world);
    }
}

#[test]
fn a_site_that_stood_by_and_is_no_more_is_forgotten() {
    let (mut world, _) = published();
    world.agents[2] = world.fresh(2);
    world.run_for(34 * SECOND);
    assert_eq!(named(&world).len(), 2);
    world.run_for(3 * SECOND);
    alone_at_the_old_site(&mut world);
}

/// It lets go before it has heard that another site stands by, and that site is gone.
#[test]
fn an_old_site_that_was_not_told_takes_the_home_back_all_the_same() {
    let mut world = World::talking(3);
    let relay = world.prepare(2, home(10));
    stand_by(&mut world);
    detach(&mut world, Some(relay));
    world.run_for(2 * MAP_TIME);
    world.agents[2] = world.fresh(2);
    world.run_for(40 * SECOND);
    alone_at_the_old_site(&mut world);
}

/// Somebody has written the same place anew, and the old site has not looked since.
#[test]
fn what_the_old_site_has_not_heard_yet_is_looked_up() {
    let mut world = World::talking(3);
    world.prepare(2, home(10));
    world.set_map(home(10), locator(0, 1));
    stand_by(&mut world);
    world.run_for(3 * MAP_TIME);
    assert_eq!(named(&world), [(1, locator(0, 1)), (2, locator(2, 1))]);
    assert_eq!(world.settled.last().unwrap().0, 2);
}

/// Another one is registered there, of which this site knows nothing.
#[test]
fn where_it_may_not_stand_by_it_does_not_try_again() {
    let mut world = World::talking(3);
    world.prepare(2, home(10));
    world.refuses = Some(locator(2, 1));
    stand_by(&mut world);
    world.run_for(3 * MAP_TIME);
    let (site, _, result) = world.settled.last().cloned().unwrap();
    assert!(site == 2 && result.is_err(), "{result:?}");
    assert_eq!(named(&world), [(1, locator(0, 1))]);
    world.prepare(2, home(10));
    stand_by(&mut world);
    world.run_for(3 * MAP_TIME);
    assert_eq!(named(&world), [(1, locator(0, 1)), (2, locator(2, 2))]);
}

/// The binding has been changed by others meanwhile: not to be overwritten.
#[test]
fn nobody_stands_by_for_what_is_served_elsewhere() {
    let mut world = World::talking(3);
    world.prepare(2, home(10));
    let handover = world.agents[0].handover(home(10)).unwrap();
    world.set_map(home(10), locator(1, 9));
    let there = named(&world);
    let now = world.clock();
    world.agents[2].stand_by(now, handover).unwrap();
    world.drain(2);
    world.run_for(3 * MAP_TIME);
    assert_eq!(named(&world), there);
    let (site, _, result) = world.settled.last().cloned().unwrap();
    assert!(site == 2 && result.is_err(), "{result:?}");
}

//! A node whose address changes.

use super::world::*;

/// 10 is a node at site 0 with the one address that its uplink has; it talks with 20 at site 1.
fn node() -> World {
    let mut world = World::new(2);
    let mut config = config(0);
    (config.exclusive, config.pool) = (true, Vec::new());
    world.agents[0] = world.fresh_as(0, config);
    uplink(&mut world, &[1]);
    world.talk();
    world
}

/// The addresses of the node's uplink are now these.
fn uplink(world: &mut World, numbers: &[usize]) {
    let now = world.clock();
    let locators = numbers.iter().map(|n| locator(0, *n)).collect();
    world.agents[0].handle_uplink(now, locators);
    world.drain(0);
}

fn reaches(world: &mut World, what: &[u8]) -> bool {
    world.send(1, home(20), home(10).ip(), what);
    world.run_for(2 * DELAY);
    let there = world.payloads(home(10), home(20).ip());
    world.send(0, home(10), home(20).ip(), what);
    world.run_for(2 * DELAY);
    let back = world.payloads(home(20), home(10).ip());
    [there, back]
        .iter()
        .all(|got| got.last().is_some_and(|last| last == what))
}

/// Its peers follow before the mapping service knows, and it need not answer at all.
#[test]
fn peers_follow_a_new_address_at_once() {
    for (before, after) in [(&[1, 2][..], &[2][..]), (&[][..], &[2][..])] {
        let mut world = node();
        world.map_up = false;
        uplink(&mut world, before);
        uplink(&mut world, after);
        world.run_for(2 * DELAY);
        assert!(reaches(&mut world, b"at once"));
        world.map_up = true;
        world.run_for(5 * SECOND);
        let registered = world.map[&home(10)].active().unwrap().locator;
        assert_eq!(registered, locator(0, 2));
        assert!(reaches(&mut world, b"later"));
        assert_eq!(world.misdelivered, 0);
    }
}

/// Somebody else has been given the home meanwhile: the mapping service decides.
#[test]
fn a_new_address_claims_nothing_that_is_another_ones() {
    let mut world = node();
    world.map_up = false;
    world.set_map(home(10), locator(1, 9));
    uplink(&mut world, &[2]);
    assert_eq!(
        world.agents[0].own_status(home(10)).unwrap().state,
        "serving"
    );
    world.map_up = true;
    world.run_for(5 * SECOND);
    assert_eq!(
        world.map[&home(10)].active().unwrap().locator,
        locator(1, 9)
    );
    assert_eq!(
        world.agents[0].own_status(home(10)).unwrap().state,
        "not serving"
    );
}

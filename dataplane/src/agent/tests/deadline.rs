//! Moves that nobody finishes.

use super::world::*;
use crate::agent::OpError;

/// 10 at site 0 talks with 20 at site 1; its move to site 2 has begun, and whoever
/// began it is gone.
fn abandoned() -> World {
    let mut world = World::talking(3);
    world.depart(home(10), 0, 2);
    world.run_for(SECOND);
    world
}

fn states(world: &World) -> [String; 2] {
    [0, 2].map(|site| states_at(world, site))
}

fn states_at(world: &World, site: usize) -> String {
    let status = world.agents[site].own_status(home(10));
    status.map_or_else(|| "-".to_owned(), |s| s.state)
}

fn talks(world: &mut World, site: usize) {
    world.received.clear();
    world.send(1, home(20), home(10).ip(), b"in");
    world.run_for(SECOND);
    world.send(site, home(10), home(20).ip(), b"out");
    world.run_for(SECOND);
    let payloads: Vec<_> = world
        .received
        .iter()
        .map(|(s, .., p)| (*s, &p[..]))
        .collect();
    assert_eq!(payloads, [(site, &b"in"[..]), (1, b"out")]);
    assert_eq!(world.misdelivered, 0);
}

#[test]
fn an_instance_that_has_not_come_is_taken_back_by_its_old_site() {
    let mut world = abandoned();
    world.send(1, home(20), home(10).ip(), b"during the move");
    world.run_for(25 * SECOND);
    assert_eq!(states(&world), ["departed", "prepared"]);
    let before = world.map[&home(10)].epoch();
    world.run_for(11 * SECOND);
    assert_eq!(states(&world), ["serving", "-"]);
    assert!(world.map[&home(10)].epoch() > before);
    let refused = (2, home(10), Err(OpError::Deadline(home(10))));
    assert!(world.settled.contains(&refused));
    talks(&mut world, 0);
}

#[test]
fn an_instance_that_has_come_is_served_by_its_new_site() {
    let mut world = abandoned();
    let now = world.clock();
    world.plugged.remove(&(0, home(10)));
    world.agents[0].link_ready(now, home(10), false);
    world.plugged.insert((2, home(10)));
    world.agents[2].link_ready(now, home(10), true);
    world.run_for(30 * SECOND);
    assert_eq!(states(&world), ["departed", "serving"]);
    talks(&mut world, 2);
    world.run_for(10 * SECOND);
    assert_eq!(states(&world), ["-", "serving"]);
}

/// The sites hear at once that whoever moved it is gone.
#[test]
fn an_instance_whose_mover_is_known_to_be_gone_is_served_again_soon() {
    let mut world = abandoned();
    for site in [0, 2] {
        let now = world.clock();
        world.agents[site].unattended(now, home(10));
        world.drain(site);
    }
    world.run_for(3 * SECOND);
    assert_eq!(states(&world), ["serving", "prepared"]);
    talks(&mut world, 0);
    // It was on its way all the same.
    world.plugged.remove(&(0, home(10)));
    let now = world.clock();
    world.agents[0].link_ready(now, home(10), false);
    world.plugged.insert((2, home(10)));
    world.agents[2].link_ready(now, home(10), true);
    world.drain(2);
    world.run_for(2 * SECOND);
    assert_eq!(states(&world), ["not serving", "serving"]);
    talks(&mut world, 2);
}

/// The interface was there before the move, and after a restart it still is: that says
/// nothing. What the instance itself sends does.
#[test]
fn a_link_that_was_always_there_is_no_instance_that_has_come() {
    for speaks in [false, true] {
        let mut world = World::talking(3);
        world.plugged.insert((2, home(10)));
        world.depart(home(10), 0, 2);
        world.restart(2);
        let now = world.clock();
        world.agents[2].unattended(now, home(10));
        world.run_for(SECOND);
        if speaks {
            world.send(2, home(10), home(20).ip(), b"here");
        }
        world.run_for(40 * SECOND);
        let ends = match speaks {
            true => ["departed", "serving"],
            false => ["serving", "-"],
        };
        assert_eq!(states(&world), ends);
        talks(&mut world, if speaks { 2 } else { 0 });
    }
}

/// One that has left is not taken back before it can have come.
#[test]
fn an_instance_on_its_way_without_a_mover_is_served_where_it_comes() {
    let mut world = abandoned();
    world.plugged.remove(&(0, home(10)));
    let now = world.clock();
    world.agents[0].link_ready(now, home(10), false);
    for site in [0, 2] {
        let now = world.clock();
        world.agents[site].unattended(now, home(10));
    }
    world.run_for(5 * SECOND);
    assert_eq!(states(&world), ["departed", "prepared"]);
    world.plugged.insert((2, home(10)));
    let now = world.clock();
    world.agents[2].link_ready(now, home(10), true);
    world.drain(2);
    world.run_for(SECOND);
    assert_eq!(states(&world), ["departed", "serving"]);
    talks(&mut world, 2);
}

#[test]
fn while_the_mapping_service_is_away_nobody_decides() {
    let mut world = abandoned();
    world.map_up = false;
    world.run_for(60 * SECOND);
    assert_eq!(states(&world), ["departed", "-"]);
    world.map_up = true;
    world.run_for(2 * SECOND);
    assert_eq!(states(&world), ["serving", "-"]);
    talks(&mut world, 0);
}

/// The new site was told to take over while the instance was still on its way, and then
/// nobody moved it.
#[test]
fn an_instance_that_does_not_follow_is_given_back() {
    let mut world = World::talking(3);
    let handover = world.depart(home(10), 0, 2);
    let now = world.clock();
    world.agents[2].activate(now, handover).unwrap();
    world.drain(2);
    world.run_for(15 * SECOND);
    assert_eq!(states(&world), ["departed", "serving"]);
    world.run_for(17 * SECOND);
    assert_eq!(states(&world), ["serving", "-"]);
    talks(&mut world, 0);
}

#[test]
fn a_site_that_must_not_serve_unasked_falls_silent_until_it_is_heard_again() {
    let mut world = World::talking(2);
    let mut config = world.agents[0].config().clone();
    config.stop_after = Some(5 * SECOND);
    let now = world.clock();
    world.agents[0].reconfigure(now, config);
    world.run_for(20 * SECOND);
    assert_eq!(states_at(&world, 0), "serving");
    world.map_up = false;
    world.run_for(4 * SECOND);
    assert_eq!(states_at(&world, 0), "serving");
    world.run_for(3 * SECOND);
    assert_eq!(states_at(&world, 0), "not serving");
    world.received.clear();
    world.send(1, home(20), home(10).ip(), b"to nobody");
    world.run_for(SECOND);
    assert_eq!(world.received, []);
    world.map_up = true;
    world.run_for(3 * SECOND);
    assert_eq!(states_at(&world, 0), "serving");
    talks(&mut world, 0);
}

/// Without memory a site gives its homes the locators back at which they are registered,
/// although they come in another order.
#[test]
fn what_a_site_has_forgotten_the_mapping_service_knows() {
    let mut world = World::talking(2);
    world.attach(0, home(11));
    world.run_for(SECOND);
    let before = world.map.clone();
    world.agents[0] = world.fresh(0);
    for home in [home(11), home(10)] {
        world.attach(0, home);
    }
    world.run_for(SECOND);
    assert_eq!(world.map, before);
    assert_eq!(states_at(&world, 0), "serving");
    talks(&mut world, 0);
}

/// What the new site of a move was killed with, and what becomes of the move.
#[test]
fn a_move_goes_on_where_its_new_site_is_restarted() {
    let mut world = World::talking(3);
    let handover = world.depart(home(10), 0, 2);
    world.send(1, home(20), home(10).ip(), b"relayed");
    world.run_for(SECOND);
    world.restart(2);
    assert_eq!(states(&world), ["departed", "prepared"]);
    world.plugged.remove(&(0, home(10)));
    world.plugged.insert((2, home(10)));
    world.activate(2, handover);
    world.run_for(2 * SECOND);
    assert_eq!(states(&world), ["departed", "serving"]);
    // The old site had kept it.
    let relayed = world.payloads(home(10), home(20).ip());
    assert_eq!(relayed, [b"relayed".to_vec()]);
    talks(&mut world, 2);
}

#[test]
fn an_update_that_a_killed_site_had_under_way_is_read_back() {
    for commits in [true, false] {
        let mut world = World::talking(3);
        let handover = world.depart(home(10), 0, 2);
        world.plugged.remove(&(0, home(10)));
        world.plugged.insert((2, home(10)));
        // Its answer reaches nobody.
        (world.map_up, world.lose_answers) = (commits, true);
        world.activate(2, handover);
        world.restart(2);
        world.run_for(5 * SECOND);
        (world.map_up, world.lose_answers) = (true, false);
        world.run_for(5 * SECOND);
        if commits {
            assert_eq!(states(&world), ["departed", "serving"]);
            talks(&mut world, 2);
        } else {
            // Nobody says it again: whoever asked for the move may have undone it.
            assert_eq!(states(&world), ["departed", "-"]);
        }
    }
}

#[test]
fn a_prepared_site_that_is_restarted_keeps_to_its_deadline() {
    let mut world = abandoned();
    world.run_for(20 * SECOND);
    world.restart(2);
    world.run_for(8 * SECOND);
    assert_eq!(states(&world), ["departed", "prepared"]);
    world.run_for(7 * SECOND);
    assert_eq!(states(&world), ["serving", "-"]);
    talks(&mut world, 0);
}

/// What the release before wrote is read by this one, and means the same.
#[test]
fn the_state_file_is_a_contract() {
    let golden = include_str!("../../../tests/golden/state-0.1.json");
    let snapshot: crate::agent::Snapshot = serde_json::from_str(golden).unwrap();
    let again = serde_json::to_value(&snapshot).unwrap();
    let golden: serde_json::Value = serde_json::from_str(golden).unwrap();
    assert_eq!(again, golden);
    let mut world = World::talking(2);
    world.agents[0] = world.fresh(0);
    let now = world.clock();
    world.agents[0].restore(now, snapshot);
    world.drain(0);
    assert_eq!(states_at(&world, 0), "serving");
    let departed = world.agents[0].own_status(home(11)).unwrap();
    assert_eq!(departed.state, "departed");
}

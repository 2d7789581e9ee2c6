//! Moves between two pretended forwarders, and what is left when any step fails.

use std::sync::{Arc, Mutex};

use super::fake::{Fault, Sites, World};
use mat_ctl::moves::{Driver, MoveError, MoveOutcome, Permit, Trip, move_instance};
use mat_ctl::plan::Step;
use mat_ctl::report::schema::Move;
use mat_proto::Home;
use serde_json::json;

const V4: &str = "192.0.2.10";
const V6: &str = "2001:db8:1::10";

/// Where the instance is, and what the driver was asked, in the order of all other requests.
struct Truck {
    world: Arc<Mutex<World>>,
    fails: bool,
    still: bool,
    at: &'static str,
}

impl Driver for Truck {
    fn name(&self) -> &str {
        "truck"
    }

    fn stands_still(&self) -> bool {
        self.still
    }

    fn relocate(&mut self, from: &str, to: &str) -> anyhow::Result<()> {
        self.note(format!("relocate {from} {to}"));
        anyhow::ensure!(!self.fails, "the road is closed");
        self.at = "b";
        Ok(())
    }

    fn bring_back(&mut self, from: &str, to: &str) -> anyhow::Result<()> {
        self.note(format!("bring_back {from} {to}"));
        self.at = "a";
        Ok(())
    }
}

impl Truck {
    fn note(&self, what: String) {
        let mut world = self.world.lock().unwrap();
        world.log.push(what);
        world.bodies.push(json!(null));
    }
}

fn run(sites: &Sites, truck: &mut Truck) -> Result<MoveOutcome, Box<MoveError>> {
    run_step_by_step(sites, truck, &mut |_| Ok(()))
}

fn run_step_by_step(
    sites: &Sites,
    truck: &mut Truck,
    permit: Permit<'_>,
) -> Result<MoveOutcome, Box<MoveError>> {
    let homes: [Home; 2] = [V4.parse().unwrap(), V6.parse().unwrap()];
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let trip = Trip {
        instance: "web",
        homes: &homes,
        interface: Some("v1"),
        mac: None,
        from: &sites.a,
        to: &sites.b,
    };
    let moved = runtime.block_on(move_instance(trip, truck, permit));
    moved.map_err(Box::new)
}

fn truck(sites: &Sites) -> Truck {
    Truck {
        world: Arc::clone(&sites.world),
        fails: false,
        still: false,
        at: "a",
    }
}

/// Requests of one step run side by side: sorted within each run of the same operation.
fn log(sites: &Sites) -> Vec<String> {
    let key = |line: &String| line.rsplit_once(' ').map(|(head, _)| head.to_owned());
    let mut log = sites.world().log.clone();
    log.chunk_by_mut(|one, other| key(one) == key(other))
        .for_each(<[String]>::sort);
    log
}

#[test]
fn a_move_takes_the_steps_in_order_with_all_homes_side_by_side() {
    let sites = Sites::new(&[V4, V6]);
    let mut truck = truck(&sites);
    let outcome = run(&sites, &mut truck).unwrap();
    assert_eq!(
        log(&sites),
        [
            "b prepare 192.0.2.10",
            "b prepare 2001:db8:1::10",
            "b standby 192.0.2.10",
            "b standby 2001:db8:1::10",
            "a learn 192.0.2.10",
            "a learn 2001:db8:1::10",
            "a detach 192.0.2.10",
            "a detach 2001:db8:1::10",
            "relocate a b",
            "b activate 192.0.2.10",
            "b activate 2001:db8:1::10",
        ]
    );
    let world = sites.world();
    // Told where it will be plugged in, the MAC as the old site knew it.
    assert_eq!(world.bodies[0]["interface"], "v1");
    assert_eq!(world.bodies[0]["mac"], "02:00:00:00:00:10");
    // One key, at both sites and for both homes; and the contexts went with the instance.
    let key = &world.bodies[0]["key"];
    assert_eq!(key.as_str().unwrap().len(), 64);
    for body in &world.bodies[6..8] {
        assert_eq!(&body["to"]["key"], key);
        assert_eq!(body["to"]["port"], 6283);
    }
    assert_eq!(
        world.bodies[9]["handover"]["contexts"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        (truck.at, world.state("b", V4), world.state("b", V6)),
        ("b", Some("serving"), Some("serving"))
    );
    assert_eq!(world.state("a", V4), Some("departed"));
    drop(world);

    assert_eq!((outcome.epoch_before, outcome.epoch_after), (100, 102));
    assert_eq!((outcome.peers, outcome.peers_acknowledged), (2, 2));
    assert_eq!(outcome.peers_switched_us, Some(1500));
    assert_eq!(
        outcome.homes[0].locator_before,
        Some("198.51.100.7".parse().unwrap())
    );
    assert_eq!(
        outcome.homes[0].locator_after,
        Some("203.0.113.7".parse().unwrap())
    );
    let times = [
        outcome.started_unix_us,
        outcome.detached_unix_us,
        outcome.activated_unix_us,
        outcome.ended_unix_us,
    ];
    assert!(
        times.is_sorted() && times[0] > 1_700_000_000_000_000,
        "{times:?}"
    );
    let entry = Move::from(&outcome);
    assert_eq!(
        (
            entry.driver.as_str(),
            entry.peers_switched_ms,
            entry.map_update_ms
        ),
        ("truck", 1.5, 0.7)
    );
    assert_eq!(entry.blackout_ms, outcome.blackout_ms());
}

#[test]
fn peers_that_stay_silent_are_no_failure() {
    let sites = Sites::new(&[V4, V6]);
    sites.world().deaf_peers = true;
    let outcome = run(&sites, &mut truck(&sites)).unwrap();
    assert_eq!(
        (
            outcome.peers,
            outcome.peers_acknowledged,
            outcome.peers_switched_us
        ),
        (2, 0, None)
    );
    assert!(Move::from(&outcome).peers_switched_ms >= 2000.0);
    assert!(
        outcome
            .to_string()
            .contains("0 of 2 peers have followed so far"),
        "{outcome}"
    );
}

/// Fails as told; whatever the point, afterwards site `a` serves both homes, the instance is
/// there, and `b` has nothing.
fn fails(sites: &Sites, truck: &mut Truck, step: Step) -> (Vec<String>, String) {
    let error = run(sites, truck).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.step, step, "{text}");
    assert!(error.rolled_back(), "{text}");
    let world = sites.world();
    for home in [V4, V6] {
        assert_eq!(world.state("a", home), Some("serving"), "{text}");
        assert!(
            matches!(world.state("b", home), None | Some("departed")),
            "{text}"
        );
        assert_eq!(world.bound[home].0, "a");
    }
    assert_eq!(truck.at, "a");
    drop(world);
    (log(sites), text)
}

#[test]
fn refused_by_the_new_site_nothing_happens_at_the_old_one() {
    let sites = Sites::new(&[V4, V6]);
    sites.fault("b", "prepare", V6, Fault::Refuse);
    let (log, text) = fails(&sites, &mut truck(&sites), Step::Prepare);
    assert_eq!(
        log,
        [
            "b prepare 192.0.2.10",
            "b prepare 2001:db8:1::10",
            "b detach 192.0.2.10"
        ]
    );
    assert!(
        text.contains("step prepare failed: site b: told to refuse"),
        "{text}"
    );
    assert!(
        text.contains("rolled back: 192.0.2.10 is withdrawn from b"),
        "{text}"
    );
}

#[test]
fn a_reservation_that_may_have_been_made_is_withdrawn() {
    let sites = Sites::new(&[V4, V6]);
    sites.fault("b", "prepare", V6, Fault::DoAndFail);
    let (log, _) = fails(&sites, &mut truck(&sites), Step::Prepare);
    assert_eq!(log[2..], ["b detach 192.0.2.10", "b detach 2001:db8:1::10"]);
}

#[test]
fn a_site_that_cannot_be_published_is_not_moved_to() {
    for fault in [Fault::Refuse, Fault::DoAndFail] {
        let sites = Sites::new(&[V4, V6]);
        sites.fault("b", "standby", V6, fault);
        let (log, _) = fails(&sites, &mut truck(&sites), Step::Publish);
        let end = ["b detach 192.0.2.10", "b detach 2001:db8:1::10"];
        assert_eq!(log[log.len() - 2..], end);
    }
}

#[test]
fn refused_by_the_old_site_the_reservations_are_withdrawn() {
    let sites = Sites::new(&[V4, V6]);
    sites.fault("a", "detach", V6, Fault::Refuse);
    let (log, _) = fails(&sites, &mut truck(&sites), Step::Detach);
    assert_eq!(
        log[8..],
        [
            "a attach 192.0.2.10",
            "b detach 192.0.2.10",
            "b detach 2001:db8:1::10"
        ]
    );
}

#[test]
fn a_lost_handover_costs_contexts_not_service() {
    let sites = Sites::new(&[V4, V6]);
    sites.fault("a", "detach", V6, Fault::DoAndFail);
    let (log, _) = fails(&sites, &mut truck(&sites), Step::Detach);
    assert_eq!(
        log[8..10],
        ["a attach 192.0.2.10", "a attach 2001:db8:1::10"]
    );
    let world = sites.world();
    let contexts = |home: &str| {
        let line = format!("a attach {home}");
        let at = world.log.iter().position(|entry| *entry == line).unwrap();
        world.bodies[at]["contexts"].as_array().map_or(0, Vec::len)
    };
    assert_eq!((contexts(V4), contexts(V6)), (1, 0));
}

#[test]
fn when_the_driver_fails_the_old_site_takes_the_contexts_again() {
    let sites = Sites::new(&[V4, V6]);
    let mut truck = Truck {
        fails: true,
        ..truck(&sites)
    };
    let (log, text) = fails(&sites, &mut truck, Step::Relocate);
    assert_eq!(
        log[8..],
        [
            "relocate a b",
            "a attach 192.0.2.10",
            "a attach 2001:db8:1::10",
            "b detach 192.0.2.10",
            "b detach 2001:db8:1::10",
        ]
    );
    assert!(
        text.contains("step relocate failed: the road is closed"),
        "{text}"
    );
    assert!(text.contains("everything is as before"), "{text}");
    let world = sites.world();
    let body = &world.bodies[9];
    assert_eq!(
        (&body["claim"], &body["interface"]),
        (&json!(true), &json!("veth-a"))
    );
    assert_eq!(body["contexts"].as_array().unwrap().len(), 1);
    // Nothing changed in the mapping service since the new site was published.
    assert_eq!(world.bound[V4], ("a".to_owned(), 101));
}

#[test]
fn the_binding_changes_while_an_instance_that_stands_still_is_on_its_way() {
    let sites = Sites::new(&[V4, V6]);
    let mut truck = Truck {
        still: true,
        ..truck(&sites)
    };
    run(&sites, &mut truck).unwrap();
    let mut log = log(&sites).split_off(8);
    log.sort();
    let activated = ["b activate 192.0.2.10", "b activate 2001:db8:1::10"];
    assert_eq!(log, [&activated[..], &["relocate a b"]].concat());
    let world = sites.world();
    assert_eq!((truck.at, world.state("b", V4)), ("b", Some("serving")));
}

#[test]
fn when_its_driver_fails_all_the_same_the_new_site_hands_it_back() {
    let sites = Sites::new(&[V4, V6]);
    let mut truck = Truck {
        fails: true,
        still: true,
        ..truck(&sites)
    };
    let (_, text) = fails(&sites, &mut truck, Step::Relocate);
    assert!(
        text.contains("192.0.2.10 is handed back from b to a"),
        "{text}"
    );
}

#[test]
fn if_one_home_is_not_taken_over_the_other_is_handed_back() {
    let sites = Sites::new(&[V4, V6]);
    sites.fault("b", "activate", V6, Fault::Refuse);
    let (log, text) = fails(&sites, &mut truck(&sites), Step::Activate);
    assert_eq!(
        log[11..],
        [
            "bring_back a b",
            "a prepare 192.0.2.10",
            "b detach 192.0.2.10",
            "a activate 192.0.2.10",
            "a attach 2001:db8:1::10",
            "b detach 2001:db8:1::10",
        ]
    );
    assert!(
        text.contains("192.0.2.10 is handed back from b to a"),
        "{text}"
    );
}

#[test]
fn a_take_over_whose_answer_is_lost_is_claimed_back() {
    let sites = Sites::new(&[V4, V6]);
    for home in [V4, V6] {
        sites.fault("b", "activate", home, Fault::DoAndFail);
    }
    let (log, text) = fails(&sites, &mut truck(&sites), Step::Activate);
    assert_eq!(
        log[11..],
        [
            "bring_back a b",
            "a attach 192.0.2.10",
            "a attach 2001:db8:1::10",
            "b detach 192.0.2.10",
            "b detach 2001:db8:1::10",
        ]
    );
    assert!(text.contains("192.0.2.10 stays served at a"), "{text}");
}

#[test]
fn a_take_over_that_happens_after_the_roll_back_is_noticed() {
    let sites = Sites::new(&[V4, V6]);
    sites.fault("b", "activate", V6, Fault::DoLater);
    let (log, _) = fails(&sites, &mut truck(&sites), Step::Activate);
    // Attached at a, then the binding went to b after all: claimed once more.
    let tail = &log[log.len() - 3..];
    assert_eq!(
        tail,
        [
            "b detach 2001:db8:1::10",
            "a detach 2001:db8:1::10",
            "a attach 2001:db8:1::10"
        ]
    );
}

#[test]
fn a_roll_back_that_fails_says_what_is_left() {
    let sites = Sites::new(&[V4, V6]);
    let mut site_gone = Truck {
        fails: true,
        ..truck(&sites)
    };
    // Neither home comes back: the forwarder refuses, and goes on refusing.
    sites.fault("a", "attach", V4, Fault::Refuse);
    let error = run(&sites, &mut site_gone).unwrap_err();
    let text = error.to_string();
    assert!(!error.rolled_back(), "{text}");
    assert!(
        text.contains("ROLL-BACK FAILED: not achieved: 192.0.2.10 is served at a again: "),
        "{text}"
    );
    assert!(text.contains("site a: told to refuse"), "{text}");
    assert!(
        text.contains("rolled back: 2001:db8:1::10 is served at a again"),
        "{text}"
    );
    assert!(text.contains("matctl help move"), "{text}");
    // What can be undone is undone all the same.
    assert_eq!(sites.world().state("b", V4), None);
}

#[test]
fn an_instance_that_is_elsewhere_is_not_touched() {
    let sites = Sites::new(&[V4]);
    let error = run(&sites, &mut truck(&sites)).unwrap_err();
    assert_eq!(error.step, Step::Check);
    let text = error.to_string();
    assert!(
        text.contains("2001:db8:1::10 is not attached at a"),
        "{text}"
    );
    assert!(text.contains("nothing had been changed"), "{text}");
    assert!(sites.world().log.is_empty());
}

#[test]
fn a_step_that_is_not_permitted_undoes_those_before_it() {
    for stop in [
        Step::Prepare,
        Step::Publish,
        Step::Detach,
        Step::Relocate,
        Step::Activate,
    ] {
        let sites = Sites::new(&[V4, V6]);
        let mut truck = truck(&sites);
        let mut asked = Vec::new();
        let error = run_step_by_step(&sites, &mut truck, &mut |step| {
            asked.push(step);
            if step == stop {
                Err("the operator said no".to_owned())
            } else {
                Ok(())
            }
        });
        let error = error.unwrap_err();
        assert_eq!((error.step, error.rolled_back()), (stop, true), "{error}");
        assert_eq!(asked.last(), Some(&stop));
        let world = sites.world();
        assert_eq!(
            (truck.at, world.state("a", V4), world.state("b", V4)),
            ("a", Some("serving"), None),
            "{stop}"
        );
    }
}

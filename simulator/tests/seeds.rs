//! Runs that must go well: some seeds of every kind, and what went wrong once.

use std::time::Duration;

use mat_simulator::campaign::run_many;
use mat_simulator::scenario::{Act, Death, Scenario};
use mat_simulator::world::{Telling, run};

#[test]
fn five_hundred_seeds() {
    let sum = run_many(1, 500, 2, usize::MAX);
    assert_eq!(sum.runs, 500);
    assert!(sum.moves > 500, "{}", sum.moves);
    assert_eq!(sum.violations, []);
}

#[test]
fn a_seed_is_a_run() {
    let scenario = Scenario::new(7);
    let [one, other] = [(); 2].map(|()| run(&scenario, Telling::Segments));
    assert!(one.story.len() > 100);
    assert_eq!(one.story, other.story);
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn goes_well(seed: u64, sites: usize, hosts: &[usize], acts: &[(u64, Act)]) {
    let scenario = Scenario {
        seed,
        sites,
        hosts: hosts.to_vec(),
        acts: acts.iter().map(|(at, act)| (ms(*at), *act)).collect(),
    };
    let outcome = run(&scenario, Telling::Story);
    let story = outcome.story.join("\n");
    assert_eq!(outcome.violation, None, "\n{story}");
}

fn connects(from: usize, to: usize, octets: u64) -> Act {
    Act::Connect { from, to, octets }
}

fn moves(host: usize, to: usize, freeze: u64, dies: Option<Death>) -> Act {
    Act::Move {
        host,
        to,
        freeze: ms(freeze),
        dies,
    }
}

fn crashes(site: usize, down: u64, forgets: bool) -> Act {
    Act::Crash {
        site,
        down: ms(down),
        forgets,
    }
}

/// The former place of one peer is another's: the context of the former one took the
/// pair of locators back when it opened again.
#[test]
fn a_forwarder_without_memory_swaps_the_locators_of_two_homes() {
    let acts = [
        (7_747, connects(3, 1, 26_000)),
        (35_317, moves(0, 2, 98, None)),
        (45_331, crashes(0, 1_526, true)),
    ];
    goes_well(2289, 4, &[0, 0, 0, 1], &acts);
}

/// What waited at the receiver for the home that had a locator before was delivered to the
/// home that has it now, because its sender had had a context with that one too.
#[test]
fn what_was_meant_for_the_former_holder_of_a_locator_is_not_for_the_next() {
    let acts = [
        (5_572, moves(1, 0, 152, None)),
        (7_205, connects(0, 2, 21_000)),
        (16_393, connects(1, 0, 40_000)),
        (22_139, crashes(0, 2_337, true)),
        (30_813, connects(1, 0, 28_000)),
        (30_886, connects(0, 2, 58_000)),
    ];
    goes_well(22_576, 4, &[1, 2, 0], &acts);
    let acts = [
        (3_701, connects(1, 2, 42_000)),
        (4_143, connects(1, 0, 16_000)),
        (5_449, moves(1, 2, 229, None)),
        (28_961, moves(0, 1, 92, None)),
        (31_212, crashes(1, 2_838, true)),
    ];
    goes_well(23_364, 4, &[2, 0, 1, 3], &acts);
}

/// The old site of a move that nobody finished forgot in a crash whose its locator was.
#[test]
fn a_restart_gives_no_locator_away_that_is_in_quarantine() {
    let acts = [
        (8_865, connects(2, 0, 3_000)),
        (22_123, moves(0, 1, 7, Some(Death::Activate))),
        (22_710, connects(2, 0, 53_000)),
        (26_233, crashes(2, 93, false)),
        (34_700, moves(2, 2, 232, None)),
    ];
    goes_well(3026, 3, &[2, 2, 1], &acts);
}

/// Without memory a site gives an instance the locator at which the instance's own context
/// has a peer.
#[test]
fn a_peer_is_not_where_we_are_ourselves() {
    let acts = [
        (8_828, moves(0, 2, 165, None)),
        (9_048, connects(0, 2, 38_000)),
        (15_399, moves(0, 0, 185, Some(Death::Activate))),
        (22_734, crashes(2, 735, true)),
        (35_642, moves(2, 2, 170, None)),
    ];
    goes_well(32_640, 3, &[1, 2, 0], &acts);
}

/// An idle context noticed only after ten seconds that its peer was gone.
#[test]
fn two_moves_that_nobody_finishes() {
    let acts = [
        (7_565, connects(1, 0, 11_000)),
        (27_509, moves(1, 3, 244, Some(Death::Relocate))),
        (31_542, moves(0, 3, 126, Some(Death::Activate))),
    ];
    goes_well(1860, 4, &[0, 2], &acts);
}

/// The old site crashed meanwhile, and took the instance back without its link.
#[test]
fn taken_back_after_a_crash() {
    let acts = [
        (11_016, moves(1, 2, 121, Some(Death::Relocate))),
        (31_681, crashes(1, 2_624, false)),
    ];
    goes_well(88, 4, &[0, 1], &acts);
}

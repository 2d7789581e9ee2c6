use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::*;
use crate::rewrite::plain::Ends;

const SEED: [u64; 4] = [0x1234_5678_9abc_def0, 77, 0xdead_beef, 5];
const NOW: Time = Time(0);

fn home(n: u32) -> Home {
    Home::new(std::net::Ipv4Addr::from(0xC000_0200 + n).into()).unwrap()
}

fn locator(n: u32) -> Locator {
    Locator::new(std::net::Ipv4Addr::from(0xC633_6400 + n).into()).unwrap()
}

fn way(local: u32, remote: u32) -> Way {
    Way {
        local: locator(local),
        remote: locator(remote),
        until: Time(1 << 40),
    }
}

fn out(fib: &Fib, own: Home, peer: Home) -> Option<Found<1>> {
    fib.v4.find(&Ends::new(own.ip(), peer.ip()), NOW)
}

fn into(fib: &Fib, way: Way) -> Option<Found<1>> {
    fib.v4
        .find(&Ends::new(way.remote.ip(), way.local.ip()), NOW)
}

#[test]
fn a_pair_is_found_in_both_directions_and_forgotten_wholly() {
    let (fib, mut writer) = Fib::new(4, SEED);
    let slot = writer.claim(home(1), home(2)).unwrap();
    assert_eq!(out(&fib, home(1), home(2)), None, "it has no way yet");
    let way = way(10, 20);
    writer.set(slot, Some(way));
    assert_eq!(writer.way(slot).unwrap().remote, way.remote);
    let found = out(&fib, home(1), home(2)).unwrap();
    assert_eq!(found.direction, Direction::Out);
    assert_eq!(found.new, Ends::new(way.local.ip(), way.remote.ip()));
    let back = into(&fib, way).unwrap();
    assert_eq!(back.direction, Direction::In);
    assert_eq!(back.new, Ends::new(home(2).ip(), home(1).ip()));
    assert_eq!(
        found.delta + back.delta,
        crate::rewrite::checksum::Delta::ZERO
    );
    assert_eq!(out(&fib, home(2), home(1)), None);
    writer.release(slot);
    assert_eq!((out(&fib, home(1), home(2)), into(&fib, way)), (None, None));
    assert_eq!(fib.v4.index_used(), 0);
}

#[test]
fn an_expired_way_is_open_inwards_only() {
    let (fib, mut writer) = Fib::new(4, SEED);
    let slot = writer.claim(home(1), home(2)).unwrap();
    let until = Time(10 << 16);
    let way = Way { until, ..way(1, 2) };
    writer.set(slot, Some(way));
    let outbound = Ends::new(home(1).ip(), home(2).ip());
    let inbound = Ends::new(way.remote.ip(), way.local.ip());
    let before = Time(until.0 - 1);
    assert!(fib.v4.find(&outbound, before).is_some());
    assert!(fib.v4.find(&outbound, until).is_none());
    assert!(fib.v4.find(&inbound, until).is_some());
    // A renewal is all it takes.
    let until = Time(20 << 16);
    writer.set(slot, Some(Way { until, ..way }));
    assert!(
        fib.v4
            .find(&outbound, before + std::time::Duration::from_secs(1))
            .is_none()
    );
    assert!(fib.v4.find(&outbound, Time(until.0 - 1)).is_some());
}

#[test]
fn a_full_table_refuses_and_families_do_not_mix() {
    let (_, mut writer) = Fib::new(2, SEED);
    let v6: Home = "2001:db8:1::1".parse().unwrap();
    assert_eq!(writer.claim(home(1), v6), None);
    let first = writer.claim(home(1), home(2)).unwrap();
    assert!(writer.claim(home(1), home(3)).is_some());
    assert_eq!(writer.claim(home(1), home(4)), None);
    assert!(writer.claim(v6, "2001:db8:1::2".parse().unwrap()).is_some());
    writer.release(first);
    assert!(writer.claim(home(1), home(4)).is_some());
}

#[test]
fn counts_belong_to_the_pair_and_start_anew() {
    let (fib, mut writer) = Fib::new(1, SEED);
    let slot = writer.claim(home(1), home(2)).unwrap();
    assert_eq!(fib.tally(slot), Tally::default());
    let now = Time(5 << 16);
    fib.count(slot, Direction::Out, 2, 3000, now);
    fib.count(slot, Direction::In, 1, 40, now);
    let tally = fib.tally(slot);
    assert_eq!((tally.sent.packets, tally.sent.bytes), (2, 3000));
    assert_eq!((tally.received.packets, tally.received.bytes), (1, 40));
    assert_eq!(tally.last_sent, Some(now));
    writer.release(slot);
    let slot = writer.claim(home(3), home(4)).unwrap();
    assert_eq!(fib.tally(slot), Tally::default());
}

/// The bound that the module documentation states: records and index, either family.
#[test]
fn a_pair_takes_at_most_128_octets() {
    for (octets, bound) in [
        (Pairs::<1>::octets(1_000_000), 80),
        (Pairs::<4>::octets(1_000_000), 128),
    ] {
        assert!(octets <= bound * 1_000_000 + 4, "{octets}");
    }
}

/// Neighbouring addresses, and seeds with hardly a bit set, as no random one would be.
#[test]
fn a_full_table_is_searched_in_few_steps() {
    for seed in [[0; 4], [1, 2, 3, 4], SEED] {
        let size = 20_000;
        let (fib, mut writer) = Fib::new(size as usize, seed);
        for n in 0..size {
            let peer = Home::new(std::net::Ipv4Addr::from(0x1400_0000 + n).into()).unwrap();
            let slot = writer.claim(home(0), peer).unwrap();
            let remote = Locator::new(std::net::Ipv4Addr::from(0x2800_0000 + n).into());
            let (local, remote) = (locator(0), remote.unwrap());
            let until = Time(1 << 40);
            writer.set(
                slot,
                Some(Way {
                    local,
                    remote,
                    until,
                }),
            );
        }
        let longest = fib.v4.longest_search();
        assert!(longest < 150, "{longest} steps with {seed:?}");
    }
}

proptest! {
    /// Whatever is done, the table says what a plain map would say.
    #[test]
    fn the_table_equals_its_model(steps in proptest::collection::vec((0u32..12, 0u32..4, 0u32..6), 1..300)) {
        let (fib, mut writer) = Fib::new(12, SEED);
        let mut slots: BTreeMap<u32, Slot> = BTreeMap::new();
        let mut ways: BTreeMap<u32, (u32, u32)> = BTreeMap::new();
        for (pair, what, place) in steps {
            // A pair of locators leads to one pair of homes: the table above sees to it.
            let locators = (pair, 100 + pair * 10 + place);
            match (what, slots.get(&pair)) {
                (0, Some(slot)) => {
                    writer.release(*slot);
                    slots.remove(&pair);
                    ways.remove(&pair);
                }
                (_, None) => {
                    slots.insert(pair, writer.claim(home(pair), home(pair + 50)).unwrap());
                }
                (1, Some(slot)) => {
                    writer.set(*slot, None);
                    ways.remove(&pair);
                }
                (_, Some(slot)) => {
                    writer.set(*slot, Some(way(locators.0, locators.1)));
                    ways.insert(pair, locators);
                }
            }
            for pair in 0..12 {
                let shall = ways.get(&pair).map(|(l, r)| Ends::new(locator(*l).ip(), locator(*r).ip()));
                prop_assert_eq!(out(&fib, home(pair), home(pair + 50)).map(|f| f.new), shall);
                for place in 0..6 {
                    let at = (pair, 100 + pair * 10 + place);
                    let found = into(&fib, way(at.0, at.1)).is_some();
                    prop_assert_eq!(found, ways.get(&pair) == Some(&at));
                }
            }
            prop_assert_eq!(fib.v4.index_used(), 2 * ways.len());
        }
    }
}

/// Readers beside a writer that changes everything all the time: what they find is
/// always one of the ways that the pair really had, and of a pair that is left alone
/// they never find anything else.
#[test]
fn readers_see_whole_records() {
    let (fib, mut writer) = Fib::new(64, SEED);
    let slots: Vec<_> = (0..64)
        .map(|n| writer.claim(home(n), home(n + 100)).unwrap())
        .collect();
    writer.set(slots[0], Some(way(0, 0)));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let read = || {
            let reader = fib.reader();
            let mut seen = BTreeSet::new();
            // At least some rounds, however short the writer's life.
            for round in 0.. {
                reader.enter();
                for n in 0..64 {
                    if let Some(found) = out(&fib, home(n), home(n + 100)) {
                        let ends =
                            |i: u32| Ends::new(locator(n + i * 64).ip(), locator(n * i).ip());
                        let i = (0..8).find(|i| ends(*i) == found.new);
                        let i = i.expect("one of its ways, not a mixture");
                        let homes = Ends::new(home(n).ip(), home(n + 100).ip());
                        assert_eq!(found.delta, homes.delta(&ends(i)));
                        seen.insert(i);
                    }
                }
                reader.leave();
                if round > 100 && stop.load(Ordering::Relaxed) {
                    break;
                }
            }
            seen
        };
        let readers = [scope.spawn(read), scope.spawn(read)];
        for round in 0..20_000u32 {
            let n = 1 + round % 63;
            let i = round / 7 % 8;
            let way = (round % 11 != 0).then(|| way(n + i * 64, n * i));
            writer.set(slots[n as usize], way);
            if round % 100 == 0 {
                fib.synchronize(None);
            }
        }
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            assert!(!reader.join().unwrap().is_empty());
        }
    });
}

#[test]
fn a_change_is_complete_once_every_batch_has_ended() {
    let (fib, mut writer) = Fib::new(1, SEED);
    let slot = writer.claim(home(1), home(2)).unwrap();
    writer.set(slot, Some(way(1, 1)));
    let (entered, batch) = std::sync::mpsc::channel();
    let released = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let reader = fib.reader();
            reader.enter();
            let found = out(&fib, home(1), home(2));
            entered.send(()).unwrap();
            while !released.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            // Still to be used by this batch.
            assert!(found.is_some());
            reader.leave();
            assert_eq!(out(&fib, home(1), home(2)), None);
        });
        batch.recv().unwrap();
        writer.set(slot, None);
        released.store(true, Ordering::Release);
        fib.synchronize(None);
        assert!(released.load(Ordering::Acquire));
    });
}

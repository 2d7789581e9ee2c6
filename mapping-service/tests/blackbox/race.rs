//! Many clients, one name: exactly one winner, every time.

use std::sync::Arc;

use mat_mapping::client::{MapClient, Swap};
use mat_proto::{Binding, Home};
use tokio::sync::Barrier;

use crate::harness::*;

const CLIENTS: u8 = 12;
const ROUNDS: u32 = 100;

/// All clients at once replace `expect` at `home`; the winners' bindings.
async fn race(client: &MapClient, home: Home, expect: Option<Binding>) -> Vec<Binding> {
    let start = Arc::new(Barrier::new(CLIENTS.into()));
    let racers = (1..=CLIENTS).map(|i| {
        let (client, start, expect) = (client.clone(), start.clone(), expect.clone());
        let epoch = expect.as_ref().map_or(1, |b| b.epoch().0 + 1);
        let mine = binding(&home.to_string(), epoch, &format!("198.51.100.{i}"));
        tokio::spawn(async move {
            start.wait().await;
            let swap = client.compare_and_swap(home, expect.as_ref(), Some(&mine));
            (swap.await.unwrap() == Swap::Committed).then_some(mine)
        })
    });
    let racers: Vec<_> = racers.collect();
    let mut winners = Vec::new();
    for racer in racers {
        winners.extend(racer.await.unwrap());
    }
    winners
}

#[tokio::test(flavor = "multi_thread")]
async fn twelve_clients_claim_one_name_and_one_wins_a_hundred_times() {
    let dir = directory();
    let mapd = Mapd::start(dir.path());
    let client = mapd.client();
    for round in 0..ROUNDS {
        let home = format!("192.0.2.{}", round + 1).parse().unwrap();
        let winners = race(&client, home, None).await;
        assert_eq!(winners.len(), 1, "round {round}");
        let held = client.get(home).await.unwrap().binding;
        assert_eq!(held.as_ref(), winners.first(), "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn twelve_clients_move_one_binding_and_one_wins_a_hundred_times() {
    let dir = directory();
    let mapd = Mapd::start(dir.path());
    let client = mapd.client();
    let home = "192.0.2.10".parse().unwrap();
    let mut held = None;
    for round in 0..ROUNDS {
        let winners = race(&client, home, held.clone()).await;
        assert_eq!(winners.len(), 1, "round {round}");
        held = winners.into_iter().next();
        assert_eq!(
            client.get(home).await.unwrap().binding,
            held,
            "round {round}"
        );
    }
}

#[test]
fn nsupdate_races_as_well() {
    let dir = directory();
    let mapd = Mapd::start(dir.path());
    for round in 0..10 {
        let owner = format!("{round}.2.0.192.h4.{ZONE}");
        let won = std::thread::scope(|scope| {
            let racers: Vec<_> = (1..=CLIENTS)
                .map(|i| {
                    let script = format!(
                        "prereq nxdomain {owner}\nupdate add {owner} 0 SVCB 1 . ipv4hint=198.51.100.{i} key65280=1 key65281=native key65282=30"
                    );
                    let mapd = &mapd;
                    scope.spawn(move || mapd.nsupdate(&script).ok)
                })
                .collect();
            let outcomes = racers.into_iter().map(|r| r.join().unwrap());
            outcomes.filter(|won| *won).count()
        });
        assert_eq!(won, 1, "round {round}");
    }
}

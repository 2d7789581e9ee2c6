//! What was acknowledged is there after kill -9, and nothing older takes its
//! place.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use mat_mapping::client::{MapClient, Swap, Timing};
use mat_proto::{Binding, Home};

use crate::harness::*;

const HOMES: u8 = 6;

/// How often it is killed; `make kills-mapping` sets MAT_KILLS.
fn rounds() -> u64 {
    let asked = std::env::var("MAT_KILLS").ok();
    asked.map_or(24, |text| text.parse().expect("MAT_KILLS: a number"))
}

/// Moves one home address on and on until told to stop, and returns what was
/// acknowledged last. An update cut off by the kill is sent again by the client;
/// whether its first copy was committed or not, it must succeed.
async fn move_on(
    client: MapClient,
    home: Home,
    mut held: Option<Binding>,
    count: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) -> Option<Binding> {
    while !stop.load(Ordering::Relaxed) {
        let epoch = held.as_ref().map_or(1, |b| b.epoch().0 + 1);
        // Nobody else's.
        let last = match home.ip() {
            IpAddr::V4(ip) => ip.octets()[3],
            IpAddr::V6(_) => unreachable!("homes here are IPv4"),
        };
        let locator = format!("198.51.100.{}", 40 * u64::from(last - 1) + epoch % 40 + 1);
        let next = binding(&home.to_string(), epoch, &locator);
        let swap = client.compare_and_swap(home, held.as_ref(), Some(&next));
        assert_eq!(
            swap.await.unwrap(),
            Swap::Committed,
            "nobody else moves {home}"
        );
        held = Some(next);
        count.fetch_add(1, Ordering::Relaxed);
    }
    held
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_dash_nine_loses_nothing_acknowledged() {
    let dir = directory();
    let homes: Vec<Home> = (1..=HOMES)
        .map(|i| format!("192.0.2.{i}").parse().unwrap())
        .collect();
    let mut held: Vec<Option<Binding>> = vec![None; homes.len()];
    let mut mapd = Mapd::start(dir.path());
    let client = mapd.client().with_timing(Timing {
        per_try: Duration::from_millis(50),
        deadline: PATIENCE,
    });
    for round in 0..rounds() {
        let count = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let movers: Vec<_> = homes
            .iter()
            .zip(&held)
            .map(|(home, held)| {
                let (count, stop) = (count.clone(), stop.clone());
                tokio::spawn(move_on(client.clone(), *home, held.clone(), count, stop))
            })
            .collect();
        // Somewhere in the middle of the updates, elsewhere in each round.
        let enough = 20 + round % 24 * 3;
        tokio::time::timeout(PATIENCE, async {
            while count.load(Ordering::Relaxed) < enough {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
        mapd.kill();
        stop.store(true, Ordering::Relaxed);
        mapd = Mapd::start(dir.path());
        for ((home, held), mover) in homes.iter().zip(&mut held).zip(movers) {
            *held = mover.await.unwrap();
            let found = client.get(*home).await.unwrap().binding;
            assert_eq!(found, *held, "round {round}, {home}");
        }
    }
}

#[test]
fn a_torn_end_is_cut_off_with_a_warning_that_says_what_was_kept() {
    let dir = directory();
    let mapd = Mapd::start(dir.path());
    let add = |home: u8| {
        format!(
            "update add {home}.2.0.192.h4.{ZONE} 0 SVCB 1 . ipv4hint=198.51.100.{home} key65280=1 key65281=native key65282=30"
        )
    };
    assert!(mapd.nsupdate(&add(1)).ok);
    assert!(mapd.nsupdate(&add(2)).ok);
    mapd.kill();
    let journal = dir.path().join("data/journal");
    let bytes = std::fs::read(&journal).unwrap();
    std::fs::write(&journal, &bytes[..bytes.len() - 7]).unwrap();
    let mut mapd = Mapd::start(dir.path());
    let warning = mapd.wait_for("never acknowledged");
    assert!(warning.contains("kept_entries=1"), "{warning}");
    assert!(warning.contains("journal.torn"), "{warning}");
    assert!(mapd.dig_binding("1.2.0.192.h4").contains("198.51.100.1"));
    assert_eq!(mapd.dig_binding("2.2.0.192.h4"), "");
    assert!(mapd.nsupdate(&add(2)).ok);
    mapd.stop();
    let mut mapd = Mapd::start(dir.path());
    assert!(mapd.dig_binding("2.2.0.192.h4").contains("198.51.100.2"));
    let ready = mapd.wait_for(" ready ");
    assert!(ready.contains("bindings=2"), "{ready}");
}

#[test]
fn a_deleted_binding_does_not_come_back_older_after_a_restart() {
    let dir = directory();
    let mapd = Mapd::start(dir.path());
    let owner = format!("1.2.0.192.h4.{ZONE}");
    let add = |epoch: u64| {
        format!(
            "update add {owner} 0 SVCB 1 . ipv4hint=198.51.100.7 key65280={epoch} key65281=native key65282=30"
        )
    };
    assert!(mapd.nsupdate(&add(500)).ok);
    assert!(mapd.nsupdate(&format!("update delete {owner}")).ok);
    mapd.kill();
    let mapd = Mapd::start(dir.path());
    let refused = mapd.nsupdate(&add(500));
    assert!(refused.text.contains("REFUSED"), "{}", refused.text);
    assert!(mapd.nsupdate(&add(501)).ok);
}

/// Starts mat-mapd, which must end by itself with an error.
fn fails_to_start(config: &str, dir: &std::path::Path) -> String {
    let (ok, said) = run(dir, config, &[]);
    assert!(!ok, "{said}");
    said
}

#[test]
fn what_is_in_use_or_of_another_zone_is_left_alone() {
    let dir = directory();
    let mapd = Mapd::start(dir.path());
    let port = mapd.address.port().to_string();
    let said = fails_to_start(&config(&port), dir.path());
    assert!(
        said.contains("cannot listen on 127.0.0.1") && said.contains("another program has it"),
        "{said}"
    );
    let said = fails_to_start(&config("0"), dir.path());
    assert!(said.contains("in use by another mat-mapd"), "{said}");
    mapd.stop();
    let said = fails_to_start(&config("0").replace(ZONE, "other.example."), dir.path());
    assert!(
        said.contains("is the journal of zone map.example., not of other.example."),
        "{said}"
    );
    let said = fails_to_start(&config("0").replace("127.0.0.1:", "192.0.2.1:"), dir.path());
    assert!(said.contains("does not have that address"), "{said}");
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let there = config("0").replace("DATA", &file.display().to_string());
    let said = fails_to_start(&there, dir.path());
    assert!(said.contains("data_dir must be a directory"), "{said}");
}

//! Conformance: the same scenarios for mat-mapd, BIND and Knot.
//!
//! Each file under `scenarios` says what is sent and what must come of it, the same from all
//! three but for what is listed and justified there. mat-mapd is always tested; the others are
//! fetched by `scripts/dns-servers`, and a seat that is empty is named. With
//! `MAT_CONFORMANCE_ALL=1` an empty seat is a failure.

mod play;
mod race;
mod scenario;
mod servers;
mod text;
mod wire;

use std::path::{Path, PathBuf};

use scenario::Scenario;
use servers::Seat;

fn scenarios() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/scenarios");
    let files = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

fn all_scenarios(seat: Seat) {
    if !seat.taken() {
        return;
    }
    let mut wrong = Vec::new();
    for file in scenarios() {
        let scenario = Scenario::read(&file).unwrap_or_else(|error| panic!("{error:#}"));
        if scenario.without.contains(&seat) {
            continue;
        }
        wrong.extend(play::play(&scenario, seat).unwrap_or_else(|error| panic!("{error:#}")));
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

async fn what_forwarders_rely_on(seat: Seat) {
    if seat.taken() {
        race::one_winner_of_every_race(seat).await.unwrap();
        race::faults_of_signatures_are_named(seat).await.unwrap();
    }
}

#[test]
fn mat_mapd_plays_the_scenarios() {
    all_scenarios(Seat::Mat);
}

#[test]
fn bind_plays_the_scenarios() {
    all_scenarios(Seat::Bind);
}

#[test]
fn knot_plays_the_scenarios() {
    all_scenarios(Seat::Knot);
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarders_can_rely_on_mat_mapd() {
    what_forwarders_rely_on(Seat::Mat).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarders_can_rely_on_bind() {
    what_forwarders_rely_on(Seat::Bind).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarders_can_rely_on_knot() {
    what_forwarders_rely_on(Seat::Knot).await;
}

//! Puts any authoritative server in mat-mapd's seat and checks what forwarders
//! rely on: signed answers, exact compare-and-swap, one winner of every race,
//! transfer, refusals that say why.
//!
//! ```text
//! cargo run -p mat-mapping --example conformance -- 127.0.0.1:5301 map.example. site-a.key
//! ```
//! The key file is tsig-keygen's; the key must be allowed to update and transfer
//! the zone. Uses 192.0.2.10 and leaves it bound, so that the next run knows the
//! last epoch. Exit status 0 if all holds.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use hickory_proto::rr::Name;
use mat_mapping::client::{AuthFault, MapClient, MapError, Swap, TsigKey};
use mat_proto::{Binding, Epoch, Home};

const RACERS: u8 = 12;
const ROUNDS: u64 = 100;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what: &'static str| arguments.next().context(what);
    let server = next("first argument: ADDRESS:PORT")?.parse()?;
    let zone = Name::from_ascii(next("second argument: the zone")?)?;
    let key = TsigKey::from_file(Path::new(&next("third argument: a key file")?))?;
    let client = MapClient::new(zone.clone(), vec![server], Some(key.clone()));

    let home: Home = "192.0.2.10".parse()?;
    let left = client.get(home).await?.binding;
    if left.is_some() {
        client.compare_and_swap(home, left.as_ref(), None).await?;
    }
    // mat-mapd remembers the epochs of deleted names, too.
    let base = left.map_or(0, |b| b.epoch().0).max(unix_now()?);
    let at = |epoch: u64, last: u8| {
        let locator = format!("198.51.100.{last}").parse()?;
        anyhow::Ok(Binding::single(
            home,
            Epoch(base + epoch),
            30,
            locator,
            6283,
        )?)
    };
    let swap = async |expect: Option<&Binding>, new: Option<&Binding>| {
        client.compare_and_swap(home, expect, new).await
    };

    let none = client.get(home).await?;
    ensure!(
        none.binding.is_none() && none.verified,
        "unbound and verified"
    );
    println!(
        "ok   not bound: a signed negative answer, to be believed {:?}",
        none.negative_ttl
    );
    let (one, two) = (at(1, 1)?, at(2, 2)?);
    ensure!(swap(None, Some(&one)).await? == Swap::Committed, "claim");
    ensure!(
        swap(None, Some(&two)).await? == Swap::Conflict,
        "claimed is claimed"
    );
    ensure!(
        swap(Some(&two), Some(&at(3, 3)?)).await? == Swap::Conflict,
        "stale value"
    );
    ensure!(
        swap(Some(&one), Some(&two)).await? == Swap::Committed,
        "move"
    );
    let found = client.get(home).await?;
    ensure!(
        found.binding.as_ref() == Some(&two) && found.verified,
        "read back"
    );
    println!("ok   claim, conflict, move, read back");

    let mut held = two;
    let started = Instant::now();
    for round in 0..ROUNDS {
        let mut racers = Vec::new();
        for i in 1..=RACERS {
            let (client, expect, mine) = (client.clone(), held.clone(), at(3 + round, i)?);
            racers.push(tokio::spawn(async move {
                let swap = client.compare_and_swap(home, Some(&expect), Some(&mine));
                swap.await.map(|s| (s == Swap::Committed).then_some(mine))
            }));
        }
        let mut winners = Vec::new();
        for racer in racers {
            winners.extend(racer.await??);
        }
        ensure!(
            winners.len() == 1,
            "round {round}: {} winners",
            winners.len()
        );
        held = winners.remove(0);
        ensure!(
            client.get(home).await?.binding.as_ref() == Some(&held),
            "round {round}"
        );
    }
    println!(
        "ok   {ROUNDS} races of {RACERS} clients, one winner each, {:?}",
        started.elapsed()
    );

    ensure!(client.list().await?.contains(&held), "transfer");
    println!("ok   transfer");
    ensure!(swap(Some(&held), None).await? == Swap::Committed, "delete");
    ensure!(client.get(home).await?.binding.is_none(), "deleted");
    let last = at(3 + ROUNDS, 1)?;
    ensure!(
        swap(None, Some(&last)).await? == Swap::Committed,
        "claim anew"
    );
    println!("ok   delete, claim anew");

    let stranger = TsigKey::new(Name::from_ascii("stranger.")?, key.algorithm(), vec![1; 32])?;
    let forger = TsigKey::new(key.name().clone(), key.algorithm(), vec![1; 32])?;
    for (key, wanted) in [(stranger, AuthFault::BadKey), (forger, AuthFault::BadSig)] {
        let client = MapClient::new(zone.clone(), vec![server], Some(key));
        match client.compare_and_swap(home, None, Some(&last)).await {
            Err(MapError::NotAuth { reason, .. }) if reason == wanted => {
                println!("ok   {wanted:?}")
            }
            other => anyhow::bail!("{wanted:?} expected, got {other:?}"),
        }
    }
    Ok(())
}

fn unix_now() -> anyhow::Result<u64> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Ok(since?.as_secs())
}

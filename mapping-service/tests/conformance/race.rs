//! What forwarders rely on, through the project's own client: one winner of every race, signed
//! answers, transfer, and refusals that say why.

use anyhow::{Result, ensure};
use hickory_proto::rr::Name;
use mat_mapping::client::{AuthFault, MapError, Swap, TsigKey};
use mat_proto::{Binding, Epoch, Home};

use crate::servers::Seat;

const RACERS: u8 = 12;
const ROUNDS: u64 = 25;

fn binding(home: Home, epoch: u64, last: u8) -> Result<Binding> {
    let locator = format!("198.51.100.{last}").parse()?;
    Ok(Binding::single(home, Epoch(epoch), 30, locator, 6283)?)
}

/// Twelve clients move one binding at the same time, again and again.
pub async fn one_winner_of_every_race(seat: Seat) -> Result<()> {
    let server = seat.start();
    let client = server.client(Seat::key());
    let home: Home = "192.0.2.10".parse()?;
    let none = client.get(home).await?;
    ensure!(
        none.binding.is_none() && none.verified,
        "not bound, and signed"
    );
    let mut held: Option<Binding> = None;
    for round in 1..=ROUNDS {
        let mut racers = Vec::new();
        for racer in 1..=RACERS {
            let (client, expect, mine) =
                (client.clone(), held.clone(), binding(home, round, racer)?);
            racers.push(tokio::spawn(async move {
                let swap = client.compare_and_swap(home, expect.as_ref(), Some(&mine));
                swap.await
                    .map(|swap| (swap == Swap::Committed).then_some(mine))
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
        held = winners.pop();
        let found = client.get(home).await?;
        ensure!(
            found.binding == held && found.verified,
            "round {round}: {found:?}"
        );
    }
    ensure!(
        client.list().await? == Vec::from_iter(held.iter().map(|b| (b.home().into(), b.clone()))),
        "transfer"
    );
    let deleted = client.compare_and_swap(home, held.as_ref(), None).await?;
    ensure!(
        deleted == Swap::Committed && client.get(home).await?.binding.is_none(),
        "delete"
    );
    Ok(())
}

/// A key nobody knows is BADKEY, a known name with another secret BADSIG (RFC 8945 section 5.2).
pub async fn faults_of_signatures_are_named(seat: Seat) -> Result<()> {
    let server = seat.start();
    let home: Home = "192.0.2.10".parse()?;
    let new = binding(home, 1, 1)?;
    let right = Seat::key();
    let stranger = TsigKey::new(
        Name::from_ascii("stranger.")?,
        right.algorithm(),
        vec![1; 32],
    )?;
    let forger = TsigKey::new(right.name().clone(), right.algorithm(), vec![1; 32])?;
    for (key, wanted) in [(stranger, AuthFault::BadKey), (forger, AuthFault::BadSig)] {
        let swap = server
            .client(key)
            .compare_and_swap(home, None, Some(&new))
            .await;
        let named = matches!(&swap, Err(MapError::NotAuth { reason, .. }) if *reason == wanted);
        ensure!(named, "{wanted:?} expected: {swap:?}");
    }
    let untouched = server.client(right).get(home).await?.binding;
    ensure!(untouched.is_none(), "{untouched:?}");
    Ok(())
}

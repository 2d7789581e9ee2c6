//! The shortest form of `make kills`: programs that are killed in the middle of a move.
//! Needs root or a user namespace: `scripts/privileged cargo test -p mat-netns`.

use std::time::Duration;

use anyhow::Result;
use mat_netns::kills::{Cell, Moment, Victim, play};

fn sound(victim: Victim, moment: Moment) -> Result<Cell> {
    let cell = play(victim, moment, 20.0)?;
    println!("{cell}");
    assert!(cell.faults.is_empty(), "{cell}");
    Ok(cell)
}

#[test]
fn a_new_site_that_crashes_before_it_serves_costs_the_move_only() -> Result<()> {
    let cell = sound(Victim::NewMatd, Moment::Detached)?;
    assert_eq!((&*cell.matctl, &*cell.served_at), ("rolled back", "a"));
    Ok(())
}

#[test]
fn an_old_site_that_crashes_when_it_has_let_go_hinders_nothing() -> Result<()> {
    let cell = sound(Victim::OldMatd, Moment::Detached)?;
    assert_eq!((&*cell.matctl, &*cell.served_at), ("moved", "b"));
    Ok(())
}

#[test]
fn a_mapping_service_that_crashes_with_the_update_has_it_or_gets_it_again() -> Result<()> {
    let moment = Moment::UnderWay(Duration::from_millis(20));
    sound(Victim::Mapd, moment).map(drop)
}

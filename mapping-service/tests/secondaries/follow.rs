//! A secondary from its first transfer on.

use mat_netns::dns_servers::free_address;
use mat_netns::wait_until;
use nix::sys::signal::Signal;

use crate::servers::*;

/// Homes, and how often each moves.
const HOMES: u8 = 20;
const MOVES: u8 = 10;

/// Waits until both have the same serial, and then they have the same zone.
pub fn catches_up(secondary: &Server, primary: &Server) {
    let serial = primary.serial().unwrap();
    let mut at = None;
    let caught_up = wait_until(PATIENCE, "the secondary to catch up", || {
        at = secondary.serial();
        (at == Some(serial)).then_some(())
    });
    assert!(
        caught_up.is_ok(),
        "at {at:?}, not {serial}\nSECONDARY\n{}\nPRIMARY\n{}",
        secondary.log(),
        primary.log()
    );
    assert_eq!(secondary.zone(), primary.zone());
}

/// A counter in the last line of the primary's log.
fn counted(log: &str, name: &str) -> u32 {
    let last = log.lines().last().unwrap_or_default();
    assert!(last.contains("stopped; "), "{log}");
    let name = format!("{name}=");
    let mut words = last.split(' ');
    let word = words.find_map(|word| word.strip_prefix(&name));
    word.map_or(0, |count| count.parse().unwrap())
}

pub async fn follows(kind: Kind) {
    let place = Place::new(free_address());
    let primary = place.start();
    for home in 1..=HOMES {
        place.shift(home, None, 0).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let secondary = kind.start(place.secondary, primary.address, dir.path());
    catches_up(&secondary, &primary);

    for step in 1..=MOVES {
        for home in 1..=HOMES {
            place.shift(home, Some(step - 1), step).await;
        }
        if step % 2 == 0 {
            catches_up(&secondary, &primary);
        }
    }

    // A change that it cannot fetch before the primary forgets it.
    secondary.signal(Signal::SIGSTOP);
    place.shift(1, Some(MOVES), MOVES + 1).await;
    let log = primary.stop();
    let asked_by_us = MOVES as u32 / 2 + 1;
    assert_eq!(counted(&log, "transfers"), asked_by_us + 1, "{log}");
    assert_eq!(counted(&log, "transfers_forgotten"), 0, "{log}");
    assert!(counted(&log, "transfers_incremental") >= 5, "{log}");
    assert!(counted(&log, "notified") >= 5, "{log}");
    let primary = place.start();
    secondary.signal(Signal::SIGCONT);
    catches_up(&secondary, &primary);
    place.shift(1, Some(MOVES + 1), MOVES + 2).await;
    catches_up(&secondary, &primary);
    let log = primary.stop();
    assert_eq!(counted(&log, "transfers_forgotten"), 1, "{log}");
    assert_eq!(counted(&log, "transfers_incremental"), 1, "{log}");
}

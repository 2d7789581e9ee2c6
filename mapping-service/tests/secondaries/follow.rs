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
    // One by each comparison, and the first one by the secondary.
    let least = MOVES as u32 / 2 + 2;
    let most = least
        + if kind.asks_for_more() {
            MOVES as u32
        } else {
            0
        };
    let whole = counted(&log, "transfers");
    let expected = (least..=most).contains(&whole);
    assert!(expected, "{whole}\n{}\n{log}", secondary.log());
    assert_eq!(counted(&log, "transfers_forgotten"), 0, "{log}");
    let changes = if kind.asks_for_more() { 1 } else { 5 };
    assert!(counted(&log, "transfers_incremental") >= changes, "{log}");
    assert!(counted(&log, "notified") >= 5, "{log}");
    let primary = place.start();
    secondary.signal(Signal::SIGCONT);
    catches_up(&secondary, &primary);
    place.shift(1, Some(MOVES + 1), MOVES + 2).await;
    catches_up(&secondary, &primary);
    let log = primary.stop();
    let names = ["transfers", "transfers_forgotten", "transfers_incremental"];
    let [whole, forgotten, changes] = names.map(|name| counted(&log, name));
    let expected = match kind.asks_for_more() {
        false => (whole, forgotten, changes) == (3, 1, 1),
        true => (3..=4).contains(&whole) && forgotten <= 1 && changes <= 1,
    };
    assert!(expected, "{}\n{log}", secondary.log());
}

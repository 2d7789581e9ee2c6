//! What happens to frames, without any link.

use super::*;

const FRAME: usize = 1250;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Offers frame number `n` at `now`.
fn offer(line: &mut Line<u32>, now: Duration, n: u32) -> Result<Duration, Dropped> {
    let Admitted { due, copy_due, .. } = line.admit(now, FRAME)?;
    line.hold(due, FRAME, n);
    if let Some(copy_due) = copy_due {
        line.hold(copy_due, FRAME, n);
    }
    Ok(due)
}

fn drain(line: &mut Line<u32>, now: Duration) -> Vec<u32> {
    std::iter::from_fn(|| line.take_due(now)).collect()
}

#[test]
fn a_frame_comes_out_after_the_delay_and_not_before() {
    let mut line = Line::new(WanConfig::rtt_ms(20.0));
    offer(&mut line, ms(5), 1).unwrap();
    assert_eq!(line.next_due(), Some(ms(15)));
    assert!(drain(&mut line, ms(14)).is_empty());
    assert_eq!(drain(&mut line, ms(15)), [1]);
    assert_eq!(line.next_due(), None);
}

#[test]
fn a_shorter_delay_lets_nobody_overtake() {
    let mut line = Line::new(WanConfig::rtt_ms(40.0));
    offer(&mut line, ms(0), 1).unwrap();
    line.set_config(WanConfig::rtt_ms(2.0));
    offer(&mut line, ms(1), 2).unwrap();
    assert!(drain(&mut line, ms(19)).is_empty());
    assert_eq!(drain(&mut line, ms(20)), [1, 2]);
}

#[test]
fn jitter_stays_in_its_bounds_and_reorders() {
    let config = WanConfig {
        jitter_ms: 5.0,
        ..WanConfig::rtt_ms(20.0)
    };
    let mut line = Line::new(config);
    for n in 0..100 {
        let due = offer(&mut line, ms(0), n).unwrap();
        assert!((ms(5)..=ms(15)).contains(&due), "{due:?}");
    }
    let order = drain(&mut line, ms(15));
    let mut sorted = order.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..100).collect::<Vec<_>>());
    assert_ne!(sorted, order);
}

#[test]
fn loss_is_as_frequent_as_asked_and_the_same_for_the_same_seed() {
    let losses = |seed| {
        let mut line = Line::<u32>::new(WanConfig {
            loss: 0.05,
            seed,
            ..WanConfig::default()
        });
        (0..20_000)
            .map(|_| line.admit(ms(0), FRAME) == Err(Dropped::Lost))
            .collect::<Vec<_>>()
    };
    let first = losses(7);
    let lost = first.iter().filter(|lost| **lost).count();
    // 1000 expected, standard deviation 31.
    assert!((850..1150).contains(&lost), "{lost} of 20000 lost");
    assert_eq!(first, losses(7));
    assert_ne!(first, losses(8));
}

#[test]
fn loss_of_one_loses_all() {
    let mut line = Line::<u32>::new(WanConfig {
        loss: 1.0,
        ..WanConfig::default()
    });
    assert!((0..1000).all(|_| line.admit(ms(0), FRAME) == Err(Dropped::Lost)));
}

#[test]
fn the_bottleneck_spaces_frames_and_drops_the_tail() {
    // 1250 bytes take 1 ms at 10 Mbit/s; the buffer takes frames that wait up to 5 ms.
    let mut line = Line::new(WanConfig {
        rate_mbit: Some(10.0),
        buffer_ms: 5.0,
        ..WanConfig::default()
    });
    let dues: Vec<_> = (0..7).map(|n| offer(&mut line, ms(0), n)).collect();
    for (n, due) in (1..=6).zip(&dues) {
        assert_eq!(*due, Ok(ms(n)));
    }
    assert_eq!(dues[6], Err(Dropped::Congested));
    // Later the buffer has room again, and idle time gives no credit.
    assert_eq!(offer(&mut line, ms(100), 8), Ok(ms(101)));
}

#[test]
fn what_is_on_the_way_is_bounded() {
    let mut line = Line::new(WanConfig {
        max_bytes: 2 * FRAME,
        ..WanConfig::rtt_ms(20.0)
    });
    assert!(offer(&mut line, ms(0), 1).is_ok());
    assert!(offer(&mut line, ms(0), 2).is_ok());
    assert_eq!(offer(&mut line, ms(0), 3), Err(Dropped::Overflowed));
    drain(&mut line, ms(10));
    assert!(offer(&mut line, ms(10), 4).is_ok());
}

#[test]
fn a_cut_loses_what_is_on_the_way_and_every_frame_is_accounted_for() {
    let mut line = Line::new(WanConfig::rtt_ms(20.0));
    offer(&mut line, ms(0), 1).unwrap();
    assert_eq!(drain(&mut line, ms(10)), [1]);
    offer(&mut line, ms(10), 2).unwrap();
    line.set_config(WanConfig {
        up: false,
        ..WanConfig::rtt_ms(20.0)
    });
    assert_eq!(offer(&mut line, ms(11), 3), Err(Dropped::Cut));
    assert!(drain(&mut line, ms(1000)).is_empty());
    assert_eq!(
        line.counters(),
        LineCounters {
            offered: 3,
            delivered: 1,
            delivered_bytes: FRAME as u64,
            cut: 2,
            ..LineCounters::default()
        }
    );
}

#[test]
fn copies_arrive_as_often_as_asked_and_are_accounted_for() {
    let mut line = Line::new(WanConfig {
        duplicate: 0.1,
        ..WanConfig::rtt_ms(20.0)
    });
    for n in 0..10_000 {
        offer(&mut line, ms(0), n).unwrap();
    }
    let mut order = drain(&mut line, ms(10));
    // Without jitter a copy follows its original at once.
    assert!(order.is_sorted());
    let counters = line.counters();
    // 1000 expected, standard deviation 30.
    assert!((850..1150).contains(&counters.duplicated), "{counters:?}");
    assert_eq!(counters.delivered, counters.offered + counters.duplicated);
    order.dedup();
    assert_eq!(order, (0..10_000).collect::<Vec<_>>());
}

#[test]
fn with_jitter_a_copy_travels_by_itself() {
    let mut line = Line::new(WanConfig {
        duplicate: 1.0,
        jitter_ms: 5.0,
        ..WanConfig::rtt_ms(20.0)
    });
    for n in 0..100 {
        offer(&mut line, ms(0), n).unwrap();
    }
    let order = drain(&mut line, ms(15));
    assert_eq!(order.len(), 200);
    let together = order.windows(2).filter(|pair| pair[0] == pair[1]).count();
    assert!(
        together < 10,
        "{together} of 100 copies came with their originals"
    );
}

#[test]
fn frames_are_spoilt_as_often_as_asked_at_any_bit() {
    let mut line = Line::<u32>::new(WanConfig {
        corrupt: 0.05,
        ..WanConfig::default()
    });
    let spoilt: Vec<u64> = (0..20_000)
        .filter_map(|_| line.admit(ms(0), FRAME).unwrap().spoil)
        .collect();
    // 1000 expected, standard deviation 31.
    assert!(
        (850..1150).contains(&spoilt.len()),
        "{} spoilt",
        spoilt.len()
    );
    let low = spoilt.iter().filter(|number| *number % 100 < 50).count();
    assert!((400..600).contains(&low), "{low} of {}", spoilt.len());
}

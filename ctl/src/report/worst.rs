//! The worse of both directions (pure).
//!
//! A report's summary must not hide a bad direction behind a good one, so nothing is averaged.

use super::schema::{Tcp, Throughput, Udp};

/// The worse of two streams, field by field; a number that is not known on one side is taken
/// from the other.
pub fn tcp(a: &Tcp, b: &Tcp) -> Tcp {
    Tcp {
        survived: a.survived && b.survived,
        intact: a.intact && b.intact,
        bytes: a.bytes.min(b.bytes),
        longest_stall_ms: larger(a.longest_stall_ms, b.longest_stall_ms),
        retransmits: a.retransmits.max(b.retransmits),
        rtos: a.rtos.max(b.rtos),
    }
}

/// The worse of two probes: sent, received and lost of the direction that lost more, so that
/// they still add up; every other number is the larger one.
pub fn udp(a: &Udp, b: &Udp) -> Udp {
    let lossier = if (b.lost, a.received) > (a.lost, b.received) {
        b
    } else {
        a
    };
    Udp {
        duplicated: a.duplicated.max(b.duplicated),
        reordered: a.reordered.max(b.reordered),
        longest_gap_ms: a.longest_gap_ms.max(b.longest_gap_ms),
        ..lossier.clone()
    }
}

/// The direction whose throughput the moves hurt more: not back at all, then back later, then
/// slower afterwards; without moves the slower one.
pub fn throughput(a: &Throughput, b: &Throughput) -> Throughput {
    let never = |t: &Throughput| !t.moves.is_empty() && t.recovery_ms.is_none();
    let recovery = |t: &Throughput| t.recovery_ms.unwrap_or(0.0);
    let rate = |t: &Throughput| t.after_mbps.or(t.before_mbps).unwrap_or(0.0);
    let b_against_a = never(b)
        .cmp(&never(a))
        .then(recovery(b).total_cmp(&recovery(a)))
        .then(rate(a).total_cmp(&rate(b)));
    if b_against_a.is_gt() { b } else { a }.clone()
}

fn larger(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.max(b)),
        (known, None) | (None, known) => known,
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema::{Direction, MoveThroughput};
    use super::*;
    use proptest::prelude::*;

    fn streams() -> impl Strategy<Value = Tcp> {
        let number = || prop::option::of(0..1_000u64);
        let parts = (
            any::<bool>(),
            any::<bool>(),
            any::<u64>(),
            number(),
            number(),
            number(),
        );
        parts.prop_map(|(survived, intact, bytes, stall, retransmits, rtos)| Tcp {
            survived,
            intact,
            bytes,
            longest_stall_ms: stall.map(|ms| ms as f64),
            retransmits,
            rtos,
        })
    }

    fn probes() -> impl Strategy<Value = Udp> {
        (0..1_000u64, 0..1_000u64, 0..9u64, 0..9u64, 0.0..99.0f64).prop_map(
            |(received, lost, duplicated, reordered, longest_gap_ms)| Udp {
                rate_hz: 1000,
                sent: received + lost,
                received,
                lost,
                duplicated,
                reordered,
                longest_gap_ms,
            },
        )
    }

    proptest! {
        #[test]
        fn order_does_not_matter(a in streams(), b in streams(), c in probes(), d in probes()) {
            prop_assert_eq!(tcp(&a, &b), tcp(&b, &a));
            prop_assert_eq!(udp(&c, &d), udp(&d, &c));
        }

        #[test]
        fn nothing_is_better_than_its_worse_direction(a in streams(), b in streams(), c in probes(), d in probes()) {
            let worst = tcp(&a, &b);
            for one in [&a, &b] {
                prop_assert!(worst.survived <= one.survived && worst.intact <= one.intact);
                prop_assert!(worst.bytes <= one.bytes && worst.rtos >= one.rtos);
                prop_assert!(worst.longest_stall_ms.unwrap_or(0.0) >= one.longest_stall_ms.unwrap_or(0.0));
            }
            let worst = udp(&c, &d);
            prop_assert_eq!(worst.sent, worst.received + worst.lost);
            for one in [&c, &d] {
                prop_assert!(worst.lost >= one.lost && worst.longest_gap_ms >= one.longest_gap_ms);
            }
        }
    }

    #[test]
    fn a_direction_that_never_came_back_is_worse_than_a_slow_one() {
        let direction = |direction, recovery_ms| Throughput {
            direction,
            before_mbps: Some(100.0),
            after_mbps: Some(90.0),
            recovery_ms,
            moves: vec![MoveThroughput {
                before_mbps: Some(100.0),
                during_mbps: Some(0.0),
                after_mbps: Some(90.0),
                recovery_ms,
            }],
            series: Vec::new(),
        };
        let slow = direction(Direction::Up, Some(900.0));
        let quick = direction(Direction::Up, Some(50.0));
        let never = direction(Direction::Down, None);
        assert_eq!(throughput(&slow, &never).direction, Direction::Down);
        assert_eq!(throughput(&quick, &slow).recovery_ms, Some(900.0));
        assert_eq!(throughput(&slow, &quick).recovery_ms, Some(900.0));
    }
}

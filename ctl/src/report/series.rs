//! What several moves of one run have in common (pure).

use super::schema::{Gap, Report, Throughput};

/// What belongs to a move begins within this time after its start, in milliseconds.
const AFTERMATH_MS: f64 = 1500.0;
/// Fewer moves are looked at one by one.
const SEVERAL: usize = 3;

/// A quantity of each move: its middle, what 95 of 100 do not exceed, and the largest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// What it is.
    pub name: &'static str,
    /// The middle one (nearest rank).
    pub median: f64,
    /// The 95th percentile (nearest rank).
    pub p95: f64,
    /// The largest.
    pub max: f64,
}

/// The quantities of the moves, in milliseconds; none if there are too few moves.
pub fn spreads(report: &Report) -> Vec<Spread> {
    if report.moves.len() < SEVERAL {
        return Vec::new();
    }
    let marks = report.marks();
    let around = |gaps: [&[Gap]; 2]| -> Vec<f64> {
        let longest = |start: f64| {
            let gaps = gaps.iter().flat_map(|gaps| gaps.iter());
            // It may have begun a little before the move was noted.
            let near = gaps.filter(|g| g.t_ms + g.gap_ms > start && g.t_ms < start + AFTERMATH_MS);
            near.map(|g| g.gap_ms).fold(0.0, f64::max)
        };
        marks.iter().map(|mark| longest(mark.start_ms)).collect()
    };
    let udp = around([&report.udp_up.gaps, &report.udp_down.gaps]);
    let tcp = around([&report.tcp_up.stalls, &report.tcp_down.stalls]);
    let frozen: Vec<f64> = report.moves.iter().map(|one| one.frozen_ms).collect();
    let beyond = udp
        .iter()
        .zip(&frozen)
        .map(|(gap, frozen)| (gap - frozen).max(0.0));
    let update = report.moves.iter().map(|one| one.map_update_ms);
    let back = |t: &Throughput| -> Vec<f64> {
        let moves = t.moves.iter();
        moves
            .map(|one| one.recovery_ms.unwrap_or(f64::INFINITY))
            .collect()
    };
    let (up, down) = (back(&report.throughput_up), back(&report.throughput_down));
    let back = up
        .iter()
        .zip(&down)
        .map(|(up, down)| up.max(*down))
        .collect();
    let quantities = [
        ("instance stood still", frozen.clone()),
        ("longest UDP gap", udp.clone()),
        ("of it beyond that", beyond.collect()),
        ("longest TCP stall", tcp),
        ("mapping service", update.collect()),
        ("back to 90 %", back),
    ];
    quantities
        .into_iter()
        .filter_map(|(name, values)| spread(name, values))
        .collect()
}

fn spread(name: &'static str, mut values: Vec<f64>) -> Option<Spread> {
    values.sort_by(f64::total_cmp);
    let rank = |percent: usize| values.get((values.len() * percent).div_ceil(100).max(1) - 1);
    Some(Spread {
        name,
        median: *rank(50)?,
        p95: *rank(95)?,
        max: *values.last()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_of_what_was_seen() {
        let values: Vec<f64> = (1..=30).rev().map(f64::from).collect();
        let found = spread("x", values);
        let expected = Spread {
            name: "x",
            median: 15.0,
            p95: 29.0,
            max: 30.0,
        };
        assert_eq!(found, Some(expected));
        assert_eq!(spread("none", Vec::new()), None);
    }
}

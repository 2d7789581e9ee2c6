//! The table. Pure.

use std::fmt::Write as _;

use mat_bench::stats::percentile;

use crate::servers::Seat;
use crate::{Report, Turn};

/// One turn, while it goes on.
pub fn line(turn: &Turn) -> String {
    let [few, many] = turn.updates;
    format!(
        "{:?}: started in {:.2} s, {} MiB; {:.0} queries/s, p99 {:.2} ms, beside updates {:.2} ms; \
         updates/s {:.0} (50), {:.0} (1000), p99 at half of that {:.1} ms; lost {}, refused {}",
        turn.server,
        turn.start,
        turn.memory_kib / 1024,
        turn.queries.rate,
        turn.query_p99_ms,
        turn.query_p99_busy_ms,
        few.rate,
        many.rate,
        turn.update_p99_ms,
        turn.queries.lost + few.lost + many.lost,
        few.refused + many.refused,
    )
}

/// Medians of all turns of each server, as Markdown.
pub fn table(report: &Report) -> String {
    let [few, many] = [0, 1].map(|n| {
        let rates: Vec<f64> = report.ceiling.iter().map(|said| said[n].rate).collect();
        percentile(&rates, 50.0).unwrap_or_default()
    });
    let mut text = format!(
        "{} bindings; the disk takes {:.2} ms (p99 {:.2}) to keep 512 octets; a server that does \
         nothing answers {few:.0} and {many:.0} updates/s\n\n\
         | | start, s | MiB | queries/s | p99, ms | p99 beside 1000 updates/s, ms | updates/s, 50 \
         outstanding | 1000 outstanding | p99 at half of that, ms |\n\
         |---|---|---|---|---|---|---|---|---|\n",
        report.bindings, report.sync_ms[0], report.sync_ms[1]
    );
    for seat in Seat::ALL {
        let turns: Vec<&Turn> = report.turns.iter().filter(|t| t.server == seat).collect();
        if turns.is_empty() {
            continue;
        }
        let median = |of: &dyn Fn(&Turn) -> f64| {
            let values: Vec<f64> = turns.iter().map(|turn| of(turn)).collect();
            percentile(&values, 50.0).unwrap_or_default()
        };
        // Writing into a String does not fail.
        let _ = writeln!(
            text,
            "| {seat:?} | {:.2} | {:.0} | {:.0} | {:.2} | {:.2} | {:.0} | {:.0} | {:.1} |",
            median(&|t| t.start),
            median(&|t| t.memory_kib as f64 / 1024.0),
            median(&|t| t.queries.rate),
            median(&|t| t.query_p99_ms),
            median(&|t| t.query_p99_busy_ms),
            median(&|t| t.updates[0].rate),
            median(&|t| t.updates[1].rate),
            median(&|t| t.update_p99_ms),
        );
    }
    text
}

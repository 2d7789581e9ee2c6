//! The tables, in Markdown.

use std::fmt::Write;

use super::figures::{self, Figure, Section, unit};
use crate::contender::{self, DIRECT, KERNEL, MAT, MAT_PLAIN, NAIVE};
use crate::plan::{Measure, SetUp};
use crate::record::{Outcome, Results};
use crate::stats::{self, Summary};

/// Everything about one family and link; `plot` is the name of the picture beside it.
pub fn section(section: &Section, plot: &str) -> String {
    let mut text = format!("\n## {}\n\n![Ratios to direct]({plot})\n", section.title());
    for set_up in section.set_ups() {
        text += &format!("\n### {}\n\n", heading(set_up));
        text += &side_by_side(section, set_up);
        text += &costs(section, set_up);
        text += &against_others(section, set_up);
    }
    text + &everything(section)
}

fn heading(set_up: SetUp) -> String {
    let label = set_up.label();
    let (first, rest) = label.split_at(1);
    first.to_uppercase() + rest
}

/// Direct in absolute figures, the others in relation to it.
fn side_by_side(section: &Section, set_up: SetUp) -> String {
    let measures = section.measures();
    let mut text = String::from("| path |");
    for measure in &measures {
        text += &format!(" {} |", measure.label());
    }
    let latency = measures.contains(&Measure::Latency);
    if latency {
        text += " p99 |";
    }
    text += &rule(1 + measures.len() + usize::from(latency));
    for id in section.contenders() {
        text += &format!("| {} |", contender::label(id));
        for measure in &measures {
            let figure = section.figure(set_up, *measure, id);
            text += &format!(" {} |", cell(*measure, figure.as_ref()));
        }
        if latency {
            let p99 = section.values(set_up, Measure::Latency, id, figures::p99_us);
            let p99: Vec<f64> = p99.into_iter().map(|(_, us)| us).collect();
            let p99 = Summary::of(&p99);
            text += &p99.map_or(" - |".to_owned(), |s| format!(" {} µs |", short(s.median)));
        }
        text.push('\n');
    }
    text
}

fn cell(measure: Measure, figure: Option<&Figure>) -> String {
    let Some(figure) = figure else {
        return "-".to_owned();
    };
    match (&figure.relative, measure) {
        (None, _) => format!("{} {}", short(figure.absolute.median), unit(measure)),
        (Some(relative), Measure::Latency) => format!("{} µs", bounded(relative, signed)),
        (Some(relative), _) => bounded(relative, short),
    }
}

/// What one TCP stream costs.
fn costs(section: &Section, set_up: SetUp) -> String {
    let measure = Measure::Tcp1;
    let of = |id: &str, pick: fn(&Outcome) -> Option<f64>| {
        section.figure_of(set_up, measure, id, pick, stats::ratio)
    };
    let contenders = section.contenders();
    if !section.measures().contains(&measure) {
        return String::new();
    }
    let mut text = String::from(
        "\nTCP, 1 stream: processor seconds for a gigabyte of payload, of everything and of the \
         two forwarders; octets that the sender's forwarder gets by one read; segments sent again \
         in one transfer, and frames that a wide-area link dropped: the median and the most.\n\n\
         | path | CPU s/GB | of direct | forwarders, CPU s/GB | octets per read | retransmits | link drops |",
    );
    text += &rule(7);
    for id in contenders {
        let Some(total) = of(id, figures::cpu_s_per_gb) else {
            continue;
        };
        let median = |pick| of(id, pick).map_or("-".to_owned(), |f| bounded(&f.absolute, short));
        let relative = total.relative.as_ref();
        let counted = |pick| {
            let counts = of(id, pick).map(|figure| figure.absolute);
            counts.map_or("-".to_owned(), |s| {
                format!("{:.0}, {:.0}", s.median, s.highest)
            })
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} |",
            contender::label(id),
            bounded(&total.absolute, short),
            relative.map_or("1".to_owned(), |s| bounded(s, short)),
            median(figures::forwarders_cpu_s_per_gb),
            median(figures::bytes_per_read),
            counted(figures::retransmits),
            counted(figures::link_drops),
        );
    }
    text
}

/// What MAT is compared with besides direct.
fn against_others(section: &Section, set_up: SetUp) -> String {
    let tcp1 = |id| (id, Measure::Tcp1);
    let mut rows = vec![
        (
            "MAT over kernel forwarding, TCP, 1 stream".to_owned(),
            section.ratio(set_up, tcp1(MAT), tcp1(KERNEL)),
        ),
        (
            "MAT: TCP, 4 streams over 1".to_owned(),
            section.ratio(set_up, (MAT, Measure::Tcp4), tcp1(MAT)),
        ),
        (
            "direct veth: TCP, 4 streams over 1".to_owned(),
            section.ratio(set_up, (DIRECT, Measure::Tcp4), tcp1(DIRECT)),
        ),
        (
            "MAT, `offload = false`, over a naive plain TUN, TCP, 1 stream".to_owned(),
            section.ratio(set_up, tcp1(MAT_PLAIN), tcp1(NAIVE)),
        ),
    ];
    if let Some(best) = section.best_wireguard(set_up, Measure::Tcp1) {
        rows.push((
            format!("MAT over {best}, the best user-space WireGuard here, TCP, 1 stream"),
            section.ratio(set_up, tcp1(MAT), tcp1(best)),
        ));
    }
    rows.retain(|(_, ratio)| ratio.is_some());
    if rows.is_empty() {
        return String::new();
    }
    let mut text = String::from("\n| in the same rounds | ratio |");
    text += &rule(2);
    for (what, ratio) in rows {
        let ratio = ratio.map_or(String::new(), |s| bounded(&s, short));
        text += &format!("| {what} | {ratio} |\n");
    }
    text
}

/// Every figure, with its interval and range.
fn everything(section: &Section) -> String {
    let mut text = String::from(
        "\n<details><summary>Every figure: median [95 % interval] (range) of n rounds</summary>\n\n\
         | set-up | measure | path | n | absolute | against direct |",
    );
    text += &rule(6);
    for set_up in section.set_ups() {
        for measure in section.measures() {
            for id in section.contenders() {
                let Some(figure) = section.figure(set_up, measure, id) else {
                    continue;
                };
                let relative = figure.relative.as_ref();
                // Writing to a String cannot fail.
                let _ = writeln!(
                    text,
                    "| {} | {} | {} | {} | {} {} | {} |",
                    match set_up {
                        SetUp::Tso => "TSO",
                        SetUp::Wire => "wire",
                    },
                    measure.label(),
                    contender::label(id),
                    figure.absolute.count,
                    full(&figure.absolute),
                    unit(measure),
                    relative.map_or("-".to_owned(), full),
                );
            }
        }
    }
    text + "\n</details>\n"
}

/// On what, when and how it was measured, who took part and who did not.
pub fn circumstances(results: &[Results]) -> String {
    let mut text = String::from(
        "\n## How it was measured\n\n\
         Sender, receiver and both forwarders share the processors. The contenders take turns \
         within each round, in an order that the seed decides. Ratios (for round trips, \
         differences) are to direct veth in the same round: the median of all rounds and, in \
         brackets, its 95 % interval by order statistics, which takes 6 rounds at least.\n\n",
    );
    for one in results {
        text += &circumstance(one);
    }
    text
}

fn circumstance(results: &Results) -> String {
    let run = &results.run;
    let machine = &run.machine;
    let [load1, load5, load15] = run.load_at_start;
    let rounds = results
        .samples
        .iter()
        .map(|s| s.round + 1)
        .max()
        .unwrap_or(0);
    let commit = run.commit.as_deref();
    let mut text = format!(
        "* {started}, `{command}`: {rounds} of {planned} rounds; {cpu}, {cores} cores, Linux \
         {kernel}, {iperf3}; load average at start {load1} {load5} {load15}; {build} build{commit}; \
         seed {seed}.\n",
        started = run.started,
        command = run.command,
        planned = run.rounds,
        cpu = machine.cpu,
        cores = machine.cores,
        kernel = machine.kernel,
        iperf3 = machine.iperf3,
        build = run.build,
        commit = commit.map_or(String::new(), |c| format!(", commit {c}")),
        seed = run.seed,
    );
    for about in results.contenders.iter().filter(|c| !c.about.is_empty()) {
        text += &format!("  * {}: {}\n", contender::label(&about.id), about.about);
    }
    for skipped in &results.skipped {
        let why = skipped.why.split_whitespace().collect::<Vec<_>>().join(" ");
        text += &format!(
            "  * **left out**: {}: {why}\n",
            contender::label(&skipped.id)
        );
    }
    for failed in &results.failed {
        let why = failed.why.lines().next().unwrap_or_default();
        text += &format!(
            "  * **failed**: {}, {}, round {}: {why}\n",
            contender::label(&failed.contender),
            failed.measure.label(),
            failed.round + 1
        );
    }
    text
}

fn rule(columns: usize) -> String {
    format!("\n|{}\n", "---|".repeat(columns))
}

/// Median and interval.
fn bounded(summary: &Summary, show: fn(f64) -> String) -> String {
    let median = show(summary.median);
    match summary.interval {
        Some((low, high)) => format!("{median} [{}, {}]", show(low), show(high)),
        None => median,
    }
}

/// Median, interval and range.
fn full(summary: &Summary) -> String {
    format!(
        "{} ({} .. {})",
        bounded(summary, short),
        short(summary.lowest),
        short(summary.highest)
    )
}

/// With its sign.
fn signed(value: f64) -> String {
    let plus = if value < 0.0 { "" } else { "+" };
    format!("{plus}{}", short(value))
}

/// Three digits or what stands before the point.
pub fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 99.95 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::examples::{latency, results, run, tcp};
    use crate::record::{Failed, Skipped};

    fn rounds() -> Vec<crate::record::Sample> {
        (0..6)
            .flat_map(|round| {
                let more = f64::from(round);
                [
                    tcp(round, SetUp::Tso, "direct", 10_000.0),
                    tcp(round, SetUp::Tso, "kernel", 5_000.0),
                    tcp(round, SetUp::Tso, "mat", 4_000.0 + 200.0 * more),
                    tcp(round, SetUp::Tso, "wireguard-go", 1_000.0),
                    latency(round, "direct", 10.0),
                    latency(round, "mat", 80.0 + more),
                ]
            })
            .collect()
    }

    fn shown() -> String {
        let runs = [results(rounds())];
        section(&Section::all(&runs)[0], "ipv4-rtt0.svg")
    }

    #[track_caller]
    fn has(text: &str, line: &str) {
        assert!(text.lines().any(|l| l == line), "{line}\nis not in\n{text}");
    }

    #[test]
    fn direct_is_absolute_and_the_others_are_related_to_it() {
        let text = shown();
        has(&text, "| path | TCP, 1 stream | round trip, p50 | p99 |");
        has(&text, "| direct veth | 10.0 Gbit/s | 10.0 µs | 30.0 µs |");
        has(
            &text,
            "| MAT | 0.45 [0.40, 0.50] | +72.5 [+70.0, +75.0] µs | 248 µs |",
        );
        has(&text, "| kernel forwarding | 0.50 [0.50, 0.50] | - | - |");
    }

    #[test]
    fn costs_are_those_of_a_gigabyte() {
        let text = shown();
        has(
            &text,
            "| direct veth | 1.60 [1.60, 1.60] | 1 | - | - | 0, 0 | - |",
        );
        has(
            &text,
            "| kernel forwarding | 3.20 [3.20, 3.20] | 2.00 [2.00, 2.00] | - | - | 0, 0 | - |",
        );
    }

    #[test]
    fn mat_is_compared_with_the_kernel_and_the_best_wireguard() {
        let text = shown();
        has(
            &text,
            "| MAT over kernel forwarding, TCP, 1 stream | 0.90 [0.80, 1.00] |",
        );
        has(
            &text,
            "| MAT over wireguard-go, the best user-space WireGuard here, TCP, 1 stream | 4.50 [4.00, 5.00] |",
        );
        assert!(!text.contains("4 streams"));
    }

    #[test]
    fn every_figure_has_its_range() {
        has(
            &shown(),
            "| TSO | TCP, 1 stream | MAT | 6 | 4.50 [4.00, 5.00] (4.00 .. 5.00) Gbit/s | \
             0.45 [0.40, 0.50] (0.40 .. 0.50) |",
        );
    }

    #[test]
    fn the_circumstances_say_who_is_missing() {
        let mut one = results(rounds());
        one.skipped.push(Skipped {
            id: "gotatun".to_owned(),
            why: "no program `gotatun`:\n  fetch it".to_owned(),
        });
        one.failed.push(Failed {
            round: 1,
            set_up: SetUp::Tso,
            measure: Measure::Tcp1,
            contender: contender::DIRECT.to_owned(),
            why: "nothing arrived".to_owned(),
        });
        let text = circumstances(&[one]);
        for what in [
            "2026-01-31T12:00:00Z, `mat-bench --quick`: 6 of 2 rounds; Example 9000, 2 cores",
            "load average at start 0.5 0.25 0; release build, commit abc; seed 7.",
            "**left out**: GotaTun: no program `gotatun`: fetch it",
            "**failed**: direct veth, TCP, 1 stream, round 2: nothing arrived",
        ] {
            assert!(text.contains(what), "{what} in {text}");
        }
        assert_eq!(run().seed, 7);
    }

    #[test]
    fn numbers_have_three_digits() {
        let shown = [0.014, 1.0, 9.996, 72.5, 99.96, 40_600.0].map(short);
        assert_eq!(shown, ["0.01", "1.00", "10.0", "72.5", "100", "40600"]);
        assert_eq!([-1.5, 0.0, 90.25].map(signed), ["-1.50", "+0.00", "+90.2"]);
    }
}

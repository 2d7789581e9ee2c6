//! The readable end of a measurement, for a terminal and for the page (pure).

use super::schema::{Connections, Report, Throughput, UdpDirection};
use super::series;

/// One line: what is measured, upward, downward, and the worse of both.
pub(super) struct Row {
    pub name: &'static str,
    pub up: String,
    pub down: String,
    pub worst: String,
}

/// Lines that belong together.
pub(super) struct Section {
    pub title: &'static str,
    pub rows: Vec<Row>,
}

/// The table as plain text, ready to be printed.
pub fn table(report: &Report) -> String {
    let mut out = format!("\n{}\n", verdict(report));
    out += &format!(
        "{:<28}{:>18}{:>18}{:>14}\n",
        "", "client -> server", "server -> client", "worse"
    );
    for section in sections(report) {
        out += &format!("{}\n", section.title);
        for row in section.rows {
            out += &format!(
                "  {:<26}{:>18}{:>18}{:>14}\n",
                row.name, row.up, row.down, row.worst
            );
        }
    }
    if !report.moves.is_empty() {
        out += "Moves\n";
        let header = MOVE_COLUMNS.map(str::to_owned);
        for cells in std::iter::once(header).chain(move_rows(report)) {
            let [route, cells @ ..] = cells;
            out += &format!("  {route:<26}");
            for cell in cells {
                out += &format!("{cell:>14}");
            }
            out += "\n";
        }
    }
    let spreads = series::spreads(report);
    if !spreads.is_empty() {
        out += &format!(
            "  {:<26}{:>14}{:>14}{:>14}\n",
            format!("of {} moves", report.moves.len()),
            "median ms",
            "95 % ms",
            "longest ms"
        );
        for one in spreads {
            let [median, p95, max] = [one.median, one.p95, one.max].map(decimal);
            out += &format!("    {:<24}{median:>14}{p95:>14}{max:>14}\n", one.name);
        }
    }
    for line in remarks(report) {
        out += &format!("{line}\n");
    }
    out
}

/// The result in one line.
pub(super) fn verdict(report: &Report) -> String {
    let what = if report.all_survived_intact() {
        "every connection survived, byte for byte"
    } else if report.tcp.survived && report.connections.survived == report.connections.opened {
        "every connection survived, but bytes arrived CHANGED"
    } else {
        "NOT every connection survived"
    };
    let moves = match report.moves.len() {
        0 => String::new(),
        1 => "1 move, ".to_owned(),
        n => format!("{n} moves, "),
    };
    let seconds = report.meta.measured_ms as f64 / 1000.0;
    format!("{moves}{seconds:.1} s: {what}")
}

/// The lines of the table.
pub(super) fn sections(report: &Report) -> Vec<Section> {
    let mut sections = vec![
        Section {
            title: "TCP",
            rows: tcp_rows(report),
        },
        Section {
            title: "Throughput",
            rows: throughput_rows(report),
        },
        Section {
            title: "UDP probe",
            rows: udp_rows(report),
        },
    ];
    if report.connections.opened > 0 {
        sections.push(Section {
            title: "Quiet connections",
            rows: crowd_rows(&report.connections),
        });
    }
    sections
}

/// Headings of [`move_rows`].
pub(super) const MOVE_COLUMNS: [&str; 6] = [
    "",
    "at s",
    "blackout ms",
    "map update ms",
    "peers ms",
    "back to 90 %",
];

/// One line for each move.
pub(super) fn move_rows(report: &Report) -> Vec<[String; 6]> {
    let recovery = |index: usize| {
        let of = |t: &Throughput| t.moves.get(index).map(|one| one.recovery_ms);
        match (of(&report.throughput_up), of(&report.throughput_down)) {
            (Some(Some(up)), Some(Some(down))) => with_unit(up.max(down), "ms"),
            (None, _) | (_, None) => unknown(),
            _ => "not back".to_owned(),
        }
    };
    let marks = report.marks();
    let rows = report.moves.iter().zip(&marks).enumerate();
    rows.map(|(index, (one, mark))| {
        [
            format!(
                "{}: {} -> {} ({})",
                one.instance, one.from, one.to, one.driver
            ),
            format!("{:.2}", mark.start_ms / 1000.0),
            decimal(one.blackout_ms),
            decimal(one.map_update_ms),
            decimal(one.peers_switched_ms),
            recovery(index),
        ]
    })
    .collect()
}

/// What a reader must know beside the numbers.
pub(super) fn remarks(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, tcp) in [
        ("client -> server", &report.tcp_up),
        ("server -> client", &report.tcp_down),
    ] {
        if let Some(failure) = &tcp.failure {
            lines.push(format!("TCP {name}: {failure}"));
        }
        if let Some(offset) = tcp.first_bad_offset {
            lines.push(format!("TCP {name}: first wrong byte at offset {offset}"));
        }
    }
    for dead in &report.connections.dead {
        lines.push(format!("connection {}: {}", dead.index, dead.failure));
    }
    let unnamed = (report.connections.opened - report.connections.survived)
        .saturating_sub(report.connections.dead.len() as u64);
    if unnamed > 0 {
        lines.push(format!(
            "and {unnamed} more connections that did not survive"
        ));
    }
    for (name, udp) in [
        ("client -> server", &report.udp_up),
        ("server -> client", &report.udp_down),
    ] {
        let refused = (udp.refused, "refused by the sender's own kernel");
        let overflowed = (
            udp.receiver_overflowed,
            "dropped by a receiver that did not keep up",
        );
        for (count, how) in [refused, overflowed] {
            if let Some(count @ 1..) = count {
                lines.push(format!("UDP {name}: {count} of the lost probes were {how}"));
            }
        }
    }
    if report.meta.ending != "complete" {
        lines.push(format!(
            "The run ended after {} of {} ms: {}.",
            report.meta.measured_ms, report.meta.duration_ms, report.meta.ending
        ));
    }
    lines.extend(report.meta.notes.iter().cloned());
    lines
}

fn tcp_rows(report: &Report) -> Vec<Row> {
    let (up, down, worst) = (&report.tcp_up, &report.tcp_down, &report.tcp);
    let row = |name, cell: &dyn Fn(&super::schema::Tcp) -> String| Row {
        name,
        up: cell(&up.outcome),
        down: cell(&down.outcome),
        worst: cell(worst),
    };
    vec![
        row("survived", &|tcp| yes_no(tcp.survived)),
        row("intact", &|tcp| yes_no(tcp.intact)),
        row("bytes", &|tcp| bytes(tcp.bytes)),
        row("longest stall", &|tcp| optional_ms(tcp.longest_stall_ms)),
        row("retransmitted segments", &|tcp| optional(tcp.retransmits)),
        row("retransmission timeouts", &|tcp| optional(tcp.rtos)),
    ]
}

fn throughput_rows(report: &Report) -> Vec<Row> {
    let (up, down) = (&report.throughput_up, &report.throughput_down);
    let mut rows = vec![rate_row(
        "mean",
        [report.tcp_up.mean_mbps, report.tcp_down.mean_mbps],
    )];
    if !report.moves.is_empty() {
        let back = |t: &Throughput| match t.recovery_ms {
            Some(ms) => with_unit(ms, "ms"),
            None => "not back".to_owned(),
        };
        rows.push(rate_row(
            "before the first move",
            [up.before_mbps, down.before_mbps],
        ));
        rows.push(rate_row(
            "after the last move",
            [up.after_mbps, down.after_mbps],
        ));
        rows.push(Row {
            name: "back to 90 % after",
            up: back(up),
            down: back(down),
            worst: back(&report.throughput),
        });
    }
    rows
}

/// Rates, of which the smaller is the worse.
fn rate_row(name: &'static str, [up, down]: [Option<f64>; 2]) -> Row {
    let cell = |value: Option<f64>| value.map_or_else(unknown, rate);
    Row {
        name,
        up: cell(up),
        down: cell(down),
        worst: cell([up, down].into_iter().flatten().reduce(f64::min)),
    }
}

fn udp_rows(report: &Report) -> Vec<Row> {
    let (up, down, worst) = (&report.udp_up, &report.udp_down, &report.udp);
    let row = |name, cell: &dyn Fn(&super::schema::Udp) -> String| Row {
        name,
        up: cell(&up.outcome),
        down: cell(&down.outcome),
        worst: cell(worst),
    };
    let pause = |udp: &UdpDirection| optional_ms(udp.sender_longest_pause_ms);
    let longer = [up, down]
        .into_iter()
        .filter_map(|udp| udp.sender_longest_pause_ms)
        .reduce(f64::max);
    vec![
        row("sent", &|udp| udp.sent.to_string()),
        row("received", &|udp| udp.received.to_string()),
        row("lost", &|udp| udp.lost.to_string()),
        row("duplicated", &|udp| udp.duplicated.to_string()),
        row("reordered", &|udp| udp.reordered.to_string()),
        row("longest gap", &|udp| with_unit(udp.longest_gap_ms, "ms")),
        Row {
            name: "sender's longest pause",
            up: pause(up),
            down: pause(down),
            worst: optional_ms(longer),
        },
    ]
}

fn crowd_rows(crowd: &Connections) -> Vec<Row> {
    let row = |name, worst| Row {
        name,
        up: String::new(),
        down: String::new(),
        worst,
    };
    let of_opened = |count: u64| format!("{count} of {}", crowd.opened);
    vec![
        row("survived", of_opened(crowd.survived)),
        row("intact", of_opened(crowd.intact)),
        row("longest stall", optional_ms(crowd.longest_stall_ms)),
    ]
}

fn yes_no(value: bool) -> String {
    if value { "yes" } else { "NO" }.to_owned()
}

fn unknown() -> String {
    "not known".to_owned()
}

fn optional(value: Option<u64>) -> String {
    value.map_or_else(unknown, |value| value.to_string())
}

fn optional_ms(value: Option<f64>) -> String {
    value.map_or_else(unknown, |value| with_unit(value, "ms"))
}

fn with_unit(value: f64, unit: &str) -> String {
    format!("{} {unit}", decimal(value))
}

/// One decimal where it says something.
fn decimal(value: f64) -> String {
    if value >= 1000.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.1}")
    }
}

fn rate(mbps: f64) -> String {
    if mbps >= 1000.0 {
        format!("{:.2} Gbit/s", mbps / 1000.0)
    } else {
        format!("{mbps:.1} Mbit/s")
    }
}

fn bytes(count: u64) -> String {
    match count {
        1_000_000_000.. => format!("{:.2} GB", count as f64 / 1e9),
        1_000_000.. => format!("{:.1} MB", count as f64 / 1e6),
        _ => count.to_string(),
    }
}

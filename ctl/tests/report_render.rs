//! A report of known content, and what is shown of it.

use std::collections::BTreeSet;

use mat_ctl::report::schema::{
    Connections, DeadConnection, Direction, Gap, GapBucket, Meta, Sample, Tcp, TcpDirection, Udp,
    UdpDirection,
};
use mat_ctl::report::{self, Move, Report, ReportArgs, figure, html};

const ZERO_US: u64 = 1_790_000_000_000_000;
const BINS: u64 = 240;

#[test]
fn json_has_the_promised_shape() {
    let json: serde_json::Value = serde_json::from_str(&synthetic().to_json()).expect("JSON");
    assert_eq!(json["schema"], "mat.report/1");
    let fields = |value: &serde_json::Value| -> BTreeSet<String> {
        value
            .as_object()
            .expect("an object")
            .keys()
            .cloned()
            .collect()
    };
    let has = |value: &serde_json::Value, names: &[&str]| {
        for name in names {
            assert!(fields(value).contains(*name), "{name} in {value}");
        }
    };
    has(
        &json["tcp"],
        &[
            "survived",
            "intact",
            "bytes",
            "longest_stall_ms",
            "retransmits",
            "rtos",
        ],
    );
    has(
        &json["udp"],
        &[
            "rate_hz",
            "sent",
            "received",
            "lost",
            "duplicated",
            "reordered",
            "longest_gap_ms",
        ],
    );
    has(
        &json["throughput"],
        &["before_mbps", "after_mbps", "recovery_ms", "series"],
    );
    has(&json["throughput"]["series"][0], &["t_ms", "mbps"]);
    has(
        &json["moves"][0],
        &[
            "driver",
            "instance",
            "from",
            "to",
            "epoch_before",
            "epoch_after",
            "blackout_ms",
            "map_update_ms",
            "peers_switched_ms",
        ],
    );
    has(
        &json,
        &[
            "tcp_up",
            "tcp_down",
            "udp_up",
            "udp_down",
            "connections",
            "meta",
        ],
    );
    assert!(
        json["tcp_up"]["survived"].is_boolean() && json["throughput"]["series"][7]["t_ms"] == 350
    );
}

#[test]
fn moves_are_put_in_order_and_replace_earlier_ones() {
    let report = synthetic();
    assert_eq!(report.moves[0].from, "A");
    assert_eq!(report.throughput_up.moves.len(), 2);
    assert_eq!(report.throughput.recovery_ms, Some(150.0));
    let bare = report.with_moves(Vec::new());
    assert_eq!(
        (bare.throughput.recovery_ms, bare.throughput.after_mbps),
        (None, None)
    );
    assert!(bare.throughput.before_mbps.is_some());
}

#[test]
fn the_table_tells_good_from_bad() {
    let good = report::table(&synthetic());
    for words in [
        "2 moves, 12.0 s: every connection survived, byte for byte",
        "1000 of 1000",
        "web-1: A -> B (netns)",
        "61.3 ms",
    ] {
        assert!(good.contains(words), "{words:?} in {good}");
    }
    let bad = report::table(&broken());
    for words in [
        "NOT every connection survived",
        "first wrong byte at offset 4711",
        "connection 3: client: connection reset",
        "receiver: no progress for 10000 ms",
    ] {
        assert!(bad.contains(words), "{words:?} in {bad}");
    }
    assert!(good.lines().all(|line| line.len() <= 110), "{good}");
}

#[test]
fn the_page_needs_nothing_else_and_trusts_no_name() {
    let mut report = synthetic();
    report.moves[0].instance = "<script>alert(1)</script>".to_owned();
    report.moves[0].from = "<b>".to_owned();
    let page = html::page(&report);
    for outside in ["src=", "href=", "url(", "@import", "<script"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.contains("&lt;script&gt;"));
    assert_eq!(page.matches("<svg").count(), 2);
    assert_eq!(page.matches("</svg>").count(), 2);
    assert!(page.contains("B \u{2192} A"));
    // No stand-in colour is left over.
    assert!(!page.contains("0001\""), "every role is painted");
}

#[test]
fn the_figure_alone_is_painted_for_any_viewer() {
    let svg = figure::standalone(&synthetic());
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    assert!(!svg.contains("var(") && !svg.contains("0001\""));
    assert!(svg.contains("A \u{2192} B") && svg.contains("B \u{2192} A"));
}

#[test]
fn reports_with_little_in_them_can_be_drawn() {
    let mut empty = synthetic().with_moves(Vec::new());
    for throughput in [&mut empty.throughput_up, &mut empty.throughput_down] {
        throughput.series.clear();
    }
    for udp in [&mut empty.udp_up, &mut empty.udp_down] {
        udp.gaps.clear();
        udp.gap_histogram.clear();
    }
    empty.meta.measured_ms = 0;
    let moves = synthetic().moves;
    for report in [empty.clone(), empty.with_moves(moves), broken()] {
        assert!(html::page(&report).contains("</html>"));
        assert!(figure::standalone(&report).contains("</svg>"));
        assert!(!report::table(&report).is_empty());
    }
}

#[test]
fn the_command_writes_page_and_figure_and_names_bad_files() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("run.json"), synthetic().to_json()).expect("write");
    let args = |file: &str| ReportArgs {
        file: path(file),
        html: Some(path("run.html")),
        svg: Some(path("run.svg")),
    };
    report::run(args("run.json")).expect("a report");
    let page = std::fs::read_to_string(path("run.html")).expect("a page");
    assert!(page.contains("<svg") && path("run.svg").exists());

    let fails = |file: &str| format!("{:#}", report::run(args(file)).expect_err("no report"));
    assert!(fails("none.json").contains("none.json"));
    for (content, words) in [
        ("{", "line 1"),
        ("{}", "\"schema\""),
        (r#"{"schema":"mat.report/9"}"#, "mat.report/9"),
        (r#"{"schema":"mat.report/1"}"#, "tcp"),
    ] {
        std::fs::write(path("bad.json"), content).expect("write");
        let said = fails("bad.json");
        assert!(said.contains("bad.json") && said.contains(words), "{said}");
    }
}

/// Twelve seconds with two moves, each with a hole, at 4 s and 8 s.
pub fn synthetic() -> Report {
    let up = direction(1.0, 3);
    let down = direction(0.93, 11);
    let series = [
        (Direction::Up, series(940.0, 5)),
        (Direction::Down, series(870.0, 17)),
    ];
    let connections = Connections {
        opened: 1000,
        survived: 1000,
        intact: 1000,
        bytes: 3_840_000,
        longest_stall_ms: Some(180.0),
        dead: Vec::new(),
    };
    Report::new([up.0, down.0], [up.1, down.1], series, connections, meta()).with_moves(vec![
        one_move("B", "A", 8_000, 8_071),
        one_move("A", "B", 4_000, 4_065),
    ])
}

/// The same, gone wrong.
pub fn broken() -> Report {
    let mut report = synthetic();
    report.tcp.survived = false;
    report.tcp.intact = false;
    report.tcp_up.outcome.survived = false;
    report.tcp_up.outcome.intact = false;
    report.tcp_up.first_bad_offset = Some(4711);
    report.tcp_up.failure = Some("receiver: no progress for 10000 ms".to_owned());
    report.connections.survived = 999;
    report.connections.intact = 999;
    report.connections.dead = vec![DeadConnection {
        index: 3,
        failure: "client: connection reset".to_owned(),
    }];
    for sample in &mut report.throughput_up.series {
        if sample.t_ms > 8_000 {
            sample.mbps = 0.0;
        }
    }
    let moves = report.moves.clone();
    report.with_moves(moves)
}

fn direction(scale: f64, salt: u64) -> (TcpDirection, UdpDirection) {
    let tcp = TcpDirection {
        outcome: Tcp {
            survived: true,
            intact: true,
            bytes: (1.4e9 * scale) as u64,
            longest_stall_ms: Some(204.5 * scale),
            retransmits: Some(40 + salt),
            rtos: Some(1),
        },
        mean_mbps: Some(933.0 * scale),
        first_bad_offset: None,
        failure: None,
        stalls: Vec::new(),
    };
    let small = |n: u64| Gap {
        t_ms: (n * 733 + salt * 37) as f64 % 12_000.0,
        gap_ms: 2.0 + noise(n, salt) * 6.0,
    };
    let holes = [(4_003.1, 58.9 * scale), (8_004.2, 61.3 * scale)];
    let holes = holes.map(|(t_ms, gap_ms)| Gap { t_ms, gap_ms });
    let counts = [210, 8_900, 2_600, 150, 61, 22, 9, 0, 0, 2, 0, 0, 0, 0];
    let edges = [
        0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0,
    ];
    let bucket = |index: usize| GapBucket {
        from_ms: edges[index],
        to_ms: edges.get(index + 1).copied(),
        count: (counts[index] as f64 * scale) as u64,
    };
    let udp = UdpDirection {
        outcome: Udp {
            rate_hz: 1000,
            sent: 12_000,
            received: 11_900 - salt,
            lost: 100 + salt,
            duplicated: 0,
            reordered: salt,
            longest_gap_ms: 61.3 * scale,
        },
        refused: Some(0),
        receiver_overflowed: Some(0),
        sender_longest_pause_ms: Some(4.2),
        transit_spread_ms: Some(63.0),
        gap_histogram: (0..counts.len()).map(bucket).collect(),
        gaps: (0..40).map(small).chain(holes).collect(),
    };
    (tcp, udp)
}

fn series(mbps: f64, salt: u64) -> Vec<Sample> {
    let sample = |bin: u64| {
        let t_ms = bin * 50;
        let dip = match t_ms {
            4_000..4_100 | 8_000..8_100 => 0.0,
            4_100 | 8_100 => 0.55,
            0 => 0.4,
            _ => 1.0,
        };
        Sample {
            t_ms,
            mbps: mbps * dip * (0.97 + 0.06 * noise(bin, salt)),
        }
    };
    (0..BINS).map(sample).collect()
}

/// From 0 to 1, always the same.
fn noise(n: u64, salt: u64) -> f64 {
    let mixed = (n + 1)
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .rotate_left(salt as u32);
    (mixed.wrapping_mul(0xD6E8_FEB8_6659_FD93) >> 40) as f64 / (1 << 24) as f64
}

fn one_move(from: &str, to: &str, start_ms: u64, end_ms: u64) -> Move {
    Move {
        driver: "netns".to_owned(),
        instance: "web-1".to_owned(),
        from: from.to_owned(),
        to: to.to_owned(),
        epoch_before: start_ms,
        epoch_after: start_ms + 1,
        blackout_ms: 57.4,
        frozen_ms: 0.0,
        map_update_ms: 3.8,
        peers_switched_ms: 1.9,
        start_unix_us: ZERO_US + start_ms * 1000,
        end_unix_us: ZERO_US + end_ms * 1000,
    }
}

fn meta() -> Meta {
    Meta {
        version: "0.1.0".to_owned(),
        server: "192.0.2.10:6284".to_owned(),
        client: "203.0.113.7:41234".to_owned(),
        start_unix_us: ZERO_US,
        duration_ms: 12_000,
        measured_ms: 12_000,
        bin_ms: 50,
        stall_limit_ms: 10_000,
        tcp_rate_mbps: None,
        ending: "complete".to_owned(),
        rtos_source: "tcpi_total_rto".to_owned(),
        clock_offset_us: 0,
        notes: Vec::new(),
    }
}

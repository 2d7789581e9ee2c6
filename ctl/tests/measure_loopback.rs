//! Real measurements over loopback, nothing in the way.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mat_ctl::measure::Progress;
use mat_ctl::measure::client::{ClientArgs, Target, measure};
use mat_ctl::measure::server::Server;
use mat_ctl::report::{self, Report};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Starts a server for one run; the thread ends with it.
fn serve(address: IpAddr) -> (SocketAddr, thread::JoinHandle<anyhow::Result<()>>) {
    let server = Server::bind(SocketAddr::new(address, 0)).expect("bind");
    let address = server.address();
    (address, thread::spawn(move || server.serve(true)))
}

fn args(server: SocketAddr, seconds: f64) -> ClientArgs {
    ClientArgs {
        server: server.ip().to_string(),
        port: server.port(),
        duration: seconds,
        json: None,
        bind: None,
        udp_rate: 1000,
        tcp_rate_mbps: Some(200.0),
        connections: 0,
        stall_limit: 5.0,
        progress: false,
    }
}

fn run(args: &ClientArgs) -> Report {
    let target = Target::from_args(args).expect("arguments");
    measure(&target, &AtomicBool::new(false), &mut |_| {}).expect("a report")
}

#[test]
fn an_undisturbed_run_survives_with_sane_numbers() {
    let (server, served) = serve(LOOPBACK);
    let report = run(&args(server, 1.5));
    served.join().expect("server").expect("served");

    assert!(report.all_survived_intact(), "{}", report::table(&report));
    assert_eq!(report.meta.ending, "complete");
    for (tcp, throughput, udp) in [
        (&report.tcp_up, &report.throughput_up, &report.udp_up),
        (&report.tcp_down, &report.throughput_down, &report.udp_down),
    ] {
        // 200 Mbit/s for 1.5 s are 37.5 MB; a busy machine may send less, never more.
        assert!(
            (1_000_000..40_000_000).contains(&tcp.outcome.bytes),
            "{tcp:?}"
        );
        assert!(tcp.outcome.longest_stall_ms.is_some_and(|ms| ms < 1_500.0));
        assert_eq!(throughput.series.len(), 30);
        let in_series: f64 = throughput
            .series
            .iter()
            .map(|s| s.mbps * 50e-3 / 8.0 * 1e6)
            .sum();
        assert!(in_series <= tcp.outcome.bytes as f64 * 1.001);
        let udp = &udp.outcome;
        assert!((100..=1_501).contains(&udp.sent), "{udp:?}");
        assert_eq!((udp.lost, udp.duplicated, udp.reordered), (0, 0, 0));
        assert_eq!(udp.sent, udp.received);
        assert!((0.5..1_500.0).contains(&udp.longest_gap_ms));
    }
    let gaps: u64 = report.udp_up.gap_histogram.iter().map(|b| b.count).sum();
    // Between n arrivals lie n - 1 gaps, and one more may last until the end.
    assert!(gaps.abs_diff(report.udp_up.outcome.received) <= 1);
}

#[test]
fn the_report_survives_its_json_form() {
    let (server, _) = serve(LOOPBACK);
    let report = run(&args(server, 0.3));
    let again = Report::from_json(&report.to_json()).expect("our own JSON");
    assert_eq!(again.tcp, report.tcp);
    assert_eq!(again.throughput, report.throughput);
    assert_eq!(again.meta, report.meta);
}

#[test]
fn works_over_ipv6_and_from_a_chosen_address() {
    let (server, _) = serve(IpAddr::V6(Ipv6Addr::LOCALHOST));
    let report = run(&args(server, 0.3));
    assert!(report.all_survived_intact(), "{}", report::table(&report));
    assert!(report.udp.received > 0);

    let (server, _) = serve(LOOPBACK);
    let bind = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 77));
    let report = run(&ClientArgs {
        bind: Some(bind),
        ..args(server, 0.3)
    });
    assert!(report.meta.client.starts_with("127.0.0.77:"));
    assert!(report.all_survived_intact() && report.udp.lost == 0);
}

#[test]
fn a_dual_stack_server_serves_several_clients_at_once() {
    let server = Server::bind(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0)).expect("bind");
    let port = server.address().port();
    // Ends with the test process: a server without --once serves until it is killed.
    thread::spawn(move || server.serve(false));
    let clients: Vec<_> = [LOOPBACK, LOOPBACK, IpAddr::V6(Ipv6Addr::LOCALHOST)]
        .into_iter()
        .map(|ip| thread::spawn(move || run(&args(SocketAddr::new(ip, port), 0.5))))
        .collect();
    for client in clients {
        let report = client.join().expect("client");
        assert!(report.all_survived_intact(), "{}", report::table(&report));
        // Sessions share the UDP port: none may get another's probes.
        assert_eq!((report.udp.lost, report.udp.duplicated), (0, 0));
    }
}

#[test]
fn a_thousand_connections_are_each_verified() {
    let (server, _) = serve(LOOPBACK);
    let report = run(&ClientArgs {
        connections: 1000,
        tcp_rate_mbps: Some(10.0),
        ..args(server, 1.0)
    });
    let crowd = &report.connections;
    assert_eq!(
        (crowd.opened, crowd.survived, crowd.intact),
        (1000, 1000, 1000),
        "{crowd:?}"
    );
    // Both ends of each send 16 bytes at once and then every 100 ms.
    assert!(crowd.bytes >= 2 * 1000 * 16, "{crowd:?}");
}

#[test]
fn a_client_that_is_told_to_stop_reports_what_it_has() {
    let (server, served) = serve(LOOPBACK);
    let stop = AtomicBool::new(false);
    let target = Target::from_args(&args(server, 60.0)).expect("arguments");
    let begun = Instant::now();
    let mut lines: Vec<Progress> = Vec::new();
    let report = measure(&target, &stop, &mut |now| {
        lines.push(now.clone());
        stop.store(now.t_ms >= 500, Ordering::Relaxed);
    })
    .expect("a report");
    served.join().expect("server").expect("served");

    assert!(begun.elapsed() < Duration::from_secs(20));
    assert_eq!(report.meta.ending, "interrupted");
    assert!(report.all_survived_intact(), "{}", report::table(&report));
    assert!((500..60_000).contains(&report.meta.measured_ms));
    let last = lines.last().expect("progress");
    assert!(
        last.udp_down_received > 0 && last.udp_up_received > 0,
        "{last:?}"
    );
    assert!(
        lines
            .iter()
            .any(|line| line.up_mbps > 0.0 && line.down_mbps > 0.0)
    );
    let line = serde_json::to_string(last).expect("a line");
    assert_eq!(
        serde_json::from_str::<Progress>(&line).expect("its own line"),
        *last
    );
}

#[test]
fn nobody_there_and_somebody_else_there_are_clear_errors() {
    let closed = TcpListener::bind((LOOPBACK, 0))
        .expect("bind")
        .local_addr()
        .expect("bound");
    let fails = |server| {
        let target = Target::from_args(&args(server, 1.0)).expect("arguments");
        let result = measure(&target, &AtomicBool::new(false), &mut |_| {});
        format!("{:#}", result.expect_err("no measurement"))
    };
    let words = fails(closed);
    assert!(
        words.contains("measure server") && words.contains("refused"),
        "{words}"
    );

    let stranger = TcpListener::bind((LOOPBACK, 0)).expect("bind");
    let address = stranger.local_addr().expect("bound");
    thread::spawn(move || drop(stranger.accept()));
    let words = fails(address);
    assert!(words.contains(&address.to_string()), "{words}");
}

#[test]
fn an_address_in_use_is_named() {
    let taken = TcpListener::bind((LOOPBACK, 0)).expect("bind");
    let address = taken.local_addr().expect("bound");
    let words = format!("{:#}", Server::bind(address).expect_err("taken"));
    assert!(
        words.contains(&address.to_string()) && words.contains("--port"),
        "{words}"
    );
}

#[test]
fn options_out_of_bounds_are_named() {
    let server = SocketAddr::new(LOOPBACK, 1);
    for (bad, name) in [
        (args(server, 0.0), "duration"),
        (args(server, -1.0), "duration"),
        (args(server, 1e9), "duration"),
        (
            ClientArgs {
                udp_rate: 0,
                ..args(server, 1.0)
            },
            "UDP rate",
        ),
        (
            ClientArgs {
                stall_limit: 0.0,
                ..args(server, 1.0)
            },
            "stall limit",
        ),
    ] {
        let words = Target::from_args(&bad)
            .expect_err("out of bounds")
            .to_string();
        assert!(words.contains(name), "{words}");
    }
}

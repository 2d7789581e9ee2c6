//! Measurements through a relay that does harm: each kind of harm must show in the report.
//!
//! The relay stands on a loopback address of its own. Towards the server it uses another one,
//! with the client's UDP port, so that to both ends it looks like their peer.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mat_ctl::measure::client::{ClientArgs, Target, measure};
use mat_ctl::measure::server::Server;
use mat_ctl::measure::wire::{Preamble, Role};
use mat_ctl::report::{self, Move, Report};
use mat_netns::wait_until;

const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const FRONT: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const BACK: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));

/// What the relay does to what passes.
#[derive(Clone, Default)]
struct Harm {
    /// Flips one bit of the connection's byte at this offset behind the preamble.
    flip: Option<(Role, u64)>,
    /// Ends the connection when so many bytes have passed.
    cut: Option<(Role, u64)>,
    /// Of the datagrams towards the server, drops every n-th.
    drop_every: Option<u64>,
    /// Of the datagrams towards the client, sends every n-th twice.
    repeat_every: Option<u64>,
    /// Of the datagrams towards the client, swaps every n-th with the next.
    swap_every: Option<u64>,
    /// While set, nothing passes.
    stalled: Arc<AtomicBool>,
    /// When set, everything is closed.
    dead: Arc<AtomicBool>,
}

impl Harm {
    fn wait(&self) {
        let flows = || !self.stalled.load(Ordering::Relaxed) || self.is_dead();
        wait_until(Duration::from_secs(60), "the stall to end", || {
            flows().then_some(())
        })
        .unwrap();
    }

    fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }
}

/// Starts the relay and returns where clients find it.
fn relay(server: SocketAddr, harm: &Harm) -> SocketAddr {
    let listener = TcpListener::bind((FRONT, 0)).expect("bind");
    let address = listener.local_addr().expect("bound");
    let harm = harm.clone();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let harm = harm.clone();
            // Ends with its connection; a broken one is the client's to notice.
            thread::spawn(move || relay_connection(client, server, &harm));
        }
    });
    address
}

fn relay_connection(mut client: TcpStream, server: SocketAddr, harm: &Harm) -> io::Result<()> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(BACK, 0).into())?;
    socket.connect(&server.into())?;
    let mut upstream = TcpStream::from(socket);
    let mut preamble = [0; Preamble::LEN];
    client.read_exact(&mut preamble)?;
    upstream.write_all(&preamble)?;
    let role = Preamble::decode(&preamble)
        .ok_or(io::ErrorKind::InvalidData)?
        .role;
    if role == Role::Control {
        let hello = read_line(&mut client)?;
        relay_datagrams(
            udp_port(&hello),
            client.local_addr()?,
            client.peer_addr()?.ip(),
            server,
            harm,
        )?;
        upstream.write_all(&hello)?;
    }
    let (from, to) = (client.try_clone()?, upstream.try_clone()?);
    let (forth, back) = (harm.clone(), harm.clone());
    thread::spawn(move || copy(from, to, role, &forth));
    copy(upstream, client, role, &back)
}

fn copy(mut from: TcpStream, mut to: TcpStream, role: Role, harm: &Harm) -> io::Result<()> {
    from.set_read_timeout(Some(Duration::from_millis(20)))?;
    let mut passed = 0;
    let mut buffer = [0; 16 * 1024];
    let at = |what: Option<(Role, u64)>| what.filter(|(of, _)| *of == role).map(|(_, at)| at);
    loop {
        harm.wait();
        if harm.is_dead() || at(harm.cut).is_some_and(|cut| passed >= cut) {
            from.shutdown(Shutdown::Both)?;
            return to.shutdown(Shutdown::Both);
        }
        let count = match from.read(&mut buffer) {
            Ok(0) => return to.shutdown(Shutdown::Write),
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
            Err(e) => return Err(e),
        };
        harm.wait();
        let here = passed..passed + count as u64;
        if let Some(flip) = at(harm.flip).filter(|flip| here.contains(flip)) {
            buffer[(flip - passed) as usize] ^= 0x10;
        }
        to.write_all(&buffer[..count])?;
        passed = here.end;
    }
}

fn relay_datagrams(
    port: u16,
    front: SocketAddr,
    client: IpAddr,
    server: SocketAddr,
    harm: &Harm,
) -> io::Result<()> {
    let front = UdpSocket::bind(front)?;
    front.connect((client, port))?;
    let back = UdpSocket::bind((BACK, port))?;
    back.connect(server)?;
    let (front_too, back_too) = (front.try_clone()?, back.try_clone()?);
    let (forth, home) = (harm.clone(), harm.clone());
    thread::spawn(move || {
        pass(&front, &forth, |number, datagram| {
            if forth.drop_every.is_none_or(|n| number % n != 0) {
                let _ = back.send(datagram);
            }
        });
    });
    thread::spawn(move || {
        let mut held: Option<Vec<u8>> = None;
        pass(&back_too, &home, |number, datagram| {
            if home.swap_every.is_some_and(|n| number % n == 0) {
                held = Some(datagram.to_vec());
                return;
            }
            let again = home.repeat_every.is_some_and(|n| number % n == 0);
            let _ = front_too.send(datagram);
            if again {
                let _ = front_too.send(datagram);
            }
            if let Some(held) = held.take() {
                let _ = front_too.send(&held);
            }
        });
    });
    Ok(())
}

/// Hands on each datagram with its number, 1, 2, 3, ..., until the relay is dead or all is quiet
/// for long.
fn pass(from: &UdpSocket, harm: &Harm, mut on: impl FnMut(u64, &[u8])) {
    let mut buffer = [0; 2048];
    let mut number = 0;
    let mut last = Instant::now();
    from.set_read_timeout(Some(Duration::from_millis(20)))
        .expect("a timeout");
    while !harm.is_dead() && last.elapsed() < Duration::from_secs(10) {
        harm.wait();
        if let Ok(count) = from.recv(&mut buffer) {
            last = Instant::now();
            number += 1;
            harm.wait();
            on(number, &buffer[..count]);
        }
    }
}

fn read_line(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    Ok(line)
}

fn udp_port(hello: &[u8]) -> u16 {
    let hello: serde_json::Value = serde_json::from_slice(hello).expect("a Hello");
    let port = hello["hello"]["plan"]["udp_port"].as_u64().expect("a port");
    port as u16
}

/// A run of `seconds` through the harm; `during` hears of each progress.
fn run(harm: &Harm, change: impl Fn(&mut ClientArgs), mut during: impl FnMut(u64)) -> Report {
    let server = Server::bind(SocketAddr::new(SERVER, 0)).expect("bind");
    let address = server.address();
    thread::spawn(move || server.serve(true));
    let front = relay(address, harm);
    let mut args = ClientArgs {
        server: front.ip().to_string(),
        port: front.port(),
        duration: 1.0,
        json: None,
        bind: None,
        udp_rate: 1000,
        tcp_rate_mbps: Some(50.0),
        connections: 0,
        stall_limit: 5.0,
        progress: false,
    };
    change(&mut args);
    let target = Target::from_args(&args).expect("arguments");
    measure(&target, &AtomicBool::new(false), &mut |now| {
        during(now.t_ms)
    })
    .expect("a report")
}

#[test]
fn the_relay_itself_does_no_harm() {
    let report = run(&Harm::default(), |_| {}, |_| {});
    assert!(report.all_survived_intact(), "{}", report::table(&report));
    assert_eq!(
        (report.udp.lost, report.udp.duplicated, report.udp.reordered),
        (0, 0, 0)
    );
}

#[test]
fn a_flipped_bit_is_found_at_its_place() {
    for (role, offset) in [(Role::Up, 123_457), (Role::Down, 7)] {
        let harm = Harm {
            flip: Some((role, offset)),
            ..Harm::default()
        };
        let report = run(&harm, |_| {}, |_| {});
        let (bad, good) = match role {
            Role::Up => (&report.tcp_up, &report.tcp_down),
            _ => (&report.tcp_down, &report.tcp_up),
        };
        assert_eq!(bad.first_bad_offset, Some(offset));
        assert!(bad.outcome.survived && !bad.outcome.intact);
        assert!(good.outcome.survived && good.outcome.intact);
        assert!(report.tcp.survived && !report.tcp.intact && !report.all_survived_intact());
    }
}

#[test]
fn a_stream_that_ends_early_has_not_survived() {
    let harm = Harm {
        cut: Some((Role::Down, 500_000)),
        ..Harm::default()
    };
    let report = run(&harm, |_| {}, |_| {});
    assert!(!report.tcp_down.outcome.survived && !report.tcp.survived);
    assert!(report.tcp_down.failure.is_some());
    assert!(
        report.tcp_up.outcome.survived,
        "{:?}",
        report.tcp_up.failure
    );
    assert_eq!(report.meta.ending, "complete");
}

#[test]
fn lost_probes_are_counted_in_their_direction() {
    let harm = Harm {
        drop_every: Some(10),
        ..Harm::default()
    };
    let report = run(&harm, |_| {}, |_| {});
    let udp = &report.udp_up.outcome;
    assert_eq!(udp.lost, udp.sent / 10, "{udp:?}");
    assert_eq!(udp.sent, udp.received + udp.lost);
    assert_eq!(report.udp_down.outcome.lost, 0);
    assert_eq!(report.udp.lost, udp.lost);
    assert!(report.all_survived_intact());
}

#[test]
fn repeated_and_swapped_probes_are_counted() {
    let harm = Harm {
        repeat_every: Some(50),
        ..Harm::default()
    };
    let udp = run(&harm, |_| {}, |_| {}).udp_down.outcome;
    assert_eq!(
        (udp.duplicated, udp.lost, udp.reordered),
        (udp.sent / 50, 0, 0),
        "{udp:?}"
    );

    let harm = Harm {
        swap_every: Some(25),
        ..Harm::default()
    };
    let udp = run(&harm, |_| {}, |_| {}).udp_down.outcome;
    // If the last of all is held back nothing follows that would bring it: it is lost.
    assert_eq!(udp.reordered + udp.lost, udp.sent / 25, "{udp:?}");
    assert!(udp.lost <= 1 && udp.duplicated == 0, "{udp:?}");
}

#[test]
fn a_stall_is_survived_measured_and_recovered_from() {
    let harm = Harm::default();
    let report = run(
        &harm,
        |args| args.duration = 3.0,
        |t_ms| {
            harm.stalled
                .store((1_500..1_900).contains(&t_ms), Ordering::Relaxed)
        },
    );
    assert!(report.all_survived_intact(), "{}", report::table(&report));
    for tcp in [&report.tcp_up, &report.tcp_down] {
        let stall = tcp.outcome.longest_stall_ms.expect("measured");
        assert!((300.0..1_200.0).contains(&stall), "{stall}");
    }
    assert!((300.0..1_200.0).contains(&report.udp.longest_gap_ms));
    let longest = report
        .udp_up
        .gaps
        .iter()
        .max_by(|a, b| a.gap_ms.total_cmp(&b.gap_ms));
    assert!(
        longest.is_some_and(|gap| (1_400.0..1_800.0).contains(&gap.t_ms)),
        "{longest:?}"
    );

    let zero = report.meta.start_unix_us;
    let report = report.with_moves(vec![Move {
        driver: "relay".to_owned(),
        instance: "c1".to_owned(),
        from: "A".to_owned(),
        to: "B".to_owned(),
        epoch_before: 1,
        epoch_after: 2,
        blackout_ms: 400.0,
        frozen_ms: 0.0,
        map_update_ms: 1.0,
        peers_switched_ms: 2.0,
        start_unix_us: zero + 1_500_000,
        end_unix_us: zero + 1_900_000,
    }]);
    let recovery = report.throughput.recovery_ms.expect("it came back");
    assert!((300.0..1_400.0).contains(&recovery), "{recovery}");
    let before = report.throughput.before_mbps.expect("time before");
    let during = report.throughput.moves[0].during_mbps.expect("time during");
    assert!(during < before / 2.0, "{during} {before}");
}

#[test]
fn a_stall_without_end_is_declared_dead_in_bounded_time() {
    let harm = Harm::default();
    let begun = Instant::now();
    let report = run(
        &harm,
        |args| {
            args.duration = 3.0;
            args.stall_limit = 0.5;
            args.connections = 5;
        },
        |t_ms| harm.stalled.store(t_ms >= 500, Ordering::Relaxed),
    );
    harm.dead.store(true, Ordering::Relaxed);
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
    assert!(!report.tcp.survived);
    let words = report.tcp_down.failure.clone().unwrap_or_default();
    assert!(words.contains("no progress for 500 ms"), "{words}");
    assert_eq!(
        (report.connections.opened, report.connections.survived),
        (5, 0)
    );
    assert!(report.udp.longest_gap_ms >= 500.0);
}

#[test]
fn a_server_that_vanishes_ends_the_run_early_and_unsurvived() {
    let harm = Harm::default();
    let begun = Instant::now();
    let report = run(
        &harm,
        |args| {
            args.duration = 60.0;
            args.connections = 5;
        },
        |t_ms| harm.dead.store(t_ms >= 500, Ordering::Relaxed),
    );
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
    assert!(!report.tcp.survived && !report.all_survived_intact());
    assert!(
        report.meta.ending.contains("dead"),
        "{}",
        report.meta.ending
    );
    assert!(report.meta.notes[0].contains("account is missing"));
    assert_eq!(report.connections.survived, 0);
    assert!(report.tcp_down.outcome.bytes > 0);
}

//! The active end: decides what is measured, and makes the report of both sides.

use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};

use super::assemble::{Conditions, Ending, Said, assemble};
use super::clock::{Clock, unix_us};
use super::control::{Channel, Heard};
use super::engine::{Engine, Seeds, Sockets};
use super::live::Live;
use super::outcome::Side;
use super::progress::{self, Meter, Progress};
use super::tcp_info::TcpInfo;
use super::wire::{Plan, Preamble, Request, Response, Role, VERSION};
use super::{limits, probe, signal, stream};
use crate::report::{self, Report};

/// Time to reach the server, and for each of its answers before the run.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Threads which open the crowd.
const OPENERS: u32 = 32;

/// Time for the far side's report beyond its own bounds.
const RESULT_GRACE: Duration = Duration::from_secs(5);

/// A run whose TCP connections are all over ends when the probe is silent for so long too.
const SILENCE_US: u64 = 1_000_000;

/// `matctl measure client`
#[derive(Clone, Debug, clap::Args)]
pub struct ClientArgs {
    /// Name or address of the server
    #[arg(value_name = "ADDR")]
    pub server: String,
    /// TCP and UDP port of the server
    #[arg(long, default_value_t = super::DEFAULT_PORT)]
    pub port: u16,
    /// Length of the run in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    pub duration: f64,
    /// Write the report as JSON to this file (- for standard output)
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Local address to measure from
    #[arg(long, value_name = "LOCAL_ADDR")]
    pub bind: Option<IpAddr>,
    /// Probes a second in each direction
    #[arg(long, value_name = "HZ", default_value_t = 1000)]
    pub udp_rate: u32,
    /// Pace of the TCP stream in each direction [default: as fast as it goes]
    #[arg(long, value_name = "MBPS")]
    pub tcp_rate_mbps: Option<f64>,
    /// Further, quiet TCP connections, each verified too
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub connections: u32,
    /// Seconds without progress after which a connection counts as dead
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    pub stall_limit: f64,
    /// Print a line of JSON every 100 ms while measuring, instead of the table at the end
    #[arg(long)]
    pub progress: bool,
}

/// Measures, writes what was asked for, and returns success only if every connection survived
/// intact.
///
/// # Errors
/// When no measurement could be made, or the report could not be written.
pub fn run(args: ClientArgs) -> anyhow::Result<ExitCode> {
    let stop = signal::stop_flag().context("cannot install signal handlers")?;
    let target = Target::from_args(&args)?;
    let mut tell = |now: &Progress| {
        if args.progress
            && let Ok(line) = serde_json::to_string(now)
        {
            // A reader that has gone away must not end the measurement.
            let _ = writeln!(std::io::stdout(), "{line}");
        }
    };
    let report = measure(&target, stop, &mut tell)?;
    let to_stdout = args
        .json
        .as_deref()
        .is_some_and(|path| path.as_os_str() == "-");
    match &args.json {
        Some(path) if !to_stdout => fs::write(path, report.to_json() + "\n")
            .with_context(|| format!("cannot write the report to {}", path.display()))?,
        Some(_) => println!("{}", report.to_json()),
        None => {}
    }
    if !args.progress && !to_stdout {
        print!("{}", report::table(&report));
    }
    Ok(ExitCode::from(u8::from(!report.all_survived_intact())))
}

/// Whom to measure against, and how.
#[derive(Clone, Debug)]
pub struct Target {
    /// The server.
    pub server: SocketAddr,
    /// Local address, if one was chosen.
    pub bind: Option<IpAddr>,
    /// What to measure; the UDP port is filled in when its socket is there.
    pub plan: Plan,
}

impl Target {
    /// Reads the command line.
    ///
    /// # Errors
    /// Names the option that is out of bounds, or the host that has no address.
    pub fn from_args(args: &ClientArgs) -> anyhow::Result<Self> {
        let wanted = |a: &SocketAddr| args.bind.is_none_or(|bind| bind.is_ipv4() == a.is_ipv4());
        let server = (args.server.as_str(), args.port)
            .to_socket_addrs()
            .with_context(|| format!("no address for server {:?}", args.server))?
            .find(wanted)
            .ok_or_else(|| {
                anyhow!(
                    "server {:?} has no address of the family of --bind",
                    args.server
                )
            })?;
        // Out-of-range floats saturate here and are refused by the check.
        let ms = |seconds: f64| (seconds * 1000.0) as u64;
        let plan = Plan {
            duration_ms: ms(args.duration),
            udp_rate_hz: args.udp_rate,
            tcp_rate_mbps: args.tcp_rate_mbps,
            connections: args.connections,
            stall_limit_ms: ms(args.stall_limit),
            seed_up: random()?,
            seed_down: random()?,
            udp_port: 0,
        };
        plan.check().map_err(|reason| anyhow!(reason))?;
        Ok(Self {
            server,
            bind: args.bind,
            plan,
        })
    }
}

/// Runs one measurement; `stop` ends it early, `tell` hears of its progress every 100 ms.
///
/// # Errors
/// Only when the run did not begin. From then on there is always a report.
pub fn measure(
    target: &Target,
    stop: &AtomicBool,
    tell: &mut dyn FnMut(&Progress),
) -> anyhow::Result<Report> {
    limits::allow_connections(target.plan.connections).map_err(|reason| anyhow!(reason))?;
    let session = random()?;
    let mut agreed = agree(target, session)?;
    let plan = &agreed.plan;

    let clock = Arc::new(Clock::new(unix_us(), plan.duration_ms * 1000));
    agreed.channel.send(&Request::Go {
        zero_unix_us: clock.zero_unix_us().wrapping_add_signed(agreed.offset_us),
    })?;
    let live = Arc::new(Live::default());
    let seeds = Seeds {
        sends: plan.seed_up,
        expects: plan.seed_down,
    };
    let up = Arc::clone(&agreed.sockets.outgoing);
    let engine = Engine::start(plan, session, seeds, agreed.sockets, &clock, &live);
    let ending = watch(&engine, &up, &clock, &live, stop, tell);
    if ending != Ending::Complete {
        // Without this word the server would go on to the planned end; if it cannot be reached
        // its own limits end it.
        let _ = agreed.channel.send(&Request::Stop);
    }
    let ended_us = clock.ends_us();
    let near = engine.join();
    let far = far_side(&mut agreed.channel, plan, &clock);
    Ok(assemble(
        &near,
        far.as_ref().map_err(|e| e.to_string()),
        &Conditions {
            plan: plan.clone(),
            server: target.server.to_string(),
            client: agreed.local.to_string(),
            zero_unix_us: clock.zero_unix_us(),
            measured_ms: ended_us / 1000,
            clock_offset_us: agreed.offset_us,
            ending,
            said: Said {
                received: live.there.received.get(),
                longest_gap_us: live.there.longest_gap_us.get(),
            },
        },
    ))
}

/// Everything that is there when the server has accepted.
struct Agreed {
    channel: Channel,
    sockets: Sockets,
    plan: Plan,
    local: SocketAddr,
    /// The server's clock minus ours.
    offset_us: i64,
}

fn agree(target: &Target, session: u64) -> anyhow::Result<Agreed> {
    let control = open(target, session, Role::Control)?;
    let local = control.local_addr()?;
    let probe = UdpSocket::bind(SocketAddr::new(local.ip(), 0))
        .with_context(|| format!("cannot open a UDP socket on {}", local.ip()))?;
    probe.connect(target.server)?;
    probe::configure(&probe)?;
    let plan = Plan {
        udp_port: probe.local_addr()?.port(),
        ..target.plan.clone()
    };

    let mut channel = Channel::new(control, HANDSHAKE)?;
    let asked_us = unix_us();
    let hello = Request::Hello {
        version: VERSION,
        plan: plan.clone(),
    };
    channel
        .send(&hello)
        .with_context(|| format!("{} does not listen: is it a measure server?", target.server))?;
    let server_us = match expect(&mut channel, target)? {
        Response::Ready { unix_us } => unix_us,
        Response::Refused { reason } => bail!("{} refuses: {reason}", target.server),
        other => bail!("{} answers out of turn: {other:?}", target.server),
    };
    let offset_us = clock_offset(asked_us, server_us, unix_us());

    let up = open(target, session, Role::Up)?;
    let incoming = open(target, session, Role::Down)?;
    let crowd = open_crowd(target, session, plan.connections)?;
    match expect(&mut channel, target)? {
        Response::Attached => {}
        other => bail!("{} answers out of turn: {other:?}", target.server),
    }
    Ok(Agreed {
        channel,
        sockets: Sockets {
            outgoing: Arc::new(up),
            incoming,
            probe,
            crowd,
        },
        plan,
        local,
        offset_us,
    })
}

fn open(target: &Target, session: u64, role: Role) -> anyhow::Result<TcpStream> {
    let server = target.server;
    let connect = || -> std::io::Result<TcpStream> {
        let domain = socket2::Domain::for_address(server);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
        if let Some(bind) = target.bind {
            socket.bind(&SocketAddr::new(bind, 0).into())?;
        }
        socket.connect_timeout(&server.into(), HANDSHAKE)?;
        let mut stream = TcpStream::from(socket);
        stream.write_all(&Preamble { session, role }.encode())?;
        Ok(stream)
    };
    connect().with_context(|| {
        let from = target.bind.map(|bind| format!(" from {bind}"));
        format!(
            "cannot reach {server}{}: does `matctl measure server` run there?",
            from.unwrap_or_default()
        )
    })
}

/// Opens all connections of the crowd, many at a time: one round trip each in a row would take
/// minutes on a long path.
fn open_crowd(target: &Target, session: u64, count: u32) -> anyhow::Result<Vec<TcpStream>> {
    let share = count.div_ceil(OPENERS).max(1);
    let open_share = |first: u32| {
        (first..count.min(first + share))
            .map(|index| open(target, session, Role::Member(index)))
            .collect::<anyhow::Result<Vec<_>>>()
    };
    thread::scope(|scope| {
        let openers: Vec<_> = (0..count)
            .step_by(share as usize)
            .map(|first| scope.spawn(move || open_share(first)))
            .collect();
        let mut crowd = Vec::with_capacity(count as usize);
        for opener in openers {
            let opened = opener.join();
            crowd.extend(opened.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(crowd)
    })
}

fn expect(channel: &mut Channel, target: &Target) -> anyhow::Result<Response> {
    let server = target.server;
    match channel.receive(HANDSHAKE) {
        Ok(Heard::Message(response)) => Ok(response),
        Ok(Heard::Nothing) => bail!("{server} does not answer"),
        Ok(Heard::Closed) => bail!("{server} closed the connection: is it a measure server?"),
        Err(e) => Err(e).with_context(|| format!("no answer from {server}")),
    }
}

/// Waits for the end of the run, and says how it came.
fn watch(
    engine: &Engine,
    up: &TcpStream,
    clock: &Clock,
    live: &Live,
    stop: &AtomicBool,
    tell: &mut dyn FnMut(&Progress),
) -> Ending {
    let mut meter = Meter::default();
    let mut next_us = 0;
    let mut ending = Ending::Complete;
    while !clock.is_over() {
        let now = clock.now_us();
        if now >= next_us {
            // The connection may be gone; then its last number stands.
            let acknowledged = TcpInfo::of(up).map_or(0, |info| info.acknowledged_bytes);
            tell(&meter.read(now, clock.zero_unix_us(), acknowledged, live));
            next_us += progress::EVERY_MS * 1000;
        }
        if stop.load(Ordering::Relaxed) {
            ending = Ending::Interrupted;
            clock.end_now();
        } else if engine.tcp_is_over() && now > live.probe_last_us.get() + SILENCE_US {
            ending = Ending::NothingLeft;
            clock.end_now();
        }
        clock.sleep_until(next_us.min(now + 20_000).min(clock.ends_us()));
    }
    ending
}

/// The server's account, waited for as long as its own bounds may take.
fn far_side(channel: &mut Channel, plan: &Plan, clock: &Clock) -> anyhow::Result<Side> {
    let deadline_us = stream::drain_deadline(clock, plan.stall_limit_ms);
    let wait = Duration::from_micros(deadline_us.saturating_sub(clock.now_us())) + RESULT_GRACE;
    match channel.receive(wait) {
        Ok(Heard::Message(Response::Result { side })) => Ok(*side),
        Ok(Heard::Message(_)) => bail!("the server answered out of turn"),
        Ok(Heard::Nothing) => bail!("the server did not report in time"),
        Ok(Heard::Closed) => bail!("the server closed the control connection"),
        Err(e) => Err(e).context("the control connection broke"),
    }
}

/// The server's clock minus ours; zero if the difference lies within what the round trip leaves
/// uncertain, as it does on one machine.
fn clock_offset(asked_us: u64, server_us: u64, answered_us: u64) -> i64 {
    let half_trip = answered_us.saturating_sub(asked_us) as i64 / 2;
    let offset = server_us.wrapping_sub(asked_us) as i64 - half_trip;
    if offset.abs() <= half_trip { 0 } else { offset }
}

fn random() -> anyhow::Result<u64> {
    getrandom::u64().map_err(|e| anyhow!("the system gives no random numbers: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_machine_has_one_clock() {
        assert_eq!(clock_offset(1_000, 1_040, 1_100), 0);
        assert_eq!(clock_offset(1_000, 1_100, 1_100), 0);
    }

    #[test]
    fn another_clock_is_placed_within_half_a_round_trip() {
        assert_eq!(clock_offset(1_000, 501_050, 1_100), 500_000);
        assert_eq!(clock_offset(501_000, 1_050, 501_100), -500_000);
    }
}

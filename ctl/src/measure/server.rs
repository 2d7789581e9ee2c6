//! The passive end: accepts runs from clients, any number after and beside each other.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::clock::{Clock, unix_us};
use super::control::{Channel, Heard};
use super::engine::{Engine, Seeds, Sockets};
use super::limits;
use super::live::Live;
use super::probe;
use super::wire::{MAX_CONNECTIONS, Plan, Preamble, Request, Response, Role, VERSION};

/// Time for each step of the agreement before a run.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Time for each connection of the crowd to come in.
const PER_CONNECTION: Duration = Duration::from_millis(10);

/// Runs at the same time; each costs some threads.
const MAX_SESSIONS: usize = 16;

/// Connections which have not yet said what they are for.
const MAX_STRANGERS: usize = 256;

/// `matctl measure server`
#[derive(Clone, Debug, clap::Args)]
pub struct ServerArgs {
    /// Address to listen on
    #[arg(long, value_name = "ADDR", default_value = "::")]
    pub bind: IpAddr,
    /// TCP and UDP port; 0 takes a free one
    #[arg(long, default_value_t = super::DEFAULT_PORT)]
    pub port: u16,
    /// Exit after the first run
    #[arg(long)]
    pub once: bool,
}

/// Serves until killed, or for one run with `--once`. Prints `listening on ADDR:PORT` first.
///
/// # Errors
/// When the address cannot be listened on.
pub fn run(args: ServerArgs) -> anyhow::Result<ExitCode> {
    let server = Server::bind(SocketAddr::new(args.bind, args.port))?;
    println!("listening on {}", server.address());
    server.serve(args.once)?;
    Ok(ExitCode::SUCCESS)
}

/// A bound server.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    // Holds the UDP port for the sessions' own sockets, which are bound beside it.
    _claim: UdpSocket,
}

impl Server {
    /// Binds TCP and UDP on the same port.
    ///
    /// # Errors
    /// Names the address and the mend when one of them is taken or not of this machine.
    pub fn bind(address: SocketAddr) -> anyhow::Result<Self> {
        let hint = |address: SocketAddr| {
            format!(
                "cannot listen on {address}: is the address on this machine, and is no other \
                 server on this port? (--bind, --port)"
            )
        };
        let listener = bind_tcp(address).with_context(|| hint(address))?;
        let address = listener.local_addr()?;
        let claim = bind_udp(address).with_context(|| hint(address))?;
        Ok(Self {
            listener,
            address,
            _claim: claim,
        })
    }

    /// Where it listens, with the port that was chosen if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts runs; returns after the first one if `once`.
    ///
    /// # Errors
    /// When the listening socket itself fails.
    pub fn serve(self, once: bool) -> anyhow::Result<()> {
        let desk = Arc::new(Desk::default());
        let (ended, end) = mpsc::sync_channel(1);
        let ended = once.then_some(ended);
        let listener = self.listener.try_clone()?;
        let acceptor = thread::spawn(move || accept(&listener, &desk, ended.as_ref()));
        if once && end.recv().is_ok() {
            return Ok(());
        }
        match acceptor.join() {
            Ok(error) => Err(error).context("the listening socket failed"),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// Where arriving connections meet the session they belong to.
#[derive(Debug, Default)]
struct Desk {
    sessions: Mutex<BTreeMap<u64, SyncSender<(Role, TcpStream)>>>,
}

impl Desk {
    fn sessions(&self) -> MutexGuard<'_, BTreeMap<u64, SyncSender<(Role, TcpStream)>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new session's inbox; `None` if the number is taken or there are too many.
    fn open(&self, session: u64) -> Option<Receiver<(Role, TcpStream)>> {
        let mut sessions = self.sessions();
        if sessions.len() >= MAX_SESSIONS || sessions.contains_key(&session) {
            return None;
        }
        let (inbox, arrivals) = mpsc::sync_channel(MAX_CONNECTIONS as usize + 2);
        sessions.insert(session, inbox);
        Some(arrivals)
    }

    fn close(&self, session: u64) {
        self.sessions().remove(&session);
    }

    fn deliver(&self, session: u64, role: Role, stream: TcpStream) {
        let inbox = self.sessions().get(&session).cloned();
        if let Some(inbox) = inbox {
            // The inbox has room for all that can be asked for. What does not fit, or comes when
            // the session has ended, is closed by this.
            let _ = inbox.try_send((role, stream));
        }
    }
}

/// Accepts until the listener fails.
fn accept(listener: &TcpListener, desk: &Arc<Desk>, ended: Option<&SyncSender<()>>) -> io::Error {
    let strangers = Arc::new(());
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(e) if matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                thread::sleep(Duration::from_millis(50));
                continue;
            }
            Err(e) => return e,
        };
        while Arc::strong_count(&strangers) > MAX_STRANGERS {
            thread::sleep(Duration::from_millis(5));
        }
        let (desk, ended, stranger) = (Arc::clone(desk), ended.cloned(), Arc::clone(&strangers));
        thread::spawn(move || {
            let preamble = greet(&stream);
            drop(stranger);
            let Some(Preamble { session, role }) = preamble else {
                return;
            };
            if role != Role::Control {
                return desk.deliver(session, role, stream);
            }
            match desk.open(session) {
                Some(arrivals) => {
                    if let Err(e) = serve_session(stream, session, &arrivals) {
                        eprintln!("measurement ended early: {e:#}");
                    }
                    desk.close(session);
                }
                None => refuse(stream, "the server is busy with other measurements"),
            }
            if let Some(ended) = ended {
                // Full or gone: somebody has said it already.
                let _ = ended.try_send(());
            }
        });
    }
}

fn greet(mut stream: &TcpStream) -> Option<Preamble> {
    stream.set_read_timeout(Some(HANDSHAKE)).ok()?;
    let mut bytes = [0; Preamble::LEN];
    stream.read_exact(&mut bytes).ok()?;
    Preamble::decode(&bytes)
}

fn refuse(stream: TcpStream, reason: &str) {
    let refusal = Response::Refused {
        reason: reason.to_owned(),
    };
    // The client sees the connection close even if it cannot be told why.
    let _ = Channel::new(stream, HANDSHAKE).and_then(|mut channel| channel.send(&refusal));
}

fn serve_session(
    stream: TcpStream,
    session: u64,
    arrivals: &Receiver<(Role, TcpStream)>,
) -> anyhow::Result<()> {
    let (local, peer) = (stream.local_addr()?, stream.peer_addr()?);
    let mut channel = Channel::new(stream, HANDSHAKE)?;
    let plan = match expect(&mut channel)? {
        Request::Hello { version, plan } => agree(version, plan),
        other => anyhow::bail!("expected Hello from {peer}, got {other:?}"),
    };
    let prepared = plan.and_then(|plan| {
        let udp_peer = SocketAddr::new(peer.ip(), plan.udp_port);
        let probe = session_udp(local, udp_peer).map_err(|e| format!("no UDP socket: {e}"))?;
        Ok((plan, probe))
    });
    let (plan, probe) = match prepared {
        Ok(prepared) => prepared,
        Err(reason) => {
            channel.send(&Response::Refused {
                reason: reason.clone(),
            })?;
            anyhow::bail!("refused {peer}: {reason}");
        }
    };
    channel.send(&Response::Ready { unix_us: unix_us() })?;
    let sockets = attach(&plan, probe, arrivals)?;
    channel.send(&Response::Attached)?;
    let Request::Go { zero_unix_us } = expect(&mut channel)? else {
        anyhow::bail!("expected Go from {peer}");
    };

    // A client whose idea of our clock is absurd gets an axis of its own.
    let now = unix_us();
    let plausible = zero_unix_us <= now && now - zero_unix_us < HANDSHAKE.as_micros() as u64;
    let zero = if plausible { zero_unix_us } else { now };
    let clock = Arc::new(Clock::new(zero, plan.duration_ms * 1000));
    let live = Arc::new(Live::default());
    let seeds = Seeds {
        sends: plan.seed_down,
        expects: plan.seed_up,
    };
    let engine = Engine::start(&plan, session, seeds, sockets, &clock, &live);
    let mut client_is_there = true;
    while !clock.is_over() {
        if !client_is_there {
            clock.end_now();
        } else {
            match channel.receive::<Request>(Duration::from_millis(20)) {
                Ok(Heard::Nothing) => {}
                Ok(Heard::Message(Request::Stop)) => clock.end_now(),
                Ok(Heard::Message(_) | Heard::Closed) | Err(_) => client_is_there = false,
            }
        }
    }
    let side = Box::new(engine.join());
    if client_is_there {
        channel.send(&Response::Result { side })?;
    }
    Ok(())
}

fn expect(channel: &mut Channel) -> anyhow::Result<Request> {
    match channel.receive(HANDSHAKE)? {
        Heard::Message(request) => Ok(request),
        Heard::Nothing => anyhow::bail!("the client said nothing for {} s", HANDSHAKE.as_secs()),
        Heard::Closed => anyhow::bail!("the client went away"),
    }
}

fn agree(version: u32, plan: Plan) -> Result<Plan, String> {
    if version != VERSION {
        return Err(format!(
            "client speaks version {version}, server {VERSION}: use the same matctl on both ends"
        ));
    }
    plan.check()?;
    limits::allow_connections(plan.connections)?;
    Ok(plan)
}

/// Collects the data connections of the plan.
fn attach(
    plan: &Plan,
    probe: UdpSocket,
    arrivals: &Receiver<(Role, TcpStream)>,
) -> anyhow::Result<Sockets> {
    let patience = HANDSHAKE + PER_CONNECTION * plan.connections;
    let deadline = Instant::now() + patience;
    let mut up = None;
    let mut down = None;
    let mut crowd: BTreeMap<u32, TcpStream> = BTreeMap::new();
    loop {
        let complete = crowd.len() == plan.connections as usize;
        match (up.take(), down.take()) {
            (Some(incoming), Some(outgoing)) if complete => {
                return Ok(Sockets {
                    incoming,
                    outgoing: Arc::new(outgoing),
                    probe,
                    crowd: crowd.into_values().collect(),
                });
            }
            incomplete => (up, down) = incomplete,
        }
        let left = deadline.saturating_duration_since(Instant::now());
        match arrivals.recv_timeout(left) {
            Ok((Role::Up, stream)) => up = Some(stream),
            Ok((Role::Down, stream)) => down = Some(stream),
            Ok((Role::Member(index), stream)) if index < plan.connections => {
                crowd.insert(index, stream);
            }
            Ok(_) => {}
            Err(_) => anyhow::bail!(
                "{} of {} connections came in {} s",
                crowd.len() + usize::from(up.is_some()) + usize::from(down.is_some()),
                plan.connections + 2,
                patience.as_secs()
            ),
        }
    }
}

/// A UDP socket of one session: on the server's port, for one peer. The kernel gives a datagram
/// to the socket that is connected to its sender, so sessions do not mix.
fn session_udp(local: SocketAddr, peer: SocketAddr) -> io::Result<UdpSocket> {
    let socket = bind_udp(local)?;
    socket.connect(peer)?;
    probe::configure(&socket)?;
    Ok(socket)
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    // A crowd that comes faster than it is let in would else wait for lost SYNs.
    socket.listen(MAX_CONNECTIONS as i32)?;
    Ok(socket.into())
}

fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

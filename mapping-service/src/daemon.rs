//! mat-mapd from start to end: configuration, journal, sockets, signals.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use futures_util::future::join_all;
use hickory_proto::rr::RecordType;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{setsockopt, sockopt};
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::clock::unix_now;
use crate::config::Config;
use crate::dnssec::Signer;
use crate::journal::{Entry, Journal};
use crate::metrics;
use crate::notify::Teller;
use crate::past::{self, Past};
use crate::push::{self, Push};
use crate::replay::Memory;
use crate::server::cookie::Secrets;
use crate::server::counters::Counters;
use crate::server::tcp::{CONNECTIONS, Door, PER_CLIENT, SESSIONS, Tcp};
use crate::server::tls::Certificate;
use crate::server::udp::Udp;
use crate::server::{Handler, InForce, KeyRing};
use crate::writer::{self, QUEUE, Shared};
use crate::zone::{Apex, View as _, Zone};

/// A datagram takes up to 1 KiB of it, however short it is.
const RECEIVE_BUFFER: usize = 8 << 20;

/// How often the threads are looked at, which end only if something is wrong.
const LOOK: Duration = Duration::from_secs(1);

/// How often the counters are logged, if any has changed.
const REPORT: Duration = Duration::from_secs(60);

/// Serves until SIGTERM or SIGINT.
pub async fn serve(path: &Path) -> anyhow::Result<()> {
    let config = Config::load(path)?;
    let descriptors = allow_descriptors();
    // Before the journal: a second mat-mapd on the same address ends here.
    let mut sockets = Vec::new();
    for address in &config.listen {
        sockets.push(bind(*address).await?);
    }
    let mut tls_listeners = Vec::new();
    if let Some(tls) = &config.tls {
        for address in &tls.listen {
            let listener = TcpListener::bind(address).await;
            let listener = listener.map_err(|e| anyhow!(explain(*address, "TLS", &e)))?;
            tls_listeners.push((listener, tls));
        }
    }
    let metrics = match config.metrics_listen {
        Some(address) => Some(metrics::listen(address).await.map_err(|e| anyhow!(e))?),
        None => None,
    };
    let Recovered {
        zone,
        replay,
        past,
        journal,
    } = recover(&config)?;
    let shared = Arc::new(Shared::new(zone, replay, past));

    let (queue, jobs) = mpsc::channel(QUEUE);
    let (ended, mut writer_ended) = oneshot::channel::<()>();
    let writer = std::thread::Builder::new()
        .name("writer".to_owned())
        .spawn({
            let shared = shared.clone();
            let orders = queue.downgrade();
            move || {
                // Dropped at the end of the thread, however it comes.
                let _ended = ended;
                writer::run(&shared, journal, (orders, jobs), unix_now);
            }
        })?;

    let own = Secrets::random().context("no random numbers")?;
    let keys = Arc::new(KeyRing::new(in_force(&config, &own, &config.apex)));
    let counters = Arc::new(Counters::default());
    let push = Push::new(shared.clone());
    let handler = Handler::new(
        shared.clone(),
        keys.clone(),
        queue,
        counters.clone(),
        push.clone(),
    );
    let handler = Arc::new(handler);
    let certificate = config.tls.as_ref().map(|tls| tls.config.clone());
    let certificate = certificate.map(|config| Arc::new(Certificate::new(config)));
    // The rest is for files and whoever reads the metrics.
    let share = |part: usize, doors: usize| descriptors / 20 * part / doors.max(1);
    let connections = CONNECTIONS.min(share(4, sockets.len()));
    let sessions = SESSIONS.min(share(15, tls_listeners.len()));
    let (mut ports, mut listeners) = (Vec::new(), Vec::new());
    for (udp, tcp) in sockets {
        tracing::info!(address = %tcp.local_addr()?, "listening");
        ports.push(Udp::start(udp, handler.clone())?);
        let door = Door {
            handler: handler.clone(),
            certificate: None,
            at_most: connections,
            per_client: PER_CLIENT,
        };
        listeners.push(Tcp::start(tcp, door));
    }
    for (listener, tls) in tls_listeners {
        tracing::info!(address = %listener.local_addr()?, "listening, TLS");
        let door = Door {
            handler: handler.clone(),
            certificate: certificate.clone(),
            at_most: sessions,
            per_client: tls.connections_per_client,
        };
        listeners.push(Tcp::start(listener, door));
    }
    if let Some(listener) = metrics {
        tracing::info!(address = %listener.local_addr()?, "metrics");
        let serving = metrics::serve(listener, shared.clone(), counters.clone(), push.clone());
        tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "metrics are no longer served");
            }
        });
    }
    // A limit on the size of files is an error of the write then, as a full disk is.
    let _too_large = signal(SignalKind::from_raw(nix::libc::SIGXFSZ))?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (bindings, others) = shared.read(Zone::count);
    tracing::info!(
        zone = %config.apex.origin, bindings, others, serial = shared.read(Zone::serial),
        keys = config.keys.len(), "ready"
    );
    tell(NotifyState::Ready);
    drop(handler);
    let teller = Teller {
        shared,
        keys: keys.clone(),
        counters: counters.clone(),
        listen: config.listen.clone(),
    };
    // Dropped at the end, and ends with it.
    let mut tellers = JoinSet::new();
    tellers.spawn(push::deliver(push));
    for secondary in &config.notify {
        tellers.spawn(teller.clone().run(secondary.clone()));
    }

    let mut report = tokio::time::interval(REPORT);
    let mut look = tokio::time::interval(LOOK);
    let mut reported = String::new();
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => reload(path, &config, &keys, &own, certificate.as_deref()),
            _ = report.tick() => {
                let now = counters.to_string();
                if now != reported {
                    tracing::info!("{now}");
                    reported = now;
                }
            }
            _ = look.tick() => {
                if ports.iter().any(Udp::has_ended) || listeners.iter().any(Tcp::has_ended) {
                    break;
                }
            }
            _ = &mut writer_ended => bail!("the writer ended unexpectedly"),
        }
    }
    tell(NotifyState::Stopping);
    for port in ports {
        port.stop().context("a UDP socket failed")?;
    }
    join_all(listeners.into_iter().map(Tcp::stop)).await;
    // With them goes the queue's last sender: the writer finishes what is queued and ends.
    let joined = tokio::task::spawn_blocking(move || writer.join()).await?;
    if joined.is_err() {
        bail!("the writer panicked");
    }
    tracing::info!("stopped; {counters}");
    Ok(())
}

/// What a start finds.
pub(crate) struct Recovered {
    /// The zone as the journal has it, under the apex of the configuration.
    pub(crate) zone: Zone,
    /// What is remembered of signed updates.
    pub(crate) replay: Memory,
    /// The latest changes.
    pub(crate) past: Past,
    pub(crate) journal: Journal,
}

/// Reads the journal.
pub(crate) fn recover(config: &Config) -> anyhow::Result<Recovered> {
    let mut zone = Zone::new(&config.apex);
    let mut replay = Memory::default();
    let mut past = Past::default();
    let now = unix_now();
    let (dir, origin) = (&config.data_dir, &config.apex.origin);
    let (mut journal, recovered) =
        Journal::open(dir, origin, |Entry { change, receipt }, left| {
            if let Some(receipt) = receipt {
                replay.restore(&receipt, now);
                if left < past::TAIL {
                    for (owner, whose, is) in past::bindings_in(&change, origin) {
                        let was = zone.set(owner, RecordType::SVCB);
                        let step = past::journaled(whose, &receipt, was, is);
                        step.into_iter().for_each(|step| past.note(step));
                    }
                }
            }
            zone.apply(change);
        })?;
    if recovered.torn > 0 {
        tracing::warn!(
            kept_entries = recovered.entries,
            kept_bytes = journal.size(),
            cut_bytes = recovered.torn,
            "the journal's end is not whole: a change that was never acknowledged, unless the disk has damaged it; cut off, kept aside as journal.torn"
        );
    }
    let change = zone.reconfigure(&config.apex);
    if !change.is_empty() {
        journal.append(&[Entry::from(change.clone())])?;
        zone.apply(change);
    }
    Ok(Recovered {
        zone,
        replay,
        past,
        journal,
    })
}

/// The same port for UDP and TCP, also if it is 0 (any).
async fn bind(address: SocketAddr) -> anyhow::Result<(UdpSocket, TcpListener)> {
    let mut last = String::new();
    for _ in 0..16 {
        let tcp = TcpListener::bind(address)
            .await
            .map_err(|error| anyhow!(explain(address, "TCP", &error)))?;
        match UdpSocket::bind(tcp.local_addr()?) {
            Ok(udp) => {
                widen(&udp);
                return Ok((udp, tcp));
            }
            Err(error) => last = explain(address, "UDP", &error),
        }
        if address.port() != 0 {
            break;
        }
    }
    bail!(last)
}

fn explain(address: SocketAddr, what: &str, error: &io::Error) -> String {
    let key = match what {
        "TLS" => "tls.listen",
        _ => "listen",
    };
    let mend = match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("another program has it (see `ss -lnptu`); stop that one or change `{key}`")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("this machine does not have that address; change `{key}` or add it")
        }
        io::ErrorKind::PermissionDenied => {
            format!("ports below 1024 need CAP_NET_BIND_SERVICE; start as root or change `{key}`")
        }
        _ => format!("change `{key}`"),
    };
    format!("cannot listen on {address} ({what}): {error}; {mend}")
}

/// A connection takes a descriptor, and what a service is given at first is for those who use
/// select(2). How many there may be.
fn allow_descriptors() -> usize {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit on open files stays as it is");
    }
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(now, _)| now);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// Room for as many updates as the writer takes, beside questions: what is lost is sent again
/// after seconds only. Without the right to it, there is as much as the system allows.
fn widen(socket: &UdpSocket) {
    let forced = setsockopt(socket, sockopt::RcvBufForce, &RECEIVE_BUFFER);
    if forced.is_err() {
        // At worst it stays as it is.
        let _ = setsockopt(socket, sockopt::RcvBuf, &RECEIVE_BUFFER);
    }
}

/// What of TLS cannot change.
fn tls_doors(config: &Config) -> Option<(&[SocketAddr], usize)> {
    let tls = config.tls.as_ref()?;
    Some((&tls.listen, tls.connections_per_client))
}

/// What `config` says about those who ask for the zone of this `apex`; its cookies are made with an
/// `own` secret unless it names one.
fn in_force(config: &Config, own: &Secrets, apex: &Apex) -> InForce {
    InForce {
        keys: config.keys.clone(),
        private: config.private.clone(),
        cookies: config.cookies.as_ref().unwrap_or(own).clone(),
        responses_per_second: config.responses_per_second,
        signer: config.dnssec.clone().map(|key| Signer::new(key, apex)),
    }
}

fn reload(
    path: &Path,
    running: &Config,
    keys: &KeyRing,
    own: &Secrets,
    certificate: Option<&Certificate>,
) {
    match Config::load(path) {
        Ok(new) => {
            if new.listen != running.listen
                || new.metrics_listen != running.metrics_listen
                || new.data_dir != running.data_dir
                || new.apex.origin != running.apex.origin
                || new.notify != running.notify
                || tls_doors(&new) != tls_doors(running)
            {
                tracing::warn!(
                    "zone, listen, tls (but for the certificate), metrics_listen, data_dir and notify change at the next start only"
                );
            }
            keys.set(in_force(&new, own, &running.apex));
            if let (Some(certificate), Some(tls)) = (certificate, &new.tls) {
                certificate.set(tls.config.clone());
            }
            tracing::info!(
                keys = new.keys.len(),
                "keys, policies and certificate reloaded"
            );
        }
        Err(error) => tracing::error!(%error, "not reloaded; the old keys and policies stay"),
    }
}

fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "the service manager could not be notified");
    }
}

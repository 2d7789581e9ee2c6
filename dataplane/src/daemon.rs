//! `matd`: puts the parts together, in the order in which nothing is lost.
//!
//! State is loaded and homes are served again *before* kernel state is brought
//! in line with it, so that a restart neither opens a gap nor leaks a packet.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use mat_proto::Home;
use nix::net::if_::if_nametoindex;
use tokio::signal::unix::{SignalKind, signal};

use crate::agent::{Agent, AgentConfig, Attach, Limits, Link, Output, Snapshot};
use crate::config::{self, Config, OnIsolation, Placement};
use crate::io::api::PairDuty;
use crate::io::control::{Control, Parts};
use crate::io::directory::Directory;
use crate::io::engine::{self, Clock, Engine, Joins};
use crate::io::inherit::Inherited;
use crate::io::pair::Pair;
use crate::io::server::Server;
use crate::io::steering::{Attachment, Claims, Steering};
use crate::io::tun::{Tun, TunError};
use crate::io::{api, metrics, netlink, service, state};
use crate::pair::Judge;
use crate::upgrade::{Failure, Legacy, Program, unblock_signals};

mod standby;
mod told;

use standby::Turn;

const STATE_FILE: &str = "state.json";
/// What the other gateway knew, or this one when it was relieved.
const COPY_FILE: &str = "standby.json";
/// What the zone said of its prefixes.
const TOLD_FILE: &str = "prefixes.json";

/// Runs the forwarder until SIGTERM or SIGINT. SIGHUP reloads the configuration,
/// SIGUSR2 replaces the program by its successor ([`crate::upgrade`]). To be
/// called on the main thread.
///
/// Homes that are attached stay attached: their kernel state and the state file
/// are kept, so that a restart loses no connection. With no home attached
/// everything is removed.
pub async fn run(path: &Path, inherited: Inherited) -> anyhow::Result<()> {
    let program = Program::running().context("where is this program?")?;
    let state_dir = state::StateDir::open(&Config::load(path, None)?.state_dir)?;
    let told_file = state_dir.file(TOLD_FILE);
    let config = told::at_start(path, &told_file).await?;
    let state_file = state_dir.file(STATE_FILE);
    let legacy = inherited.state.and_then(Legacy::take_up);
    // Before anything in the kernel is touched, since it can fail.
    let listener = api::listen(&config.control_socket, inherited.control);
    let listener = listener.map_err(|e| anyhow!(e))?;
    let mut pair = None;
    if let Some(other) = &config.pair {
        let copy = state_dir.file(COPY_FILE);
        let (was, resumes) = (state_file.exists(), legacy.is_some());
        let one = start_pair(&config, other, was, resumes, copy.clone())?;
        let (source, files) = ((path, &config), (&*state_file, &*copy));
        match standby::wait(source, &program, &one, &listener, files).await? {
            Turn::OnDuty => pair = Some(one),
            Turn::Again => return Err(program.again(listener.into()).into()),
            Turn::End => {
                let _ = std::fs::remove_file(&config.control_socket);
                return Ok(());
            }
        }
    }
    let legacy = match legacy {
        Some(legacy) => legacy,
        None => Legacy::old(state::load(&state_file)?.unwrap_or_default()),
    };
    let metrics = match config.metrics_listen {
        Some(address) => Some(metrics::listen(address).await.map_err(|e| anyhow!(e))?),
        None => None,
    };
    let past = Past {
        program: program.clone(),
        legacy,
        state_file,
        told_file,
        tun: inherited.tun,
        metrics,
        program_before: inherited.program,
    };
    let ended = forward(path, &config, past, listener.try_clone()?, pair).await;
    if let Ok(End::Relieved) = ended {
        // Nothing of what it was is to be left in the one that stands by.
        return Err(program.again(listener.into()).into());
    }
    // A dead socket misleads people.
    let _ = std::fs::remove_file(&config.control_socket);
    ended.map(drop)
}

/// Why a forwarder has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Somebody wants that.
    Asked,
    /// The other gateway is on duty now.
    Relieved,
}

/// Finds out which of the two gateways is on duty. `was`: this one was, in its last life;
/// `resumes`: a moment ago.
fn start_pair(
    config: &Config,
    pair: &config::Pair,
    was: bool,
    resumes: bool,
    copy: PathBuf,
) -> anyhow::Result<Pair> {
    let clock = Clock::start();
    let ids = (pair.home, pair.locator);
    let lease = config.mapping.lease_s;
    let mut judge = Judge::new(clock.now(), ids, config.control_port, lease, was);
    if resumes {
        judge.resume();
    }
    let directory = Directory::new(config)?;
    Ok(Pair::start(pair, directory, clock, judge, copy))
}

/// What a forwarder begins with, beside its configuration.
struct Past {
    program: Program,
    legacy: Legacy,
    state_file: PathBuf,
    told_file: PathBuf,
    /// A descriptor that may be our TUN.
    tun: Option<OwnedFd>,
    /// Where metrics are served beside the control socket.
    metrics: Option<tokio::net::TcpListener>,
    /// See [`Inherited::program`].
    program_before: Option<OwnedFd>,
}

async fn forward(
    path: &Path,
    config: &Config,
    mut past: Past,
    listener: UnixListener,
    pair: Option<Pair>,
) -> anyhow::Result<End> {
    let tun_is_new = if_nametoindex(config.tun.name.as_str()).is_err();
    let queues = open_queues(config, past.tun)?;
    let joins = joins(config, queues.first().is_some_and(Tun::vnet));
    let described = describe(&queues, joins);
    tracing::info!("{described}");
    // Stays open when the data thread ends.
    let open_tun = queues[0].as_fd().try_clone_to_owned()?;
    service::keep(open_tun.as_fd());
    let directory = Directory::new(config)?;

    let clock = Clock::start();
    let mut agent = Agent::new(agent_config(config), clock.now(), entropy);
    let snapshot = std::mem::take(&mut past.legacy.snapshot);
    let attached: Vec<_> = snapshot
        .homes
        .iter()
        .map(|h| (h.home, h.link.clone()))
        .collect();
    agent.restore(clock.now(), snapshot);
    if past.legacy.pause().is_some() {
        // A moment ago whatever is there now was connected.
        for (home, link) in &attached {
            let interface = link.as_ref().map(|link| link.interface.as_str());
            let there = interface.is_none_or(|name| if_nametoindex(name).is_ok());
            agent.link_ready(clock.now(), *home, there);
        }
    }
    let (claims, pending) = claims(&mut agent, config, &attached)?;
    let (steering, running) = if tun_is_new {
        let mut steering = match Steering::up(config, &config.tun.name).await {
            Ok(steering) => steering,
            Err(error) => {
                drop((queues, open_tun));
                service::forget();
                // The first failure is the one worth reporting.
                let _ = Tun::destroy(&config.tun.name);
                return Err(error.into());
            }
        };
        steering.reconcile(&claims).await?;
        (steering, engine::start(queues, joins, agent, clock)?)
    } else {
        // The kernel leads packets into the device already, and they wait.
        let running = engine::start(queues, joins, agent, clock)?;
        if let Some(pause) = past.legacy.pause() {
            tracing::info!("took over; the TUN was not read for {pause:.1?}");
        }
        let mut steering = Steering::up(config, &config.tun.name).await?;
        steering.reconcile(&claims).await?;
        (steering, running)
    };
    let Engine {
        handle: engine,
        wants,
        thread,
        gauges,
    } = running;
    let pairs = claims.pairs;
    let steered = move |agent: &mut Agent, now| {
        for (peer, own) in pairs {
            agent.handle_steered(now, peer, own);
        }
    };
    engine.call(steered).await?;
    let parts = Parts {
        engine: engine.clone(),
        directory,
        steering,
        gauges,
        state_file: past.state_file.clone(),
        replica: pair.as_ref().map(Pair::replica),
    };
    let control = Control::new(parts, config);
    let runner = tokio::spawn(Arc::clone(&control).run(wants));
    for output in pending {
        control.again(output);
    }
    if let Some(pair) = &pair {
        let (control, replica) = (Arc::clone(&control), pair.replica());
        tokio::spawn(async move {
            loop {
                // For a while both may have thought that they were on duty.
                replica.met().await;
                control.announce_all().await;
            }
        });
    }
    let events = netlink::watch().await?;
    tokio::spawn(Arc::clone(&control).follow(events));
    let keeper = tokio::spawn(Arc::clone(&control).keep_state());
    for (home, link) in &attached {
        if let Err(error) = control.plug_in(*home, link.as_ref()).await {
            tracing::error!("{home}: {error}");
        }
    }
    attach_static(&control, config).await;

    if pair.is_some() {
        // Whoever follows is told.
        control.save_soon();
    }
    let identity = identity(config, described, pair.as_ref().map(|_| PairDuty::Active));
    if let Some(listener) = past.metrics.take() {
        let control = Arc::clone(&control);
        tokio::spawn(async move {
            if let Err(error) = metrics::serve(listener, control).await {
                tracing::error!("metrics are no longer served: {error}");
            }
        });
    }
    let server = Server::start(listener, api::router(Arc::clone(&control), identity))?;
    tracing::info!(
        "site {} ready, control socket {}",
        config.site,
        config.control_socket.display()
    );
    service::ready();
    drop(past.program_before);

    let mut running = Running {
        path,
        config,
        told_file: &past.told_file,
        program: past.program,
        tun: open_tun,
        control: Arc::clone(&control),
        server,
    };
    let ended = running.wait_for_end(thread, pair.as_ref()).await;
    service::stopping();
    control.leave();
    running.server.stop();
    keeper.abort();
    let last = engine.call(|agent, _| agent.snapshot()).await.ok();
    engine.stop();
    // The data thread's end closes its channel, which ends the runner.
    let _ = tokio::time::timeout(Duration::from_secs(2), runner).await;
    let Some(last) = last else {
        // The data thread has died: as after a kill, the next start takes it up.
        return ended;
    };
    let hands_over = pair.as_ref().is_some_and(Pair::can_be_relieved);
    if hands_over || matches!(ended, Ok(End::Relieved)) {
        control.store(&last);
        // Nothing here is to answer for the site.
        let nothing = Claims::default();
        let removed = control.steering.lock().await.down(&nothing).await;
        standby::lay_aside(&past.state_file)?;
        service::forget();
        if let (Ok(End::Asked), Some(pair)) = (&ended, pair) {
            pair.hand_over().await;
            tracing::info!("stopped; the other gateway takes over");
        }
        // Which is no reason to keep the other one waiting.
        removed?;
        return ended;
    }
    let keep = kept(&control, &last).await;
    let kept = last.homes.len();
    if kept == 0 {
        state::remove(&past.state_file)?;
        // Kept open, the device would outlive its removal.
        service::forget();
    } else {
        control.store(&last);
        tracing::info!(
            "stopped; routes, rules, settings and TUN stay for {kept} attached home(s): start matd again, \
             or remove them with \"matd cleanup\""
        );
    }
    control.steering.lock().await.down(&keep).await?;
    ended
}

/// All queues of the device; the first is the one that was handed to us, if it can be
/// used. There is at least one.
fn open_queues(config: &Config, inherited: Option<OwnedFd>) -> Result<Vec<Tun>, TunError> {
    let mut queues = Vec::new();
    if let Some(descriptor) = inherited {
        match Tun::adopt(descriptor, &config.tun) {
            Ok(tun) => queues.push(tun),
            Err(error) => {
                tracing::warn!("{error}; closed, and the device opened anew");
                // As long as somebody else has it open too, it is busy.
                service::forget();
            }
        }
    }
    while queues.len() < config.tun.queues.max(1) {
        queues.push(Tun::open(&config.tun)?);
    }
    Ok(queues)
}

/// What the packet path joins.
fn joins(config: &Config, vnet: bool) -> Joins {
    match (config.tun.coalesce, vnet, config.placement) {
        (true, true, _) => Joins::ALL,
        (true, false, Placement::Guest) => Joins::PLAIN_GUEST,
        (true, false, Placement::Gateway) | (false, ..) => Joins::NONE,
    }
}

/// Removes everything a forwarder with this configuration left: for when it
/// will not be started again.
pub async fn cleanup(path: &Path) -> anyhow::Result<()> {
    let state_dir = state::StateDir::open(&Config::load(path, None)?.state_dir)?;
    let told_file = state_dir.file(TOLD_FILE);
    let config = told::last(path, &told_file)?;
    // Busy: its owner is alive.
    drop(Tun::open(&config.tun)?);
    let mut steering = Steering::take(&config, &config.tun.name).await?;
    steering.down(&Claims::default()).await?;
    state::remove(&state_dir.file(STATE_FILE))?;
    state::remove(&told_file)?;
    println!(
        "removed TUN {}, its routes and rules, and the state; settings are as they were",
        config.tun.name
    );
    Ok(())
}

/// A forwarder at work.
struct Running<'a> {
    path: &'a Path,
    config: &'a Config,
    told_file: &'a Path,
    program: Program,
    tun: OwnedFd,
    control: Arc<Control>,
    server: Server,
}

impl Running<'_> {
    async fn wait_for_end(
        &mut self,
        thread: std::thread::JoinHandle<std::io::Result<()>>,
        pair: Option<&Pair>,
    ) -> anyhow::Result<End> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut upgrade = signal(SignalKind::user_defined2())?;
        unblock_signals()?;
        let (sender, mut data_thread) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || sender.send(thread.join()));
        let mut relieved = pin!(standby::relieved(pair));
        let follower = told::Follower::new(self.path, self.told_file);
        let mut told = pin!(follower.changed());
        loop {
            tokio::select! {
                _ = terminate.recv() => return Ok(End::Asked),
                _ = interrupt.recv() => return Ok(End::Asked),
                () = &mut relieved => return Ok(End::Relieved),
                _ = hangup.recv() => if self.reload("configuration reloaded").await {
                    told.set(follower.changed());
                },
                new = &mut told => {
                    if !self.reload("the zone says other prefixes: taken up").await {
                        follower.refuse(new);
                    }
                    told.set(follower.changed());
                }
                _ = upgrade.recv() => tokio::select! {
                    _ = terminate.recv() => return Ok(End::Asked),
                    _ = interrupt.recv() => return Ok(End::Asked),
                    ended = self.upgrade() => ended?,
                },
                ended = &mut data_thread => match ended {
                    Ok(Ok(Err(error))) => return Err(error).context("the TUN cannot be read"),
                    Ok(Ok(Ok(()))) => return Ok(End::Asked),
                    _ => bail!("the data thread panicked"),
                },
            }
        }
    }

    /// Whether the configuration is taken up.
    async fn reload(&self, done: &str) -> bool {
        let reloaded = async {
            let config = told::anew(self.path, self.told_file).await?;
            let outside = reload(self.path, self.config, &config, &self.control).await?;
            Ok::<_, anyhow::Error>((config, outside))
        };
        match reloaded.await {
            Ok((config, outside)) => {
                let (homes, locators) = (config.homes.prefixes, config.locators.prefixes);
                tracing::info!(?homes, ?locators, "{done}");
                for home in outside {
                    tracing::warn!(
                        "{home} is attached here and in none of these home prefixes: nothing of \
                         it is forwarded until its prefix is back"
                    );
                }
                true
            }
            Err(error) => {
                tracing::error!("configuration not reloaded: {error:#}");
                false
            }
        }
    }

    /// Returns if the upgrade is refused; fails if the data thread has ended.
    async fn upgrade(&mut self) -> anyhow::Result<()> {
        let tun = self.tun.try_clone()?;
        let Running {
            path,
            program,
            control,
            server,
            ..
        } = self;
        match program.upgrade(path, tun, control, server).await {
            Failure::Before(error) => {
                tracing::error!("not upgraded: {error:#}");
                service::ready();
                Ok(())
            }
            Failure::Ended(error) => Err(error),
        }
    }
}

/// Goes on with `config`, which is what is at `path` now. Homes attached here that it leaves out are
/// in the list.
async fn reload(
    path: &Path,
    running: &Config,
    config: &Config,
    control: &Arc<Control>,
) -> anyhow::Result<Vec<Home>> {
    let fixed = [
        ("site", config.site != running.site),
        ("placement", config.placement != running.placement),
        ("uplink", config.uplink != running.uplink),
        (
            "control_socket",
            config.control_socket != running.control_socket,
        ),
        ("state_dir", config.state_dir != running.state_dir),
        ("pair", config.pair != running.pair),
        ("control_port", config.control_port != running.control_port),
        ("tun", config.tun != running.tun),
        (
            "metrics_listen",
            config.metrics_listen != running.metrics_listen,
        ),
        (
            "limits.contexts",
            config.limits.contexts != running.limits.contexts,
        ),
        (
            "locators.exclusive",
            config.locators.exclusive != running.locators.exclusive,
        ),
    ];
    if let Some((key, _)) = fixed.iter().find(|(_, changed)| *changed) {
        bail!(
            "{}: {key} cannot change while matd runs; restart it",
            path.display()
        );
    }
    let directory = Directory::new(config)?;
    control.reconfigure(config).await?;
    control.set_directory(directory);
    let agent_config = agent_config(config);
    let engine = control.engine();
    let outside = engine.call(move |agent, now| agent.reconfigure(now, agent_config));
    let outside = outside.await?;
    attach_static(control, config).await;
    Ok(outside)
}

/// Attaches what the configuration names and is not attached yet.
async fn attach_static(control: &Arc<Control>, config: &Config) {
    for instance in &config.instances {
        let home = instance.home;
        let link = instance.interface.clone().map(|interface| Link {
            interface,
            mac: instance.mac.map(|mac| mac.to_string()),
        });
        let request = Attach {
            home,
            claim: true,
            link: link.clone(),
            ready: false,
            contexts: Vec::new(),
            binding: None,
        };
        let engine = control.engine();
        let attached = engine.call(move |agent, now| match agent.own_status(home) {
            Some(_) => Ok(false),
            None => agent.attach(now, request).map(|()| true),
        });
        match attached.await {
            Ok(Ok(true)) => {
                if let Err(error) = control.plug_in(home, link.as_ref()).await {
                    tracing::error!("[[instance]] {home}: {error}");
                }
            }
            Ok(Ok(false)) | Err(_) => {}
            Ok(Err(error)) => tracing::error!("[[instance]] {home}: {error}"),
        }
    }
}

/// What the restored agent needs from the kernel, and what it wants besides.
fn claims(
    agent: &mut Agent,
    config: &Config,
    attached: &[(mat_proto::Home, Option<Link>)],
) -> anyhow::Result<(Claims, Vec<Output>)> {
    let mut claims = Claims::default();
    for (home, link) in attached {
        match (config.placement, link) {
            (Placement::Guest, _) => {
                claims.homes.insert(*home);
            }
            (Placement::Gateway, Some(link)) => {
                let mac = link.mac.as_deref().map(str::parse).transpose();
                claims.attachments.insert(Attachment {
                    home: *home,
                    interface: link.interface.clone(),
                    mac: mac.with_context(|| format!("state of {home}"))?,
                });
            }
            (Placement::Gateway, None) => {}
        }
    }
    let mut pending = Vec::new();
    while let Some(output) = agent.poll_output() {
        match output {
            Output::AddLocator(locator) => {
                claims.locators.insert(locator);
            }
            Output::Steer(peer, own) => {
                claims.pairs.insert((peer, own));
            }
            other => pending.push(other),
        }
    }
    Ok((claims, pending))
}

/// The claims that outlive this process: those of settled homes.
async fn kept(control: &Control, last: &Snapshot) -> Claims {
    let mut keep = control.steering.lock().await.claims().clone();
    let homes: Vec<_> = last.homes.iter().map(|h| h.home).collect();
    let locators: Vec<_> = last.homes.iter().flat_map(|h| h.reserved.clone()).collect();
    keep.locators.retain(|l| locators.contains(l));
    keep.attachments.retain(|a| homes.contains(&a.home));
    keep.homes.retain(|h| homes.contains(h));
    if homes.is_empty() {
        keep.pairs.clear();
    }
    keep
}

/// Who this is; `duty` of one of two gateways.
fn identity(config: &Config, path: String, duty: Option<PairDuty>) -> api::Identity {
    api::Identity {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        site: config.site.clone(),
        placement: match config.placement {
            Placement::Gateway => "gateway".to_owned(),
            Placement::Guest => "guest".to_owned(),
        },
        path,
        trust: config.mapping.trust().to_string(),
        pid: std::process::id(),
        duty,
        pair: config.pair.as_ref().map(|pair| pair.home),
    }
}

/// One line: which packet path is active.
fn describe(queues: &[Tun], joins: Joins) -> String {
    let path = queues.first().map(Tun::describe).unwrap_or_default();
    let joined = match joins {
        Joins::ALL => ", small packets joined",
        Joins::PLAIN_GUEST => ", TCP to this host joined",
        _ => "",
    };
    match queues.len() {
        1 => format!("{path}{joined}"),
        n => format!("{path}{joined}, {n} queues"),
    }
}

fn agent_config(config: &Config) -> AgentConfig {
    let limits = &config.limits;
    let poll = Duration::from_millis(config.mapping.poll_ms);
    AgentConfig {
        homes: config.homes.prefixes.clone(),
        locators: config.locators.prefixes.clone(),
        pool: config.locators.pool.clone(),
        exclusive: config.locators.exclusive,
        control_port: config.control_port,
        lease_seconds: config.mapping.lease_s,
        poll,
        stop_after: match config.mapping.on_isolation {
            OnIsolation::Serve => None,
            // What stands for an answer may be so old.
            OnIsolation::StopAfter(time) if config.mapping.is_pushed() => Some(time - poll),
            OnIsolation::StopAfter(time) => Some(time),
        },
        zoning: config.mapping.zoning(),
        grace: Duration::from_millis(limits.grace_ms),
        limits: Limits {
            contexts: limits.contexts,
            hold_bytes_per_home: limits.hold_bytes_per_home,
            hold_bytes_total: limits.hold_bytes_total,
            hold_age: Duration::from_millis(limits.hold_ms),
            quarantine: Duration::from_secs(limits.quarantine_extra_s),
            ..Limits::default()
        },
    }
}

/// Tokens are made of the system's randomness; without it nothing is safe.
fn entropy(buffer: &mut [u8]) {
    getrandom::fill(buffer).expect("the kernel's random number generator works");
}

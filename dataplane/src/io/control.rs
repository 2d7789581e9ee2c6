//! The control plane: does for the agent what takes time.
//!
//! Look-ups and updates run side by side; kernel state is changed by one task,
//! strictly in the order the agent asked for it.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as SyncMutex, RwLock};
use std::time::Duration;

use mat_proto::{Home, Locator};
use tokio::net::UdpSocket;
use tokio::sync::{Mutex, MutexGuard, Notify, mpsc, oneshot};
use tokio::task::JoinHandle;

use super::directory::Directory;
use super::engine::{EngineHandle, Gauges};
use super::netlink::NetEvent;
use super::pair::Replica;
use super::state;
use super::steering::{Attached, Attachment, Steering, SteeringError};
use crate::agent::{Activated, Link, OpError, Output, Snapshot};
use crate::config::Placement;

/// State is written at most this often: a burst of new contexts makes one file.
const STATE_INTERVAL: Duration = Duration::from_millis(50);

type Waiter = oneshot::Sender<Result<Activated, OpError>>;

/// Everything but the data thread.
pub struct Control {
    engine: EngineHandle,
    directory: RwLock<Arc<Directory>>,
    /// All kernel state.
    pub steering: Mutex<Steering>,
    placement: Placement,
    uplink: String,
    control_port: u16,
    exclusive: bool,
    waiters: SyncMutex<HashMap<Home, Vec<Waiter>>>,
    dirty: Notify,
    writing: Mutex<()>,
    /// One link at a time.
    plugging: Mutex<()>,
    /// What the data threads count.
    pub gauges: Gauges,
    state_file: PathBuf,
    replica: Option<Replica>,
    /// This program is about to end.
    leaving: AtomicBool,
}

/// What [`Control`] is made of.
pub struct Parts {
    /// The data thread.
    pub engine: EngineHandle,
    /// The mapping service.
    pub directory: Directory,
    /// Kernel state.
    pub steering: Steering,
    /// What the data threads count.
    pub gauges: Gauges,
    /// Where the state is written.
    pub state_file: PathBuf,
    /// Who else is told of it.
    pub replica: Option<Replica>,
}

impl Control {
    /// Puts the parts together.
    pub fn new(mut parts: Parts, config: &crate::config::Config) -> Arc<Self> {
        parts.directory.subscribe(&parts.engine);
        Arc::new(Control {
            engine: parts.engine,
            directory: RwLock::new(Arc::new(parts.directory)),
            steering: Mutex::new(parts.steering),
            placement: config.placement,
            uplink: config.uplink.clone(),
            control_port: config.control_port,
            exclusive: config.locators.exclusive,
            waiters: SyncMutex::default(),
            dirty: Notify::new(),
            writing: Mutex::new(()),
            plugging: Mutex::new(()),
            gauges: parts.gauges,
            state_file: parts.state_file,
            replica: parts.replica,
            leaving: AtomicBool::new(false),
        })
    }

    /// The data thread.
    pub fn engine(&self) -> &EngineHandle {
        &self.engine
    }

    /// Uses other zones, servers or keys from now on.
    pub fn set_directory(&self, mut directory: Directory) {
        directory.subscribe(&self.engine);
        *self.directory.write().unwrap_or_else(|e| e.into_inner()) = Arc::new(directory);
    }

    /// Whoever goes from now on goes because we do.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Nobody sees to the move of a home any more.
    pub fn unattended(&self, home: Home) {
        if !self.leaving.load(Ordering::Relaxed) {
            let engine = self.engine.clone();
            tokio::spawn(async move {
                // If the data thread has ended, so has everything.
                let _ = engine
                    .call(move |agent, now| agent.unattended(now, home))
                    .await;
            });
        }
    }

    /// Resolves when the running operation on `home` has come to its end. To be
    /// called before the operation is started.
    pub fn settled(&self, home: Home) -> oneshot::Receiver<Result<Activated, OpError>> {
        let (sender, receiver) = oneshot::channel();
        let mut waiters = self.waiters.lock().unwrap_or_else(|e| e.into_inner());
        waiters.entry(home).or_default().push(sender);
        receiver
    }

    /// Does what the agent asks for, until the data thread ends.
    pub async fn run(self: Arc<Self>, mut wants: mpsc::UnboundedReceiver<Output>) {
        while let Some(output) = wants.recv().await {
            self.serve(output).await;
        }
    }

    /// Does something the agent asked for before the data thread ran.
    pub fn again(self: &Arc<Self>, output: Output) {
        let this = Arc::clone(self);
        tokio::spawn(async move { this.serve(output).await });
    }

    /// Takes up what can change while running: prefixes, limits, mapping.
    pub async fn reconfigure(&self, config: &crate::config::Config) -> Result<(), SteeringError> {
        self.steering.lock().await.reconfigure(config).await
    }

    /// Writes the state file whenever something changed.
    pub async fn keep_state(self: Arc<Self>) {
        loop {
            self.dirty.notified().await;
            self.save().await;
            tokio::time::sleep(STATE_INTERVAL).await;
        }
    }

    /// Has the state file written in a moment.
    pub fn save_soon(&self) {
        self.dirty.notify_one();
    }

    /// Writes what is so now into the state file, so that it outlives a kill.
    pub async fn save(&self) {
        drop(self.save_and_rest().await);
    }

    /// The same; nothing is written any more as long as the guard lives.
    pub async fn save_and_rest(&self) -> MutexGuard<'_, ()> {
        // One at a time: an older snapshot must not replace a newer one.
        let writing = self.writing.lock().await;
        // The data thread has ended only if the whole process is ending.
        if let Ok(snapshot) = self.engine.call(|agent, _| agent.snapshot()).await {
            self.store(&snapshot);
        }
        writing
    }

    /// Writes the state file, and tells the other gateway.
    pub fn store(&self, snapshot: &Snapshot) {
        if let Some(replica) = &self.replica {
            replica.publish(snapshot);
        }
        if let Err(error) = state::store(&self.state_file, snapshot) {
            tracing::error!("{error}; a restart will not know its connections");
        }
    }

    /// Follows links and addresses.
    pub async fn follow(self: Arc<Self>, mut events: mpsc::Receiver<NetEvent>) {
        let mut addresses: Vec<Locator> = Vec::new();
        let mut sockets = BTreeMap::new();
        while let Some(event) = events.recv().await {
            match event {
                NetEvent::LinkAppeared { name, .. } => self.link_appeared(&name).await,
                NetEvent::LinkGone { name } => self.link_gone(&name).await,
                NetEvent::LinkUp { name } if name == self.uplink => {
                    if let Err(error) = self.steering.lock().await.refresh().await {
                        tracing::warn!("uplink {name} is back: {error}");
                    }
                }
                NetEvent::AddressAdded { interface, ip } if interface == self.uplink => {
                    if let Ok(locator) = Locator::new(ip)
                        && !addresses.contains(&locator)
                    {
                        addresses.push(locator);
                        self.uplink_changed(&addresses, &mut sockets).await;
                    }
                }
                NetEvent::AddressRemoved { interface, ip } if interface == self.uplink => {
                    addresses.retain(|l| l.ip() != ip);
                    self.uplink_changed(&addresses, &mut sockets).await;
                }
                _ => {}
            }
        }
    }

    /// Has packets for a locator come to us, and the router know where it is;
    /// an exclusive one is the host's own and needs neither.
    pub async fn lead_in(&self, locator: Locator) -> Result<(), SteeringError> {
        if self.exclusive {
            return Ok(());
        }
        let mut steering = self.steering.lock().await;
        steering.add_locator(locator).await?;
        steering.announce(locator).await
    }

    /// The link-layer address at which the kernel reaches an instance, if it does.
    pub async fn mac(&self, home: Home) -> Option<String> {
        let mac = self.steering.lock().await.mac_of(home).await;
        match mac {
            Ok(mac) => mac.map(|mac| mac.to_string()),
            Err(error) => {
                tracing::debug!("link-layer address of {home}: {error}");
                None
            }
        }
    }

    /// Tells everybody again that locators and gateways are here.
    pub async fn announce_all(&self) {
        report(
            self.steering.lock().await.announce_all().await,
            "announcing",
        );
    }

    /// Whether the other gateway of the site listens, if there is one.
    pub fn is_followed(&self) -> Option<bool> {
        self.replica.as_ref().map(Replica::is_followed)
    }

    /// Has the kernel connect an instance, and tells the agent whether packets can be given
    /// to it.
    pub async fn plug_in(&self, home: Home, link: Option<&Link>) -> Result<(), String> {
        // Until the agent knows: what is found out later must not be told earlier.
        let _one = self.plugging.lock().await;
        let ready = self.connect(home, link).await?;
        self.ready(home, ready).await;
        Ok(())
    }

    async fn connect(&self, home: Home, link: Option<&Link>) -> Result<bool, String> {
        self.fits(home, link)?;
        let mut steering = self.steering.lock().await;
        match link {
            None => {
                let added = steering.add_guest_home(home).await;
                added.map(|()| true).map_err(|e| e.to_string())
            }
            Some(link) => {
                let attachment = attachment(home, link)?;
                let attached = steering.attach(&attachment).await;
                let attached = attached.map_err(|e| e.to_string())?;
                Ok(attached == Attached::Ready)
            }
        }
    }

    /// Whether an instance can be there.
    pub fn fits(&self, home: Home, link: Option<&Link>) -> Result<(), String> {
        match (self.placement, link) {
            (Placement::Guest, None) => Ok(()),
            (Placement::Gateway, Some(link)) => {
                let name = &link.interface;
                let wrong = |(problem, mend)| format!("{name:?}: {problem}; {mend}");
                crate::config::interface_name(name).map_err(wrong)?;
                if *name == self.uplink {
                    return Err(format!(
                        "{name} is the uplink, by which everybody else comes: give the host end \
                         of the instance's veth or its TAP"
                    ));
                }
                attachment(home, link).map(|_| ())
            }
            (Placement::Guest, Some(_)) => Err("a guest has its home address itself: \
                 leave out \"interface\" and \"mac\""
                .to_owned()),
            (Placement::Gateway, None) => Err("a gateway needs to know where the instance is: \
                 give \"interface\", the host end of its veth or its TAP"
                .to_owned()),
        }
    }

    /// Undoes [`Control::connect`].
    async fn disconnect(&self, home: Home, link: Option<&Link>) -> Result<(), String> {
        let mut steering = self.steering.lock().await;
        let result = match (self.placement, link) {
            (Placement::Guest, _) => steering.remove_guest_home(home).await,
            (Placement::Gateway, Some(link)) => steering.detach(&attachment(home, link)?).await,
            (Placement::Gateway, None) => Ok(()),
        };
        result.map_err(|e| e.to_string())
    }

    async fn serve(self: &Arc<Self>, output: Output) {
        match output {
            // The data thread writes packets itself.
            Output::Write(_) => {}
            Output::Lookup(home) => {
                let this = Arc::clone(self);
                tokio::spawn(async move {
                    let answer = this.directory().get(home).await;
                    this.engine.lookup(home, answer);
                });
            }
            Output::Refresh(home) => {
                let this = Arc::clone(self);
                tokio::spawn(async move {
                    let directory = this.directory();
                    match directory.recent(home) {
                        Some(answer) => this.engine.news(home, answer),
                        None => this.engine.lookup(home, directory.get(home).await),
                    }
                });
            }
            Output::Watch(home) => self.directory().watch(home),
            Output::Update { home, expect, new } => {
                let this = Arc::clone(self);
                tokio::spawn(async move {
                    let directory = this.directory();
                    let result = directory.swap(home, expect.as_ref(), new.as_ref()).await;
                    this.engine.update(home, new, result);
                });
            }
            Output::AddLocator(locator) => {
                report(self.lead_in(locator).await, "routing a locator to us");
            }
            Output::RemoveLocator(locator) => {
                let removed = self.steering.lock().await.remove_locator(locator).await;
                report(removed, "giving a locator up");
            }
            Output::Disconnect(home, link) => {
                if let Err(error) = self.disconnect(home, link.as_ref()).await {
                    tracing::error!("disconnecting {home}: {error}");
                }
            }
            Output::Connect(home, link) => {
                if let Err(error) = self.plug_in(home, link.as_ref()).await {
                    tracing::warn!("{home}: {error}");
                }
            }
            Output::Announce(locator) => {
                let announced = self.steering.lock().await.announce(locator).await;
                report(announced, "announcing a locator");
            }
            Output::Steer(peer, own) => {
                let steered = self.steering.lock().await.steer_pair(peer, own).await;
                if steered.is_ok() {
                    // The data thread has ended only if the whole process is ending.
                    let _ = self
                        .engine
                        .call(move |agent, now| agent.handle_steered(now, peer, own))
                        .await;
                }
                report(steered, "steering a peer's packets");
            }
            Output::Unsteer(peer, own) => {
                let unsteered = self.steering.lock().await.unsteer_pair(peer, own).await;
                report(unsteered, "no longer steering a peer's packets");
            }
            Output::Settled(home, result) => {
                self.dirty.notify_one();
                let mut waiters = self.waiters.lock().unwrap_or_else(|e| e.into_inner());
                for waiter in waiters.remove(&home).unwrap_or_default() {
                    // Whoever waited may have given up.
                    let _ = waiter.send(result.clone());
                }
            }
            Output::Note(event) => {
                self.dirty.notify_one();
                match event.peer {
                    Some(peer) => tracing::info!("{} <-> {peer}: {}", event.home, event.what),
                    None => tracing::info!("{}: {}", event.home, event.what),
                }
            }
        }
    }

    /// The mapping service.
    pub fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.directory.read().unwrap_or_else(|e| e.into_inner()))
    }

    async fn link_appeared(&self, name: &str) {
        for (home, link) in self.links(name).await {
            let Some(link) = link else {
                continue;
            };
            if let Err(error) = self.plug_in(home, Some(&link)).await {
                tracing::warn!("{home} at {name}: {error}");
            }
        }
    }

    async fn link_gone(&self, name: &str) {
        let _one = self.plugging.lock().await;
        for (home, _) in self.links(name).await {
            self.ready(home, false).await;
        }
    }

    /// Tells the agent whether packets can be given to the instance.
    async fn ready(&self, home: Home, ready: bool) {
        // The data thread has ended only if the whole process is ending.
        let _ = self
            .engine
            .call(move |agent, now| agent.link_ready(now, home, ready))
            .await;
    }

    /// See [`Agent::links`](crate::agent::Agent::links).
    async fn links(&self, name: &str) -> Vec<(Home, Option<Link>)> {
        let name = name.to_owned();
        let homes = self.engine.call(move |agent, _| agent.links(&name)).await;
        homes.unwrap_or_default()
    }

    async fn uplink_changed(
        self: &Arc<Self>,
        addresses: &[Locator],
        sockets: &mut BTreeMap<Locator, JoinHandle<()>>,
    ) {
        if self.exclusive {
            sockets.retain(|locator, task| {
                let keep = addresses.contains(locator);
                if !keep {
                    task.abort();
                }
                keep
            });
            for locator in addresses {
                if !sockets.contains_key(locator)
                    && let Some(task) = self.listen(locator.ip()).await
                {
                    sockets.insert(*locator, task);
                }
            }
        }
        self.engine.uplink(addresses.to_vec());
    }

    /// Receives control messages at an address of the host itself.
    async fn listen(self: &Arc<Self>, ip: IpAddr) -> Option<JoinHandle<()>> {
        let address = SocketAddr::new(ip, self.control_port);
        let socket = match UdpSocket::bind(address).await {
            Ok(socket) => socket,
            Err(error) => {
                tracing::error!("cannot listen on {address}: {error}; peers will not reach us");
                return None;
            }
        };
        let engine = self.engine.clone();
        Some(tokio::spawn(async move {
            // Longer than any message but RELAY, which a shared address never gets.
            let mut buffer = [0; 2048];
            loop {
                match socket.recv_from(&mut buffer).await {
                    Ok((length, from)) => engine.control(from, ip, buffer[..length].to_vec()),
                    // ICMP errors of earlier messages; nothing is lost by them.
                    Err(error) => tracing::debug!("control socket {address}: {error}"),
                }
            }
        }))
    }
}

fn attachment(home: Home, link: &Link) -> Result<Attachment, String> {
    let mac = link.mac.as_deref().map(str::parse).transpose();
    Ok(Attachment {
        home,
        interface: link.interface.clone(),
        mac: mac.map_err(|e: super::mac::MacError| e.to_string())?,
    })
}

fn report(result: Result<(), SteeringError>, doing: &str) {
    if let Err(error) = result {
        tracing::error!("{doing}: {error}");
    }
}

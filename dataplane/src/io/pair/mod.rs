//! What a [`Judge`] asks for, and the link between the two gateways.

pub mod link;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::directory::Directory;
use super::engine::Clock;
use super::state;
use crate::agent::{Answer, Snapshot, UpdateResult};
use crate::config;
use crate::pair::{Duty, Judge, Wish};
use link::{Me, News, Told};

/// How finely time passes for the judge: a fraction of what it waits for.
const TICK: Duration = Duration::from_millis(50);
/// Between two attempts to reach the other gateway, or to listen for it.
const REST: Duration = Duration::from_millis(200);
/// Between two looks whether the other gateway is on duty as well.
const LOOKING: Duration = Duration::from_secs(5);
/// Connections of strangers that are listened to at once, for a hand-shake's time.
const STRANGERS: usize = 8;
/// How long a good-bye may take.
const PARTING: Duration = Duration::from_millis(500);

/// This gateway as one of two.
pub struct Pair {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

struct Shared {
    config: config::Pair,
    judge: Mutex<Judge>,
    clock: Clock,
    duty: watch::Sender<Duty>,
    news: watch::Sender<News>,
    followers: AtomicUsize,
    /// The other one has begun to follow.
    met: Notify,
    /// Where the other one's state is kept.
    copy: PathBuf,
}

impl Pair {
    /// Finds out who is on duty, from now on. `judge` knows what this gateway was before;
    /// what the other one tells is written to `copy`.
    pub fn start(
        config: &config::Pair,
        directory: Directory,
        clock: Clock,
        judge: Judge,
        copy: PathBuf,
    ) -> Self {
        let shared = Arc::new(Shared {
            config: config.clone(),
            duty: watch::Sender::new(judge.duty()),
            judge: Mutex::new(judge),
            clock,
            news: watch::Sender::new(News::default()),
            followers: AtomicUsize::new(0),
            met: Notify::new(),
            copy,
        });
        let judging = tokio::spawn(Arc::clone(&shared).judge(directory));
        let linking = tokio::spawn(Arc::clone(&shared).link());
        Pair {
            shared,
            tasks: vec![judging, linking],
        }
    }

    /// What this gateway is to do, as that changes.
    pub fn duty(&self) -> watch::Receiver<Duty> {
        self.shared.duty.subscribe()
    }

    /// Who else may be on duty, for people.
    pub fn peer(&self) -> std::net::SocketAddr {
        self.shared.config.peer
    }

    /// What tells the other one of a new state.
    pub fn replica(&self) -> Replica {
        Replica(Arc::clone(&self.shared))
    }

    /// There is something to take over with, if it must be.
    pub fn inform(&self) {
        self.shared.lock().inform();
    }

    /// Whether the other one could take over at once.
    pub fn can_be_relieved(&self) -> bool {
        let now = self.shared.clock.now();
        self.shared.is_followed() && self.shared.lock().can_be_relieved(now)
    }

    /// Gives the duty to the other one: it need not wait until it misses us. To be called
    /// when nothing here answers for the site any more.
    pub async fn hand_over(mut self) {
        // Nor is it claimed any more.
        if let Some(judging) = self.tasks.first() {
            judging.abort();
        }
        self.shared.news.send_modify(|news| news.bye = true);
        let gone = async {
            while self.shared.is_followed() {
                sleep(TICK / 10).await;
            }
        };
        let _late = timeout(PARTING, gone).await;
        self.stop();
    }

    fn stop(&mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Tells the other gateway what this one knows.
#[derive(Clone)]
pub struct Replica(Arc<Shared>);

impl Replica {
    /// Whether the other one listens.
    pub fn is_followed(&self) -> bool {
        self.0.is_followed()
    }

    /// Resolves when the other one begins to listen.
    pub async fn met(&self) {
        self.0.met.notified().await;
    }

    /// This is so now.
    pub fn publish(&self, snapshot: &Snapshot) {
        match serde_json::to_vec(snapshot) {
            Ok(state) => self.0.news.send_modify(|news| {
                news.state = Some(Arc::new(state));
            }),
            Err(error) => tracing::error!("the other gateway cannot be told: {error}"),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Judge> {
        self.judge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_followed(&self) -> bool {
        self.followers.load(Ordering::Relaxed) > 0
    }

    async fn judge(self: Arc<Self>, directory: Directory) {
        let home = self.config.home;
        let mut said = Said::default();
        loop {
            let wish = self.lock().poll(self.clock.now());
            match wish {
                Some(Wish::Read) => {
                    let answer = directory.get(home).await;
                    if let Answer::Failed(why) = &answer {
                        said.warn(format!("who is on duty is not known: {why}"));
                    }
                    self.lock().answer(self.clock.now(), &answer);
                    if self.lock().lacks_state(self.clock.now()) {
                        let peer = self.config.peer;
                        said.warn(format!(
                            "the other gateway, {peer}, is silent and has never told what it \
                             serves: not taking over; is pair.secret the same at both?"
                        ));
                    }
                }
                Some(Wish::Claim { expect, new }) => {
                    let result = directory.swap(home, expect.as_ref(), Some(&new)).await;
                    match &result {
                        UpdateResult::Committed => said.forget(),
                        UpdateResult::Refused(why) => said.warn(format!(
                            "may not register {} at {}: {why}; the key needs pair.locator among \
                             its locators",
                            home, self.config.locator
                        )),
                        other => tracing::debug!("duty claimed: {other:?}"),
                    }
                    self.lock().claimed(self.clock.now(), &result);
                }
                None => sleep(TICK).await,
            }
            self.tell();
        }
    }

    fn tell(&self) {
        let duty = self.lock().duty();
        self.duty.send_if_modified(|known| {
            let news = *known != duty;
            *known = duty;
            news
        });
    }

    /// Listens to the other one, or is listened to, as the duty is.
    async fn link(self: Arc<Self>) {
        let mut duty = self.duty.subscribe();
        loop {
            let active = *duty.borrow_and_update() == Duty::Active;
            if !active {
                // What an earlier turn of duty knew is old.
                self.news.send_modify(|news| news.state = None);
            }
            tokio::select! {
                () = self.lead(), if active => {}
                () = self.look_around(), if active => {}
                () = self.follow(), if !active => {}
                changed = duty.changed() => if changed.is_err() {
                    return;
                }
            }
        }
    }

    fn me(&self) -> Me<'_> {
        Me {
            secret: &self.config.secret,
            locator: self.config.locator,
        }
    }

    /// Only the one on duty listens: says so if both do, which is a mistake in their
    /// configurations if it lasts.
    async fn look_around(&self) {
        let peer = self.config.peer;
        let mut said = Said::default();
        loop {
            sleep(LOOKING).await;
            match link::greet(peer, self.me()).await {
                Ok(()) => said.warn(format!("the other gateway, {peer}, is on duty as well")),
                Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                    said.warn(format!(
                        "the other gateway, {peer}, is on duty as well: {error}"
                    ));
                }
                // It stands by, or is not there.
                Err(_) => {}
            }
        }
    }

    async fn follow(&self) {
        let peer = self.config.peer;
        let mut said = Said::default();
        loop {
            let told = |told| self.told(told);
            if let Err(error) = link::follow(peer, self.me(), told).await {
                said.warn(format!(
                    "the other gateway, {peer}, cannot be followed: {error}"
                ));
            }
            sleep(REST).await;
        }
    }

    fn told(&self, told: Told) {
        let now = self.clock.now();
        match told {
            Told::Beat => self.lock().hears(now),
            Told::Bye => self.lock().is_left_alone(now),
            Told::State(state) => {
                self.lock().hears(now);
                let stored = match serde_json::from_slice::<Snapshot>(&state) {
                    Ok(snapshot) => {
                        state::store(&self.copy, &snapshot).map_err(anyhow::Error::from)
                    }
                    Err(error) => Err(error.into()),
                };
                if stored.is_ok() {
                    self.lock().inform();
                }
                if let Err(error) = stored {
                    tracing::error!(
                        "what the other gateway knows is lost: {error:#}; are both of one version?"
                    );
                }
            }
        }
    }

    async fn lead(self: &Arc<Self>) {
        let address = self.config.listen;
        let listener = match TcpListener::bind(address).await {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!("pair.listen {address}: {error}; the other gateway is not told");
                return sleep(REST * 10).await;
            }
        };
        let mut followers = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(_) if followers.len() >= STRANGERS => {}
                    Ok((stream, from)) => {
                        let shared = Arc::clone(self);
                        followers.spawn(async move {
                            let news = shared.news.subscribe();
                            let followed = || Follower::new(Arc::clone(&shared));
                            if let Err(error) = link::lead(stream, shared.me(), news, followed).await {
                                tracing::warn!("the other gateway, from {from}: {error}");
                            }
                        });
                    }
                    Err(error) => {
                        tracing::warn!("pair.listen {address}: {error}");
                        sleep(REST).await;
                    }
                },
                _ = followers.join_next(), if !followers.is_empty() => {}
            }
        }
    }
}

/// What was last said, which is not said again and again.
#[derive(Default)]
struct Said(String);

impl Said {
    fn warn(&mut self, text: String) {
        if self.0 != text {
            tracing::warn!("{text}");
            self.0 = text;
        }
    }

    fn forget(&mut self) {
        self.0.clear();
    }
}

/// Somebody who listens.
struct Follower(Arc<Shared>);

impl Follower {
    fn new(shared: Arc<Shared>) -> Self {
        shared.followers.fetch_add(1, Ordering::Relaxed);
        shared.lock().set_followed(true);
        tracing::info!("the other gateway follows, {}", shared.config.peer);
        shared.met.notify_one();
        Follower(shared)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let left = self.0.followers.fetch_sub(1, Ordering::Relaxed) - 1;
        self.0.lock().set_followed(left > 0);
        if left == 0 {
            tracing::warn!(
                "the other gateway no longer follows, {}",
                self.0.config.peer
            );
        }
    }
}

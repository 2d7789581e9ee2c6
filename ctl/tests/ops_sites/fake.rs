//! Two forwarders that exist only as their control sockets: they keep the rules of attach,
//! detach, prepare and activate, write down what they are asked, and fail where they are told to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use axum::extract::{Path as UrlPath, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use mat_ctl::site::Site;
use serde_json::{Value, json};
use tokio::net::UnixListener;

/// What a site does instead of its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It refuses, and nothing has changed.
    Refuse,
    /// It does it and then says that something went wrong.
    DoAndFail,
    /// It says that something went wrong, and does it later: when it is told to detach.
    DoLater,
}

/// The mapping service, both sites' tables, and everything that was asked.
#[derive(Default)]
pub struct World {
    /// Where each home is bound: site and epoch.
    pub bound: BTreeMap<String, (String, u64)>,
    /// Site and home: whether it is `attached`, `prepared` or `departed`.
    pub tables: BTreeMap<(String, String), &'static str>,
    /// Every request that changes something, in order: `site operation home`.
    pub log: Vec<String>,
    /// Bodies of the requests, in the same order.
    pub bodies: Vec<Value>,
    /// Keyed by site, operation and home.
    pub faults: BTreeMap<(String, String, String), Fault>,
    /// Whether peers acknowledge a move.
    pub deaf_peers: bool,
    /// Of two gateways: by site, what each says of its duty.
    pub duties: BTreeMap<String, &'static str>,
}

impl World {
    /// `serving`, or what a forwarder says otherwise; `None` if it is not attached.
    pub fn state(&self, site: &str, home: &str) -> Option<&'static str> {
        let state = *self.tables.get(&(site.to_owned(), home.to_owned()))?;
        let here = self.bound.get(home).is_some_and(|(at, _)| at == site);
        Some(match (state, here) {
            ("attached", true) => "serving",
            ("attached", false) => "not serving",
            (other, _) => other,
        })
    }

    fn bind(&mut self, site: &str, home: &str) -> (u64, u64) {
        let before = self.bound.get(home).map_or(0, |(_, epoch)| *epoch);
        let after = before + 1;
        self.bound.insert(home.to_owned(), (site.to_owned(), after));
        (before, after)
    }

    fn set(&mut self, site: &str, home: &str, state: &'static str) {
        self.tables
            .insert((site.to_owned(), home.to_owned()), state);
    }
}

/// Sites `a` and `b`, each with a socket, served by a thread of this process.
pub struct Sites {
    pub world: Arc<Mutex<World>>,
    pub a: Site,
    pub b: Site,
    dir: tempfile::TempDir,
}

impl Sites {
    /// Two sites; `homes` are served at `a`, at epoch 100.
    pub fn new(homes: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory for the sockets");
        let world = Arc::new(Mutex::new(World::default()));
        for home in homes {
            let mut world = world.lock().expect("world");
            world
                .bound
                .insert((*home).to_owned(), ("a".to_owned(), 100));
            world.set("a", home, "attached");
        }
        let site = |name: &str| Site {
            name: name.to_owned(),
            socket: dir.path().join(format!("{name}.sock")),
            other_socket: None,
            netns: None,
        };
        let (a, b) = (site("a"), site("b"));
        for site in [&a, &b] {
            serve(site, Arc::clone(&world));
        }
        Sites { world, a, b, dir }
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("world")
    }

    pub fn fault(&self, site: &str, operation: &str, home: &str, fault: Fault) {
        let key = (site.to_owned(), operation.to_owned(), home.to_owned());
        self.world().faults.insert(key, fault);
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A configuration that names both sites, with `more` behind.
    pub fn config(&self, more: &str) -> PathBuf {
        let path = self.dir().join("matctl.toml");
        let text = format!(
            "[[site]]\nname = \"a\"\nsocket = {:?}\n[[site]]\nname = \"b\"\nsocket = {:?}\n{more}",
            self.a.socket, self.b.socket
        );
        std::fs::write(&path, text).expect("configuration");
        path
    }
}

#[derive(Clone)]
struct Fake {
    site: String,
    world: Arc<Mutex<World>>,
}

fn serve(site: &Site, world: Arc<Mutex<World>>) {
    let listener = std::os::unix::net::UnixListener::bind(&site.socket).expect("socket");
    listener.set_nonblocking(true).expect("socket");
    let fake = Fake {
        site: site.name.clone(),
        world,
    };
    let router = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/explain", get(explain))
        .route("/v1/homes/{home}", get(one))
        .route("/v1/homes/{home}/handover", get(handover))
        .route("/v1/homes/{home}/attend", post(attend))
        .route("/v1/attach", post(attach))
        .route("/v1/detach", post(detach))
        .route("/v1/prepare", post(prepare))
        .route("/v1/standby", post(standby))
        .route("/v1/learn", post(learn))
        .route("/v1/activate", post(activate))
        .with_state(fake);
    // Ends with the test program.
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("runtime");
        runtime.block_on(async {
            let listener = UnixListener::from_std(listener).expect("listener");
            axum::serve(listener, router).await.expect("server");
        });
    });
}

type Answer = Result<Json<Value>, (StatusCode, Json<Value>)>;

fn no(status: StatusCode, text: &str) -> (StatusCode, Json<Value>) {
    (status, Json(json!({ "error": text })))
}

fn locator(site: &str, home: &str) -> String {
    match (site, home.contains(':')) {
        ("a", false) => "198.51.100.7",
        ("a", true) => "2001:db8:a::7",
        (_, false) => "203.0.113.7",
        (_, true) => "2001:db8:b::7",
    }
    .to_owned()
}

impl Fake {
    /// Writes the request down; `work` says what it would do.
    fn operation(
        &self,
        operation: &str,
        home: &str,
        body: &Value,
        work: impl FnOnce(&mut World, &str) -> Answer,
    ) -> Answer {
        let mut world = self.world.lock().expect("world");
        world.log.push(format!("{} {operation} {home}", self.site));
        world.bodies.push(body.clone());
        let key = (self.site.clone(), operation.to_owned(), home.to_owned());
        match world.faults.get(&key).copied() {
            None => work(&mut world, &self.site),
            Some(Fault::Refuse) => Err(no(StatusCode::CONFLICT, "told to refuse")),
            Some(Fault::DoAndFail) => {
                let _ = work(&mut world, &self.site);
                Err(no(StatusCode::INTERNAL_SERVER_ERROR, "told to fail"))
            }
            Some(Fault::DoLater) => Err(no(StatusCode::GATEWAY_TIMEOUT, "told to be slow")),
        }
    }

    fn own(&self, world: &World, home: &str) -> Option<Value> {
        let state = world.state(&self.site, home)?;
        let (bound, epoch) = world.bound.get(home).cloned().unwrap_or_default();
        let mut own = json!({
            "home": home, "state": state, "reserved": [locator(&self.site, home)],
            "epoch": epoch, "ready": true, "held_bytes": 0,
            "link": { "interface": format!("veth-{}", self.site), "mac": "02:00:00:00:00:10" },
            "switch": {
                "peers": 1, "acknowledged": u8::from(!world.deaf_peers), "last_ack_us": 1500,
            },
        });
        if state == "serving" {
            own["locator"] = json!(locator(&self.site, home));
        }
        if !bound.is_empty() {
            own["registered_at"] = json!(locator(&bound, home));
        }
        Some(own)
    }
}

fn activated(site: &str, home: &str, (before, after): (u64, u64)) -> Answer {
    Ok(Json(json!({
        "locator": locator(site, home), "epoch_before": before, "epoch_after": after,
        "map_update_us": 700, "peers": 1,
    })))
}

async fn attach(State(fake): State<Fake>, Json(body): Json<Value>) -> Answer {
    let home = body["home"].as_str().unwrap_or_default().to_owned();
    fake.operation("attach", &home, &body, |world, site| {
        if !matches!(world.state(site, &home), None | Some("departed")) {
            return Err(no(StatusCode::CONFLICT, "already attached here"));
        }
        world.set(site, &home, "attached");
        let epoch = world.bound.get(&home).map_or(0, |(_, epoch)| *epoch);
        if body["claim"] == json!(true) && world.state(site, &home) != Some("serving") {
            return activated(site, &home, world.bind(site, &home));
        }
        activated(site, &home, (epoch, epoch))
    })
}

async fn detach(State(fake): State<Fake>, Json(body): Json<Value>) -> Answer {
    let home = body["home"].as_str().unwrap_or_default().to_owned();
    let late = {
        let world = fake.world.lock().expect("world");
        let key = (fake.site.clone(), "activate".to_owned(), home.clone());
        world.faults.get(&key) == Some(&Fault::DoLater)
    };
    fake.operation("detach", &home, &body, |world, site| {
        let state = world.state(site, &home);
        let to = body.get("to").is_some_and(|to| !to.is_null());
        match (state, to) {
            (None, _) => return Err(no(StatusCode::NOT_FOUND, "not attached here")),
            (Some("serving"), true) => world.set(site, &home, "departed"),
            (Some(_), true) => return Err(no(StatusCode::CONFLICT, "cannot be handed over")),
            (Some(state), false) => {
                world.tables.remove(&(site.to_owned(), home.clone()));
                if late {
                    // The change that was under way arrives just now.
                    world.bind(site, &home);
                } else if state == "serving" {
                    world.bound.remove(&home);
                }
            }
        }
        Ok(handed_over(world, site, &home))
    })
}

fn handed_over(world: &World, site: &str, home: &str) -> Json<Value> {
    let epoch = world.bound.get(home).map_or(0, |(_, epoch)| *epoch);
    Json(json!({
        "home": home,
        "binding": {
            "home": home, "epoch": epoch, "lease": 30, "entries": [{
                "priority": 1, "locator": locator(site, home), "port": 6283,
                "modes": "native",
            }],
        },
        "contexts": [context(home)],
    }))
}

async fn handover(State(fake): State<Fake>, UrlPath(home): UrlPath<String>) -> Answer {
    let world = fake.world.lock().expect("world");
    Ok(handed_over(&world, &fake.site, &home))
}

async fn attend() -> Answer {
    std::future::pending().await
}

async fn learn(State(fake): State<Fake>, Json(body): Json<Value>) -> Answer {
    let home = body["home"].as_str().unwrap_or_default();
    fake.operation("learn", home, &body, |_, _| Ok(Json(json!(null))))
}

/// The binding changes, but goes on naming the site that serves.
async fn standby(State(fake): State<Fake>, Json(body): Json<Value>) -> Answer {
    let home = body["handover"]["home"].as_str().unwrap_or_default();
    fake.operation("standby", home, &body, |world, site| {
        if world.state(site, home) != Some("prepared") {
            return Err(no(StatusCode::CONFLICT, "not prepared here"));
        }
        let at = world.bound.get(home).map(|(at, _)| at.clone());
        let at = at.unwrap_or_default();
        world.bind(&at, home);
        let Json(handover) = handed_over(world, &at, home);
        Ok(Json(handover["binding"].clone()))
    })
}

fn context(home: &str) -> Value {
    let (peer, at) = match home.contains(':') {
        false => ("192.0.2.20", "198.51.100.20"),
        true => ("2001:db8::20", "2001:db8:c::20"),
    };
    json!({
        "own": home, "peer": peer, "mine": "00".repeat(16), "theirs": "11".repeat(16),
        "sequence_out": 3, "sequence_in": 4,
        "binding": {
            "home": peer, "epoch": 5, "lease": 30, "entries": [{
                "priority": 1, "locator": at, "port": 6283, "modes": "native",
            }],
        },
    })
}

async fn prepare(State(fake): State<Fake>, Json(body): Json<Value>) -> Answer {
    let home = body["home"].as_str().unwrap_or_default().to_owned();
    fake.operation("prepare", &home, &body, |world, site| {
        if !matches!(world.state(site, &home), None | Some("departed")) {
            return Err(no(StatusCode::CONFLICT, "already attached here"));
        }
        world.set(site, &home, "prepared");
        Ok(Json(
            json!({ "locator": locator(site, &home), "port": 6283 }),
        ))
    })
}

async fn activate(State(fake): State<Fake>, Json(body): Json<Value>) -> Answer {
    let home = body["handover"]["home"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    fake.operation("activate", &home, &body, |world, site| {
        if world.state(site, &home) != Some("prepared") {
            return Err(no(StatusCode::CONFLICT, "not prepared here"));
        }
        world.set(site, &home, "attached");
        activated(site, &home, world.bind(site, &home))
    })
}

async fn one(State(fake): State<Fake>, UrlPath(home): UrlPath<String>) -> Answer {
    let world = fake.world.lock().expect("world");
    let own = fake.own(&world, &home).map(Json);
    own.ok_or_else(|| no(StatusCode::NOT_FOUND, "not attached here"))
}

async fn status(State(fake): State<Fake>) -> Answer {
    let world = fake.world.lock().expect("world");
    let homes: Vec<Value> = world
        .tables
        .keys()
        .filter(|(site, _)| *site == fake.site)
        .filter_map(|(_, home)| fake.own(&world, home))
        .collect();
    let trouble = fake.site == "b";
    let mut mapping = json!({ "reachable": !trouble, "authenticated": !trouble });
    if trouble {
        mapping["fault"] = json!("no answer from the mapping service");
        mapping["fault_since_unix_us"] = json!(1_785_500_000_123_456_u64);
    }
    let mut report = json!({
        "version": "0.1.0", "site": fake.site, "placement": "gateway", "path": "tun",
        "trust": if trouble { "network" } else { "tsig" }, "pid": 4711, "homes": homes,
        "contexts": [{
            "own": "192.0.2.10", "peer": "192.0.2.20", "state": "open", "mode": "native",
            "local": "198.51.100.7", "remote": "198.51.100.20", "previous": [], "epoch": 5,
            "lease_ms": 25_000, "round_trip_us": 20_400, "held": 0,
            "sent": { "packets": 10, "bytes": 15_000 }, "received": { "packets": 9, "bytes": 900 },
        }],
        "not_attached": { "192.0.2.99": "198.51.100.9" },
        "mapping": mapping, "held_bytes": 0,
        "counters": { "hold_full": 3, "not_ours": 0 },
    });
    if let Some(duty) = world.duties.get(&fake.site) {
        report["duty"] = json!(duty);
        report["pair"] = json!("192.0.2.250");
    }
    Ok(Json(report))
}

async fn explain(State(fake): State<Fake>) -> Answer {
    Ok(Json(json!({
        "verdict": if fake.site == "a" { "native" } else { "drop" },
        "reason": "the context is open",
        "events": [{
            "unix_us": 1_785_500_000_123_456_u64, "home": "192.0.2.10", "peer": "192.0.2.20",
            "what": "opened",
        }],
    })))
}

//! The local control API: HTTP with JSON bodies over a Unix socket.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `GET /v1/status` | | [`Report`] |
//! | `GET /v1/metrics` | | Prometheus text |
//! | `GET /v1/explain?src=&dst=` | | what would become of such a packet |
//! | `GET /v1/homes/ADDRESS` | | one home attached here |
//! | `GET /v1/homes/ADDRESS/handover` | | [`Handover`] as it would be now; the home stays |
//! | `POST /v1/homes/ADDRESS/attend` | | none, ever: as long as its client waits, somebody sees to the move of that home |
//! | `POST /v1/attach` | [`AttachBody`] | [`Activated`] |
//! | `POST /v1/detach` | [`DetachBody`] | [`Handover`] |
//! | `POST /v1/prepare` | [`PrepareBody`] | [`Prepared`] |
//! | `POST /v1/standby` | [`HandoverBody`] | the [`Binding`] that names both places |
//! | `POST /v1/learn` | [`Binding`] | none: of a home served here, from the answer before |
//! | `POST /v1/activate` | [`HandoverBody`] | [`Activated`] |
//!
//! Errors are `{"error": "..."}` with status 400 (the request is wrong), 404,
//! 409 (it does not fit the state), 502 (the mapping service) or 500. The socket
//! belongs to root and its group, mode 0660: whoever may open it rules the
//! instances, and hand-overs contain keys.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Path as UrlPath, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use mat_proto::auth::MoveKey;
use mat_proto::{Binding, Home};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::oneshot;

use super::control::Control;
use super::engine::Ended;
use super::meter::MeterReading;
use super::metrics;
use crate::agent::{
    Activated, Agent, Attach, ContextRecord, Explanation, Handover, Link, OpError, OwnStatus,
    Prepared, RelayTo, Status,
};
use crate::clock::Now;

/// An operation that has not ended by then is reported as still running.
const PATIENCE: Duration = Duration::from_secs(10);

/// A hand-over holds up to 65,536 contexts of some 400 octets each; twice that.
const LARGEST_HANDOVER: usize = 64 << 20;
/// Anything else.
const LARGEST_BODY: usize = 64 << 10;

/// Who this forwarder is: the part of the status that never changes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// Version of the program.
    pub version: String,
    /// Name of the site.
    pub site: String,
    /// `gateway` or `guest`.
    pub placement: String,
    /// Which packet path is active.
    pub path: String,
    /// What makes an answer of the mapping service count: `tsig`, or `network`,
    /// which means that anybody on the path can move instances.
    pub trust: String,
    /// Process id.
    pub pid: u32,
    /// If it is one of two gateways.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duty: Option<PairDuty>,
    /// The home address of the pair: its binding says who is on duty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pair: Option<Home>,
}

/// What one of two gateways does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PairDuty {
    /// On duty, and the other one stands by.
    Active,
    /// On duty, and the other one could not take over.
    Alone,
    /// Not on duty.
    Standby,
}

/// `GET /v1/status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Who this is.
    #[serde(flatten)]
    pub identity: Identity,
    /// What it is doing.
    #[serde(flatten)]
    pub status: Status,
    /// What its data threads have done.
    #[serde(default)]
    pub threads: Vec<MeterReading>,
    /// Zones that push what changes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub push: Vec<PushStatus>,
}

/// How push from one zone is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushStatus {
    /// Its name.
    pub zone: String,
    /// Homes whose changes come by themselves.
    pub subscriptions: usize,
    /// Why none do, and the zone is asked instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub away: Option<String>,
}

/// `POST /v1/attach`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachBody {
    /// Home address of the instance.
    pub home: Home,
    /// Gateway: host end of the instance's veth, or its TAP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Its MAC address; found out if missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Register the binding (the default), or only serve if it names us.
    #[serde(default = "yes")]
    pub claim: bool,
    /// Contexts of a detach that is taken back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contexts: Vec<ContextRecord>,
    /// Its binding then, if certainly nobody has changed it since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<Binding>,
}

/// `POST /v1/detach`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetachBody {
    /// Home address of the instance.
    pub home: Home,
    /// Where it goes; without it the binding is withdrawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<RelayTo>,
}

/// `POST /v1/prepare`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrepareBody {
    /// Home address of the instance that will come.
    pub home: Home,
    /// The key of this move.
    pub key: MoveKey,
    /// The interface it will have here; may not exist yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Its MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

/// `POST /v1/standby` and `POST /v1/activate`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandoverBody {
    /// What the old site has said: as it is, or when it let go.
    pub handover: Handover,
}

fn yes() -> bool {
    true
}

/// What answers the requests.
pub fn router(control: Arc<Control>, identity: Identity) -> Router {
    let with_contexts = Router::new()
        .route("/v1/attach", post(attach))
        .route("/v1/standby", post(standby))
        .route("/v1/activate", post(activate))
        .layer(DefaultBodyLimit::max(LARGEST_HANDOVER));
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/metrics", get(prometheus))
        .route("/v1/explain", get(explain))
        .route("/v1/homes/{home}", get(home))
        .route("/v1/homes/{home}/handover", get(handover))
        .route("/v1/homes/{home}/attend", post(attend))
        .route("/v1/detach", post(detach))
        .route("/v1/prepare", post(prepare))
        .route("/v1/learn", post(learn))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .merge(with_contexts)
        .with_state(Api { control, identity })
}

/// What answers them at a gateway that stands by: the status, and that it is the other one's
/// affair.
pub fn standby_router(report: Report) -> Router {
    let elsewhere = "this gateway stands by: ask the one on duty";
    let refuse = (
        StatusCode::MISDIRECTED_REQUEST,
        Json(json!({ "error": elsewhere })),
    );
    Router::new()
        .route("/v1/status", get(move || async { Json(report) }))
        .fallback(move || async { refuse })
}

/// Makes the socket, or goes on with `inherited` if that is it; whoever connects
/// waits until it is served.
///
/// # Errors
/// The text says why it cannot be made and what to do.
pub fn listen(socket: &Path, inherited: Option<OwnedFd>) -> Result<UnixListener, String> {
    if let Some(listener) = inherited.map(UnixListener::from)
        && let Ok(address) = listener.local_addr()
        && address.as_pathname() == Some(socket)
        && socket.exists()
    {
        return Ok(listener);
    }
    let fault = |doing: &str, error: std::io::Error| {
        format!(
            "control socket {}: cannot {doing}: {error}",
            socket.display()
        )
    };
    if let Some(folder) = socket.parent() {
        std::fs::create_dir_all(folder).map_err(|e| fault("make its folder", e))?;
    }
    if socket.exists() {
        // A socket nobody answers at is left over from a process that was killed.
        if UnixStream::connect(socket).is_ok() {
            return Err(format!(
                "control socket {}: another matd answers there; stop it, or set another \
                 control_socket",
                socket.display()
            ));
        }
        std::fs::remove_file(socket).map_err(|e| fault("remove the old one", e))?;
    }
    let listener = UnixListener::bind(socket).map_err(|e| fault("listen", e))?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o660))
        .map_err(|e| fault("restrict it", e))?;
    let nonblocking = listener.set_nonblocking(true);
    nonblocking.map_err(|e| fault("make it non-blocking", e))?;
    Ok(listener)
}

#[derive(Clone)]
struct Api {
    control: Arc<Control>,
    identity: Identity,
}

impl Api {
    /// Where an instance is that can be served here.
    fn link_of(
        &self,
        home: Home,
        interface: Option<String>,
        mac: Option<String>,
    ) -> Result<Option<Link>, Fault> {
        if self.identity.pair == Some(home) {
            let text = format!(
                "{home} is the home address of the pair (`pair.home`), so no instance has it"
            );
            return Err(Fault::Request(text));
        }
        let link = interface.map(|interface| Link { interface, mac });
        self.control
            .fits(home, link.as_ref())
            .map_err(Fault::Request)?;
        Ok(link)
    }
}

/// What a request can end with instead of an answer.
enum Fault {
    Request(String),
    NotFound(String),
    Operation(OpError),
    Steering(String),
    Slow(Home),
    Ended,
}

impl From<OpError> for Fault {
    fn from(error: OpError) -> Self {
        Fault::Operation(error)
    }
}

impl From<Ended> for Fault {
    fn from(_: Ended) -> Self {
        Fault::Ended
    }
}

impl From<JsonRejection> for Fault {
    fn from(rejection: JsonRejection) -> Self {
        Fault::Request(rejection.body_text())
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Fault::Request(text) => (StatusCode::BAD_REQUEST, text),
            Fault::NotFound(text) => (StatusCode::NOT_FOUND, text),
            Fault::Operation(error) => {
                let status = match &error {
                    OpError::NotAHome(_) => StatusCode::BAD_REQUEST,
                    OpError::NotAttached(_) => StatusCode::NOT_FOUND,
                    OpError::Refused(..) | OpError::Mapping(..) => StatusCode::BAD_GATEWAY,
                    _ => StatusCode::CONFLICT,
                };
                (status, error.to_string())
            }
            Fault::Steering(text) => (StatusCode::INTERNAL_SERVER_ERROR, text),
            Fault::Slow(home) => (
                StatusCode::GATEWAY_TIMEOUT,
                format!("{home}: still going on after {PATIENCE:?}; see the status"),
            ),
            Fault::Ended => (
                StatusCode::SERVICE_UNAVAILABLE,
                "the forwarder is stopping".to_owned(),
            ),
        };
        (status, Json(json!({ "error": text }))).into_response()
    }
}

type Answer<T> = Result<Json<T>, Fault>;
type Body<T> = Result<Json<T>, JsonRejection>;

async fn status(State(api): State<Api>) -> Answer<Report> {
    let status = api
        .control
        .engine()
        .call(|agent, now| agent.status(now))
        .await?;
    let gauges = &api.control.gauges;
    let meters = gauges.meters.iter();
    let mut identity = api.identity;
    let forgone = gauges.forgone();
    if !forgone.is_empty() {
        identity.path += &format!(", but not {}: refused by the kernel", forgone.join(", "));
    }
    let directory = api.control.directory();
    // It may have changed since the start.
    identity.trust = directory.trust().to_string();
    if api.control.is_followed() == Some(false) {
        identity.duty = Some(PairDuty::Alone);
    }
    Ok(Json(Report {
        identity,
        status,
        threads: meters.map(|meter| meter.reading()).collect(),
        push: directory.push(),
    }))
}

async fn prometheus(State(api): State<Api>) -> Result<String, Fault> {
    Ok(metrics::text(&api.control).await?)
}

#[derive(Deserialize)]
struct Pair {
    src: IpAddr,
    dst: IpAddr,
}

async fn explain(State(api): State<Api>, Query(pair): Query<Pair>) -> Answer<Explanation> {
    let ask = move |agent: &mut Agent, now| agent.explain(now, pair.src, pair.dst);
    Ok(Json(api.control.engine().call(ask).await?))
}

async fn home(State(api): State<Api>, UrlPath(home): UrlPath<Home>) -> Answer<OwnStatus> {
    let found = api
        .control
        .engine()
        .call(move |agent, _| agent.own_status(home))
        .await?;
    found
        .map(Json)
        .ok_or_else(|| Fault::NotFound(format!("{home} is not attached here")))
}

async fn handover(State(api): State<Api>, UrlPath(home): UrlPath<Home>) -> Answer<Handover> {
    let engine = api.control.engine();
    let handover = engine.call(move |agent, _| agent.handover(home)).await??;
    Ok(Json(handover))
}

async fn attend(State(api): State<Api>, UrlPath(home): UrlPath<Home>) -> Answer<()> {
    let _attendance = Attendance(api.control, home);
    std::future::pending().await
}

/// Dropped when the client that sees to a move goes.
struct Attendance(Arc<Control>, Home);

impl Drop for Attendance {
    fn drop(&mut self) {
        self.0.unattended(self.1);
    }
}

async fn learn(State(api): State<Api>, body: Body<Binding>) -> Answer<()> {
    let Json(binding) = body?;
    let engine = api.control.engine();
    let learned = engine.call(move |agent, now| agent.learn(now, binding));
    learned.await??;
    Ok(Json(()))
}

async fn attach(State(api): State<Api>, body: Body<AttachBody>) -> Answer<Activated> {
    let Json(body) = body?;
    let home = body.home;
    let link = api.link_of(home, body.interface, body.mac)?;
    let request = Attach {
        home,
        claim: body.claim,
        link: link.clone(),
        ready: false,
        contexts: body.contexts,
        binding: body.binding,
    };
    let engine = api.control.engine();
    let begun = |agent: &mut Agent, now| agent.attach(now, request);
    let settled = begin(&api.control, home, begun).await?;
    if let Err(error) = api.control.plug_in(home, link.as_ref()).await {
        let _ = engine
            .call(move |agent, now| agent.detach(now, home, None))
            .await?;
        return Err(Fault::Steering(error));
    }
    let attached = wait(home, settled).await;
    api.control.save().await;
    attached
}

async fn detach(State(api): State<Api>, body: Body<DetachBody>) -> Answer<Handover> {
    let Json(body) = body?;
    let (home, to) = (body.home, body.to);
    let engine = api.control.engine();
    let settled = api.control.settled(home);
    let mut handover = engine
        .call(move |agent, now| agent.detach(now, home, to))
        .await??;
    handover.mac = api.control.mac(home).await;
    if to.is_none() {
        let withdrawn = wait(home, settled).await;
        // Or a kill now, and a restart, would bring it back and claim its binding again.
        api.control.save().await;
        let Json(_withdrawn) = withdrawn?;
    }
    Ok(Json(handover))
}

async fn prepare(State(api): State<Api>, body: Body<PrepareBody>) -> Answer<Prepared> {
    let Json(body) = body?;
    let (home, key) = (body.home, body.key);
    let link = api.link_of(home, body.interface, body.mac)?;
    let engine = api.control.engine();
    let plugged = link.clone();
    let prepared = engine
        .call(move |agent, now| agent.prepare(now, home, key, plugged))
        .await??;
    // All of it now, so that nothing but the interface is missing later, and the
    // first relayed packet finds the way.
    let led = api.control.lead_in(prepared.locator).await;
    let made_ready = match led {
        Ok(()) => api.control.plug_in(home, link.as_ref()).await,
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = made_ready {
        let _ = engine
            .call(move |agent, now| agent.detach(now, home, None))
            .await?;
        return Err(Fault::Steering(error));
    }
    api.control.save().await;
    Ok(Json(prepared))
}

async fn standby(State(api): State<Api>, body: Body<HandoverBody>) -> Answer<Binding> {
    let Json(body) = body?;
    let home = body.handover.home;
    let begun = |agent: &mut Agent, now| agent.stand_by(now, body.handover);
    let settled = begin(&api.control, home, begun).await?;
    let Json(_standing) = wait(home, settled).await?;
    // If a kill comes first, the old site withdraws it in the end.
    api.control.save_soon();
    let engine = api.control.engine();
    let handover = engine.call(move |agent, _| agent.handover(home)).await??;
    let binding = handover.binding.ok_or(OpError::Conflict(home))?;
    Ok(Json(binding))
}

async fn activate(State(api): State<Api>, body: Body<HandoverBody>) -> Answer<Activated> {
    let Json(body) = body?;
    let home = body.handover.home;
    let engine = api.control.engine();
    // The binding first: the kernel may take its time while a link is on its way here.
    let begun = |agent: &mut Agent, now| agent.activate(now, body.handover);
    let settled = begin(&api.control, home, begun).await?;
    // Nobody waits for the disk before packets flow; but what is answered is written.
    api.control.save_soon();
    let status = engine.call(move |agent, _| agent.own_status(home)).await?;
    let link = status.ok_or(OpError::NotAttached(home))?.link;
    let plugged_in = api.control.plug_in(home, link.as_ref()).await;
    plugged_in.map_err(Fault::Steering)?;
    let activated = wait(home, settled).await;
    api.control.save().await;
    activated
}

type Settled = oneshot::Receiver<Result<Activated, OpError>>;

/// Has the agent begin something whose end comes later: [`wait`] for it.
async fn begin(
    control: &Control,
    home: Home,
    operation: impl FnOnce(&mut Agent, Now) -> Result<(), OpError> + Send + 'static,
) -> Result<Settled, Fault> {
    let settled = control.settled(home);
    control.engine().call(operation).await??;
    Ok(settled)
}

async fn wait(home: Home, settled: Settled) -> Answer<Activated> {
    match tokio::time::timeout(PATIENCE, settled).await {
        Ok(Ok(result)) => Ok(Json(result?)),
        Ok(Err(_)) => Err(Fault::Ended),
        Err(_) => Err(Fault::Slow(home)),
    }
}

//! A site, and the control API of its forwarder (HTTP with JSON over a Unix socket).
//!
//! The bodies are `mat-dataplane`'s own types, so that both ends of the socket agree by
//! construction. A [`Client`] holds one connection, open beforehand, so that a request costs one
//! round trip and no more: some of them stand in the gap of a move.
//!
//! # Limitations
//! The socket is local. A site on another machine is reached by forwarding its socket
//! (`ssh -L /run/mat/b.sock:/run/mat/matd.sock`).

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use mat_dataplane::agent::{Activated, Explanation, Handover, OwnStatus, Prepared};
use mat_dataplane::io::api::{AttachBody, DetachBody, HandoverBody, PairDuty, PrepareBody, Report};
use mat_proto::{Binding, Home};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

/// Longer than a forwarder lets anybody wait (10 s), so that its own words are heard.
const PATIENCE: Duration = Duration::from_secs(12);

/// One of two gateways that does not say by then whether it is on duty is passed over.
const CHOOSING: Duration = Duration::from_secs(1);

/// A status of some 500 000 contexts; more than that is no status.
const ANSWER_MAX: usize = 256 << 20;

/// A place with a forwarder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Its name, for people and for `--to`.
    pub name: String,
    /// The control socket of its forwarder.
    pub socket: PathBuf,
    /// The control socket of the other one, if it has two gateways.
    pub other_socket: Option<PathBuf>,
    /// The network namespace its forwarder runs in, for the `netns` driver.
    pub netns: Option<String>,
}

impl Site {
    /// Opens a connection to the forwarder; of two gateways, to the one on duty. If neither
    /// is, to one that stands by, which says so to whoever asks for more than its status.
    ///
    /// # Errors
    /// [`SiteError::Unreachable`].
    pub async fn connect(&self) -> Result<Client, SiteError> {
        let Some(other) = &self.other_socket else {
            return self.connect_to(&self.socket).await;
        };
        let mut spare = Err(None);
        for socket in [&self.socket, other] {
            match self.duty_of(socket).await {
                Ok((client, PairDuty::Standby)) => spare = Ok(client),
                Ok((client, _)) => return Ok(client),
                Err(error) => spare = spare.map_err(|first| first.or(Some(error))),
            }
        }
        spare.map_err(|first| first.expect("two were asked, and neither answered"))
    }

    async fn connect_to(&self, socket: &Path) -> Result<Client, SiteError> {
        Ok(Client {
            site: self.clone(),
            socket: socket.to_owned(),
            sender: open(&self.name, socket).await?,
        })
    }

    async fn duty_of(&self, socket: &Path) -> Result<(Client, PairDuty), SiteError> {
        let asking = async {
            let mut client = self.connect_to(socket).await?;
            let duty = client.status().await?.identity.duty;
            // One that is no longer one of two serves the site by itself.
            Ok((client, duty.unwrap_or(PairDuty::Alone)))
        };
        let asked = tokio::time::timeout(CHOOSING, asking).await;
        asked.unwrap_or_else(|_| {
            Err(SiteError::Slow {
                site: self.name.clone(),
                waited: CHOOSING,
            })
        })
    }
}

/// Why a site gave no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// Nobody answers at the socket.
    #[error("site {site}: no forwarder answers at {}: {error}{}", socket.display(), hint(error))]
    Unreachable {
        /// The site.
        site: String,
        /// Its socket.
        socket: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The forwarder says no.
    #[error("site {site}: {text}")]
    Refused {
        /// The site.
        site: String,
        /// HTTP status of the answer.
        status: u16,
        /// Its reason.
        text: String,
    },
    /// The connection broke, or what came is not an answer of the control API.
    #[error("site {site}: {what}")]
    Broken {
        /// The site.
        site: String,
        /// What happened.
        what: String,
    },
    /// No answer came in time.
    #[error("site {site}: no answer within {waited:?}")]
    Slow {
        /// The site.
        site: String,
        /// How long it was waited for.
        waited: Duration,
    },
}

impl SiteError {
    /// Whether it is certain that the request changed nothing that lasts. A forwarder that
    /// breaks off, stops, or fails half-way (500) may have done some of it.
    pub fn changed_nothing(&self) -> bool {
        match self {
            SiteError::Unreachable { .. } => true,
            SiteError::Refused { status, .. } => matches!(status, 400..=499 | 502),
            SiteError::Broken { .. } | SiteError::Slow { .. } => false,
        }
    }

    /// The reason without the site's name.
    pub fn reason(&self) -> String {
        let text = self.to_string();
        match text.split_once(": ") {
            Some((_site, reason)) => reason.to_owned(),
            None => text,
        }
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; is matd running, and is this its control_socket?",
        io::ErrorKind::ConnectionRefused => "; its matd is not running",
        io::ErrorKind::PermissionDenied => "; run as root, or as a member of the socket's group",
        _ => "",
    }
}

/// One connection to a forwarder.
#[derive(Debug)]
pub struct Client {
    site: Site,
    /// The one of its sockets that this leads to.
    socket: PathBuf,
    sender: SendRequest<Full<Bytes>>,
}

impl Client {
    /// The site at the other end.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// Everything about the forwarder.
    ///
    /// # Errors
    /// See [`SiteError`]; so for all that follow.
    pub async fn status(&mut self) -> Result<Report, SiteError> {
        self.get("/v1/status").await
    }

    /// The same of a forwarder that serves its site.
    ///
    /// # Errors
    /// It is one of two gateways, and the other one is on duty.
    pub async fn on_duty(&mut self) -> Result<Report, SiteError> {
        let report = self.status().await?;
        if report.identity.duty == Some(PairDuty::Standby) {
            return Err(SiteError::Refused {
                site: self.site.name.clone(),
                status: StatusCode::MISDIRECTED_REQUEST.as_u16(),
                text: format!(
                    "the gateway at {} stands by for another one: give the socket of the one on \
                     duty",
                    self.socket.display()
                ),
            });
        }
        Ok(report)
    }

    /// What would become of a packet.
    pub async fn explain(&mut self, src: IpAddr, dst: IpAddr) -> Result<Explanation, SiteError> {
        self.get(&format!("/v1/explain?src={src}&dst={dst}")).await
    }

    /// One home; `None` if it is not attached there.
    pub async fn home(&mut self, home: Home) -> Result<Option<OwnStatus>, SiteError> {
        match self.get(&format!("/v1/homes/{home}")).await {
            Ok(status) => Ok(Some(status)),
            Err(SiteError::Refused { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Attaches an instance, and registers its binding if the body says so.
    pub async fn attach(&mut self, body: &AttachBody) -> Result<Activated, SiteError> {
        self.post("/v1/attach", body).await
    }

    /// Lets go of an instance.
    pub async fn detach(&mut self, body: &DetachBody) -> Result<Handover, SiteError> {
        self.post("/v1/detach", body).await
    }

    /// Reserves a locator for an instance that will come.
    pub async fn prepare(&mut self, body: &PrepareBody) -> Result<Prepared, SiteError> {
        self.post("/v1/prepare", body).await
    }

    /// What a detach would answer now; nothing is changed.
    pub async fn handover(&mut self, home: Home) -> Result<Handover, SiteError> {
        self.get(&format!("/v1/homes/{home}/handover")).await
    }

    /// Tells it what the binding of a home that it serves is now, for it to tell peers.
    pub async fn learn(&mut self, binding: &Binding) -> Result<(), SiteError> {
        self.post("/v1/learn", binding).await
    }

    /// Sees to the move of a home: as long as this is polled, and the forwarder runs.
    pub async fn attend(mut self, home: Home) {
        let path = format!("/v1/homes/{home}/attend");
        // It has no answer. If the forwarder goes, so does what it remembers of us.
        let _ = self.exchange(Method::POST, &path, Bytes::new()).await;
    }

    /// Publishes a prepared locator beside the one in use.
    pub async fn stand_by(&mut self, handover: Handover) -> Result<Binding, SiteError> {
        self.post("/v1/standby", &HandoverBody { handover }).await
    }

    /// Takes over an instance that was prepared.
    pub async fn activate(&mut self, handover: Handover) -> Result<Activated, SiteError> {
        self.post("/v1/activate", &HandoverBody { handover }).await
    }

    async fn get<A: DeserializeOwned>(&mut self, path: &str) -> Result<A, SiteError> {
        self.ask(Method::GET, path, Bytes::new()).await
    }

    async fn post<B: Serialize, A: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &B,
    ) -> Result<A, SiteError> {
        let body = serde_json::to_vec(body)
            .map_err(|error| self.broken(format!("cannot write the request: {error}")))?;
        self.ask(Method::POST, path, body.into()).await
    }

    async fn ask<A: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<A, SiteError> {
        let exchange = self.exchange(method, path, body);
        let (status, body) = match tokio::time::timeout(PATIENCE, exchange).await {
            Ok(answer) => answer?,
            Err(_) => {
                return Err(SiteError::Slow {
                    site: self.site.name.clone(),
                    waited: PATIENCE,
                });
            }
        };
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| {
                self.broken(format!(
                    "{path} is answered with something else than expected: {error}; \
                     are matctl and matd of the same version?"
                ))
            });
        }
        Err(SiteError::Refused {
            site: self.site.name.clone(),
            status: status.as_u16(),
            text: match serde_json::from_slice::<Fault>(&body) {
                Ok(fault) => fault.error,
                Err(_) => format!("{path} is answered with status {status}"),
            },
        })
    }

    async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), SiteError> {
        // A forwarder that was restarted meanwhile has closed the connection.
        if self.sender.ready().await.is_err() {
            self.sender = open(&self.site.name, &self.socket).await?;
        }
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "matd")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| self.broken(format!("cannot write the request: {error}")))?;
        let answer = self.sender.send_request(request).await;
        let answer = answer.map_err(|e| self.broken(format!("the connection broke: {e}")))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_MAX).collect().await;
        let body = body.map_err(|e| self.broken(format!("the answer broke off: {e}")))?;
        Ok((head.status, body.to_bytes()))
    }

    fn broken(&self, what: String) -> SiteError {
        SiteError::Broken {
            site: self.site.name.clone(),
            what,
        }
    }
}

/// What the control API answers when it says no.
#[derive(Deserialize)]
struct Fault {
    error: String,
}

async fn open(site: &str, socket: &Path) -> Result<SendRequest<Full<Bytes>>, SiteError> {
    let unreachable = |error| SiteError::Unreachable {
        site: site.to_owned(),
        socket: socket.to_owned(),
        error,
    };
    let stream = UnixStream::connect(socket).await.map_err(unreachable)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| unreachable(io::Error::other(error)))?;
    tokio::spawn(async move {
        // What breaks a connection is told to whoever waits for an answer on it.
        let _ = connection.await;
    });
    Ok(sender)
}

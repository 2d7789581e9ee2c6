//! The client of push (RFC 8765): bindings as they change, instead of asking again and again.
//!
//! A [`Subscriber`] keeps a session with one server as long as it lives, opens it again when it
//! breaks, and begins anew then: whatever has changed meanwhile comes with what is there. Between
//! sessions nothing is certain, and [`Subscriber::get`] says so; whoever asks, asks the servers
//! as before.
//!
//! # Limitations
//! TLS 1.3 only. The server is configured, not looked up (RFC 8765 section 6.1).

mod mirror;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::rr::Name;
use mat_proto::{Binding, Home};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{sleep, sleep_until, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{self, CertificateError, ClientConfig, RootCertStore};

use crate::server::tls::is_of_authority;
pub use mirror::Changed;
use mirror::{Mirror, Over};

/// A server has to be there, and take what is sent, within this time.
const PATIENCE: Duration = Duration::from_secs(5);
/// Before it is tried again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// A server that pushes.
#[derive(Clone)]
pub struct Endpoint {
    address: SocketAddr,
    name: ServerName<'static>,
    tls: TlsConnector,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({}, {:?})", self.address, self.name)
    }
}

impl Endpoint {
    /// The one at `address` that proves to be `name` with one of the certificates, or with one
    /// that one of them has signed.
    ///
    /// # Errors
    /// The text says what is wrong with the name or the certificates.
    pub fn new(address: SocketAddr, name: &str, certificates: &[Vec<u8>]) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            let added = roots.add(CertificateDer::from(certificate.clone()));
            added.map_err(|error| format!("no certificate of a server: {error}"))?;
        }
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = name.trim_end_matches('.').to_owned();
        Ok(Endpoint {
            address,
            name: ServerName::try_from(name).map_err(|error| error.to_string())?,
            tls: TlsConnector::from(Arc::new(config)),
        })
    }
}

/// The certificates in a PEM file.
///
/// # Errors
/// The text says what is wrong with it.
pub fn certificates(path: &Path) -> Result<Vec<Vec<u8>>, String> {
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let all = all.map_err(|error| format!("cannot be read: {error}"))?;
    match all.is_empty() {
        true => Err("holds no certificate in PEM form".to_owned()),
        false => Ok(all.iter().map(|certificate| certificate.to_vec()).collect()),
    }
}

/// How push is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// So many subscriptions are certain.
    Connected(usize),
    /// There is no session, and why.
    Away(String),
}

/// A session with a server, for as long as this lives.
pub struct Subscriber {
    inner: Arc<Inner>,
    running: JoinHandle<()>,
}

struct Inner {
    endpoint: Endpoint,
    mirror: Mutex<Mirror>,
    /// Something is wanted that was not before.
    wanted: Notify,
    away: Mutex<Option<String>>,
}

impl Subscriber {
    /// Subscribes to bindings of `zone` as they are asked for, and sends what changes into
    /// `news`. What [`Subscriber::get`] says is at most `age` old.
    pub fn start(
        zone: Name,
        endpoint: Endpoint,
        age: Duration,
        news: mpsc::Sender<Changed>,
    ) -> Self {
        Subscriber::run(Mirror::new(zone, age), endpoint, news)
    }

    /// Subscribes to all bindings of `zone` at `below` and below it. First comes what is there,
    /// and so again after each interruption, with what is gone.
    pub fn follow(
        zone: Name,
        below: &Name,
        endpoint: Endpoint,
        news: mpsc::Sender<Changed>,
    ) -> Self {
        let mut mirror = Mirror::new(zone, Duration::from_secs(10));
        mirror.follow(below);
        Subscriber::run(mirror, endpoint, news)
    }

    fn run(mirror: Mirror, endpoint: Endpoint, news: mpsc::Sender<Changed>) -> Self {
        let inner = Arc::new(Inner {
            endpoint,
            mirror: Mutex::new(mirror),
            wanted: Notify::new(),
            away: Mutex::new(Some("not connected yet".to_owned())),
        });
        let running = tokio::spawn(inner.clone().keep(news));
        Subscriber { inner, running }
    }

    /// The binding of a home, or that there is none, if push knows.
    pub fn get(&self, home: Home) -> Option<Option<Binding>> {
        let known = self.inner.mirror().get(home, Instant::now());
        if known.is_none() {
            self.inner.wanted.notify_one();
        }
        known
    }

    /// How it is doing.
    pub fn health(&self) -> Health {
        match &*self.inner.away() {
            Some(why) => Health::Away(why.clone()),
            None => Health::Connected(self.inner.mirror().subscriptions()),
        }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Inner {
    fn mirror(&self) -> MutexGuard<'_, Mirror> {
        self.mirror.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn away(&self) -> MutexGuard<'_, Option<String>> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn keep(self: Arc<Self>, news: mpsc::Sender<Changed>) {
        let server = self.endpoint.address;
        let (first, most) = RETRY;
        let mut wait = first;
        loop {
            let mut delay = wait;
            let why = match self.connect().await {
                Ok(stream) => {
                    self.mirror().connected();
                    let over = self.converse(stream, &news).await;
                    self.mirror().disconnected();
                    if self.away().is_none() {
                        // It was up: what has happened is no reason to wait for long.
                        (wait, delay) = (first, first);
                    }
                    if let End::Over(Over::Delay(asked)) = &over {
                        delay = (*asked).min(most);
                    }
                    match over {
                        End::Nobody => return,
                        End::Over(over) => over.to_string(),
                        End::Broken(error) => error.to_string(),
                    }
                }
                Err(why) => why,
            };
            let before = self.away().replace(why.clone());
            if before.as_ref() != Some(&why) {
                tracing::warn!(%server, %why, "no push: asking instead");
            }
            sleep(delay).await;
            wait = (wait * 2).min(most);
        }
    }

    async fn connect(&self) -> Result<TlsStream<TcpStream>, String> {
        let Endpoint { address, name, tls } = &self.endpoint;
        let connecting = async {
            let stream = TcpStream::connect(*address).await?;
            stream.set_nodelay(true)?;
            tls.connect(name.clone(), stream).await
        };
        match timeout(PATIENCE, connecting).await {
            Ok(connected) => connected.map_err(|error| format!("{address}: {}", explain(&error))),
            Err(_) => Err(format!("{address} does not answer (or not by TLS)")),
        }
    }

    async fn converse(
        &self,
        mut stream: TlsStream<TcpStream>,
        news: &mpsc::Sender<Changed>,
    ) -> End {
        let mut received = Vec::new();
        loop {
            let deadline = match self.send(&mut stream).await {
                Ok(deadline) => deadline,
                Err(end) => return end,
            };
            let read = tokio::select! {
                read = stream.read_buf(&mut received) => read,
                () = self.wanted.notified() => continue,
                () = until(deadline) => continue,
                () = news.closed() => return End::Nobody,
            };
            match read {
                Ok(0) => return End::Broken(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) => return End::Broken(error),
            }
            let mut at = 0;
            while let Some(message) = message(&received[at..]) {
                let input = self.mirror().input(message);
                at += 2 + message.len();
                match input {
                    Ok(changed) => {
                        for changed in changed {
                            if news.send(changed).await.is_err() {
                                return End::Nobody;
                            }
                        }
                    }
                    Err(over) => return End::Over(over),
                }
            }
            received.drain(..at);
            if self.mirror().is_up() && self.away().take().is_some() {
                tracing::info!(server = %self.endpoint.address, "push");
            }
        }
    }

    /// Sends all there is to say, and tells until when there is nothing.
    async fn send(&self, stream: &mut TlsStream<TcpStream>) -> Result<Option<Instant>, End> {
        let mut octets = Vec::new();
        loop {
            let next = self.mirror().output(Instant::now());
            let Some(message) = next.map_err(End::Over)? else {
                break;
            };
            let length = u16::try_from(message.len()).unwrap_or_default();
            octets.extend(length.to_be_bytes());
            octets.extend(message);
        }
        if !octets.is_empty() {
            let sending = async {
                stream.write_all(&octets).await?;
                stream.flush().await
            };
            match timeout(PATIENCE, sending).await {
                Ok(sent) => sent.map_err(End::Broken)?,
                Err(_) => return Err(End::Over(Over::Silent)),
            }
        }
        Ok(self.mirror().deadline())
    }
}

/// What a server could say, for [`crate::exercise`].
pub(crate) fn exercise<'m>(zone: Name, messages: impl Iterator<Item = &'m [u8]>) {
    let mut now = Instant::now();
    let mut mirror = Mirror::new(zone.clone(), Duration::from_secs(1));
    mirror.follow(&zone);
    mirror.connected();
    for message in messages {
        while matches!(mirror.output(now), Ok(Some(_))) {}
        if mirror.input(message).is_err() {
            break;
        }
        now += Duration::from_millis(100);
    }
    mirror.disconnected();
}

/// What is wrong with a connection, and what to do if that is about the certificate.
fn explain(error: &io::Error) -> String {
    let inner = error
        .get_ref()
        .and_then(|e| e.downcast_ref::<rustls::Error>());
    let Some(rustls::Error::InvalidCertificate(fault)) = inner else {
        return error.to_string();
    };
    let mend = match fault {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "make a new one for mat-mapd, and copy it here"
        }
        CertificateError::BadSignature | CertificateError::UnknownIssuer => {
            "the server shows another certificate: copy the file that its `tls.certificate` names"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "write a name that it is for"
        }
        other if is_of_authority(other) => {
            "it is one of an authority: make it with basicConstraints=critical,CA:FALSE, as the \
             example configuration of mat-mapd does"
        }
        _ => "see the example configuration of mat-mapd",
    };
    format!("{error}; {mend}")
}

/// Why a conversation is over.
enum End {
    Over(Over),
    Broken(io::Error),
    /// Nobody wants to hear of changes any more.
    Nobody,
}

/// The first message in what was received, if it is whole.
fn message(received: &[u8]) -> Option<&[u8]> {
    let (length, rest) = received.split_first_chunk::<2>()?;
    rest.get(..u16::from_be_bytes(*length).into())
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

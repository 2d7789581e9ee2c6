//! The control API as something that can pause, and whose socket can be handed
//! on: whoever connects meanwhile waits, and nobody is refused.
//!
//! # Limitations
//! A connection that is kept for another request is closed by a pause, and a
//! request that is sent at that very moment is lost. While a move is under way
//! there is no pause.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::UnixStream;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};

/// A request that takes longer than this is not waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// After a connection could not be taken, for lack of descriptors for instance.
const REST: Duration = Duration::from_millis(100);

/// The control API on its socket.
pub struct Server {
    listener: UnixListener,
    router: Router,
    /// Dropping the sender ends the task.
    running: Option<(watch::Sender<()>, JoinHandle<()>)>,
}

impl Server {
    /// Answers requests that come to `listener` from now on.
    pub fn start(listener: UnixListener, router: Router) -> io::Result<Self> {
        let mut server = Server {
            listener,
            router,
            running: None,
        };
        server.resume()?;
        Ok(server)
    }

    /// Answers requests again, after [`Server::pause`].
    pub fn resume(&mut self) -> io::Result<()> {
        let listener = tokio::net::UnixListener::from_std(self.listener.try_clone()?)?;
        let (end, ending) = watch::channel(());
        let task = tokio::spawn(serve(listener, self.router.clone(), ending));
        self.running = Some((end, task));
        Ok(())
    }

    /// Takes no new connections and gives those that are there the time to end.
    pub async fn pause(&mut self) {
        if let Some((end, mut task)) = self.running.take() {
            drop(end);
            if tokio::time::timeout(PATIENCE, &mut task).await.is_err() {
                task.abort();
            }
        }
    }

    /// Ends it, requests under way included.
    pub fn stop(&mut self) {
        if let Some((_, task)) = self.running.take() {
            task.abort();
        }
    }

    /// Another descriptor of its socket.
    pub fn socket(&self) -> io::Result<OwnedFd> {
        self.listener.try_clone().map(OwnedFd::from)
    }
}

/// Takes connections until `ending` changes, and serves all it has taken.
async fn serve(
    listener: tokio::net::UnixListener,
    router: Router,
    mut ending: watch::Receiver<()>,
) {
    let mut connections = JoinSet::new();
    loop {
        let end = ending.clone();
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(converse(stream, router.clone(), end));
                }
                Err(error) => {
                    tracing::warn!("control socket: {error}");
                    tokio::time::sleep(REST).await;
                }
            },
            _ = connections.join_next(), if !connections.is_empty() => {}
            _ = ending.changed() => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Serves a connection. What its client does wrong is the client's own affair.
async fn converse(stream: UnixStream, router: Router, mut ending: watch::Receiver<()>) {
    let begun = Arc::new(Notify::new());
    let first = Arc::clone(&begun);
    let service = TowerToHyperService::new(router);
    let service = service_fn(move |request| {
        first.notify_one();
        service.call(request)
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = ending.changed() => {}
    }
    // Whoever has connected is about to ask.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = begun.notified() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

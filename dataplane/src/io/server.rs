//! The control API as something that can pause, and whose socket can be handed
//! on: whoever connects meanwhile waits, and nobody is refused.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::api::{self, Identity};
use super::control::Control;

/// A request that takes longer than this is not waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// The control API on its socket.
pub struct Server {
    listener: UnixListener,
    control: Arc<Control>,
    identity: Identity,
    running: Option<(oneshot::Sender<()>, JoinHandle<io::Result<()>>)>,
}

impl Server {
    /// Answers requests that come to `listener` from now on.
    pub fn start(
        listener: UnixListener,
        control: Arc<Control>,
        identity: Identity,
    ) -> io::Result<Self> {
        let mut server = Server {
            listener,
            control,
            identity,
            running: None,
        };
        server.resume()?;
        Ok(server)
    }

    /// Answers requests again, after [`Server::pause`].
    pub fn resume(&mut self) -> io::Result<()> {
        let listener = tokio::net::UnixListener::from_std(self.listener.try_clone()?)?;
        let (end, ended) = oneshot::channel();
        let until = async {
            // Dropped or told, both mean the end.
            let _ = ended.await;
        };
        let control = Arc::clone(&self.control);
        let task = tokio::spawn(api::serve(listener, control, self.identity.clone(), until));
        self.running = Some((end, task));
        Ok(())
    }

    /// Takes no new requests and gives those under way the time to end.
    pub async fn pause(&mut self) {
        if let Some((end, mut task)) = self.running.take() {
            // Fails only if it has ended by itself.
            let _ = end.send(());
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

//! DNS over UDP: one thread for each socket answers questions one after the other, as many as are
//! there, without waiting for anything; updates wait for the disk elsewhere.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::FutureExt as _;
use hickory_proto::op::OpCode;
use hickory_server::net::xfer::Protocol;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::Handler;
use super::batch::{Inbox, Outbox};
use super::counters::Cause;
use super::limit::Verdict;
use super::message::{Received, receive};
use super::reply::Way;
use crate::clock::unix_now;
use crate::writer::QUEUE;

/// How soon a thread notices that it is to end.
const PATIENCE: Duration = Duration::from_millis(200);

/// A thread that serves a socket.
pub(crate) struct Udp {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<()>>,
}

impl Udp {
    /// Serves `socket` until [`Udp::stop`].
    ///
    /// # Errors
    /// The system gives no thread, or the socket cannot be waited for.
    pub(crate) fn start(socket: UdpSocket, handler: Arc<Handler>) -> io::Result<Self> {
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let stop = Arc::new(AtomicBool::new(false));
        let port = Port {
            socket: Arc::new(socket),
            handler,
            updates: Arc::new(Semaphore::new(QUEUE)),
            runtime: Handle::current(),
        };
        let thread = std::thread::Builder::new().name("udp".to_owned()).spawn({
            let stop = stop.clone();
            move || port.serve(&stop)
        })?;
        Ok(Udp { stop, thread })
    }

    /// Whether it has ended although nobody wanted that.
    pub(crate) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Ends it.
    ///
    /// # Errors
    /// Why it had ended before.
    pub(crate) fn stop(self) -> io::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.join();
        ended.unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
    }
}

struct Port {
    socket: Arc<UdpSocket>,
    handler: Arc<Handler>,
    /// Updates that are under way: more than the writer takes are turned away unread.
    updates: Arc<Semaphore>,
    runtime: Handle,
}

impl Port {
    fn serve(&self, stop: &AtomicBool) -> io::Result<()> {
        let (mut inbox, mut outbox) = (Inbox::new(), Outbox::new());
        while !stop.load(Ordering::Relaxed) {
            let received = inbox.receive(&self.socket, |asked, from| {
                // Answers would go in circles.
                if from.port() == 0 {
                    return;
                }
                outbox.add(&self.socket, from, |answer| {
                    match self.handler.quickly(asked, from.ip(), answer) {
                        Some(verdict) => verdict != Verdict::Drop,
                        None => {
                            self.thoroughly(asked, from);
                            false
                        }
                    }
                });
            });
            outbox.send(&self.socket);
            match received {
                Err(error) if !is_passing(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn thoroughly(&self, asked: &[u8], from: SocketAddr) {
        let now = unix_now();
        let way = ByUdp {
            socket: self.socket.clone(),
            to: from,
        };
        let request = match receive(asked, from, Protocol::Udp) {
            Received::Request(request) => request,
            Received::Malformed(error, answer) => {
                self.handler.malformed(from, &error, now);
                // A header alone is as short as a truncated answer.
                if self.handler.admit(from.ip(), &self.handler.keys.get()) != Verdict::Drop {
                    send(&self.socket, &answer, from);
                }
                return;
            }
            Received::Nothing => return,
        };
        if request.metadata.op_code != OpCode::Update {
            // Nothing in it waits.
            let answered = self.handler.respond(&request, &way, now).now_or_never();
            debug_assert!(answered.is_some());
            return;
        }
        let Ok(permit) = self.updates.clone().try_acquire_owned() else {
            // It will be sent again, and there may be room then.
            return self.handler.counters.add(Cause::Busy);
        };
        let handler = self.handler.clone();
        self.runtime.spawn(async move {
            handler.respond(&request, &way, now).await;
            drop(permit);
        });
    }
}

/// What happens to a socket that goes on working: nothing came, or an ICMP error of an answer
/// to somebody who has gone.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable, TimedOut};
    use io::ErrorKind::{Interrupted, WouldBlock};
    matches!(
        error.kind(),
        WouldBlock
            | TimedOut
            | Interrupted
            | ConnectionRefused
            | HostUnreachable
            | NetworkUnreachable
    )
}

/// An answer that cannot be sent is a datagram lost.
fn send(socket: &UdpSocket, answer: &[u8], to: SocketAddr) {
    if let Err(error) = socket.send_to(answer, to) {
        tracing::debug!(%to, %error, "an answer was not sent");
    }
}

/// Where an answer goes.
struct ByUdp {
    socket: Arc<UdpSocket>,
    to: SocketAddr,
}

impl Way for ByUdp {
    async fn send(&self, message: Vec<u8>) -> bool {
        send(&self.socket, &message, self.to);
        true
    }
}

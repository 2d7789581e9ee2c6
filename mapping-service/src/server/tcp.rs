//! DNS over TCP (RFC 7766): how many may connect, how long they may take, and how much may wait
//! for them.
//!
//! Requests of one connection are worked on side by side and answered as they are ready (section
//! 7). Whoever does not read his answers is not read any further, and cut off.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hickory_server::net::xfer::Protocol;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::Handler;
use super::counters::Cause;
use super::message::{Received, receive};
use super::reply::Way;
use crate::clock::unix_now;

/// Connections in all: a descriptor and some KiB each.
const CONNECTIONS: usize = 4096;
/// Of one client; an IPv6 client has a whole /64.
const PER_CLIENT: usize = 64;
/// A request has to be there by then, and an answer to be taken.
const IDLE: Duration = Duration::from_secs(10);
/// Requests of one connection that are worked on, and answers that wait for it.
const AT_ONCE: usize = 16;
/// How long those that are being answered are waited for at the end.
const PARTING: Duration = Duration::from_secs(2);
/// Until there may be descriptors again.
const REST: Duration = Duration::from_millis(100);

/// A listener that is served.
pub(crate) struct Tcp {
    stop: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl Tcp {
    /// Serves `listener` until [`Tcp::stop`].
    pub(crate) fn start(listener: TcpListener, handler: Arc<Handler>) -> Self {
        let (stop, stopping) = watch::channel(false);
        let accepting = tokio::spawn(accept(listener, handler, stopping));
        Tcp { stop, accepting }
    }

    /// Whether it has ended although nobody wanted that.
    pub(crate) fn has_ended(&self) -> bool {
        self.accepting.is_finished()
    }

    /// Accepts nobody any more, and answers what has been asked.
    pub(crate) async fn stop(self) {
        self.stop.send_replace(true);
        // If it has panicked it has stopped.
        let _ = self.accepting.await;
    }
}

async fn accept(listener: TcpListener, handler: Arc<Handler>, mut stopping: watch::Receiver<bool>) {
    let guests = Arc::new(Guests::default());
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_ended) = connections.join_next() => continue,
            _ = stopping.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((stream, from)) => match Guests::admit(&guests, from.ip()) {
                Some(guest) => {
                    let serving = serve(stream, from, handler.clone(), stopping.clone());
                    connections.spawn(async move {
                        serving.await;
                        drop(guest);
                    });
                }
                None => handler.counters.add(Cause::TcpRefused),
            },
            Err(error) => {
                handler.counters.add(Cause::TcpRefused);
                if handler.quiet.may_speak(unix_now()) {
                    tracing::warn!(%error, "a connection cannot be accepted");
                }
                sleep(REST).await;
            }
        }
    }
    let parting = async { while connections.join_next().await.is_some() {} };
    // Whoever is not done by then is cut off.
    let _late = timeout(PARTING, parting).await;
}

/// Who is connected.
#[derive(Debug, Default)]
struct Guests(Mutex<HashMap<IpAddr, usize>>);

/// One of them, until dropped.
#[derive(Debug)]
struct Guest {
    of: Arc<Guests>,
    client: IpAddr,
}

impl Guests {
    fn admit(this: &Arc<Self>, ip: IpAddr) -> Option<Guest> {
        let client = match ip {
            IpAddr::V4(_) => ip,
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !0 << 64).into(),
        };
        let mut guests = this.lock();
        let all: usize = guests.values().sum();
        let own = guests.get(&client).copied().unwrap_or(0);
        if all >= CONNECTIONS || own >= PER_CLIENT {
            return None;
        }
        guests.insert(client, own + 1);
        Some(Guest {
            of: this.clone(),
            client,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut guests = self.of.lock();
        if let Some(own) = guests.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                guests.remove(&self.client);
            }
        }
    }
}

async fn serve(
    stream: TcpStream,
    from: SocketAddr,
    handler: Arc<Handler>,
    mut stopping: watch::Receiver<bool>,
) {
    // Answers are small, and waited for.
    let _at_worst_slower = stream.set_nodelay(true);
    let (mut reader, writer) = stream.into_split();
    let (answers, waiting) = mpsc::channel(AT_ONCE);
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    // All of it ends with this task.
    let mut tasks = JoinSet::new();
    tasks.spawn(write(writer, waiting));
    loop {
        let next = async {
            // Closed only by its owner, which is here.
            let slot = slots.clone().acquire_owned().await.ok()?;
            let message = timeout(IDLE, read(&mut reader)).await.ok()?.ok()?;
            Some((slot, message))
        };
        let next = tokio::select! {
            next = next => next,
            () = answers.closed() => None,
            _ = stopping.wait_for(|stop| *stop) => None,
        };
        let Some((slot, octets)) = next else {
            break;
        };
        let now = unix_now();
        match receive(&octets, from, Protocol::Tcp) {
            Received::Request(request) => {
                let (handler, way) = (handler.clone(), ByTcp(answers.clone()));
                tasks.spawn(async move {
                    handler.respond(&request, &way, now).await;
                    drop(slot);
                });
            }
            Received::Malformed(error, answer) => {
                handler.malformed(from, &error, now);
                // Where the next message begins is anybody's guess.
                let _gone = answers.send(answer).await;
                break;
            }
            Received::Nothing => {}
        }
        while tasks.try_join_next().is_some() {}
    }
    drop(answers);
    while tasks.join_next().await.is_some() {}
}

/// A message and its length before it (section 8).
async fn read(reader: &mut OwnedReadHalf) -> io::Result<Vec<u8>> {
    let length = reader.read_u16().await?;
    let mut octets = vec![0; length.into()];
    reader.read_exact(&mut octets).await?;
    Ok(octets)
}

/// Writes answers until there are no more, or they are not taken.
async fn write(mut writer: OwnedWriteHalf, mut waiting: mpsc::Receiver<Vec<u8>>) {
    while let Some(answer) = waiting.recv().await {
        let Ok(length) = u16::try_from(answer.len()) else {
            return;
        };
        // In one piece: the length alone would be a segment.
        let message = [&length.to_be_bytes(), answer.as_slice()].concat();
        if !matches!(timeout(IDLE, writer.write_all(&message)).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// Where answers go.
struct ByTcp(mpsc::Sender<Vec<u8>>);

impl Way for ByTcp {
    async fn send(&self, message: Vec<u8>) -> bool {
        self.0.send(message).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_its_share_of_connections_and_no_more() {
        let guests = Arc::new(Guests::default());
        let ip = |text: &str| text.parse().unwrap();
        let admit = |ip| Guests::admit(&guests, ip);
        let mut own: Vec<Guest> = (0..PER_CLIENT)
            .map(|n| admit(ip(&format!("2001:db8::{n:x}"))).unwrap())
            .collect();
        assert!(admit(ip("2001:db8::ffff:1")).is_none());
        let other = admit(ip("2001:db8:0:1::1")).unwrap();
        own.pop();
        own.push(admit(ip("2001:db8::ffff:1")).unwrap());
        drop((own, other));
        assert!(guests.lock().is_empty());

        let crowd: Vec<Guest> = (0..CONNECTIONS)
            .map(|n| admit(ip(&format!("192.0.2.{}", n % 250))))
            .map_while(|guest| guest)
            .collect();
        assert_eq!(crowd.len(), CONNECTIONS);
        assert!(admit(ip("198.51.100.1")).is_none());
        assert_eq!(guests.lock().len(), 250);
    }
}

//! DNS over TCP (RFC 7766) and over TLS (RFC 7858): how many may connect, how long they may take,
//! and how much may wait for them.
//!
//! Requests of one connection are worked on side by side and answered as they are ready (section
//! 7). Whoever does not read his answers is not read any further, and cut off. When all
//! connections are taken, whoever would be the first to be cut off makes room. Over TLS a connection
//! may become a [`Session`].

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hickory_server::net::xfer::Protocol;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle, JoinSet, yield_now};
use tokio::time::{sleep, timeout};

use super::Handler;
use super::counters::Cause;
use super::message::{Received, receive};
use super::reply::Way;
use super::session::{Aborted, Outgoing, Session};
use super::tls::Certificate;
use crate::clock::unix_now;
use crate::dso;
use crate::push::{Mailbox, PIECE, Waiting};

/// Connections in all: a descriptor and some KiB each.
pub(crate) const CONNECTIONS: usize = 4096;
/// The same over TLS, where they stay.
pub(crate) const SESSIONS: usize = 16_384;
/// Of one client, unless the configuration says otherwise (TLS); an IPv6 client has a whole /64.
pub(crate) const PER_CLIENT: usize = 64;
/// A request has to be there by then, and an answer to be taken.
const IDLE: Duration = Duration::from_secs(10);
/// Octets that the kernel holds for a connection and cannot send yet: it would take megabytes, and
/// what changes again while it waits with us is told once.
const UNSENT: u32 = 64 << 10;
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
    /// Serves whoever comes to `door` until [`Tcp::stop`].
    pub(crate) fn start(listener: TcpListener, door: Door) -> Self {
        let (stop, stopping) = watch::channel(false);
        let accepting = tokio::spawn(accept(listener, door, stopping));
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

/// What is behind a listener.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) handler: Arc<Handler>,
    /// Over TLS: what proves who we are.
    pub(crate) certificate: Option<Arc<Certificate>>,
    /// Connections in all.
    pub(crate) at_most: usize,
    /// Connections of one client.
    pub(crate) per_client: usize,
}

impl Door {
    async fn enter(
        self,
        stream: TcpStream,
        from: SocketAddr,
        guest: Arc<Guest>,
        stopping: watch::Receiver<bool>,
    ) {
        // Answers are small, and waited for.
        let _at_worst_slower = stream.set_nodelay(true);
        let _at_worst_older = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT);
        let Some(certificate) = &self.certificate else {
            return serve(stream, from, self, guest, stopping).await;
        };
        match timeout(IDLE, certificate.acceptor().accept(stream)).await {
            Ok(Ok(stream)) => serve(stream, from, self, guest, stopping).await,
            failed => {
                self.handler.counters.add(Cause::TlsFailed);
                if self.handler.quiet.may_speak(unix_now()) {
                    let why = match failed {
                        Ok(Err(error)) => error.to_string(),
                        _ => "it takes too long".to_owned(),
                    };
                    tracing::warn!(%from, %why, "no TLS connection");
                }
            }
        }
    }
}

async fn accept(listener: TcpListener, door: Door, mut stopping: watch::Receiver<bool>) {
    let handler = door.handler.clone();
    let guests = Arc::new(Guests::new(door.at_most, door.per_client));
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
                    let guest = Arc::new(guest);
                    let door = door.clone();
                    let serving = door.enter(stream, from, guest.clone(), stopping.clone());
                    guest.seat(connections.spawn(serving));
                    if guests.make_room() {
                        handler.counters.add(Cause::TcpDisplaced);
                    }
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
#[derive(Debug)]
struct Guests {
    at_most: usize,
    per_client: usize,
    here: Mutex<Here>,
}

#[derive(Debug, Default)]
struct Here {
    /// How many of each client.
    clients: HashMap<IpAddr, usize>,
    /// What ends each, in the order in which they are cut off unless they say something.
    seats: BTreeMap<Seat, AbortHandle>,
    /// How many there have been.
    count: u64,
}

/// When a guest is cut off if he says nothing, and which one he is.
type Seat = (Instant, u64);

/// One of them, until dropped.
#[derive(Debug)]
struct Guest {
    of: Arc<Guests>,
    client: IpAddr,
    /// Changed under the lock of [`Guests`] only.
    seat: Mutex<Seat>,
}

impl Guests {
    fn new(at_most: usize, per_client: usize) -> Self {
        Guests {
            at_most,
            per_client,
            here: Mutex::default(),
        }
    }

    fn admit(this: &Arc<Self>, ip: IpAddr) -> Option<Guest> {
        let client = client_of(ip);
        let mut here = this.lock();
        let own = here.clients.get(&client).copied().unwrap_or(0);
        let full = here.seats.len() >= this.at_most && !here.one_can_go();
        if full || own >= this.per_client {
            return None;
        }
        here.clients.insert(client, own + 1);
        here.count += 1;
        let seat = Mutex::new((Instant::now() + IDLE, here.count));
        Some(Guest {
            of: this.clone(),
            client,
            seat,
        })
    }

    /// If there are too many, whoever would be cut off first is now; whether there were.
    fn make_room(&self) -> bool {
        let mut here = self.lock();
        if here.seats.len() <= self.at_most {
            return false;
        }
        let first = here.seats.pop_first();
        first.inspect(|(_, end)| end.abort()).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Here> {
        self.here.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Here {
    /// Whether anybody may be cut off in favour of another: no session that is kept up, which
    /// has more time than those who only ask.
    fn one_can_go(&self) -> bool {
        let first = self.seats.first_key_value();
        first.is_some_and(|((until, _), _)| *until <= Instant::now() + IDLE)
    }
}

impl Guest {
    /// `end` ends him.
    fn seat(&self, end: AbortHandle) {
        self.of.lock().seats.insert(*self.own(), end);
    }

    /// He has said something, or taken what was said, and has so much time again.
    fn stay(&self, patience: Duration) {
        let mut here = self.of.lock();
        let mut own = self.own();
        let until = own.0.max(Instant::now() + patience);
        if let Some(end) = here.seats.remove(&*own) {
            own.0 = until;
            here.seats.insert(*own, end);
        }
    }

    fn own(&self) -> MutexGuard<'_, Seat> {
        self.seat.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What stands for a client: its address, or its /64.
pub(super) fn client_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !0 << 64).into(),
        ip => ip,
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut here = self.of.lock();
        here.seats.remove(&*self.own());
        if let Some(own) = here.clients.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                here.clients.remove(&self.client);
            }
        }
    }
}

async fn serve<S>(
    stream: S,
    from: SocketAddr,
    door: Door,
    guest: Arc<Guest>,
    mut stopping: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let handler = door.handler;
    let (mut reader, writer) = split(stream);
    let (answers, waiting) = mpsc::channel(AT_ONCE);
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    let mut session = door
        .certificate
        .is_some()
        .then(|| Session::new(handler.clone(), from));
    // All of it ends with this task.
    let mut tasks = JoinSet::new();
    let mailbox = session.as_ref().map(Session::mailbox);
    let pen = Pen {
        writer,
        handler: handler.clone(),
        guest: guest.clone(),
    };
    tasks.spawn(write(pen, waiting, mailbox));
    loop {
        let patience = session.as_ref().and_then(Session::patience).unwrap_or(IDLE);
        guest.stay(patience);
        let next = async {
            // Closed only by its owner, which is here.
            let slot = slots.clone().acquire_owned().await.ok()?;
            let message = timeout(patience, read(&mut reader)).await.ok()?.ok()?;
            Some((slot, message))
        };
        let next = tokio::select! {
            next = next => next,
            () = answers.closed() => None,
            () = told(&mut stopping) => {
                if let Some(goodbye) = session.as_ref().and_then(Session::goodbye) {
                    let _gone = answers.send(goodbye).await;
                }
                None
            }
        };
        let Some((slot, octets)) = next else {
            break;
        };
        if let Some(session) = &mut session
            && dso::is_dso(&octets)
        {
            match session.handle(&octets) {
                Ok(outgoing) => {
                    for outgoing in outgoing {
                        // Whoever is gone is noticed above.
                        let _gone = answers.send(outgoing).await;
                    }
                    continue;
                }
                Err(Aborted) => break,
            }
        }
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
                let _gone = answers.send(Outgoing::Message(answer)).await;
                break;
            }
            Received::Nothing => {}
        }
        while tasks.try_join_next().is_some() {}
    }
    drop(answers);
    while tasks.join_next().await.is_some() {}
}

/// Waits until it is time to end.
async fn told(stopping: &mut watch::Receiver<bool>) {
    // If whoever tells is gone, so it is.
    let _gone = stopping.wait_for(|stop| *stop).await;
}

/// A message and its length before it (section 8).
async fn read(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let length = reader.read_u16().await?;
    let mut octets = vec![0; length.into()];
    reader.read_exact(&mut octets).await?;
    Ok(octets)
}

/// Writes what is to be sent until there is no more, or it is not taken.
async fn write(
    mut pen: Pen<impl AsyncWrite + Unpin>,
    mut waiting: mpsc::Receiver<Outgoing>,
    mailbox: Option<Arc<Mailbox>>,
) {
    loop {
        let changed = async {
            match &mailbox {
                Some(mailbox) => mailbox.take().await,
                None => std::future::pending().await,
            }
        };
        let changed = tokio::select! {
            outgoing = waiting.recv() => match outgoing {
                Some(outgoing) => match pen.write(outgoing).await {
                    Some(()) => continue,
                    None => return,
                },
                None => break,
            },
            changed = changed => changed,
        };
        // That a subscription is accepted comes before what changes.
        while let Ok(outgoing) = waiting.try_recv() {
            if pen.write(outgoing).await.is_none() {
                return;
            }
        }
        if pen.tell(changed).await.is_none() {
            return;
        }
    }
    // Over TLS it says that this was all.
    let _gone = timeout(IDLE, pen.writer.shutdown()).await;
}

/// The writing half of a connection.
struct Pen<W> {
    writer: W,
    handler: Arc<Handler>,
    guest: Arc<Guest>,
}

impl<W: AsyncWrite + Unpin> Pen<W> {
    async fn write(&mut self, outgoing: Outgoing) -> Option<()> {
        match outgoing {
            Outgoing::Message(message) => self.message(&message).await,
            Outgoing::State(subscription) => {
                let handler = self.handler.clone();
                let mut from = Some(subscription.name.clone());
                while let Some(name) = from {
                    // Whoever looks through many names takes turns, and lets others in between.
                    let turn = handler.walks.acquire().await;
                    let messages;
                    (messages, from) = handler.state(&subscription, &name);
                    drop(turn);
                    self.messages(messages).await?;
                    yield_now().await;
                }
                Some(())
            }
        }
    }

    /// What has changed.
    async fn tell(&mut self, changed: Waiting) -> Option<()> {
        if changed.overrun {
            self.handler.counters.add(Cause::PushOverrun);
            return None;
        }
        let sets: Vec<_> = changed.sets.into_iter().collect();
        for some in sets.chunks(PIECE) {
            self.messages(self.handler.news(some)).await?;
        }
        Some(())
    }

    async fn messages(&mut self, messages: Vec<Vec<u8>>) -> Option<()> {
        for message in messages {
            self.message(&message).await?;
            self.handler.counters.add(Cause::Pushed);
        }
        Some(())
    }

    async fn message(&mut self, message: &[u8]) -> Option<()> {
        let length = u16::try_from(message.len()).ok()?;
        // In one piece: the length alone would be a segment.
        let message = [&length.to_be_bytes(), message].concat();
        let written = async {
            self.writer.write_all(&message).await?;
            self.writer.flush().await
        };
        let Ok(written) = timeout(IDLE, written).await else {
            self.handler.counters.add(Cause::Unread);
            return None;
        };
        written.ok()?;
        self.guest.stay(IDLE);
        Some(())
    }
}

/// Where answers go.
struct ByTcp(mpsc::Sender<Outgoing>);

impl Way for ByTcp {
    async fn send(&self, message: Vec<u8>) -> bool {
        self.0.send(Outgoing::Message(message)).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_client_has_its_share_of_connections_and_no_more() {
        let guests = Arc::new(Guests::new(CONNECTIONS, PER_CLIENT));
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
        assert!(guests.lock().clients.is_empty());
    }

    #[tokio::test]
    async fn whoever_would_be_cut_off_first_makes_room_but_for_sessions() {
        let guests = Arc::new(Guests::new(3, PER_CLIENT));
        let mut connections = JoinSet::new();
        let mut enter = |n: u8| {
            let guest = Guests::admit(&guests, [192, 0, 2, n].into())?;
            guest.seat(connections.spawn(std::future::pending::<()>()));
            Some((guest, guests.make_room()))
        };
        let crowd: Vec<Guest> = (0..3)
            .map(|n| enter(n).unwrap())
            .map(|(guest, displaces)| {
                assert!(!displaces);
                guest
            })
            .collect();
        // The oldest says something: the second one has to go.
        crowd[0].stay(IDLE);
        let (new, displaces) = enter(3).unwrap();
        assert!(displaces);
        let here = |guest: &Guest| guests.lock().seats.contains_key(&*guest.own());
        let left = [&crowd[0], &crowd[1], &crowd[2], &new].map(here);
        assert_eq!(left, [true, false, true, true]);
        for guest in crowd.iter().chain([&new]) {
            guest.stay(2 * IDLE);
        }
        assert!(enter(4).is_none());
        drop((crowd, new));
        assert!(guests.lock().clients.is_empty() && guests.lock().seats.is_empty());
        let ended = connections.join_next().await.unwrap();
        assert!(ended.unwrap_err().is_cancelled());
    }
}

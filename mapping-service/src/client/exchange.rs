//! One request, one believed answer: retransmission, several servers, TCP
//! where UDP is too small, and the decision which answers to believe.
//!
//! An answer counts if it comes from the server asked, to our random port, with
//! our random id and our question, and, when we signed, with a valid TSIG.
//! Anything else may be forged: it never ends the wait, but if nothing better
//! comes until the try is over, what it said is the best explanation we have.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use hickory_proto::ProtoError;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::SVCB;
use hickory_proto::rr::rdata::tsig::TsigError;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use mat_proto::{Binding, Whose};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::{AuthFault, MapError, Timing, refused};
use crate::clock::unix_now;
use crate::tsig::{Fault, Link, Stamp, TsigKey};

/// Most bytes of a zone transfer that are kept: about two million bindings.
const TRANSFER_LIMIT: usize = 256 << 20;

/// A request in its final bytes: every retransmission sends exactly these.
pub(super) struct Request {
    wire: Vec<u8>,
    id: u16,
    op: OpCode,
    question: Query,
    /// Our key, and the MAC the answer's MAC continues.
    auth: Option<(TsigKey, Vec<u8>)>,
}

impl Request {
    /// Encodes `message` (one question) and signs it if there is a key.
    pub(super) fn new(
        mut message: Message,
        key: Option<TsigKey>,
        now: u64,
    ) -> Result<Self, ProtoError> {
        let id = message.metadata.id;
        let op = message.metadata.op_code;
        let question = message
            .queries
            .first()
            .cloned()
            .ok_or_else(|| ProtoError::from("no question"))?;
        let mut auth = None;
        if let Some(key) = key {
            let unsigned = message.to_vec()?;
            let tsig = key.sign(&unsigned, None, Link::First, Stamp::new(id, now))?;
            auth = Some((key, tsig.data.mac.clone()));
            message.set_signature(tsig);
        }
        Ok(Request {
            wire: message.to_vec()?,
            id,
            op,
            question,
            auth,
        })
    }
}

/// An answer that is believed.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) message: Message,
    pub(super) verified: bool,
    pub(super) server: SocketAddr,
    /// How often the request was sent before it came.
    pub(super) sent: u32,
}

/// What one received message is worth.
enum Verdict {
    /// Believed.
    Final(Box<Message>, bool),
    /// Believed, and it does not fit UDP.
    Truncated,
    /// Believed, and it ends the matter.
    Hard(MapError),
    /// Perhaps forged, or another server may do better.
    Soft(MapError),
    /// Nothing to do with our request.
    Stray,
}

fn judge(request: &Request, wire: &[u8], server: SocketAddr, now: u64) -> Verdict {
    let Ok(message) = Message::from_vec(wire) else {
        return Verdict::Stray;
    };
    let meta = &message.metadata;
    let ours = meta.id == request.id
        && meta.message_type == MessageType::Response
        && meta.op_code == request.op;
    let code = meta.response_code;
    // Servers may leave the question out of an UPDATE answer (RFC 2136 section
    // 3.8) and out of error answers.
    let question = match message.queries.as_slice() {
        [] => request.op == OpCode::Update || code != ResponseCode::NoError,
        [q] => *q == request.question,
        _ => false,
    };
    if !ours || !question {
        return Verdict::Stray;
    }
    let verified = match &request.auth {
        None => false,
        Some((key, mac)) => match signed_by(key, mac, wire, &message, now) {
            Ok(()) => true,
            Err(Distrust::Known(reason)) => {
                return Verdict::Hard(MapError::NotAuth { server, reason });
            }
            Err(Distrust::Perhaps(reason)) if code == ResponseCode::NotAuth => {
                return Verdict::Soft(MapError::NotAuth { server, reason });
            }
            Err(Distrust::Perhaps(reason)) => {
                return Verdict::Soft(match code {
                    ResponseCode::NoError | ResponseCode::NXDomain => {
                        MapError::NotAuth { server, reason }
                    }
                    code => refused(server, code),
                });
            }
        },
    };
    match code {
        ResponseCode::ServFail | ResponseCode::NotImp | ResponseCode::FormErr => {
            Verdict::Soft(refused(server, code))
        }
        _ if message.metadata.truncation => Verdict::Truncated,
        _ => Verdict::Final(Box::new(message), verified),
    }
}

enum Distrust {
    /// A valid signature says so.
    Known(AuthFault),
    /// Anybody may have said so.
    Perhaps(AuthFault),
}

fn signed_by(
    key: &TsigKey,
    mac: &[u8],
    wire: &[u8],
    message: &Message,
    now: u64,
) -> Result<(), Distrust> {
    let Some(tsig) = message.signature() else {
        return Err(Distrust::Perhaps(AuthFault::Unsigned));
    };
    match key.verify(wire, Some(mac), Link::First) {
        Ok(signature) if signature.error == Some(TsigError::BadTime) => {
            let theirs = signature.server_time().unwrap_or(signature.time);
            let off = theirs as i64 - now as i64;
            Err(Distrust::Known(AuthFault::BadTime { off }))
        }
        Ok(signature) if !signature.fresh(now) => {
            let off = signature.time as i64 - now as i64;
            Err(Distrust::Known(AuthFault::BadTime { off }))
        }
        Ok(_) => Ok(()),
        Err(Fault::Unsigned | Fault::BadKey | Fault::BadSig | Fault::Truncated) => {
            Err(Distrust::Perhaps(match tsig.data.error {
                Some(TsigError::BadKey) => AuthFault::BadKey,
                Some(TsigError::BadSig) => AuthFault::BadSig,
                _ => AuthFault::Unsigned,
            }))
        }
    }
}

/// Sends `request` until an answer is believed or the deadline has passed. All
/// sockets stay open meanwhile, so a late answer still counts.
pub(super) async fn exchange(
    servers: &[SocketAddr],
    request: &Request,
    timing: Timing,
) -> Result<Answer, MapError> {
    if servers.is_empty() {
        return Err(MapError::Request(
            "no mapping service is configured".to_owned(),
        ));
    }
    let deadline = Instant::now() + timing.deadline;
    let mut sockets: Vec<Option<Arc<UdpSocket>>> = vec![None; servers.len()];
    let mut answers = FuturesUnordered::new();
    let mut sent = 0;
    let mut network = None;
    'rounds: loop {
        let mut soft = None;
        for (i, &server) in servers.iter().enumerate() {
            let until = deadline.min(Instant::now() + timing.per_try);
            let last = i + 1 == servers.len();
            if sockets[i].is_none() {
                match open(server).await {
                    Ok(socket) => {
                        answers.push(receive(i, socket.clone()));
                        sockets[i] = Some(socket);
                    }
                    Err(error) => network = Some(MapError::Network { server, error }),
                }
            }
            if let Some(socket) = &sockets[i] {
                match socket.send(&request.wire).await {
                    Ok(_) => sent += 1,
                    Err(error) => network = Some(MapError::Network { server, error }),
                }
            }
            loop {
                let (from, socket, result) = match timeout_at(until, answers.next()).await {
                    Ok(Some(received)) => received,
                    Ok(None) if last => {
                        sleep_until(until).await;
                        break;
                    }
                    Ok(None) | Err(_) => break,
                };
                answers.push(receive(from, socket));
                let server = servers[from];
                let wire = match result {
                    Ok(wire) => wire,
                    // Refused: at once to the next server; after the last one
                    // the try is waited out, the service may be restarting.
                    Err(error) => {
                        network = Some(MapError::Network { server, error });
                        if last {
                            continue;
                        }
                        break;
                    }
                };
                match judge(request, &wire, server, unix_now()) {
                    Verdict::Stray => {}
                    Verdict::Final(message, verified) => {
                        return Ok(Answer {
                            message: *message,
                            verified,
                            server,
                            sent,
                        });
                    }
                    Verdict::Hard(error) => return Err(error),
                    Verdict::Soft(error) => soft = Some(error),
                    Verdict::Truncated => {
                        let answer = over_tcp(server, request, sent + 1);
                        return timeout_at(deadline, answer)
                            .await
                            .unwrap_or_else(|_| Err(timed_out(&[server], timing.deadline)));
                    }
                }
            }
            if Instant::now() >= deadline {
                break 'rounds Err(soft
                    .or(network)
                    .unwrap_or_else(|| timed_out(servers, timing.deadline)));
            }
        }
        if let Some(error) = soft {
            break Err(error);
        }
    }
}

fn timed_out(servers: &[SocketAddr], waited: Duration) -> MapError {
    let servers: Vec<String> = servers.iter().map(SocketAddr::to_string).collect();
    MapError::Timeout {
        servers: servers.join(", "),
        waited,
    }
}

/// A socket of its own for each request: the kernel picks a random port, and
/// only the server's datagrams arrive on a connected socket.
async fn open(server: SocketAddr) -> std::io::Result<Arc<UdpSocket>> {
    let any: SocketAddr = if server.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    Ok(Arc::new(socket))
}

async fn receive(
    from: usize,
    socket: Arc<UdpSocket>,
) -> (usize, Arc<UdpSocket>, std::io::Result<Vec<u8>>) {
    let mut buffer = vec![0; 4096];
    let result = socket.recv(&mut buffer).await.map(|len| {
        buffer.truncate(len);
        buffer
    });
    (from, socket, result)
}

async fn over_tcp(server: SocketAddr, request: &Request, sent: u32) -> Result<Answer, MapError> {
    let network = |error| MapError::Network { server, error };
    let mut stream = connect_and_send(server, request).await.map_err(network)?;
    let wire = read_framed(&mut stream).await.map_err(network)?;
    match judge(request, &wire, server, unix_now()) {
        Verdict::Final(message, verified) => Ok(Answer {
            message: *message,
            verified,
            server,
            sent,
        }),
        Verdict::Hard(error) | Verdict::Soft(error) => Err(error),
        Verdict::Truncated | Verdict::Stray => Err(MapError::Useless {
            server,
            what: "over TCP neither whole nor to our question",
        }),
    }
}

async fn connect_and_send(server: SocketAddr, request: &Request) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(server).await?;
    let mut framed = (request.wire.len() as u16).to_be_bytes().to_vec();
    framed.extend_from_slice(&request.wire);
    stream.write_all(&framed).await?;
    Ok(stream)
}

async fn read_framed(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let len = stream.read_u16().await?;
    let mut wire = vec![0; len.into()];
    stream.read_exact(&mut wire).await?;
    Ok(wire)
}

/// All records of an AXFR answer (RFC 5936), its first and last SOA included,
/// from the first server that gives it. `patience` is the wait for each message.
pub(super) async fn transfer(
    servers: &[SocketAddr],
    request: &Request,
    patience: Duration,
) -> Result<(SocketAddr, Vec<Record>), MapError> {
    let mut failure = MapError::Request("no mapping service is configured".to_owned());
    for &server in servers {
        match transfer_from(server, request, patience).await {
            Ok(records) => return Ok((server, records)),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

async fn transfer_from(
    server: SocketAddr,
    request: &Request,
    patience: Duration,
) -> Result<Vec<Record>, MapError> {
    let network = |error| MapError::Network { server, error };
    let useless = |what| MapError::Useless { server, what };
    let late = || timed_out(&[server], patience);
    let mut stream = timeout(patience, connect_and_send(server, request))
        .await
        .map_err(|_| late())?
        .map_err(network)?;
    let mut records: Vec<Record> = Vec::new();
    let mut prior: Option<Vec<u8>> = None;
    let mut bytes = 0;
    loop {
        let wire = timeout(patience, read_framed(&mut stream))
            .await
            .map_err(|_| late())?
            .map_err(network)?;
        bytes += wire.len();
        if bytes > TRANSFER_LIMIT {
            return Err(useless("the zone is larger than this client takes"));
        }
        let message = match (&prior, &request.auth) {
            (None, _) => match judge(request, &wire, server, unix_now()) {
                Verdict::Final(message, _) => *message,
                Verdict::Hard(error) | Verdict::Soft(error) => return Err(error),
                Verdict::Truncated | Verdict::Stray => {
                    return Err(useless("not the transfer asked for"));
                }
            },
            (Some(mac), Some((key, _))) => {
                key.verify(&wire, Some(mac), Link::Further)
                    .map_err(|_| useless("a further message of the transfer is not signed"))?;
                Message::from_vec(&wire).map_err(|_| useless("a message cannot be read"))?
            }
            (Some(_), None) => {
                Message::from_vec(&wire).map_err(|_| useless("a message cannot be read"))?
            }
        };
        let code = message.metadata.response_code;
        if code != ResponseCode::NoError {
            return Err(refused(server, code));
        }
        prior = Some(
            message
                .signature()
                .map_or(Vec::new(), |t| t.data.mac.clone()),
        );
        records.extend(message.answers);
        let is_soa = |r: &Record| r.record_type() == RecordType::SOA;
        if !records.first().is_some_and(is_soa) {
            return Err(useless("a transfer that does not start with the SOA"));
        }
        if records.len() > 1 && records.last().is_some_and(is_soa) {
            return Ok(records);
        }
    }
}

/// The bindings among transferred `records`, by home address. One that does not
/// parse is left out, with a warning: it must not hide the others.
pub(super) fn bindings_of(
    records: &[Record],
    zone: &Name,
    server: SocketAddr,
) -> Vec<(Whose, Binding)> {
    let mut sets: BTreeMap<Whose, Vec<&SVCB>> = BTreeMap::new();
    for record in records {
        if let (RData::SVCB(svcb), Some(whose)) =
            (&record.data, Whose::of_owner(&record.name, zone))
        {
            sets.entry(whose).or_default().push(svcb);
        }
    }
    sets.into_iter()
        .filter_map(|(whose, set)| {
            let binding = whose.from_svcb(set);
            let binding = binding.inspect_err(
                |error| tracing::warn!(%whose, %server, %error, "record is not a binding"),
            );
            Some((whose, binding.ok()?))
        })
        .collect()
}

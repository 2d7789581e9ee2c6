//! Tells secondaries that the zone has changed (RFC 1996), so that they need not ask for it:
//! at the start, at once when something changes, and then at a bounded rate (`pacing`).
//!
//! # Limitations
//! Secondaries are those of the configuration, not the zone's NS records (RFC 1996 section
//! 3.3), and are told over UDP only.

mod pacing;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context as _;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, Record, RecordType};
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until};

use crate::clock::unix_now;
use crate::server::KeyRing;
use crate::server::counters::{Cause, Counters};
use crate::tsig::{Link, Stamp, TsigKey};
use crate::writer::Shared;
use crate::zone::{View as _, Zone, serial_newer};
use pacing::{Pacing, Step};

/// A server that keeps a copy of the zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secondary {
    /// Where it takes NOTIFY.
    pub address: SocketAddr,
    /// The key that signs them.
    pub key: Option<Name>,
}

/// What all of this works with.
#[derive(Clone)]
pub(crate) struct Teller {
    pub(crate) shared: Arc<Shared>,
    pub(crate) keys: Arc<KeyRing>,
    pub(crate) counters: Arc<Counters>,
    /// Our addresses: secondaries know us by one of them.
    pub(crate) listen: Vec<SocketAddr>,
}

/// What came of the latest round.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Told,
    Refused(ResponseCode),
    Lost,
    /// There is no message, and why.
    Unsent(String),
}

/// A NOTIFY under way, from a port of its own, that nobody can guess.
struct Sent {
    /// `None` until the network is there.
    socket: Option<UdpSocket>,
    to: SocketAddr,
    wire: Vec<u8>,
    id: u16,
    serial: u32,
    /// The key that signed it, and the MAC that the answer's continues.
    auth: Option<(TsigKey, Vec<u8>)>,
}

impl Teller {
    /// Tells `secondary` of every change from now on.
    pub(crate) async fn run(self, secondary: Secondary) {
        let mut serials = self.shared.serials();
        let mut pacing = Pacing::default();
        let mut sent = None;
        let mut told = 0;
        let mut before = None;
        pacing.changed();
        loop {
            let wait = match pacing.step(Instant::now()) {
                Step::Tell => {
                    match self.compose(&secondary) {
                        Ok(message) => {
                            told = message.serial;
                            self.deliver(sent.insert(message)).await;
                        }
                        Err(error) => {
                            pacing.answered();
                            let outcome = Outcome::Unsent(format!("{error:#}"));
                            self.note(&secondary, &mut before, outcome);
                        }
                    }
                    continue;
                }
                Step::Again => {
                    if let Some(message) = &mut sent {
                        self.deliver(message).await;
                    }
                    continue;
                }
                Step::GiveUp => {
                    sent = None;
                    self.note(&secondary, &mut before, Outcome::Lost);
                    continue;
                }
                Step::Wait(until) => until,
            };
            tokio::select! {
                changed = serials.changed(), if !pacing.is_behind() => {
                    if changed.is_err() {
                        return;
                    }
                    // It may have been in the zone already when that was read.
                    if serial_newer(*serials.borrow_and_update(), told) {
                        pacing.changed();
                    }
                }
                outcome = answer(sent.as_ref()) => {
                    sent = None;
                    pacing.answered();
                    self.note(&secondary, &mut before, outcome);
                }
                () = sleep_until(wait.unwrap_or_else(Instant::now)), if wait.is_some() => {}
            }
        }
    }

    /// What cannot be sent now is sent again later.
    async fn deliver(&self, sent: &mut Sent) {
        let delivered = async {
            let socket = match sent.socket.take() {
                Some(socket) => socket,
                None => self.open(sent.to).await?,
            };
            sent.socket.insert(socket).send(&sent.wire).await
        };
        if let Err(error) = delivered.await {
            tracing::debug!(secondary = %sent.to, %error, "a NOTIFY was not sent");
        }
    }

    /// From one of our own addresses if possible: secondaries may ask for that (RFC 1996
    /// section 3.10).
    async fn open(&self, to: SocketAddr) -> io::Result<UdpSocket> {
        let any: IpAddr = match to {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let ours = self.listen.iter().map(SocketAddr::ip);
        for ip in ours.filter(|ip| ip.is_ipv4() == to.is_ipv4()) {
            let socket = UdpSocket::bind((ip, 0)).await?;
            // From 127.0.0.1 there is no way out.
            if socket.connect(to).await.is_ok() {
                return Ok(socket);
            }
        }
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(to).await?;
        Ok(socket)
    }

    /// The message as things are now, the key as well.
    fn compose(&self, secondary: &Secondary) -> anyhow::Result<Sent> {
        let (serial, message) = self.shared.read(|zone| (zone.serial(), notification(zone)));
        let mut message = message?;
        let id = message.metadata.id;
        let mut auth = None;
        if let Some(name) = &secondary.key {
            let entry = self.keys.key(name);
            let entry = entry.with_context(|| format!("key {name} is not configured any more"))?;
            let stamp = Stamp::new(id, unix_now());
            let unsigned = message.to_vec()?;
            let tsig = entry.key.sign(&unsigned, None, Link::First, stamp)?;
            auth = Some((entry.key.clone(), tsig.data.mac.clone()));
            message.set_signature(tsig);
        }
        Ok(Sent {
            socket: None,
            to: secondary.address,
            wire: message.to_vec()?,
            id,
            serial,
            auth,
        })
    }

    /// Counts every outcome, and logs it if it is not the same as before.
    fn note(&self, secondary: &Secondary, before: &mut Option<Outcome>, outcome: Outcome) {
        self.counters.add(match outcome {
            Outcome::Told => Cause::Notified,
            Outcome::Refused(_) => Cause::NotifyRefused,
            Outcome::Lost | Outcome::Unsent(_) => Cause::NotifyLost,
        });
        if before.as_ref() == Some(&outcome) {
            return;
        }
        let secondary = secondary.address;
        match &outcome {
            Outcome::Told => tracing::info!(%secondary, "secondary notified"),
            Outcome::Refused(code) => tracing::warn!(
                %secondary, ?code,
                "secondary refuses to be notified: it has to allow our address and the key"
            ),
            Outcome::Lost => tracing::warn!(
                %secondary, "secondary does not answer; it asks by itself as the SOA says"
            ),
            Outcome::Unsent(why) => tracing::error!(
                %secondary, %why, "secondary cannot be notified"
            ),
        }
        *before = Some(outcome);
    }
}

/// The message: with the SOA, so that a secondary that has it need not ask (RFC 1996 section
/// 3.7).
fn notification(zone: &Zone) -> anyhow::Result<Message> {
    let id = getrandom::u32().context("no random numbers")? as u16;
    let mut message = Message::new(id, MessageType::Query, OpCode::Notify);
    message.metadata.authoritative = true;
    let origin = zone.origin();
    message.add_query(Query::query(origin.clone(), RecordType::SOA));
    let soa = zone.set(origin, RecordType::SOA);
    let soa: Vec<Record> = soa.into_iter().flat_map(|s| s.records(origin)).collect();
    message.add_answers(soa);
    Ok(message)
}

/// Waits for the answer to `sent`, however long.
async fn answer(sent: Option<&Sent>) -> Outcome {
    let Some((sent, socket)) = sent.and_then(|sent| Some((sent, sent.socket.as_ref()?))) else {
        return std::future::pending().await;
    };
    let mut buffer = vec![0; 4096];
    loop {
        // An error is that of an earlier datagram: nobody was there to take it.
        if let Ok(length) = socket.recv(&mut buffer).await
            && let Some(outcome) = sent.judge(&buffer[..length], unix_now())
        {
            return outcome;
        }
    }
}

impl Sent {
    /// What the datagram says, if it is an answer. A refusal may come without a signature, from
    /// a server that does not know the key.
    fn judge(&self, wire: &[u8], now: u64) -> Option<Outcome> {
        let message = Message::from_vec(wire).ok()?;
        let meta = &message.metadata;
        let ours = meta.id == self.id
            && meta.message_type == MessageType::Response
            && meta.op_code == OpCode::Notify;
        if !ours {
            return None;
        }
        match (meta.response_code, &self.auth) {
            (ResponseCode::NoError, Some((key, mac))) => {
                let signature = key.verify(wire, Some(mac), Link::First).ok()?;
                signature.fresh(now).then_some(Outcome::Told)
            }
            (ResponseCode::NoError, None) => Some(Outcome::Told),
            (code, _) => Some(Outcome::Refused(code)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tsig::Algorithm;
    use crate::zone::tests::{apex, name};

    fn answer_to(question: &Message, code: ResponseCode) -> Message {
        let mut answer = question.clone();
        answer.metadata.message_type = MessageType::Response;
        answer.metadata.response_code = code;
        answer
    }

    #[test]
    fn an_answer_is_ours_and_signed_or_a_refusal() {
        let question = notification(&Zone::new(&apex())).unwrap();
        let key = |byte| TsigKey::new(name("secondary."), Algorithm::HmacSha256, vec![byte; 32]);
        let sent = Sent {
            socket: None,
            to: ([192, 0, 2, 1], 53).into(),
            wire: Vec::new(),
            id: question.metadata.id,
            serial: 1,
            auth: Some((key(1).unwrap(), vec![7; 32])),
        };
        let judge = |message: &Message| sent.judge(&message.to_vec().unwrap(), 1_000_000);
        let told = answer_to(&question, ResponseCode::NoError);
        assert_eq!(judge(&told), None);
        let signed_with = |byte| {
            let mut message = told.clone();
            let stamp = Stamp::new(sent.id, 1_000_000);
            let wire = message.to_vec().unwrap();
            let mac = Some(&[7; 32][..]);
            let tsig = key(byte).unwrap().sign(&wire, mac, Link::First, stamp);
            message.set_signature(tsig.unwrap());
            message
        };
        assert_eq!(judge(&signed_with(2)), None);
        assert_eq!(judge(&signed_with(1)), Some(Outcome::Told));
        let refused = answer_to(&question, ResponseCode::NotAuth);
        let outcome = Outcome::Refused(ResponseCode::NotAuth);
        assert_eq!(judge(&refused), Some(outcome));
        let mut other = refused;
        other.metadata.id ^= 1;
        assert_eq!(judge(&other), None);
        assert_eq!(judge(&question), None);
    }
}

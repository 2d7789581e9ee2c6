//! A stateful session (RFC 8490) on a TLS connection, and its subscriptions (RFC 8765).
//!
//! What breaks the rules ends the session; what cannot be done is refused. Questions and updates
//! may be sent beside it.
//!
//! # Limitations
//! Nobody is known by his certificate, so private homes are not pushed. A RECONFIRM is taken and
//! passed over: what is told here is the truth already.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{DNSClass, Name};

use super::Handler;
use super::counters::Cause;
use super::tcp::client_of;
use crate::clock::unix_now;
use crate::dso::{DSOTYPENI, Fault, Message, Subscription, Tlv, octet};
use crate::policy::may_read;
use crate::push::{Mailbox, SetKey};

/// How long a session without subscriptions may say nothing.
const INACTIVITY: Duration = Duration::from_secs(15);
/// How long any may.
const INTERVAL: Duration = Duration::from_secs(60);
/// Both are exceeded by this factor at most (RFC 8490 sections 6.4.1 and 6.5.2).
const LENIENCY: u32 = 2;
/// Subscriptions of one session.
const SUBSCRIPTIONS: usize = 32_768;
/// Those of them that are about all below a name: what is there is looked for among all names.
const BELOW: usize = 16;
/// Before a session is opened again, at least and at most: not all at once.
const RETRY: (u64, u64) = (500, 5_000);

/// What is to be sent.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// A message.
    Message(Vec<u8>),
    /// What is there of this subscription, as it is when it is sent.
    State(Subscription),
}

/// The connection is to be closed.
#[derive(Debug)]
pub(super) struct Aborted;

/// One of them.
pub(super) struct Session {
    handler: Arc<Handler>,
    from: SocketAddr,
    mailbox: Arc<Mailbox>,
    established: bool,
    /// By the identifier of the SUBSCRIBE.
    subscriptions: HashMap<u16, Subscription>,
    distinct: HashSet<Subscription>,
    /// How many of them are about all below a name.
    below: usize,
}

impl Session {
    pub(super) fn new(handler: Arc<Handler>, from: SocketAddr) -> Self {
        Session {
            handler,
            from,
            mailbox: Arc::new(Mailbox::new(client_of(from.ip()))),
            established: false,
            subscriptions: HashMap::new(),
            distinct: HashSet::new(),
            below: 0,
        }
    }

    /// Where what changes is put.
    pub(super) fn mailbox(&self) -> Arc<Mailbox> {
        self.mailbox.clone()
    }

    /// How long the next message may take; `None` if this is no session yet.
    pub(super) fn patience(&self) -> Option<Duration> {
        let limit = match self.subscriptions.is_empty() {
            true => INACTIVITY,
            false => INTERVAL,
        };
        self.established.then_some(limit * LENIENCY)
    }

    /// What to say when we end (RFC 8490 section 6.6.1).
    pub(super) fn goodbye(&self) -> Option<Outgoing> {
        let (least, most) = RETRY;
        let spread = u64::from(self.from.port()) % (most - least);
        let message = Message::Unidirectional {
            code: octet(ResponseCode::NoError),
            tlv: Tlv::RetryDelay(Duration::from_millis(least + spread)),
        };
        let octets = self.established.then(|| message.emit())??;
        Some(Outgoing::Message(octets))
    }

    /// Does what a message wants; fails if the session is to be aborted.
    pub(super) fn handle(&mut self, octets: &[u8]) -> Result<Vec<Outgoing>, Aborted> {
        let message = match Message::parse(octets) {
            Ok(message) => message,
            Err(Fault::Refuse { id, code }) => {
                self.handler.counters.add(Cause::Malformed);
                return Ok(respond(id, code, None));
            }
            Err(Fault::Fatal(why)) => return Err(self.abort(why)),
        };
        match message {
            Message::Request { id, tlv } => self.request(id, tlv),
            Message::Unidirectional { .. } if !self.established => {
                Err(self.abort("no session is established"))
            }
            Message::Unidirectional { tlv, .. } => match tlv {
                Tlv::Unsubscribe(id) => {
                    // One that was refused is unknown.
                    if let Some(subscription) = self.subscriptions.remove(&id) {
                        self.below -= usize::from(subscription.below);
                        self.distinct.remove(&subscription);
                        self.handler.push.unsubscribe(&subscription, &self.mailbox);
                    }
                    Ok(Vec::new())
                }
                Tlv::Reconfirm => Ok(Vec::new()),
                _ => Err(self.abort("a unidirectional message that no client sends")),
            },
            Message::Response { .. } => Err(self.abort("a response to nothing")),
        }
    }

    fn request(&mut self, id: u16, tlv: Tlv) -> Result<Vec<Outgoing>, Aborted> {
        match tlv {
            Tlv::Keepalive { .. } => {
                self.established = true;
                let (inactivity, interval) = (INACTIVITY, INTERVAL);
                let tlv = Tlv::Keepalive {
                    inactivity,
                    interval,
                };
                Ok(respond(id, octet(ResponseCode::NoError), Some(tlv)))
            }
            Tlv::Subscribe(subscription) => self.subscribe(id, subscription),
            Tlv::Unknown(_) => Ok(respond(id, DSOTYPENI, None)),
            Tlv::RetryDelay(_) | Tlv::Push(_) | Tlv::Unsubscribe(_) | Tlv::Reconfirm => {
                Err(self.abort("a request that no client makes"))
            }
        }
    }

    fn subscribe(&mut self, id: u16, mut wanted: Subscription) -> Result<Vec<Outgoing>, Aborted> {
        if DNSClass::from(wanted.class) == DNSClass::ANY {
            wanted.class = DNSClass::IN.into();
        }
        let subscription = wanted;
        // RFC 8765 section 6.2.1.
        if self.subscriptions.contains_key(&id) || self.distinct.contains(&subscription) {
            return Err(self.abort("subscribed twice"));
        }
        let code = self.accept(&subscription);
        if code != ResponseCode::NoError {
            self.handler.counters.add(Cause::SubscribeRefused);
            return Ok(respond(id, octet(code), None));
        }
        self.handler.counters.add(Cause::Subscribed);
        self.established = true;
        self.below += usize::from(subscription.below);
        self.distinct.insert(subscription.clone());
        self.subscriptions.insert(id, subscription.clone());
        let mut outgoing = respond(id, octet(code), None);
        outgoing.push(Outgoing::State(subscription));
        Ok(outgoing)
    }

    fn accept(&self, subscription: &Subscription) -> ResponseCode {
        let name = &subscription.name;
        let private = &self.handler.keys.get().private;
        let (ours, told) = self.handler.shared.read(|zone| {
            let origin = zone.origin();
            let ours = origin.zone_of(name);
            // What is below a name leads to homes if that name does, or they are all below it.
            let told = may_read(private, None, name, origin);
            let all = subscription.below && name == origin;
            (ours, told && (private.is_empty() || !all))
        });
        if !ours || subscription.class != u16::from(DNSClass::IN) {
            ResponseCode::NotAuth
        } else if !told {
            ResponseCode::Refused
        } else if self.subscriptions.len() >= SUBSCRIPTIONS
            || subscription.below && self.below >= BELOW
            || !self.handler.push.subscribe(subscription, &self.mailbox)
        {
            ResponseCode::ServFail
        } else {
            ResponseCode::NoError
        }
    }

    fn abort(&self, why: &str) -> Aborted {
        self.handler.counters.add(Cause::SessionFault);
        if self.handler.quiet.may_speak(unix_now()) {
            tracing::warn!(from = %self.from, %why, "session aborted");
        }
        Aborted
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for subscription in self.subscriptions.values() {
            self.handler.push.unsubscribe(subscription, &self.mailbox);
        }
    }
}

fn respond(id: u16, code: u8, tlv: Option<Tlv>) -> Vec<Outgoing> {
    let octets = Message::Response { id, code, tlv }.emit();
    octets.into_iter().map(Outgoing::Message).collect()
}

impl Handler {
    /// See [`crate::push::Push::news`].
    pub(super) fn news(&self, sets: &[SetKey]) -> Vec<Vec<u8>> {
        self.push.news(sets, &self.keys.get().private)
    }

    /// See [`crate::push::Push::state`].
    pub(super) fn state(
        &self,
        subscription: &Subscription,
        from: &Name,
    ) -> (Vec<Vec<u8>>, Option<Name>) {
        let private = &self.keys.get().private;
        self.push.state(subscription, from, private)
    }
}

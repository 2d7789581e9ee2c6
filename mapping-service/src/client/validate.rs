//! Answers that prove themselves: DNSSEC (RFC 4035 section 5), by hickory's validator, from a trust
//! anchor that is configured.
//!
//! The answer to be validated has been received already; the validator asks for the keys of the
//! zone, which are kept for as long as they say.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::str::FromStr as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::stream::{Stream, StreamExt as _, once};
use hickory_net::NetError;
use hickory_net::dnssec::DnssecDnsHandle;
use hickory_net::runtime::TokioRuntimeProvider;
use hickory_net::xfer::DnsHandle;
use hickory_proto::dnssec::{Proof, TrustAnchors};
use hickory_proto::op::{DnsRequest, DnsRequestOptions, DnsResponse, Message, Query};
use hickory_proto::rr::{Name, Record, RecordType};

use super::exchange::{Request, exchange};
use super::{MapError, Timing};
use crate::clock::unix_now;

/// Keys are asked for again after this time at the latest.
const KEYS: Duration = Duration::from_secs(300);

/// The keys that are believed: DNSKEY records of the zone, or of one above it.
#[derive(Clone)]
pub struct Anchors(Arc<TrustAnchors>);

impl Anchors {
    /// Those in a file, as `mat-mapd ds` and `dig` print them, a line each; other lines are passed
    /// over.
    ///
    /// # Errors
    /// The text says what is wrong with it.
    pub fn from_file(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("cannot be read: {e}"))?;
        let is_key = |line: &&str| {
            let words = line.split_ascii_whitespace();
            !line.starts_with(';') && words.skip(1).any(|word| word == "DNSKEY")
        };
        let lines: Vec<&str> = text.lines().filter(is_key).collect();
        if lines.is_empty() {
            return Err("holds no DNSKEY record".to_owned());
        }
        let anchors = TrustAnchors::from_str(&(lines.join("\n") + "\n"));
        let anchors = anchors.map_err(|error| format!("holds no usable DNSKEY record: {error}"))?;
        Ok(Anchors(Arc::new(anchors)))
    }
}

/// Believes what these anchors prove.
#[derive(Clone)]
pub(super) struct Validator {
    anchors: Anchors,
    asker: Asker,
}

impl fmt::Debug for Validator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Validator")
    }
}

impl Validator {
    pub(super) fn new(anchors: Anchors, servers: Vec<SocketAddr>, timing: Timing) -> Self {
        let asker = Asker {
            servers: servers.into(),
            timing,
            keys: Arc::default(),
            given: None,
        };
        Validator { anchors, asker }
    }

    /// Whether `answer` to the question for `kind` at `name` is proved: that the set is so, or that
    /// there is none.
    pub(super) async fn proves(&self, answer: &Message, name: &Name, kind: RecordType) -> bool {
        let query = Query::query(name.clone(), kind);
        let asker = Asker {
            given: Some(Arc::new((query.clone(), answer.clone()))),
            ..self.asker.clone()
        };
        let handle = DnssecDnsHandle::with_trust_anchor(asker, self.anchors.0.clone());
        let mut options = DnsRequestOptions::default();
        options.use_edns = true;
        options.edns_set_dnssec_ok = true;
        let validated = handle.lookup(query, options).next().await;
        let Some(Ok(response)) = validated else {
            return false;
        };
        let about = |r: &&Record| r.name == *name && r.record_type() == kind;
        let mut set = response.answers.iter().filter(about).peekable();
        if set.peek().is_some() {
            return set.all(|record| record.proof == Proof::Secure);
        }
        // A secure denial that does not fit the question is an error above.
        let denies = |r: &Record| {
            matches!(r.record_type(), RecordType::NSEC | RecordType::NSEC3)
                && r.proof == Proof::Secure
        };
        response.answers.is_empty() && response.authorities.iter().any(denies)
    }
}

/// What the validator asks with.
#[derive(Clone)]
struct Asker {
    servers: Arc<[SocketAddr]>,
    timing: Timing,
    /// Answers to questions for keys, and until when they are good.
    keys: Arc<Mutex<HashMap<Query, (Instant, Message)>>>,
    /// What is known already.
    given: Option<Arc<(Query, Message)>>,
}

impl Asker {
    async fn ask(self, request: DnsRequest) -> Result<DnsResponse, NetError> {
        let (message, _) = request.into_parts();
        let query = message.queries.first().cloned().unwrap_or_default();
        let known = match &self.given {
            Some(given) if given.0 == query => Some(given.1.clone()),
            _ => self.kept(&query),
        };
        let answer = match known {
            Some(answer) => answer,
            None => {
                let answer = self.fetch(message).await;
                let answer = answer.map_err(|error| NetError::from(error.to_string()))?;
                self.keep(query, &answer);
                answer
            }
        };
        Ok(DnsResponse::from_message(answer)?)
    }

    async fn fetch(&self, mut message: Message) -> Result<Message, MapError> {
        message.metadata.id = super::random_id()?;
        let request = Request::new(message, None, unix_now())
            .map_err(|e| MapError::Request(format!("cannot encode the request: {e}")))?;
        Ok(exchange(&self.servers, &request, self.timing)
            .await?
            .message)
    }

    fn kept(&self, query: &Query) -> Option<Message> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let (until, answer) = keys.get(query)?;
        (*until > Instant::now()).then(|| answer.clone())
    }

    fn keep(&self, query: Query, answer: &Message) {
        if query.query_type() == RecordType::DNSKEY && !answer.answers.is_empty() {
            let ttl = answer.answers.iter().map(|record| record.ttl).min();
            let ttl = Duration::from_secs(ttl.unwrap_or(0).into()).min(KEYS);
            let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
            keys.retain(|_, (until, _)| *until > Instant::now());
            keys.insert(query, (Instant::now() + ttl, answer.clone()));
        }
    }
}

impl DnsHandle for Asker {
    type Response = Pin<Box<dyn Stream<Item = Result<DnsResponse, NetError>> + Send>>;
    type Runtime = TokioRuntimeProvider;

    fn send(&self, request: DnsRequest) -> Self::Response {
        Box::pin(once(self.clone().ask(request)))
    }
}

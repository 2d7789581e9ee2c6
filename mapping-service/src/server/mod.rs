//! The mapping service on the wire: DNS over UDP, TCP and TLS.
//!
//! Messages are parsed and written by hickory's types; sockets are read by `udp`
//! and `tcp`, because hickory-server has a task for each datagram, which costs
//! more than its answer, and bounds neither connections nor what waits in them. The
//! plainest questions are answered without taking them apart (`quick`). Not used is
//! hickory's `ZoneHandler` with its `Catalog`, because those cannot do what is needed
//! here:
//! * a `Catalog` signs the untruncated answer and then sends a truncated one, so
//!   the signature of any answer too large for UDP is wrong;
//! * its TSIG errors carry no server time (RFC 8945 section 5.2.3), so an asker
//!   whose clock is off cannot be told by how much;
//! * it takes the asker's EDNS size as its own limit;
//! * IXFR never reaches a `ZoneHandler`.
//!
//! Answers over UDP go wherever the question says it came from, so each network gets so many a
//! second (`limit`); whoever shows with a cookie (`cookie`) or a signature that it asks itself gets
//! all it asks for. An answer to a signed question is signed with the same key; in it, each set has
//! a signature of its own if that is wanted ([`crate::dnssec`]). Updates must be signed; they go to
//! the [`crate::writer`] and come back when they are on disk.
//!
//! # Limitations
//! Zone transfers are for keys with that right only. Nobody notifies a primary, so an
//! incoming NOTIFY is not served.

mod auth;
mod batch;
pub mod cookie;
pub mod counters;
pub(crate) mod exercise;
mod limit;
mod message;
mod quick;
mod quiet;
mod reply;
mod session;
pub(crate) mod tcp;
pub(crate) mod tls;
mod transfer;
pub(crate) mod udp;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use hickory_proto::ProtoError;
use hickory_proto::op::{OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::clock::unix_now;
use crate::config::{KeyEntry, Keys};
use crate::dnssec::{NXNAME, Signer, Wish};
use crate::past;
use crate::policy::{self, Scope, overlap};
use crate::push::Push;
use crate::replay::{Receipt, Seen};
use crate::tsig::Signature;
use crate::writer::{Failure, Job, Order, Shared};
use crate::zone::Zone;
use crate::zone::update::{Refusal, Update};
use auth::Auth;
use cookie::{Cookie, Secrets};
use counters::{Cause, Counters};
use limit::{Limiter, Verdict};
use mat_proto::Whose;
use quiet::Quiet;
use reply::{Reply, Way};

/// The keys and whatever else is in force, replaced as a whole on reload.
#[derive(Debug)]
pub struct KeyRing(RwLock<Arc<InForce>>);

/// What the configuration says about those who ask.
#[derive(Debug)]
pub struct InForce {
    /// The TSIG keys.
    pub keys: Keys,
    /// The homes whose bindings are told to them alone.
    pub private: Scope,
    /// What DNS cookies are made with.
    pub cookies: Secrets,
    /// Answers over UDP that a network gets; `None`: as many as it asks for.
    pub responses_per_second: Option<NonZeroU32>,
    /// What answers are signed with for those who want that; `None`: they are not.
    pub signer: Option<Signer>,
}

impl KeyRing {
    /// Begins with these.
    pub fn new(first: InForce) -> Self {
        KeyRing(RwLock::new(Arc::new(first)))
    }

    /// Puts others in force.
    pub fn set(&self, new: InForce) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
    }

    /// The key of that name.
    pub(crate) fn key(&self, name: &Name) -> Option<Arc<KeyEntry>> {
        self.get().keys.get(name).cloned()
    }

    fn get(&self) -> Arc<InForce> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Answers requests.
pub struct Handler {
    shared: Arc<Shared>,
    keys: Arc<KeyRing>,
    queue: mpsc::Sender<Order>,
    counters: Arc<Counters>,
    push: Arc<Push>,
    quiet: Quiet,
    limiter: Limiter,
    /// When it began to count answers.
    began: Instant,
    /// Each copies the zone.
    transfers: Semaphore,
    /// Looks at all that is below a name, for whoever has subscribed to that.
    walks: Semaphore,
}

/// Zone transfers at the same time; others wait.
const TRANSFERS: usize = 2;
/// The same of these looks, and of those at what has changed of late.
const WALKS: usize = 2;

/// Who asks, as far as the request shows it.
struct Asker {
    auth: Auth,
    cookie: Cookie,
}

impl Asker {
    /// Whether the request is from where it says.
    fn is_genuine(&self) -> bool {
        self.cookie.is_valid() || matches!(self.auth, Auth::Valid(..))
    }
}

impl Handler {
    /// Answers `request` at `now` (Unix seconds).
    async fn respond(&self, request: &Request, way: &impl Way, now: u64) {
        let in_force = self.keys.get();
        let (edns, client) = (request.edns.as_ref(), request.src().ip());
        let asker = Asker {
            auth: Auth::of(
                request.signature.as_deref(),
                request.as_slice(),
                &in_force.keys,
                now,
            ),
            cookie: Cookie::of(edns, &in_force.cookies, client, now),
        };
        self.count_cookie(&asker.cookie);
        if request.protocol() == Protocol::Udp && !asker.is_genuine() {
            match self.admit(client, &in_force) {
                Verdict::Answer => {}
                Verdict::Truncate => {
                    // Whoever is not there needs no answer.
                    let _sent = reply::send(request, way, Reply::by_tcp(), &asker, None, now).await;
                    return;
                }
                Verdict::Drop => return,
            }
        }
        let auth = &asker.auth;
        let reply = if request.version() > 0 {
            Some(Reply::code(ResponseCode::BADVERS))
        } else if let Some((cause, why)) = auth.fault() {
            self.counters.add(cause);
            if self.quiet.may_speak(now) {
                let op = request.metadata.op_code;
                tracing::warn!(from = %request.src(), ?op, %why, "not authenticated");
            }
            Some(Reply::code(match cause {
                Cause::Malformed => ResponseCode::FormErr,
                _ => ResponseCode::NotAuth,
            }))
        } else if asker.cookie == Cookie::Malformed {
            self.counters.add(Cause::Malformed);
            Some(Reply::code(ResponseCode::FormErr))
        } else {
            match request.metadata.op_code {
                OpCode::Query => match self.query(request, &asker, &in_force, now) {
                    Asked::Answer(reply) => Some(reply),
                    Asked::Transfer => return self.transfer(request, way, &asker, now).await,
                    Asked::Past(name) => {
                        Some(self.past(request, &name, auth, &in_force.private).await)
                    }
                },
                OpCode::Update => self.update(request, auth, &in_force.private, now).await,
                _ => {
                    self.counters.add(Cause::NotImplemented);
                    Some(Reply::code(ResponseCode::NotImp))
                }
            }
        };
        if let Some(reply) = reply
            && let Some(sent) = reply::send(request, way, reply, &asker, None, now).await
            && sent.truncated
        {
            self.counters.add(Cause::Truncated);
        }
    }
}

enum Asked {
    Answer(Reply),
    Transfer,
    /// Who has changed bindings, at this name.
    Past(Name),
}

impl Handler {
    /// Answers from `shared`, believes `keys`, hands updates to `queue` (the
    /// writer's), subscriptions to `push`, and counts what happens.
    pub(crate) fn new(
        shared: Arc<Shared>,
        keys: Arc<KeyRing>,
        queue: mpsc::Sender<Order>,
        counters: Arc<Counters>,
        push: Arc<Push>,
    ) -> Self {
        Handler {
            push,
            shared,
            keys,
            queue,
            counters,
            quiet: Quiet::default(),
            limiter: Limiter::default(),
            began: Instant::now(),
            transfers: Semaphore::new(TRANSFERS),
            walks: Semaphore::new(WALKS),
        }
    }

    /// Writes the answer to a datagram of `client` that is a plain question into `answer`, and
    /// says whether it is to be sent.
    fn quickly(&self, asked: &[u8], client: IpAddr, answer: &mut Vec<u8>) -> Option<Verdict> {
        let in_force = self.keys.get();
        // Whether it may be told is for the whole server to find out.
        if !in_force.private.is_empty() {
            return None;
        }
        let question = quick::Question::read(asked)?;
        if question.dnssec_ok() && in_force.signer.is_some() {
            return None;
        }
        let cookie = match question.cookie() {
            Some(octets) => in_force.cookies.read(octets, client, unix_now()),
            None => Cookie::None,
        };
        self.shared
            .read(|zone| question.answer(zone, cookie.answer(), answer))?;
        self.count_cookie(&cookie);
        let verdict = match cookie {
            Cookie::Valid(_) => Verdict::Answer,
            _ => self.admit(client, &in_force),
        };
        match verdict {
            Verdict::Answer => self.counters.add(Cause::Query),
            Verdict::Truncate => question.truncate(cookie.answer(), answer),
            Verdict::Drop => {}
        }
        Some(verdict)
    }

    /// What becomes of an answer over UDP to whoever may not be there.
    fn admit(&self, client: IpAddr, in_force: &InForce) -> Verdict {
        let Some(rate) = in_force.responses_per_second else {
            return Verdict::Answer;
        };
        let verdict = self.limiter.admit(client, rate, self.began.elapsed());
        match verdict {
            Verdict::Answer => {}
            Verdict::Truncate => self.counters.add(Cause::RateLimitedTruncated),
            Verdict::Drop => self.counters.add(Cause::RateLimitedDropped),
        }
        verdict
    }

    fn count_cookie(&self, cookie: &Cookie) {
        if let Some(cause) = cookie.cause() {
            self.counters.add(cause);
        }
    }

    /// Notes a datagram that cannot be read.
    fn malformed(&self, from: SocketAddr, error: &ProtoError, now: u64) {
        self.counters.add(Cause::Malformed);
        if self.quiet.may_speak(now) {
            tracing::warn!(%from, %error, "not understood");
        }
    }

    fn query(&self, request: &Request, asker: &Asker, in_force: &InForce, now: u64) -> Asked {
        let question = match (request.queries.queries(), &asker.cookie) {
            ([question], _) => question,
            // Asked for a cookie alone (RFC 7873 section 5.4).
            ([], Cookie::New(_) | Cookie::Valid(_)) => return Asked::Answer(Reply::default()),
            ([], Cookie::Invalid(_)) => {
                return Asked::Answer(Reply::code(ResponseCode::BADCOOKIE));
            }
            _ => {
                self.counters.add(Cause::Malformed);
                return Asked::Answer(Reply::code(ResponseCode::FormErr));
            }
        };
        if (question.query_class(), question.query_type()) == (DNSClass::CH, RecordType::TXT) {
            return Asked::Past(Name::from(question.name()));
        }
        if !matches!(question.query_class(), DNSClass::IN | DNSClass::ANY) {
            self.counters.add(Cause::OutOfZone);
            return Asked::Answer(Reply::code(ResponseCode::Refused));
        }
        let kind = question.query_type();
        if matches!(kind, RecordType::AXFR | RecordType::IXFR) {
            return Asked::Transfer;
        }
        let name = Name::from(question.name());
        let wish = Wish::of(request.edns.as_ref());
        let (private, signer) = (&in_force.private, in_force.signer.as_ref());
        if kind == NXNAME && signer.is_some() {
            self.counters.add(Cause::Malformed);
            return Asked::Answer(Reply::code(ResponseCode::FormErr));
        }
        let key = match &asker.auth {
            Auth::Valid(entry, _) => Some(entry.policy.as_ref()),
            _ => None,
        };
        let found = self.shared.read(|zone| {
            let told = |name: &Name| policy::may_read_in(zone, private, key, name);
            let mut found = told(&name).then(|| zone.answer(&name, kind))?;
            // An alias leads elsewhere.
            let aliases = found.answers.iter().filter_map(|r| match &r.data {
                RData::CNAME(target) => Some(&target.0),
                _ => None,
            });
            if !aliases.into_iter().all(told) {
                return None;
            }
            if let Some(signer) = signer {
                signer.complete(&mut found, zone, (&name, kind), wish);
            }
            Some(found)
        });
        let Some(mut found) = found else {
            self.counters.add(Cause::Private);
            return Asked::Answer(Reply::code(ResponseCode::Refused));
        };
        match signer.map(|signer| signer.sign(&mut found, kind, wish, now)) {
            None | Some(Ok(false)) => {}
            Some(Ok(true)) => self.counters.add(Cause::Dnssec),
            Some(Err(error)) => {
                tracing::error!(%name, %kind, %error, "an answer could not be signed");
                return Asked::Answer(Reply::code(ResponseCode::ServFail));
            }
        }
        self.counters.add(match (&found.code, &asker.auth) {
            (ResponseCode::Refused, _) => Cause::OutOfZone,
            (_, Auth::Valid(..)) => Cause::SignedQuery,
            _ => Cause::Query,
        });
        Asked::Answer(Reply {
            code: found.code,
            authoritative: found.code != ResponseCode::Refused,
            answers: found.answers,
            authority: found.authority,
            compact_ok: signer.is_some() && wish.nxdomain,
            ..Reply::default()
        })
    }

    /// Tells a key who has changed the bindings of late that it may change and read.
    async fn past(&self, request: &Request, name: &Name, auth: &Auth, private: &Scope) -> Reply {
        let Some(homes) = self.shared.read(|zone| past::asked(name, zone.origin())) else {
            self.counters.add(Cause::OutOfZone);
            return Reply::code(ResponseCode::Refused);
        };
        let policy = match auth {
            Auth::Valid(entry, _) => Some(&entry.policy),
            _ => None,
        };
        let Some(policy) = policy.filter(|policy| policy.may_hear_past(private, homes)) else {
            self.counters.add(Cause::PastRefused);
            return Reply::code(ResponseCode::Refused);
        };
        // There is more than fits a datagram, as a rule.
        if request.protocol() == Protocol::Udp {
            return Reply::by_tcp();
        }
        self.counters.add(Cause::Past);
        let may = policy.past_of(private);
        let among = |whose: Whose| homes.is_none_or(|homes| overlap(homes, whose.net()));
        // The writer waits meanwhile.
        let _turn = self.walks.acquire().await;
        let answers = self
            .shared
            .past()
            .records(name, |whose| among(whose) && may(whose));
        Reply {
            authoritative: true,
            answers,
            ..Reply::default()
        }
    }

    /// `None`: no answer now, the first copy's is on its way.
    async fn update(
        &self,
        request: &Request,
        auth: &Auth,
        private: &Scope,
        now: u64,
    ) -> Option<Reply> {
        let Auth::Valid(entry, signature) = auth else {
            self.counters.add(Cause::Unsigned);
            if self.quiet.may_speak(now) {
                tracing::warn!(from = %request.src(), "update refused: it is not signed");
            }
            return Some(Reply::code(ResponseCode::Refused));
        };
        // A prerequisite is a question.
        let told = |zone: &Zone, record: &Record| {
            let (policy, name) = (&entry.policy, &record.name);
            let own = || {
                let whose = Whose::of_owner(name, zone.origin());
                whose.is_some_and(|whose| policy.homes.covers_net(whose.net()))
            };
            policy::may_read(private, Some(policy), name, zone.origin()) || own()
        };
        let asked = &request.answers;
        if !self
            .shared
            .read(|zone| asked.iter().all(|record| told(zone, record)))
        {
            self.counters.add(Cause::Private);
            return Some(Reply::code(ResponseCode::Refused));
        }
        let receipt = Receipt {
            key: entry.key.name().clone(),
            time: signature.time,
            mac: signature.mac.clone(),
        };
        let seen = self.shared.replay().admit(&receipt, now);
        match seen {
            Seen::New => {
                let code = self.carry_out(request, entry, receipt).await;
                Some(Reply::code(code))
            }
            Seen::Pending => {
                self.counters.add(Cause::Repeated);
                None
            }
            Seen::Answered(code) => {
                self.counters.add(Cause::Repeated);
                Some(Reply::code(code))
            }
            Seen::TooOld => {
                self.counters.add(Cause::TooOld);
                self.warn_too_old(request, entry, signature);
                Some(Reply::code(ResponseCode::Refused))
            }
        }
    }

    fn warn_too_old(&self, request: &Request, entry: &KeyEntry, signature: &Signature) {
        tracing::warn!(
            from = %request.src(), key = %entry.key.name(), signed = signature.time,
            "update refused: signed before what the replay memory holds (a replay, or a slow clock)"
        );
    }

    async fn carry_out(
        &self,
        request: &Request,
        entry: &KeyEntry,
        receipt: Receipt,
    ) -> ResponseCode {
        let zone = request.queries.queries().iter();
        let update = Update {
            zone: zone.map(|q| Query::clone(q.original())).collect(),
            prerequisites: request.answers.clone(),
            updates: request.authorities.clone(),
        };
        let (done, result) = oneshot::channel();
        let job = Job {
            update,
            receipt: receipt.clone(),
            policy: entry.policy.clone(),
            from: request.src(),
            done,
        };
        if self.queue.try_send(Order::Update(job)).is_err() {
            self.shared.replay().settle(&receipt, None);
            self.counters.add(Cause::Busy);
            tracing::warn!(from = %request.src(), "update turned away: too many are waiting");
            return ResponseCode::ServFail;
        }
        let failure = match result.await {
            Ok(Ok(())) => {
                self.counters.add(Cause::Updated);
                return ResponseCode::NoError;
            }
            Ok(Err(failure)) => failure,
            // The writer is gone; the daemon is about to end.
            Err(_) => Failure::Disk,
        };
        self.counters.add(match &failure {
            Failure::Refused(Refusal::Format(_)) => Cause::Malformed,
            Failure::Refused(Refusal::Breach(_)) | Failure::Denied(_) => Cause::Refused,
            Failure::Refused(Refusal::NotAuth(_) | Refusal::NotZone(_)) => Cause::OutOfZone,
            Failure::Refused(_) => Cause::Prerequisite,
            Failure::Disk => Cause::Disk,
        });
        failure.code()
    }

    async fn transfer(&self, request: &Request, way: &impl Way, asker: &Asker, now: u64) {
        let allowed = matches!(&asker.auth, Auth::Valid(entry, _) if entry.policy.transfer);
        let question = request.queries.queries().first();
        let ours = question.is_some_and(|q| {
            self.shared
                .read(|zone| Name::from(q.name()) == *zone.origin())
        });
        let whole = question.is_some_and(|q| q.query_type() == RecordType::AXFR);
        let since = transfer::serial_of(request);
        let refused = if !allowed || !ours || (whole && request.protocol() != Protocol::Tcp) {
            self.counters.add(Cause::TransferRefused);
            if self.quiet.may_speak(now) {
                tracing::warn!(
                    from = %request.src(),
                    "transfer refused: it needs TCP (a whole one), the zone's name and a key with transfer = true"
                );
            }
            ResponseCode::Refused
        } else if !whole && since.is_none() {
            self.counters.add(Cause::Malformed);
            ResponseCode::FormErr
        } else {
            // What goes into a datagram is small, and does not wait.
            let _turn = match request.protocol() {
                Protocol::Tcp => self.transfers.acquire().await.ok(),
                _ => None,
            };
            let since = since.filter(|_| !whole);
            let told = (&*self.shared, &*self.counters);
            return transfer::send(request, way, told, asker, since, now).await;
        };
        // Whoever is gone needs no refusal.
        let _sent = reply::send(request, way, Reply::code(refused), asker, None, now).await;
    }
}

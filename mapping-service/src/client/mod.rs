//! The client side of the mapping service: look a binding up, change it.
//!
//! A change is one RFC 2136 UPDATE whose prerequisite names the set it
//! replaces, so two clients that race for one home address cannot both win. It
//! works against any authoritative server with TSIG and atomic prerequisites
//! (mat-mapd, BIND, Knot).
//!
//! What is read of a home may be the binding that its prefix shares. A change then makes one of its
//! own, if the shared one still is what was read.
//!
//! Two things make a lost answer harmless. A retransmission is the *identical*
//! message, which mat-mapd answers from memory. Servers without that memory
//! answer it with "prerequisite not met" if the first copy was committed; the
//! client then reads the binding back, and if it is exactly what it wrote, the
//! change was committed.
//!
//! The exchange is an own small one rather than hickory-net's client, which signs
//! updates and transfers but no ordinary question, so no look-up could ever be
//! verified, and which tells a failed verification as text, so that a wrong key
//! cannot be told from a wrong clock.
//!
//! # Limitations
//! An answer is verified if it carries a valid TSIG, or, for a [validating](MapClient::validating)
//! client, if DNSSEC proves it; never by both. Over TLS there is [`push`] only.

mod exchange;
pub mod push;
mod reverse;
mod validate;

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::ProtoError;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::SVCB;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use ipnet::IpNet;
use mat_proto::apl::{self, AplError, List};
use mat_proto::record::{self, RecordError};
use mat_proto::{Binding, Home, Whose};

use crate::clock::unix_now;
use crate::past;
pub use crate::past::{Step, Told};
pub use crate::tsig::{Algorithm, KeyError, TsigKey};
use exchange::{Answer, Request};
pub use reverse::{addresses_below, is_reverse};
pub use validate::Anchors;
use validate::Validator;

/// TTL of the records written: bindings are never to be cached by resolvers.
const TTL: u32 = 0;

/// Largest UDP answer asked for: fits any path unfragmented (RFC 9715).
const UDP_PAYLOAD: u16 = 1232;

/// How long to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Wait for an answer before sending again (to the next server, if there
    /// are several).
    pub per_try: Duration,
    /// Give up after this long, all tries together.
    pub deadline: Duration,
}

impl Default for Timing {
    /// Four or five tries in two seconds.
    fn default() -> Self {
        Timing {
            per_try: Duration::from_millis(400),
            deadline: Duration::from_secs(2),
        }
    }
}

/// What the mapping service says about one home address.
#[derive(Clone, Debug)]
pub struct Lookup {
    /// Where the home address is reachable; `None` if it is not bound.
    pub binding: Option<Binding>,
    /// Whose binding it is, if all homes of a prefix share it.
    pub shared: Option<Whose>,
    /// Whether the answer carried a valid TSIG.
    pub verified: bool,
    /// With `binding: None`: how long that may be believed (RFC 2308).
    pub negative_ttl: Duration,
    /// Who answered.
    pub server: SocketAddr,
}

/// What a zone says of its prefixes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefixes {
    /// There is at least one.
    pub prefixes: Vec<IpNet>,
    /// Whether that is proved, as in [`Lookup`].
    pub verified: bool,
}

/// The outcome of a compare-and-swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swap {
    /// The change is on the server's disk and visible.
    Committed,
    /// The record is not what was expected: somebody else changed it. Read it
    /// again before deciding anything.
    Conflict,
}

/// Why the mapping service gave no usable answer. None of these means "this
/// home address is not bound".
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// Nobody answered in time.
    #[error("no answer from the mapping service at {servers} within {waited:?}")]
    Timeout {
        /// The servers asked.
        servers: String,
        /// The deadline.
        waited: Duration,
    },
    /// A server refuses with this response code.
    #[error("mapping service {server} answers {code:?}{}", hint(*.code))]
    Refused {
        /// Who.
        server: SocketAddr,
        /// Its response code.
        code: ResponseCode,
    },
    /// A server does not tell what has changed.
    #[error(
        "mapping service {server} does not tell what has changed ({code:?}): its key may not change \
         or read that binding, or it is no mat-mapd"
    )]
    NoPast {
        /// Who.
        server: SocketAddr,
        /// Its response code.
        code: ResponseCode,
    },
    /// A server does not accept our signature, or does not serve the zone.
    #[error("mapping service {server}: {reason}")]
    NotAuth {
        /// Who.
        server: SocketAddr,
        /// Why.
        reason: AuthFault,
    },
    /// The record is there and is not a binding.
    #[error("the record of {home} is not a binding: {error}")]
    Malformed {
        /// Whose record.
        home: Home,
        /// What is wrong with it.
        error: RecordError,
    },
    /// An alias of the reverse tree that leads to another name than the home's.
    #[error("{alias} leads to {target}, which is not the owner name of that home address")]
    Astray {
        /// The alias.
        alias: String,
        /// Where it leads.
        target: String,
    },
    /// The zone does not say which prefixes there are.
    #[error("{owner} has no APL record: add one with the prefixes, as in \"1:192.0.2.0/24\"")]
    Unlisted {
        /// Where it would be.
        owner: String,
    },
    /// What the zone says of its prefixes cannot be read.
    #[error("the APL record of {owner}: {error}")]
    NoList {
        /// Where it is.
        owner: String,
        /// What is wrong with it.
        error: AplError,
    },
    /// An answer that answers nothing (no record, no SOA), or to be read no
    /// further.
    #[error("mapping service {server}: useless answer: {what}")]
    Useless {
        /// Who.
        server: SocketAddr,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The network refuses.
    #[error("cannot reach mapping service {server}: {error}")]
    Network {
        /// Who.
        server: SocketAddr,
        /// What the system says.
        error: std::io::Error,
    },
    /// The request cannot be made.
    #[error("{0}")]
    Request(String),
}

/// Why a server says NOTAUTH.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthFault {
    /// TSIG error BADKEY.
    #[error("it does not know our key (name or algorithm); compare both configurations")]
    BadKey,
    /// TSIG error BADSIG.
    #[error("it finds our signature wrong; compare the key's secret on both sides")]
    BadSig,
    /// TSIG error BADTIME.
    #[error("our clock is off by {off} s from its own; set the clocks (NTP)")]
    BadTime {
        /// Its clock minus ours, seconds.
        off: i64,
    },
    /// Plain NOTAUTH.
    #[error("it is not authoritative for our zone")]
    Zone,
    /// It answers without a signature although we signed.
    #[error("it answers without a valid signature although we signed")]
    Unsigned,
}

fn hint(code: ResponseCode) -> &'static str {
    match code {
        ResponseCode::Refused => {
            " (its policy forbids this key the name, the locator or the epoch, which of a home that was \
             withdrawn a moment ago may be a few seconds ahead; or another home is at the place to \
             stand by at, and the next try takes another one; its log says which)"
        }
        ResponseCode::ServFail => " (it cannot serve now; its log says why)",
        _ => "",
    }
}

/// A handle on the mapping service; cheap to clone, no connection is kept.
#[derive(Clone, Debug)]
pub struct MapClient {
    servers: Vec<SocketAddr>,
    zone: Name,
    key: Option<TsigKey>,
    timing: Timing,
    /// Questions are not signed then.
    validator: Option<Validator>,
}

impl MapClient {
    /// A client of `zone` at `servers`, asked in this order; for changes the
    /// first must be the primary. With a zone of the [reverse tree](is_reverse) bindings are found
    /// by aliases there, in whatever zone they are, and cannot be changed. Without a key nothing
    /// can be changed and no answer is verified.
    pub fn new(zone: Name, servers: Vec<SocketAddr>, key: Option<TsigKey>) -> Self {
        let mut zone = zone;
        zone.set_fqdn(true);
        MapClient {
            servers,
            zone,
            key,
            timing: Timing::default(),
            validator: None,
        }
    }

    /// The same client, for which an answer is verified if and only if DNSSEC proves it from these
    /// anchors. Changes are signed as before.
    pub fn validating(mut self, anchors: Anchors) -> Self {
        let servers = self.servers.clone();
        self.validator = Some(Validator::new(anchors, servers, self.timing));
        self
    }

    /// The same client with other time limits.
    pub fn with_timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self
    }

    /// The zone asked.
    pub fn zone(&self) -> &Name {
        &self.zone
    }

    /// The servers asked, in order.
    pub fn servers(&self) -> &[SocketAddr] {
        &self.servers
    }

    /// The binding of a home, or that all homes of a prefix share, or that there is none.
    pub async fn get(&self, whose: impl Into<Whose>) -> Result<Lookup, MapError> {
        let whose = whose.into();
        let (answer, records) = self.read(whose).await?;
        let binding = match records.as_slice() {
            [] => None,
            set => Some(binding_in(whose, set)?),
        };
        Ok(Lookup {
            negative_ttl: match binding {
                Some(_) => Duration::ZERO,
                None => negative_ttl(&answer, &self.zone)?,
            },
            binding,
            shared: shared_by(whose, &records),
            verified: answer.verified,
            server: answer.server,
        })
    }

    /// Replaces `expect` by `new` if and only if `expect` still is what the
    /// mapping service holds. `expect: None` claims an unbound home address,
    /// `new: None` deletes the binding. Of homes that share one, both are that of the first.
    ///
    /// `new`'s epoch must be above the last one, also over a deletion:
    /// `last.next(now)` if the last is known, else Unix seconds. mat-mapd
    /// refuses (REFUSED) an older one; after several changes within one second
    /// and a deletion, Unix seconds may be too low for some seconds.
    pub async fn compare_and_swap(
        &self,
        whose: impl Into<Whose>,
        expect: Option<&Binding>,
        new: Option<&Binding>,
    ) -> Result<Swap, MapError> {
        let whose = whose.into();
        let mut given = [expect, new].into_iter().flatten();
        if given.any(|b| b.home() != whose.first()) {
            return Err(MapError::Request(format!(
                "a binding of another home address was given for {whose}"
            )));
        }
        self.has_bindings("change")?;
        if self.key.is_none() {
            return Err(MapError::Request(
                "changing a binding needs a TSIG key; none is configured".to_owned(),
            ));
        }
        let expected = expect.map(|binding| whose.to_svcb(binding));
        let first = self.swap_once(whose, expected.as_deref(), new).await?;
        if first.committed {
            return Ok(Swap::Committed);
        }
        // Not met. Read what is there: our own write, if its answer was lost and
        // the server has no replay memory, or the expected binding in another
        // spelling (made by hand, say, without the default port).
        let (_, found) = self.read(whose).await?;
        let parsed = match found.as_slice() {
            [] => None,
            set => match binding_in(whose, set) {
                Ok(binding) => Some(binding),
                Err(_) => return Ok(Swap::Conflict),
            },
        };
        if first.retransmitted && parsed.as_ref() == new {
            return Ok(Swap::Committed);
        }
        let respelled = parsed.is_some() && parsed.as_ref() == expect;
        if !respelled {
            return Ok(Swap::Conflict);
        }
        let second = self.swap_once(whose, Some(&found), new).await?;
        if second.committed {
            return Ok(Swap::Committed);
        }
        if second.retransmitted && self.get(whose).await?.binding.as_ref() == new {
            return Ok(Swap::Committed);
        }
        Ok(Swap::Conflict)
    }

    /// All bindings of the zone, by transfer (AXFR over TCP). The key needs the
    /// right to transfer.
    pub async fn list(&self) -> Result<Vec<(Whose, Binding)>, MapError> {
        self.has_bindings("list")?;
        let mut message = Message::new(random_id()?, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(self.zone.clone(), RecordType::AXFR));
        let request = self.request(message)?;
        let (server, records) =
            exchange::transfer(&self.servers, &request, self.timing.deadline).await?;
        Ok(exchange::bindings_of(&records, &self.zone, server))
    }

    /// Who has changed which binding of late, oldest first: of these homes, or of all that the key
    /// may change and read. Only mat-mapd knows.
    pub async fn past(&self, homes: Option<IpNet>) -> Result<Told, MapError> {
        self.has_bindings("ask for their past")?;
        if self.key.is_none() {
            return Err(MapError::Request(
                "the past is told to keys only that may change the binding; none is configured"
                    .to_owned(),
            ));
        }
        let owner = past::asked_at(homes, &self.zone).map_err(|e| self.no_room(&e))?;
        let mut query = Query::query(owner, RecordType::TXT);
        query.set_query_class(DNSClass::CH);
        let mut message = Message::new(random_id()?, MessageType::Query, OpCode::Query);
        message.add_query(query);
        let request = self.request(message)?;
        let answer = exchange::exchange(&self.servers, &request, self.timing).await;
        let answer = answer.map_err(|error| match error {
            MapError::Refused { server, code } => MapError::NoPast { server, code },
            error => error,
        })?;
        let (server, code) = (answer.server, answer.message.metadata.response_code);
        if code != ResponseCode::NoError {
            return Err(MapError::NoPast { server, code });
        }
        past::read(&answer.message.answers).ok_or(MapError::Useless {
            server,
            what: "no changes of bindings",
        })
    }

    /// The prefixes of a [`List`] of the zone.
    ///
    /// # Errors
    /// Also if the zone has no such list.
    pub async fn prefixes(&self, list: List) -> Result<Prefixes, MapError> {
        let owner = list.owner(&self.zone).map_err(|e| self.no_room(&e))?;
        let answer = self.ask(&owner, RecordType::from(apl::TYPE)).await?;
        let mut prefixes = Vec::new();
        for data in data_at(&answer, &owner) {
            let RData::Unknown { code, rdata } = data else {
                continue;
            };
            if u16::from(*code) == apl::TYPE {
                let read = apl::decode(&rdata.anything);
                prefixes.extend(read.map_err(|error| MapError::NoList {
                    owner: owner.to_string(),
                    error,
                })?);
            }
        }
        if prefixes.is_empty() {
            let owner = owner.to_string();
            return Err(MapError::Unlisted { owner });
        }
        Ok(Prefixes {
            prefixes,
            verified: answer.verified,
        })
    }

    /// Whether the zone is the one where bindings are, for those who want to do that with them.
    ///
    /// # Errors
    /// It is of the reverse tree, which only leads there.
    pub fn has_bindings(&self, what: &str) -> Result<(), MapError> {
        match is_reverse(&self.zone) {
            false => Ok(()),
            true => Err(MapError::Request(format!(
                "bindings are only found through {}: {what} them in the zone where they are",
                self.zone
            ))),
        }
    }

    /// The raw SVCB set that answers for `whose`, and the answer it came in.
    async fn read(&self, whose: Whose) -> Result<(Answer, Vec<SVCB>), MapError> {
        if !is_reverse(&self.zone) {
            return self.read_at(&self.owner(whose)?).await;
        }
        match whose.prefix() {
            None => self.read_reverse(whose.first()).await,
            Some(prefix) => Err(MapError::Request(format!(
                "through {} the bindings of single homes are found, not those of a prefix ({prefix})",
                self.zone
            ))),
        }
    }

    /// The raw SVCB set at an owner.
    async fn read_at(&self, owner: &Name) -> Result<(Answer, Vec<SVCB>), MapError> {
        let answer = self.ask(owner, RecordType::SVCB).await?;
        let set = data_at(&answer, owner).filter_map(|data| match data {
            RData::SVCB(svcb) => Some(svcb.clone()),
            _ => None,
        });
        let set = set.collect();
        Ok((answer, set))
    }

    /// One question; the answer says NOERROR or NXDOMAIN.
    async fn ask(&self, owner: &Name, kind: RecordType) -> Result<Answer, MapError> {
        let mut message = Message::new(random_id()?, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(owner.clone(), kind));
        // The servers are resolvers then, if they serve the reverse tree of others.
        message.metadata.recursion_desired = is_reverse(&self.zone);
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_PAYLOAD);
        edns.set_dnssec_ok(self.validator.is_some());
        message.set_edns(edns);
        let request = match self.validator {
            Some(_) => encode(message, None)?,
            None => self.request(message)?,
        };
        let mut answer = exchange::exchange(&self.servers, &request, self.timing).await?;
        if let Some(validator) = &self.validator {
            let proved = validator.proves(&answer.message, owner, kind);
            answer.verified = proved.await;
        }
        match answer.message.metadata.response_code {
            ResponseCode::NoError | ResponseCode::NXDomain => Ok(answer),
            code => Err(refused(answer.server, code)),
        }
    }

    async fn swap_once(
        &self,
        whose: Whose,
        expect: Option<&[SVCB]>,
        new: Option<&Binding>,
    ) -> Result<Outcome, MapError> {
        let owner = self.owner(whose)?;
        let mut message = Message::new(random_id()?, MessageType::Query, OpCode::Update);
        message.add_query(Query::query(self.zone.clone(), RecordType::SOA));
        // What was read of a home may be its prefix's.
        let shared = expect.and_then(|set| shared_by(whose, set));
        let shared = shared.map(|shared| self.owner(shared)).transpose()?;
        // RFC 2136 section 2.4.2: RRset exists (value dependent).
        for svcb in expect.into_iter().flatten() {
            let data = RData::SVCB(svcb.clone());
            let name = shared.as_ref().unwrap_or(&owner);
            message.add_answer(Record::from_rdata(name.clone(), 0, data));
        }
        // Section 2.4.3: RRset does not exist.
        if expect.is_none() || shared.is_some() {
            let mut none = Record::update0(owner.clone(), 0, RecordType::SVCB);
            none.dns_class = DNSClass::NONE;
            message.add_answer(none);
        }
        // Section 2.5.2: delete an RRset.
        let mut delete = Record::update0(owner.clone(), 0, RecordType::SVCB);
        delete.dns_class = DNSClass::ANY;
        message.add_authority(delete);
        for svcb in new.map_or_else(Vec::new, |new| whose.to_svcb(new)) {
            message.add_authority(Record::from_rdata(owner.clone(), TTL, RData::SVCB(svcb)));
        }
        let request = self.request(message)?;
        let answer = exchange::exchange(&self.servers, &request, self.timing).await?;
        let committed = match answer.message.metadata.response_code {
            ResponseCode::NoError => true,
            ResponseCode::NXRRSet | ResponseCode::YXRRSet => false,
            code => return Err(refused(answer.server, code)),
        };
        Ok(Outcome {
            committed,
            retransmitted: answer.sent > 1,
        })
    }

    /// Encodes and signs: from here on the bytes do not change.
    fn request(&self, message: Message) -> Result<Request, MapError> {
        encode(message, self.key.clone())
    }

    fn owner(&self, whose: Whose) -> Result<Name, MapError> {
        whose.owner(&self.zone).map_err(|e| self.no_room(&e))
    }

    fn no_room(&self, error: &ProtoError) -> MapError {
        MapError::Request(format!("zone {} is too long: {error}", self.zone))
    }
}

/// The binding that a set describes, or how it does not.
fn binding_in(whose: Whose, set: &[SVCB]) -> Result<Binding, MapError> {
    let home = whose.first();
    // A home may be answered for by what its prefix shares, which can be owned by a wildcard then.
    let read = match (whose.prefix(), shared_by(whose, set)) {
        (None, Some(_)) => record::from_svcb(home, set),
        _ => whose.from_svcb(set),
    };
    read.map_err(|error| MapError::Malformed { home, error })
}

/// The homes that this one shares a binding with, if the records are not for it alone.
fn shared_by(whose: Whose, set: &[SVCB]) -> Option<Whose> {
    let single = whose.prefix().is_none().then_some(whose.first())?;
    let homes = IpNet::new(single.ip(), record::prefix_len(set)?).ok()?;
    Whose::new(homes.trunc()).ok()
}

/// What an answer has at a name.
fn data_at<'a>(answer: &'a Answer, owner: &Name) -> impl Iterator<Item = &'a RData> {
    let there = move |r: &&Record| r.name == *owner && r.dns_class == DNSClass::IN;
    let records = answer.message.answers.iter().filter(there);
    records.map(|record| &record.data)
}

fn encode(message: Message, key: Option<TsigKey>) -> Result<Request, MapError> {
    Request::new(message, key, unix_now())
        .map_err(|e| MapError::Request(format!("cannot encode the request: {e}")))
}

struct Outcome {
    committed: bool,
    retransmitted: bool,
}

/// RFC 2308 section 5: the lesser of the SOA's TTL and its minimum. An answer
/// without records and without the zone's SOA says nothing at all.
fn negative_ttl(answer: &Answer, zone: &Name) -> Result<Duration, MapError> {
    answer
        .message
        .authorities
        .iter()
        .find_map(|r| match &r.data {
            // In the reverse tree, of whichever zone it is.
            RData::SOA(soa) if r.name == *zone || is_reverse(zone) => {
                Some(Duration::from_secs(r.ttl.min(soa.minimum).into()))
            }
            _ => None,
        })
        .ok_or(MapError::Useless {
            server: answer.server,
            what: "neither a record nor the zone's SOA (is the server authoritative?)",
        })
}

fn refused(server: SocketAddr, code: ResponseCode) -> MapError {
    match code {
        ResponseCode::NotAuth => MapError::NotAuth {
            server,
            reason: AuthFault::Zone,
        },
        code => MapError::Refused { server, code },
    }
}

fn random_id() -> Result<u16, MapError> {
    getrandom::u32()
        .map(|n| n as u16)
        .map_err(|e| MapError::Request(format!("no random numbers: {e}")))
}

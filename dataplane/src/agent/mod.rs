//! The forwarder's mind, without its body: what to do with every packet,
//! message, answer and request, and nothing about how they came.
//!
//! One input, then drain the outputs until there are none:
//! [`Agent::handle_packet`], [`Agent::handle_control`],
//! [`Agent::handle_lookup`], [`Agent::handle_news`], [`Agent::handle_update`],
//! [`Agent::handle_timeout`] or one of the operations ([`Agent::attach`] ..), then [`Agent::poll_output`],
//! then sleep no longer than [`Agent::poll_timeout`] says.
//!
//! Not in here: sockets, devices, clocks, threads, DNS. Randomness comes in as a
//! function. The same agent runs in the daemon and in simulations.
//!
//! | file | what it decides |
//! |---|---|
//! | `packet` | where a packet goes |
//! | `own` | homes attached here: attach, prepare, activate, detach, serving |
//! | `peers` | where peers are: look-ups, bindings, leases |
//! | `exchange` | the control messages of contexts |
//! | `forwarding` | what the data threads may do without asking |
//! | `gate` | which pairs of an exclusive locator are ours already |
//! | `relay`, `hold` | packets that take the long way, or wait |
//! | `credit`, `rate` | how much strangers and new places may get |
//! | `order` | that packets which took the direct way do not overtake them |
//! | `neighbours` | instances at one site, when one of them comes or goes |
//! | `audit` | nothing: whether what must hold does |
//! | `status`, `snapshot` | what people and restarts see |
//!
//! # Limitations
//! Encapsulation does not exist yet.

mod audit;
mod config;
mod credit;
mod exchange;
mod forwarding;
mod gate;
pub(crate) mod hold;
mod neighbours;
mod order;
mod own;
mod packet;
mod peers;
mod rate;
mod relay;
mod snapshot;
mod status;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use mat_proto::auth::{Key, MoveKey, Token};
use mat_proto::{Binding, Epoch, Home, Locator};

use crate::clock::{Now, Time};
use crate::counters::{Accounts, Cause, Counters, Party};
use crate::fib::Fib;
use crate::frame::{Frame, Offload};
use crate::rewrite::build;
use crate::table::{ContextId, Table};

pub use config::{AgentConfig, Limits};
pub use own::{Activated, Attach, Handover, Link, OpError, Prepared, RelayTo};
pub use snapshot::{ContextRecord, DepartedRecord, OwnRecord, Resting, Snapshot};
pub use status::{
    AccountStatus, ContextStatus, EventStatus, Explanation, OwnStatus, Status, Vitals,
};

use hold::{Budget, Hold};
use packet::Arrival;

/// What becomes of a packet that was read from the TUN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was rewritten in place (or needs no rewriting): write it back.
    Send,
    /// The agent has consumed it.
    Taken,
    /// The agent keeps it until it can be sent or delivered.
    Held,
    /// It is dropped, and counted.
    Drop(Cause),
}

/// What the agent wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Write this packet into the TUN.
    Write(Frame),
    /// Ask the mapping service for a binding; answer with
    /// [`Agent::handle_lookup`].
    Lookup(Home),
    /// The same, and what it said a moment ago will do: answer with that
    /// ([`Agent::handle_news`]), or ask.
    Refresh(Home),
    /// Be told of changes of this home ([`Agent::handle_news`]) for the next minutes, if
    /// that is possible.
    Watch(Home),
    /// Compare-and-swap the binding of a home; answer with
    /// [`Agent::handle_update`].
    Update {
        /// Whose.
        home: Home,
        /// What must be there now; `None`: nothing.
        expect: Option<Binding>,
        /// What shall be there; `None`: nothing.
        new: Option<Binding>,
    },
    /// Route this dedicated locator into the TUN and answer for it.
    AddLocator(Locator),
    /// Undo [`Output::AddLocator`].
    RemoveLocator(Locator),
    /// This home is gone for good: nothing of its link is needed any more. Until
    /// then what its instance sends must not find another way out.
    Disconnect(Home, Option<Link>),
    /// A home that had left is served here again, and its link may have come back: as
    /// after [`Output::Disconnect`] nothing may be left of it. The answer is
    /// [`Agent::link_ready`].
    Connect(Home, Option<Link>),
    /// Tell the neighbours that this locator is here now.
    Announce(Locator),
    /// Steer packets of this pair (peer, own) of locators into the TUN; answer
    /// with [`Agent::handle_steered`].
    Steer(Locator, Locator),
    /// Undo [`Output::Steer`].
    Unsteer(Locator, Locator),
    /// An operation on this home has come to its end.
    Settled(Home, Result<Activated, OpError>),
    /// For the log.
    Note(Event),
}

/// Something worth telling people, about one home or one pair of homes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The home it is about.
    pub home: Home,
    /// The other home, if it is about a pair.
    pub peer: Option<Home>,
    /// What happened.
    pub what: String,
}

/// What the mapping service said about a home.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Its binding.
    Found {
        /// What it is.
        binding: Binding,
        /// What it is believed for.
        proof: Proof,
    },
    /// It has none.
    NotFound {
        /// What that is believed for.
        proof: Proof,
    },
    /// No usable answer; the text says why.
    Failed(String),
}

/// What an answer of the mapping service is believed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// It is authenticated.
    Signed,
    /// It is not, but the network to its servers is trusted.
    Network,
    /// Nothing: it does not count.
    Missing,
}

/// What became of an [`Output::Update`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpdateResult {
    /// It is so now.
    Committed,
    /// Something else was there.
    Conflict,
    /// Not allowed; the text says why.
    Refused(String),
    /// It may or may not have happened.
    Unknown(String),
}

/// Fills a buffer with unpredictable octets.
type Entropy = Box<dyn FnMut(&mut [u8]) + Send>;

/// The pure core of a forwarder.
pub struct Agent {
    config: AgentConfig,
    entropy: Entropy,
    table: Table,
    /// Homes attached here, or recently detached.
    own: BTreeMap<Home, own::Own>,
    /// Whose each locator of ours is.
    own_locators: BTreeMap<Locator, Home>,
    /// Locators that may not be given to another home before then than to the one whose each was;
    /// to nobody, if somebody whom we do not know is said to be there.
    quarantine: BTreeMap<Locator, (Option<Home>, Time)>,
    /// Epochs of homes that were released here lately: the mapping service may
    /// remember them too, and takes nothing lower.
    released: BTreeMap<Home, (Epoch, Time)>,
    /// The uplink's addresses, for exclusive locators.
    uplink: Vec<Locator>,
    cache: BTreeMap<Home, peers::Cached>,
    lookups: BTreeMap<Home, peers::Lookup>,
    opens: BTreeMap<(Home, Home), exchange::PendingOpen>,
    open_rate: rate::Rate,
    cookie_key: Key,
    strangers: BTreeMap<(IpAddr, IpAddr), packet::Stranger>,
    gates: gate::Gates,
    /// When an earlier life's state was taken up: nobody knows what that life had just sent.
    restored: Option<Time>,
    /// Pairs of locators (peer, own) that a context has left, and when.
    vacated: BTreeMap<(Locator, Locator), Time>,
    misdirected: BTreeMap<Home, (Locator, Time)>,
    budget: Budget,
    counters: Arc<Counters>,
    accounts: Arc<Accounts>,
    /// Whose the packet in hand is.
    party: Option<Party>,
    timers: BTreeSet<(Time, Timer)>,
    outputs: VecDeque<Output>,
    events: VecDeque<(Now, Event)>,
    /// Contexts whose packets come here until all outputs are drained.
    detoured: Vec<ContextId>,
    now: Now,
    mapping: peers::MappingState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Context(ContextId),
    Own(Home),
    Lookup(Home),
    Sweep,
}

/// How often queues and bounded memories are looked through.
const SWEEP: Duration = Duration::from_millis(500);
/// Events kept for `explain`.
const MAX_EVENTS: usize = 1024;

impl Agent {
    /// An agent without state. `entropy` fills a buffer with unpredictable octets.
    pub fn new(
        config: AgentConfig,
        now: Now,
        mut entropy: impl FnMut(&mut [u8]) + Send + 'static,
    ) -> Self {
        let seed = std::array::from_fn(|_| {
            let mut octets = [0; 8];
            entropy(&mut octets);
            u64::from_ne_bytes(octets)
        });
        let mut secret = [0; 32];
        entropy(&mut secret);
        let cookie_key = Key::of_move(MoveKey(secret));
        let table = Table::new(config.limits.contexts, seed);
        let budget = Budget::new(config.limits.hold_bytes_total);
        let mut agent = Agent {
            config,
            entropy: Box::new(entropy),
            table,
            own: BTreeMap::new(),
            own_locators: BTreeMap::new(),
            quarantine: BTreeMap::new(),
            released: BTreeMap::new(),
            uplink: Vec::new(),
            cache: BTreeMap::new(),
            lookups: BTreeMap::new(),
            opens: BTreeMap::new(),
            open_rate: rate::Rate::new(exchange::OPENS_PER_SECOND),
            cookie_key,
            strangers: BTreeMap::new(),
            gates: gate::Gates::new(),
            restored: None,
            vacated: BTreeMap::new(),
            misdirected: BTreeMap::new(),
            budget,
            counters: Arc::default(),
            accounts: Arc::default(),
            party: None,
            timers: BTreeSet::new(),
            outputs: VecDeque::new(),
            events: VecDeque::new(),
            detoured: Vec::new(),
            now,
            mapping: peers::MappingState::default(),
        };
        agent.at(now.time + SWEEP, Timer::Sweep);
        agent
    }

    /// The configuration in force.
    pub fn config(&self) -> &AgentConfig {
        &self.config
    }

    /// Replaces prefixes, limits and trust; homes and contexts stay.
    pub fn reconfigure(&mut self, now: Now, config: AgentConfig) -> Vec<Home> {
        self.now = now;
        self.config = config;
        for id in self.table.ids() {
            self.table.mark_changed(id);
        }
        let attached = self.own.keys().copied();
        attached.filter(|home| !self.in_homes(home.ip())).collect()
    }

    /// What the data threads look at.
    pub fn fib(&self) -> &Arc<Fib> {
        self.table.fib()
    }

    /// The next thing to do, if any.
    ///
    /// The forwarding table follows what has changed: before the first output no
    /// packet goes the old way any more, and none goes the new way before the last
    /// one, since those that waited come first.
    pub fn poll_output(&mut self) -> Option<Output> {
        if self.table.has_changed() {
            self.detour();
        }
        let output = self.outputs.pop_front();
        if output.is_none() && !self.detoured.is_empty() {
            self.lead_on();
        }
        output
    }

    /// When [`Agent::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Does everything that is due.
    pub fn handle_timeout(&mut self, now: Now) {
        self.now = now;
        while let Some(&(at, timer)) = self.timers.first() {
            if at > now.time {
                break;
            }
            self.timers.pop_first();
            match timer {
                Timer::Context(id) => self.context_due(id),
                Timer::Own(home) => self.own_due(home),
                Timer::Lookup(home) => self.lookup_due(home),
                Timer::Sweep => self.sweep(),
            }
        }
    }

    /// The counts by cause.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// The same by whose packets they were, as far as that is known.
    pub fn accounts(&self) -> &Arc<Accounts> {
        &self.accounts
    }

    /// Counts what happened to a packet outside the agent.
    pub fn count(&mut self, cause: Cause) {
        self.counters.count(cause);
    }

    /// A control message that a socket received: exclusive locators share
    /// their address with the host, so these do not come through the TUN.
    pub fn handle_control(&mut self, now: Now, from: SocketAddr, to: IpAddr, payload: &[u8]) {
        self.now = now;
        if let Err(cause) = self.control(from, to, payload) {
            self.counters.count(cause);
        }
    }

    fn sweep(&mut self) {
        let now = self.now.time;
        self.sweep_strangers();
        self.sweep_gates();
        self.cache.retain(|_, c| c.until > now);
        self.vacated
            .retain(|_, left| now.since(*left) < peers::VACATED);
        let over: Vec<_> = self
            .quarantine
            .iter()
            .filter(|(_, (_, until))| *until <= now)
            .map(|(l, _)| *l)
            .collect();
        for locator in over {
            self.quarantine.remove(&locator);
        }
        self.released
            .retain(|_, (_, at)| now.since(*at) < Duration::from_secs(60));
        self.misdirected
            .retain(|_, (_, seen)| now.since(*seen) < Duration::from_secs(60));
        self.at(now + SWEEP, Timer::Sweep);
    }

    fn at(&mut self, time: Time, timer: Timer) {
        self.timers.insert((time, timer));
    }

    /// Makes sure that context `id` is looked at no later than `time`.
    fn context_at(&mut self, id: ContextId, time: Time) {
        let Some(context) = self.table.get_mut(id) else {
            return;
        };
        if context.timer.is_some_and(|t| t <= time) {
            return;
        }
        if let Some(old) = context.timer.replace(time) {
            self.timers.remove(&(old, Timer::Context(id)));
        }
        self.at(time, Timer::Context(id));
    }

    fn token(&mut self) -> Token {
        let mut token = [0; 16];
        (self.entropy)(&mut token);
        Token(token)
    }

    fn note(&mut self, home: Home, peer: Option<Home>, what: impl Into<String>) {
        let event = Event {
            home,
            peer,
            what: what.into(),
        };
        if self.events.len() == MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back((self.now, event.clone()));
        self.outputs.push_back(Output::Note(event));
    }

    /// Sends a control message as a UDP packet of our own making.
    fn transmit(&mut self, from: Locator, to: SocketAddr, payload: &[u8]) {
        let mut buffer = vec![0; payload.len() + 48];
        let source = SocketAddr::new(from.ip(), self.config.control_port);
        match build::udp(&mut buffer, source, to, payload) {
            Ok(length) => {
                buffer.truncate(length);
                let peer = Locator::new(to.ip()).ok();
                self.write_gated(peer, from, Frame::plain(buffer));
            }
            // Only families that differ can get here: the binding of a peer
            // that is not reachable natively.
            Err(_) => self.counters.count(Cause::ControlUnexpected),
        }
    }

    fn in_homes(&self, ip: IpAddr) -> bool {
        self.config.homes.iter().any(|p| p.contains(&ip))
    }

    fn in_locators(&self, ip: IpAddr) -> bool {
        self.config.locators.iter().any(|p| p.contains(&ip))
    }

    fn in_pool(&self, ip: IpAddr) -> bool {
        self.config.pool.iter().any(|p| p.contains(&ip))
    }

    fn hold_in(hold: &mut Hold, now: Time, frame: Frame, max: usize, all: &mut Budget) -> Verdict {
        if hold.push(now, frame, max, all) {
            Verdict::Held
        } else {
            Verdict::Drop(Cause::HoldFull)
        }
    }

    /// Handles a packet as if it had just been read, and writes it out if it
    /// is to be sent: for packets that waited.
    fn replay(&mut self, mut frame: Frame, arrival: Arrival) {
        if self.decide(&frame.offload, &mut frame.packet, arrival) == Verdict::Send {
            self.outputs.push_back(Output::Write(frame));
        }
    }

    fn decide(&mut self, offload: &Offload, packet: &mut [u8], arrival: Arrival) -> Verdict {
        // Packets that wait are replayed while another one is in hand.
        let outer = self.party.take();
        let verdict = self.route(offload, packet, arrival);
        match verdict {
            Verdict::Send | Verdict::Taken => {}
            Verdict::Held => {
                if let Some(party) = self.party {
                    self.accounts.of(party).held.fetch_add(1, Relaxed);
                }
            }
            Verdict::Drop(cause) => {
                self.counters.count(cause);
                if let Some(party) = self.party {
                    self.accounts.of(party).dropped.count(cause);
                }
            }
        }
        self.party = outer;
        verdict
    }

    /// What becomes of a packet read from the TUN; rewritten in place.
    pub fn handle_packet(&mut self, now: Now, offload: &Offload, packet: &mut [u8]) -> Verdict {
        self.now = now;
        self.decide(offload, packet, Arrival::Direct)
    }
}

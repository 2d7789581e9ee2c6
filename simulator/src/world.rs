//! Everything together, in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mat_dataplane::agent::{
    Agent, AgentConfig, Answer, Attach, Limits, Output, Snapshot, UpdateResult, Verdict,
};
use mat_dataplane::clock::{Now, Time};
use mat_dataplane::fib::Candidate;
use mat_dataplane::frame::Offload;
use mat_dataplane::rewrite::{Packet, build};
use mat_proto::{Binding, Home, Locator};

use crate::chance::Chance;
use crate::check::{self, Ledger};
use crate::host::Host;
use crate::hostile::{Hostile, Letter};
use crate::mapping::Mapping;
use crate::mover::Mover;
use crate::network::{Network, Weather};
use crate::probes::{self, Came, Probes};
use crate::push::{Parcel, Push};
use crate::scenario::{Act, COURSE, Scenario, Trip};

/// UDP port of the control exchange.
pub(crate) const PORT: u16 = 6283;
/// Octets before the payload of a control message: IPv4 and UDP.
const HEADERS: usize = 28;
/// A forwarder's question that gets no answer has failed after this time.
const MAP_PATIENCE: Duration = Duration::from_secs(1);
/// A way that was broken is tried again so often.
const AGAIN: Duration = Duration::from_millis(500);
/// A forwarder writes its state down so often.
const SAVE: Duration = Duration::from_millis(250);
/// When nothing bad happens any more, forwarders have so long to come right by themselves;
/// then somebody attaches what is attached nowhere.
const BY_THEMSELVES: Duration = Duration::from_secs(60);
const OPERATOR: Duration = Duration::from_secs(5);
/// After this time all connections are over. A TCP that has been cut off for long tries
/// again only once a minute.
const CONVERGED: Duration = Duration::from_secs(300);
/// Longer than what an instance sent before it moved is on its way.
const SETTLES: Duration = Duration::from_millis(300);
/// New connections at the end take no longer.
const AT_THE_END: Duration = Duration::from_secs(30);
const START_UNIX: u64 = 1_795_000_000;

enum Event {
    Act(usize),
    /// A packet reaches a site from the network.
    Arrive(usize, Vec<u8>),
    /// A question reaches the mapping service, asked by a site in one of its lives.
    Ask(usize, u32, Question),
    /// Its answer comes back.
    Told(usize, u32, Reply),
    /// What it pushes to a site arrives.
    Pushed(usize, Parcel),
    /// A site that was cut off is connected again.
    Reconnected(usize),
    /// A site connects an instance that is there.
    Connect(usize, u32, usize),
    Mover(usize, u32),
    Probe(usize),
    Save(usize),
    Restart(usize, bool),
    Operator,
}

enum Question {
    Lookup(Home),
    Update(Home, Option<Binding>, Option<Binding>),
}

enum Reply {
    Lookup(Home, Answer),
    Update(Home, Option<Binding>, UpdateResult),
    News(Home, Answer),
}

struct Site {
    agent: Option<Agent>,
    life: u32,
    saved: Snapshot,
    /// Locators that are led into the TUN.
    routes: BTreeSet<Locator>,
    /// One way to the mapping service.
    map_delay: Duration,
    map_cut: Time,
    /// Most sites are pushed what changes; the others ask.
    push: Option<Push>,
}

struct Travel {
    mover: Option<Mover>,
    /// Which of the events about it counts.
    turn: u32,
}

/// How a run went.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The first thing that must never be.
    pub violation: Option<String>,
    /// What happened, if it was to be told.
    pub story: Vec<String>,
    /// Events handled.
    pub events: u64,
    /// Packets that crossed between sites.
    pub packets: u64,
    /// Moves begun.
    pub moves: u64,
    /// Times somebody had to attach an instance by hand.
    pub by_hand: u64,
    /// Virtual time.
    pub took: Duration,
}

/// Sites, instances, and what is between them.
pub struct World {
    scenario: Scenario,
    now: Time,
    queue: BTreeMap<(Time, u64), Event>,
    sequence: u64,
    chance: Chance,
    sites: Vec<Site>,
    hosts: Vec<Host>,
    places: Vec<Option<usize>>,
    /// When each instance came to where it is.
    arrived: Vec<Time>,
    due: Vec<Option<Time>>,
    network: Network,
    map: Mapping,
    answers_lost: Time,
    travels: Vec<Travel>,
    probes: Probes,
    hostile: Hostile,
    ledger: Ledger,
    telling: Telling,
    outcome: Outcome,
}

/// How much of a run is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Telling {
    /// How it ended.
    End,
    /// What happened.
    Story,
    /// Every segment that an instance sends or is given, too.
    Segments,
}

/// Runs a scenario.
pub fn run(scenario: &Scenario, telling: Telling) -> Outcome {
    World::new(scenario, telling).run()
}

fn home(host: usize) -> Home {
    let text = format!("192.0.2.{}", 10 + host);
    text.parse().expect("an address")
}

fn config(site: usize) -> AgentConfig {
    let prefix = |text: String| text.parse().expect("a prefix");
    AgentConfig {
        homes: vec![prefix("192.0.2.0/24".to_owned())],
        locators: vec![prefix("198.51.100.0/24".to_owned())],
        pool: vec![prefix(format!("198.51.100.{}/28", 16 * site))],
        exclusive: false,
        control_port: PORT,
        lease_seconds: 30,
        poll: Duration::from_secs(1),
        stop_after: None,
        zoning: mat_dataplane::zoning::Zoning::default(),
        grace: Duration::from_secs(10),
        limits: Limits {
            // As long as the run: so that every locator comes back.
            quarantine: Duration::from_secs(5),
            ..Limits::default()
        },
    }
}

impl World {
    fn new(scenario: &Scenario, telling: Telling) -> Self {
        let chance = Chance::new(scenario.seed).apart(1);
        let mut world = World {
            now: Time(1_000_000),
            queue: BTreeMap::new(),
            sequence: 0,
            network: Network::new(scenario.sites, chance.apart(2)),
            hostile: Hostile::new(chance.apart(3)),
            probes: Probes::default(),
            map: Mapping::new(),
            answers_lost: Time(0),
            sites: Vec::new(),
            hosts: (0..scenario.hosts.len())
                .map(|host| Host::new(home(host), chance.apart(100 + host as u64).next()))
                .collect(),
            places: vec![None; scenario.hosts.len()],
            arrived: vec![Time(0); scenario.hosts.len()],
            due: vec![None; scenario.hosts.len()],
            travels: Vec::new(),
            ledger: Ledger::default(),
            telling,
            outcome: Outcome::default(),
            scenario: scenario.clone(),
            chance,
        };
        for site in 0..scenario.sites {
            let delay = world.chance.from(200, 50_000);
            let agent = world.fresh(site, 0);
            let mut push = world.chance.apart(500 + site as u64);
            world.sites.push(Site {
                agent: Some(agent),
                life: 0,
                saved: Snapshot::default(),
                routes: BTreeSet::new(),
                map_delay: Duration::from_micros(delay),
                map_cut: Time(0),
                push: push.per_mille(700).then(|| Push::new(push)),
            });
            world.later(SAVE, Event::Save(site));
        }
        for (host, site) in scenario.hosts.iter().enumerate() {
            world.places[host] = Some(*site);
            world.attach(host, *site);
        }
        for (n, (at, _)) in scenario.acts.iter().enumerate() {
            world.later(*at, Event::Act(n));
        }
        world
    }

    fn run(mut self) -> Outcome {
        let start = self.now;
        let quiet = start + self.quiet_after();
        self.until(quiet);
        self.tell("nothing bad happens any more".to_owned());
        self.later(BY_THEMSELVES, Event::Operator);
        let deadline = quiet + CONVERGED;
        while self.now < deadline && !self.is_well() {
            self.until(self.now + Duration::from_secs(1));
        }
        self.all_done("connections have not come to their end");
        if self.outcome.violation.is_none() {
            self.everybody_talks();
            let deadline = self.now + AT_THE_END;
            while self.now < deadline && !self.is_well() {
                self.until(self.now + Duration::from_millis(100));
            }
            self.all_done("in the end they cannot talk");
        }
        self.outcome.took = self.now.since(start);
        self.outcome
    }

    /// When the last act is over.
    fn quiet_after(&self) -> Duration {
        let end = |(at, act): &(Duration, Act)| {
            *at + match act {
                Act::Crash { down, .. } => *down,
                Act::Cut { lasts, .. }
                | Act::MapCut { lasts, .. }
                | Act::LoseAnswers { lasts }
                | Act::Weather { lasts, .. } => *lasts,
                // Until it is undone, or the forwarders have decided.
                Act::Move(Trip { dies: None, .. }) => Duration::from_secs(25),
                Act::Move(_) => Duration::from_secs(45),
                Act::Probe { count, .. } => probes::PACE * *count + Duration::from_secs(1),
                Act::Connect { .. } | Act::Hostile { .. } => Duration::ZERO,
            }
        };
        let ends = self.scenario.acts.iter().map(end);
        ends.max().unwrap_or(COURSE)
    }

    fn is_well(&self) -> bool {
        let served = |host| {
            let place: Option<usize> = self.places[host];
            place.is_some_and(|site| self.state(site, host).as_deref() == Some("serving"))
        };
        self.outcome.violation.is_some()
            || self.probes.unfinished().is_empty()
                && self.hosts.iter().all(|host| host.unfinished().is_empty())
                && (0..self.hosts.len()).all(served)
    }

    fn all_done(&mut self, what: &str) {
        let mut open: Vec<String> = self.hosts.iter().flat_map(Host::unfinished).collect();
        open.extend(self.probes.unfinished());
        for host in 0..self.hosts.len() {
            let states = (0..self.sites.len())
                .filter_map(|site| Some(format!("{} at s{site}", self.state(site, host)?)));
            let states: Vec<String> = states.collect();
            let place = self.places[host];
            let served = place.and_then(|site| self.state(site, host));
            if served.as_deref() != Some("serving") {
                open.push(format!(
                    "h{host} is at {place:?}, and {}",
                    states.join(", ")
                ));
            }
        }
        if !open.is_empty() {
            self.violated(format!("{what}: {}", open.join("; ")));
        }
    }

    fn everybody_talks(&mut self) {
        let count = self.hosts.len();
        let mut number = 1000;
        for a in 0..count {
            for b in 0..a {
                self.connect(number, a, b, 2000);
                number += 1;
            }
        }
    }

    /// Runs up to a point of time, or to the first violation.
    fn until(&mut self, until: Time) {
        while self.outcome.violation.is_none() {
            let agents = self.sites.iter().enumerate();
            let agent = agents
                .filter_map(|(n, s)| Some((s.agent.as_ref()?.poll_timeout()?, n)))
                .min();
            let hosts = self.due.iter().enumerate();
            let host = hosts.filter_map(|(n, due)| Some(((*due)?, n))).min();
            let event = self.queue.first_key_value().map(|(at, _)| *at);
            let times = [event.map(|e| e.0), agent.map(|a| a.0), host.map(|h| h.0)];
            let Some(at) = times.into_iter().flatten().min().filter(|at| *at <= until) else {
                break;
            };
            self.now = self.now.max(at);
            self.outcome.events += 1;
            if let Some(key) = event.filter(|e| e.0 == at) {
                if let Some(event) = self.queue.remove(&key) {
                    self.happen(event);
                }
            } else if let Some((_, site)) = agent.filter(|a| a.0 == at) {
                let now = self.now();
                self.call(site, |agent| agent.handle_timeout(now));
            } else if let Some((_, host)) = host {
                self.poll_host(host);
            }
        }
        self.now = self.now.max(until);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Act(n) => {
                let act = self.scenario.acts[n].1;
                self.tell(act.to_string());
                self.act(n, act);
            }
            Event::Arrive(site, packet) => {
                let to = Packet::parse(&packet).ok().map(|headers| headers.dst());
                let to = to.and_then(|ip| Locator::new(ip).ok());
                if to.is_some_and(|to| self.sites[site].routes.contains(&to)) {
                    self.enter(site, packet);
                }
            }
            Event::Ask(site, life, question) => self.ask(site, life, question),
            Event::Told(site, life, reply) => {
                if self.sites[site].life != life {
                    return;
                }
                let now = self.now();
                self.call(site, |agent| match reply {
                    Reply::Lookup(home, answer) => agent.handle_lookup(now, home, answer),
                    Reply::Update(home, new, result) => {
                        agent.handle_update(now, home, new.as_ref(), result);
                    }
                    Reply::News(home, answer) => agent.handle_news(now, home, answer),
                });
            }
            Event::Pushed(site, parcel) => {
                let push = self.sites[site].push.as_mut();
                if let Some((home, answer)) = push.and_then(|push| push.arrives(parcel)) {
                    let now = self.now();
                    self.call(site, |agent| agent.handle_news(now, home, answer));
                }
            }
            Event::Reconnected(site) => self.push(site),
            Event::Connect(site, life, host) => {
                if self.sites[site].life == life && self.places[host] == Some(site) {
                    let now = self.now();
                    self.call(site, |agent| agent.link_ready(now, home(host), true));
                }
            }
            Event::Mover(n, turn) => self.go(n, turn),
            Event::Probe(n) => self.probe(n),
            Event::Save(site) => {
                if let Some(agent) = &self.sites[site].agent {
                    self.sites[site].saved = agent.snapshot();
                }
                self.later(SAVE, Event::Save(site));
            }
            Event::Restart(site, forgets) => self.restart(site, forgets),
            Event::Operator => {
                self.operate();
                self.later(OPERATOR, Event::Operator);
            }
        }
    }

    fn act(&mut self, n: usize, act: Act) {
        let now = self.now;
        match act {
            Act::Connect { from, to, octets } => self.connect(n as u16, from, to, octets),
            Act::Probe { from, to, count } => {
                let to = self.hosts[to].home;
                let n = self.probes.begin((from, self.hosts[from].home), to, count);
                self.probe(n);
            }
            Act::Move(trip) => {
                let travelling = self.travels.iter().flat_map(|t| &t.mover);
                let busy = travelling.into_iter().any(|m| m.host() == trip.host);
                let place = self.places[trip.host];
                match place.filter(|from| *from != trip.to && !busy) {
                    Some(from) => {
                        let mut key = [0; 32];
                        self.chance.fill(&mut key);
                        let mover = Mover::new(trip, from, key);
                        self.outcome.moves += 1;
                        self.travels.push(Travel {
                            mover: Some(mover),
                            turn: 0,
                        });
                        self.later(Duration::ZERO, Event::Mover(self.travels.len() - 1, 0));
                    }
                    None => self.tell("it is there, or on its way".to_owned()),
                }
            }
            Act::Crash {
                site,
                down,
                forgets,
            } => {
                if self.sites[site].agent.take().is_some() {
                    self.sites[site].life += 1;
                    if let Some(push) = &mut self.sites[site].push {
                        push.forgets();
                    }
                    self.later(down, Event::Restart(site, forgets));
                }
            }
            Act::Cut { a, b, lasts } => self.network.cut(a, b, now + lasts),
            Act::MapCut { site, lasts } => {
                let sites = site.map_or(0..self.sites.len(), |site| site..site + 1);
                for site in sites {
                    let cut = &mut self.sites[site].map_cut;
                    *cut = (*cut).max(now + lasts);
                    let back = cut.since(now) + AGAIN;
                    if let Some(push) = &mut self.sites[site].push {
                        push.breaks();
                        self.later(back, Event::Reconnected(site));
                    }
                }
            }
            Act::LoseAnswers { lasts } => self.answers_lost = now + lasts,
            Act::Weather {
                lost,
                doubled,
                late,
                lasts,
            } => {
                self.network.weather = Weather {
                    lost,
                    doubled,
                    late,
                    until: now + lasts,
                };
            }
            Act::Hostile { lie, site, times } => {
                let homes: Vec<Home> = self.hosts.iter().map(|h| h.home).collect();
                let all = self.sites.iter().flat_map(|s| s.routes.iter().copied());
                let all: Vec<Locator> = all.collect();
                let here: Vec<Locator> = self.sites[site].routes.iter().copied().collect();
                for n in 0..times {
                    let Some(to) = here.get(n as usize % here.len().max(1)) else {
                        break;
                    };
                    if let Some(letter) = self.hostile.letter(lie, *to, &homes, &all) {
                        self.deliver_letter(letter, Duration::from_millis(n));
                    }
                }
            }
        }
    }

    fn deliver_letter(&mut self, letter: Letter, after: Duration) {
        let Letter { from, to, payload } = letter;
        let mut packet = vec![0; payload.len() + HEADERS];
        let Ok(length) = build::udp(&mut packet, from, to, &payload) else {
            return;
        };
        packet.truncate(length);
        if let Some(site) = self.site_of(to) {
            self.later(after, Event::Arrive(site, packet));
        }
    }

    fn connect(&mut self, number: u16, from: usize, to: usize, octets: u64) {
        let peer = self.hosts[to].home;
        self.hosts[to].listen(number, octets);
        self.hosts[from].connect(number, peer, octets);
        self.poll_host(to);
        self.poll_host(from);
    }

    fn go(&mut self, n: usize, turn: u32) {
        if self.travels[n].turn != turn {
            return;
        }
        let Some(mut mover) = self.travels[n].mover.take() else {
            return;
        };
        let wait = mover.go(self);
        if !mover.is_over() {
            self.travels[n].turn += 1;
            let turn = self.travels[n].turn;
            self.travels[n].mover = Some(mover);
            self.later(wait, Event::Mover(n, turn));
        }
    }

    /// A datagram comes after one that was sent later: only the sender's own move may do that.
    fn overtaken(&mut self, stream: usize, number: u32) {
        let from = self.probes.0[stream].from;
        if self.now.since(self.arrived[from]) > SETTLES {
            let from = self.hosts[from].home;
            self.violated(format!("datagram {number} of {from} is overtaken"));
        }
    }

    /// An instance that stands still sends nothing.
    fn probe(&mut self, n: usize) {
        let from = self.probes.0[n].from;
        if let Some(site) = self.places[from] {
            let Some(packet) = self.probes.0[n].next() else {
                return;
            };
            self.ledger.sends(&packet);
            self.tell_segment("sends", &packet);
            self.enter(site, packet);
        }
        self.later(probes::PACE, Event::Probe(n));
    }

    fn restart(&mut self, site: usize, forgets: bool) {
        let life = self.sites[site].life;
        let agent = self.fresh(site, life);
        self.sites[site].agent = Some(agent);
        self.sites[site].routes.clear();
        self.tell(format!("s{site} is back"));
        let now = self.now();
        let here = (0..self.hosts.len()).filter(|host| self.places[*host] == Some(site));
        let here: Vec<usize> = here.collect();
        if !forgets {
            let saved = self.sites[site].saved.clone();
            self.call(site, |agent| agent.restore(now, saved));
        }
        for host in 0..self.hosts.len() {
            let plugged = here.contains(&host);
            if !forgets {
                self.call(site, |agent| agent.link_ready(now, home(host), plugged));
            } else if plugged {
                self.attach(host, site);
            }
        }
    }

    /// Somebody looks after instances that nobody serves where they are.
    fn operate(&mut self) {
        for host in 0..self.hosts.len() {
            let busy = self
                .travels
                .iter()
                .flat_map(|t| &t.mover)
                .any(|m| m.host() == host);
            if busy {
                continue;
            }
            let site = match self.places[host] {
                Some(site) => site,
                None => {
                    self.plug_in(host, self.scenario.hosts[host]);
                    self.scenario.hosts[host]
                }
            };
            let state = self.state(site, host);
            if matches!(state.as_deref(), Some("serving" | "registering")) {
                continue;
            }
            self.outcome.by_hand += 1;
            self.tell(format!("h{host} is {state:?} at s{site}: attached by hand"));
            if matches!(state.as_deref(), Some("prepared" | "not serving")) {
                let now = self.now();
                self.call(site, |agent| agent.detach(now, home(host), None).is_ok());
            }
            self.attach(host, site);
        }
    }

    fn attach(&mut self, host: usize, site: usize) {
        let now = self.now();
        let request = Attach {
            home: home(host),
            claim: true,
            link: None,
            ready: true,
            contexts: Vec::new(),
            binding: None,
        };
        self.call(site, |agent| agent.attach(now, request).is_ok());
    }

    /// An agent that remembers nothing.
    fn fresh(&self, site: usize, life: u32) -> Agent {
        let mut chance = self.chance.apart(1000 * u64::from(life) + 10 + site as u64);
        Agent::new(config(site), self.now(), move |buffer| chance.fill(buffer))
    }

    fn poll_host(&mut self, host: usize) {
        let packets = self.hosts[host].poll(self.now);
        for packet in packets {
            if let Some(site) = self.places[host] {
                self.ledger.sends(&packet);
                self.tell_segment("sends", &packet);
                self.enter(site, packet);
            }
        }
        if let Some(wrong) = self.hosts[host].wrong() {
            self.violated(wrong);
        }
        let next = self.hosts[host].next(self.now);
        let soonest = self.now + Duration::from_micros(1);
        self.due[host] = next.map(|at| at.max(soonest));
    }

    /// A packet enters the TUN of a site.
    fn enter(&mut self, site: usize, mut packet: Vec<u8>) {
        let now = self.now();
        let Some(agent) = &mut self.sites[site].agent else {
            return;
        };
        // As a data thread does it: the forwarding table first.
        let fib = Arc::clone(agent.fib());
        let offload = Offload::default();
        let hit = Candidate::of(&fib, &packet, PORT)
            .and_then(|found| found.forward(&fib, &offload, &mut packet, now.time));
        let verdict = match hit {
            Some((slot, direction)) => {
                fib.count(slot, direction, 1, packet.len() as u64, now.time);
                Verdict::Send
            }
            None => agent.handle_packet(now, &offload, &mut packet),
        };
        if verdict == Verdict::Send {
            self.route(site, packet);
        }
        self.drain(site);
    }

    /// What the kernel does with a packet written into the TUN of a site.
    fn route(&mut self, site: usize, packet: Vec<u8>) {
        let Ok(headers) = Packet::parse(&packet) else {
            return self.violated(format!("s{site} writes what is no packet"));
        };
        let dst = headers.dst();
        if let Some(host) = self.hosts.iter().position(|h| h.home.ip() == dst) {
            if self.places[host] == Some(site) {
                if let Err(wrong) = self.ledger.receives(&packet) {
                    return self.violated(format!("at s{site}: {wrong}"));
                }
                self.tell_segment("is given", &packet);
                match self.probes.receives(&packet) {
                    Ok(Came::Other) => {}
                    Ok(Came::InOrder) => return,
                    Ok(Came::Overtaken { stream, number }) => {
                        return self.overtaken(stream, number);
                    }
                    Err(wrong) => return self.violated(wrong),
                }
                self.hosts[host].give(packet);
                self.due[host] = Some(self.now);
            }
            return;
        }
        if let Err(wrong) = self.ledger.leaves(&packet, &self.map) {
            return self.violated(format!("from s{site}: {wrong}"));
        }
        // Whoever overhears data can repeat it, as on any path.
        let ports = headers.udp_ports().filter(|(_, to)| *to == PORT);
        if let (Some((from, to)), Some(payload)) = (ports, packet.get(HEADERS..)) {
            self.hostile.hear(Letter {
                from: SocketAddr::new(headers.src(), from),
                to: SocketAddr::new(dst, to),
                payload: payload.to_vec(),
            });
        }
        let Some(there) = self.site_of(SocketAddr::new(dst, 0)) else {
            return;
        };
        self.outcome.packets += 1;
        for at in self.network.carry(self.now, site, there) {
            let wait = at.since(self.now);
            self.later(wait, Event::Arrive(there, packet.clone()));
        }
    }

    fn site_of(&self, to: SocketAddr) -> Option<usize> {
        (0..self.sites.len()).find(|site| config(*site).pool[0].contains(&to.ip()))
    }

    fn drain(&mut self, site: usize) {
        loop {
            let Some(agent) = &mut self.sites[site].agent else {
                return;
            };
            let Some(output) = agent.poll_output() else {
                break;
            };
            let (life, delay) = (self.sites[site].life, self.sites[site].map_delay);
            match output {
                Output::Write(frame) => self.route(site, frame.packet),
                Output::Watch(home) => self.watch(site, home),
                Output::Refresh(home) if let Some(answer) = self.recent(site, home) => {
                    self.later(
                        Duration::ZERO,
                        Event::Told(site, life, Reply::News(home, answer)),
                    );
                }
                Output::Lookup(home) | Output::Refresh(home) => {
                    self.later(delay, Event::Ask(site, life, Question::Lookup(home)));
                }
                Output::Update { home, expect, new } => {
                    let question = Question::Update(home, expect, new);
                    self.later(delay, Event::Ask(site, life, question));
                }
                Output::AddLocator(locator) => {
                    self.sites[site].routes.insert(locator);
                }
                Output::RemoveLocator(locator) => {
                    self.sites[site].routes.remove(&locator);
                }
                Output::Settled(home, result) => {
                    let served = result.is_ok_and(|activated| activated.locator.is_some());
                    self.settled(site, home, served);
                }
                Output::Note(event) => {
                    let peer = event
                        .peer
                        .map_or_else(String::new, |p| format!(" with {p}"));
                    self.tell(format!("s{site}: {}{peer}: {}", event.home, event.what));
                }
                Output::Connect(home, _) => {
                    let host = self.hosts.iter().position(|h| h.home == home);
                    if let Some(host) = host.filter(|h| self.places[*h] == Some(site)) {
                        self.later(Duration::ZERO, Event::Connect(site, life, host));
                    }
                }
                Output::Disconnect(..)
                | Output::Announce(_)
                | Output::Steer(..)
                | Output::Unsteer(..) => {}
            }
        }
        self.check(site);
    }

    fn settled(&mut self, site: usize, home: Home, served: bool) {
        for n in 0..self.travels.len() {
            let travel = &mut self.travels[n];
            let Some(mover) = &mut travel.mover else {
                continue;
            };
            if mover.awaits(site) && crate::world::home(mover.host()) == home {
                mover.settled = Some(served);
                if !mover.waits() {
                    continue;
                }
                travel.turn += 1;
                let turn = travel.turn;
                self.later(Duration::from_millis(1), Event::Mover(n, turn));
            }
        }
    }

    fn check(&mut self, site: usize) {
        let Site { agent, life, .. } = &self.sites[site];
        let Some(agent) = agent else {
            return;
        };
        let mut wrong = agent.audit().err();
        for host in &self.hosts {
            match agent.own_status(host.home) {
                Some(own) if !matches!(own.state.as_str(), "prepared" | "registering") => {
                    let known = self.ledger.knows(site, *life, host.home, own.epoch);
                    wrong = wrong.or(known.err());
                }
                _ => self.ledger.forgets(site, *life, host.home),
            }
        }
        if let Some(wrong) = wrong {
            self.violated(format!("at s{site}: {wrong}"));
        }
    }

    fn ask(&mut self, site: usize, life: u32, question: Question) {
        if self.now < self.sites[site].map_cut {
            let reply = match question {
                Question::Lookup(home) => Reply::Lookup(home, Answer::Failed("no answer".into())),
                Question::Update(home, _, new) => {
                    Reply::Update(home, new, UpdateResult::Unknown("no answer".into()))
                }
            };
            return self.later(MAP_PATIENCE, Event::Told(site, life, reply));
        }
        let lost = self.now < self.answers_lost;
        let reply = match question {
            Question::Lookup(home) if lost => {
                Reply::Lookup(home, Answer::Failed("answer lost".into()))
            }
            Question::Lookup(home) => Reply::Lookup(home, self.map.answer(home)),
            Question::Update(home, expect, new) => {
                match self.map.swap(home, expect.as_ref(), new.as_ref()) {
                    Err(wrong) => return self.violated(wrong),
                    Ok(result) => {
                        let place = new
                            .as_ref()
                            .and_then(|b| Some((b.active()?.locator, b.epoch())));
                        self.tell(format!("map: {home} from s{site} to {place:?}: {result:?}"));
                        for site in 0..self.sites.len() {
                            self.push(site);
                        }
                        let unknown = UpdateResult::Unknown("answer lost".into());
                        Reply::Update(home, new, if lost { unknown } else { result })
                    }
                }
            }
        };
        let delay = if lost {
            MAP_PATIENCE
        } else {
            self.sites[site].map_delay
        };
        self.later(delay, Event::Told(site, life, reply));
    }

    /// A site wants to hear of a home: what is there comes as soon as it can.
    fn watch(&mut self, site: usize, home: Home) {
        if let Some(push) = &mut self.sites[site].push {
            push.watch(home);
            self.push(site);
        }
    }

    /// What a site has been told of a home without asking. It wants to hear of it.
    fn recent(&mut self, site: usize, home: Home) -> Option<Answer> {
        self.watch(site, home);
        let Site { push, map_cut, .. } = &self.sites[site];
        let push = push.as_ref().filter(|_| self.now >= *map_cut)?;
        push.known(home)
    }

    /// Sends to a site what it does not know.
    fn push(&mut self, site: usize) {
        let now = self.now;
        let Site {
            push,
            map_cut,
            map_delay,
            ..
        } = &mut self.sites[site];
        let Some(push) = push.as_mut().filter(|_| now >= *map_cut) else {
            return;
        };
        for (at, parcel) in push.send(&self.map, now, *map_delay) {
            self.later(at.since(now), Event::Pushed(site, parcel));
        }
    }

    fn later(&mut self, after: Duration, event: Event) {
        self.sequence += 1;
        self.queue.insert((self.now + after, self.sequence), event);
    }

    fn violated(&mut self, what: String) {
        if self.outcome.violation.is_none() {
            self.tell_states();
        }
        self.tell(format!("VIOLATION: {what}"));
        self.outcome.violation.get_or_insert(what);
    }

    /// The clocks.
    pub(crate) fn now(&self) -> Now {
        Now {
            time: self.now,
            unix_us: START_UNIX * 1_000_000 + self.now.0,
        }
    }

    pub(crate) fn home(&self, host: usize) -> Home {
        self.hosts[host].home
    }

    /// Asks the forwarder of a site for something, if it runs.
    pub(crate) fn call<R>(&mut self, site: usize, ask: impl FnOnce(&mut Agent) -> R) -> Option<R> {
        let answer = ask(self.sites[site].agent.as_mut()?);
        self.drain(site);
        Some(answer)
    }

    /// What a forwarder says of an instance.
    pub(crate) fn state(&self, site: usize, host: usize) -> Option<String> {
        let agent = self.sites[site].agent.as_ref()?;
        Some(agent.own_status(home(host))?.state)
    }

    pub(crate) fn unplug(&mut self, host: usize) {
        if let Some(site) = self.places[host].take() {
            let now = self.now();
            self.call(site, |agent| agent.link_ready(now, home(host), false));
        }
    }

    pub(crate) fn plug_in(&mut self, host: usize, site: usize) {
        self.places[host] = Some(site);
        self.arrived[host] = self.now;
        let now = self.now();
        self.call(site, |agent| agent.link_ready(now, home(host), true));
        self.due[host] = Some(self.now);
    }

    fn tell_segment(&mut self, what: &str, packet: &[u8]) {
        if self.telling >= Telling::Segments
            && let Some(segment) = check::segment(packet)
        {
            self.tell(format!("an instance {what} {segment}"));
        }
    }

    /// What the forwarders say of themselves.
    fn tell_states(&mut self) {
        if self.telling < Telling::Story {
            return;
        }
        let now = self.now();
        for site in 0..self.sites.len() {
            let Some(status) = self.sites[site].agent.as_ref().map(|a| a.status(now)) else {
                continue;
            };
            for c in status.contexts {
                let (remote, epoch) = (c.remote.map(|l| l.to_string()), c.epoch);
                self.tell(format!(
                    "s{site} has {} with {} at {remote:?}, before {:?}, epoch {epoch}: {}, {} held, {} sent, {} received",
                    c.own, c.peer, c.previous, c.state, c.held, c.sent.packets, c.received.packets
                ));
            }
            let counts = status.counters.iter().filter(|(_, n)| *n > &0);
            let counts: Vec<String> = counts.map(|(name, n)| format!("{n} {name}")).collect();
            self.tell(format!("s{site} counts {}", counts.join(", ")));
        }
    }

    pub(crate) fn tell(&mut self, what: String) {
        if self.telling >= Telling::Story {
            self.outcome.story.push(format!("{} {what}", self.now));
        }
    }
}

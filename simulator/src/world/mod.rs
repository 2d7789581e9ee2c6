//! Everything together, in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mat_dataplane::agent::Snapshot;
use mat_dataplane::clock::{Now, Time};
use mat_dataplane::rewrite::Packet;
use mat_proto::{Home, Locator};

use crate::chance::Chance;
use crate::check::Ledger;
use crate::host::Host;
use crate::hostile::Hostile;
use crate::mapping::Mapping;
use crate::mover::Mover;
use crate::network::Network;
use crate::probes::{self, Probes};
use crate::push::{Parcel, Push};
use crate::scenario::{Act, COURSE, Scenario, Trip};

mod acts;
mod map;
mod sites;
mod story;

use map::{Question, Reply};
use sites::Site;

/// UDP port of the control exchange.
pub(crate) const PORT: u16 = 6283;
/// Octets before the payload of a control message: IPv4 and UDP.
const HEADERS: usize = 28;
/// A forwarder writes its state down so often.
const SAVE: Duration = Duration::from_millis(250);
/// When nothing bad happens any more, forwarders have so long to come right by themselves;
/// then somebody attaches what is attached nowhere.
const BY_THEMSELVES: Duration = Duration::from_secs(60);
const OPERATOR: Duration = Duration::from_secs(5);
/// After this time all connections are over. A TCP that has been cut off for long tries
/// again only once a minute.
const CONVERGED: Duration = Duration::from_secs(300);
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
    /// The second copy of an instance is stopped.
    CopyEnds(usize),
    Operator,
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
    /// Where a second copy of each runs.
    copies: Vec<Option<usize>>,
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
            copies: vec![None; scenario.hosts.len()],
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
                since: world.now,
                heard: world.now,
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
                | Act::Weather { lasts, .. }
                | Act::Copy { lasts, .. } => *lasts,
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
                self.hears(site, &reply);
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
                    self.sites[site].heard = self.now;
                    self.call(site, |agent| agent.handle_news(now, home, answer));
                }
            }
            Event::Reconnected(site) => self.push(site),
            Event::Connect(site, life, host) => {
                if self.sites[site].life == life && self.runs_at(host, site) {
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
            Event::CopyEnds(host) => self.copy_ends(host),
            Event::Operator => {
                self.operate();
                self.later(OPERATOR, Event::Operator);
            }
        }
    }

    fn later(&mut self, after: Duration, event: Event) {
        self.sequence += 1;
        self.queue.insert((self.now + after, self.sequence), event);
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
}

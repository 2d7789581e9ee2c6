//! A small world in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mat_proto::auth::MoveKey;
use mat_proto::{Binding, Epoch, Home, Locator};

use crate::agent::{
    Agent, AgentConfig, Answer, Attach, Handover, Limits, OpError, Output, Proof, RelayTo,
    Snapshot, UpdateResult, Verdict,
};
use crate::clock::{Now, Time};
use crate::fib::Candidate;
use crate::frame::Offload;
use crate::rewrite::{Packet, build};

/// One way between any two sites.
pub const DELAY: Duration = Duration::from_millis(10);
/// There and back between a site and the mapping service.
pub const MAP_TIME: Duration = Duration::from_millis(4);
pub const SECOND: Duration = Duration::from_secs(1);
pub const MILLISECOND: Duration = Duration::from_millis(1);
const START_UNIX: u64 = 1_795_000_000;

enum Happening {
    /// A packet reaches this site's TUN.
    Arrive(usize, Vec<u8>),
    Answer(usize, Home),
    Update(usize, Home, Option<Binding>, Option<Binding>),
}

type Lose = Box<dyn FnMut(u64, &[u8]) -> bool>;

pub struct World {
    pub now: Time,
    pub agents: Vec<Agent>,
    pub map: BTreeMap<Home, Binding>,
    /// Whether the mapping service answers.
    pub map_up: bool,
    /// Whether it commits, but its answer to an update is lost.
    pub lose_answers: bool,
    /// Where the mapping service lets nobody stand by.
    pub refuses: Option<Locator>,
    /// Whether it tells every site of a change, before it answers who has made it.
    pub pushes: bool,
    /// What instances received: (site, home, source, payload).
    pub received: Vec<(usize, Home, IpAddr, Vec<u8>)>,
    /// Which instance is plugged in where.
    pub plugged: BTreeSet<(usize, Home)>,
    pub settled: Vec<(usize, Home, Result<Option<Locator>, OpError>)>,
    /// Packets for homes that are not plugged in where they were delivered.
    pub misdelivered: usize,
    /// Decides, by the running number of a packet between sites, what is lost.
    pub lose: Lose,
    pub crossed: u64,
    /// Packets that no agent saw.
    pub forwarded: u64,
    queue: BTreeMap<(Time, u64), Happening>,
    sequence: u64,
}

pub fn home(n: u8) -> Home {
    format!("192.0.2.{n}").parse().unwrap()
}

/// The n-th locator of a site's pool 198.51.100.(16 * site)/28.
pub fn locator(site: usize, n: usize) -> Locator {
    format!("198.51.100.{}", 16 * site + n).parse().unwrap()
}

pub fn config(site: usize) -> AgentConfig {
    AgentConfig {
        homes: vec!["192.0.2.0/24".parse().unwrap()],
        locators: vec!["198.51.100.0/24".parse().unwrap()],
        pool: vec![format!("198.51.100.{}/28", 16 * site).parse().unwrap()],
        exclusive: false,
        control_port: 6283,
        lease_seconds: 30,
        stop_after: None,
        poll: Duration::from_secs(1),
        zoning: crate::zoning::Zoning::default(),
        grace: Duration::from_secs(10),
        limits: Limits::default(),
    }
}

impl World {
    pub fn new(sites: usize) -> Self {
        let mut world = World {
            now: Time(0),
            agents: Vec::new(),
            map: BTreeMap::new(),
            map_up: true,
            lose_answers: false,
            refuses: None,
            pushes: false,
            received: Vec::new(),
            plugged: BTreeSet::new(),
            settled: Vec::new(),
            misdelivered: 0,
            lose: Box::new(|_, _| false),
            crossed: 0,
            forwarded: 0,
            queue: BTreeMap::new(),
            sequence: 0,
        };
        for site in 0..sites {
            let agent = world.fresh(site);
            world.agents.push(agent);
        }
        world
    }

    /// So many sites; 10 at site 0 talks with 20 at site 1, in an open context.
    pub fn talking(sites: usize) -> Self {
        let mut world = World::new(sites);
        world.talk();
        world
    }

    /// Attaches 10 at site 0 and 20 at site 1, and opens their context.
    pub fn talk(&mut self) {
        self.attach(0, home(10));
        self.attach(1, home(20));
        self.run_for(SECOND);
        self.send(0, home(10), home(20).ip(), b"0");
        self.run_for(SECOND);
        self.received.clear();
    }

    /// An agent that remembers nothing.
    pub fn fresh(&self, site: usize) -> Agent {
        self.fresh_as(site, config(site))
    }

    pub fn fresh_as(&self, site: usize, config: AgentConfig) -> Agent {
        let mut seed = 1 + site as u64 * 1_000_003 + self.now.0;
        Agent::new(config, self.clock(), move |buffer| {
            for byte in buffer {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *byte = (seed >> 56) as u8;
            }
        })
    }

    pub fn clock(&self) -> Now {
        Now {
            time: self.now,
            unix_us: START_UNIX * 1_000_000 + self.now.0,
        }
    }

    pub fn attach(&mut self, site: usize, home: Home) {
        self.attach_as(site, home, true);
    }

    pub fn attach_as(&mut self, site: usize, home: Home, claim: bool) {
        self.plugged.insert((site, home));
        let request = Attach {
            home,
            claim,
            link: None,
            ready: true,
            contexts: Vec::new(),
            binding: None,
        };
        let now = self.clock();
        self.agents[site].attach(now, request).unwrap();
        self.drain(site);
    }

    /// Sends a UDP packet from an instance.
    pub fn send(&mut self, site: usize, from: Home, to: IpAddr, payload: &[u8]) {
        let packet = udp(from.ip(), to, payload);
        self.enter(site, packet);
    }

    /// A packet enters the TUN of a site.
    pub fn enter(&mut self, site: usize, mut packet: Vec<u8>) {
        let now = self.clock();
        let agent = &mut self.agents[site];
        // As a data thread does it: the forwarding table first.
        let fib = Arc::clone(agent.fib());
        let offload = Offload::default();
        let hit = Candidate::of(&fib, &packet, config(site).control_port)
            .and_then(|found| found.forward(&fib, &offload, &mut packet, now.time));
        let verdict = match hit {
            Some((slot, direction)) => {
                fib.count(slot, direction, 1, packet.len() as u64, now.time);
                self.forwarded += 1;
                Verdict::Send
            }
            None => agent.handle_packet(now, &offload, &mut packet),
        };
        if verdict == Verdict::Send {
            self.route(site, packet);
        }
        self.drain(site);
    }

    /// Reserves a locator at a site; gives back where the old one is to relay.
    pub fn prepare(&mut self, site: usize, home: Home) -> RelayTo {
        let key = MoveKey([7; 32]);
        let now = self.clock();
        let prepared = self.agents[site].prepare(now, home, key, None).unwrap();
        let there = self.plugged.contains(&(site, home));
        self.agents[site].link_ready(now, home, there);
        self.drain(site);
        RelayTo {
            locator: prepared.locator,
            port: prepared.port,
            key,
        }
    }

    /// The first half of a move: the new site is prepared, the old one has let go.
    pub fn depart(&mut self, home: Home, from: usize, to: usize) -> Handover {
        let relay = self.prepare(to, home);
        let now = self.clock();
        let handover = self.agents[from].detach(now, home, Some(relay)).unwrap();
        self.drain(from);
        handover
    }

    /// The old site of a move takes the home up again, with what it gave away.
    pub fn reattach(&mut self, site: usize, handover: Handover) {
        let request = Attach {
            home: handover.home,
            claim: true,
            link: None,
            ready: true,
            contexts: handover.contexts,
            binding: handover.binding,
        };
        let now = self.clock();
        self.agents[site].attach(now, request).unwrap();
        self.drain(site);
    }

    /// A whole planned move, with `freeze` between unplugging and plugging in.
    pub fn move_home(&mut self, home: Home, from: usize, to: usize, freeze: Duration) {
        let handover = self.depart(home, from, to);
        self.plugged.remove(&(from, home));
        self.run_for(freeze);
        self.plugged.insert((to, home));
        self.activate(to, handover);
    }

    pub fn activate(&mut self, site: usize, handover: Handover) {
        let now = self.clock();
        let home = handover.home;
        self.agents[site].link_ready(now, home, true);
        self.agents[site].activate(now, handover).unwrap();
        self.drain(site);
    }

    /// Its forwarder is killed, and started again with what it has written down.
    pub fn restart(&mut self, site: usize) {
        let snapshot = self.agents[site].snapshot();
        self.restart_with(site, snapshot);
    }

    /// The same, and that is what it finds written.
    pub fn restart_with(&mut self, site: usize, snapshot: Snapshot) {
        let text = serde_json::to_string(&snapshot).unwrap();
        self.agents[site] = self.fresh(site);
        let now = self.clock();
        self.agents[site].restore(now, serde_json::from_str(&text).unwrap());
        let plugged = self.plugged.clone();
        for (_, home) in plugged.into_iter().filter(|(at, _)| *at == site) {
            self.agents[site].link_ready(now, home, true);
        }
        self.drain(site);
    }

    pub fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let due = (0..self.agents.len())
                .filter_map(|i| Some((self.agents[i].poll_timeout()?, i)))
                .min();
            let event = self.queue.first_key_value().map(|(at, _)| *at);
            match (event, due) {
                (Some(at), due) if at.0 <= until && due.is_none_or(|(t, _)| at.0 <= t) => {
                    self.now = self.now.max(at.0);
                    let happening = self.queue.remove(&at).unwrap();
                    self.happen(happening);
                }
                (_, Some((at, site))) if at <= until => {
                    self.now = self.now.max(at);
                    let now = self.clock();
                    self.agents[site].handle_timeout(now);
                    self.drain(site);
                }
                _ => break,
            }
        }
        self.now = until;
    }

    /// The payloads an instance received from `source`, in order.
    pub fn payloads(&self, home: Home, source: IpAddr) -> Vec<Vec<u8>> {
        let of = |(_, h, s, _): &&(usize, Home, IpAddr, Vec<u8>)| *h == home && *s == source;
        self.received
            .iter()
            .filter(of)
            .map(|(.., p)| p.clone())
            .collect()
    }

    pub fn counter(&self, site: usize, name: &str) -> u64 {
        let mut counters = self.agents[site].counters().iter();
        counters.find(|(n, _)| *n == name).map_or(0, |(_, n)| n)
    }

    pub fn drain(&mut self, site: usize) {
        while let Some(output) = self.agents[site].poll_output() {
            match output {
                Output::Write(frame) => self.route(site, frame.packet),
                Output::Lookup(home) | Output::Refresh(home) => {
                    self.later(MAP_TIME, Happening::Answer(site, home))
                }
                Output::Update { home, expect, new } => {
                    self.later(MAP_TIME, Happening::Update(site, home, expect, new));
                }
                Output::Settled(home, result) => {
                    self.settled.push((site, home, result.map(|a| a.locator)));
                }
                Output::Steer(peer, own) => {
                    let now = self.clock();
                    self.agents[site].handle_steered(now, peer, own);
                }
                Output::Connect(home, _) => {
                    let there = self.plugged.contains(&(site, home));
                    let now = self.clock();
                    self.agents[site].link_ready(now, home, there);
                }
                _ => {}
            }
        }
        self.agents[site].audit().expect("an agent in order");
    }

    fn later(&mut self, delay: Duration, happening: Happening) {
        self.sequence += 1;
        self.queue
            .insert((self.now + delay, self.sequence), happening);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrive(site, packet) => self.enter(site, packet),
            Happening::Answer(site, home) => {
                let answer = self.answer(home);
                let now = self.clock();
                self.agents[site].handle_lookup(now, home, answer);
                self.drain(site);
            }
            Happening::Update(site, home, expect, new) => {
                let stands_by = |b: &Binding| {
                    let mut entries = b.entries().iter().skip(1);
                    entries.any(|entry| Some(entry.locator) == self.refuses)
                };
                let result = if !self.map_up {
                    UpdateResult::Unknown("no answer".to_owned())
                } else if new.as_ref().is_some_and(stands_by) {
                    UpdateResult::Refused("REFUSED".to_owned())
                } else if self.map.get(&home) == expect.as_ref() {
                    match new.clone() {
                        Some(new) => self.map.insert(home, new),
                        None => self.map.remove(&home),
                    };
                    let told = if self.pushes { self.agents.len() } else { 0 };
                    for site in 0..told {
                        let (now, news) = (self.clock(), self.answer(home));
                        self.agents[site].handle_news(now, home, news);
                        self.drain(site);
                    }
                    match self.lose_answers {
                        false => UpdateResult::Committed,
                        true => UpdateResult::Unknown("answer lost".to_owned()),
                    }
                } else {
                    UpdateResult::Conflict
                };
                let now = self.clock();
                self.agents[site].handle_update(now, home, new.as_ref(), result);
                self.drain(site);
            }
        }
    }

    /// What the mapping service says of a home.
    fn answer(&self, home: Home) -> Answer {
        let proof = Proof::Signed;
        match self.map.get(&home).cloned() {
            _ if !self.map_up => Answer::Failed("no answer".to_owned()),
            Some(binding) => Answer::Found { binding, proof },
            None => Answer::NotFound { proof },
        }
    }

    /// What the kernel does with a packet written into the TUN of a site.
    fn route(&mut self, site: usize, packet: Vec<u8>) {
        let headers = Packet::parse(&packet).expect("agents write whole packets");
        let dst = headers.dst();
        if let Some(home) = Home::new(dst)
            .ok()
            .filter(|h| config(0).homes[0].contains(&h.ip()))
        {
            if !self.plugged.contains(&(site, home)) {
                self.misdelivered += 1;
                return;
            }
            let payload = packet[headers.transport_offset() + 8..].to_vec();
            self.received.push((site, home, headers.src(), payload));
            return;
        }
        let there = (0..self.agents.len()).find(|s| config(*s).pool[0].contains(&dst));
        self.crossed += 1;
        if let Some(there) = there
            && !(self.lose)(self.crossed, &packet)
        {
            let delay = if there == site { Duration::ZERO } else { DELAY };
            self.later(delay, Happening::Arrive(there, packet));
        }
    }

    /// Writes the mapping service's record by hand, as `nsupdate` would.
    pub fn set_map(&mut self, home: Home, locator: Locator) {
        let old = self.map.get(&home).map_or(Epoch(0), Binding::epoch);
        let epoch = old.next(self.clock().unix_seconds());
        let binding = Binding::single(home, epoch, 30, locator, 6283).unwrap();
        self.map.insert(home, binding);
    }
}

pub fn udp(from: IpAddr, to: IpAddr, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; payload.len() + 28];
    let (from, to) = (SocketAddr::new(from, 5000), SocketAddr::new(to, 6000));
    let length = build::udp(&mut packet, from, to, payload).unwrap();
    packet.truncate(length);
    packet
}

/// Whether a packet is a control message.
pub fn is_control(packet: &[u8]) -> bool {
    packet.windows(4).any(|w| w == b"MAT\n")
}

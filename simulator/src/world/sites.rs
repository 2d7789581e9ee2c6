//! The sites: forwarders with the pure parts of `matd`, and what their kernels do with packets.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use mat_dataplane::agent::{Agent, AgentConfig, Limits, Output, Snapshot, Verdict};
use mat_dataplane::clock::Time;
use mat_dataplane::fib::Candidate;
use mat_dataplane::frame::Offload;
use mat_dataplane::rewrite::Packet;
use mat_proto::Locator;

use super::map::{Question, Reply};
use super::{Event, HEADERS, PORT, World, home};
use crate::check;
use crate::hostile::Letter;
use crate::probes::Came;
use crate::push::Push;

/// A forwarder that nothing keeps from asking knows after this time where a home is: a question
/// that was lost has failed after a second, and the next one follows within another.
const LEARNS: Duration = Duration::from_millis(2500);

pub(super) struct Site {
    pub(super) agent: Option<Agent>,
    pub(super) life: u32,
    pub(super) saved: Snapshot,
    /// Locators that are led into the TUN.
    pub(super) routes: BTreeSet<Locator>,
    /// One way to the mapping service.
    pub(super) map_delay: Duration,
    pub(super) map_cut: Time,
    /// When it was started.
    pub(super) since: Time,
    /// When it last had an answer of the mapping service, or a word.
    pub(super) heard: Time,
    /// Most sites are pushed what changes; the others ask.
    pub(super) push: Option<Push>,
}

fn pool(site: usize) -> IpNet {
    let text = format!("198.51.100.{}/28", 16 * site);
    text.parse().expect("a prefix")
}

fn config(site: usize, stop_after: Option<Duration>) -> AgentConfig {
    let prefix = |text: &str| text.parse().expect("a prefix");
    AgentConfig {
        homes: vec![prefix("192.0.2.0/24")],
        locators: vec![prefix("198.51.100.0/24")],
        pool: vec![pool(site)],
        exclusive: false,
        control_port: PORT,
        lease_seconds: 30,
        poll: Duration::from_secs(1),
        stop_after,
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
    /// An agent that remembers nothing.
    pub(super) fn fresh(&self, site: usize, life: u32) -> Agent {
        let mut chance = self.chance.apart(1000 * u64::from(life) + 10 + site as u64);
        let config = config(site, self.scenario.stop_after);
        Agent::new(config, self.now(), move |buffer| chance.fill(buffer))
    }

    pub(super) fn poll_host(&mut self, host: usize) {
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
    pub(super) fn enter(&mut self, site: usize, mut packet: Vec<u8>) {
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
    pub(super) fn route(&mut self, site: usize, packet: Vec<u8>) {
        let Ok(headers) = Packet::parse(&packet) else {
            return self.violated(format!("s{site} writes what is no packet"));
        };
        let dst = headers.dst();
        if let Some(host) = self.hosts.iter().position(|h| h.home.ip() == dst) {
            if self.runs_at(host, site) {
                let may = match check::is_of_an_instance(&packet) {
                    true => self.may_deliver(site, host),
                    false => Ok(()),
                };
                if let Err(wrong) = may.and_then(|()| self.ledger.receives(&packet)) {
                    return self.violated(format!("at s{site}: {wrong}"));
                }
                self.tell_segment("is given", &packet);
                if self.copies[host] == Some(site) {
                    // It says nothing: what becomes of a connection with two ends of that kind
                    // is theirs.
                    return;
                }
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

    /// Whether an instance, or its second copy, is there.
    pub(super) fn runs_at(&self, host: usize, site: usize) -> bool {
        self.places[host] == Some(site) || self.copies[host] == Some(site)
    }

    /// At most one site gives a home its packets, but for as long as the other one could not know.
    fn may_deliver(&self, site: usize, host: usize) -> Result<(), String> {
        let home = home(host);
        let binding = self.map.get(home);
        let active = binding.as_ref().and_then(|b| Some(b.active()?.locator));
        let Some(active) = active.filter(|active| !pool(site).contains(&active.ip())) else {
            return Ok(());
        };
        let Site {
            map_cut,
            since,
            heard,
            ..
        } = &self.sites[site];
        let changed = self.map.changed(home).unwrap_or(Time(0));
        let told = changed.max(*map_cut).max(*since).max(self.answers_lost) + LEARNS;
        let stopped = self.scenario.stop_after;
        let stopped = stopped.map_or(told, |after| {
            changed.max(*heard).max(*since) + after + LEARNS
        });
        if self.now <= told.min(stopped) {
            return Ok(());
        }
        Err(format!(
            "{home} is given a packet, although it is at {active} since {changed}"
        ))
    }

    pub(super) fn site_of(&self, to: SocketAddr) -> Option<usize> {
        (0..self.sites.len()).find(|site| pool(*site).contains(&to.ip()))
    }

    pub(super) fn drain(&mut self, site: usize) {
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
                    if let Some(host) = host.filter(|h| self.runs_at(*h, site)) {
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

    pub(super) fn check(&mut self, site: usize) {
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
}

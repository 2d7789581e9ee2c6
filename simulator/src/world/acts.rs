//! What happens to sites and instances: the acts of a scenario, moves, and the help that comes in
//! the end.

use std::time::Duration;

use mat_dataplane::agent::Attach;
use mat_dataplane::rewrite::build;
use mat_proto::{Home, Locator};

use super::{Event, HEADERS, Travel, World, home};
use crate::hostile::Letter;
use crate::mover::Mover;
use crate::network::Weather;
use crate::probes;
use crate::scenario::Act;

/// A way that was broken is tried again so often.
const AGAIN: Duration = Duration::from_millis(500);
/// Longer than what an instance sent before it moved is on its way.
const SETTLES: Duration = Duration::from_millis(300);

impl World {
    pub(super) fn act(&mut self, n: usize, act: Act) {
        let now = self.now;
        match act {
            Act::Connect { from, to, octets } => self.connect(n as u16, from, to, octets),
            Act::Probe { from, to, count } => {
                let to = self.hosts[to].home;
                let n = self.probes.begin((from, self.hosts[from].home), to, count);
                self.probe(n);
            }
            Act::Move(trip) => {
                let busy = self.is_busy(trip.host);
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
            Act::Copy { host, to, lasts } => {
                let elsewhere = self.places[host].is_some_and(|place| place != to);
                if self.is_busy(host) || !elsewhere {
                    return self.tell("it is there, or on its way".to_owned());
                }
                self.copies[host] = Some(to);
                let now = self.now();
                self.call(to, |agent| agent.link_ready(now, home(host), true));
                self.attach(host, to);
                self.later(lasts, Event::CopyEnds(host));
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

    pub(super) fn deliver_letter(&mut self, letter: Letter, after: Duration) {
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

    pub(super) fn connect(&mut self, number: u16, from: usize, to: usize, octets: u64) {
        let peer = self.hosts[to].home;
        self.hosts[to].listen(number, octets);
        self.hosts[from].connect(number, peer, octets);
        self.poll_host(to);
        self.poll_host(from);
    }

    pub(super) fn go(&mut self, n: usize, turn: u32) {
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

    pub(super) fn settled(&mut self, site: usize, home: Home, served: bool) {
        for n in 0..self.travels.len() {
            let travel = &mut self.travels[n];
            let Some(mover) = &mut travel.mover else {
                continue;
            };
            if mover.awaits(site) && super::home(mover.host()) == home {
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

    /// A datagram comes after one that was sent later: only the sender's own move may do that.
    pub(super) fn overtaken(&mut self, stream: usize, number: u32) {
        let from = self.probes.0[stream].from;
        if self.now.since(self.arrived[from]) > SETTLES {
            let from = self.hosts[from].home;
            self.violated(format!("datagram {number} of {from} is overtaken"));
        }
    }

    /// An instance that stands still sends nothing.
    pub(super) fn probe(&mut self, n: usize) {
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

    pub(super) fn restart(&mut self, site: usize, forgets: bool) {
        let life = self.sites[site].life;
        let agent = self.fresh(site, life);
        self.sites[site].agent = Some(agent);
        self.sites[site].since = self.now;
        self.sites[site].routes.clear();
        self.tell(format!("s{site} is back"));
        let now = self.now();
        let here = (0..self.hosts.len()).filter(|host| self.runs_at(*host, site));
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
    pub(super) fn operate(&mut self) {
        for host in 0..self.hosts.len() {
            if self.is_busy(host) {
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
            if !matches!(state.as_deref(), Some("serving" | "registering")) {
                self.outcome.by_hand += 1;
                self.claim(host, site);
            }
        }
    }

    /// It is being moved, or there are two of it.
    fn is_busy(&self, host: usize) -> bool {
        let travelling = self.travels.iter().flat_map(|t| &t.mover);
        travelling.into_iter().any(|m| m.host() == host) || self.copies[host].is_some()
    }

    /// Whoever has stopped one of two copies says where the other one is, if anybody is there to
    /// be told.
    pub(super) fn copy_ends(&mut self, host: usize) {
        let place = self.places[host];
        if place.is_some_and(|place| self.sites[place].agent.is_none()) {
            return self.later(AGAIN, Event::CopyEnds(host));
        }
        let Some(site) = self.copies[host].take() else {
            return;
        };
        self.tell(format!("h{host} is stopped at s{site}"));
        let now = self.now();
        self.call(site, |agent| agent.link_ready(now, home(host), false));
        self.call(site, |agent| agent.detach(now, home(host), None).is_ok());
        if let Some(place) = place {
            self.claim(host, place);
        }
    }

    /// An instance is attached by hand where it is, whatever it is to its forwarder.
    fn claim(&mut self, host: usize, site: usize) {
        let state = self.state(site, host);
        self.tell(format!(
            "h{host} is {state:?} at s{site}: to be attached by hand"
        ));
        if matches!(state.as_deref(), Some("prepared" | "not serving")) {
            let now = self.now();
            self.call(site, |agent| agent.detach(now, home(host), None).is_ok());
        }
        self.attach(host, site);
    }

    pub(super) fn attach(&mut self, host: usize, site: usize) {
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
}

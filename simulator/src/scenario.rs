//! What happens when: a list of acts, drawn from a seed.

use std::fmt;
use std::time::Duration;

use crate::chance::Chance;

/// A run: the places, and what happens in which order.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What everything else is drawn from.
    pub seed: u64,
    /// Number of sites.
    pub sites: usize,
    /// Where each instance is at first.
    pub hosts: Vec<usize>,
    /// Forwarders that have not heard of the mapping service for so long serve nobody.
    pub stop_after: Option<Duration>,
    /// What happens, in order of time.
    pub acts: Vec<(Duration, Act)>,
}

/// The step before which whoever makes a move dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// The new site has prepared.
    Detach,
    /// The old site has let go.
    Relocate,
    /// The new site is to be told to take over.
    Activate,
}

/// A planned move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trip {
    /// Which instance.
    pub host: usize,
    /// Where to.
    pub to: usize,
    /// So long it has no link.
    pub freeze: Duration,
    /// Whether the new site is told to take over before the instance is there.
    pub early: bool,
    /// Whoever moves it dies there.
    pub dies: Option<Death>,
}

/// Lies, or truths told once too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Messages that were overheard, again.
    Replay,
    /// The same with some bits changed.
    Damage,
    /// Messages of all kinds, made up, in the name of real locators.
    Forge,
    /// First contacts of nobody.
    Flood,
}

impl Lie {
    const ALL: [Lie; 4] = [Lie::Replay, Lie::Damage, Lie::Forge, Lie::Flood];
    /// Of somebody who hears nothing of what is said. Whoever does, and is faster than the path,
    /// may spoil the order of packets: he could hold them up as well.
    const OFF_PATH: [Lie; 2] = [Lie::Forge, Lie::Flood];
}

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// One instance sends another so many octets, and gets as many back.
    Connect {
        /// Who connects.
        from: usize,
        /// Where to.
        to: usize,
        /// Octets each way.
        octets: u64,
    },
    /// One instance sends another numbered datagrams.
    Probe {
        /// Who sends.
        from: usize,
        /// Where to.
        to: usize,
        /// How many.
        count: u32,
    },
    /// A planned move.
    Move(Trip),
    /// Somebody starts an instance at another site, too, which claims it: two live copies. Then
    /// that one is stopped, and the first one claimed again.
    Copy {
        /// Which instance.
        host: usize,
        /// Where the second copy is.
        to: usize,
        /// So long.
        lasts: Duration,
    },
    /// A forwarder is killed, and started again.
    Crash {
        /// Where.
        site: usize,
        /// So long it is gone.
        down: Duration,
        /// Without its state file.
        forgets: bool,
    },
    /// Two sites do not reach each other.
    Cut {
        /// One site.
        a: usize,
        /// The other.
        b: usize,
        /// So long.
        lasts: Duration,
    },
    /// A site, or none (all of them), does not reach the mapping service.
    MapCut {
        /// Where.
        site: Option<usize>,
        /// So long.
        lasts: Duration,
    },
    /// The mapping service does what it is asked, but its answers are lost.
    LoseAnswers {
        /// So long.
        lasts: Duration,
    },
    /// Between all sites, out of 1000 packets: lost, doubled, late.
    Weather {
        /// Lost.
        lost: u64,
        /// Doubled.
        doubled: u64,
        /// Late.
        late: u64,
        /// So long.
        lasts: Duration,
    },
    /// Somebody sends this, so often, to a site.
    Hostile {
        /// What.
        lie: Lie,
        /// Where.
        site: usize,
        /// How often.
        times: u64,
    },
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Act::Connect { from, to, octets } => {
                write!(f, "h{from} connects to h{to}, {octets} octets each way")
            }
            Act::Probe { from, to, count } => {
                write!(f, "h{from} sends h{to} {count} datagrams")
            }
            Act::Move(trip) => {
                let Trip {
                    host, to, freeze, ..
                } = trip;
                let first = if trip.early {
                    ", which is told first"
                } else {
                    ""
                };
                write!(
                    f,
                    "h{host} is moved to s{to}{first}, {freeze:?} without a link"
                )?;
                match trip.dies {
                    None => Ok(()),
                    Some(step) => write!(f, "; the mover dies before {step:?}"),
                }
            }
            Act::Copy { host, to, lasts } => {
                write!(f, "h{host} is started at s{to}, too, for {lasts:?}")
            }
            Act::Crash {
                site,
                down,
                forgets,
            } => {
                let memory = if *forgets { "without" } else { "with" };
                write!(
                    f,
                    "s{site} crashes for {down:?}, comes back {memory} its memory"
                )
            }
            Act::Cut { a, b, lasts } => write!(f, "s{a} and s{b} are cut off for {lasts:?}"),
            Act::MapCut { site, lasts } => match site {
                Some(site) => write!(f, "the map is out of reach of s{site} for {lasts:?}"),
                None => write!(f, "the map is out of reach for {lasts:?}"),
            },
            Act::LoseAnswers { lasts } => write!(f, "the map's answers are lost for {lasts:?}"),
            Act::Weather {
                lost,
                doubled,
                late,
                lasts,
            } => write!(
                f,
                "of 1000 packets {lost} are lost, {doubled} doubled, {late} late, for {lasts:?}"
            ),
            Act::Hostile { lie, site, times } => {
                write!(f, "somebody sends s{site} {times} x {lie:?}")
            }
        }
    }
}

/// Longer than a move takes that nothing disturbs.
const EACH_MOVE: Duration = Duration::from_secs(3);

/// Everything happens within this time.
pub const COURSE: Duration = Duration::from_secs(40);

impl Scenario {
    /// The scenario of a seed: everything that can go wrong.
    pub fn new(seed: u64) -> Self {
        let mut scenario = Self::single(seed);
        let mut chance = Chance::new(seed).apart(7);
        let (sites, hosts) = (scenario.sites as u64, scenario.hosts.len() as u64);
        if chance.once_in(3) {
            for _ in 0..chance.from(1, 3) {
                let host = chance.below(hosts);
                let copy = Act::Copy {
                    host: host as usize,
                    to: chance.below(sites) as usize,
                    lasts: ms(&mut chance, 500, 20_000),
                };
                let at = when(&mut chance);
                scenario.acts.push((at, copy));
                // While somebody talks to it.
                let talk = Act::Connect {
                    from: ((host + chance.from(1, hosts - 1)) % hosts) as usize,
                    to: host as usize,
                    octets: chance.from(30, 100) * 1000,
                };
                let before = ms(&mut chance, 0, 1000);
                scenario.acts.push((at.saturating_sub(before), talk));
            }
            scenario.acts.sort_by_key(|(at, _)| *at);
        }
        scenario.stop_after = chance.once_in(4).then(|| ms(&mut chance, 2000, 5000));
        scenario
    }

    /// The same, with one copy of each instance.
    pub fn single(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let sites = chance.from(3, 4) as usize;
        let hosts: Vec<usize> = (0..chance.from(2, 4))
            .map(|_| chance.below(sites as u64) as usize)
            .collect();
        let mut acts = Vec::new();
        for _ in 0..chance.from(2, 6) {
            let act = connect(&mut chance, hosts.len() as u64);
            acts.push((when(&mut chance), act));
        }
        for _ in 0..chance.from(1, 12) {
            let act = act(&mut chance, sites as u64, hosts.len() as u64);
            acts.push((when(&mut chance), act));
        }
        acts.sort_by_key(|(at, _)| *at);
        Scenario {
            seed,
            sites,
            hosts,
            stop_after: None,
            acts,
        }
    }

    /// The scenario of a seed in which nothing fails: instances move, one after the other or two
    /// at once, and somebody off the path lies, while numbered datagrams are on their way, none of which may be missed.
    pub fn calm(seed: u64) -> Self {
        let mut chance = Chance::new(seed).apart(9);
        let sites = chance.from(3, 4);
        let hosts: Vec<usize> = (0..chance.from(2, 4))
            .map(|_| chance.below(sites) as usize)
            .collect();
        let count = hosts.len() as u64;
        let mut acts = Vec::new();
        for _ in 0..chance.from(1, 3) {
            let act = connect(&mut chance, count);
            acts.push((when(&mut chance), act));
        }
        for _ in 0..chance.from(1, 4) {
            let from = chance.below(count);
            let to = (from + chance.from(1, count - 1)) % count;
            let probe = Act::Probe {
                from: from as usize,
                to: to as usize,
                count: chance.from(500, 6000) as u32,
            };
            acts.push((ms(&mut chance, 1000, 10_000), probe));
        }
        for n in 0..chance.from(1, 10) {
            let at = ms(&mut chance, 1000, 2500) + EACH_MOVE * n as u32;
            let first = chance.below(count);
            let mut travellers = vec![(at, first)];
            if chance.once_in(3) {
                let other = (first + chance.from(1, count - 1)) % count;
                travellers.push((at + ms(&mut chance, 0, 500), other));
            }
            for (at, host) in travellers {
                let trip = Trip {
                    host: host as usize,
                    to: chance.below(sites) as usize,
                    freeze: ms(&mut chance, 0, 300),
                    early: chance.once_in(2),
                    dies: None,
                };
                acts.push((at, Act::Move(trip)));
            }
        }
        if chance.once_in(3) {
            let site = chance.below(sites) as usize;
            let act = hostile(&mut chance, site, &Lie::OFF_PATH);
            acts.push((when(&mut chance), act));
        }
        acts.sort_by_key(|(at, _)| *at);
        Scenario {
            seed,
            sites: sites as usize,
            hosts,
            stop_after: None,
            acts,
        }
    }
}

fn when(chance: &mut Chance) -> Duration {
    Duration::from_millis(chance.from(1000, COURSE.as_millis() as u64))
}

fn ms(chance: &mut Chance, low: u64, high: u64) -> Duration {
    Duration::from_millis(chance.from(low, high))
}

fn connect(chance: &mut Chance, hosts: u64) -> Act {
    let from = chance.below(hosts);
    let to = (from + chance.from(1, hosts - 1)) % hosts;
    Act::Connect {
        from: from as usize,
        to: to as usize,
        octets: chance.from(1, 60) * 1000,
    }
}

fn act(chance: &mut Chance, sites: u64, hosts: u64) -> Act {
    let site = chance.below(sites) as usize;
    match chance.below(16) {
        0..=6 => Act::Move(Trip {
            host: chance.below(hosts) as usize,
            to: site,
            freeze: ms(chance, 0, 300),
            early: chance.once_in(2),
            dies: match chance.below(8) {
                0 => Some(Death::Detach),
                1 => Some(Death::Relocate),
                2 => Some(Death::Activate),
                _ => None,
            },
        }),
        7 | 8 => Act::Crash {
            site,
            down: ms(chance, 10, 3000),
            forgets: chance.once_in(3),
        },
        9 => Act::Cut {
            a: site,
            b: (site + chance.from(1, sites - 1) as usize) % sites as usize,
            lasts: ms(chance, 100, 8000),
        },
        10 => Act::MapCut {
            site: chance.once_in(2).then_some(site),
            lasts: ms(chance, 100, 8000),
        },
        11 => Act::LoseAnswers {
            lasts: ms(chance, 100, 4000),
        },
        12 | 13 => Act::Weather {
            lost: chance.below(60),
            doubled: chance.below(30),
            late: chance.below(100),
            lasts: ms(chance, 1000, 30_000),
        },
        _ => hostile(chance, site, &Lie::ALL),
    }
}

fn hostile(chance: &mut Chance, site: usize, lies: &[Lie]) -> Act {
    Act::Hostile {
        lie: lies[chance.below(lies.len() as u64) as usize],
        site,
        times: chance.from(1, 300),
    }
}

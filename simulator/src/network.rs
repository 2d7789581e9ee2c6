//! The ways between sites.

use std::collections::BTreeMap;
use std::time::Duration;

use mat_dataplane::clock::Time;

use crate::chance::Chance;

/// What befalls packets at a time, out of 1000.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    pub lost: u64,
    pub doubled: u64,
    pub late: u64,
    pub until: Time,
}

/// Ways between every two sites, each with its own length.
#[derive(Debug)]
pub struct Network {
    chance: Chance,
    delays: BTreeMap<(usize, usize), Duration>,
    cut: BTreeMap<(usize, usize), Time>,
    pub weather: Weather,
}

impl Network {
    pub fn new(sites: usize, mut chance: Chance) -> Self {
        let mut delays = BTreeMap::new();
        for a in 0..sites {
            for b in a..sites {
                let delay = Duration::from_micros(chance.from(200, 50_000));
                delays.insert((a, b), delay);
            }
        }
        Network {
            chance,
            delays,
            cut: BTreeMap::new(),
            weather: Weather::default(),
        }
    }

    pub fn cut(&mut self, a: usize, b: usize, until: Time) {
        let end = self.cut.entry(pair(a, b)).or_default();
        *end = (*end).max(until);
    }

    /// When each copy of a packet sent now arrives.
    pub fn carry(&mut self, now: Time, a: usize, b: usize) -> Vec<Time> {
        if self.cut.get(&pair(a, b)).is_some_and(|until| now < *until) {
            return Vec::new();
        }
        let delay = self.delays[&pair(a, b)];
        let weather = self.weather;
        if now >= weather.until {
            return vec![now + delay];
        }
        let mut copies = Vec::new();
        let doubled = self.chance.per_mille(weather.doubled);
        for _ in 0..1 + u64::from(doubled) {
            if self.chance.per_mille(weather.lost) {
                continue;
            }
            let late = self.chance.per_mille(weather.late);
            let extra = if late { self.chance.below(20_000) } else { 0 };
            copies.push(now + delay + Duration::from_micros(extra));
        }
        copies
    }
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

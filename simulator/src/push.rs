//! What the mapping service pushes to a site: one ordered way, as one TCP connection is, that
//! breaks when the site is cut off, and begins anew after that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mat_dataplane::agent::{Answer, Proof};
use mat_dataplane::clock::Time;
use mat_proto::{Binding, Home};

use crate::chance::Chance;
use crate::mapping::Mapping;

/// What is on its way: to be given back to [`Push::arrives`].
#[derive(Clone, Debug)]
pub struct Parcel {
    session: u32,
    home: Home,
    binding: Option<Binding>,
}

/// Both ends of the way.
pub struct Push {
    chance: Chance,
    session: u32,
    /// Homes that the site wants to hear of.
    watched: BTreeSet<Home>,
    /// What was sent in this session.
    sent: BTreeMap<Home, Option<Binding>>,
    /// What has arrived of it.
    known: BTreeMap<Home, Option<Binding>>,
    /// When the last parcel arrives: none overtakes it.
    last: Time,
}

impl Push {
    pub fn new(chance: Chance) -> Self {
        Push {
            chance,
            session: 0,
            watched: BTreeSet::new(),
            sent: BTreeMap::new(),
            known: BTreeMap::new(),
            last: Time(0),
        }
    }

    /// The site wants to hear of a home. It is told with what is sent next.
    pub fn watch(&mut self, home: Home) {
        self.watched.insert(home);
    }

    /// What the site has been told of a home, unless it does not know.
    pub fn known(&self, home: Home) -> Option<Answer> {
        self.known.get(&home).map(answer)
    }

    /// The way is broken: what is on it is lost, and nothing is certain.
    pub fn breaks(&mut self) {
        self.session += 1;
        self.sent.clear();
        self.known.clear();
    }

    /// The site has forgotten what it wanted.
    pub fn forgets(&mut self) {
        self.breaks();
        self.watched.clear();
    }

    /// What there is to tell, and when it arrives, the way taking `delay` or more.
    pub fn send(&mut self, map: &Mapping, now: Time, delay: Duration) -> Vec<(Time, Parcel)> {
        let mut parcels = Vec::new();
        for home in &self.watched {
            let binding = map.get(*home);
            if self.sent.get(home) == Some(&binding) {
                continue;
            }
            self.sent.insert(*home, binding.clone());
            // At times a segment is lost, and sent again.
            let lost = match self.chance.once_in(20) {
                true => Duration::from_millis(200),
                false => Duration::ZERO,
            };
            let more = Duration::from_micros(self.chance.below(5_000));
            self.last = self.last.max(now + delay + more + lost);
            let parcel = Parcel {
                session: self.session,
                home: *home,
                binding,
            };
            parcels.push((self.last, parcel));
        }
        parcels
    }

    /// What a parcel says, if it is still worth anything.
    pub fn arrives(&mut self, parcel: Parcel) -> Option<(Home, Answer)> {
        if parcel.session != self.session {
            return None;
        }
        let said = answer(&parcel.binding);
        self.known.insert(parcel.home, parcel.binding);
        Some((parcel.home, said))
    }
}

fn answer(binding: &Option<Binding>) -> Answer {
    let proof = Proof::Signed;
    match binding.clone() {
        Some(binding) => Answer::Found { binding, proof },
        None => Answer::NotFound { proof },
    }
}

//! The mapping service: the zone and update core of `mat-mapd`, without its sockets.

use std::collections::BTreeMap;

use hickory_proto::op::Query;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use mat_dataplane::agent::{Answer, Proof, UpdateResult};
use mat_dataplane::clock::Time;
use mat_mapping::zone::update::{Draft, Refusal, Update};
use mat_mapping::zone::{Apex, Zone};
use mat_proto::{Binding, Epoch, Home, Locator, record};

/// The zone, and what has ever been in it.
pub struct Mapping {
    zone: Zone,
    /// Every place that a home has ever had, active or not.
    history: BTreeMap<(Home, Locator), Epoch>,
    epochs: BTreeMap<Home, Epoch>,
    changed: BTreeMap<Home, Time>,
}

impl Mapping {
    pub fn new() -> Self {
        let name = |text: &str| Name::from_ascii(text).expect("a name");
        let zone = Zone::new(&Apex {
            origin: name("map.example."),
            nameservers: vec![name("ns.map.example.")],
            contact: name("hostmaster.map.example."),
            ttl: 3600,
            negative_ttl: 2,
        });
        Mapping {
            zone,
            history: BTreeMap::new(),
            epochs: BTreeMap::new(),
            changed: BTreeMap::new(),
        }
    }

    /// The binding of a home.
    pub fn get(&self, home: Home) -> Option<Binding> {
        let owner = record::owner(home, self.zone.origin()).expect("a short zone");
        let answer = self.zone.answer(&owner, RecordType::SVCB);
        let set: Vec<_> = answer
            .answers
            .iter()
            .filter_map(|r| match &r.data {
                RData::SVCB(svcb) => Some(svcb.clone()),
                _ => None,
            })
            .collect();
        (!set.is_empty()).then(|| record::from_svcb(home, &set).expect("only bindings get in"))
    }

    pub fn answer(&self, home: Home) -> Answer {
        match self.get(home) {
            Some(binding) => Answer::Found {
                binding,
                proof: Proof::Signed,
            },
            None => Answer::NotFound {
                proof: Proof::Signed,
            },
        }
    }

    /// A compare-and-swap, as RFC 2136 has it. The text is for the story.
    ///
    /// # Errors
    /// What must never be: an epoch went back.
    pub fn swap(
        &mut self,
        now: Time,
        home: Home,
        expect: Option<&Binding>,
        new: Option<&Binding>,
    ) -> Result<UpdateResult, String> {
        let origin = self.zone.origin().clone();
        let owner = record::owner(home, &origin).expect("a short zone");
        let records = |binding: &Binding, ttl| {
            record::to_records(binding, &origin, ttl)
                .expect("a short zone")
                .into_iter()
                .filter(|r| matches!(r.data, RData::SVCB(_)))
        };
        let empty = |class| {
            let mut record = Record::update0(owner.clone(), 0, RecordType::SVCB);
            record.dns_class = class;
            record
        };
        let update = Update {
            zone: vec![Query::query(origin.clone(), RecordType::SOA)],
            prerequisites: match expect {
                Some(binding) => records(binding, 0).collect(),
                None => vec![empty(DNSClass::NONE)],
            },
            updates: [empty(DNSClass::ANY)]
                .into_iter()
                .chain(new.into_iter().flat_map(|b| records(b, 0)))
                .collect(),
        };
        let change = Draft::new(&self.zone).update(&update, |_| Ok::<_, Refusal>(()));
        let moves = match change {
            Ok(change) => {
                let moves = change.moves.clone();
                self.zone.apply(change);
                moves
            }
            Err(Refusal::SetDiffers(..) | Refusal::SetExists(..)) => {
                return Ok(UpdateResult::Conflict);
            }
            Err(refusal) => return Ok(UpdateResult::Refused(refusal.to_string())),
        };
        // Those whose place it is no more, too.
        for step in moves {
            let active = |b: &Binding| b.active().map(|entry| entry.locator);
            let [from, to] = [&step.from, &step.to].map(|b| b.as_ref().and_then(active));
            let home = step.whose.first();
            if from != to {
                self.changed.insert(home, now);
            }
            if let Some(epoch) = step.to.map(|to| to.epoch()) {
                let last = self.epochs.insert(home, epoch);
                if last.is_some_and(|last| last >= epoch) {
                    return Err(format!("the epoch of {home} went back to {epoch}"));
                }
            }
        }
        if let Some(new) = new {
            for entry in new.entries() {
                self.history.insert((home, entry.locator), new.epoch());
            }
            for (other, _) in self.epochs.iter().filter(|(other, _)| **other != home) {
                let there = self.get(*other);
                let shared = |binding: &Binding| {
                    new.entries()
                        .iter()
                        .any(|e| binding.entry(e.locator).is_some())
                };
                if there.as_ref().is_some_and(shared) {
                    return Err(format!("{home} and {other} are registered at one place"));
                }
            }
        }
        Ok(UpdateResult::Committed)
    }

    /// When a home last had another place, or none.
    pub fn changed(&self, home: Home) -> Option<Time> {
        self.changed.get(&home).copied()
    }

    /// Whether a home has ever been registered at a place.
    pub fn knew(&self, home: Home, locator: Locator) -> bool {
        self.history.contains_key(&(home, locator))
    }
}

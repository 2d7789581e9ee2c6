//! The last epochs of names that are gone, so that delete-and-create cannot
//! take a home address back in time.
//!
//! Bounded: when there are too many, the older half is forgotten and its
//! highest epoch becomes a floor for every name not remembered. Epochs follow
//! the clock, so the floor lies in the past and hinders nobody who makes them as
//! he should; what it must never do, let an old record pass for new, it does not.

use std::collections::BTreeMap;

use hickory_proto::rr::Name;
use mat_proto::Epoch;

/// Names remembered: some 30 MB.
const LIMIT: usize = 1 << 17;

/// Name of the entry that carries the floor in a snapshot: the root owns no
/// binding.
fn floor_name() -> Name {
    Name::root()
}

/// See the module's page one.
#[derive(Clone, Debug)]
pub struct Epochs {
    by_name: BTreeMap<Name, Epoch>,
    floor: Epoch,
    limit: usize,
}

impl Default for Epochs {
    fn default() -> Self {
        Epochs {
            by_name: BTreeMap::new(),
            floor: Epoch(0),
            limit: LIMIT,
        }
    }
}

impl Epochs {
    /// Remembers that `name` was deleted at `epoch`.
    pub fn bury(&mut self, name: Name, epoch: Epoch) {
        if name == floor_name() {
            self.floor = self.floor.max(epoch);
            return;
        }
        let last = self.by_name.entry(name).or_default();
        *last = epoch.max(*last);
        if self.by_name.len() > self.limit {
            self.forget_older_half();
        }
    }

    /// `name` has a binding again, which is newer than what is remembered.
    pub fn forget(&mut self, name: &Name) {
        self.by_name.remove(name);
    }

    /// The epoch that a new binding at `name` must exceed.
    pub fn last(&self, name: &Name) -> Epoch {
        self.by_name.get(name).copied().unwrap_or(self.floor)
    }

    /// The epoch at which this very name was deleted, if that is remembered.
    pub fn remembered(&self, name: &Name) -> Option<Epoch> {
        self.by_name.get(name).copied()
    }

    /// All of it, for a snapshot; to be given back to [`Epochs::bury`].
    pub fn iter(&self) -> impl Iterator<Item = (Name, Epoch)> + '_ {
        let floor = (self.floor > Epoch(0)).then(|| (floor_name(), self.floor));
        let names = self.by_name.iter().map(|(n, e)| (n.clone(), *e));
        names.chain(floor)
    }

    fn forget_older_half(&mut self) {
        let mut all: Vec<Epoch> = self.by_name.values().copied().collect();
        all.sort_unstable();
        let median = all[all.len() / 2];
        self.floor = self.floor.max(median);
        self.by_name.retain(|_, epoch| *epoch > median);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(i: usize) -> Name {
        Name::from_ascii(format!("n{i}.map.example.")).unwrap()
    }

    #[test]
    fn no_name_ever_falls_back_however_many_there_are() {
        let mut epochs = Epochs {
            limit: 10,
            ..Epochs::default()
        };
        for i in 0..1000 {
            epochs.bury(name(i), Epoch(1000 + i as u64));
            assert!(epochs.by_name.len() <= 10);
        }
        for i in 0..1000 {
            assert!(epochs.last(&name(i)) >= Epoch(1000 + i as u64));
        }
        assert!(epochs.last(&name(5000)) < Epoch(2000));
    }

    #[test]
    fn a_later_burial_never_lowers_an_epoch() {
        let mut epochs = Epochs::default();
        epochs.bury(name(1), Epoch(9));
        epochs.bury(name(1), Epoch(3));
        assert_eq!(epochs.last(&name(1)), Epoch(9));
        epochs.forget(&name(1));
        assert_eq!(epochs.last(&name(1)), Epoch(0));
    }
}

//! What outlives a restart, and what travels with an instance.

use std::collections::BTreeMap;
use std::time::Duration;

use mat_proto::auth::{MoveKey, Token};
use mat_proto::{Binding, Home, Locator};
use serde::{Deserialize, Serialize};

use super::own::{Attach, Link, RelayTo, Role};
use super::{Agent, Now};
use crate::clock::Time;
use crate::table::Context;

/// An open context, or one that is about to be, as the state file and a hand-over hold
/// it. Its tokens are secret. What a newer forwarder says beyond this is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextRecord {
    /// The home attached here.
    pub own: Home,
    /// The home it talks to.
    pub peer: Home,
    /// Where the peer is.
    pub binding: Binding,
    /// Where it was a moment ago: what it sent there is on its way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub previous: Vec<Locator>,
    /// Our token.
    pub mine: Token,
    /// The peer's token.
    pub theirs: Token,
    /// Our last sequence number.
    pub sequence_out: u64,
    /// The peer's last sequence number.
    pub sequence_in: u64,
    /// Our token has been sent to the peer's registered locator, but has not come back yet;
    /// and whether the peer had an open context before. Only of a home that is moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered: Option<bool>,
}

impl ContextRecord {
    /// How far sequence numbers jump when a record is taken up, since its
    /// writer may have gone on after writing it.
    pub(super) const SEQUENCE_GAP: u64 = 1 << 16;

    pub(super) fn of(context: &Context) -> Option<Self> {
        let (keys, offered) = match (&context.keys, &context.offered) {
            (Some(keys), _) => (keys, None),
            (None, Some(offered)) => (&offered.keys, Some(offered.resume)),
            (None, None) => return None,
        };
        Some(ContextRecord {
            own: context.own,
            peer: context.peer,
            binding: context.binding.clone()?,
            previous: context.previous.iter().map(|(l, _)| *l).collect(),
            mine: keys.mine,
            theirs: keys.theirs,
            sequence_out: context.sequence_out,
            sequence_in: context.sequence_in,
            offered,
        })
    }
}

/// A home attached here, as the state file holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnRecord {
    /// The home.
    pub home: Home,
    /// Its locators here.
    pub reserved: Vec<Locator>,
    /// Whether its binding is registered by us.
    pub claim: bool,
    /// How it is plugged in.
    pub link: Option<Link>,
    /// Its binding as last known.
    pub known: Option<Binding>,
    /// Set while it is on its way to another site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub departed: Option<DepartedRecord>,
    /// Set while it is on its way here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arriving: Option<ArrivingRecord>,
}

/// A move that is not over: what the new site must not forget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArrivingRecord {
    /// Of this move: what the old site relays is believed for it.
    pub key: MoveKey,
    /// When the move is given up, Unix time in seconds.
    pub until_unix: u64,
    /// The binding that is being registered, if it has come that far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registering: Option<Binding>,
}

/// A move that is not over: what the old site must not forget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DepartedRecord {
    /// Where it went.
    pub to: RelayTo,
    /// Another site serves it.
    pub taken_over: bool,
    /// Until then it is ours to take back, or our locator to keep for it. Unix time in
    /// seconds.
    pub until_unix: u64,
}

/// A locator that may not be given to another home for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resting {
    /// The locator.
    pub locator: Locator,
    /// Whose it was.
    pub home: Home,
    /// Until then, Unix time in seconds.
    pub until_unix: u64,
}

/// Everything an agent needs to go on after a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// Homes attached.
    pub homes: Vec<OwnRecord>,
    /// Open contexts.
    pub contexts: Vec<ContextRecord>,
    /// Locators in quarantine.
    #[serde(default)]
    pub resting: Vec<Resting>,
}

impl Agent {
    /// What to write into the state file.
    pub fn snapshot(&self) -> Snapshot {
        let homes: Vec<OwnRecord> = self
            .own
            .iter()
            .map(|(home, own)| OwnRecord {
                home: *home,
                reserved: own.reserved.clone(),
                claim: own.claim,
                link: own.link.clone(),
                known: own.known.clone(),
                departed: match own.role {
                    Role::Departed { to, until } => Some(DepartedRecord {
                        to,
                        taken_over: own.taken_over,
                        until_unix: self.unix_at(until),
                    }),
                    _ => None,
                },
                arriving: own
                    .arriving()
                    .map(|(key, deadline, registering)| ArrivingRecord {
                        key,
                        until_unix: self.unix_at(deadline),
                        registering: registering.cloned(),
                    }),
            })
            .collect();
        // Those of a home that is gone, should it come back, and of one that is coming.
        let away = self
            .own
            .iter()
            .filter(|(home, own)| !own.is_settled() && self.table.of_own(**home).is_empty());
        let elsewhere = away.flat_map(|(_, own)| &own.imports);
        let resting = self
            .quarantine
            .iter()
            .filter_map(|(l, (h, until))| Some((*l, (*h)?, *until)));
        let contexts = self.table.ids().into_iter();
        Snapshot {
            homes,
            contexts: contexts
                .filter_map(|id| self.table.get(id))
                .filter_map(ContextRecord::of)
                .filter(|record| record.offered.is_none())
                .chain(elsewhere.cloned())
                .map(|record| ContextRecord {
                    // Who knows who is there when it is read again.
                    previous: Vec::new(),
                    ..record
                })
                .collect(),
            resting: resting
                .map(|(locator, home, until)| Resting {
                    locator,
                    home,
                    until_unix: self.unix_at(until),
                })
                .collect(),
        }
    }

    /// In whole seconds, so that it is the same each time.
    fn unix_at(&self, time: Time) -> u64 {
        let wait = time.since(self.now.time).as_micros() as u64;
        (self.now.unix_us + wait).div_ceil(1_000_000)
    }

    fn time_at(&self, unix: u64) -> Time {
        let wait = unix.saturating_sub(self.now.unix_seconds());
        self.now.time + Duration::from_secs(wait)
    }

    /// A home on its way in or out, whose move would be rolled back, or whose
    /// stragglers would be lost, if this life ended now.
    pub fn moving(&self) -> Option<Home> {
        let mut own = self.own.iter();
        own.find(|(_, own)| !own.is_settled())
            .map(|(home, _)| *home)
    }

    /// Bytes of packets that wait, and would be lost too.
    pub fn held_bytes(&self) -> usize {
        self.budget.used()
    }

    /// Takes up the state of an earlier life: homes are served at once, as they
    /// were, and the mapping service is asked whether that is still right.
    pub fn restore(&mut self, now: Now, snapshot: Snapshot) {
        self.now = now;
        self.restored = Some(now.time);
        let mut contexts: BTreeMap<Home, Vec<ContextRecord>> = BTreeMap::new();
        for context in snapshot.contexts {
            contexts.entry(context.own).or_default().push(context);
        }
        for Resting {
            locator,
            home,
            until_unix,
        } in snapshot.resting
        {
            let until = self.time_at(until_unix);
            self.quarantine.insert(locator, (Some(home), until));
        }
        for record in snapshot.homes {
            if let Some(departed) = &record.departed {
                let (until, contexts) = (
                    self.time_at(departed.until_unix),
                    contexts.remove(&record.home).unwrap_or_default(),
                );
                self.resume_departed(&record, departed, until, contexts);
                continue;
            }
            if let Some(arriving) = &record.arriving {
                let (deadline, contexts) = (
                    self.time_at(arriving.until_unix),
                    contexts.remove(&record.home).unwrap_or_default(),
                );
                self.resume_arriving(&record, arriving, deadline, contexts);
                continue;
            }
            let attach = Attach {
                home: record.home,
                claim: record.claim,
                link: record.link,
                ready: false,
                contexts: contexts.remove(&record.home).unwrap_or_default(),
                binding: record.known,
            };
            self.resume(attach, record.reserved);
        }
    }
}

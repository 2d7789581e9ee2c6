//! What outlives a restart, and what travels with an instance.

use std::collections::BTreeMap;

use mat_proto::auth::Token;
use mat_proto::{Binding, Home, Locator};
use serde::{Deserialize, Serialize};

use super::own::{Attach, Link};
use super::{Agent, Now};
use crate::table::Context;

/// An open context, as the state file and a hand-over hold it. Its tokens are
/// secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContextRecord {
    /// The home attached here.
    pub own: Home,
    /// The home it talks to.
    pub peer: Home,
    /// Where the peer is.
    pub binding: Binding,
    /// Our token.
    pub mine: Token,
    /// The peer's token.
    pub theirs: Token,
    /// Our last sequence number.
    pub sequence_out: u64,
    /// The peer's last sequence number.
    pub sequence_in: u64,
}

impl ContextRecord {
    /// How far sequence numbers jump when a record is taken up, since its
    /// writer may have gone on after writing it.
    pub(super) const SEQUENCE_GAP: u64 = 1 << 16;

    pub(super) fn of(context: &Context) -> Option<Self> {
        let keys = context.keys.as_ref()?;
        Some(ContextRecord {
            own: context.own,
            peer: context.peer,
            binding: context.binding.clone()?,
            mine: keys.mine,
            theirs: keys.theirs,
            sequence_out: context.sequence_out,
            sequence_in: context.sequence_in,
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
}

/// Everything an agent needs to go on after a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// Homes attached.
    pub homes: Vec<OwnRecord>,
    /// Open contexts.
    pub contexts: Vec<ContextRecord>,
}

impl Agent {
    /// What to write into the state file. Homes on their way in or out are not
    /// part of it: a restart rolls their move back.
    pub fn snapshot(&self) -> Snapshot {
        let settled = self.own.iter().filter(|(_, own)| own.is_settled());
        let homes: Vec<OwnRecord> = settled
            .map(|(home, own)| OwnRecord {
                home: *home,
                reserved: own.reserved.clone(),
                claim: own.claim,
                link: own.link.clone(),
                known: own.known.clone(),
            })
            .collect();
        let contexts = self.table.ids().into_iter();
        Snapshot {
            homes,
            contexts: contexts
                .filter_map(|id| self.table.get(id))
                .filter_map(ContextRecord::of)
                .collect(),
        }
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
        let mut contexts: BTreeMap<Home, Vec<ContextRecord>> = BTreeMap::new();
        for context in snapshot.contexts {
            contexts.entry(context.own).or_default().push(context);
        }
        for record in snapshot.homes {
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

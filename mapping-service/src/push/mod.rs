//! Tells whoever has subscribed what changes (RFC 8765), at the speed at which he takes it.
//!
//! Nothing that changes is queued for anybody. The writer notes which sets have changed
//! ([`Changes`]), one task puts that into the mailboxes of whom it concerns ([`deliver`]), and each
//! connection writes what these sets are *when it gets to it*. A set that changes ten times
//! meanwhile is told once, as it is then; so what waits for a slow subscriber is bounded by what
//! he has subscribed to. Only whoever wants all below a name can be behind by more than is kept
//! for him: he is cut off, and begins anew.
//!
//! A set is told whole: that it is gone, and the records that are there, in one message.

mod mailbox;
mod pack;
mod registry;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hickory_proto::rr::{Name, RecordType};
use tokio::sync::Notify;

use crate::dso::{News, Subscription};
use crate::policy::{Scope, may_read};
use crate::writer::Shared;
use crate::zone::{View as _, Zone};

pub(crate) use mailbox::{Mailbox, Waiting};
use pack::pack;
use registry::Registry;

/// A set: its name and type. Shared, since it may wait for many.
pub(crate) type SetKey = Arc<(Name, RecordType)>;

/// Names looked at in one go: nothing can be published meanwhile.
pub(crate) const PIECE: usize = 256;

/// Which sets have changed since somebody looked.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Without subscribers nobody looks.
    wanted: AtomicBool,
    sets: Mutex<BTreeSet<SetKey>>,
    wake: Notify,
}

impl Changes {
    /// Whether anybody wants to hear of them.
    pub(crate) fn are_wanted(&self) -> bool {
        self.wanted.load(Ordering::SeqCst)
    }

    /// Notes sets that have changed, and are published.
    pub(crate) fn note(&self, sets: Vec<SetKey>) {
        self.lock().extend(sets);
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<SetKey>> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All subscriptions.
#[derive(Debug)]
pub(crate) struct Push {
    shared: Arc<Shared>,
    registry: Mutex<Registry>,
}

impl Push {
    pub(crate) fn new(shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Push {
            shared,
            registry: Mutex::default(),
        })
    }

    /// Has changes of `subscription` put into `mailbox` from now on; `false` if there are too
    /// many subscriptions.
    pub(crate) fn subscribe(&self, subscription: &Subscription, mailbox: &Arc<Mailbox>) -> bool {
        let mut registry = self.registry();
        // Whoever looks at the zone from here on sees what is not noted.
        self.shared.changes().wanted.store(true, Ordering::SeqCst);
        registry.add(subscription, mailbox)
    }

    /// Undoes [`Push::subscribe`].
    pub(crate) fn unsubscribe(&self, subscription: &Subscription, mailbox: &Arc<Mailbox>) {
        let mut registry = self.registry();
        registry.remove(subscription, mailbox);
        if registry.len() == 0 {
            self.shared.changes().wanted.store(false, Ordering::SeqCst);
        }
    }

    /// The number of subscriptions.
    pub(crate) fn subscriptions(&self) -> usize {
        self.registry().len()
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The messages that tell what these sets are now: [`PIECE`] of them at most.
    pub(crate) fn news(&self, sets: &[SetKey], private: &Scope) -> Vec<Vec<u8>> {
        self.shared.read(|zone| {
            let told = |key: &&SetKey| may_read(private, None, &key.0, zone.origin());
            pack(sets.iter().filter(told).map(|key| replaced(zone, key)))
        })
    }

    /// The messages that tell what is there of a subscription, up to some number of names, and
    /// the name to go on from.
    pub(crate) fn state(
        &self,
        subscription: &Subscription,
        from: &Name,
        private: &Scope,
    ) -> (Vec<Vec<u8>>, Option<Name>) {
        let count = if subscription.below { PIECE } else { 1 };
        self.shared.read(|zone| {
            let (piece, next) = zone.piece(from, count);
            let sets = piece.sets.iter().filter(|((name, kind), _)| {
                subscription.concerns(name, *kind) && may_read(private, None, name, zone.origin())
            });
            let messages = pack(sets.map(|((name, _), set)| {
                let records = set.iter().flat_map(|set| set.records(name));
                records.map(News::Added).collect()
            }));
            let next = next.filter(|next| subscription.below && subscription.covers(next));
            (messages, next)
        })
    }
}

/// A set as it is now, whatever it was before.
fn replaced(zone: &Zone, key: &SetKey) -> Vec<News> {
    let (name, kind) = &**key;
    let cleared = News::Cleared(name.clone(), *kind);
    let set = zone.set(name, *kind).into_iter();
    let records = set.flat_map(|set| set.records(name)).map(News::Added);
    std::iter::once(cleared).chain(records).collect()
}

/// Puts what changes into the mailboxes of whom it concerns, for ever.
pub(crate) async fn deliver(push: Arc<Push>) {
    let changes = push.shared.changes();
    loop {
        changes.wake.notified().await;
        let sets = std::mem::take(&mut *changes.lock());
        for set in sets {
            push.registry().tell(&set);
            // A popular name takes a while.
            tokio::task::yield_now().await;
        }
    }
}

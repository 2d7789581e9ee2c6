//! Who has subscribed to what. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use hickory_proto::rr::{Name, RecordType};

use super::Mailbox;
use crate::dso::{Subscription, is_of};

/// Subscriptions of all sessions together: some 300 octets each.
const MOST: usize = 1_000_000;

/// Mailboxes by what they are for.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    at: HashMap<Name, Vec<Entry>>,
    below: HashMap<Name, Vec<Entry>>,
    len: usize,
}

#[derive(Debug)]
struct Entry {
    kind: RecordType,
    mailbox: Arc<Mailbox>,
}

impl Registry {
    /// `false` if there are too many.
    pub(super) fn add(&mut self, subscription: &Subscription, mailbox: &Arc<Mailbox>) -> bool {
        if self.len >= MOST {
            return false;
        }
        self.len += 1;
        let names = self.of(subscription.below);
        let entries = names.entry(subscription.name.clone()).or_default();
        entries.push(Entry {
            kind: subscription.kind,
            mailbox: mailbox.clone(),
        });
        true
    }

    /// Nothing happens if it is not there.
    pub(super) fn remove(&mut self, subscription: &Subscription, mailbox: &Arc<Mailbox>) {
        let names = self.of(subscription.below);
        let Some(entries) = names.get_mut(&subscription.name) else {
            return;
        };
        let own = |e: &Entry| e.kind == subscription.kind && Arc::ptr_eq(&e.mailbox, mailbox);
        let Some(at) = entries.iter().position(own) else {
            return;
        };
        entries.swap_remove(at);
        if entries.is_empty() {
            names.remove(&subscription.name);
        }
        self.len -= 1;
    }

    /// Puts a set that has changed into the mailboxes of whom it concerns.
    pub(super) fn tell(&self, name: &Name, kind: RecordType) {
        let mut concerned: Vec<&Entry> = self.at.get(name).into_iter().flatten().collect();
        if !self.below.is_empty() {
            let mut above = name.clone();
            loop {
                concerned.extend(self.below.get(&above).into_iter().flatten());
                if above.is_root() {
                    break;
                }
                above = above.base_name();
            }
        }
        for entry in concerned {
            if is_of(entry.kind, kind) {
                entry.mailbox.put((name.clone(), kind));
            }
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn of(&mut self, below: bool) -> &mut HashMap<Name, Vec<Entry>> {
        match below {
            true => &mut self.below,
            false => &mut self.at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::tests::name;
    use futures_util::FutureExt as _;

    fn subscription(owner: &str, kind: RecordType, below: bool) -> Subscription {
        match below {
            true => Subscription::below(&name(owner), kind),
            false => Subscription::at(&name(owner), kind),
        }
    }

    #[test]
    fn a_change_reaches_those_alone_whom_it_concerns() {
        let mut registry = Registry::default();
        let home = "10.2.0.192.h4.map.example.";
        let subscriptions = [
            (subscription(home, RecordType::SVCB, false), true),
            (subscription(home, RecordType::ANY, false), true),
            (subscription(home, RecordType::A, false), false),
            (
                subscription("2.0.192.h4.map.example.", RecordType::SVCB, true),
                true,
            ),
            (
                subscription("3.0.192.h4.map.example.", RecordType::SVCB, true),
                false,
            ),
            (
                subscription("2.0.192.h4.map.example.", RecordType::SVCB, false),
                false,
            ),
            (subscription(".", RecordType::ANY, true), true),
        ];
        let boxes: Vec<_> = subscriptions
            .iter()
            .map(|_| Arc::new(Mailbox::default()))
            .collect();
        for ((subscription, concerned), mailbox) in subscriptions.iter().zip(&boxes) {
            assert!(registry.add(subscription, mailbox));
            assert_eq!(
                subscription.concerns(&name(home), RecordType::SVCB),
                *concerned
            );
        }
        registry.tell(&name(home), RecordType::SVCB);
        for ((subscription, concerned), mailbox) in subscriptions.iter().zip(&boxes) {
            let told = mailbox.take().now_or_never().is_some();
            assert_eq!(told, *concerned, "{subscription:?}");
            registry.remove(subscription, mailbox);
            registry.remove(subscription, mailbox);
        }
        registry.tell(&name(home), RecordType::SVCB);
        assert!(
            boxes
                .iter()
                .all(|mailbox| mailbox.take().now_or_never().is_none())
        );
        assert_eq!(
            (registry.len(), registry.at.len(), registry.below.len()),
            (0, 0, 0)
        );
    }
}

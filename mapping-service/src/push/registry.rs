//! Who has subscribed to what. Pure.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::rr::{Name, RecordType};

use super::{Mailbox, SetKey};
use crate::dso::{Subscription, is_of};

/// Subscriptions of all sessions together: some 400 octets each.
const MOST: usize = 1_000_000;
/// Those of one client: several forwarders may be behind one address.
const PER_CLIENT: usize = 100_000;

/// Mailboxes by what they are for.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    at: HashMap<Name, Entries>,
    below: HashMap<Name, Entries>,
    /// How many each client has.
    clients: HashMap<IpAddr, usize>,
    len: usize,
}

/// Whoever wants to hear of sets of some type at a name, found by both.
type Entries = HashMap<(usize, RecordType), Arc<Mailbox>>;

impl Registry {
    /// `false` if there are too many.
    pub(super) fn add(&mut self, subscription: &Subscription, mailbox: &Arc<Mailbox>) -> bool {
        let own = self.clients.entry(mailbox.client()).or_default();
        if self.len >= MOST || *own >= PER_CLIENT {
            return false;
        }
        *own += 1;
        self.len += 1;
        let names = self.of(subscription.below);
        let entries = names.entry(subscription.name.clone()).or_default();
        entries.insert(key(subscription, mailbox), mailbox.clone());
        true
    }

    /// Nothing happens if it is not there.
    pub(super) fn remove(&mut self, subscription: &Subscription, mailbox: &Arc<Mailbox>) {
        let names = self.of(subscription.below);
        let Some(entries) = names.get_mut(&subscription.name) else {
            return;
        };
        if entries.remove(&key(subscription, mailbox)).is_none() {
            return;
        }
        if entries.is_empty() {
            names.remove(&subscription.name);
        }
        self.len -= 1;
        if let Some(own) = self.clients.get_mut(&mailbox.client()) {
            *own -= 1;
            if *own == 0 {
                self.clients.remove(&mailbox.client());
            }
        }
    }

    /// Puts a set that has changed into the mailboxes of whom it concerns.
    pub(super) fn tell(&self, set: &SetKey) {
        let (name, kind) = &**set;
        let mut concerned: Vec<&Entries> = self.at.get(name).into_iter().collect();
        if !self.below.is_empty() {
            let mut above = name.clone();
            loop {
                concerned.extend(self.below.get(&above));
                if above.is_root() {
                    break;
                }
                above = above.base_name();
            }
        }
        for ((_, wanted), mailbox) in concerned.into_iter().flatten() {
            if is_of(*wanted, *kind) {
                mailbox.put(set.clone());
            }
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn of(&mut self, below: bool) -> &mut HashMap<Name, Entries> {
        match below {
            true => &mut self.below,
            false => &mut self.at,
        }
    }
}

fn key(subscription: &Subscription, mailbox: &Arc<Mailbox>) -> (usize, RecordType) {
    (Arc::as_ptr(mailbox).addr(), subscription.kind)
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

    fn mailbox(client: u8) -> Arc<Mailbox> {
        Arc::new(Mailbox::new([192, 0, 2, client].into()))
    }

    #[test]
    fn one_client_does_not_have_all_and_gives_back_what_it_has() {
        let mut registry = Registry::default();
        let (greedy, other) = (mailbox(1), mailbox(2));
        let many: Vec<Subscription> = (0..PER_CLIENT + 1)
            .map(|n| subscription(&format!("n{n}.map.example."), RecordType::SVCB, false))
            .collect();
        let accepted = many.iter().filter(|s| registry.add(s, &greedy)).count();
        assert_eq!(accepted, PER_CLIENT);
        assert!(registry.add(&many[0], &other));
        many.iter().for_each(|s| registry.remove(s, &greedy));
        assert_eq!(registry.len(), 1);
        assert!(registry.add(&many[0], &greedy));
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
        let boxes: Vec<_> = subscriptions.iter().map(|_| mailbox(1)).collect();
        for ((subscription, concerned), mailbox) in subscriptions.iter().zip(&boxes) {
            assert!(registry.add(subscription, mailbox));
            assert_eq!(
                subscription.concerns(&name(home), RecordType::SVCB),
                *concerned
            );
        }
        registry.tell(&Arc::new((name(home), RecordType::SVCB)));
        for ((subscription, concerned), mailbox) in subscriptions.iter().zip(&boxes) {
            let told = mailbox.take().now_or_never().is_some();
            assert_eq!(told, *concerned, "{subscription:?}");
            registry.remove(subscription, mailbox);
            registry.remove(subscription, mailbox);
        }
        registry.tell(&Arc::new((name(home), RecordType::SVCB)));
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

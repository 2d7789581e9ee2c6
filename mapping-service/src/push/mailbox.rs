//! What waits to be told to one subscriber.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use super::SetKey;

/// Sets that may wait, some 12 octets each beside their names, which all mailboxes share: what is
/// subscribed to by name always fits.
const MOST: usize = 65_536;

/// Names of what has changed, not the changes.
#[derive(Debug)]
pub(crate) struct Mailbox {
    client: IpAddr,
    waiting: Mutex<Waiting>,
    wake: Notify,
}

/// What has come since it was last looked at.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    /// Sets that have changed.
    pub(crate) sets: BTreeSet<SetKey>,
    /// There were more, which are lost.
    pub(crate) overrun: bool,
}

impl Mailbox {
    /// Of a session of this client.
    pub(crate) fn new(client: IpAddr) -> Self {
        Mailbox {
            client,
            waiting: Mutex::default(),
            wake: Notify::new(),
        }
    }

    /// Whose it is.
    pub(super) fn client(&self) -> IpAddr {
        self.client
    }

    /// Notes that a set has changed.
    pub(super) fn put(&self, set: SetKey) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.sets.len() < MOST {
            waiting.sets.insert(set);
        } else if !waiting.sets.contains(&set) {
            waiting.overrun = true;
        }
        self.wake.notify_one();
    }

    /// Waits until there is something, and takes it all. Nothing is lost if it is not waited for
    /// to the end.
    pub(crate) async fn take(&self) -> Waiting {
        loop {
            self.wake.notified().await;
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.overrun || !waiting.sets.is_empty() {
                return std::mem::take(&mut *waiting);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::zone::tests::name;
    use futures_util::FutureExt as _;
    use hickory_proto::rr::RecordType;

    #[test]
    fn what_changes_again_waits_once_and_what_does_not_fit_is_an_overrun() {
        let mailbox = Mailbox::new([192, 0, 2, 1].into());
        let set = |n: usize| Arc::new((name(&format!("n{n}.map.example.")), RecordType::SVCB));
        assert!(mailbox.take().now_or_never().is_none());
        for _ in 0..3 {
            mailbox.put(set(1));
        }
        let waiting = mailbox.take().now_or_never().unwrap();
        assert_eq!(waiting.sets, BTreeSet::from([set(1)]));
        assert!(mailbox.take().now_or_never().is_none());
        for n in 0..MOST {
            mailbox.put(set(n));
        }
        mailbox.put(set(0));
        let waiting = mailbox.take().now_or_never().unwrap();
        assert!(!waiting.overrun && waiting.sets.len() == MOST);
        (0..=MOST).for_each(|n| mailbox.put(set(n)));
        let waiting = mailbox.take().now_or_never().unwrap();
        assert!(waiting.overrun && waiting.sets.len() == MOST);
    }
}

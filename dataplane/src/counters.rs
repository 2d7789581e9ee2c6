//! Why packets and messages were not simply forwarded, counted by cause.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use mat_proto::Home;
use serde::{Deserialize, Serialize};

use crate::rewrite::{Malformed, Refusal};

/// Packets and octets in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Packets; a super-packet counts once.
    pub packets: u64,
    /// Octets of IP packets.
    pub bytes: u64,
}

macro_rules! causes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// One cause each; the names are stable, for metrics.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Cause {
            $($(#[$doc])* $variant,)*
            /// Not a well-formed IP packet.
            Malformed(Malformed),
            /// Well-formed, but cannot be rewritten.
            Refused(Refusal),
        }

        impl Cause {
            const PLAIN: &[(Cause, &'static str)] = &[$((Cause::$variant, $name),)*];
            /// How many there are.
            pub const COUNT: usize = Self::PLAIN.len() + Malformed::ALL.len() + Refusal::ALL.len();

            /// A number below [`Cause::COUNT`], each its own.
            fn index(self) -> usize {
                let mut place = 0;
                $(
                    if matches!(self, Cause::$variant) {
                        return place;
                    }
                    place += 1;
                )*
                match self {
                    Cause::Malformed(m) => place + m as usize,
                    Cause::Refused(r) => place + Malformed::ALL.len() + r as usize,
                    _ => 0,
                }
            }

            fn name(index: usize) -> &'static str {
                let malformed = index.checked_sub(Self::PLAIN.len());
                let refused = malformed.and_then(|at| at.checked_sub(Malformed::ALL.len()));
                match (malformed, refused) {
                    (_, Some(at)) => Refusal::ALL[at].as_str(),
                    (Some(at), _) => Malformed::ALL[at].as_str(),
                    _ => Self::PLAIN[index].1,
                }
            }

            /// The stable name.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Cause::$variant => $name,)*
                    Cause::Malformed(m) => m.as_str(),
                    Cause::Refused(r) => r.as_str(),
                }
            }
        }
    };
}

causes! {
    /// Neither to nor from anything this forwarder serves.
    NotOurs = "not_ours",
    /// An instance addressed a mobile locator directly.
    ToLocator = "to_mobile_locator",
    /// An instance used the control port.
    ControlPort = "control_port_reserved",
    /// To an own locator that belongs to no attached home.
    NotAttached = "not_attached",
    /// For or from a home that is attached here but served elsewhere.
    NotServing = "not_serving",
    /// From an instance that has been handed to another site.
    Departed = "departed",
    /// The peer's home address has no binding.
    NoBinding = "no_binding",
    /// The peer did not answer.
    PeerSilent = "peer_silent",
    /// The mapping service did not answer in time.
    MappingUnreachable = "mapping_unreachable",
    /// An answer that does not count as verified.
    Unverified = "unverified_answer",
    /// The queue of held packets is full.
    HoldFull = "hold_full",
    /// Held longer than packets are worth holding.
    HoldExpired = "hold_expired",
    /// Too many contexts.
    ContextsFull = "contexts_full",
    /// A mobile sender without context here, held too long.
    Stranger = "stranger",
    /// From outside with a home address as its source.
    HomeOutside = "home_address_outside",
    /// A native packet for another home than the context's.
    WrongHome = "wrong_home",
    /// ICMP unreachable about a mobile peer, swallowed.
    IcmpSwallowed = "icmp_swallowed",
    /// ICMP about a flow nobody here has.
    IcmpUnknown = "icmp_unknown_flow",
    /// On the control port, but not a control message.
    ControlMagic = "control_magic",
    /// A control message whose UDP checksum is wrong.
    ControlChecksum = "control_checksum",
    /// Of a protocol version this release does not speak.
    ControlVersion = "control_version",
    /// A malformed control message.
    ControlMalformed = "control_malformed",
    /// A control message whose MAC is wrong.
    ControlMac = "control_mac",
    /// A replayed or outdated control message.
    ControlReplay = "control_replay",
    /// A control message that fits no context or state.
    ControlUnexpected = "control_unexpected",
    /// An OPEN that the mapping service does not confirm.
    OpenNotVerified = "open_not_verified",
    /// An OPEN that was told to come again with a cookie.
    OpenWithoutCookie = "open_without_cookie",
    /// More OPENs than are verified at a time.
    OpensFull = "opens_full",
    /// A relayed packet that could not be put together.
    RelayBroken = "relay_broken",
    /// A packet relayed too often.
    RelayHops = "relay_hops",
    /// A kind of super-packet that was not asked for.
    UnknownGso = "unknown_gso",
    /// A super-packet or partial checksum for a TUN without offloads.
    OffloadMissing = "offload_missing",
    /// The kernel refused to take a packet.
    WriteRefused = "write_refused",
    /// Not mobile and not reachable from an exclusive locator.
    PassImpossible = "pass_impossible",
}

/// Counts by cause: written by data threads and the agent, read by anybody, without a lock.
#[derive(Debug)]
pub struct Counters([AtomicU64; Cause::COUNT]);

impl Default for Counters {
    fn default() -> Self {
        Counters(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Counters {
    /// Counts one.
    pub fn count(&self, cause: Cause) {
        self.add(cause, 1);
    }

    /// Counts `n`.
    pub fn add(&self, cause: Cause, n: u64) {
        self.0[cause.index()].fetch_add(n, Ordering::Relaxed);
    }

    /// Everything counted so far, by name; what never happened is left out.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.0.iter().map(|n| n.load(Ordering::Relaxed));
        (0..Cause::COUNT)
            .map(Cause::name)
            .zip(counts)
            .filter(|(_, n)| *n > 0)
    }
}

/// What befell the packets of a home, or of a pair of homes, beside being forwarded.
#[derive(Debug, Default)]
pub struct Account {
    /// Dropped, by cause.
    pub dropped: Counters,
    /// Kept for a while, for a context or for a move.
    pub held: AtomicU64,
    /// Sent after an instance that has left.
    pub relayed: AtomicU64,
}

/// Whose an [`Account`] is: a home attached here, alone or with one peer.
pub type Party = (Home, Option<Home>);

/// All accounts. The lock is for opening and closing accounts and for reading them;
/// packets that are simply forwarded come nowhere near it.
#[derive(Debug, Default)]
pub struct Accounts(RwLock<BTreeMap<Party, Arc<Account>>>);

impl Accounts {
    /// The account of a party, if it has one.
    pub fn get(&self, party: Party) -> Option<Arc<Account>> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.get(&party).map(Arc::clone)
    }

    /// The account of a party, opened if there is none.
    pub fn of(&self, party: Party) -> Arc<Account> {
        if let Some(account) = self.get(party) {
            return account;
        }
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(party).or_default())
    }

    /// Closes the account of a party: it is not attached here any more, or forgotten.
    pub fn close(&self, party: Party) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        all.remove(&party);
    }

    /// All accounts as they are now.
    pub fn all(&self) -> Vec<(Party, Arc<Account>)> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.iter()
            .map(|(party, account)| (*party, Arc::clone(account)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_cause_has_a_place_and_a_name_of_its_own() {
        let names: BTreeSet<_> = (0..Cause::COUNT).map(Cause::name).collect();
        assert_eq!(names.len(), Cause::COUNT);
        let counters = Counters::default();
        let some = [
            Cause::NotOurs,
            Cause::PassImpossible,
            Cause::Malformed(Malformed::ALL[0]),
            Cause::Malformed(Malformed::ALL[8]),
            Cause::Refused(Refusal::ALL[0]),
            Cause::Refused(Refusal::ALL[6]),
        ];
        for cause in some {
            counters.count(cause);
            assert_eq!(Cause::name(cause.index()), cause.as_str());
        }
        assert_eq!(counters.iter().count(), some.len());
    }

    #[test]
    fn an_account_is_one_until_it_is_closed() {
        let accounts = Accounts::default();
        let party = ("192.0.2.1".parse().unwrap(), None);
        accounts.of(party).held.fetch_add(1, Ordering::Relaxed);
        assert_eq!(accounts.of(party).held.load(Ordering::Relaxed), 1);
        accounts.close(party);
        assert_eq!(accounts.of(party).held.load(Ordering::Relaxed), 0);
        assert_eq!(accounts.all().len(), 1);
    }
}

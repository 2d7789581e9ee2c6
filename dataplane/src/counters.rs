//! Why packets and messages were not simply forwarded, counted by cause.

use std::collections::BTreeMap;

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

/// Counts by cause.
#[derive(Clone, Debug, Default)]
pub struct Counters(BTreeMap<&'static str, u64>);

impl Counters {
    /// Counts one.
    pub fn count(&mut self, cause: Cause) {
        self.add(cause, 1);
    }

    /// Counts `n`.
    pub fn add(&mut self, cause: Cause, n: u64) {
        if n > 0 {
            *self.0.entry(cause.as_str()).or_default() += n;
        }
    }

    /// Everything counted so far, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(name, n)| (*name, *n))
    }
}

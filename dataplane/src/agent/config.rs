//! What an agent is told once, and again when the configuration is reloaded.

use std::time::Duration;

use ipnet::IpNet;

use crate::zoning::Zoning;

/// The part of the configuration that decides about packets.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Where homes can be: only these destinations are ever looked up.
    pub homes: Vec<IpNet>,
    /// Where locators can be: only these sources can belong to mobile peers.
    pub locators: Vec<IpNet>,
    /// Locators this forwarder may give to its instances.
    pub pool: Vec<IpNet>,
    /// Locators are the uplink's own addresses instead of a pool's.
    pub exclusive: bool,
    /// UDP port of the control exchange.
    pub control_port: u16,
    /// Lease of our own bindings, in seconds.
    pub lease_seconds: u32,
    /// How often the binding of an attached home is looked up.
    pub poll: Duration,
    /// A home is not served any more if the mapping service has said nothing of it for this
    /// time; `None`: it is.
    pub stop_after: Option<Duration>,
    /// Which zone of the mapping service speaks for which home.
    pub zoning: Zoning,
    /// How long the previous locator of a home is still accepted, and packets
    /// for a departed instance are still relayed.
    pub grace: Duration,
    /// Bounds.
    pub limits: Limits,
}

/// Bounds of memory and patience.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Contexts at a time.
    pub contexts: usize,
    /// Bytes held for one home while it moves.
    pub hold_bytes_per_home: usize,
    /// Bytes held for one context while it is opened.
    pub hold_bytes_per_context: usize,
    /// Bytes held in all.
    pub hold_bytes_total: usize,
    /// How long a packet is worth holding.
    pub hold_age: Duration,
    /// Mobile senders without context whose packets are held, at a time.
    pub strangers: usize,
    /// OPENs under verification at a time.
    pub opens: usize,
    /// Bindings of peers kept at a time.
    pub cached_bindings: usize,
    /// A released locator stays out of use for the lease and this time.
    pub quarantine: Duration,
    /// A context without traffic is forgotten after this time.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            contexts: 65_536,
            // 100 ms of freeze plus a round trip at 2 Gbit/s.
            hold_bytes_per_home: 32 << 20,
            // A first flight: SYNs, DNS queries, the start of a UDP stream.
            hold_bytes_per_context: 256 << 10,
            hold_bytes_total: 256 << 20,
            // Longer than any move should take, shorter than applications give up.
            hold_age: Duration::from_secs(5),
            strangers: 1024,
            opens: 1024,
            cached_bindings: 65_536,
            quarantine: Duration::from_secs(60),
            // Longer than NAT boxes keep TCP; reopening costs one round trip.
            idle: Duration::from_secs(3 * 3600),
        }
    }
}

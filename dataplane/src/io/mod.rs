//! Everything that touches the kernel: the TUN device, routes, rules and
//! addresses, interface events, and the state file.
//!
//! Why it exists: the pure parts (`rewrite`, `table`, `agent`) decide; this
//! module makes the kernel bring them the packets, and puts back what it
//! changed. No decision about bindings, contexts or moves is taken here.
//!
//! Invariant: kernel state of ours is always recognisable as ours (a device
//! name, a routing-protocol tag, a table number), so that it can be cleaned up
//! by a process that remembers nothing.

pub mod announce;
pub mod api;
pub mod control;
pub mod directory;
pub mod engine;
pub mod ethtool;
mod ifreq;
pub mod inherit;
pub mod item;
pub mod mac;
pub mod meter;
pub mod metrics;
pub mod netlink;
pub mod pair;
pub mod rt;
pub mod server;
pub mod service;
pub mod state;
pub mod steering;
pub mod sysctl;
pub mod tun;

pub use mac::MacAddr;

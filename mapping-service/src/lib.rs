//! The mapping service: an authoritative DNS server for bindings, and its client.

pub mod client;
mod clock;
pub mod config;
pub mod daemon;
pub mod journal;
pub mod policy;
pub mod replay;
pub mod server;
pub mod tsig;
pub mod writer;
pub mod zone;

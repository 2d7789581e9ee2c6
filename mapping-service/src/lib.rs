//! The mapping service: an authoritative DNS server for bindings, and its client.

pub mod client;
pub mod tsig;

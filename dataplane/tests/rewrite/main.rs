//! The rewriting core against an independent library, hand-checked examples and hostile bytes.
//!
//! The chief property: rewriting a packet gives, byte for byte, the packet that etherparse would
//! have built with the new addresses from the start.

#[path = "../common/counting.rs"]
mod counting;

mod allocation;
mod build;
mod bytes;
mod golden;
mod packets;
mod properties;
mod quotes;
mod segments;
mod strategies;

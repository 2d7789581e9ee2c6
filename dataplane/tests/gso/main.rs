//! Joining and cutting against packets that an independent library built.
//!
//! The chief property: packets joined and cut again are, flow by flow, the packets that came in.

#[path = "../common/counting.rs"]
mod counting;

mod allocation;
mod bytes;
mod cutting;
mod headers;
mod limits;
mod order;
mod packets;
mod properties;
mod refusal;
mod rules;
mod soundness;

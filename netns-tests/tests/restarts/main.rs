//! Programs that die, are killed or stopped, and start again, in the middle of transfers; and what
//! they leave behind when they are not started again. Needs root or a user namespace:
//! `scripts/privileged cargo test`.
//!
//! The network is that of [`mat_netns::testbed`].

#[path = "../common/api.rs"]
mod api;

mod descriptor;
mod forwarder;
mod mapping;
mod scene;
mod traces;
mod upgrade;

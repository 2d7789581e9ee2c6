//! What the kernel of a host has counted since its namespace was made.

pub use mat_netns::counters::*;

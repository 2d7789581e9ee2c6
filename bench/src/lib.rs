//! What both programs of this crate use.

pub mod stats;

//! TODO page one.

pub mod rewrite;

//! TODO page one.

pub mod measure;
pub mod report;

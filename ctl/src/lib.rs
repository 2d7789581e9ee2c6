//! TODO page one.

pub mod measure;
pub mod moves;
pub mod plan;
pub mod report;
pub mod site;

//! TODO page one.

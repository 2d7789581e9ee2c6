//! The control tool `matctl`: for people who run sites, and for programs that move instances.
//!
//! ```text
//! commands   one file for each word of the command line     demo     the whole system at work
//!    |                                                        |
//!    +--> moves   carries a move out, or undoes it  <---------+--> measure   what a move does
//!    |      |                                                 |
//!    |      +--> plan   its steps, and what undoes them (pure)+--> report    how that is shown
//!    +--> site    the control API of a forwarder
//!    +--> config  sites, instances, mapping service
//! ```
//!
//! Not in it: anything a forwarder must do by itself. A site goes on serving what it serves
//! whether or not a `matctl` is there; nothing here keeps state between two runs.
//!
//! Invariant: a command that ends with exit code 0 has done all of what was asked.
//!
//! # Limitations
//! Forwarders are reached by their Unix socket only: one on another machine has to be forwarded.

pub mod commands;
pub mod config;
pub mod demo;
pub mod measure;
pub mod moves;
pub mod plan;
pub mod report;
pub mod site;

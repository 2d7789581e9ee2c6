//! The words every part of the system shares.
//!
//! An instance keeps one **home address** for life ([`Home`]) and is reachable
//! now at one or several **locators** ([`Locator`]). A [`Binding`] maps the
//! first to the second at one [`Epoch`]; the mapping service stores it as a DNS
//! RRset ([`record`]), and can say which addresses are homes and locators ([`apl`]); forwarders tell each other about it in control messages
//! ([`message`]) authenticated by tokens they exchanged ([`auth`]).
//!
//! Everything here is pure: no clock, no socket, no global state. Time is an
//! argument where it matters.
//!
//! Invariants the types keep:
//! * a home address and a locator cannot be mixed up; neither is ever
//!   unspecified, loopback, multicast or broadcast;
//! * a binding names each locator once, at most one of them as active, and all
//!   its records carry the same epoch and lease.

pub mod addr;
pub mod apl;
pub mod auth;
pub mod binding;
pub mod message;
pub mod record;
pub mod whose;

pub use addr::{AddrError, Family, Home, Locator};
pub use binding::{Binding, BindingError, Entry, Epoch, Modes, Priority};
pub use whose::{Whose, WhoseError};

/// UDP port of the control exchange, on the locator itself, unless a binding
/// says otherwise.
pub const CONTROL_PORT: u16 = 6283;

//! Several sites in virtual time, and everything that can go wrong.
//!
//! The agents, their forwarding tables and the rewriting are those of `matd`, the mapping
//! service is the zone of `mat-mapd`, and instances are TCP/IP stacks (smoltcp) with real
//! connections. In between is a network that delays, loses, doubles and reorders, that
//! falls apart and heals; forwarders crash and come back, with and without their memory;
//! moves are made as `matctl` makes them, which may die at any step; and somebody hostile
//! forges, replays and floods.
//!
//! One seed is one run, always the same. A run that breaks an invariant can be told as a
//! story, and is reduced to the acts that it takes.
//!
//! | file | what it holds |
//! |---|---|
//! | `chance` | numbers from a seed |
//! | `scenario` | what happens when, from a seed |
//! | `network` | the ways between sites |
//! | `mapping` | the mapping service |
//! | `push` | what it tells a site by itself |
//! | `host` | instances |
//! | `mover` | what `matctl move` does |
//! | `probes` | numbered datagrams between instances |
//! | `hostile` | messages that nobody should believe |
//! | `world` | all of it together, in virtual time: `sites`, their ways to the `map`, what happens (`acts`), what is told (`story`) |
//! | `check` | what must hold after every event |
//! | `campaign` | many seeds; the fewest acts that break something |
//!
//! # Limitations
//! IPv4, dedicated locators, one family and one home per instance. In calm scenarios no more
//! than two moves overlap; datagrams that an instance sends from its new place may overtake those
//! that it sent from the old one. An instance exists
//! once: that two copies of it run is not simulated. What the kernel does (routes, rules,
//! ARP) is reduced to "a packet goes where its address is routed".

pub mod campaign;
mod chance;
mod check;
mod host;
mod hostile;
mod mapping;
mod mover;
mod network;
mod probes;
mod push;
pub mod scenario;
pub mod world;

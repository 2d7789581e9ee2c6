//! The forwarder of the IP mobility system: it rewrites the home addresses of
//! instances into the locators of the places where they are now, and back.
//!
//! ```text
//! io (threads, TUN, routes, sockets)      owns everything that touches the world
//!  |  packets, answers, time               ^  packets, look-ups, updates
//!  v                                       |
//! agent (pure)  --- decides with --->  table (pure)  --- is told to --->  fib (pure)
//!  |                                                                       |
//!  +--- rewrite, gso (pure): the packet itself, and packets joined         |
//!                                                                          |
//! io::engine: nearly every packet is decided by the fib alone  <-----------+
//! ```
//!
//! The pure parts never read a clock, open a socket or depend on the order of a
//! hash map. The agent handles packets, control messages and operations strictly
//! one after another, and data threads follow the forwarding table that it
//! writes, so that nothing a move does can overtake a packet. The slow things (DNS, netlink, the control
//! API) happen on other threads and come in as inputs.

pub mod agent;
pub mod clock;
pub mod config;
pub mod counters;
pub mod daemon;
pub mod fib;
pub mod frame;
pub mod gso;
pub mod io;
pub mod pair;
pub mod rewrite;
pub mod table;
pub mod upgrade;
pub mod zoning;

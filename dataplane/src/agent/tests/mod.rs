//! The agent as a whole, in virtual time: several sites, a network with delay
//! and loss, a mapping service, and instances that send numbered packets.

mod deadline;
mod moves;
mod order;
mod renumber;
mod standby;
mod traffic;
mod trust;
mod world;

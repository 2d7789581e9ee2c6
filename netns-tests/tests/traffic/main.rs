//! Traffic of every kind between instances, over the real programs and the real kernel, in both
//! families: what an application would notice, it is here to notice.
//!
//! The network is that of [`mat_netns::testbed`]; `web` is at site a, `user` at site c.

#[path = "../common"]
mod common {
    pub mod api;
    pub mod capture;
    pub mod causes;
    pub mod counters;
    pub mod datagrams;
    pub mod iperf;
    pub mod route;
    pub mod scene;
    pub mod sockets;
}

mod datapath;
mod first;
mod gateway;
mod mtu;
mod neighbours;
mod plain;

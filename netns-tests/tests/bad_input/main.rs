//! Wrong configurations, missing privileges, missing services and malformed packets: each gets a
//! clear message and a defined behaviour, and what works goes on working.

#[path = "../common"]
mod common {
    pub mod api;
    pub mod causes;
    pub mod scene;
    pub mod sockets;
}

mod complaint;
mod configuration;
mod environment;
mod mapping;
mod packets;

//! Topologies in kernel network namespaces, and the tests that run the real binaries on them.
//!
//! The real kernel is the only judge of whether a rewritten packet is right, so the tests, the
//! demo and the benchmarks run the real programs on real interfaces. This crate makes the network
//! for them, in code that reads like a drawing:
//!
//! ```no_run
//! use mat_netns::{Lab, WanConfig};
//!
//! # fn main() -> anyhow::Result<()> {
//! //   client 192.0.2.2 ──── 192.0.2.1 router 198.51.100.1 ══ 20 ms RTT ══ 198.51.100.2 site
//! let lab = Lab::new()?;
//! let client = lab.host("client")?;
//! let router = lab.host("router")?;
//! let site = lab.host("site")?;
//! lab.link(&client, "eth0", &router, "client")?;
//! let wan = lab.wan(&router, "site", &site, "eth0", WanConfig::rtt_ms(20.0))?;
//!
//! router.forwarding()?;
//! router.ip("addr add 192.0.2.1/24 dev client
//!            addr add 198.51.100.1/24 dev site")?;
//! client.ip("addr add 192.0.2.2/24 dev eth0
//!            route add default via 192.0.2.1")?;
//! site.ip("addr add 198.51.100.2/24 dev eth0
//!          route add default via 198.51.100.1")?;
//!
//! let server = site.spawn("iperf3 -s -1")?;
//! server.wait_for_log("listening", std::time::Duration::from_secs(5))?;
//! println!("{}", client.run("iperf3 -c 198.51.100.2 -t 2")?);
//! wan.set_config(WanConfig::rtt_ms(100.0))?;
//! wan.cut();
//! # Ok(())
//! # }
//! ```
//!
//! [`testbed`] is the deployment that the demo, the tests and the benchmarks share, and [`soak`]
//! moves many bytes through it; the rest of the crate knows nothing of mobility and starts whatever
//! programs it is told to.
//!
//! **Invariant**: a [`Lab`] leaves nothing. Its drop, on success, error or panic, ends every
//! process and removes every namespace and file; Ctrl-C makes waits fail and so comes to the same
//! drop; what a killed run leaves is written down under `/run/mat-lab` and removed by the next
//! run ([`Lab::sweep_stale`]).
//!
//! # Limitations
//! - Needs root, or a user namespace with a writable `/run` ([`privileges`]).
//! - A host is a network namespace and no more: the file system, `/etc/resolv.conf` and the
//!   process table are the caller's, and `/sys/class/net` shows the caller's devices.
//! - Whatever runs in a lab's namespace when the lab ends is killed, whoever started it.
//! - The wide-area link is our own on every kernel, also on those with netem, so that a run
//!   means the same everywhere; [`wan`] has its own list of limits.

mod cmd;
pub mod counters;
pub mod dns_servers;
pub mod evacuation;
pub mod flood;
mod host;
pub mod interrupt;
pub mod kills;
mod lab;
mod link;
mod namespace;
mod netlink;
pub mod privileges;
mod process;
mod registry;
pub mod renumber;
pub mod results;
pub mod soak;
mod spawner;
pub mod testbed;
mod wait;
pub mod wan;
pub mod watch;

pub use cmd::Cmd;
pub use host::Host;
pub use lab::Lab;
pub use link::{LinkOptions, move_device};
pub use nix::sys::signal::Signal;
pub use process::{Process, memory_kib};
pub use wait::wait_until;
pub use wan::{Wan, WanConfig, WanCounters};

//! The parts that touch the kernel, against the kernel: each test in network
//! namespaces of its own. Needs root (or `unshare -rn` with an accessible
//! /dev/net/tun) and iproute2; without them the tests fail.

mod forwarding;
mod netlink;
mod netns;
#[path = "../gso/packets.rs"]
#[allow(dead_code, reason = "the tests without a kernel need all of it")]
mod packets;
mod segmentation;
mod steering;
mod tun;

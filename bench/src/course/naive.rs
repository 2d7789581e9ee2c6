//! The simplest forwarder of all at both ends (see `src/naive.rs`), steered as `matd` is.

use anyhow::Result;
use mat_netns::{Cmd, Process};

use super::{Carrier, Course, Device, PATIENCE, Pair, Site};
use crate::contender::Contender;
use crate::plan::Family;

/// Its TUN.
const TUN: &str = "naive0";

/// Each end has one home address, on the TUN, and one locator, whose packets are led into it.
pub fn build(site: &Site, contender: &'static Contender) -> Result<Course> {
    let ends = site.ends(contender)?;
    let (left, right) = (&ends.left, &ends.right);
    let (homes, locators) = (site.homes(), locators(site.family));
    let sides = [
        (
            left,
            (homes.left, locators.left),
            (homes.right, locators.right),
        ),
        (
            right,
            (homes.right, locators.right),
            (homes.left, locators.left),
        ),
    ];
    let mut processes = Vec::new();
    for (host, own, peer) in sides {
        let naive = Cmd::new(site.tools.own("mat-naive"))
            .args(["--tun", TUN, "--own", own.0, own.1])
            .args(["--peer", peer.0, peer.1]);
        let process = host.spawn(naive)?;
        process.wait_for_log("ready", PATIENCE)?;
        processes.push(process);
        for (key, value) in [
            ("net.ipv4.conf.all.rp_filter", 0),
            ("net.ipv4.conf.naive0.rp_filter", 0),
            ("net.ipv4.conf.naive0.accept_local", 1),
            ("net.ipv4.neigh.eth0.proxy_delay", 0),
            ("net.ipv6.conf.eth0.proxy_ndp", 1),
            ("net.ipv6.neigh.eth0.proxy_delay", 0),
        ] {
            host.sysctl(key, value)?;
        }
        host.forwarding()?;
        host.ip(&format!(
            "link set {TUN} mtu 1500 txqueuelen 10000 up
             addr add {home}/{len} dev {TUN} {nodad}
             route add {peer_home}/{len} dev {TUN} src {home}
             route add {locator}/{len} dev {TUN}
             neigh add proxy {locator} dev eth0",
            home = own.0,
            locator = own.1,
            peer_home = peer.0,
            len = homes.len,
            nodad = site.nodad(),
        ))?;
    }
    let carrier = Naive {
        device: Device {
            host: left.clone(),
            name: TUN,
            direction: "tx",
        },
        processes,
    };
    Ok(ends.course(contender, String::new(), &homes, carrier))
}

/// On the subnet of the veth.
fn locators(family: Family) -> Pair {
    match family {
        Family::Ipv4 => Pair {
            left: "198.51.100.144",
            right: "198.51.100.160",
            len: 32,
        },
        Family::Ipv6 => Pair {
            left: "2001:db8:2::a00",
            right: "2001:db8:2::b00",
            len: 128,
        },
    }
}

struct Naive {
    device: Device,
    processes: Vec<Process>,
}

impl Carrier for Naive {
    fn carried(&self) -> Result<u64> {
        self.device.carried()
    }

    fn processes(&self) -> Vec<u32> {
        self.processes.iter().map(Process::pid).collect()
    }
}

//! The simplest forwarder of all at both ends (see `src/naive.rs`), steered as `matd` is.

use anyhow::Result;
use mat_netns::{Cmd, Process};

use super::{Carrier, Course, Device, PATIENCE, Site};
use crate::contender::Contender;

/// Its TUN.
const TUN: &str = "naive0";

/// Each end has one home address, on the TUN, and one locator, whose packets are led into it.
pub fn build(site: &Site, contender: &'static Contender) -> Result<Course> {
    let ends = site.ends(contender)?;
    let (left, right) = (&ends.left, &ends.right);
    let (homes, locators) = (site.homes(), site.locators());
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
        for key in ["all/rp_filter", &format!("{TUN}/rp_filter")] {
            host.sysctl(&format!("net/ipv4/conf/{key}"), 0)?;
        }
        host.sysctl(&format!("net/ipv4/conf/{TUN}/accept_local"), 1)?;
        host.sysctl("net/ipv6/conf/eth0/proxy_ndp", 1)?;
        for family in ["ipv4", "ipv6"] {
            host.sysctl(&format!("net/{family}/neigh/eth0/proxy_delay"), 0)?;
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

//! A VXLAN tunnel of the kernel (RFC 7348).

use anyhow::Result;

use super::{Course, Device, Site};
use crate::contender::Contender;
use crate::plan::Family;

/// The header of the carrying packet: IP, UDP, VXLAN, Ethernet.
fn overhead(family: Family) -> u32 {
    match family {
        Family::Ipv4 => 20 + 8 + 8 + 14,
        Family::Ipv6 => 40 + 8 + 8 + 14,
    }
}

/// One tunnel between the ends.
pub fn build(site: &Site, contender: &'static Contender) -> Result<Course> {
    let ends = site.ends(contender)?;
    let (left, right) = (&ends.left, &ends.right);
    let (wire, inside) = (site.underlay(), site.overlay());
    let mtu = 1500 - overhead(site.family);
    for (host, own, peer, address) in [
        (left, wire.left, wire.right, inside.left),
        (right, wire.right, wire.left, inside.right),
    ] {
        host.ip(&format!(
            "link add vx0 type vxlan id 42 dev eth0 local {own} remote {peer} dstport 4789
             link set dev vx0 mtu {mtu} up
             addr add {address}/{len} dev vx0 {nodad}",
            len = inside.len,
            nodad = site.nodad(),
        ))?;
    }
    let carrier = Device {
        host: left.clone(),
        name: "vx0",
        direction: "tx",
    };
    Ok(ends.course(contender, format!("MTU {mtu}"), &inside, carrier))
}

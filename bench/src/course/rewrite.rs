//! Both kernels rewrite both addresses, as MAT does, by nftables and without connection tracking.

use anyhow::{Context, Result};
use mat_netns::Host;
use serde_json::Value;

use super::{Carrier, Course, Site};
use crate::contender::Contender;
use crate::plan::Family;

/// The home addresses are on `lo`, and the routes lead to the other end's address on the veth.
pub fn build(site: &Site, contender: &'static Contender) -> Result<Course> {
    let ends = site.ends(contender)?;
    let (left, right) = (&ends.left, &ends.right);
    let (wire, homes) = (site.underlay(), site.homes());
    let sides = [
        (left, wire.left, homes.left, wire.right, homes.right),
        (right, wire.right, homes.right, wire.left, homes.left),
    ];
    let ip = match site.family {
        Family::Ipv4 => "ip",
        Family::Ipv6 => "ip6",
    };
    for (host, locator, home, peer, peer_home) in sides {
        host.ip(&format!(
            "addr add {home}/{len} dev lo {nodad}
             route add {peer_home}/{len} via {peer} dev eth0 src {home}",
            len = homes.len,
            nodad = site.nodad(),
        ))?;
        host.nft(&format!(
            "table {ip} bench {{
                 counter carried {{ }}
                 chain out {{
                     type filter hook output priority raw;
                     {ip} saddr {home} {ip} daddr {peer_home} counter name carried \
                         {ip} saddr set {locator} {ip} daddr set {peer}
                 }}
                 chain in {{
                     type filter hook prerouting priority raw;
                     {ip} saddr {peer} {ip} daddr {locator} \
                         {ip} saddr set {peer_home} {ip} daddr set {home}
                 }}
             }}"
        ))?;
    }
    let carrier = Counter {
        host: left.clone(),
        table: ip,
    };
    let about = left.run("nft --version")?.trim().to_owned();
    Ok(ends.course(contender, about, &homes, carrier))
}

/// What the rule for outgoing packets has seen.
struct Counter {
    host: Host,
    table: &'static str,
}

impl Carrier for Counter {
    fn carried(&self) -> Result<u64> {
        let list = format!("nft --json list counter {} bench carried", self.table);
        let json: Value = serde_json::from_str(&self.host.run(list)?)?;
        let entries = json["nftables"].as_array();
        let mut counts = entries
            .into_iter()
            .flatten()
            .filter_map(|entry| entry["counter"]["bytes"].as_u64());
        counts.next().context("no counter in the output of `nft`")
    }
}

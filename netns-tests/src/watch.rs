//! Counting, in the kernel, packets that must not be: exact, however busy the link is.
//!
//! A watch that has seen no packet at all proves nothing, and refuses to give a count.

use crate::Host;
use anyhow::{Context, Result, ensure};

/// What must never be seen on a site's uplink: packets that nobody has rewritten, and the kernel's
/// own opinion of packets it could not deliver.
pub const LEAKS: [(&str, &str); 4] = [
    ("home4", "ip saddr 192.0.2.0/24"),
    ("home6", "ip6 saddr 2001:db8:1::/64"),
    (
        "errors4",
        "icmp type { destination-unreachable, redirect, time-exceeded, parameter-problem }",
    ),
    (
        "errors6",
        "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem, \
         nd-redirect }",
    ),
];

/// TCP resets.
pub const RESETS: (&str, &str) = ("resets", "tcp flags & rst == rst");

/// Packets of a host that match certain conditions.
#[derive(Debug)]
pub struct Watch {
    host: Host,
}

impl Watch {
    /// Counts from now on; each condition is a name and a match of nftables. Counted is what
    /// comes in on any interface, and what the host itself sends.
    pub fn on(host: &Host, conditions: &[(&str, &str)]) -> Result<Self> {
        let mut counters: Vec<_> = conditions
            .iter()
            .map(|(name, _)| format!("counter {name} {{ }}"))
            .collect();
        let mut rules: Vec<_> = conditions
            .iter()
            .map(|(name, matches)| format!("{matches} counter name {name}"))
            .collect();
        counters.push("counter seen { }".to_owned());
        rules.push("counter name seen".to_owned());
        let chain = |hook: &str| {
            format!(
                "chain {hook} {{ type filter hook {hook} priority -400; policy accept;\n{}\n}}",
                rules.join("\n")
            )
        };
        host.nft(&format!(
            "table inet watch {{\n{}\n{}\n{}\n}}",
            counters.join("\n"),
            chain("prerouting"),
            chain("output"),
        ))?;
        Ok(Watch { host: host.clone() })
    }

    /// How many packets have met the condition so far.
    pub fn count(&self, name: &str) -> Result<u64> {
        ensure!(self.read("seen")? > 0, "the watch has not seen any packet");
        self.read(name)
    }

    fn read(&self, name: &str) -> Result<u64> {
        let words = format!("nft -j list counter inet watch {name}");
        let listed: serde_json::Value = serde_json::from_str(&self.host.run(words)?)?;
        let objects = listed["nftables"].as_array().into_iter().flatten();
        let mut packets = objects.filter_map(|object| object["counter"]["packets"].as_u64());
        packets
            .next()
            .with_context(|| format!("no count of {name} in {listed}"))
    }
}

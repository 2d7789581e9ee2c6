//! Which kernel settings forwarding through the TUN needs.

use mat_proto::Family;

use super::GATEWAY_MAC;
use crate::config::{Config, Placement};
use crate::io::sysctl::Setting;

/// Whether this host forwards IPv6.
pub const FORWARDING_V6: &str = "net/ipv6/conf/all/forwarding";

/// Settings for any claim, in the order in which they must be made. A `router`
/// forwarded IPv6 before us.
pub fn base(config: &Config, tun: &str, router: bool) -> Vec<Setting> {
    let uplink = &config.uplink;
    let families = config.families();
    let dedicated = !config.locators.exclusive;
    let mut settings = Vec::new();
    if families.contains(&Family::V4) {
        // Switching it on for all resets it on every interface, so it goes first.
        match config.placement {
            Placement::Gateway => settings.push(Setting::new("net/ipv4/ip_forward", "1")),
            Placement::Guest => {
                settings.extend([v4(tun, "forwarding", "1"), v4(uplink, "forwarding", "1")])
            }
        }
        settings.extend([
            // What we write comes from addresses whose route is elsewhere, or
            // from this host's own. The larger of `all` and the device counts.
            v4("all", "rp_filter", "0"),
            v4(tun, "rp_filter", "0"),
            v4(tun, "accept_local", "1"),
            // A packet that leaves where it came in was rewritten in between.
            v4("all", "send_redirects", "0"),
            v4(uplink, "send_redirects", "0"),
            v4(tun, "send_redirects", "0"),
        ]);
        if dedicated {
            settings.extend([
                // Otherwise up to 0.8 s pass before a request is answered.
                Setting::new(format!("net/ipv4/neigh/{uplink}/proxy_delay"), "0"),
                // Home and gateway addresses are not the uplink's to answer for.
                v4(uplink, "arp_ignore", "1"),
            ]);
        }
    }
    // No link-local address of its own: nobody is on that link.
    settings.push(v6(tun, "addr_gen_mode", "1").optional());
    if families.contains(&Family::V6) {
        if !router {
            // A host that accepts RAs goes on doing so as a router. Must precede
            // forwarding, which drops a default route learned from them.
            settings.push(v6(uplink, "accept_ra", "2").only_if("1"));
        }
        settings.extend([
            Setting::new(FORWARDING_V6, "1"),
            v6(tun, "disable_ipv6", "0"),
        ]);
        if dedicated {
            settings.extend([
                v6(uplink, "proxy_ndp", "1"),
                // The unicast solicitations by which a router checks an entry are
                // answered only if this one is set too; unanswered, it forgets the
                // locator after some seconds, and looks for it again, with a loss.
                v6("all", "proxy_ndp", "1"),
                Setting::new(format!("net/ipv6/neigh/{uplink}/proxy_delay"), "0"),
            ]);
        }
    }
    if config.tun.offload && config.tun.coalesce {
        // Small datagrams on their way into the TUN are joined before they get there, where
        // the device joins anything at all: up to 1.6 times as many come through (bench, wire).
        settings.push(Setting::feature(uplink, "rx-udp-gro-forwarding"));
    }
    settings
}

/// Settings of the interface an instance is behind, before it is brought up.
pub fn link(dev: &str) -> [Setting; 4] {
    [
        v4(dev, "forwarding", "1"),
        v4(dev, "send_redirects", "0"),
        v6(dev, "addr_gen_mode", "1").optional(),
        Setting::mac(dev, GATEWAY_MAC),
    ]
}

fn v4(dev: &str, name: &str, value: &'static str) -> Setting {
    Setting::new(format!("net/ipv4/conf/{dev}/{name}"), value)
}

fn v6(dev: &str, name: &str, value: &'static str) -> Setting {
    Setting::new(format!("net/ipv6/conf/{dev}/{name}"), value)
}

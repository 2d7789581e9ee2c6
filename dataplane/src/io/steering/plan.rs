//! Which kernel state belongs to which claims: the whole of steering as one pure
//! function.
//!
//! Beneath every route to the TUN lies a blackhole of worse metric. While the
//! TUN is away the packets fall there: no ICMP error reaches an instance, nothing
//! loops back to the uplink, and no packet leaves with an unrewritten address.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use mat_proto::{Family, Home};

use super::{Attachment, Claims, GATEWAY_V4, GATEWAY_V6};
use crate::config::{Config, Placement};
use crate::io::item::{Address, Item, Route, Rule, Scope, Target};
use crate::io::rt::{LOCAL_TABLE, MAIN_TABLE};

/// Table that leads everything into the TUN.
pub const TUN_TABLE: u32 = 100;
/// Mark of packets that an exclusive locator's pair steers into the TUN.
pub const STEERED: u32 = 0x6d61_7401;

/// Routes to one address, and the default route of [`TUN_TABLE`].
const METRIC_DIRECT: u32 = 100;
/// Home prefixes: more specific routes do not depend on it; it only has to be
/// better than the floor.
const METRIC_HOMES: u32 = 900;
/// The blackholes.
const METRIC_FLOOR: u32 = 9999;

/// Before the local table, which would take the exclusive locator's packets.
const PREF_STEERED: u32 = 50;
/// Where the local table is asked under an exclusive locator.
const PREF_LOCAL: u32 = 100;
const PREF_OWN_HOME: u32 = 1000;
const PREF_OTHERS: u32 = 1001;

/// Every item that `claims` need, and the ones that are there for any claim.
pub fn plan(config: &Config, tun: &str, claims: &Claims) -> BTreeSet<Item> {
    let mut plan = Plan {
        config,
        tun,
        items: BTreeSet::new(),
    };
    plan.base(claims);
    for locator in &claims.locators {
        plan.locator(locator.ip());
    }
    for attachment in &claims.attachments {
        plan.attachment(attachment);
    }
    for home in &claims.homes {
        plan.guest_home(*home);
    }
    plan.items
}

struct Plan<'a> {
    config: &'a Config,
    tun: &'a str,
    items: BTreeSet<Item>,
}

impl Plan<'_> {
    fn base(&mut self, claims: &Claims) {
        for family in self.config.families() {
            self.lead_to_tun(everything(family), TUN_TABLE, METRIC_DIRECT, None);
            self.floor(everything(family), TUN_TABLE);
            if self.config.locators.exclusive {
                self.steered(family);
            }
        }
        for prefix in &self.config.homes.prefixes {
            let family = Family::of(prefix.addr());
            let own = claims.homes.iter().find(|home| home.family() == family);
            self.lead_to_tun(*prefix, MAIN_TABLE, METRIC_HOMES, own.map(|home| home.ip()));
            self.floor(*prefix, MAIN_TABLE);
        }
        // A free or quarantined locator must not wander between the router and us.
        for prefix in &self.config.locators.pool {
            self.floor(*prefix, MAIN_TABLE);
        }
        let guest = self.config.placement == Placement::Guest;
        if guest && self.config.families().contains(&Family::V4) {
            // Removing an interface's last IPv4 address removes its IPv4 routes:
            // this one stays when homes go. Of host scope, it is never a source.
            self.address(self.tun, GATEWAY_V4.into(), 32, Scope::Host);
        }
    }

    fn locator(&mut self, ip: IpAddr) {
        self.lead_to_tun(ip.into(), MAIN_TABLE, METRIC_DIRECT, None);
        self.floor(ip.into(), MAIN_TABLE);
        self.items.insert(Item::Proxy {
            dev: self.config.uplink.clone(),
            ip,
        });
    }

    fn attachment(&mut self, attachment: &Attachment) {
        let Attachment {
            home,
            interface: dev,
            mac,
        } = attachment;
        // Selected by interface, not by source alone: that would send traffic
        // between two local instances round and round through the TUN.
        self.rule(Rule {
            pref: PREF_OWN_HOME,
            family: home.family(),
            iif: Some(dev.clone()),
            from: Some(home.ip()),
            mark: None,
            table: Some(TUN_TABLE),
        });
        for family in [Family::V4, Family::V6] {
            self.rule(Rule {
                pref: PREF_OTHERS,
                family,
                iif: Some(dev.clone()),
                from: None,
                mark: None,
                table: None,
            });
        }
        match home.family() {
            Family::V4 => self.address(dev, GATEWAY_V4.into(), 32, Scope::Link),
            Family::V6 => self.address(dev, GATEWAY_V6.into(), 64, Scope::Link),
        }
        self.items.insert(Item::Route(Route {
            to: Target::Device {
                dev: dev.clone(),
                src: None,
            },
            dst: home.ip().into(),
            table: MAIN_TABLE,
            metric: METRIC_DIRECT,
        }));
        if let Some(mac) = mac {
            self.items.insert(Item::Neighbour {
                dev: dev.clone(),
                ip: home.ip(),
                mac: *mac,
            });
        }
    }

    fn guest_home(&mut self, home: Home) {
        let own = IpNet::from(home.ip());
        self.address(self.tun, home.ip(), own.prefix_len(), Scope::Global);
        // Answers to peers that are not mobile: their address is in no home
        // prefix, and the home address must not leave by the uplink.
        self.rule(Rule {
            pref: PREF_OWN_HOME,
            family: home.family(),
            iif: Some("lo".to_owned()),
            from: Some(home.ip()),
            mark: None,
            table: Some(TUN_TABLE),
        });
    }

    fn steered(&mut self, family: Family) {
        self.rule(Rule {
            pref: PREF_STEERED,
            family,
            iif: None,
            from: None,
            mark: Some(STEERED),
            table: Some(TUN_TABLE),
        });
        self.rule(Rule {
            pref: PREF_LOCAL,
            family,
            iif: None,
            from: None,
            mark: None,
            table: Some(LOCAL_TABLE),
        });
    }

    fn rule(&mut self, rule: Rule) {
        self.items.insert(Item::Rule(rule));
    }

    fn address(&mut self, dev: &str, ip: IpAddr, len: u8, scope: Scope) {
        self.items.insert(Item::Address(Address {
            dev: dev.to_owned(),
            ip,
            len,
            scope,
        }));
    }

    fn lead_to_tun(&mut self, dst: IpNet, table: u32, metric: u32, src: Option<IpAddr>) {
        let dev = self.tun.to_owned();
        self.items.insert(Item::Route(Route {
            to: Target::Device { dev, src },
            dst,
            table,
            metric,
        }));
    }

    fn floor(&mut self, dst: IpNet, table: u32) {
        self.items.insert(Item::Route(Route {
            to: Target::Blackhole,
            dst,
            table,
            metric: METRIC_FLOOR,
        }));
    }
}

fn everything(family: Family) -> IpNet {
    match family {
        Family::V4 => Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0).into(),
        Family::V6 => Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

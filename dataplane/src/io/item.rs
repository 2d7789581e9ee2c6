//! The pieces of kernel state this program makes, as plain values.
//!
//! Steering says which items shall exist; [`crate::io::rt`] makes them exist,
//! removes them, and reads back which of them there are. All three speak of the
//! same values, so "what is left over" is a set difference.
//!
//! Order matters: items sort in the order in which they are to be made (what
//! catches before what leads away, addresses before routes that prefer them),
//! and are removed in the opposite order.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use mat_proto::Family;

use crate::io::MacAddr;

/// One address, route, rule or neighbour entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Item {
    /// An interface address.
    Address(Address),
    /// A route.
    Route(Route),
    /// A policy-routing rule.
    Rule(Rule),
    /// We answer ARP or ND for `ip` on `dev`.
    Proxy {
        /// Interface that answers.
        dev: String,
        /// Address it answers for.
        ip: IpAddr,
    },
    /// A permanent neighbour.
    Neighbour {
        /// Interface it is behind.
        dev: String,
        /// Its address.
        ip: IpAddr,
        /// Its MAC address.
        mac: MacAddr,
    },
}

/// An interface address; never probed for duplicates.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// The interface.
    pub dev: String,
    /// The address.
    pub ip: IpAddr,
    /// Length of the on-link prefix.
    pub len: u8,
    /// How far it is valid.
    pub scope: Scope,
}

/// How far an address is valid, and so for whom the kernel picks it as a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Everywhere.
    Global,
    /// On its link.
    Link,
    /// In this host: never picked as a source.
    Host,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Where it leads.
    pub to: Target,
    /// What it matches.
    pub dst: IpNet,
    /// Routing table.
    pub table: u32,
    /// Lower wins.
    pub metric: u32,
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// Nowhere, silently.
    Blackhole,
    /// Out of an interface.
    Device {
        /// The interface.
        dev: String,
        /// Source address of packets that have none yet.
        src: Option<IpAddr>,
    },
}

/// A policy-routing rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Preference: lower is asked first.
    pub pref: u32,
    /// Its family.
    pub family: Family,
    /// Interface the packet came in by (`lo`: made here). It need not exist.
    pub iif: Option<String>,
    /// Exact source address.
    pub from: Option<IpAddr>,
    /// Exact firewall mark.
    pub mark: Option<u32>,
    /// Table to look into; `None` drops the packet.
    pub table: Option<u32>,
}

impl Item {
    /// Interface that must exist for the item to exist.
    pub fn device(&self) -> Option<&str> {
        match self {
            Item::Address(Address { dev, .. })
            | Item::Route(Route {
                to: Target::Device { dev, .. },
                ..
            })
            | Item::Proxy { dev, .. }
            | Item::Neighbour { dev, .. } => Some(dev),
            Item::Route(_) | Item::Rule(_) => None,
        }
    }

    /// Whether `other` stands in the same place, so that making it replaces
    /// this one and removing this one must be left out.
    pub fn same_place(&self, other: &Item) -> bool {
        match (self, other) {
            (Item::Route(a), Item::Route(b)) => {
                (a.dst, a.table, a.metric) == (b.dst, b.table, b.metric)
            }
            (Item::Neighbour { dev: a, ip: x, .. }, Item::Neighbour { dev: b, ip: y, .. }) => {
                (a, x) == (b, y)
            }
            (Item::Address(a), Item::Address(b)) => (&a.dev, a.ip, a.len) == (&b.dev, b.ip, b.len),
            _ => self == other,
        }
    }
}

impl fmt::Display for Item {
    /// As one would write it for `ip(8)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Item::Address(a) => write!(f, "address {}/{} dev {}", a.ip, a.len, a.dev),
            Item::Route(r) => {
                match &r.to {
                    Target::Blackhole => write!(f, "route blackhole {}", r.dst)?,
                    Target::Device { dev, .. } => write!(f, "route {} dev {dev}", r.dst)?,
                }
                write!(f, " table {} metric {}", r.table, r.metric)
            }
            Item::Rule(r) => {
                write!(f, "{} rule pref {}", r.family, r.pref)?;
                if let Some(iif) = &r.iif {
                    write!(f, " iif {iif}")?;
                }
                if let Some(from) = r.from {
                    write!(f, " from {from}")?;
                }
                if let Some(mark) = r.mark {
                    write!(f, " fwmark {mark:#x}")?;
                }
                match r.table {
                    Some(table) => write!(f, " lookup {table}"),
                    None => f.write_str(" blackhole"),
                }
            }
            Item::Proxy { dev, ip } => write!(f, "neighbour proxy {ip} dev {dev}"),
            Item::Neighbour { dev, ip, mac } => write!(f, "neighbour {ip} lladdr {mac} dev {dev}"),
        }
    }
}

//! Making, removing and reading back kernel state over rtnetlink.
//!
//! Invariant: everything is idempotent. Making what is there and removing what
//! is not there succeed. Whatever is made carries [`PROTOCOL`], so that
//! [`Rt::ours`] finds it again in a later process.
//!
//! # Limitations
//! Before Linux 5.18 addresses carry no protocol; there only addresses on the
//! TUN are recognised as ours.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use ipnet::IpNet;
use mat_proto::Family;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressProtocol, AddressScope,
};
use netlink_packet_route::link::LinkFlags;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{Handle, IpVersion, LinkUnspec, RouteMessageBuilder};

use crate::io::MacAddr;
use crate::io::item::{Address, Item, Route, Rule, Scope, Target};

/// Tag of our routes, rules, neighbours and addresses (`RTA_PROTOCOL` and its
/// like): `ip route show proto 77`. Free in iproute2's `rt_protos`.
pub const PROTOCOL: u8 = 77;

/// The kernel's own table of local addresses.
pub const LOCAL_TABLE: u32 = 255;
/// The table every lookup ends in.
pub const MAIN_TABLE: u32 = 254;

/// The kernel refused.
#[derive(Debug, thiserror::Error)]
pub enum RtError {
    /// No netlink socket.
    #[error("no rtnetlink socket: {0}")]
    Socket(io::Error),
    /// No interface of this name.
    #[error("there is no interface {0}; create it, or correct the name in the configuration")]
    NoInterface(String),
    /// A request failed.
    #[error("cannot {doing}: {cause}{}", hint(.cause))]
    Request {
        /// What was asked.
        doing: String,
        /// What the kernel said.
        cause: io::Error,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => "; run matd as root or with CAP_NET_ADMIN",
        Some(libc::EACCES) => {
            "; IPv6 seems to be disabled there: sysctl -w net.ipv6.conf.all.disable_ipv6=0"
        }
        Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT) => {
            "; the kernel lacks this feature or the address family is disabled"
        }
        _ => "",
    }
}

/// A connection to the kernel's routing.
#[derive(Clone, Debug)]
pub struct Rt {
    handle: Handle,
}

impl Rt {
    /// Opens a socket in the network namespace of the calling thread, served by
    /// a task of the current runtime.
    pub fn connect() -> Result<Self, RtError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(RtError::Socket)?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Makes `item`, or makes sure that it is there, replacing what stands in
    /// its place.
    pub async fn ensure(&self, item: &Item) -> Result<(), RtError> {
        let result = match item {
            Item::Address(address) => {
                let message = address_message(address)?;
                let ip = address.ip;
                let mut request = self.handle.address().add(0, ip, address.len).replace();
                *request.message_mut() = message;
                request.execute().await
            }
            Item::Route(route) => {
                let message = route_message(route)?;
                self.handle.route().add(message).replace().execute().await
            }
            Item::Rule(rule) => {
                let mut request = self.handle.rule().add();
                *request.message_mut() = rule_message(rule);
                request.execute().await
            }
            Item::Proxy { dev, ip } => self.ensure_neighbour(dev, *ip, None).await?,
            Item::Neighbour { dev, ip, mac } => self.ensure_neighbour(dev, *ip, Some(*mac)).await?,
        };
        // A rule has no "replace": the kernel says whether the same one exists. A
        // family the kernel lacks needs no rule.
        let harmless: &[i32] = match item {
            Item::Rule(_) => &[libc::EEXIST, libc::EAFNOSUPPORT],
            _ => &[],
        };
        tolerate(result, harmless, || format!("add {item}"))
    }

    async fn ensure_neighbour(
        &self,
        dev: &str,
        ip: IpAddr,
        mac: Option<MacAddr>,
    ) -> Result<Result<(), rtnetlink::Error>, RtError> {
        let index = index(dev)?;
        let mut request = self.handle.neighbours().add(index, ip).replace();
        *request.message_mut() = neighbour_message(index, ip, mac);
        Ok(request.execute().await)
    }

    /// Removes `item` if it is there.
    pub async fn remove(&self, item: &Item) -> Result<(), RtError> {
        if item.device().is_some_and(|dev| index(dev).is_err()) {
            return Ok(());
        }
        let result = match item {
            Item::Address(address) => {
                let message = address_message(address)?;
                self.handle.address().del(message).execute().await
            }
            Item::Route(route) => {
                let message = route_message(route)?;
                self.handle.route().del(message).execute().await
            }
            Item::Rule(rule) => self.handle.rule().del(rule_message(rule)).execute().await,
            Item::Proxy { dev, ip } => {
                let message = neighbour_message(index(dev)?, *ip, None);
                self.handle.neighbours().del(message).execute().await
            }
            Item::Neighbour { dev, ip, mac } => {
                let message = neighbour_message(index(dev)?, *ip, Some(*mac));
                self.handle.neighbours().del(message).execute().await
            }
        };
        let gone = [libc::ENOENT, libc::ESRCH, libc::ENODEV, libc::EADDRNOTAVAIL];
        tolerate(result, &gone, || format!("remove {item}"))
    }

    /// Every item in this namespace that carries our tag, and every address but
    /// link-local ones on `tun`.
    pub async fn ours(&self, tun: &str) -> Result<BTreeSet<Item>, RtError> {
        let mut items = BTreeSet::new();
        for version in [IpVersion::V4, IpVersion::V6] {
            let mut request = RouteMessage::default();
            request.header.address_family = match version {
                IpVersion::V4 => AddressFamily::Inet,
                IpVersion::V6 => AddressFamily::Inet6,
            };
            let family = request.header.address_family;
            let routes = self.handle.route().get(request).execute();
            let routes: Vec<_> = list(routes.try_collect().await, "routes")?;
            items.extend(routes.iter().filter_map(our_route).map(Item::Route));
            let rules = self.handle.rule().get(version).execute();
            let rules: Vec<_> = list(rules.try_collect().await, "rules")?;
            items.extend(rules.iter().filter_map(our_rule).map(Item::Rule));
            for proxies in [false, true] {
                let request = self.handle.neighbours().get().set_address_family(family);
                let request = if proxies { request.proxies() } else { request };
                let entries: Vec<_> = list(request.execute().try_collect().await, "neighbours")?;
                items.extend(entries.iter().filter_map(our_neighbour));
            }
        }
        let addresses = self.handle.address().get().execute();
        let addresses: Vec<_> = list(addresses.try_collect().await, "addresses")?;
        items.extend(
            addresses
                .iter()
                .filter_map(|message| our_address(message, tun))
                .map(Item::Address),
        );
        Ok(items)
    }

    /// Brings `dev` up with this MTU and queue length.
    pub async fn link_up(&self, dev: &str, mtu: u32, queue: u32) -> Result<(), RtError> {
        let message = LinkUnspec::new_with_index(index(dev)?)
            .mtu(mtu)
            .txqueuelen(queue)
            .up()
            .build();
        let result = self.handle.link().set(message).execute().await;
        tolerate(result, &[], || format!("bring {dev} up with mtu {mtu}"))
    }

    /// Brings `dev` up, if it is not.
    pub async fn up(&self, dev: &str) -> Result<(), RtError> {
        let index = index(dev)?;
        let doing = || format!("bring {dev} up");
        let mut links = self.handle.link().get().match_index(index).execute();
        let link = links.try_next().await;
        let link = link.map_err(|error| failed(error, doing()))?;
        if link.is_some_and(|link| link.header.flags.contains(LinkFlags::Up)) {
            return Ok(());
        }
        let message = LinkUnspec::new_with_index(index).up().build();
        let result = self.handle.link().set(message).execute().await;
        tolerate(result, &[], doing)
    }

    /// Removes the interface `dev` if it is there.
    pub async fn delete_link(&self, dev: &str) -> Result<(), RtError> {
        let Ok(index) = index(dev) else {
            return Ok(());
        };
        let result = self.handle.link().del(index).execute().await;
        tolerate(result, &[libc::ENODEV], || format!("remove {dev}"))
    }

    /// The MAC address of the neighbour `ip` at `dev`, if it is known.
    pub async fn neighbour(&self, dev: &str, ip: IpAddr) -> Result<Option<MacAddr>, RtError> {
        let index = index(dev)?;
        let family = match ip {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        let request = self.handle.neighbours().get().set_address_family(family);
        let entries: Vec<NeighbourMessage> =
            list(request.execute().try_collect().await, "neighbours")?;
        let entry = entries.into_iter().find(|entry| {
            let named = |a: &NeighbourAttribute| {
                *a == NeighbourAttribute::Destination(NeighbourAddress::from(ip))
            };
            entry.header.ifindex == index && entry.attributes.iter().any(named)
        });
        let attributes = entry.into_iter().flat_map(|entry| entry.attributes);
        Ok(attributes
            .filter_map(|attribute| match attribute {
                NeighbourAttribute::LinkLayerAddress(octets) => <[u8; 6]>::try_from(octets).ok(),
                _ => None,
            })
            .map(MacAddr::from_octets)
            .next())
    }

    /// Has the kernel find out the MAC address of `ip` at `dev` now, rather than
    /// when the first packet waits for it.
    pub async fn resolve(&self, dev: &str, ip: IpAddr) -> Result<(), RtError> {
        let mut request = self.handle.neighbours().add(index(dev)?, ip).replace();
        let header = &mut request.message_mut().header;
        header.flags = NeighbourFlags::Use;
        header.state = NeighbourState::None;
        tolerate(request.execute().await, &[], || format!("resolve {ip}"))
    }

    /// The routers that routes through `dev` lead to.
    pub async fn routers(&self, dev: &str) -> Result<BTreeSet<IpAddr>, RtError> {
        let index = index(dev)?;
        let mut routers = BTreeSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            let routes = self.handle.route().get(request).execute();
            let routes: Vec<_> = list(routes.try_collect().await, "routes")?;
            let through = |route: &RouteMessage| {
                let oif = |a: &RouteAttribute| *a == RouteAttribute::Oif(index);
                route.attributes.iter().any(oif)
            };
            for attribute in routes
                .into_iter()
                .filter(through)
                .flat_map(|r| r.attributes)
            {
                match attribute {
                    RouteAttribute::Gateway(RouteAddress::Inet(ip)) => {
                        routers.insert(ip.into());
                    }
                    RouteAttribute::Gateway(RouteAddress::Inet6(ip)) => {
                        routers.insert(ip.into());
                    }
                    _ => {}
                }
            }
        }
        Ok(routers)
    }

    /// Makes (`there`) or removes the rule by which the kernel asks its table of
    /// local addresses before any other. Whoever removes it first makes a later
    /// rule that asks that table.
    pub async fn local_table_first(&self, family: Family, there: bool) -> Result<(), RtError> {
        let mut message = RuleMessage::default();
        message.header.family = address_family(family);
        message.header.action = RuleAction::ToTable;
        message.attributes = vec![
            RuleAttribute::Priority(0),
            RuleAttribute::Table(LOCAL_TABLE),
            RuleAttribute::Protocol(RouteProtocol::Kernel),
        ];
        let doing = || format!("move the {family} rule for local addresses");
        if there {
            let mut request = self.handle.rule().add();
            *request.message_mut() = message;
            tolerate(request.execute().await, &[libc::EEXIST], doing)
        } else {
            let result = self.handle.rule().del(message).execute().await;
            tolerate(result, &[libc::ENOENT], doing)
        }
    }
}

/// Index of the interface `dev` in the namespace of the calling thread.
pub fn index(dev: &str) -> Result<u32, RtError> {
    nix::net::if_::if_nametoindex(dev).map_err(|_| RtError::NoInterface(dev.to_owned()))
}

fn name(index: u32) -> Option<String> {
    let name = nix::net::if_::if_indextoname(index).ok()?;
    name.into_string().ok()
}

fn failed(error: rtnetlink::Error, doing: String) -> RtError {
    let cause = match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    };
    RtError::Request { doing, cause }
}

fn tolerate(
    result: Result<(), rtnetlink::Error>,
    harmless: &[i32],
    doing: impl FnOnce() -> String,
) -> Result<(), RtError> {
    match result {
        Err(rtnetlink::Error::NetlinkError(error))
            if harmless.contains(&-error.code.map_or(0, i32::from)) =>
        {
            Ok(())
        }
        other => other.map_err(|error| failed(error, doing())),
    }
}

/// A family that the kernel lacks has nothing to list.
fn list<T>(result: Result<Vec<T>, rtnetlink::Error>, what: &str) -> Result<Vec<T>, RtError> {
    match result {
        Err(rtnetlink::Error::NetlinkError(error))
            if matches!(
                -error.code.map_or(0, i32::from),
                libc::EOPNOTSUPP | libc::EAFNOSUPPORT
            ) =>
        {
            Ok(Vec::new())
        }
        other => other.map_err(|error| failed(error, format!("list {what}"))),
    }
}

fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

fn family(family: AddressFamily) -> Option<Family> {
    match family {
        AddressFamily::Inet => Some(Family::V4),
        AddressFamily::Inet6 => Some(Family::V6),
        _ => None,
    }
}

fn address_message(address: &Address) -> Result<AddressMessage, RtError> {
    let mut message = AddressMessage::default();
    message.header.family = address_family(Family::of(address.ip));
    message.header.prefix_len = address.len;
    message.header.index = index(&address.dev)?;
    message.header.flags = AddressHeaderFlags::Nodad;
    message.header.scope = match address.scope {
        Scope::Global => AddressScope::Universe,
        Scope::Link => AddressScope::Link,
        Scope::Host => AddressScope::Host,
    };
    message.attributes = vec![
        AddressAttribute::Local(address.ip),
        AddressAttribute::Address(address.ip),
        AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL)),
    ];
    Ok(message)
}

fn our_address(message: &AddressMessage, tun: &str) -> Option<Address> {
    let attributes = &message.attributes;
    let ip = attributes
        .iter()
        .find_map(|a| match a {
            AddressAttribute::Local(ip) => Some(*ip),
            _ => None,
        })
        .or_else(|| {
            attributes.iter().find_map(|a| match a {
                AddressAttribute::Address(ip) => Some(*ip),
                _ => None,
            })
        })?;
    let dev = name(message.header.index)?;
    let scope = match message.header.scope {
        AddressScope::Universe => Scope::Global,
        AddressScope::Link => Scope::Link,
        AddressScope::Host => Scope::Host,
        _ => return None,
    };
    let tagged = attributes.contains(&AddressAttribute::Protocol(AddressProtocol::Other(
        PROTOCOL,
    )));
    let on_tun = dev == tun && scope != Scope::Link;
    (tagged || on_tun).then_some(Address {
        dev,
        ip,
        len: message.header.prefix_len,
        scope,
    })
}

fn route_message(route: &Route) -> Result<RouteMessage, RtError> {
    let mut message = RouteMessageBuilder::<IpAddr>::new()
        .table_id(route.table)
        .priority(route.metric)
        .protocol(RouteProtocol::from(PROTOCOL))
        .build();
    message.header.address_family = address_family(Family::of(route.dst.addr()));
    message.header.destination_prefix_length = route.dst.prefix_len();
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Destination(route.dst.network().into()));
    match &route.to {
        Target::Blackhole => message.header.kind = RouteType::BlackHole,
        Target::Device { dev, src } => {
            attributes.push(RouteAttribute::Oif(index(dev)?));
            if let Some(src) = src {
                attributes.push(RouteAttribute::PrefSource((*src).into()));
            }
            // IPv6 routes have no scope.
            if route.dst.addr().is_ipv4() {
                message.header.scope = RouteScope::Link;
            }
        }
    }
    Ok(message)
}

fn our_route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    if u8::from(header.protocol) != PROTOCOL {
        return None;
    }
    let mut ip = match family(header.address_family)? {
        Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let (mut table, mut metric, mut dev, mut src) = (header.table.into(), 0, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(to) => ip = route_ip(to)?,
            RouteAttribute::Table(id) => table = *id,
            RouteAttribute::Priority(value) => metric = *value,
            RouteAttribute::Oif(index) => dev = name(*index),
            RouteAttribute::PrefSource(from) => src = route_ip(from),
            _ => {}
        }
    }
    let to = match header.kind {
        RouteType::BlackHole => Target::Blackhole,
        RouteType::Unicast => Target::Device { dev: dev?, src },
        _ => return None,
    };
    let dst = IpNet::new(ip, header.destination_prefix_length).ok()?;
    Some(Route {
        to,
        dst,
        table,
        metric,
    })
}

fn route_ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

fn rule_message(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = address_family(rule.family);
    message.attributes = vec![
        RuleAttribute::Priority(rule.pref),
        RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL)),
    ];
    match rule.table {
        Some(table) => {
            message.header.action = RuleAction::ToTable;
            message.attributes.push(RuleAttribute::Table(table));
        }
        None => message.header.action = RuleAction::Blackhole,
    }
    if let Some(iif) = &rule.iif {
        message.attributes.push(RuleAttribute::Iifname(iif.clone()));
    }
    if let Some(from) = rule.from {
        message.header.src_len = IpNet::from(from).prefix_len();
        message.attributes.push(RuleAttribute::Source(from));
    }
    if let Some(mark) = rule.mark {
        message.attributes.push(RuleAttribute::FwMark(mark));
        message.attributes.push(RuleAttribute::FwMask(u32::MAX));
    }
    message
}

fn our_rule(message: &RuleMessage) -> Option<Rule> {
    let ours = RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL));
    if !message.attributes.contains(&ours) {
        return None;
    }
    let lookup = message.header.action == RuleAction::ToTable;
    let mut rule = Rule {
        pref: 0,
        family: family(message.header.family)?,
        iif: None,
        from: None,
        mark: None,
        table: lookup.then_some(message.header.table.into()),
    };
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(pref) => rule.pref = *pref,
            RuleAttribute::Iifname(name) => rule.iif = Some(name.clone()),
            RuleAttribute::Source(from) => rule.from = Some(*from),
            RuleAttribute::FwMark(mark) => rule.mark = Some(*mark),
            RuleAttribute::Table(table) if lookup => rule.table = Some(*table),
            _ => {}
        }
    }
    Some(rule)
}

/// A permanent neighbour with `mac`, a proxy entry without.
fn neighbour_message(index: u32, ip: IpAddr, mac: Option<MacAddr>) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = index;
    match mac {
        Some(mac) => {
            message.header.state = NeighbourState::Permanent;
            message
                .attributes
                .push(NeighbourAttribute::LinkLayerAddress(mac.octets().to_vec()));
        }
        None => message.header.flags = NeighbourFlags::Proxy,
    }
    message.header.family = address_family(Family::of(ip));
    message
        .attributes
        .push(NeighbourAttribute::Destination(match ip {
            IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
            IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
        }));
    message
        .attributes
        .push(NeighbourAttribute::Protocol(RouteProtocol::from(PROTOCOL)));
    message
}

fn our_neighbour(message: &NeighbourMessage) -> Option<Item> {
    let ours = NeighbourAttribute::Protocol(RouteProtocol::from(PROTOCOL));
    if !message.attributes.contains(&ours) {
        return None;
    }
    let dev = name(message.header.ifindex)?;
    let (mut ip, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                ip = Some(IpAddr::V4(*v4));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                ip = Some(IpAddr::V6(*v6));
            }
            NeighbourAttribute::LinkLayerAddress(octets) => {
                let octets = <[u8; 6]>::try_from(octets.as_slice()).ok();
                mac = octets.map(MacAddr::from_octets);
            }
            _ => {}
        }
    }
    let ip = ip?;
    if message.header.flags.contains(NeighbourFlags::Proxy) {
        Some(Item::Proxy { dev, ip })
    } else {
        Some(Item::Neighbour { dev, ip, mac: mac? })
    }
}

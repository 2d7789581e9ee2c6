//! Making the kernel bring the right packets to the TUN, and nothing else.
//!
//! A gateway needs one route for each locator, one rule for each instance
//! interface and one proxy entry for each locator; a guest has its home address
//! on the TUN; an exclusive locator adds a table of pairs. What exactly is in
//! `plan` (pure), and [`Steering`] is the difference between two plans, applied.
//!
//! Invariants:
//! * every call may be repeated, and repairs what somebody else removed;
//! * what a claim needs is made before what it replaces is removed: there is no
//!   moment without a route, and beneath the routes lies a blackhole;
//! * everything made is recognisable as ours, so [`Steering::reconcile`] and
//!   [`Steering::down`] also clean up after a process that was killed.
//!
//! # Limitations
//! * One forwarder for each network namespace; a second one finds the TUN busy.
//! * `rp_filter` of `all` becomes 0: on other interfaces only their own value
//!   counts then.
//! * With an IPv6 home, forwarding is on for the whole host, guests included.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use mat_proto::{Home, Locator};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::io::MacAddr;
use crate::io::announce::{Announcer, REPEATS};
use crate::io::ifreq;
use crate::io::item::Item;
use crate::io::rt::{self, Rt, RtError};
use crate::io::sysctl::{self, SysctlError, Sysctls};

mod exclusive;
mod plan;
mod settings;

use exclusive::PairTable;
pub use exclusive::{NftError, Pair};

/// The gateway's address on every instance's link, at every site.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The gateway's IPv6 address on every instance's link, at every site.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// The gateway's MAC address on every instance's link, at every site: a moved
/// instance keeps its neighbour entry. Locally administered.
pub const GATEWAY_MAC: MacAddr = MacAddr::from_octets([0x02, 0x4d, 0x41, 0x54, 0x00, 0x01]);

/// A TCP window of 10 MB and more in plain packets fits without a drop.
const TX_QUEUE: u32 = 10_000;
/// Name of the settings journal in the state directory.
const JOURNAL: &str = "sysctl.json";

/// Why steering failed.
#[derive(Debug, thiserror::Error)]
pub enum SteeringError {
    /// One forwarder is at work here already.
    #[error(
        "another matd serves this network namespace; stop it, or start this one in a namespace of its own"
    )]
    Taken,
    /// Routes, rules, addresses or links.
    #[error(transparent)]
    Rt(#[from] RtError),
    /// Kernel settings.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// The table of pairs.
    #[error(transparent)]
    Nft(#[from] NftError),
    /// A locator could not be announced.
    #[error("cannot announce {locator} on {uplink}: {cause}; matd needs CAP_NET_RAW")]
    Announce {
        /// The locator.
        locator: Locator,
        /// The uplink.
        uplink: String,
        /// What the system said.
        cause: io::Error,
    },
}

/// An instance behind an interface of this gateway.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attachment {
    /// Its home address.
    pub home: Home,
    /// Our end of its link.
    pub interface: String,
    /// Its MAC address, if known.
    pub mac: Option<MacAddr>,
}

/// Whether an attachment works already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// It works.
    Ready,
    /// Its interface does not exist yet: attach again when it appears. Until
    /// then, and in the moment it does, nothing passes but from the home address.
    Waiting,
}

/// What kernel state is kept for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Dedicated locators.
    pub locators: BTreeSet<Locator>,
    /// Instances behind this gateway.
    pub attachments: BTreeSet<Attachment>,
    /// Home addresses of this guest.
    pub homes: BTreeSet<Home>,
    /// Pairs (peer, own) of an exclusive locator.
    pub pairs: BTreeSet<Pair>,
}

impl Claims {
    /// Whether nothing is claimed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The kernel state of one forwarder.
#[derive(Debug)]
pub struct Steering {
    config: Config,
    tun: String,
    rt: Rt,
    sysctls: Sysctls,
    pairs: PairTable,
    claims: Claims,
    /// From the first announcement on.
    announcer: Option<Arc<Announcer>>,
    announcements: BTreeMap<(String, IpAddr), JoinHandle<()>>,
    /// Held as long as this namespace is ours.
    _only: UnixDatagram,
}

impl Steering {
    /// Makes what every claim needs; `tun` must be open already. What an earlier
    /// process left stays untouched until [`Steering::reconcile`], which is to
    /// be called next.
    ///
    /// If it fails where nothing of ours was before, nothing is left behind.
    pub async fn up(config: &Config, tun: &str) -> Result<Self, SteeringError> {
        rt::index(tun)?;
        rt::index(&config.uplink)?;
        let mut steering = Self::take(config, tun).await?;
        let before = steering.rt.ours(tun).await?;
        let result = steering.base(&before).await;
        if result.is_err() && before.is_empty() {
            // The first failure is the one worth reporting.
            let _ = steering.down(&Claims::default()).await;
        }
        result.map(|()| steering)
    }

    /// Takes over what an earlier process left, and makes nothing: enough for
    /// [`Steering::down`], also where the uplink is gone.
    pub async fn take(config: &Config, tun: &str) -> Result<Self, SteeringError> {
        let only = take_namespace().await?;
        Ok(Self {
            config: config.clone(),
            tun: tun.to_owned(),
            rt: Rt::connect()?,
            sysctls: Sysctls::open(&config.state_dir.join(JOURNAL))?,
            pairs: PairTable::new(tun),
            claims: Claims::default(),
            announcer: None,
            announcements: BTreeMap::new(),
            _only: only,
        })
    }

    async fn base(&mut self, before: &BTreeSet<Item>) -> Result<(), SteeringError> {
        let forwarded = self.sysctls.before(settings::FORWARDING_V6);
        let router = forwarded.is_some_and(|value| value != "0");
        let settings = settings::base(&self.config, &self.tun, router);
        // With another configuration: a feature that is not wanted any more, or on another device.
        let wanted = |key: &str| settings.iter().any(|setting| setting.key == key);
        let stale = |key: &str| sysctl::is_feature(key) && !wanted(key);
        self.sysctls.restore(stale)?;
        self.sysctls.set(&settings)?;
        let mtu = self.config.tun.mtu;
        self.rt.link_up(&self.tun, mtu, TX_QUEUE).await?;
        for item in self.plan(&Claims::default()) {
            if !before.iter().any(|other| other.same_place(&item)) {
                self.rt.ensure(&item).await?;
            }
        }
        if self.config.locators.exclusive {
            self.pairs.ensure().await?;
            for family in self.config.families() {
                self.rt.local_table_first(family, false).await?;
            }
        }
        Ok(())
    }

    /// Makes exactly what `claimed` needs, without a gap for what is there
    /// already, and removes everything of ours that nothing claims any more.
    pub async fn reconcile(&mut self, claimed: &Claims) -> Result<(), SteeringError> {
        self.claims = claimed.clone();
        if self.config.locators.exclusive {
            self.pairs.replace(&claimed.pairs).await?;
        }
        for attachment in &claimed.attachments {
            if rt::index(&attachment.interface).is_ok() {
                self.prepare_link(&attachment.interface).await?;
            }
        }
        let wanted = self.plan(claimed);
        self.ensure(&wanted).await?;
        self.release_links()?;
        let found = self.rt.ours(&self.tun).await?;
        self.retire(&found, &wanted).await?;
        if !self.config.locators.exclusive {
            self.end_exclusive().await?;
        }
        Ok(())
    }

    /// Makes everything again that the present claims need: after an interface
    /// came back, which loses its routes, addresses and settings.
    pub async fn refresh(&mut self) -> Result<(), SteeringError> {
        let before = self.rt.ours(&self.tun).await?;
        self.base(&before).await?;
        let claims = self.claims.clone();
        self.reconcile(&claims).await
    }

    /// Goes over to another configuration with the present claims. The name of
    /// the TUN is not looked at: it stays.
    pub async fn reconfigure(&mut self, config: &Config) -> Result<(), SteeringError> {
        rt::index(&config.uplink)?;
        self.config = config.clone();
        self.pairs = PairTable::new(&self.tun);
        self.refresh().await
    }

    /// Removes all kernel state of ours that `keep` does not need. With nothing
    /// to keep, settings get their old values and the TUN is removed too. Goes on
    /// after a failure and returns the first.
    pub async fn down(&mut self, keep: &Claims) -> Result<(), SteeringError> {
        self.stop_announcing(|(_, ip)| !keep.locators.iter().any(|kept| kept.ip() == *ip));
        self.claims = keep.clone();
        if !keep.is_empty() {
            return self.reconcile(keep).await;
        }
        let released = self.release_links();
        let ended = self.end_exclusive().await;
        let nothing = BTreeSet::new();
        let removed = match self.rt.ours(&self.tun).await {
            Ok(found) => self.retire(&found, &nothing).await,
            Err(error) => Err(error.into()),
        };
        let restored = self.sysctls.restore(|_| true);
        let deleted = self.rt.delete_link(&self.tun).await;
        ended.and(removed)?;
        released.and(restored)?;
        Ok(deleted?)
    }

    /// Has the dedicated `locator` led into the TUN, and answers ARP or ND for it.
    pub async fn add_locator(&mut self, locator: Locator) -> Result<(), SteeringError> {
        let mut without = self.claims.clone();
        without.locators.remove(&locator);
        let mut with = without.clone();
        with.locators.insert(locator);
        self.claim(&without, with).await
    }

    /// Undoes [`Steering::add_locator`]; packets to it vanish then.
    pub async fn remove_locator(&mut self, locator: Locator) -> Result<(), SteeringError> {
        self.stop_announcing(|(_, ip)| *ip == locator.ip());
        let mut with = self.claims.clone();
        with.locators.insert(locator);
        let mut without = with.clone();
        without.locators.remove(&locator);
        self.release(with, without).await
    }

    /// Tells the neighbours on the uplink that `locator` is here: now, and at
    /// [`REPEATS`] unless it is removed.
    pub async fn announce(&mut self, locator: Locator) -> Result<(), SteeringError> {
        let uplink = self.config.uplink.clone();
        let index = rt::index(&uplink)?;
        let mac = match ifreq::mac(&uplink) {
            Ok(mac) => mac,
            // No Ethernet, no neighbours to tell.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(()),
            Err(cause) => {
                return Err(SteeringError::Announce {
                    locator,
                    uplink,
                    cause,
                });
            }
        };
        let routers: Vec<_> = self.rt.routers(&uplink).await?.into_iter().collect();
        for router in &routers {
            // The first packets of a move come in a burst, in this direction too.
            if let Err(error) = self.rt.resolve(&uplink, *router).await {
                tracing::debug!("{error}");
            }
        }
        let told = self.repeat(&uplink, locator.ip(), routers, index, mac);
        told.map_err(|cause| SteeringError::Announce {
            locator,
            uplink,
            cause,
        })
    }

    /// The same of everything that is led here.
    pub async fn announce_all(&mut self) -> Result<(), SteeringError> {
        for locator in self.claims.locators.clone() {
            self.announce(locator).await?;
        }
        for attachment in self.claims.attachments.clone() {
            self.announce_gateway(&attachment.interface, attachment.home);
        }
        Ok(())
    }

    /// Says that `address` is at this interface of ours, now and at [`REPEATS`].
    fn repeat(
        &mut self,
        dev: &str,
        address: IpAddr,
        routers: Vec<IpAddr>,
        index: u32,
        mac: MacAddr,
    ) -> std::io::Result<()> {
        let place = (dev.to_owned(), address);
        self.stop_announcing(|other| *other == place);
        let announcer = self.announcer()?;
        announcer.announce(address, &routers, index, mac)?;
        let repeats = tokio::spawn(async move {
            let start = tokio::time::Instant::now();
            for after in REPEATS {
                tokio::time::sleep_until(start + after).await;
                if let Err(error) = announcer.announce(address, &routers, index, mac) {
                    tracing::debug!("{address} not announced again: {error}");
                }
            }
        });
        self.announcements.insert(place, repeats);
        Ok(())
    }

    fn announcer(&mut self) -> std::io::Result<Arc<Announcer>> {
        if let Some(announcer) = &self.announcer {
            return Ok(Arc::clone(announcer));
        }
        let opened = Arc::new(Announcer::open()?);
        Ok(Arc::clone(self.announcer.insert(opened)))
    }

    /// Tells the instances at an interface, and the switch that may be between, that their
    /// gateway is here: a moment ago it may have been the other one of the site.
    fn announce_gateway(&mut self, dev: &str, home: Home) {
        if self.config.pair.is_none() {
            return;
        }
        let gateway = match home.ip() {
            IpAddr::V4(_) => GATEWAY_V4.into(),
            IpAddr::V6(_) => GATEWAY_V6.into(),
        };
        let told = rt::index(dev).map_err(std::io::Error::other);
        let told = told.and_then(|n| self.repeat(dev, gateway, Vec::new(), n, GATEWAY_MAC));
        if let Err(error) = told {
            tracing::warn!("{dev}: the gateway is not announced: {error}");
        }
    }

    /// Has what the instance sends led into the TUN, and what is for its home
    /// address to it. It can send from its home addresses alone. An attachment
    /// of the same home elsewhere is replaced.
    pub async fn attach(&mut self, attachment: &Attachment) -> Result<Attached, SteeringError> {
        let mut without = self.claims.clone();
        without.attachments.retain(|a| a.home != attachment.home);
        let mut with = without.clone();
        with.attachments.insert(attachment.clone());
        let dev = &attachment.interface;
        let there = rt::index(dev).is_ok();
        let result = if there {
            let prepared = self.prepare_link(dev).await;
            self.claim(&without, with).await.and(prepared)
        } else {
            // The rules alone, which need no interface, unless they are there: while one
            // is on its way here the kernel lets nobody else change anything.
            self.claim(&self.claims.clone(), with).await
        };
        match result {
            // One that comes or goes meanwhile is heard of again.
            _ if !there || rt::index(dev).is_err() => Ok(Attached::Waiting),
            Ok(()) => {
                self.announce_gateway(dev, attachment.home);
                Ok(Attached::Ready)
            }
            Err(error) => Err(error),
        }
    }

    /// The MAC address at which the kernel reaches an attached instance, if it
    /// has found out or been told.
    pub async fn mac_of(&self, home: Home) -> Result<Option<MacAddr>, SteeringError> {
        let mut attachments = self.claims.attachments.iter();
        let Some(attachment) = attachments.find(|a| a.home == home) else {
            return Ok(None);
        };
        match attachment.mac {
            Some(mac) => Ok(Some(mac)),
            None => Ok(self.rt.neighbour(&attachment.interface, home.ip()).await?),
        }
    }

    /// Undoes [`Steering::attach`].
    pub async fn detach(&mut self, attachment: &Attachment) -> Result<(), SteeringError> {
        let mut with = self.claims.clone();
        with.attachments.insert(attachment.clone());
        let mut without = with.clone();
        without.attachments.retain(|a| a.home != attachment.home);
        self.release(with, without).await
    }

    /// Puts `home` on the TUN; connections into home prefixes start from it.
    pub async fn add_guest_home(&mut self, home: Home) -> Result<(), SteeringError> {
        let mut without = self.claims.clone();
        without.homes.remove(&home);
        let mut with = without.clone();
        with.homes.insert(home);
        self.claim(&without, with).await
    }

    /// Undoes [`Steering::add_guest_home`].
    pub async fn remove_guest_home(&mut self, home: Home) -> Result<(), SteeringError> {
        let mut with = self.claims.clone();
        with.homes.insert(home);
        let mut without = with.clone();
        without.homes.remove(&home);
        self.release(with, without).await
    }

    /// Has what comes from `peer` to our exclusive locator `own` led into the
    /// TUN.
    pub async fn steer_pair(&mut self, peer: Locator, own: Locator) -> Result<(), SteeringError> {
        self.claims.pairs.insert((peer, own));
        Ok(self.pairs.add((peer, own)).await?)
    }

    /// Undoes [`Steering::steer_pair`].
    pub async fn unsteer_pair(&mut self, peer: Locator, own: Locator) -> Result<(), SteeringError> {
        self.claims.pairs.remove(&(peer, own));
        Ok(self.pairs.remove((peer, own)).await?)
    }

    /// What is claimed now.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    fn plan(&self, claims: &Claims) -> BTreeSet<Item> {
        plan::plan(&self.config, &self.tun, claims)
    }

    /// From the present claims to `with`; whatever `with` has beyond `without`
    /// is made even if it should be there already.
    async fn claim(&mut self, without: &Claims, with: Claims) -> Result<(), SteeringError> {
        let (base, wanted) = (self.plan(without), self.plan(&with));
        let old = self.plan(&self.claims);
        self.claims = with;
        let due = wanted.difference(&base).cloned().collect();
        self.ensure(&due).await?;
        self.release_links()?;
        self.retire(&old, &wanted).await
    }

    /// From `with` to `without`, whether or not `with` was really there.
    async fn release(&mut self, with: Claims, without: Claims) -> Result<(), SteeringError> {
        let (old, wanted) = (self.plan(&with), self.plan(&without));
        self.claims = without;
        let due = wanted.difference(&old).cloned().collect();
        self.ensure(&due).await?;
        self.release_links()?;
        self.retire(&old, &wanted).await
    }

    /// Makes `items` in their order; the interface of an attachment may be
    /// missing.
    async fn ensure(&self, items: &BTreeSet<Item>) -> Result<(), SteeringError> {
        let mut fault = Ok(());
        for item in items {
            let waits = item.device().is_some_and(|dev| {
                self.claims.attachments.iter().any(|a| a.interface == dev)
                    && rt::index(dev).is_err()
            });
            if !waits {
                // A rule or blackhole must not be missing because something
                // before it failed.
                let result = self.rt.ensure(item).await;
                fault = fault.and(result);
            }
        }
        Ok(fault?)
    }

    /// Removes what of `old` has no place among `wanted`, last made first.
    async fn retire(
        &self,
        old: &BTreeSet<Item>,
        wanted: &BTreeSet<Item>,
    ) -> Result<(), SteeringError> {
        let mut fault = Ok(());
        for item in old.iter().rev().filter(|item| !wanted.contains(item)) {
            if !wanted.iter().any(|other| other.same_place(item)) {
                let result = self.rt.remove(item).await;
                fault = fault.and(result);
            }
        }
        Ok(fault?)
    }

    /// The gateway's MAC address, and no link-local address but the gateway's.
    async fn prepare_link(&mut self, dev: &str) -> Result<(), SteeringError> {
        self.sysctls.set(&settings::link(dev))?;
        Ok(self.rt.up(dev).await?)
    }

    /// Interfaces that no instance is behind any more are what they were: before their addresses
    /// go, which the kernel tells the others on the link, and not as the gateway.
    fn release_links(&mut self) -> Result<(), SysctlError> {
        let attached = self.claims.attachments.iter().map(|a| &*a.interface);
        let ours: BTreeSet<&str> = attached
            .chain(["all", &self.config.uplink, &self.tun])
            .collect();
        self.sysctls
            .restore(|key| sysctl::device(key).is_some_and(|dev| !ours.contains(dev)))
    }

    /// Gives local addresses back their place before every rule.
    async fn end_exclusive(&self) -> Result<(), SteeringError> {
        for family in self.config.families() {
            self.rt.local_table_first(family, true).await?;
        }
        Ok(self.pairs.destroy().await?)
    }

    fn stop_announcing(&mut self, which: impl Fn(&(String, IpAddr)) -> bool) {
        self.announcements.retain(|place, repeats| {
            let stop = which(place);
            if stop {
                repeats.abort();
            }
            !stop && !repeats.is_finished()
        });
    }
}

/// Two forwarders in one namespace would take each other's state for leftovers.
/// Abstract socket names belong to the network namespace and vanish with their
/// owner, so one of them serves as the lock.
///
/// A name just let go can live on for an instant in a child of the former owner.
async fn take_namespace() -> Result<UnixDatagram, SteeringError> {
    const TRIES: usize = 50;
    const PAUSE: Duration = Duration::from_millis(5);
    for _ in 0..TRIES {
        let name = SocketAddr::from_abstract_name("mat-forwarder");
        if let Ok(socket) = name.and_then(|name| UnixDatagram::bind_addr(&name)) {
            return Ok(socket);
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(SteeringError::Taken)
}

impl Drop for Steering {
    fn drop(&mut self) {
        self.stop_announcing(|_| true);
    }
}

//! The network under the traffic, and what it has counted.
//!
//! ```text
//! user ── site c ══ router ══ site a ── web        (the testbed)
//! ```
//!
//! The double lines are wide-area links where the path is to be impaired, and plain ones else.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result};

use super::matrix::{Cell, Family, Links, Path};
use super::payload;
use super::{Ends, PATIENCE};
use crate::testbed::{Instance, Options, Testbed};
use crate::{Cmd, Host, Wan, WanConfig, counters, wait_until};

/// Each way over each of the two links. Of frames of 1500 bytes, at a few hundred Mbit/s, some ten
/// are on the way at a time and change places.
const DELAY_MS: f64 = 1.0;
const JITTER_MS: f64 = 0.2;
/// Share of frames on each link.
const LOSS: f64 = 0.003;
const DUPLICATION: f64 = 0.01;
/// Often enough that most bursts of equal datagrams and many rows of segments have a bad one.
const CORRUPTION: f64 = 0.01;

/// A running testbed with an instance at each end.
#[derive(Debug)]
pub(super) struct Course {
    bed: Testbed,
    web: Instance,
    user: Instance,
    impaired: bool,
    offload: bool,
}

/// Everything that is counted, since the start.
#[derive(Clone, Debug, Default)]
pub(super) struct Readings {
    /// Packets that a kernel found to have a wrong checksum.
    pub(super) checksum_errors: u64,
    /// Frames with a flipped bit.
    pub(super) spoilt: u64,
    /// Frames lost by intention.
    pub(super) lost: u64,
    pub(super) duplicated: u64,
    /// Packets that found a queue full.
    pub(super) dropped: u64,
    /// Packets and bytes that the forwarders sent to each other.
    pub(super) packets: u64,
    pub(super) bytes: u64,
    /// What the forwarders did not simply forward, by cause.
    pub(super) causes: BTreeMap<String, u64>,
}

impl Course {
    /// Builds the network that the cell needs, and starts the programs.
    pub(super) fn new(cell: &Cell) -> Result<Self> {
        let (impaired, offload) = (cell.path != Path::Clean, cell.offload);
        let bed = Testbed::new(Options {
            rtt_ms: if impaired { 4.0 * DELAY_MS } else { 0.0 },
            extra: format!("[tun]\noffload = {offload}\n"),
            ..Options::new()?
        })?;
        let web = bed.instance("web", 10, "a")?;
        let user = bed.instance("user", 20, "c")?;
        let course = Course {
            bed,
            web,
            user,
            impaired,
            offload,
        };
        for host in [&course.web.host, &course.user.host] {
            // Where fragments get lost, the numbers of their packets come round again within the
            // default of 30 s, and pieces of different packets would be joined.
            host.sysctl("net.ipv4.ipfrag_time", 2)?;
            host.sysctl("net.ipv6.ip6frag_time", 2)?;
            // Or else the kernel gives up datagrams whose fragments have been overtaken by many.
            host.sysctl("net.ipv4.ipfrag_max_dist", 0)?;
        }
        Ok(course)
    }

    /// Whether this is the network that the cell needs.
    pub(super) fn serves(&self, cell: &Cell) -> bool {
        self.impaired == (cell.path != Path::Clean) && self.offload == cell.offload
    }

    /// Sets up what differs between the cells of one network. `seed` is that of all chance.
    pub(super) fn set_up(&self, cell: &Cell, seed: u64) -> Result<()> {
        self.set_links(cell.links)?;
        // The forwarders agree before anything happens to their messages.
        let web = ends(&self.user, &self.web, cell.family)?.receiver_address;
        let answer = || self.user.host.pings(&web.to_string());
        wait_until(PATIENCE, format!("an answer of {web}"), || {
            answer().map(|answered| answered.then_some(())).transpose()
        })??;
        for (n, wan) in self.wans().enumerate() {
            // Spoilt on one link only: a second flipped bit can make up for the first one in the
            // checksum.
            let path = match cell.path {
                Path::Corrupt if n > 0 => Path::Clean,
                path => path,
            };
            let seed = payload::seed(seed, n as u64);
            wan.set_config(impairment(path, seed))?;
        }
        Ok(())
    }

    /// Lets frames pass unharmed again.
    pub(super) fn calm(&self) -> Result<()> {
        self.wans()
            .try_for_each(|wan| wan.set_config(impairment(Path::Clean, 0)))
    }

    /// From *user* to *web*, and the other way round.
    pub(super) fn both_ways(&self, family: Family) -> Result<[Ends<'_>; 2]> {
        Ok([
            ends(&self.user, &self.web, family)?,
            ends(&self.web, &self.user, family)?,
        ])
    }

    /// Reads all counters.
    pub(super) fn read(&self) -> Result<Readings> {
        let mut readings = Readings::default();
        for host in self.receivers() {
            readings.checksum_errors += counters::checksum_errors(host)?;
            readings.dropped += counters::counted(host, "RcvbufErrors")?;
        }
        for host in self.receivers().into_iter().chain([&self.bed.router]) {
            readings.dropped += counters::device_drops(host)?;
        }
        for wan in self.wans() {
            for counters in [wan.counters_to_a(), wan.counters_to_b()] {
                readings.spoilt += counters.spoilt;
                readings.lost += counters.line.lost;
                readings.duplicated += counters.line.duplicated;
                readings.dropped += counters.overrun + counters.refused;
            }
        }
        for site in ["a", "c"] {
            let status = self.bed.status(site)?;
            let contexts = status["contexts"].as_array().context("no `contexts`")?;
            for context in contexts {
                readings.packets += context["sent"]["packets"].as_u64().unwrap_or(0);
                readings.bytes += context["sent"]["bytes"].as_u64().unwrap_or(0);
            }
            let causes = status["counters"].as_object().context("no `counters`")?;
            for (cause, count) in causes {
                *readings.causes.entry(cause.clone()).or_default() += count.as_u64().unwrap_or(0);
            }
        }
        Ok(readings)
    }

    /// What the forwarders say about their packet path.
    pub(super) fn packet_path(&self) -> Result<String> {
        let status = self.bed.status("a")?;
        Ok(status["path"].as_str().context("no `path`")?.to_owned())
    }

    /// Removes everything, and says whether it could.
    pub(super) fn end(self) -> Result<()> {
        self.bed.lab.end()
    }

    fn set_links(&self, links: Links) -> Result<()> {
        let set = |host: &Host, device: &str, features: &str| {
            let ethtool = Cmd::new("ethtool").args(["-K", device]);
            host.run(ethtool.words(features)).map(drop)
        };
        for (site, instance) in [("a", &self.web), ("c", &self.user)] {
            let gateway = &self.bed.site(site).host;
            set(&instance.host, "eth0", links.instances())?;
            set(gateway, &instance.interface, links.instances())?;
            set(gateway, "eth0", links.uplinks())?;
            set(&self.bed.router, site, links.uplinks())?;
        }
        Ok(())
    }

    fn wans(&self) -> impl Iterator<Item = &Wan> {
        ["a", "c"]
            .into_iter()
            .filter_map(|site| self.bed.site(site).wan.as_ref())
    }

    /// Whoever a flipped bit may reach, control messages and look-ups included.
    fn receivers(&self) -> [&Host; 5] {
        let gateway = |site| &self.bed.site(site).host;
        let (web, user) = (&self.web.host, &self.user.host);
        [web, user, gateway("a"), gateway("c"), &self.bed.map]
    }
}

impl Readings {
    /// What has been counted since `before`.
    pub(super) fn since(&self, before: &Readings) -> Readings {
        let causes = self.causes.iter().map(|(cause, count)| {
            let earlier = before.causes.get(cause).copied().unwrap_or(0);
            (cause.clone(), count - earlier)
        });
        Readings {
            checksum_errors: self.checksum_errors - before.checksum_errors,
            spoilt: self.spoilt - before.spoilt,
            lost: self.lost - before.lost,
            duplicated: self.duplicated - before.duplicated,
            dropped: self.dropped - before.dropped,
            packets: self.packets - before.packets,
            bytes: self.bytes - before.bytes,
            causes: causes.filter(|(_, count)| *count > 0).collect(),
        }
    }
}

fn ends<'a>(from: &'a Instance, to: &'a Instance, family: Family) -> Result<Ends<'a>> {
    let address = |instance: &Instance| -> Result<IpAddr> {
        Ok(match family {
            Family::Ipv4 => instance.home.parse()?,
            Family::Ipv6 => instance.home6.parse()?,
        })
    };
    Ok(Ends {
        sender: &from.host,
        sender_address: address(from)?,
        receiver: &to.host,
        receiver_address: address(to)?,
    })
}

fn impairment(path: Path, seed: u64) -> WanConfig {
    let calm = WanConfig {
        delay_ms: DELAY_MS,
        seed,
        ..WanConfig::default()
    };
    match path {
        Path::Clean => calm,
        Path::Loss => WanConfig { loss: LOSS, ..calm },
        Path::Reorder => WanConfig {
            jitter_ms: JITTER_MS,
            ..calm
        },
        Path::Mess => WanConfig {
            loss: LOSS,
            jitter_ms: JITTER_MS,
            duplicate: DUPLICATION,
            ..calm
        },
        Path::Corrupt => WanConfig {
            corrupt: CORRUPTION,
            ..calm
        },
    }
}

//! The configuration file of `matd`.
//!
//! Why it exists: a forwarder that starts with a wrong prefix or a pool outside
//! its site silently sends traffic to the wrong place, so everything that can be
//! known to be wrong from the file alone is refused before anything is touched.
//!
//! What is not in it: whether the interfaces exist, whether the servers answer.
//! Those are facts of the machine and of the moment.
//!
//! Invariant: a [`Config`] that exists is consistent with itself (see
//! [`Config::parse`] for the rules), and every complaint names file, line, key
//! and value and says how to mend it.
//!
//! # Limitations
//! A mistake of shape (unknown key, wrong type) ends the reading at the first
//! one; mistakes of meaning are all reported together.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use mat_proto::{Family, Home, Locator, apl};
use serde::{Deserialize, Serialize};

use crate::io::MacAddr;
use crate::zoning::Zoning;

mod check;
mod raw;
mod source;

pub(crate) use check::interface_name;
pub use source::{ConfigError, Finding, Source};

/// Everything `matd` is told by its file. See `matd.example.toml` for what each
/// key means to the person who writes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Name of the underlay this forwarder stands in, for people and for `status`.
    pub site: String,
    /// Whether instances are behind this forwarder or are this machine itself.
    pub placement: Placement,
    /// Interface towards the underlay.
    pub uplink: String,
    /// Path of the Unix socket of the local control API.
    pub control_socket: PathBuf,
    /// Directory of the state file; owned by one `matd`.
    pub state_dir: PathBuf,
    /// UDP port of the control exchange.
    pub control_port: u16,
    /// TCP address at which metrics are served, beside the control socket.
    pub metrics_listen: Option<SocketAddr>,
    /// The TUN device.
    pub tun: TunConfig,
    /// The lists of prefixes that the file leaves to the zone of `[mapping]`.
    pub left_to_zone: Vec<apl::List>,
    /// Which addresses can be home addresses.
    pub homes: Homes,
    /// Which addresses can be locators, and which of them are ours to give.
    pub locators: Locators,
    /// Where bindings are read and written.
    pub mapping: Mapping,
    /// The other gateway of the site, if there are two.
    pub pair: Option<Pair>,
    /// Bounds on memory and time.
    pub limits: Limits,
    /// Instances attached from the start.
    pub instances: Vec<Instance>,
}

/// Where the forwarder stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// In front of unmodified instances, each on an interface of its own.
    Gateway,
    /// On the machine that has the home address.
    Guest,
}

/// `[tun]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunConfig {
    /// Interface name, at most 15 characters.
    pub name: String,
    /// MTU in bytes.
    pub mtu: u32,
    /// Ask the kernel for super-packets and partial checksums.
    pub offload: bool,
    /// Join small packets of one flow into super-packets, and have the uplink join datagrams.
    /// Without `offload` only TCP to a guest's own homes is joined.
    pub coalesce: bool,
    /// Queues, and data threads, one each.
    pub queues: usize,
}

/// `[homes]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Homes {
    /// Prefixes that hold every home address of the deployment, at all sites; none if the zone
    /// says which, and has not been asked.
    pub prefixes: Vec<IpNet>,
}

/// What the zone of `[mapping]` says of a deployment, for lists that the file leaves out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// For `homes.prefixes`; none if they are not left to it.
    pub homes: Vec<IpNet>,
    /// For `locators.prefixes`; the same.
    pub locators: Vec<IpNet>,
}

impl Told {
    /// Whether it says something for each of these.
    pub fn has_all(&self, lists: &[apl::List]) -> bool {
        lists.iter().all(|list| match list {
            apl::List::Homes => !self.homes.is_empty(),
            apl::List::Locators => !self.locators.is_empty(),
        })
    }
}

/// `[locators]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locators {
    /// Prefixes that hold every locator of the deployment, at all sites; as with [`Homes`].
    pub prefixes: Vec<IpNet>,
    /// Dedicated locators of this site, one home each; empty when exclusive.
    pub pool: Vec<IpNet>,
    /// Use the uplink's own addresses, one home for each family.
    pub exclusive: bool,
}

/// A zone of the mapping service: in `[mapping]` and `[[zone]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// Prefixes of homes that it speaks for; none for that of `[mapping]`, which has the rest.
    pub homes: Vec<IpNet>,
    /// Its DNS servers, tried in this order.
    pub servers: Vec<SocketAddr>,
    /// Its name: lower case, with the final dot.
    pub name: String,
    /// What makes an answer count.
    pub trust: Trust,
    /// With `trust = "dnssec"`: a file with the DNSKEY records that are believed.
    pub anchor: Option<PathBuf>,
    /// Key that signs queries and updates; without one nothing can be claimed.
    pub key: Option<Key>,
    /// Who tells of changes, so that nobody has to ask.
    pub push: Option<Push>,
}

/// A server of DNS push notifications (RFC 8765).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// Where it is, TCP.
    pub server: SocketAddr,
    /// The name in its certificate.
    pub name: String,
    /// That certificate, or those that have signed it, in DER form.
    pub certificates: Vec<Vec<u8>>,
}

/// `[mapping]` and `[[zone]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// That of `[mapping]`, then each `[[zone]]`.
    pub zones: Vec<Zone>,
    /// Lease written into our bindings, in seconds.
    pub lease_s: u32,
    /// How often bindings of attached homes are read again, in milliseconds.
    pub poll_ms: u64,
    /// What becomes of attached homes while the service cannot be asked about them.
    pub on_isolation: OnIsolation,
}

impl Mapping {
    /// Which of the zones speaks for which home.
    pub fn zoning(&self) -> Zoning {
        Zoning::new(self.zones.iter().skip(1).map(|zone| &zone.homes[..]))
    }

    /// Whether any zone tells of changes by itself.
    pub fn is_pushed(&self) -> bool {
        self.zones.iter().any(|zone| zone.push.is_some())
    }

    /// The weakest trust of any zone.
    pub fn trust(&self) -> Trust {
        let trusts = self.zones.iter().map(|zone| zone.trust);
        trusts.max().unwrap_or(Trust::Tsig)
    }
}

/// `[pair]`: this gateway is one of two.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The home address of the pair; its binding says which of the two is on duty.
    pub home: Home,
    /// What that binding names when this one is.
    pub locator: Locator,
    /// TCP address at which the other one is told what this one knows.
    pub listen: SocketAddr,
    /// The same of the other one.
    pub peer: SocketAddr,
    /// What both have, and nobody else.
    pub secret: [u8; 32],
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The secret must not reach a log.
        let Pair {
            home,
            locator,
            listen,
            peer,
            ..
        } = self;
        write!(f, "Pair({home} {locator} {listen} {peer})")
    }
}

/// What a forwarder does that cannot reach the mapping service, and so cannot know
/// whether another site serves its homes by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnIsolation {
    /// It goes on: connections live, and in a partition there may be two copies.
    Serve,
    /// It falls silent after this time, until it hears that the home is still its own.
    StopAfter(Duration),
}

impl FromStr for OnIsolation {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        match words[..] {
            ["serve"] => Ok(OnIsolation::Serve),
            ["stop-after", seconds] => match seconds.parse() {
                Ok(seconds @ 1..=86_400) => {
                    Ok(OnIsolation::StopAfter(Duration::from_secs(seconds)))
                }
                _ => Err(()),
            },
            _ => Err(()),
        }
    }
}

/// Which answers of the mapping service count as verified, the strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trust {
    /// Only answers signed with our key (RFC 8945).
    Tsig,
    /// Only answers that DNSSEC proves from an anchor (RFC 4035).
    Dnssec,
    /// Whatever the network brings; `status` says so.
    Network,
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Trust::Tsig => "tsig",
            Trust::Dnssec => "dnssec",
            Trust::Network => "network",
        })
    }
}

/// A TSIG key (RFC 8945).
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    /// Its domain name: lower case, with the final dot.
    pub name: String,
    /// Its MAC algorithm.
    pub algorithm: KeyAlgorithm,
    /// The shared secret, decoded.
    pub secret: Vec<u8>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The secret must not reach a log.
        write!(f, "Key({} {:?})", self.name, self.algorithm)
    }
}

/// MAC algorithms of TSIG that are still allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyAlgorithm {
    /// HMAC-SHA-256.
    HmacSha256,
    /// HMAC-SHA-384.
    HmacSha384,
    /// HMAC-SHA-512.
    HmacSha512,
}

/// `[limits]`: bounds on memory and time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes held for one home while its binding or context is resolved.
    pub hold_bytes_per_home: usize,
    /// Bytes held for all homes together.
    pub hold_bytes_total: usize,
    /// Longest time a packet is held, in milliseconds.
    pub hold_ms: u64,
    /// Contexts kept at once.
    pub contexts: usize,
    /// How long the old site relays stragglers after a move, in milliseconds.
    pub grace_ms: u64,
    /// Quarantine of a released locator beyond its lease, in seconds.
    pub quarantine_extra_s: u64,
}

impl Default for Limits {
    fn default() -> Self {
        const MIB: usize = 1 << 20;
        Self {
            // 50 Mbit/s for the 5 s that anything is held.
            hold_bytes_per_home: 32 * MIB,
            // Eight such homes at once.
            hold_bytes_total: 256 * MIB,
            hold_ms: 5_000,
            // 64 homes talking to 1000 peers each.
            contexts: 64_000,
            // Two polls of a peer's mapping data, with room for lost messages.
            grace_ms: 10_000,
            // As the design of the mapping service asks: lease + 60 s.
            quarantine_extra_s: 60,
        }
    }
}

/// `[[instance]]`: an attachment that is there from the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Its home address.
    pub home: Home,
    /// Host end of its link; gateway placement only, and always there.
    pub interface: Option<String>,
    /// Its MAC address, if known: spares the first ARP or ND exchange.
    pub mac: Option<MacAddr>,
}

impl Config {
    /// Reads and checks the file at `path`, and the secret file it may name
    /// (relative to the directory of `path`). `told` stands for lists of prefixes that the file
    /// leaves to the zone; what depends on them is not checked without.
    pub fn load(path: &Path, told: Option<&Told>) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|cause| ConfigError::Read {
            file: path.display().to_string(),
            cause,
        })?;
        let folder = path.parent().unwrap_or(Path::new("."));
        Self::parse(&path.display().to_string(), &text, folder, told)
    }

    /// Checks `text`, naming it `file` in complaints; a relative `secret_file`
    /// is looked for in `folder`.
    ///
    /// Beyond shape and ranges it demands: home and locator prefixes disjoint;
    /// the pool inside the locator prefixes; a pool or `exclusive`, not both,
    /// `exclusive` only for a guest; every instance inside a home prefix, once,
    /// with an interface exactly in gateway placement, and a pool of its family;
    /// a key if `trust = "tsig"`; a pair only of gateways, with a home of its own and a
    /// locator outside the pool.
    pub fn parse(
        file: &str,
        text: &str,
        folder: &Path,
        told: Option<&Told>,
    ) -> Result<Self, ConfigError> {
        let source = Source::new(file, text, "matd.example.toml");
        let raw: raw::Raw = toml::from_str(text).map_err(|error| source.shape(error))?;
        check::Checker::new(source, folder).config(&raw, told)
    }

    /// Families that have a home prefix: the others are never touched.
    pub fn families(&self) -> Vec<Family> {
        [Family::V4, Family::V6]
            .into_iter()
            .filter(|family| self.homes.prefixes.iter().any(|p| family_of(p) == *family))
            .collect()
    }
}

/// Reads the file as `matd` would and says in a few lines what it means: the
/// whole of `matd check-config`.
pub fn check(path: &Path) -> Result<String, ConfigError> {
    let config = Config::load(path, None)?;
    let families: Vec<_> = config.families().iter().map(Family::to_string).collect();
    let families = match &families[..] {
        [] => "families as its zone says".to_owned(),
        families => families.join(" and "),
    };
    let homes = match &config.homes.prefixes[..] {
        [] => "what its zone says (APL at _home)".to_owned(),
        prefixes => join(prefixes),
    };
    let others = match &config.locators.prefixes[..] {
        [] => ", all locators in what its zone says (APL at _loc)",
        _ => "",
    };
    let locators = if config.locators.exclusive {
        format!("the addresses of {}", config.uplink)
    } else {
        join(&config.locators.pool)
    };
    let mut text = format!(
        "{}: good\nsite {}, {:?} placement, {families}, uplink {}\nhomes in {homes}\nlocators from {locators}{others}\n",
        path.display(),
        config.site,
        config.placement,
        config.uplink,
    );
    for zone in &config.mapping.zones {
        text += &format!("zone {} at {}", zone.name, join(&zone.servers));
        if !zone.homes.is_empty() {
            text += &format!(" for {}", join(&zone.homes));
        }
        text += &format!(", trust {}, ", zone.trust);
        text += &match &zone.key {
            Some(key) => format!("key {}\n", key.name),
            None => "no key: bindings can be read, not claimed\n".to_owned(),
        };
    }
    if let Some(pair) = &config.pair {
        text += &format!(
            "one of two gateways, {}: on duty when {} is at {}; the other one at {}\n",
            pair.listen, pair.home, pair.locator, pair.peer
        );
    }
    if let Some(address) = config.metrics_listen {
        text += &format!("metrics at {address}");
        if !address.ip().is_loopback() {
            text += ": whoever reaches it learns the homes and their peers";
        }
        text += "\n";
    }
    Ok(text)
}

fn join<T: fmt::Display>(items: &[T]) -> String {
    items
        .iter()
        .map(T::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

fn family_of(prefix: &IpNet) -> Family {
    Family::of(prefix.addr())
}

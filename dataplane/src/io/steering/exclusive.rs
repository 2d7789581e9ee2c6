//! An exclusive locator stays the host's own address; only the packets of open
//! contexts, known by the pair of locators, are led into the TUN.
//!
//! An nftables set holds the pairs. What comes from a peer of the set to the
//! locator paired with it is marked in prerouting, and so are ICMP errors that
//! quote a packet of such a pair, also those this host's own kernel makes where
//! the uplink is the small link: without them path-MTU discovery through the TUN
//! would be blind. The control exchange of a pair takes the same way, or the
//! packets behind a CONFIRM would overtake it; what comes from others reaches
//! the host's socket. Neighbour discovery is left to its kernel.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::io;
use std::net::IpAddr;
use std::process::Stdio;

use mat_proto::Locator;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::plan::STEERED;

/// nftables refused.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The program is missing.
    #[error(
        "nft is missing; an exclusive locator needs it: install nftables (apt-get install nftables)"
    )]
    Missing,
    /// It cannot be run.
    #[error("nft cannot be run: {0}")]
    Run(io::Error),
    /// It says no.
    #[error("nft refused {doing}: {said}; the kernel needs nf_tables, and matd CAP_NET_ADMIN")]
    Refused {
        /// What was asked.
        doing: &'static str,
        /// Its first lines.
        said: String,
    },
}

/// A peer's locator and ours.
pub type Pair = (Locator, Locator);

/// The table of one TUN.
#[derive(Clone, Debug)]
pub struct PairTable {
    name: String,
    tun: String,
}

impl PairTable {
    /// The table that belongs to `tun`; nothing is made yet.
    pub fn new(tun: &str) -> Self {
        let name: String = tun
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
            .collect();
        Self {
            name: format!("mat_{name}"),
            tun: tun.to_owned(),
        }
    }

    /// Makes the table, or brings it up to date; pairs in it stay.
    pub async fn ensure(&self) -> Result<(), NftError> {
        self.run("the table of pairs", &self.skeleton()).await
    }

    /// Makes the table with exactly these pairs, in one step.
    pub async fn replace(&self, pairs: &BTreeSet<Pair>) -> Result<(), NftError> {
        let mut script = self.skeleton();
        for set in ["pairs4", "pairs6", "quoted4", "quoted6"] {
            writeln!(script, "flush set inet {} {set}", self.name).expect("a string grows");
        }
        for pair in pairs {
            script += &self.element("add", *pair);
        }
        self.run("the pairs", &script).await
    }

    /// Steers `pair`.
    pub async fn add(&self, pair: Pair) -> Result<(), NftError> {
        self.run("a pair", &self.element("add", pair)).await
    }

    /// Steers `pair` no more.
    pub async fn remove(&self, pair: Pair) -> Result<(), NftError> {
        // Removing what is not there is an error; added first, it is.
        let script = self.element("add", pair) + &self.element("delete", pair);
        self.run("removing a pair", &script).await
    }

    /// Removes the table if it is there.
    pub async fn destroy(&self) -> Result<(), NftError> {
        let name = &self.name;
        let script = format!("add table inet {name}\ndelete table inet {name}\n");
        match self.run("removing the table", &script).await {
            // Without the program there never was a table.
            Err(NftError::Missing) => Ok(()),
            other => other,
        }
    }

    fn skeleton(&self) -> String {
        let Self { name, tun } = self;
        let errors4 = "icmp type { destination-unreachable, time-exceeded, parameter-problem }";
        let errors6 = "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem }";
        let discovery = "icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, nd-redirect }";
        let mark = format!("meta mark set {STEERED:#x}");
        // The quoted header begins 8 bytes into the error.
        let quoted4 = "@th,160,32 . @th,192,32";
        let quoted6 = "@th,128,128 . @th,256,128";
        format!(
            "add table inet {name}
add set inet {name} pairs4 {{ typeof ip saddr . ip daddr; }}
add set inet {name} pairs6 {{ typeof ip6 saddr . ip6 daddr; }}
add set inet {name} quoted4 {{ typeof {quoted4}; }}
add set inet {name} quoted6 {{ typeof {quoted6}; }}
add chain inet {name} steer {{ type filter hook prerouting priority mangle; policy accept; }}
flush chain inet {name} steer
add rule inet {name} steer iifname \"{tun}\" return
add rule inet {name} steer {discovery} return
add rule inet {name} steer ip saddr . ip daddr @pairs4 {mark}
add rule inet {name} steer ip6 saddr . ip6 daddr @pairs6 {mark}
add rule inet {name} steer {errors4} {quoted4} @quoted4 {mark}
add rule inet {name} steer {errors6} {quoted6} @quoted6 {mark}
add chain inet {name} ours {{ type route hook output priority mangle; policy accept; }}
flush chain inet {name} ours
add rule inet {name} ours {errors4} {quoted4} @quoted4 {mark}
add rule inet {name} ours {errors6} {quoted6} @quoted6 {mark}
"
        )
    }

    /// The pair as packets carry it, and as ICMP errors quote our packets to the
    /// peer. A pair of two families matches nothing and is not worth an error.
    fn element(&self, verb: &str, (peer, own): Pair) -> String {
        let name = &self.name;
        let (version, quoted) = match (peer.ip(), own.ip()) {
            (IpAddr::V4(peer), IpAddr::V4(own)) => {
                let quoted = format!("{:#x} . {:#x}", own.to_bits(), peer.to_bits());
                (4, quoted)
            }
            (IpAddr::V6(peer), IpAddr::V6(own)) => {
                let quoted = format!("{:#x} . {:#x}", own.to_bits(), peer.to_bits());
                (6, quoted)
            }
            _ => return String::new(),
        };
        format!(
            "{verb} element inet {name} pairs{version} {{ {peer} . {own} }}
{verb} element inet {name} quoted{version} {{ {quoted} }}
"
        )
    }

    async fn run(&self, doing: &'static str, script: &str) -> Result<(), NftError> {
        let mut child = Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => NftError::Missing,
                _ => NftError::Run(error),
            })?;
        let mut stdin = child.stdin.take().expect("stdin is piped");
        stdin
            .write_all(script.as_bytes())
            .await
            .map_err(NftError::Run)?;
        drop(stdin);
        let output = child.wait_with_output().await.map_err(NftError::Run)?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr);
        let said = text.lines().take(3).collect::<Vec<_>>().join(" ");
        Err(NftError::Refused { doing, said })
    }
}

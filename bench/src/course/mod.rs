//! One way from sender to receiver, built and shown to work.
//!
//! ```text
//!   left ── eth0 ════ eth0 ── right       two namespaces and one veth: sender and forwarder
//!                                         in one, receiver and forwarder in the other
//! ```
//!
//! Every contender has namespaces and a veth of its own, so that no rule, route or queue of one
//! is in the way of another; those whose turn it is not are idle. Instead of the veth there can be
//! a wide-area link with a round trip of its own.

mod mat;
mod naive;
mod plain;
mod rewrite;
mod vxlan;
mod wireguard;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mat_netns::{Cmd, Host, Lab, Wan, WanConfig, WanCounters, wait_until};
use serde_json::Value;

use crate::contender::{Contender, Kind};
use crate::plan::{Conditions, Family, SetUp};
use crate::tools::Tools;

/// For everything that takes no time unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What moves the packets between the ends.
pub trait Carrier: Send + Sync {
    /// Octets that it has taken from the left end so far, by a count of its own.
    fn carried(&self) -> Result<u64>;

    /// Its processes at both ends, by their ids.
    fn processes(&self) -> Vec<u32> {
        Vec::new()
    }

    /// What it has read from the left end so far, where it counts that.
    fn reads(&self) -> Result<Option<Reads>> {
        Ok(None)
    }
}

/// System calls that read packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reads {
    /// How many.
    pub count: u64,
    /// Octets that they gave.
    pub bytes: u64,
}

/// A contender, ready to run.
pub struct Course {
    /// Who.
    pub contender: &'static Contender,
    /// Version or active packet path.
    pub about: String,
    /// Where the sender is.
    pub left: Host,
    /// Where the receiver is.
    pub right: Host,
    /// The sender's address.
    pub from: &'static str,
    /// The receiver's address.
    pub to: &'static str,
    /// What is in between.
    pub carrier: Box<dyn Carrier>,
    /// Both ends of every veth.
    ports: Vec<(Host, &'static str)>,
    wan: Option<Wan>,
}

/// All that a course is built from.
pub struct Site<'a> {
    /// Owns everything.
    pub lab: &'a Lab,
    /// Where the programs are.
    pub tools: &'a Tools,
    /// Of all addresses.
    pub family: Family,
    /// Of the link between the ends.
    pub conditions: Conditions,
}

/// The addresses of both ends in one network.
struct Pair {
    left: &'static str,
    right: &'static str,
    /// Length of the prefix.
    len: u8,
}

/// Sender's and receiver's namespace, and the link between them.
struct Ends {
    left: Host,
    right: Host,
    wan: Option<Wan>,
}

impl Ends {
    /// A course between addresses of the two.
    fn course(
        self,
        contender: &'static Contender,
        about: String,
        addresses: &Pair,
        carrier: impl Carrier + 'static,
    ) -> Course {
        let Ends { left, right, wan } = self;
        Course {
            contender,
            about,
            from: addresses.left,
            to: addresses.right,
            carrier: Box::new(carrier),
            ports: vec![(left.clone(), "eth0"), (right.clone(), "eth0")],
            left,
            right,
            wan,
        }
    }
}

impl Site<'_> {
    /// Builds it, and sees to it that a ping comes through.
    pub fn build(&self, contender: &'static Contender) -> Result<Course> {
        let course = match contender.kind {
            Kind::Direct => plain::direct(self, contender),
            Kind::Router => plain::router(self, contender),
            Kind::Rewrite => rewrite::build(self, contender),
            Kind::Vxlan => vxlan::build(self, contender),
            Kind::Mat(tun) => mat::build(self, contender, tun),
            Kind::Redirect => mat::redirected(self, contender),
            Kind::Naive => naive::build(self, contender),
            Kind::WireGuard(program) => wireguard::build(self, contender, program),
        }?;
        let what = format!("a ping from {} to {}", course.from, course.to);
        wait_until(PATIENCE, what, || match course.pings() {
            Ok(false) => None,
            answer => Some(answer),
        })??;
        Ok(course)
    }

    /// The two ends of a contender, with addresses and the link between them.
    fn ends(&self, contender: &Contender) -> Result<Ends> {
        let left = self.host(contender, "left")?;
        let right = self.host(contender, "right")?;
        let wan = self.connect((&left, "eth0"), (&right, "eth0"))?;
        let Pair {
            left: a,
            right: b,
            len,
        } = self.underlay();
        left.ip(&format!("addr add {a}/{len} dev eth0 {}", self.nodad()))?;
        right.ip(&format!("addr add {b}/{len} dev eth0 {}", self.nodad()))?;
        Ok(Ends { left, right, wan })
    }

    fn host(&self, contender: &Contender, end: &str) -> Result<Host> {
        let host = self.lab.host(&format!("{}-{end}", contender.id))?;
        if self.conditions.is_far() {
            // The window must not be what limits a stream: 256 MiB are 20 Gbit/s over 100 ms.
            for buffer in ["net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"] {
                host.sysctl(buffer, "4096 131072 268435456")?;
            }
        }
        Ok(host)
    }

    /// A veth, or a wide-area link, which is returned for its counters.
    fn connect(
        &self,
        (a, a_port): (&Host, &str),
        (b, b_port): (&Host, &str),
    ) -> Result<Option<Wan>> {
        if !self.conditions.is_far() {
            self.lab.link(a, a_port, b, b_port)?;
            return Ok(None);
        }
        let far = WanConfig {
            rate_mbit: self.conditions.rate_mbit,
            ..WanConfig::rtt_ms(self.conditions.rtt_ms)
        };
        self.lab.wan(a, a_port, b, b_port, far).map(Some)
    }

    /// Of the veth.
    fn underlay(&self) -> Pair {
        match self.family {
            Family::Ipv4 => Pair {
                left: "198.51.100.2",
                right: "198.51.100.3",
                len: 24,
            },
            Family::Ipv6 => Pair {
                left: "2001:db8:2::2",
                right: "2001:db8:2::3",
                len: 64,
            },
        }
    }

    /// Of tunnels (RFC 2544 for IPv4).
    fn overlay(&self) -> Pair {
        match self.family {
            Family::Ipv4 => Pair {
                left: "198.18.0.2",
                right: "198.18.0.3",
                len: 24,
            },
            Family::Ipv6 => Pair {
                left: "2001:db8:f0::2",
                right: "2001:db8:f0::3",
                len: 64,
            },
        }
    }

    /// Home addresses.
    fn homes(&self) -> Pair {
        match self.family {
            Family::Ipv4 => Pair {
                left: "192.0.2.10",
                right: "192.0.2.20",
                len: 32,
            },
            Family::Ipv6 => Pair {
                left: "2001:db8:1::10",
                right: "2001:db8:1::20",
                len: 128,
            },
        }
    }

    /// On the subnet of the veth, for who needs one address beside the veth's own.
    fn locators(&self) -> Pair {
        match self.family {
            Family::Ipv4 => Pair {
                left: "198.51.100.144",
                right: "198.51.100.160",
                len: 32,
            },
            Family::Ipv6 => Pair {
                left: "2001:db8:2::a00",
                right: "2001:db8:2::b00",
                len: 128,
            },
        }
    }

    /// The word of `ip addr add` that makes an IPv6 address usable at once.
    fn nodad(&self) -> &'static str {
        match self.family {
            Family::Ipv4 => "",
            Family::Ipv6 => "nodad",
        }
    }
}

impl Course {
    /// Changes what the veths carry.
    pub fn set_up(&self, set_up: SetUp) -> Result<()> {
        self.ports
            .iter()
            .try_for_each(|(host, port)| host.features(port, set_up.features()))
    }

    /// Runs a transfer and fails if its octets did not go through the contender.
    pub fn watch<T>(
        &self,
        octets: impl Fn(&T) -> u64,
        transfer: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let before = self.carrier.carried()?;
        let result = transfer()?;
        let (carried, sent) = (self.carrier.carried()? - before, octets(&result));
        ensure!(
            carried >= sent,
            "only {carried} of the {sent} octets that arrived went through it"
        );
        Ok(result)
    }

    /// Frames that a wide-area link has not delivered so far; `None` for a veth.
    pub fn link_drops(&self) -> Option<u64> {
        let wan = self.wan.as_ref()?;
        let dropped = |counters: WanCounters| {
            let line = counters.line;
            line.congested + line.overflowed + counters.overrun + counters.refused
        };
        Some(dropped(wan.counters_to_a()) + dropped(wan.counters_to_b()))
    }

    fn pings(&self) -> Result<bool> {
        let ping = Cmd::new("ping").words("-n -c 1 -W 1 -I");
        let output = self.left.exec(ping.args([self.from, self.to]))?;
        Ok(output.status.success())
    }
}

/// The kernel's count of a device.
struct Device {
    host: Host,
    name: &'static str,
    /// `tx` or `rx`.
    direction: &'static str,
}

impl Carrier for Device {
    fn carried(&self) -> Result<u64> {
        let show = format!("-json -statistics link show dev {}", self.name);
        let json: Value = serde_json::from_str(&self.host.ip(&show)?)?;
        let bytes = json[0]["stats64"][self.direction]["bytes"].as_u64();
        bytes.with_context(|| format!("no count of {} in the output of `ip`", self.name))
    }
}

//! The network, and everything that runs on it.
//!
//! ```text
//! user ── site c ── router ── site a ── web        (the testbed of mat_netns)
//! ```
//!
//! The flow goes from *user* to *web*. Beside their home addresses both have a second address of
//! 198.18.0.0/15 (RFC 2544) or 2001:db8:f0::/48, which the gateways and the router forward by
//! plain routes: the same hosts, the same links, and no forwarder in between. There are two
//! testbeds, alike but for the setting `offload`; the second one idles while the first one works.

use std::collections::BTreeMap;
use std::fmt;
use std::thread::available_parallelism;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mat_netns::testbed::{Instance, Options, Testbed};
use mat_netns::{Cmd, Host, Process};
use serde::Serialize;
use serde_json::Value;

use crate::iperf::{self, Transfer};
use crate::ping;

/// For everything that takes no time unless it hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Of the addresses, and so of every packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// What moves the packets. The first one is the reference of all ratios.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Contender {
    /// Plain routes.
    Kernel,
    /// `matd` as it comes, in native mode.
    Mat,
    /// `matd` with `offload = false`.
    MatWithoutOffload,
}

impl Contender {
    /// In the order of the table.
    pub const ALL: [Contender; 3] = [
        Contender::Kernel,
        Contender::Mat,
        Contender::MatWithoutOffload,
    ];
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Contender::Kernel => "kernel forwarding",
            Contender::Mat => "MAT, native",
            Contender::MatWithoutOffload => "MAT, native, `offload = false`",
        })
    }
}

/// What the links between sites and router carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Links {
    /// Packets of up to 64 KiB, as between two machines of one host.
    SuperPackets,
    /// Packets of at most the MTU, as on a wire: cut by the sending device, gathered by the
    /// receiving one.
    Wire,
}

impl Links {
    /// In the order of the table.
    pub const ALL: [Links; 2] = [Links::SuperPackets, Links::Wire];

    /// Words for `ethtool -K`.
    fn features(self) -> &'static str {
        match self {
            Links::SuperPackets => "tso on gso on gro off",
            Links::Wire => "tso off gso off gro on",
        }
    }
}

impl fmt::Display for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Links::SuperPackets => "super-packets on the links",
            Links::Wire => "1500-byte packets on the links",
        })
    }
}

/// All contenders, ready to run.
pub struct Courses {
    family: Family,
    offload: Course,
    plain: Course,
}

impl Courses {
    /// Builds the networks, starts the programs, and sees to it that every path works.
    pub fn new(family: Family) -> Result<Self> {
        let courses = Courses {
            family,
            offload: Course::new(true)?,
            plain: Course::new(false)?,
        };
        for contender in Contender::ALL {
            let us = courses.ping(contender, 3)?;
            ensure!(!us.is_empty(), "{contender}: no ping came through");
        }
        Ok(courses)
    }

    /// What the forwarders say about their packet path.
    pub fn paths(&self) -> Result<BTreeMap<Contender, String>> {
        let mut paths = BTreeMap::new();
        for contender in [Contender::Mat, Contender::MatWithoutOffload] {
            let report = self.course(contender).report()?;
            let path = report["path"].as_str().context("no `path` in the report")?;
            paths.insert(contender, path.to_owned());
        }
        Ok(paths)
    }

    /// Changes what the links carry.
    pub fn set_links(&self, links: Links) -> Result<()> {
        for course in [&self.offload, &self.plain] {
            let bed = &course.bed;
            for (host, device) in [
                (&bed.site("a").host, "eth0"),
                (&bed.router, "a"),
                (&bed.router, "c"),
                (&bed.site("c").host, "eth0"),
            ] {
                let ethtool = Cmd::new("ethtool").args(["-K", device]);
                host.run(ethtool.words(links.features()))?;
            }
        }
        Ok(())
    }

    /// One TCP flow. Fails if it took another path than that of the contender.
    pub fn flow(&self, contender: Contender, seconds: u32) -> Result<Transfer> {
        let course = self.course(contender);
        let (from, to) = self.ends(contender);
        let before = course.rewritten()?;
        let transfer = course.iperf(from, to, seconds);
        let transfer = transfer.with_context(|| contender.to_string())?;
        let rewritten = course.rewritten()? - before;
        match contender {
            Contender::Kernel => ensure!(
                rewritten < transfer.bytes / 100,
                "{contender}: the forwarder rewrote {rewritten} octets of the flow"
            ),
            Contender::Mat | Contender::MatWithoutOffload => ensure!(
                rewritten >= transfer.bytes,
                "{contender}: the forwarder rewrote only {rewritten} of {} octets",
                transfer.bytes
            ),
        }
        Ok(transfer)
    }

    /// Round trips in microseconds, 2 ms apart.
    pub fn ping(&self, contender: Contender, count: u32) -> Result<Vec<f64>> {
        let (from, to) = self.ends(contender);
        let ping = Cmd::new("ping").words("-n -i 0.002 -W 1").args([
            "-c",
            &count.to_string(),
            "-I",
            from,
            to,
        ]);
        let output = self.course(contender).user.host.exec(ping)?;
        Ok(ping::round_trips_us(&String::from_utf8_lossy(
            &output.stdout,
        )))
    }

    /// Keeps the processors from halting until [`Awake::end`], or else the time they take to wake
    /// up is most of a round trip.
    pub fn keep_awake(&self) -> Result<Awake> {
        let host = &self.offload.user.host;
        let spinner = || {
            let spin = ["--idle", "0", "sh", "-c", "while :; do :; done"];
            host.spawn(Cmd::new("chrt").args(spin))
        };
        let spinners = (0..available_parallelism()?.get()).map(|_| spinner());
        Ok(Awake(spinners.collect::<Result<_>>()?))
    }

    /// Removes everything, and says whether it could.
    pub fn end(self) -> Result<()> {
        self.offload.bed.lab.end()?;
        self.plain.bed.lab.end()
    }

    fn course(&self, contender: Contender) -> &Course {
        match contender {
            Contender::Kernel | Contender::Mat => &self.offload,
            Contender::MatWithoutOffload => &self.plain,
        }
    }

    /// Addresses of user and web.
    fn ends(&self, contender: Contender) -> (&str, &str) {
        let Course { user, web, .. } = self.course(contender);
        match (contender, self.family) {
            (Contender::Kernel, Family::Ipv4) => (USER.v4, WEB.v4),
            (Contender::Kernel, Family::Ipv6) => (USER.v6, WEB.v6),
            (_, Family::Ipv4) => (&user.home, &web.home),
            (_, Family::Ipv6) => (&user.home6, &web.home6),
        }
    }
}

/// Processes of lowest priority that leave no processor idle.
pub struct Awake(Vec<Process>);

impl Awake {
    /// Lets them halt again.
    pub fn end(self) -> Result<()> {
        for spinner in self.0 {
            spinner.stop(PATIENCE)?;
        }
        Ok(())
    }
}

/// The addresses that plain routes lead to.
struct Plain {
    v4: &'static str,
    v6: &'static str,
}

const USER: Plain = Plain {
    v4: "198.18.2.20",
    v6: "2001:db8:f0:2::20",
};
const WEB: Plain = Plain {
    v4: "198.18.1.10",
    v6: "2001:db8:f0:1::10",
};

struct Course {
    bed: Testbed,
    web: Instance,
    user: Instance,
}

impl Course {
    fn new(offload: bool) -> Result<Self> {
        let bed = Testbed::new(Options {
            extra: format!("[tun]\noffload = {offload}\n"),
            ..Options::new()?
        })?;
        let web = bed.instance("web", 10, "a")?;
        let user = bed.instance("user", 20, "c")?;
        plain_routes(&bed, "a", &web, &WEB)?;
        plain_routes(&bed, "c", &user, &USER)?;
        Ok(Course { bed, web, user })
    }

    fn iperf(&self, from: &str, to: &str, seconds: u32) -> Result<Transfer> {
        let server = self
            .web
            .host
            .spawn("iperf3 --server --one-off --forceflush")?;
        server.wait_for_log("listening", PATIENCE)?;
        let client = Cmd::new("iperf3")
            .args([
                "--client",
                to,
                "--bind",
                from,
                "--time",
                &seconds.to_string(),
            ])
            .words("--congestion cubic --json")
            .timeout(Duration::from_secs(seconds.into()) + PATIENCE);
        let output = self.user.host.exec(client)?;
        let transfer = iperf::read(&String::from_utf8_lossy(&output.stdout))?;
        server.wait_success(PATIENCE)?;
        Ok(transfer)
    }

    /// Octets that the forwarder of *user* has rewritten on their way out.
    fn rewritten(&self) -> Result<u64> {
        let report = self.report()?;
        let contexts = report["contexts"].as_array();
        let contexts = contexts.context("no `contexts` in the report")?;
        Ok(contexts
            .iter()
            .filter_map(|c| c["sent"]["bytes"].as_u64())
            .sum())
    }

    /// What the forwarder of *user* says about itself.
    fn report(&self) -> Result<Value> {
        let text = self.bed.matctl("c", &["status", "--json"])?;
        let mut status: Value = serde_json::from_str(&text).context("matctl status --json")?;
        Ok(status["sites"][0]["report"].take())
    }
}

/// Gives an instance a second address and leads plain routes there.
fn plain_routes(bed: &Testbed, site: &str, instance: &Instance, plain: &Plain) -> Result<()> {
    let Plain { v4, v6 } = plain;
    let site = bed.site(site);
    let apply = |host: &Host, lines: String| host.ip(&lines).map(drop);
    apply(
        &instance.host,
        format!(
            "addr add {v4}/32 dev eth0
             addr add {v6}/128 dev eth0 nodad"
        ),
    )?;
    apply(
        &site.host,
        format!(
            "route add {v4}/32 dev {port}
             route add {v6}/128 dev {port}",
            port = instance.interface
        ),
    )?;
    // Before the rules of the forwarder, which take all that an instance sends. Not in a batch,
    // which knows one family only.
    for (family, ip) in [("-4", v4), ("-6", v6)] {
        let rule = format!("{family} rule add pref 500 from {ip} lookup main");
        apply(&site.host, rule)?;
    }
    apply(
        &bed.router,
        format!(
            "route add {v4}/32 via {}
             route add {v6}/128 via {}",
            site.spec.gateway(),
            site.spec.gateway6()
        ),
    )
}

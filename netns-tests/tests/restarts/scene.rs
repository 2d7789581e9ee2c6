//! A transfer over both families between two sites, and watches over what must not be seen
//! meanwhile.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mat_netns::Signal;
use mat_netns::testbed::{Instance, Options, Testbed};
use serde_json::Value;

use mat_netns::testbed::{Transfer, serve};
use mat_netns::watch::{LEAKS, RESETS, Watch};

const SOON: Duration = Duration::from_secs(10);
/// Fast enough to be in the middle of something at any time, slow enough to leave the machine to
/// the programs that start.
const PACE: &str = "--tcp-rate-mbps 100";

/// A transfer that has not moved for so long stands still.
pub const STILL_MS: u64 = 400;

/// web at site a, user at site c, transfers between them over both families, and watches over
/// what they and the router see.
pub struct Scene {
    pub bed: Testbed,
    pub web: Instance,
    pub user: Instance,
    transfers: [(&'static str, Transfer); 2],
    ends: [Watch; 2],
    router: Watch,
}

impl Scene {
    pub fn new() -> Result<Self> {
        Self::on(Testbed::new(Options::new()?)?)
    }

    pub fn on(bed: Testbed) -> Result<Self> {
        let web = bed.instance("web", 10, "a")?;
        let user = bed.instance("user", 20, "c")?;
        let _server = serve(&bed, &web.host)?;
        Ok(Scene {
            transfers: Transfer::both(&bed, &user, &web, PACE)?,
            ends: [
                Watch::on(&web.host, &[RESETS])?,
                Watch::on(&user.host, &[RESETS])?,
            ],
            router: Watch::on(&bed.router, &LEAKS)?,
            bed,
            web,
            user,
        })
    }

    pub fn flows(&self) -> Result<()> {
        self.transfers
            .iter()
            .try_for_each(|(_, transfer)| transfer.flows())
    }

    /// Waits until nothing has flowed for a while, in either direction.
    pub fn stands_still(&self) -> Result<()> {
        let stands = |line: &Value| {
            let quiet = |name: &str| line[name].as_u64().is_some_and(|ms| ms >= STILL_MS);
            quiet("up_quiet_ms") && quiet("down_quiet_ms")
        };
        self.transfers
            .iter()
            .try_for_each(|(_, transfer)| transfer.wait("it to stand still", stands))
    }

    /// The forwarder of `site` is away until the transfers have long noticed.
    pub fn interrupt(&mut self, site: &str, signal: Signal) -> Result<()> {
        let matd = self.bed.site(site).matd.clone();
        matd.signal(signal)?;
        let status = matd.wait(SOON)?;
        ensure!(status.success() || signal == Signal::SIGKILL, "{status}");
        self.stands_still()
    }

    fn nobody_heard_a_reset(&self) -> Result<()> {
        for (end, name) in self.ends.iter().zip(["web", "user"]) {
            let resets = end.count(RESETS.0)?;
            ensure!(resets == 0, "{resets} resets at {name}");
        }
        Ok(())
    }

    pub fn nothing_leaked(&self) -> Result<()> {
        for (name, condition) in LEAKS {
            let leaked = self.router.count(name)?;
            ensure!(
                leaked == 0,
                "{leaked} packets on the uplinks with {condition}"
            );
        }
        Ok(())
    }

    /// Provokes what the watches have not seen: they would have.
    fn the_watches_are_not_blind(&self) -> Result<()> {
        let closed = SocketAddr::new(self.web.home.parse()?, 9);
        let refused = self
            .user
            .host
            .enter(|| TcpStream::connect_timeout(&closed, SOON))?;
        ensure!(refused.is_err(), "port 9 is open");
        for end in &self.ends {
            ensure!(end.count(RESETS.0)? > 0, "a watch does not see resets");
        }
        let router = &self.bed.router;
        router.ip("addr add 192.0.2.250/32 dev lo
             addr add 2001:db8:1::250/128 dev lo nodad")?;
        for (from, to) in [
            ("192.0.2.250", self.bed.site("a").spec.gateway()),
            ("2001:db8:1::250", self.bed.site("a").spec.gateway6()),
        ] {
            // The answer does not matter.
            router.exec(format!("ping -c 1 -W 0.2 -I {from} {to}"))?;
        }
        for name in ["home4", "home6"] {
            ensure!(
                self.router.count(name)? > 0,
                "the router's watch does not see {name}"
            );
        }
        Ok(())
    }

    pub fn finish(self, what: &str) -> Result<()> {
        self.finish_and_judge(what, |_| Ok(()))
    }

    /// Ends everything; `judge` looks at the report of each transfer.
    pub fn finish_and_judge(self, what: &str, judge: impl Fn(&Value) -> Result<()>) -> Result<()> {
        self.nobody_heard_a_reset()?;
        self.the_watches_are_not_blind()?;
        for (family, transfer) in self.transfers {
            let what = format!("{what}, {family}");
            judge(&transfer.finish(&what)?).context(what)?;
        }
        self.bed.lab.end()
    }
}

//! `matd` goes away in the middle of a transfer and comes back.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mat_netns::Signal;
use mat_netns::testbed::{Instance, Options, SITES, Testbed};

use serde_json::Value;

use crate::transfer::{Transfer, serve};
use crate::watch::{RESETS, Watch};

const SOON: Duration = Duration::from_secs(10);
/// Fast enough to be in the middle of something at any time, slow enough to leave the machine to
/// the programs that start.
const PACE: &str = "--tcp-rate-mbps 100";

/// A transfer that has not moved for so long stands still.
const STILL_MS: u64 = 400;

/// What must never be seen on a site's uplink: packets that nobody has rewritten, and the kernel's
/// own opinion of packets it could not deliver.
const LEAKS: [(&str, &str); 4] = [
    ("home4", "ip saddr 192.0.2.0/24"),
    ("home6", "ip6 saddr 2001:db8:1::/64"),
    (
        "errors4",
        "icmp type { destination-unreachable, redirect, time-exceeded, parameter-problem }",
    ),
    (
        "errors6",
        "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem, \
         nd-redirect }",
    ),
];

/// web at site a, user at site c, transfers between them over both families, and watches over
/// what they and the router see.
struct Scene {
    bed: Testbed,
    web: Instance,
    user: Instance,
    transfers: [(&'static str, Transfer); 2],
    ends: [Watch; 2],
    router: Watch,
}

impl Scene {
    fn new() -> Result<Self> {
        let bed = Testbed::new(Options::new()?)?;
        let web = bed.instance("web", 10, "a")?;
        let user = bed.instance("user", 20, "c")?;
        let _server = serve(&bed, &web.host)?;
        Ok(Scene {
            transfers: [
                ("IPv4", Transfer::start(&bed, &user.host, &web.home, PACE)?),
                ("IPv6", Transfer::start(&bed, &user.host, &web.home6, PACE)?),
            ],
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

    fn flows(&self) -> Result<()> {
        self.transfers
            .iter()
            .try_for_each(|(_, transfer)| transfer.flows())
    }

    /// Waits until nothing has flowed for a while, in either direction.
    fn stands_still(&self) -> Result<()> {
        let stands = |line: &Value| {
            let quiet = |name: &str| line[name].as_u64().is_some_and(|ms| ms >= STILL_MS);
            quiet("up_quiet_ms") && quiet("down_quiet_ms")
        };
        self.transfers
            .iter()
            .try_for_each(|(_, transfer)| transfer.wait("it to stand still", stands))
    }

    /// The forwarder of `site` is away until the transfers have long noticed.
    fn interrupt(&mut self, site: &str, signal: Signal) -> Result<()> {
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

    fn nothing_leaked(&self) -> Result<()> {
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

    fn finish(self, what: &str) -> Result<()> {
        self.nobody_heard_a_reset()?;
        self.the_watches_are_not_blind()?;
        for (family, transfer) in self.transfers {
            transfer.finish(&format!("{what}, {family}"))?;
        }
        self.bed.lab.end()
    }
}

fn a_restart_loses_no_connection(signal: Signal) -> Result<()> {
    let mut scene = Scene::new()?;
    // The site of the server, then the peer's.
    for site in ["a", "c"] {
        scene.interrupt(site, signal)?;
        scene
            .nothing_leaked()
            .context(format!("while matd of {site} was away"))?;
        scene.bed.restart_matd(site)?;
        scene
            .flows()
            .context(format!("after matd of {site} was started again"))?;
    }
    scene.nothing_leaked()?;
    scene.finish(&format!("matd restarted after {signal}"))
}

#[test]
fn a_forwarder_killed_in_mid_transfer_and_started_again_loses_no_connection() -> Result<()> {
    a_restart_loses_no_connection(Signal::SIGKILL)
}

#[test]
fn a_forwarder_stopped_in_mid_transfer_and_started_again_loses_no_connection() -> Result<()> {
    a_restart_loses_no_connection(Signal::SIGTERM)
}

/// Without its state file the forwarder knows neither instance nor context. Once the instance is
/// attached again, packets in the middle of a stream come from a peer it has never heard of: it
/// has to ask for a new context before it delivers them.
fn a_cold_forwarder_opens_contexts_anew(site: &str) -> Result<()> {
    let mut scene = Scene::new()?;
    let instance = if site == "a" { &scene.web } else { &scene.user }.clone();
    scene.interrupt(site, Signal::SIGKILL)?;
    let state = scene.bed.lab.dir().join(format!("state-{site}/state.json"));
    fs::remove_file(&state).with_context(|| state.display().to_string())?;
    scene.bed.restart_matd(site)?;
    ensure!(scene.bed.home_state(site, &instance.home)? == "not attached");
    scene.bed.attach(&instance, site, &[])?;
    scene.flows()?;
    scene.finish(&format!("cold forwarder at {site}"))
}

#[test]
fn a_cold_forwarder_of_the_server_opens_contexts_anew() -> Result<()> {
    a_cold_forwarder_opens_contexts_anew("a")
}

#[test]
fn a_cold_forwarder_of_the_peer_opens_contexts_anew() -> Result<()> {
    a_cold_forwarder_opens_contexts_anew("c")
}

#[test]
fn all_forwarders_killed_at_once_and_started_again_lose_no_connection() -> Result<()> {
    let mut scene = Scene::new()?;
    for site in SITES {
        scene.bed.site(site.name).matd.kill()?;
    }
    scene.stands_still()?;
    scene.nothing_leaked()?;
    for site in SITES {
        scene.bed.restart_matd(site.name)?;
    }
    scene.flows()?;
    scene.nothing_leaked()?;
    // They remember enough to move the instance.
    scene.bed.move_instance(&scene.web, "b")?;
    scene.flows()?;
    scene.finish("all forwarders killed")
}

#[test]
fn the_old_site_may_die_as_soon_as_the_instance_has_left() -> Result<()> {
    let mut scene = Scene::new()?;
    scene.bed.move_instance(&scene.web, "b")?;
    scene.bed.site("a").matd.kill()?;
    scene.flows()?;
    scene.bed.restart_matd("a")?;
    // It has forgotten that it was left, and serves nothing: the record names another place.
    for home in [&scene.web.home, &scene.web.home6] {
        let state = scene.bed.home_state("a", home)?;
        ensure!(state != "serving", "{home} is {state} at a");
    }
    scene.flows()?;
    scene.bed.move_instance(&scene.web, "c")?;
    scene.flows()?;
    scene.finish("the old site died")
}

#[test]
fn a_move_to_a_site_whose_forwarder_is_dead_changes_nothing() -> Result<()> {
    let mut scene = Scene::new()?;
    scene.bed.site("b").matd.kill()?;
    let said = match scene.bed.move_instance(&scene.web, "b") {
        Ok(said) => anyhow::bail!("moved to nobody: {said}"),
        Err(error) => format!("{error:#}"),
    };
    println!("{said}");
    ensure!(said.contains("site b: no forwarder answers"), "{said}");
    scene.flows()?;
    scene.bed.restart_matd("b")?;
    scene.bed.move_instance(&scene.web, "b")?;
    scene.flows()?;
    scene.nothing_leaked()?;
    scene.finish("the new site was dead")
}

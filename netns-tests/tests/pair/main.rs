//! Two gateways at one site, on one uplink and one network of instances: one is on duty, the
//! other one takes over, and no connection breaks.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mat_netns::testbed::{Instance, Options, Testbed, Transfer, serve};
use mat_netns::{Cmd, Host, Process, Signal, wait_until};
use serde_json::Value;

/// The longest that a site may be without a gateway.
const TAKEN_OVER: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(15);
/// With or without somebody who stands by.
const ON_DUTY: [&str; 2] = ["active", "alone"];
/// Of the pair; no instance has it.
const HOME: &str = "192.0.2.250";
const SECRET: &str = "cGFpcnBhaXJwYWlycGFpcnBhaXJwYWlycGFpcnBhaXI=";

/// One of the two.
struct Gateway {
    host: Host,
    name: &'static str,
    config: std::path::PathBuf,
    socket: std::path::PathBuf,
    /// Where the switches have it: of the uplink, and of the instances.
    ports: [(Host, &'static str); 2],
    matd: Option<Process>,
}

/// Site a with two gateways, `web` behind both, and `user` behind the gateway of site c.
struct Scene {
    one: Gateway,
    two: Gateway,
    web: Instance,
    user: Instance,
    bed: Testbed,
}

impl Scene {
    /// The first gateway is on duty.
    fn new() -> Result<Self> {
        let bed = Testbed::new(Options::new()?)?;
        let first = bed.site("a");
        first.matd.stop(PATIENCE)?;
        let (router, spec) = (&bed.router, first.spec);
        let second = bed.lab.host("site-a2")?;
        bed.lab.link(&second, "eth0", router, "a2")?;
        // Where the router had one gateway it has a switch with two.
        router.ip("addr flush dev a")?;
        router.bridge("uplink", &["a", "a2"])?;
        router.ip("addr add 198.51.100.1/26 dev uplink
             addr add 2001:db8:a::1/64 dev uplink nodad")?;
        second.ip("addr add 198.51.100.3/26 dev eth0
             addr add 2001:db8:a::3/64 dev eth0 nodad
             route add default via 198.51.100.1
             route add default via 2001:db8:a::1")?;
        let lan = bed.lab.host("lan")?;
        bed.lab.link(&first.host, "lan0", &lan, "p1")?;
        bed.lab.link(&second, "lan0", &lan, "p2")?;
        let host = bed.lab.host("web")?;
        bed.lab.link(&host, "eth0", &lan, "p3")?;
        lan.bridge("switch", &["p1", "p2", "p3"])?;
        let web = Instance {
            name: "web".to_owned(),
            host,
            home: "192.0.2.10".to_owned(),
            home6: "2001:db8:1::10".to_owned(),
            interface: "lan0".to_owned(),
        };
        web.host.ip("addr add 192.0.2.10/32 dev eth0
             addr add 2001:db8:1::10/128 dev eth0 nodad
             route add 169.254.1.1 dev eth0 scope link
             route add default via 169.254.1.1
             route add default via fe80::1 dev eth0")?;
        let user = bed.instance("user", 20, "c")?;
        let common = std::fs::read_to_string(&first.config)?;
        let gateway = |host: &Host, name: &'static str, n: u8, ports: [&'static str; 2]| {
            let socket = bed.lab.dir().join(format!("{name}.sock"));
            let state = bed.lab.dir().join(format!("state-{name}"));
            let own =
                |line: &&str| !line.starts_with("control_socket") && !line.starts_with("state_dir");
            let common: Vec<&str> = common.lines().filter(own).collect();
            let other = 5 - n;
            let text = format!(
                "control_socket = {socket:?}\nstate_dir = {state:?}\n{}\n\
                 [pair]\nhome = \"{HOME}\"\nlocator = \"198.18.0.{n}\"\n\
                 listen = \"198.51.100.{n}:6284\"\npeer = \"198.51.100.{other}:6284\"\n\
                 secret = \"{SECRET}\"\n",
                common.join("\n")
            );
            anyhow::Ok(Gateway {
                host: host.clone(),
                name,
                config: bed.lab.write(&format!("{name}.toml"), text)?,
                socket,
                ports: [(router.clone(), ports[0]), (lan.clone(), ports[1])],
                matd: None,
            })
        };
        ensure!(
            spec.gateway() == "198.51.100.2",
            "the gateways are .2 and .3"
        );
        let one = gateway(&first.host, "one", 2, ["a", "p1"])?;
        let two = gateway(&second, "two", 3, ["a2", "p2"])?;
        let mut scene = Scene {
            one,
            two,
            web,
            user,
            bed,
        };
        scene.one.start(&scene.bed)?;
        scene.one.waits_to_be(&ON_DUTY, &scene.bed)?;
        scene.two.start(&scene.bed)?;
        scene.two.waits_to_be(&["standby"], &scene.bed)?;
        for home in [&scene.web.home, &scene.web.home6] {
            let words = ["attach", home, "--interface", "lan0"];
            scene.one.matctl(&scene.bed, &words)?;
        }
        Ok(scene)
    }

    /// A transfer over each family, from outside to the instance behind the two.
    fn transfers(&self) -> Result<[(&'static str, Transfer); 2]> {
        serve(&self.bed, &self.web.host)?;
        Transfer::both(&self.bed, &self.user, &self.web, "")
    }
}

impl Gateway {
    fn start(&mut self, bed: &Testbed) -> Result<()> {
        let matd = Cmd::new(bed.options().binaries.join("matd"))
            .arg("--config")
            .arg(&self.config)
            .name(format!("matd-{}", self.name));
        self.matd = Some(self.host.spawn(matd)?);
        Ok(())
    }

    fn matd(&self) -> Result<&Process> {
        self.matd.as_ref().context("it was started")
    }

    fn matctl(&self, bed: &Testbed, args: &[&str]) -> Result<String> {
        let matctl = Cmd::new(bed.options().binaries.join("matctl"));
        self.host
            .run(matctl.args(args).arg("--socket").arg(&self.socket))
    }

    fn duty(&self, bed: &Testbed) -> Result<String> {
        let status: Value = serde_json::from_str(&self.matctl(bed, &["status", "--json"])?)?;
        let duty = &status["sites"][0]["report"]["duty"];
        Ok(duty.as_str().context("no duty")?.to_owned())
    }

    /// One of `duties`, as its status has them.
    fn waits_to_be(&self, duties: &[&str], bed: &Testbed) -> Result<()> {
        let what = format!("{} to be {}", self.name, duties.join(" or "));
        let reached = wait_until(PATIENCE, what, || {
            duties.contains(&&*self.duty(bed).ok()?).then_some(())
        });
        reached.with_context(|| self.matd().map(Process::log_tail).unwrap_or_default())
    }

    /// Nothing reaches it and it reaches nobody, or again.
    fn plugged(&self, is: bool) -> Result<()> {
        let state = if is { "up" } else { "down" };
        for (switch, port) in &self.ports {
            switch.ip(&format!("link set dev {port} {state}"))?;
        }
        Ok(())
    }

    /// What everybody on the instances' network takes for their gateway: its MAC address, and
    /// what is made from it. Of two machines with the same, a switch knows one.
    fn is_the_gateway(&self) -> Result<bool> {
        let there = self.host.ip("address show lan0")?;
        Ok(there.contains("02:4d:41:54:00:01") || there.contains("fe80::4d:41ff:fe54:1"))
    }

    /// Whether its kernel still knows anything of a forwarder's.
    fn has_device(&self) -> Result<bool> {
        Ok(self.host.ip("link show")?.contains("mat0"))
    }
}

fn flow(transfers: &[(&'static str, Transfer); 2]) -> Result<()> {
    transfers
        .iter()
        .try_for_each(|(_, transfer)| transfer.flows())
}

fn finish(transfers: [(&'static str, Transfer); 2], what: &str) -> Result<()> {
    for (family, transfer) in transfers {
        transfer.finish(&format!("{what}, {family}"))?;
    }
    Ok(())
}

#[test]
fn the_other_one_takes_over_from_a_machine_that_is_dead() -> Result<()> {
    let mut scene = Scene::new()?;
    let transfers = scene.transfers()?;
    scene.one.plugged(false)?;
    scene.one.matd()?.kill()?;
    let died = Instant::now();
    scene.two.waits_to_be(&ON_DUTY, &scene.bed)?;
    flow(&transfers)?;
    let took = died.elapsed();
    println!("data flows again after {took:.1?}");
    ensure!(
        took < TAKEN_OVER + Duration::from_secs(2),
        "{took:?}: TCP's own pause included"
    );

    // It comes back as what it is now, and nothing of its earlier life is in the way.
    scene.one.plugged(true)?;
    scene.one.start(&scene.bed)?;
    scene.one.waits_to_be(&["standby"], &scene.bed)?;
    ensure!(
        !scene.one.has_device()?,
        "the TUN of its earlier life is there"
    );
    flow(&transfers)?;

    // Stopped, the other one gives the duty back, at once.
    scene.two.waits_to_be(&["active"], &scene.bed)?;
    scene.two.matd()?.signal(Signal::SIGTERM)?;
    scene.one.waits_to_be(&ON_DUTY, &scene.bed)?;
    ensure!(scene.two.matd()?.wait(PATIENCE)?.success());
    ensure!(!scene.two.has_device()?, "its TUN is still there");
    flow(&transfers)?;
    finish(transfers, "one of two gateways dies")?;
    scene.bed.lab.end()
}

#[test]
fn a_forwarder_that_dies_alone_is_replaced_or_goes_on() -> Result<()> {
    let mut scene = Scene::new()?;
    let transfers = scene.transfers()?;
    // Restarted at once it goes on.
    scene.one.matd()?.kill()?;
    scene.one.start(&scene.bed)?;
    scene.one.waits_to_be(&ON_DUTY, &scene.bed)?;
    flow(&transfers)?;
    ensure!(scene.two.duty(&scene.bed)? == "standby");
    // And if nobody starts it, its kernel alone keeps nothing.
    scene.one.matd()?.kill()?;
    scene.two.waits_to_be(&ON_DUTY, &scene.bed)?;
    flow(&transfers)?;
    finish(transfers, "its forwarder dies")?;
    scene.bed.lab.end()
}

/// While the mapping service is away the one on duty is stopped and started, and the one that
/// stands by stays what it is.
#[test]
fn without_the_mapping_service_the_one_on_duty_stays_on_duty() -> Result<()> {
    let mut scene = Scene::new()?;
    let transfers = scene.transfers()?;
    scene.bed.mapd.kill()?;
    // Its last answer is to be no recommendation any more.
    let silent = |log: String| log.contains("who is on duty is not known");
    wait_until(PATIENCE, "the gateways to miss the mapping service", || {
        let logs = [&scene.one, &scene.two].map(|gateway| gateway.matd().map(Process::log));
        let [one, two] = logs;
        (silent(one.ok()?) && silent(two.ok()?)).then_some(())
    })?;
    scene.one.matd()?.stop(PATIENCE)?;
    scene.one.start(&scene.bed)?;
    scene.one.waits_to_be(&ON_DUTY, &scene.bed)?;
    flow(&transfers)?;
    ensure!(scene.two.duty(&scene.bed)? == "standby");
    scene.bed.restart_mapd()?;
    flow(&transfers)?;
    finish(transfers, "the mapping service is away")?;
    scene.bed.lab.end()
}

#[test]
fn the_record_says_who_is_on_duty() -> Result<()> {
    let scene = Scene::new()?;
    let transfers = scene.transfers()?;
    let config = scene.bed.matctl_config(&[])?;
    let matctl = |words: &[&str]| {
        let matctl = Cmd::new(scene.bed.options().binaries.join("matctl"));
        scene
            .bed
            .map
            .run(matctl.args(words).arg("--config").arg(&config))
    };
    ensure!(matctl(&["map", "get", HOME])?.contains("198.18.0.2"));
    matctl(&["map", "set", HOME, "198.18.0.3"])?;
    scene.two.waits_to_be(&ON_DUTY, &scene.bed)?;
    scene.one.waits_to_be(&["standby"], &scene.bed)?;
    ensure!(scene.two.is_the_gateway()? && !scene.one.is_the_gateway()?);
    flow(&transfers)?;
    // What the one on duty learns, the other one knows when it is on duty again.
    let status = scene.two.matctl(&scene.bed, &["status"])?;
    ensure!(status.contains("192.0.2.10"), "{status}");
    matctl(&["map", "set", HOME, "198.18.0.2"])?;
    scene.one.waits_to_be(&ON_DUTY, &scene.bed)?;
    scene.two.waits_to_be(&["standby"], &scene.bed)?;
    ensure!(scene.one.is_the_gateway()? && !scene.two.is_the_gateway()?);
    flow(&transfers)?;
    finish(transfers, "the duty is handed to and fro")?;
    scene.bed.lab.end()
}

//! What is left behind, and what stays on purpose.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use mat_netns::testbed::{HOMES, Options, Testbed};
use mat_netns::{Cmd, Host, Signal};

const SOON: Duration = Duration::from_secs(10);

/// Everything of the kernel's that a forwarder changes, as `ip` shows it.
#[derive(Debug, PartialEq)]
struct Traces {
    links: String,
    addresses: String,
    routes: [String; 2],
    rules: [String; 2],
    proxies: [String; 2],
    settings: Vec<String>,
    features: String,
}

impl Traces {
    fn of(host: &Host) -> Result<Self> {
        let both = |words: &str| -> Result<[String; 2]> {
            Ok([host.ip(words)?, host.ip(&format!("-6 {words}"))?])
        };
        let settings = [
            "net.ipv4.ip_forward",
            "net.ipv4.conf.all.rp_filter",
            "net.ipv6.conf.all.forwarding",
            "net.ipv6.conf.eth0.proxy_ndp",
            "net.ipv4.neigh.eth0.proxy_delay",
            "net.ipv6.neigh.eth0.proxy_delay",
            "net.ipv4.conf.eth0.arp_ignore",
        ];
        Ok(Traces {
            links: host.run("ip -br link")?,
            addresses: host.run("ip -br address")?,
            routes: both("route show table all")?.map(|text| without_lifetimes(&text)),
            rules: both("rule show")?,
            proxies: both("neigh show proxy")?,
            settings: settings
                .iter()
                .map(|key| Ok(format!("{key}={}", host.sysctl_get(key)?)))
                .collect::<Result<_>>()?,
            features: host.run("ethtool --show-features eth0")?,
        })
    }
}

/// Without what the kernel learns and forgets by itself.
fn without_lifetimes(routes: &str) -> String {
    let lasting = routes.lines().filter(|route| !route.contains("expires"));
    lasting.map(|route| route.to_owned() + "\n").collect()
}

/// A gateway before its forwarder was ever started, but for what the kernel does by itself.
fn untouched(bed: &mut Testbed) -> Result<Traces> {
    stop(bed, Signal::SIGTERM)?;
    Traces::of(&bed.site("b").host)
}

fn stop(bed: &Testbed, signal: Signal) -> Result<()> {
    let matd = &bed.site("b").matd;
    matd.signal(signal)?;
    let status = matd.wait(SOON)?;
    ensure!(status.success() || signal == Signal::SIGKILL, "{status}");
    Ok(())
}

fn matd(bed: &Testbed, words: &str) -> Cmd {
    Cmd::new(bed.options().binaries.join("matd"))
        .arg("--config")
        .arg(&bed.site("b").config)
        .words(words)
}

#[test]
fn a_forwarder_with_nothing_attached_leaves_nothing() -> Result<()> {
    let bed = Testbed::new(Options::new()?)?;
    let host = &bed.site("b").host;
    let running = Traces::of(host)?;
    ensure!(running.links.contains("mat0"), "{running:#?}");
    stop(&bed, Signal::SIGTERM)?;
    let stopped = Traces::of(host)?;
    ensure!(!stopped.links.contains("mat0"), "{stopped:#?}");
    let routes = stopped.routes.concat();
    for word in ["mat0", "blackhole", HOMES[0], HOMES[1], "table 100"] {
        ensure!(!routes.contains(word), "{word} in {routes}");
    }
    let rules = stopped.rules.each_ref().map(|rules| rules.lines().count());
    // local, main, default; IPv6 has no default table.
    ensure!(rules == [3, 2], "{:?}", stopped.rules);
    ensure!(stopped.proxies.concat().trim().is_empty(), "{stopped:#?}");
    let socket = &bed.site("b").socket;
    ensure!(!socket.exists(), "{} is still there", socket.display());
    bed.lab.end()
}

#[test]
fn a_forwarder_that_comes_and_goes_changes_nothing_for_good() -> Result<()> {
    let mut bed = Testbed::new(Options::new()?)?;
    let before = untouched(&mut bed)?;
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        bed.restart_matd("b")?;
        let name = format!("guest-{}", signal as i32);
        let guest = bed.unattached(&name, 30 + signal as u8, "b")?;
        bed.attach(&guest, "b", &[])?;
        for home in [&guest.home, &guest.home6] {
            bed.matctl("b", &["detach", home])?;
        }
        // Its link goes, and with it what the kernel and the forwarder set up on it.
        bed.site("b")
            .host
            .ip(&format!("link del {}", guest.interface))?;
        stop(&bed, signal)?;
        if signal == Signal::SIGKILL {
            bed.restart_matd("b")?;
            stop(&bed, Signal::SIGTERM)?;
        }
        let after = Traces::of(&bed.site("b").host)?;
        ensure!(after == before, "{signal}: {after:#?}\nbefore: {before:#?}");
    }
    bed.lab.end()
}

#[test]
fn what_attached_instances_need_stays_until_clean_up() -> Result<()> {
    let mut bed = Testbed::new(Options::new()?)?;
    let before = untouched(&mut bed)?;
    let state = bed.lab.dir().join("state-b/state.json");
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        bed.restart_matd("b")?;
        let name = format!("guest-{}", signal as i32);
        let guest = bed.unattached(&name, 30 + signal as u8, "b")?;
        bed.attach(&guest, "b", &[])?;
        let locators = bed.status("b")?["homes"].as_array().map_or(0, Vec::len);
        stop(&bed, signal)?;
        let kept = Traces::of(&bed.site("b").host)?;
        ensure!(kept.links.contains("mat0"), "{signal}: {kept:#?}");
        ensure!(
            kept.rules.concat().contains(&guest.interface),
            "{signal}: {kept:#?}"
        );
        ensure!(
            kept.routes[0].contains(&format!("{} dev", guest.home)),
            "{signal}: {kept:#?}"
        );
        let proxies = kept.proxies.concat().lines().count();
        ensure!(proxies >= locators, "{signal}: {kept:#?}");
        ensure!(state.exists(), "{signal}");

        println!("{}", bed.site("b").host.run(matd(&bed, "cleanup"))?);
        bed.site("b")
            .host
            .ip(&format!("link del {}", guest.interface))?;
        let cleaned = Traces::of(&bed.site("b").host)?;
        ensure!(
            cleaned == before,
            "{signal}: {cleaned:#?}\nbefore: {before:#?}"
        );
        ensure!(!state.exists(), "{signal}");
    }
    bed.lab.end()
}

#[test]
fn a_testbed_leaves_nothing() -> Result<()> {
    let bed = Testbed::new(Options {
        rtt_ms: 5.0,
        ..Options::new()?
    })?;
    let web = bed.instance("web", 10, "a")?;
    let user = bed.instance("user", 20, "c")?;
    ensure!(user.host.pings(&web.home)?);
    bed.move_instance(&web, "b")?;
    bed.site("a").matd.kill()?;
    let prefix = bed.lab.prefix().to_owned();
    let dir = bed.lab.dir().to_owned();
    let pids: Vec<u32> = bed
        .lab
        .processes()
        .iter()
        .map(|process| process.pid())
        .collect();
    ensure!(names("/run/netns", &prefix).len() > 6 && pids.len() >= 4);
    bed.lab.end()?;

    let left = names("/run/netns", &prefix);
    ensure!(left.is_empty(), "namespaces: {left:?}");
    let left: Vec<_> = pids
        .iter()
        .filter(|pid| Path::new(&format!("/proc/{pid}")).exists())
        .collect();
    ensure!(left.is_empty(), "processes: {left:?}");
    let run = format!("{}-", std::process::id());
    // Other tests of this process may run at this moment; they have namespaces of their own.
    let journals = names("/run/mat-lab", &run);
    let mine = journals.iter().filter(|name| {
        fs::read_to_string(Path::new("/run/mat-lab").join(name))
            .is_ok_and(|text| text.contains(&prefix))
    });
    ensure!(mine.count() == 0, "{journals:?}");
    ensure!(!dir.exists(), "{} is still there", dir.display());
    Ok(())
}

fn names(folder: &str, prefix: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(prefix)).collect()
}

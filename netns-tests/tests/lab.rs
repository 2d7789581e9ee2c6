//! The library's own promises, on real namespaces: links link, wide areas delay, and nothing is
//! left behind. Needs root or a user namespace: `scripts/privileged cargo test -p mat-netns`.

use std::env;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mat_netns::{Cmd, Host, Lab, LinkOptions, Signal, Wan, WanConfig, wait_until};

const SOON: Duration = Duration::from_secs(10);

/// Two hosts and what is between them.
///
/// ```text
/// a 192.0.2.1 ──── 192.0.2.2 b      2001:db8::1 ──── 2001:db8::2
/// ```
fn two_hosts(lab: &Lab) -> Result<(Host, Host)> {
    Ok((lab.host("a")?, lab.host("b")?))
}

fn address(a: &Host, b: &Host) -> Result<()> {
    for (host, n) in [(a, 1), (b, 2)] {
        host.ip(&format!(
            "addr add 192.0.2.{n}/24 dev eth0
             addr add 2001:db8::{n}/64 dev eth0"
        ))?;
    }
    Ok(())
}

fn wide_area(lab: &Lab, config: WanConfig) -> Result<(Host, Host, Wan)> {
    let (a, b) = two_hosts(lab)?;
    let wan = lab.wan(&a, "eth0", &b, "eth0", config)?;
    address(&a, &b)?;
    Ok((a, b, wan))
}

/// The round-trip times of `count` pings, in milliseconds, in ascending order.
fn ping_times(host: &Host, address: &str, count: u32) -> Result<Vec<f64>> {
    let output = host.run(format!("ping -n -i 0.02 -c {count} {address}"))?;
    let times = output
        .lines()
        .filter_map(|line| line.split_once("time=")?.1.split(' ').next())
        .map(|time| time.parse().context("ping's time"));
    let mut times: Vec<f64> = times.collect::<Result<_>>()?;
    times.sort_by(f64::total_cmp);
    ensure!(!times.is_empty(), "no times in:\n{output}");
    Ok(times)
}

fn namespaces_named(prefix: &str) -> Vec<String> {
    let names = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    names
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with(prefix))
        .collect()
}

fn process_runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, fields)| !fields.starts_with(['Z', 'X']))
}

#[test]
fn two_hosts_ping_each_other_in_both_families() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = two_hosts(&lab)?;
    lab.link(&a, "eth0", &b, "eth0")?;
    address(&a, &b)?;
    assert!(a.pings("192.0.2.2")?);
    assert!(b.pings("2001:db8::1")?);
    assert!(!a.pings("192.0.2.3")?);
    lab.end()
}

#[test]
fn a_router_connects_two_links_and_tells_of_the_smaller_mtu() -> Result<()> {
    //  a 192.0.2.1 ── 192.0.2.254 r 198.51.100.254 ── 1280 bytes ── 198.51.100.1 b
    let lab = Lab::new()?;
    let (a, b) = two_hosts(&lab)?;
    let r = lab.host("r")?;
    lab.link(&a, "eth0", &r, "to-a")?;
    let narrow = LinkOptions {
        mtu: 1280,
        offloads: false,
    };
    lab.link_with(&r, "to-b", &b, "eth0", narrow)?;
    r.forwarding()?;
    r.ip("addr add 192.0.2.254/24 dev to-a
          addr add 198.51.100.254/24 dev to-b")?;
    a.ip("addr add 192.0.2.1/24 dev eth0
          route add default via 192.0.2.254")?;
    b.ip("addr add 198.51.100.1/24 dev eth0
          route add default via 198.51.100.254")?;
    assert!(a.pings("198.51.100.1")?);
    let big = a.exec("ping -n -c 1 -W 2 -M do -s 1400 198.51.100.1")?;
    assert!(!big.status.success());
    let said = String::from_utf8_lossy(&big.stdout).into_owned();
    assert!(said.contains("mtu = 1280"), "{said}");
    let features = b.run("ethtool -k eth0")?;
    assert!(features.contains("rx-checksumming: off"), "{features}");
    lab.end()
}

#[test]
fn a_failed_command_is_shown_with_its_host_and_its_words() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let error = a.ip("link set nothing up").unwrap_err().to_string();
    assert!(
        error.contains("`ip link set nothing up` in host a"),
        "{error}"
    );
    assert!(error.contains("Cannot find device"), "{error}");

    let error = a.spawn("/no/such/program").unwrap_err();
    assert!(format!("{error:#}").contains("No such file"), "{error:#}");

    let error = lab.move_link("eth7", &a, &a).unwrap_err();
    assert!(format!("{error:#}").contains("No such device"), "{error:#}");

    let slow = Cmd::from("sleep 60").timeout(Duration::from_millis(50));
    let error = a.exec(slow).unwrap_err();
    assert!(format!("{error:#}").contains("in vain"), "{error:#}");
    lab.end()
}

#[test]
fn a_device_moves_to_another_host_and_is_up_there() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = two_hosts(&lab)?;
    let c = lab.host("c")?;
    lab.link(&a, "eth0", &b, "eth0")?;
    address(&a, &b)?;
    let took = lab.move_link("eth0", &b, &c)?;
    assert!(took < SOON, "{took:?}");
    c.ip("addr add 192.0.2.3/24 dev eth0")?;
    assert!(a.pings("192.0.2.3")?);
    assert!(b.ip("link show eth0").is_err());
    lab.end()
}

#[test]
fn code_runs_inside_a_host() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = two_hosts(&lab)?;
    lab.link(&a, "eth0", &b, "eth0")?;
    address(&a, &b)?;
    // The listener is bound to an address that only host b has, and keeps it out here.
    let listener = b.enter(|| TcpListener::bind("192.0.2.2:4000"))??;
    let client = a.thread(|| TcpStream::connect("192.0.2.2:4000"));
    let (_, peer) = listener.accept()?;
    assert_eq!(peer.ip().to_string(), "192.0.2.1");
    client.join().expect("the thread does not panic")??;
    a.sysctl("net.ipv4.ip_default_ttl", 42)?;
    assert_eq!(a.sysctl_get("net.ipv4.ip_default_ttl")?, "42");
    assert_ne!(b.sysctl_get("net.ipv4.ip_default_ttl")?, "42");
    a.nft("add table ip t\nadd chain ip t c { type filter hook output priority 0; policy drop; }")?;
    assert!(!a.pings("192.0.2.2")?);
    lab.end()
}

#[test]
fn a_bridge_connects_its_ports() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = two_hosts(&lab)?;
    let switch = lab.host("switch")?;
    lab.link(&a, "eth0", &switch, "port1")?;
    lab.link(&b, "eth0", &switch, "port2")?;
    switch.bridge("br0", &["port1", "port2"])?;
    address(&a, &b)?;
    wait_until(SOON, "the bridge to forward", || {
        a.pings("192.0.2.2").ok().filter(|answered| *answered)
    })?;
    lab.end()
}

#[test]
fn a_wide_area_link_has_the_round_trip_time_asked_for() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b, wan) = wide_area(&lab, WanConfig::rtt_ms(20.0))?;
    let times = ping_times(&a, "192.0.2.2", 20)?;
    // Never less; the best of them is hardly more, even on a busy machine.
    assert!((20.0..22.0).contains(&times[0]), "{times:?}");
    wan.set_config(WanConfig::rtt_ms(60.0))?;
    let times = ping_times(&b, "2001:db8::1", 5)?;
    assert!(times[0] >= 60.0, "{times:?}");
    lab.end()
}

#[test]
fn a_cut_or_wholly_lossy_link_passes_nothing_and_counts_it() -> Result<()> {
    let lab = Lab::new()?;
    let (a, _b, wan) = wide_area(&lab, WanConfig::default())?;
    assert!(a.pings("192.0.2.2")?);
    wan.cut();
    assert!(!a.pings("192.0.2.2")?);
    assert!(wan.counters_to_b().line.cut > 0);
    wan.restore();
    assert!(a.pings("192.0.2.2")?);
    let lossy = WanConfig {
        loss: 1.0,
        ..wan.config()
    };
    wan.set_config_to_a(lossy)?;
    assert!(!a.pings("192.0.2.2")?);
    assert!(wan.counters_to_a().line.lost > 0);
    assert_eq!(wan.counters_to_b().line.lost, 0);
    wan.set_config(WanConfig::default())?;
    assert!(a.pings("192.0.2.2")?);
    let impossible = WanConfig {
        delay_ms: -1.0,
        ..wan.config()
    };
    assert!(wan.set_config(impossible).is_err());
    lab.end()
}

#[test]
fn tcp_crosses_a_wide_area_link_whole_and_at_its_rate() -> Result<()> {
    let lab = Lab::new()?;
    let config = WanConfig {
        rate_mbit: Some(100.0),
        ..WanConfig::rtt_ms(10.0)
    };
    let (a, b, wan) = wide_area(&lab, config)?;
    let server = b.spawn("iperf3 -s -1 --forceflush")?;
    server.wait_for_log("listening", SOON)?;
    let json = a.run("iperf3 -c 192.0.2.2 -t 2 -J")?;
    let report: serde_json::Value = serde_json::from_str(&json)?;
    let mbit = report["end"]["sum_received"]["bits_per_second"]
        .as_f64()
        .context("iperf3's report")?
        / 1e6;
    assert!((50.0..=101.0).contains(&mbit), "{mbit} Mbit/s");
    server.wait_success(SOON)?;
    let line = wan.counters_to_b().line;
    assert!(line.delivered_bytes > 12_000_000, "{line:?}");
    lab.end()
}

#[test]
fn the_end_of_a_lab_leaves_no_namespace_process_or_file() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b, _wan) = wide_area(&lab, WanConfig::rtt_ms(2.0))?;
    let prefix = lab.prefix().to_owned();
    let dir = lab.dir().to_owned();
    let polite = a.spawn("sleep 1000")?;
    let stubborn = b.spawn(
        Cmd::new("sh")
            .args(["-c", "trap '' TERM; echo ready; while :; do sleep 1; done"])
            .name("stubborn"),
    )?;
    stubborn.wait_for_log("ready", SOON)?;
    // A process that left its group, as a daemon does, and says who it is.
    let daemon = lab.dir().join("daemon.pid");
    let script = format!(
        "echo $$ > {0}.new && mv {0}.new {0} && exec sleep 1000",
        daemon.display()
    );
    a.run(Cmd::new("setsid").args(["--fork", "sh", "-c", &script]))?;
    let stray = wait_until(SOON, "the daemon's pid", || {
        fs::read_to_string(&daemon).ok()
    })?;
    let stray: u32 = stray.trim().parse()?;
    assert!(process_runs(stray));
    assert_eq!(namespaces_named(&prefix).len(), 3);

    drop(lab);
    assert_eq!(namespaces_named(&prefix), Vec::<String>::new());
    assert!(!dir.exists());
    assert!(!polite.is_running() && !stubborn.is_running());
    wait_until(SOON, "the daemon's end", || {
        (!process_runs(stray)).then_some(())
    })?;
    let error = a.exec("true").unwrap_err();
    assert!(
        format!("{error:#}").contains("the lab has ended"),
        "{error:#}"
    );
    Ok(())
}

#[test]
fn a_panic_cleans_up_too() -> Result<()> {
    let lab = Lab::new()?;
    let prefix = lab.prefix().to_owned();
    let host = lab.host("a")?;
    let process = host.spawn("sleep 1000")?;
    let thread = std::thread::spawn(move || {
        let _owned_here = lab;
        panic!("on purpose");
    });
    assert!(thread.join().is_err());
    assert!(!process.is_running());
    assert_eq!(namespaces_named(&prefix), Vec::<String>::new());
    Ok(())
}

/// Set in the child of the tests below, which play a run that is ended from outside.
const CHILD: &str = "MAT_LAB_TEST_CHILD";

/// Starts this test binary again, with one test only, which finds [`CHILD`] set; returns the
/// child and the lines it has printed up to `ready`.
fn start_again(test: &str) -> Result<(std::process::Child, Vec<String>)> {
    use std::io::BufRead;
    let mut child = Command::new(env::current_exe()?)
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let stdout = child.stdout.take().context("the child's output")?;
    let mut said = Vec::new();
    for line in std::io::BufReader::new(stdout).lines() {
        let line = line?;
        if line == "ready" {
            return Ok((child, said));
        }
        said.push(line);
    }
    child.wait()?;
    anyhow::bail!("the child ended early and said {said:?}");
}

/// A run with one host and one process, which then waits for its end.
fn play_a_run() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let process = host.spawn("sleep 1000")?;
    println!("\nprefix={}", lab.prefix());
    println!("dir={}", lab.dir().display());
    println!("pid={}", process.pid());
    println!("ready");
    wait_until(Duration::from_secs(60), "the end of the run", || None::<()>)
}

fn value<'a>(said: &'a [String], key: &str) -> Result<&'a str> {
    said.iter()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        .with_context(|| format!("no {key} in {said:?}"))
}

fn signal(child: &std::process::Child, signal: Signal) -> Result<()> {
    Ok(nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(child.id() as i32),
        signal,
    )?)
}

#[test]
fn the_next_start_removes_what_a_killed_run_left() -> Result<()> {
    if env::var_os(CHILD).is_some() {
        return play_a_run();
    }
    let (mut child, said) = start_again("the_next_start_removes_what_a_killed_run_left")?;
    let (prefix, dir) = (value(&said, "prefix")?, value(&said, "dir")?);
    let pid: u32 = value(&said, "pid")?.parse()?;

    Lab::sweep_stale()?;
    assert_eq!(namespaces_named(prefix).len(), 1);
    assert!(process_runs(pid), "a run that lives is not swept");

    child.kill()?;
    child.wait()?;
    assert_eq!(namespaces_named(prefix).len(), 1);
    // Another test's start may sweep first, so what counts is only that it is gone.
    Lab::sweep_stale()?;
    wait_until(SOON, "the killed run's namespace to go", || {
        namespaces_named(prefix).is_empty().then_some(())
    })?;
    wait_until(SOON, "the killed run's process to go", || {
        (!process_runs(pid)).then_some(())
    })?;
    wait_until(SOON, "the killed run's directory to go", || {
        (!Path::new(dir).exists()).then_some(())
    })
}

#[test]
fn an_interrupted_run_ends_soon_and_cleans_up_itself() -> Result<()> {
    if env::var_os(CHILD).is_some() {
        return play_a_run();
    }
    let (mut child, said) = start_again("an_interrupted_run_ends_soon_and_cleans_up_itself")?;
    let prefix = value(&said, "prefix")?;
    let start = Instant::now();
    signal(&child, Signal::SIGINT)?;
    let status = child.wait()?;
    assert!(!status.success(), "its wait failed: {status}");
    assert!(start.elapsed() < SOON);
    assert_eq!(namespaces_named(prefix), Vec::<String>::new());
    assert!(!Path::new(value(&said, "dir")?).exists());
    assert!(!process_runs(value(&said, "pid")?.parse()?));
    Ok(())
}

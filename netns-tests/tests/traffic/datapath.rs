//! The data threads of the real forwarder: which system calls they make, that small packets are
//! joined, several queues, and what they count.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mat_netns::testbed::Options;
use mat_netns::{Cmd, Process, Signal, wait_until};
use serde_json::Value;

use crate::common::scene::Scene;
use crate::common::{api, iperf, sockets};

const SOON: Duration = Duration::from_secs(10);

fn scene(tun: &str) -> Result<Scene> {
    Scene::with(Options {
        extra: format!("[tun]\n{tun}\n"),
        ..Options::new()?
    })
}

/// What the data threads of a site have counted, summed up.
fn count(scene: &Scene, site: &str, what: &str) -> Result<u64> {
    let status = api::get(scene.socket(site), "status")?;
    let threads = status["threads"].as_array().context("threads")?;
    Ok(threads
        .iter()
        .filter_map(|thread| thread[what].as_u64())
        .sum())
}

/// The id of a process' first data thread.
fn data_thread(matd: &Process) -> Result<String> {
    for task in fs::read_dir(format!("/proc/{}/task", matd.pid()))? {
        let task = task?;
        if fs::read_to_string(task.path().join("comm"))?.trim_end() == "mat-data" {
            return Ok(task.file_name().to_string_lossy().into_owned());
        }
    }
    anyhow::bail!("no thread is called mat-data")
}

/// Per packet nothing but reads and writes, and between batches sleep.
#[test]
fn a_data_thread_makes_no_system_calls_but_its_io() -> Result<()> {
    let scene = Scene::new()?;
    let server = iperf::serve(&scene.web.host)?;
    let matd = &scene.bed.site("c").matd;
    let trace = scene.bed.lab.dir().join("calls");
    // Before it is looked at: the context is open, buffers have their size.
    ensure!(iperf::tcp(&scene.user.host, &scene.web.home, "-n 20M")? > 0);
    let before = count(&scene, "c", "reads")?;
    let strace = Cmd::new("strace")
        .args(["-c", "-p", &data_thread(matd)?, "-o"])
        .arg(&trace);
    let strace = scene.bed.map.spawn(strace)?;
    strace.wait_for_log("attached", SOON)?;
    let udp = iperf::udp(&scene.user.host, &scene.web.home, "-b 20M -l 200 -n 2M")?;
    ensure!(udp.0 >= 10_000, "{udp:?}");
    ensure!(iperf::tcp(&scene.user.host, &scene.web.home, "-n 50M")? > 0);
    strace.signal(Signal::SIGINT)?;
    let calls = wait_until(SOON, "what strace counted", || {
        fs::read_to_string(&trace)
            .ok()
            .filter(|text| text.contains("total"))
    })?;
    let reads = count(&scene, "c", "reads")? - before;
    println!("{reads} frames read while traced\n{calls}");
    let rows = calls
        .lines()
        .skip(2)
        .take_while(|line| !line.starts_with("---"));
    let names: Vec<&str> = rows
        .filter_map(|row| row.split_whitespace().last())
        .collect();
    // A look-up that is due wakes the control plane: by a futex, or a write to its eventfd.
    let io = [
        "read",
        "writev",
        "poll",
        "futex",
        "write",
        "restart_syscall",
    ];
    let strange: Vec<_> = names.iter().filter(|name| !io.contains(name)).collect();
    ensure!(strange.is_empty(), "{strange:?} in\n{calls}");
    let of = |name: &str| -> u64 {
        let row = calls.lines().find(|row| row.ends_with(&format!(" {name}")));
        let calls = row.and_then(|row| row.split_whitespace().nth(3)?.parse().ok());
        calls.unwrap_or(0)
    };
    ensure!(of("read") > 1000, "nothing was seen:\n{calls}");
    let rare = of("futex") + of("write");
    ensure!(rare < 50, "locks, or whatever it is:\n{calls}");
    server.kill()?;
    scene.end()
}

#[test]
fn datagrams_that_come_fast_are_joined_unless_that_is_off() -> Result<()> {
    for coalesce in [true, false] {
        let scene = scene(&format!("coalesce = {coalesce}"))?;
        let server = iperf::serve(&scene.web.host)?;
        let status = api::get(scene.socket("c"), "status")?;
        let path = status["path"].as_str().unwrap_or_default();
        ensure!(path.contains("small packets joined") == coalesce, "{path}");
        for homes in scene.families() {
            // As fast as it can: some will wait for the data thread, and some may be lost.
            iperf::udp(&scene.user.host, homes.web, "-b 0 -l 200 -n 20M")?;
            sockets::transfer(&scene.user.host, &scene.web.host, homes.web, 3_000_000)?;
        }
        let (joined, writes) = (
            count(&scene, "c", "joined")?,
            count(&scene, "c", "joined_writes")?,
        );
        println!("coalesce = {coalesce}: {joined} packets joined in {writes} writes");
        ensure!((joined > 0) == coalesce, "{joined} packets joined");
        ensure!(joined >= 2 * writes);
        server.kill()?;
        scene.end()?;
    }
    Ok(())
}

#[test]
fn several_queues_carry_everything_and_follow_a_move() -> Result<()> {
    let scene = scene("queues = 3")?;
    let server = iperf::serve(&scene.web.host)?;
    let status = api::get(scene.socket("a"), "status")?;
    let path = status["path"].as_str().unwrap_or_default();
    ensure!(path.contains("3 queues"), "{path}");
    ensure!(
        status["threads"].as_array().map(Vec::len) == Some(3),
        "{status}"
    );
    for homes in scene.families() {
        ensure!(iperf::tcp(&scene.user.host, homes.web, "-n 200M -P 8")? > 100_000_000);
        ensure!(iperf::tcp(&scene.user.host, homes.web, "-n 200M -P 8 -R")? > 100_000_000);
    }
    let listener = sockets::listen(&scene.web.host, &scene.web.home)?;
    let (sender, _) = sockets::connect(&scene.user.host, listener.local_addr()?)?;
    let (receiver, _) = listener.accept()?;
    sockets::carry(&sender, &receiver, 3_000_000)?;
    scene.bed.move_instance(&scene.web, "b")?;
    sockets::carry(&sender, &receiver, 3_000_000)?;
    sockets::carry(&receiver, &sender, 3_000_000)?;
    server.kill()?;
    scene.end()
}

#[test]
fn metrics_are_served_over_tcp_where_that_is_asked_for() -> Result<()> {
    let mut scene = Scene::new()?;
    let site = scene.bed.site("c");
    let config = fs::read_to_string(&site.config)?;
    fs::write(
        &site.config,
        format!("metrics_listen = \"127.0.0.1:9283\"\n{config}"),
    )?;
    site.matd.kill()?;
    scene.bed.restart_matd("c")?;
    sockets::transfer(
        &scene.user.host,
        &scene.web.host,
        &scene.web.home,
        3_000_000,
    )?;
    let here: SocketAddr = "127.0.0.1:9283".parse()?;
    let host = &scene.bed.site("c").host;
    let mut stream = host.enter(|| TcpStream::connect_timeout(&here, SOON))??;
    stream.set_read_timeout(Some(SOON))?;
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nHost: matd\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (own, peer) = (&scene.user.home, &scene.web.home);
    let sent = format!("mat_sent_bytes_total{{own=\"{own}\",peer=\"{peer}\"}} ");
    let line = answer.lines().find_map(|line| line.strip_prefix(&sent));
    let bytes: u64 = line.context(answer.clone())?.parse()?;
    ensure!(bytes > 3_000_000, "{bytes}");
    ensure!(
        answer.contains("mat_thread_latency_seconds_count{thread=\"0\"}"),
        "{answer}"
    );
    // Nothing else is there.
    let mut stream = host.enter(|| TcpStream::connect_timeout(&here, SOON))??;
    write!(
        stream,
        "GET /v1/status HTTP/1.1\r\nHost: matd\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    let status: Value = api::get(scene.socket("c"), "status")?;
    ensure!(
        status["threads"][0]["latency"]["sum_ns"].as_u64() > Some(0),
        "{status}"
    );
    scene.end()
}

//! Many instances leave a site at one command, and every one of them has a connection meanwhile.
//!
//! Each instance at site a answers what it gets over TCP; somebody at site c asks each of them
//! twenty times a second and compares the answers. `matctl evacuate` moves all to site b.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use serde_json::Value;

use crate::testbed::{Instance, Options, Testbed};
use crate::watch::Watch;
use crate::{Cmd, Host, wait_until};

/// Where the instances answer.
const PORT: u16 = 7;
/// Between two questions of a connection.
const PACE: Duration = Duration::from_millis(50);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// So many answers show that a connection works.
const A_FEW: u64 = 5;
/// `matctl` ends by itself within this time.
const LIMIT: Duration = Duration::from_secs(300);
/// Bytes of a question.
const QUESTION: usize = 64;

/// What to do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many instances; at most 200.
    pub instances: u8,
    /// How many of them move at a time.
    pub parallel: u16,
    /// Round trip between any two sites, in milliseconds.
    pub rtt_ms: f64,
}

/// What became of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// `mat.evacuation/1`.
    pub schema: &'static str,
    /// As asked for.
    pub instances: u8,
    /// As asked for.
    pub parallel: u16,
    /// As asked for.
    pub rtt_ms: f64,
    /// How long the command took, in seconds.
    pub took_s: f64,
    /// From letting go to serving, for each instance, in milliseconds, in ascending order.
    pub blackouts_ms: Vec<f64>,
    /// The longest time that each connection waited for an answer, in milliseconds, ascending.
    pub waits_ms: Vec<f64>,
    /// Control messages on the uplinks from the command to its end, of all sites.
    pub control_messages: u64,
    /// Connections that broke, or got wrong bytes, in words.
    pub broken: Vec<String>,
}

impl Report {
    /// One line for people.
    pub fn summary(&self) -> String {
        let spread = |values: &[f64]| {
            let at = |share: f64| {
                let last = values.len().saturating_sub(1) as f64;
                values
                    .get((share * last).round() as usize)
                    .copied()
                    .unwrap_or(0.0)
            };
            format!("{:.0} / {:.0} / {:.0}", at(0.5), at(0.95), at(1.0))
        };
        format!(
            "{} instances, {} at a time, {} ms round trip: {:.1} s; blackout {} ms, longest wait \
             for an answer {} ms (median / 95 % / longest); {:.1} control messages an instance; \
             {} connections broke",
            self.instances,
            self.parallel,
            self.rtt_ms,
            self.took_s,
            spread(&self.blackouts_ms),
            spread(&self.waits_ms),
            self.control_messages as f64 / f64::from(self.instances),
            self.broken.len(),
        )
    }
}

/// Moves all instances from site a to site b.
///
/// # Errors
/// Not all instances were moved, or nothing could be measured; broken connections are in the
/// report.
pub fn run(settings: &Settings) -> Result<Report> {
    ensure!(
        (1..=200).contains(&settings.instances),
        "{} instances: 1 to 200 are possible",
        settings.instances
    );
    let bed = Testbed::new(Options {
        rtt_ms: settings.rtt_ms,
        crowded: true,
        ..Options::new()?
    })?;
    let mut instances = Vec::new();
    for number in 1..=settings.instances {
        instances.push(bed.instance(&format!("i{number}"), number, "a")?);
    }
    let user = bed.instance("user", 250, "c")?;
    let ended = Arc::new(AtomicBool::new(false));
    let mut connections = Vec::new();
    for instance in &instances {
        answer(instance)?;
        connections.push(ask(&user.host, instance, &ended)?);
    }
    all_ask(&connections)?;

    let config = bed.matctl_config(&instances.iter().collect::<Vec<_>>())?;
    let parallel = settings.parallel.to_string();
    let matctl = Cmd::new(bed.options().binaries.join("matctl"))
        .words("evacuate --from a --to b --driver netns --json --parallel")
        .arg(&parallel)
        .arg("--config")
        .arg(config)
        .timeout(LIMIT);
    let router = Watch::on(&bed.router, &[("control", "udp dport 6283")])?;
    let said = bed.map.run(matctl)?;
    let control_messages = router.count("control")?;
    let said: Value = serde_json::from_str(&said).context("what matctl says is no JSON")?;
    all_ask(&connections)?;
    ended.store(true, Ordering::Relaxed);

    let (mut waits_ms, mut broken) = (Vec::new(), Vec::new());
    for (instance, connection) in instances.iter().zip(connections) {
        match connection.thread.join().expect("asking does not panic") {
            Ok(wait) => waits_ms.push(wait.as_secs_f64() * 1e3),
            Err(error) => broken.push(format!("{}: {error:#}", instance.name)),
        }
    }
    waits_ms.sort_by(f64::total_cmp);
    let moved = said["moved"].as_array().context("nothing moved")?;
    let blackout = |outcome: &Value| {
        let at = |name: &str| outcome[name].as_f64();
        Some((at("activated_unix_us")? - at("detached_unix_us")?) / 1e3)
    };
    let mut blackouts_ms: Vec<f64> = moved.iter().filter_map(blackout).collect();
    blackouts_ms.sort_by(f64::total_cmp);
    ensure!(
        blackouts_ms.len() == instances.len(),
        "{} of {} instances moved: {said:#}",
        blackouts_ms.len(),
        instances.len()
    );
    for instance in &instances {
        let state = bed.home_state("b", &instance.home)?;
        ensure!(state == "serving", "{} is {state} at b", instance.name);
    }
    bed.lab.end()?;
    Ok(Report {
        schema: "mat.evacuation/1",
        instances: settings.instances,
        parallel: settings.parallel,
        rtt_ms: settings.rtt_ms,
        took_s: said["took_us"].as_f64().unwrap_or(0.0) / 1e6,
        blackouts_ms,
        waits_ms,
        control_messages,
        broken,
    })
}

/// Has an instance give back, on one connection, whatever it gets, until that ends.
fn answer(instance: &Instance) -> Result<()> {
    let listener = instance
        .host
        .enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)))??;
    thread::spawn(move || -> io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        let mut from = stream.try_clone()?;
        io::copy(&mut from, &mut stream).map(drop)
    });
    Ok(())
}

/// How long an answer took at most.
type Wait = Result<Duration>;

/// Somebody who asks an instance again and again.
struct Connection {
    thread: JoinHandle<Wait>,
    answers: Arc<AtomicU64>,
}

/// Waits until each has got a few more answers, or has ended.
fn all_ask(connections: &[Connection]) -> Result<()> {
    let answers = |c: &Connection| c.answers.load(Ordering::Relaxed);
    let before: Vec<u64> = connections.iter().map(answers).collect();
    wait_until(PATIENCE, "answers on every connection", || {
        let asked = |(c, before): (&Connection, &u64)| {
            answers(c) >= before + A_FEW || c.thread.is_finished()
        };
        connections.iter().zip(&before).all(asked).then_some(())
    })
}

/// Asks an instance again and again, on one connection.
fn ask(user: &Host, instance: &Instance, ended: &Arc<AtomicBool>) -> Result<Connection> {
    let to = SocketAddr::new(instance.home.parse()?, PORT);
    let mut stream = user
        .enter(|| TcpStream::connect_timeout(&to, PATIENCE))?
        .with_context(|| format!("{} does not answer at {to}", instance.name))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let answers = Arc::new(AtomicU64::new(0));
    let (ended, count) = (ended.clone(), answers.clone());
    let thread = thread::spawn(move || {
        let mut longest = Duration::ZERO;
        for n in 0u64.. {
            if ended.load(Ordering::Relaxed) {
                break;
            }
            let asked = Instant::now();
            exchange(&mut stream, &question(n)).with_context(|| format!("question {n}"))?;
            count.fetch_add(1, Ordering::Relaxed);
            let waited = asked.elapsed();
            longest = longest.max(waited);
            thread::sleep(PACE.saturating_sub(waited));
        }
        Ok(longest)
    });
    Ok(Connection { thread, answers })
}

fn exchange(stream: &mut TcpStream, question: &[u8; QUESTION]) -> Result<()> {
    stream.write_all(question)?;
    let mut answer = [0; QUESTION];
    stream.read_exact(&mut answer)?;
    if answer != *question {
        bail!("the answer is not what was asked");
    }
    Ok(())
}

/// Bytes that no other question has.
fn question(n: u64) -> [u8; QUESTION] {
    let mut bytes = [0; QUESTION];
    for (i, word) in bytes.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&(n * 8 + i as u64).to_be_bytes());
    }
    bytes
}

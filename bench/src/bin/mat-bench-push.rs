//! Push: how soon after an update was acknowledged subscribers of that name have it, and what a
//! subscriber takes.
//!
//! mat-mapd and the subscribers are separate processes in one network namespace, on loopback; each
//! subscriber has a TLS session of its own and asks every 30 s whether the server is there. Times
//! are those of one clock, from the answer to an update until a subscriber has the binding that
//! it made.
//!
//! # Limitations
//! Server and subscribers share the machine's processors: with 10,000 of them the latter take
//! more of these than the former.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};
use hickory_proto::rr::Name;
use mat_bench::stats;
use mat_mapping::client::push::{Changed, Endpoint, Subscriber, certificates};
use mat_mapping::client::{Algorithm, MapClient, Swap, TsigKey};
use mat_netns::results::{self, Keep};
use mat_netns::testbed::make_certificate;
use mat_netns::{Cmd, Lab, memory_kib, wait_until};
use mat_proto::{Binding, Epoch, Home};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::timeout;

const ZONE: &str = "map.example.";
const SECRET: &str = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=";
const DNS: &str = "127.0.0.1:53";
const TLS: &str = "127.0.0.1:853";
/// Handshakes under way at the same time.
const AT_ONCE: usize = 64;
/// Nothing takes longer unless it is broken.
const PATIENCE: Duration = Duration::from_secs(120);

/// Measures push, in a network namespace (needs root; see scripts/privileged).
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Subscribers, one stage after the other
    #[arg(long, value_delimiter = ',', default_value = "100,1000,10000",
        value_parser = clap::value_parser!(u32).range(1..=15_000))]
    subscribers: Vec<u32>,
    /// Updates at each stage
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    updates: u32,
    #[command(flatten)]
    keep: Keep,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// The subscribers; started by the program itself
    #[command(hide = true)]
    Subscribe {
        certificate: PathBuf,
        mapd: u32,
        result: PathBuf,
    },
}

/// What was measured with so many subscribers of one name.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Stage {
    subscribers: u32,
    /// Resident memory of mat-mapd, in KiB.
    memory_kib: u64,
    /// From sending an update to its answer, in ms, one for each update.
    answered_ms: Vec<f64>,
    /// From the answer until a subscriber had the change, in ms: percentiles of all subscribers
    /// and updates together.
    p50_ms: f64,
    p99_ms: f64,
    longest_ms: f64,
}

/// Everything that was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Report {
    /// `mat.push/1`.
    schema: String,
    /// Resident memory of mat-mapd without subscribers, in KiB.
    idle_kib: u64,
    stages: Vec<Stage>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = match &args.role {
        None => run(&args),
        Some(Role::Subscribe {
            certificate,
            mapd,
            result,
        }) => subscribe(&args, certificate, *mapd, result),
    };
    results::exit("mat-bench-push", outcome)
}

fn run(args: &Args) -> Result<bool> {
    let lab = Lab::new()?;
    let host = lab.host("dns")?;
    let folder = lab.dir();
    make_certificate(&host, folder)?;
    let config = format!(
        "zone = \"{ZONE}\"\nlisten = [\"{DNS}\"]\ndata_dir = \"{}\"\n[tls]\nlisten = [\"{TLS}\"]\n\
         certificate = \"mat-mapd.pem\"\nprivate_key = \"mat-mapd.key\"\nconnections_per_client = 16384\n\
         [[key]]\nname = \"site\"\nsecret = \"{SECRET}\"\nhomes = [\"all\"]\nlocators = [\"all\"]\n",
        folder.join("data").display()
    );
    let config = lab.write("mapd.toml", config)?;
    let program = std::env::current_exe()?;
    let mapd = Cmd::new(program.with_file_name("mat-mapd"));
    let mapd = host.spawn(mapd.arg("--config").arg(config))?;
    mapd.wait_for_log("ready", Duration::from_secs(10))?;
    let result = folder.join("result.json");
    let numbers: Vec<String> = args.subscribers.iter().map(u32::to_string).collect();
    let client = Cmd::new(program)
        .args(["--subscribers", &numbers.join(","), "--updates"])
        .arg(args.updates.to_string())
        .arg("subscribe")
        .arg(folder.join("mat-mapd.pem"))
        .arg(mapd.pid().to_string())
        .arg(&result);
    let client = host.spawn(client)?;
    let stages = args.subscribers.len() as u32;
    client
        .wait_success(PATIENCE * (stages + 1) + Duration::from_secs(2) * stages * args.updates)?;
    let report: Report = serde_json::from_slice(&std::fs::read(result)?)?;
    println!("{}", table(&report)?);
    args.keep.write(&report)?;
    lab.end()?;
    Ok(true)
}

fn subscribe(args: &Args, certificate: &Path, mapd: u32, result: &Path) -> Result<bool> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let roots = certificates(certificate).map_err(anyhow::Error::msg)?;
    let endpoint = Endpoint::new(TLS.parse()?, "ns1.map.example", &roots);
    let endpoint = endpoint.map_err(anyhow::Error::msg)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let report = runtime.block_on(async {
        let idle_kib = memory_kib(mapd)?;
        let mut crowd = Crowd::new(endpoint).await?;
        let mut stages = Vec::new();
        for count in &args.subscribers {
            crowd.grow(*count as usize).await?;
            stages.push(crowd.stage(args.updates, mapd).await?);
        }
        anyhow::Ok(Report {
            schema: "mat.push/1".to_owned(),
            idle_kib,
            stages,
        })
    })?;
    std::fs::write(result, serde_json::to_vec(&report)?)?;
    Ok(true)
}

/// All subscribers, and whoever changes what they have subscribed to.
struct Crowd {
    endpoint: Endpoint,
    members: Vec<Subscriber>,
    sender: mpsc::Sender<Changed>,
    news: mpsc::Receiver<Changed>,
    client: MapClient,
    binding: Binding,
}

impl Crowd {
    async fn new(endpoint: Endpoint) -> Result<Self> {
        let key = TsigKey::from_base64("site", Algorithm::HmacSha256, SECRET)?;
        let servers: Vec<SocketAddr> = vec![DNS.parse()?];
        let client = MapClient::new(ZONE.parse()?, servers, Some(key));
        let (sender, news) = mpsc::channel(65_536);
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let home: Home = "192.0.2.10".parse()?;
        let binding = Binding::single(home, Epoch(now), 30, "198.51.100.1".parse()?, 6283)?;
        let done = client.compare_and_swap(home, None, Some(&binding)).await?;
        ensure!(done == Swap::Committed, "somebody else has changed it");
        Ok(Crowd {
            endpoint,
            members: Vec::new(),
            sender,
            news,
            client,
            binding,
        })
    }

    /// More subscribers, all of whom know what is there.
    async fn grow(&mut self, count: usize) -> Result<()> {
        let home = self.binding.home();
        let zone: Name = ZONE.parse()?;
        while self.members.len() < count {
            let first = self.members.len();
            for _ in 0..AT_ONCE.min(count - first) {
                let (endpoint, sender) = (self.endpoint.clone(), self.sender.clone());
                let age = Duration::from_secs(60);
                let member = Subscriber::start(zone.clone(), endpoint, age, sender);
                member.get(home);
                self.members.push(member);
            }
            let new = &self.members[first..];
            let know = || new.iter().all(|m| m.get(home).is_some()).then_some(());
            let all = || wait_until(PATIENCE, "all to have subscribed", know);
            tokio::task::block_in_place(all)?;
        }
        // What was there when they came.
        while self.news.try_recv().is_ok() {}
        Ok(())
    }

    async fn stage(&mut self, updates: u32, mapd: u32) -> Result<Stage> {
        let memory_kib = memory_kib(mapd)?;
        let home = self.binding.home();
        let (mut answered_ms, mut heard_ms) = (Vec::new(), Vec::new());
        for n in 0..updates {
            let locator = format!("198.51.100.{}", 2 + n % 200).parse()?;
            let epoch = Epoch(self.binding.epoch().0 + 1);
            let new = Binding::single(home, epoch, 30, locator, 6283)?;
            let sent = Instant::now();
            let client = self.client.clone();
            let (before, after) = (self.binding.clone(), new.clone());
            // Whoever hears of it before the answer has waited for nothing.
            let updating = tokio::spawn(async move {
                let done = client
                    .compare_and_swap(home, Some(&before), Some(&after))
                    .await;
                (done, Instant::now())
            });
            let mut heard = Vec::new();
            while heard.len() < self.members.len() {
                let news = timeout(PATIENCE, self.news.recv()).await;
                let Some(changed) = news.context("not all have heard of it")? else {
                    bail!("nobody is there");
                };
                if changed.binding.as_ref() == Some(&new) {
                    heard.push(Instant::now());
                }
            }
            let (done, answered) = updating.await?;
            ensure!(done? == Swap::Committed, "somebody else has changed it");
            answered_ms.push(millis(answered.duration_since(sent)));
            let after = heard
                .iter()
                .map(|at| at.saturating_duration_since(answered));
            heard_ms.extend(after.map(millis));
            self.binding = new;
        }
        Ok(Stage {
            subscribers: self.members.len() as u32,
            memory_kib,
            answered_ms,
            p50_ms: percentile(&heard_ms, 50.0),
            p99_ms: percentile(&heard_ms, 99.0),
            longest_ms: percentile(&heard_ms, 100.0),
        })
    }
}

/// Of at least one sample.
fn percentile(samples: &[f64], percent: f64) -> f64 {
    stats::percentile(samples, percent).unwrap_or(f64::NAN)
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn table(report: &Report) -> Result<String> {
    let mut text = "| subscribers | update answered (median) | heard of it after, 50 % | 99 % | \
                    all | memory a subscriber |\n|---|---|---|---|---|---|\n"
        .to_owned();
    for stage in &report.stages {
        let each =
            stage.memory_kib.saturating_sub(report.idle_kib) as f64 / f64::from(stage.subscribers);
        writeln!(
            text,
            "| {} | {:.1} ms | {:.1} ms | {:.1} ms | {:.1} ms | {each:.1} KiB |",
            stage.subscribers,
            percentile(&stage.answered_ms, 50.0),
            stage.p50_ms,
            stage.p99_ms,
            stage.longest_ms
        )?;
    }
    Ok(text)
}

//! `matctl demo`: a container moves between two hosts in different subnets in
//! the middle of a transfer, and one sees in numbers and in a picture that
//! nothing broke.
//!
//! Everything is real: kernel namespaces and links, the three programs, TCP and
//! UDP sockets. The lab is that of [`mat_netns::testbed`]; the measurement that
//! of [`crate::measure`]; the moves those of [`crate::moves`].
//!
//! # Limitations
//! All hosts share the machine's processors, so rates say little about a
//! network card. The transfer is paced unless told otherwise, because an unpaced
//! one keeps both processors of a small machine busy and every gap then also
//! measures who got a processor when.

mod show;

use std::io::{BufRead, BufReader, Seek};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mat_netns::testbed::{Instance, Options, Testbed};
use mat_netns::{Cmd, Process, Signal, interrupt, wait_until};

use crate::measure::Progress;
use crate::moves::{self, Driver, Trip};
use crate::report::schema::Move;
use crate::report::{self, Report};
use crate::site::Site;

/// `matctl demo`
#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {
    /// How the container is moved
    #[arg(long, value_enum, default_value_t = DriverKind::Netns)]
    driver: DriverKind,
    /// Use the IPv6 home addresses
    #[arg(long)]
    ipv6: bool,
    /// Round trip between any two sites, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 20.0)]
    rtt: f64,
    /// How often the container moves, every three seconds; 0 shows the lab at rest for a minute
    #[arg(long, value_name = "COUNT", default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=1000))]
    moves: u32,
    /// Pace of the TCP stream in each direction; 0 is as fast as it goes
    #[arg(long, value_name = "MBPS", default_value_t = 400.0)]
    tcp_rate_mbps: f64,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the report as a self-contained HTML file
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Write the throughput figure as SVG
    #[arg(long, value_name = "FILE.svg")]
    svg: Option<PathBuf>,
    /// Leave the lab running until Ctrl-C, to look around in it
    #[arg(long)]
    keep: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum DriverKind {
    /// The container's link is moved from one host to the other, its process stopped meanwhile
    Netns,
}

/// The first move begins so long after the measurement's time zero, and each after the one before.
const FIRST: Duration = Duration::from_millis(2500);
const EVERY: Duration = Duration::from_secs(3);
/// The measurement goes on so long after the last move has begun.
const AFTER: Duration = Duration::from_millis(2500);
/// How long it takes without moves.
const AT_REST: Duration = Duration::from_secs(60);
/// Beyond the length: agreement, the stall limit and the far side's account.
const PATIENCE: Duration = Duration::from_secs(45);

/// Runs the demo. Success only if every connection survived all moves intact.
///
/// # Errors
/// When the lab cannot be built, a part of it dies, or a move fails.
pub fn run(args: &DemoArgs) -> Result<ExitCode> {
    let DriverKind::Netns = args.driver;
    anyhow::ensure!(
        args.rtt >= 0.0 && args.rtt <= 2000.0,
        "--rtt {}: give a round trip from 0 to 2000 milliseconds",
        args.rtt
    );
    anyhow::ensure!(
        args.tcp_rate_mbps >= 0.0 && args.tcp_rate_mbps.is_finite(),
        "--tcp-rate-mbps {}: give a rate, or 0 for as fast as it goes",
        args.tcp_rate_mbps
    );
    show::title(args.ipv6, args.rtt);
    let testbed = Testbed::new(Options {
        rtt_ms: args.rtt,
        ..Options::new()?
    })?;
    let outcome = scene(args, &testbed);
    // What died explains an error better than the error itself.
    let report = match (dead(&testbed), outcome) {
        (Some(death), _) => bail!(death),
        (None, outcome) => outcome?,
    };
    write(args, &report)?;
    println!("\n{}", report::table(&report));
    let ok = report.all_survived_intact();
    show::verdict(&report, ok, args.rtt);
    if args.keep {
        show::keep(&testbed);
        while !testbed.lab.interrupted() {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    testbed.lab.end()?;
    Ok(if ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Everything that happens in the lab.
fn scene(args: &DemoArgs, testbed: &Testbed) -> Result<Report> {
    let web = testbed.instance("web", 10, "a")?;
    let user = testbed.instance("user", 20, "c")?;
    show::lab(testbed, &web, &user);
    let (server, client, result) = transfer(args, testbed, &web, &user)?;
    let mut follow = Follow::new(&client)?;
    let first = follow.first(testbed)?;
    let start = Instant::now() - Duration::from_millis(first.t_ms);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let mut driver = LabDriver {
        testbed,
        web: &web,
        server: &server,
        frozen: false,
    };
    let mut moves = Vec::new();
    for n in 0..args.moves {
        follow.until(testbed, start + FIRST + EVERY * n)?;
        let (from, to) = if n % 2 == 0 { ("a", "b") } else { ("b", "a") };
        show::move_begins(&web.name, from, to);
        let homes = [web.home.parse()?, web.home6.parse()?];
        let (from, to) = (site(testbed, from), site(testbed, to));
        let trip = Trip {
            instance: &web.name,
            homes: &homes,
            interface: Some(&web.interface),
            mac: None,
            from: &from,
            to: &to,
        };
        let permit = &mut |_| Ok(());
        let moved = moves::move_instance(trip, &mut driver, permit);
        let outcome = runtime.block_on(moved)?;
        show::move_ended(&outcome);
        moves.push(Move::from(&outcome));
    }
    follow.until(testbed, start + length(args.moves))?;
    // The server ends by itself after the one run.
    client.wait(PATIENCE)?;
    server.wait(PATIENCE)?;
    let text = std::fs::read_to_string(&result)
        .with_context(|| format!("the measurement failed: {}", client.log_tail()))?;
    let report = Report::from_json(&text)?;
    Ok(report.with_moves(moves))
}

/// How long the measurement takes.
fn length(moves: u32) -> Duration {
    match moves.checked_sub(1) {
        Some(others) => FIRST + EVERY * others + AFTER,
        None => AT_REST,
    }
}

/// Starts both ends of the measurement.
fn transfer(
    args: &DemoArgs,
    testbed: &Testbed,
    web: &Instance,
    user: &Instance,
) -> Result<(Process, Process, PathBuf)> {
    let matctl = testbed.options().binaries.join("matctl");
    let home = if args.ipv6 { &web.home6 } else { &web.home };
    let result = testbed.lab.dir().join("measurement.json");
    let server = Cmd::new(&matctl)
        .args(["measure", "server", "--once", "--bind", home])
        .name("server");
    let server = web.host.spawn(server)?;
    server.wait_for_log("listening on", Duration::from_secs(10))?;
    let mut client = Cmd::new(&matctl)
        .args(["measure", "client", home, "--progress", "--duration"])
        .arg(length(args.moves).as_secs_f64().to_string())
        .arg("--json")
        .arg(&result)
        .name("client");
    if args.tcp_rate_mbps > 0.0 {
        client = client.args(["--tcp-rate-mbps", &args.tcp_rate_mbps.to_string()]);
    }
    let client = user.host.spawn(client)?;
    Ok((server, client, result))
}

fn site(testbed: &Testbed, name: &str) -> Site {
    let site = testbed.site(name);
    Site {
        name: name.to_owned(),
        socket: site.socket.clone(),
        other_socket: None,
        netns: Some(site.host.namespace_name().to_owned()),
    }
}

/// Moves the container's link within the lab, and stops its process for that
/// moment, as moving a real container does.
struct LabDriver<'a> {
    testbed: &'a Testbed,
    web: &'a Instance,
    server: &'a Process,
    frozen: bool,
}

impl Driver for LabDriver<'_> {
    fn name(&self) -> &str {
        "netns"
    }

    fn freeze(&mut self) -> Result<()> {
        self.server.signal(Signal::SIGSTOP)?;
        self.frozen = true;
        Ok(())
    }

    fn stands_still(&self) -> bool {
        true
    }

    fn thaw(&mut self) {
        if std::mem::take(&mut self.frozen) {
            // Fails only if the process is gone, which the demo notices anyway.
            let _ = self.server.signal(Signal::SIGCONT);
        }
    }

    fn relocate(&mut self, from: &str, to: &str) -> Result<()> {
        let (from, to) = (&self.testbed.site(from).host, &self.testbed.site(to).host);
        self.testbed
            .lab
            .move_link(&self.web.interface, from, to)
            .map(drop)
    }

    fn bring_back(&mut self, from: &str, to: &str) -> Result<()> {
        self.relocate(to, from)
    }
}

/// Follows the measurement live.
struct Follow<'a> {
    client: &'a Process,
    lines: BufReader<std::fs::File>,
    partial: String,
    shown_ms: u64,
}

impl<'a> Follow<'a> {
    fn new(client: &'a Process) -> Result<Self> {
        let mut file = std::fs::File::open(client.log_path())?;
        file.rewind()?;
        Ok(Follow {
            client,
            lines: BufReader::new(file),
            partial: String::new(),
            shown_ms: 0,
        })
    }

    fn first(&mut self, testbed: &Testbed) -> Result<Progress> {
        let mut death = None;
        let first = wait_until(Duration::from_secs(15), "the transfer to begin", || {
            death = dead(testbed).or_else(|| self.client_ended());
            if death.is_some() {
                return Some(None);
            }
            self.next().map(Some)
        })?;
        match (first, death) {
            (Some(progress), _) => Ok(progress),
            (None, death) => bail!(death.unwrap_or_default()),
        }
    }

    /// Shows progress until `end`.
    fn until(&mut self, testbed: &Testbed, end: Instant) -> Result<()> {
        while Instant::now() < end {
            if interrupt::requested() {
                bail!("interrupted");
            }
            if let Some(death) = dead(testbed) {
                bail!(death);
            }
            while let Some(progress) = self.next() {
                // Every second line, and every one that shows a stall.
                if progress.stalled || progress.t_ms >= self.shown_ms + 190 {
                    self.shown_ms = progress.t_ms;
                    show::progress(&progress);
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn next(&mut self) -> Option<Progress> {
        // The file grows while it is read: a line may come in two parts.
        self.lines.read_line(&mut self.partial).ok()?;
        if !self.partial.ends_with('\n') {
            return None;
        }
        let progress = serde_json::from_str(&self.partial).ok();
        self.partial.clear();
        progress
    }

    fn client_ended(&self) -> Option<String> {
        let status = self.client.status()?;
        Some(format!(
            "the transfer ended before it began ({status}):\n{}",
            self.client.log_tail()
        ))
    }
}

/// What of the lab has died, in words.
fn dead(testbed: &Testbed) -> Option<String> {
    let vital = |p: &Process| {
        ["matd", "mat-mapd", "server", "client"]
            .iter()
            .any(|n| p.name().contains(n))
    };
    let mut processes = testbed.lab.processes().into_iter().filter(vital);
    processes.find_map(|p| {
        let status = p.status()?;
        let ended_well = status.success() || status.code() == Some(1);
        // The two ends of the measurement end by themselves.
        let measuring = p.name().contains("server") || p.name().contains("client");
        if measuring && ended_well {
            return None;
        }
        Some(format!(
            "{} (process {}) died: {status}\n{}",
            p.name(),
            p.pid(),
            p.log_tail()
        ))
    })
}

fn write(args: &DemoArgs, report: &Report) -> Result<()> {
    let files = [
        (&args.json, report.to_json() + "\n"),
        (&args.report, report::html::page(report)),
        (&args.svg, report::figure::standalone(report)),
    ];
    for (path, text) in files {
        if let Some(path) = path {
            std::fs::write(path, text)
                .with_context(|| format!("cannot write {}", path.display()))?;
            println!("wrote {}", path.display());
        }
    }
    Ok(())
}

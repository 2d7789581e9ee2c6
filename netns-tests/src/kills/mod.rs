//! One program is killed (SIGKILL) at one moment of a move, while both families carry data; then
//! exactly one site serves the instance, and no connection has noticed more than a pause.
//!
//! The move is that of `matctl move --step`, which waits before each step. Forwarders and mapping
//! service are started again after 100 ms, as `matd.service` says; `matctl` is not.
//!
//! What a cell demands:
//! - in the end one site serves both home addresses, the other neither, and that stays so;
//! - all connections survive, and every byte is right;
//! - no instance gets a packet for another address, no end hears a reset, and nothing leaves a
//!   site with a home address or an error of the kernel's (see [`LEAKS`]), but for what it says of
//!   closed ports between the mapping service and those who ask it.

mod report;

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use crate::testbed::{Instance, Options, Testbed, Transfer, serve};
use crate::watch::{LEAKS, RESETS, Watch};
use crate::{Process, wait_until};
pub use report::{Cell, Report};

/// Enough to be in the middle of something at any time.
const PACE: &str = "--tcp-rate-mbps 50";
/// `RestartSec` of `matd.service`.
const RESTART: Duration = Duration::from_millis(100);
/// The forwarders decide by themselves after 35 s.
const SETTLED: Duration = Duration::from_secs(60);
/// Longer than forwarders take to look at a binding again.
const STEADY: Duration = Duration::from_secs(2);

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// The forwarder that the instance leaves.
    OldMatd,
    /// The forwarder that it comes to.
    NewMatd,
    /// The forwarder of its peer.
    PeerMatd,
    /// The mapping service.
    Mapd,
    /// The tool that moves it.
    Matctl,
}

/// When.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The new site is prepared.
    Prepared,
    /// Everybody knows that it stands by.
    Published,
    /// The old site has let go, and the instance is about to leave.
    Detached,
    /// So long after the instance has begun to leave and its binding to change.
    UnderWay(Duration),
    /// `matctl` has said that it is moved.
    Moved,
}

/// All victims.
pub const VICTIMS: [Victim; 5] = [
    Victim::OldMatd,
    Victim::NewMatd,
    Victim::PeerMatd,
    Victim::Mapd,
    Victim::Matctl,
];

/// All moments of a move at 20 ms round trip, which is under way for some 50 ms.
pub const MOMENTS: [Moment; 7] = [
    Moment::Prepared,
    Moment::Published,
    Moment::Detached,
    Moment::UnderWay(Duration::from_millis(5)),
    Moment::UnderWay(Duration::from_millis(20)),
    Moment::UnderWay(Duration::from_millis(40)),
    Moment::Moved,
];

impl Victim {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Victim::OldMatd => "old matd",
            Victim::NewMatd => "new matd",
            Victim::PeerMatd => "peer's matd",
            Victim::Mapd => "mat-mapd",
            Victim::Matctl => "matctl",
        }
    }

    fn site(self) -> Option<&'static str> {
        match self {
            Victim::OldMatd => Some("a"),
            Victim::NewMatd => Some("b"),
            Victim::PeerMatd => Some("c"),
            Victim::Mapd | Victim::Matctl => None,
        }
    }
}

impl Moment {
    /// What it is called.
    pub fn name(self) -> String {
        match self {
            Moment::Prepared => "prepared".to_owned(),
            Moment::Published => "published".to_owned(),
            Moment::Detached => "detached".to_owned(),
            Moment::UnderWay(after) => format!("under way for {} ms", after.as_millis()),
            Moment::Moved => "moved".to_owned(),
        }
    }
}

/// web at site a, user at site c, data between them, and watches.
struct Stage {
    bed: Testbed,
    web: Instance,
    transfers: [(&'static str, Transfer); 2],
    ends: [Watch; 2],
    router: Watch,
}

/// Kills `victim` at `moment` of a move from a to b at this round trip.
///
/// # Errors
/// The cell could not be played; what it finds wrong is in [`Cell::faults`].
pub fn play(victim: Victim, moment: Moment, rtt_ms: f64) -> Result<Cell> {
    let what = || format!("{} killed when {}", victim.name(), moment.name());
    let mut stage = Stage::new(rtt_ms)?;
    let (ended, settling) = stage.play(victim, moment).with_context(what)?;
    stage.judge(victim, moment, ended, settling)
}

impl Stage {
    fn new(rtt_ms: f64) -> Result<Self> {
        let bed = Testbed::new(Options {
            rtt_ms,
            ..Options::new()?
        })?;
        let web = bed.instance("web", 10, "a")?;
        let user = bed.instance("user", 20, "c")?;
        let _server = serve(&bed, &web.host)?;
        Ok(Stage {
            transfers: Transfer::both(&bed, &user, &web, PACE)?,
            ends: [watch_end(&web)?, watch_end(&user)?],
            router: Watch::on(&bed.router, &leaks())?,
            bed,
            web,
        })
    }

    /// Plays the move; what became of `matctl`, and when the victim was killed.
    fn play(&mut self, victim: Victim, moment: Moment) -> Result<(&'static str, Instant)> {
        let mut stepped = self.bed.step_move(&self.web, "b")?;
        let mut killed = None;
        let mut dead = None;
        let steps = [
            (Moment::Prepared, "publish"),
            (Moment::Published, "detach"),
            (Moment::Detached, "relocate"),
        ];
        for (at, next) in steps {
            stepped.go_on()?;
            // The step is under way without it.
            if let Some(at) = dead.take() {
                self.restart(victim, at)?;
            }
            if !stepped.asks_for(next)? {
                break;
            }
            if at == moment {
                let matctl = stepped.matctl.clone();
                dead = Some(self.kill(victim, &matctl)?);
                killed = dead;
            }
        }
        stepped.go_on()?;
        if let Moment::UnderWay(after) = moment {
            thread::sleep(after);
            dead = Some(self.kill(victim, &stepped.matctl)?);
            killed = dead;
        }
        if let Some(at) = dead {
            self.restart(victim, at)?;
        }
        let moved = stepped.end()?;
        if moment == Moment::Moved {
            ensure!(moved, "{}", stepped.matctl.log());
            let at = self.kill(victim, &stepped.matctl)?;
            self.restart(victim, at)?;
            killed = Some(at);
        }
        let log = stepped.matctl.log();
        let ended = match moved {
            true => "moved",
            false if log.contains("ROLL-BACK FAILED") => "roll-back failed",
            false if log.contains("everything is as before") => "rolled back",
            false => "killed",
        };
        println!("{log}");
        Ok((ended, killed.context("nobody was killed")?))
    }

    fn kill(&self, victim: Victim, matctl: &Process) -> Result<Instant> {
        let process = match victim.site() {
            Some(site) => &self.bed.site(site).matd,
            None if victim == Victim::Mapd => &self.bed.mapd,
            None => matctl,
        };
        process.kill()?;
        Ok(Instant::now())
    }

    fn restart(&mut self, victim: Victim, killed: Instant) -> Result<()> {
        thread::sleep((killed + RESTART).saturating_duration_since(Instant::now()));
        match victim.site() {
            Some(site) => self.bed.restart_matd(site),
            None if victim == Victim::Mapd => self.bed.restart_mapd(),
            None => Ok(()),
        }
    }

    /// The one site that serves both homes, if there is one and the other serves neither.
    fn server(&self) -> Result<Option<&'static str>> {
        let mut serving = Vec::new();
        for site in ["a", "b"] {
            for home in [&self.web.home, &self.web.home6] {
                if self.bed.home_state(site, home)? == "serving" {
                    serving.push(site);
                }
            }
        }
        Ok(match serving[..] {
            [one, other] if one == other => Some(one),
            _ => None,
        })
    }

    /// That site goes on serving both homes, for as long as forwarders take to look again.
    fn stays(&self, site: &'static str) -> Result<&'static str> {
        let since = Instant::now();
        wait_until(STEADY * 2, "it to stay served", || match self.server() {
            Ok(Some(now)) if now == site => (since.elapsed() >= STEADY).then_some(Ok(site)),
            Ok(now) => Some(Err(anyhow!("served at {site}, then at {now:?}"))),
            Err(error) => Some(Err(error)),
        })?
    }

    fn judge(self, victim: Victim, moment: Moment, ended: &str, killed: Instant) -> Result<Cell> {
        let mut faults = Vec::new();
        let settled = wait_until(SETTLED, "one site to serve", || self.server().ok()?);
        let mut settled_s = killed.elapsed().as_secs_f64();
        let flows = |(family, transfer): &(&str, Transfer)| {
            transfer
                .flows()
                .with_context(|| format!("{family} does not flow"))
        };
        let flowing = self.transfers.iter().try_for_each(flows);
        settled_s = settled_s.max(killed.elapsed().as_secs_f64());
        let served_at = settled.and_then(|site| self.stays(site));
        let served_at = served_at.unwrap_or_else(|error| {
            faults.push(format!("{error:#}"));
            "?"
        });
        faults.extend(flowing.err().map(|error| format!("{error:#}")));
        for (end, name) in self.ends.iter().zip(["web", "user"]) {
            for cause in [RESETS.0, "strays4", "strays6"] {
                let n = end.count(cause)?;
                if n > 0 {
                    faults.push(format!("{n} {cause} at {name}"));
                }
            }
        }
        for (cause, _) in leaks() {
            let n = self.router.count(cause)?;
            if n > 0 {
                faults.push(format!("{n} {cause} on the uplinks"));
            }
        }
        let mut pauses_ms = [0.0, 0.0];
        let mut lost = 0;
        for ((family, transfer), pause) in self.transfers.into_iter().zip(&mut pauses_ms) {
            match transfer.finish(family) {
                Ok(report) => {
                    *pause = report["tcp"]["longest_stall_ms"].as_f64().unwrap_or(0.0);
                    lost += report["udp"]["lost"].as_u64().unwrap_or(0);
                }
                Err(error) => faults.push(format!("{error:#}")),
            }
        }
        let cell = Cell {
            victim: victim.name().to_owned(),
            moment: moment.name(),
            matctl: ended.to_owned(),
            served_at: served_at.to_owned(),
            settled_s,
            pauses_ms,
            lost,
            faults,
        };
        self.bed.lab.end()?;
        Ok(cell)
    }
}

/// [`LEAKS`] without what the mapping service and those who ask it tell each other of ports that
/// are closed because somebody was killed.
fn leaks() -> [(&'static str, &'static str); 4] {
    LEAKS.map(|(name, condition)| match name {
        "errors4" => (
            name,
            "ip saddr != 203.0.113.53 ip daddr != 203.0.113.53 icmp type destination-unreachable",
        ),
        _ => (name, condition),
    })
}

/// Resets, and what comes to an instance for somebody else.
fn watch_end(instance: &Instance) -> Result<Watch> {
    let stray4 = format!(
        "meta iifname eth0 ip daddr 192.0.2.0/24 ip daddr != {}",
        instance.home
    );
    let stray6 = format!(
        "meta iifname eth0 ip6 daddr 2001:db8:1::/64 ip6 daddr != {}",
        instance.home6
    );
    Watch::on(
        &instance.host,
        &[RESETS, ("strays4", &stray4), ("strays6", &stray6)],
    )
}

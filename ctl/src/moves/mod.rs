//! Moving an instance from one site to another, or leaving it where it is.
//!
//! [`move_instance`] goes through the steps of [`crate::plan`]: it reserves locators at the new
//! site, has them published as standing by, takes the instance's state from the old one, has a
//! [`Driver`] move the instance itself, and tells the new site to take over, meanwhile if the
//! instance stands still. Connections to both forwarders are open before the first step, and the
//! home addresses of an instance go through each step side by side, because what happens between
//! detach and activate is the gap its peers see.
//!
//! Invariant: it ends with the instance served at exactly one of the two sites, or says which
//! part of the roll-back failed and why. It must be polled to its end: a future that is dropped
//! leaves the move where it stands. (The two sites then decide between themselves.) It needs a
//! runtime of several threads: a driver blocks.
//!
//! # Limitations
//! - A forwarder keeps a reservation for 30 s: a driver that needs longer than that ends in a
//!   roll-back.
//! - If the mapping service cannot be reached during a roll-back either, the old site serves the
//!   instance again as soon as it answers, not before.
//! - When `matctl` itself is killed between detach and the end, the forwarders finish the
//!   move or undo it, within seconds if they see its connections end, else after half a minute.

pub mod driver;
mod homes;
mod outcome;
mod undo;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::future::{BoxFuture, FutureExt, TryFutureExt, join_all};
use mat_proto::Home;
use mat_proto::auth::MoveKey;

pub use driver::{Driver, ExecDriver, NetnsDriver, NoDriver};
pub use outcome::{HomeMove, MoveError, MoveOutcome, Undone};

use crate::config::Instance;
use crate::plan::{self, Step};
use crate::site::Site;
use homes::MovingHome;

/// How long peers are waited for once the binding has changed.
const PEERS_PATIENCE: Duration = Duration::from_secs(2);

/// How long peers are waited for that are to make sure of the new site beforehand.
const AHEAD_PATIENCE: Duration = Duration::from_millis(500);

/// How long the new site is given to make the instance's link ready. Beyond it the move goes on:
/// the link may come later, and packets wait for it.
const LINK_PATIENCE: Duration = Duration::from_millis(300);

/// What to move, from where to where.
#[derive(Clone, Copy, Debug)]
pub struct Trip<'a> {
    /// Name of the instance, for people.
    pub instance: &'a str,
    /// Its home addresses.
    pub homes: &'a [Home],
    /// Its interface at the new site, if that is a gateway; as at the old site if `None`.
    pub interface: Option<&'a str>,
    /// Its MAC address; as at the old site if `None`.
    pub mac: Option<&'a str>,
    /// The site that serves it now.
    pub from: &'a Site,
    /// The site that is to serve it.
    pub to: &'a Site,
}

impl<'a> Trip<'a> {
    /// Of an instance of the configuration.
    pub fn new(instance: &'a Instance, from: &'a Site, to: &'a Site) -> Self {
        Trip {
            instance: &instance.name,
            homes: &instance.homes,
            interface: instance.interface.as_deref(),
            mac: instance.mac.as_deref(),
            from,
            to,
        }
    }
}

/// Whether a move may take the next step; the text says why not.
pub type Permit<'a> = &'a mut (dyn FnMut(Step) -> Result<(), String> + Send);

/// Moves an instance, which `driver` takes there; `permit` is asked before each step that changes
/// something, and what it refuses is undone from there. Returns when the new site serves all its
/// homes and all its peers have acknowledged that, or two seconds have passed; late peers are no
/// failure.
///
/// # Errors
/// The step that failed, and what was undone of the steps before it.
pub async fn move_instance(
    trip: Trip<'_>,
    driver: &mut dyn Driver,
    permit: Permit<'_>,
) -> Result<MoveOutcome, MoveError> {
    let clock = Clock::start();
    let names = outcome::Names {
        instance: trip.instance.to_owned(),
        from: trip.from.name.clone(),
        to: trip.to.name.clone(),
    };
    let mut homes = match check(trip).await {
        Ok(homes) => homes,
        Err(cause) => return Err(MoveError::new(&names, Step::Check, cause, Vec::new())),
    };
    let mut relocated = false;
    let ahead = forward(&mut homes, driver, permit, &mut relocated, &names, &clock);
    match ahead.await {
        Ok(times) => Ok(MoveOutcome::new(
            driver.name(),
            &names,
            times,
            homes.iter().filter_map(MovingHome::summary).collect(),
        )),
        Err((step, cause)) => {
            let stages: Vec<_> = homes.iter().map(|h| (h.home, h.stage)).collect();
            let plan = plan::roll_back(relocated, &stages);
            let undone = undo::roll_back(&plan, &mut homes, driver, &names).await;
            driver.thaw();
            Err(MoveError::new(&names, step, cause, undone))
        }
    }
}

/// Opens all connections and looks whether the instance is where it is said to be.
async fn check(trip: Trip<'_>) -> Result<Vec<MovingHome>, String> {
    if trip.homes.is_empty() {
        return Err("the instance has no home address".to_owned());
    }
    if trip.from.name == trip.to.name {
        return Err("the old and the new site are the same".to_owned());
    }
    let key = MoveKey(random()?);
    let opened = trip
        .homes
        .iter()
        .map(|home| MovingHome::open(*home, key, trip));
    join_all(opened).await.into_iter().collect()
}

type Failure = (Step, String);

async fn forward(
    homes: &mut Vec<MovingHome>,
    driver: &mut dyn Driver,
    permit: Permit<'_>,
    relocated: &mut bool,
    names: &outcome::Names,
    clock: &Clock,
) -> Result<outcome::Times, Failure> {
    let mut may = |step| tokio::task::block_in_place(|| permit(step)).map_err(|why| (step, why));
    may(Step::Prepare)?;
    let prepared = join_all(homes.iter_mut().map(MovingHome::prepare)).await;
    all(Step::Prepare, prepared)?;

    may(Step::Publish)?;
    let published = join_all(homes.iter_mut().map(MovingHome::publish)).await;
    all(Step::Publish, published)?;
    let told = homes.iter_mut();
    let told = join_all(told.map(|home| home.tell_peers(AHEAD_PATIENCE))).await;
    all(Step::Publish, told)?;

    may(Step::Detach)?;
    let frozen = Instant::now();
    driver
        .freeze()
        .map_err(|error| (Step::Detach, format!("{error:#}")))?;
    let detached_us = clock.unix_us();
    let detached = join_all(homes.iter_mut().map(MovingHome::detach)).await;
    all(Step::Detach, detached)?;

    may(Step::Relocate)?;
    // Until it is there and the binding has changed, the new site holds its packets. Both at
    // once is one round trip to the mapping service less.
    let mut links: Vec<_> = homes.iter_mut().filter_map(MovingHome::link).collect();
    let still = driver.stands_still();
    let mut activating = if still { activate(homes) } else { Vec::new() };
    let relocation = tokio::task::block_in_place(|| driver.relocate(&names.from, &names.to));
    if relocation.is_ok() {
        *relocated = true;
        let deadline = Instant::now() + LINK_PATIENCE;
        join_all(links.iter_mut().map(|link| link.ready(deadline))).await;
        driver.thaw();
    }
    let frozen = if still {
        frozen.elapsed()
    } else {
        Duration::ZERO
    };
    if relocation.is_ok() && !still {
        may(Step::Activate)?;
        activating = activate(homes);
    }
    let mut activated = Vec::new();
    for (home, result) in join_all(activating).await {
        homes.push(home);
        activated.push(result);
    }
    relocation.map_err(|error| (Step::Relocate, format!("{error:#}")))?;
    let activated_us = clock.unix_us();
    all(Step::Activate, activated)?;

    let deadline = Instant::now() + PEERS_PATIENCE;
    join_all(homes.iter_mut().map(|home| home.follow(deadline))).await;
    Ok(outcome::Times {
        started_unix_us: clock.unix_us,
        detached_unix_us: detached_us,
        activated_unix_us: activated_us,
        ended_unix_us: clock.unix_us(),
        frozen_us: frozen.as_micros() as u64,
    })
}

type Activation = BoxFuture<'static, (MovingHome, Result<(), String>)>;

/// Has the new site take over: other threads see to it from now on.
fn activate(homes: &mut Vec<MovingHome>) -> Vec<Activation> {
    let one = |mut home: MovingHome| {
        let task = tokio::spawn(async move {
            let result = home.activate().await;
            (home, result)
        });
        let ended = task.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Nobody aborts it.
            Err(error) => unreachable!("{error}"),
        });
        ended.boxed()
    };
    homes.drain(..).map(one).collect()
}

/// All homes have tried the step; one failure is enough to go no further.
fn all(step: Step, results: Vec<Result<(), String>>) -> Result<(), Failure> {
    let causes: Vec<String> = results.into_iter().filter_map(Result::err).collect();
    if causes.is_empty() {
        Ok(())
    } else {
        Err((step, causes.join("; ")))
    }
}

fn random() -> Result<[u8; 32], String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|e| format!("the system gives no random numbers: {e}"))?;
    Ok(bytes)
}

/// Wall-clock times that differ by what a steady clock says.
struct Clock {
    unix_us: u64,
    started: Instant,
}

impl Clock {
    fn start() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH);
        Clock {
            unix_us: unix.map_or(0, |since| since.as_micros() as u64),
            started: Instant::now(),
        }
    }

    fn unix_us(&self) -> u64 {
        self.unix_us + self.started.elapsed().as_micros() as u64
    }
}

//! Carrying out a roll-back: each thing is tried, whatever became of those before it.

use std::time::{Duration, Instant};

use mat_dataplane::agent::{Handover, RelayTo};
use mat_dataplane::io::api::{AttachBody, DetachBody, PrepareBody};

use super::driver::Driver;
use super::homes::MovingHome;
use super::outcome::{Names, Undone};
use crate::plan::{Stage, Undo};
use crate::site::SiteError;

/// How long the old site may take to serve again. Registering waits for the mapping service.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longer than a forwarder waits between two looks at the binding (1 s): a change that was under
/// way when the new site was stopped shows by then.
const WATCH: Duration = Duration::from_millis(1500);
/// How long a forwarder may take to be there again after a crash.
const RESTART: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

pub(super) async fn roll_back(
    plan: &[Undo],
    homes: &mut [MovingHome],
    driver: &mut dyn Driver,
    names: &Names,
) -> Vec<Undone> {
    let mut undone = Vec::new();
    for undo in plan {
        let result = match undo {
            Undo::BringBack => driver
                .bring_back(&names.from, &names.to)
                .map_err(|error| format!("{error:#}")),
            Undo::Reattach(home)
            | Undo::TakeBack(home)
            | Undo::Withdraw(home)
            | Undo::Confirm(home) => match homes.iter_mut().find(|h| h.home == *home) {
                Some(moving) => one(*undo, moving).await,
                None => Ok(()),
            },
        };
        undone.push(Undone {
            undo: *undo,
            result,
        });
    }
    undone
}

async fn one(undo: Undo, home: &mut MovingHome) -> Result<(), String> {
    match undo {
        Undo::BringBack => Ok(()),
        Undo::Reattach(_) => serve_again(home, Duration::ZERO).await,
        Undo::TakeBack(_) => take_back(home).await,
        Undo::Withdraw(_) => withdraw(home).await,
        Undo::Confirm(_) => serve_again(home, WATCH).await,
    }
}

/// Brings the old site to serve the home, and to do so for `steadily`.
async fn serve_again(moving: &mut MovingHome, steadily: Duration) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    let mut serving_since = None;
    let mut last = String::new();
    loop {
        let status = moving.old.home(moving.home).await;
        let status = status.map_err(|error| error.to_string())?;
        let now = Instant::now();
        match status.as_ref().map(|status| status.state.as_str()) {
            Some("serving") => {
                if now >= *serving_since.get_or_insert(now) + steadily {
                    return Ok(());
                }
            }
            Some("registering") => serving_since = None,
            state => {
                serving_since = None;
                // Attached, but the binding names the new site: to be claimed anew.
                if matches!(state, Some("not serving" | "prepared")) {
                    let body = DetachBody {
                        home: moving.home,
                        to: None,
                    };
                    let detached = moving.old.detach(&body).await;
                    detached.map_err(|error| error.to_string())?;
                }
                if let Err(error) = attach(moving).await {
                    last = format!(": {error}");
                }
            }
        }
        if now >= deadline {
            let state = status.map_or("not attached".to_owned(), |status| status.state);
            return Err(format!("it is {state} there after {PATIENCE:?}{last}"));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn attach(moving: &mut MovingHome) -> Result<(), SiteError> {
    let link = moving.before.link.clone();
    let handover = moving.handover.as_ref();
    // Once the new site was told to take over, only the mapping service knows.
    let unchanged = moving.stage == Stage::Detached;
    let body = AttachBody {
        home: moving.home,
        interface: link.as_ref().map(|link| link.interface.clone()),
        mac: link.and_then(|link| link.mac),
        claim: true,
        contexts: handover.map_or_else(Vec::new, |handover| handover.contexts.clone()),
        binding: handover.and_then(|h| h.binding.clone().filter(|_| unchanged)),
    };
    moving.old.attach(&body).await.map(drop)
}

/// A move in the other direction, so that contexts are as new as the peers know them.
async fn take_back(moving: &mut MovingHome) -> Result<(), String> {
    let link = moving.before.link.clone();
    let prepare = PrepareBody {
        home: moving.home,
        key: moving.key,
        interface: link.as_ref().map(|link| link.interface.clone()),
        mac: link.and_then(|link| link.mac),
    };
    let prepared = moving.old.prepare(&prepare).await;
    let prepared = prepared.map_err(|error| error.to_string())?;
    let detach = DetachBody {
        home: moving.home,
        to: Some(RelayTo {
            locator: prepared.locator,
            port: prepared.port,
            key: moving.key,
        }),
    };
    let handover = match hand_back(moving, &detach).await {
        Ok(handover) => handover,
        // It is not there to be asked; only the mapping service can stop it when it comes back.
        Err(error) if error.changed_nothing() => return serve_again(moving, WATCH).await,
        Err(error) => return Err(error.to_string()),
    };
    moving.handover = Some(handover.clone());
    match moving.old.activate(handover).await {
        Ok(_) => Ok(()),
        // Slower, but it needs neither the reservation nor an untouched binding.
        Err(_) => serve_again(moving, WATCH).await,
    }
}

/// Asks the new site for the home, for a while also if its forwarder is being restarted.
async fn hand_back(moving: &mut MovingHome, body: &DetachBody) -> Result<Handover, SiteError> {
    let deadline = Instant::now() + RESTART;
    loop {
        match moving.new.detach(body).await {
            Err(SiteError::Unreachable { .. }) if Instant::now() < deadline => {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            answer => return answer,
        }
    }
}

async fn withdraw(moving: &mut MovingHome) -> Result<(), String> {
    match moving.new.home(moving.home).await {
        // A forwarder that has stopped has forgotten what was reserved.
        Err(SiteError::Unreachable { .. }) => Ok(()),
        Err(error) => Err(error.to_string()),
        Ok(None) => Ok(()),
        Ok(Some(status)) if status.state == "departed" => Ok(()),
        Ok(Some(_)) => {
            let body = DetachBody {
                home: moving.home,
                to: None,
            };
            match moving.new.detach(&body).await {
                Ok(_) => Ok(()),
                Err(SiteError::Refused { status: 404, .. }) => Ok(()),
                Err(error) => Err(error.to_string()),
            }
        }
    }
}

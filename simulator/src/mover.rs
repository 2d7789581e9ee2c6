//! What `matctl move` does, step by step, and what it undoes when a step fails.

use std::time::Duration;

use mat_dataplane::agent::{Attach, Handover, RelayTo};
use mat_proto::auth::MoveKey;

use crate::scenario::{Death, Trip};
use crate::world::World;

/// A request and its answer take so long.
const CALL: Duration = Duration::from_millis(1);
/// Peers get so long to find the new site before the move goes on.
const AHEAD: Duration = Duration::from_millis(100);
/// The forwarder has so long to register the instance.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// How far a move has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Prepare,
    /// The new site is published, standing by.
    StandBy,
    /// Until it says that it is.
    WaitStandBy,
    Detach,
    Unplug,
    PlugIn,
    Activate,
    /// Until the forwarder says how it ended.
    Wait,
    BringBack,
    /// The old site is to serve again, until this many looks have been in vain.
    Reattach(u32),
    Withdraw,
    Over,
}

/// A move on its way.
#[derive(Clone, Debug)]
pub struct Mover {
    trip: Trip,
    from: usize,
    key: MoveKey,
    step: Step,
    relay: Option<RelayTo>,
    handover: Option<Handover>,
    /// The new site was told to take over.
    told: bool,
    /// The answer to that.
    pub settled: Option<bool>,
}

impl Mover {
    pub fn new(trip: Trip, from: usize, key: [u8; 32]) -> Self {
        Mover {
            trip,
            from,
            key: MoveKey(key),
            step: Step::Prepare,
            relay: None,
            handover: None,
            told: false,
            settled: None,
        }
    }

    /// Which instance it moves.
    pub fn host(&self) -> usize {
        self.trip.host
    }

    /// Whether this site is to say how something has ended that it was told to do.
    pub fn awaits(&self, site: usize) -> bool {
        (self.told || self.step == Step::WaitStandBy) && self.trip.to == site
    }

    /// Whether it has nothing else to do than to wait for the answer.
    pub fn waits(&self) -> bool {
        matches!(self.step, Step::Wait | Step::WaitStandBy)
    }

    pub fn is_over(&self) -> bool {
        self.step == Step::Over
    }

    /// Does one step; gives back when to go on.
    pub fn go(&mut self, world: &mut World) -> Duration {
        let Trip {
            host,
            to,
            freeze,
            early,
            dies,
        } = self.trip;
        let from = self.from;
        let home = world.home(host);
        let now = world.now();
        let (step, wait) = match self.step {
            Step::Prepare => {
                let key = self.key;
                let prepared = world.call(to, |agent| {
                    let prepared = agent.prepare(now, home, key, None).ok();
                    // Its link is looked for, and is not there.
                    agent.link_ready(now, home, false);
                    prepared
                });
                match prepared.flatten() {
                    Some(prepared) => {
                        self.relay = Some(RelayTo {
                            locator: prepared.locator,
                            port: prepared.port,
                            key,
                        });
                        (Step::StandBy, CALL)
                    }
                    None => self.fails(world, "the new site does not prepare", Step::Over),
                }
            }
            Step::StandBy => {
                let handover = world.call(from, |agent| agent.handover(home).ok());
                let handover = handover.flatten();
                let standing = world.call(to, |agent| {
                    handover.is_some_and(|handover| agent.stand_by(now, handover).is_ok())
                });
                match standing {
                    Some(true) => (Step::WaitStandBy, PATIENCE),
                    _ => self.fails(world, "the new site does not stand by", Step::Withdraw),
                }
            }
            Step::WaitStandBy => match self.settled.take() {
                Some(true) => {
                    let binding = world.call(to, |agent| agent.handover(home).ok());
                    let binding = binding.flatten().and_then(|handover| handover.binding);
                    world.call(from, |agent| {
                        binding.is_some_and(|binding| agent.learn(now, binding).is_ok())
                    });
                    (Step::Detach, AHEAD)
                }
                _ => self.fails(world, "the new site is not published", Step::Withdraw),
            },
            Step::Detach if dies == Some(Death::Detach) => self.death(world),
            Step::Detach => {
                let relay = self.relay;
                let handover = world.call(from, |agent| agent.detach(now, home, relay).ok());
                match handover.flatten() {
                    Some(handover) => {
                        self.handover = Some(handover);
                        let next = if early { Step::Activate } else { Step::Unplug };
                        (next, CALL)
                    }
                    None => self.fails(world, "the old site does not let go", Step::Withdraw),
                }
            }
            Step::Unplug if dies == Some(Death::Relocate) => self.death(world),
            Step::Unplug => {
                world.unplug(host);
                (Step::PlugIn, freeze)
            }
            Step::PlugIn => {
                world.plug_in(host, to);
                match self.settled {
                    Some(_) => (Step::Wait, CALL),
                    None if self.told => (Step::Wait, PATIENCE),
                    None => (Step::Activate, CALL),
                }
            }
            Step::Activate if dies == Some(Death::Activate) => self.death(world),
            Step::Activate => {
                self.told = true;
                let handover = self.handover.clone();
                let activated = world.call(to, |agent| {
                    handover.is_some_and(|handover| agent.activate(now, handover).is_ok())
                });
                match activated {
                    Some(true) if early => (Step::Unplug, CALL),
                    Some(true) => (Step::Wait, PATIENCE),
                    _ => self.fails(world, "the new site does not take over", Step::BringBack),
                }
            }
            Step::Wait => match self.settled {
                Some(true) => {
                    world.tell(format!("the move of h{host} to s{to} is complete"));
                    (Step::Over, CALL)
                }
                _ => self.fails(world, "the new site has not registered it", Step::BringBack),
            },
            Step::BringBack => {
                world.unplug(host);
                world.plug_in(host, from);
                (Step::Reattach(0), CALL)
            }
            Step::Reattach(tries) => self.reattach(world, tries),
            Step::Withdraw => {
                if world.state(to, host).is_some_and(|s| s != "departed") {
                    world.call(to, |agent| agent.detach(now, home, None).is_ok());
                }
                (Step::Over, CALL)
            }
            Step::Over => (Step::Over, CALL),
        };
        self.step = step;
        wait
    }

    /// Its connections to the sites end with it, unless its whole machine is gone.
    fn death(&self, world: &mut World) -> (Step, Duration) {
        let noticed = self.trip.freeze.as_millis().is_multiple_of(2);
        let how = if noticed { "" } else { " unnoticed" };
        world.tell(format!("the mover of h{} has died{how}", self.trip.host));
        if noticed {
            let (now, home) = (world.now(), world.home(self.trip.host));
            for site in [self.from, self.trip.to] {
                world.call(site, |agent| agent.unattended(now, home));
            }
        }
        (Step::Over, CALL)
    }

    fn fails(&self, world: &mut World, why: &str, next: Step) -> (Step, Duration) {
        world.tell(format!("the move of h{} fails: {why}", self.trip.host));
        (next, CALL)
    }

    /// As `matctl` does it: attach with what the old site gave away, and if that is of no
    /// use because the binding names the new site, claim it anew.
    fn reattach(&mut self, world: &mut World, tries: u32) -> (Step, Duration) {
        let (host, from) = (self.trip.host, self.from);
        let home = world.home(host);
        let now = world.now();
        let state = world.state(from, host);
        if state.as_deref() == Some("serving") || tries >= 20 {
            return (Step::Withdraw, CALL);
        }
        if state.as_deref() == Some("registering") {
            return (Step::Reattach(tries + 1), LOOK_AGAIN);
        }
        if matches!(state.as_deref(), Some("not serving" | "prepared")) {
            world.call(from, |agent| agent.detach(now, home, None).is_ok());
        }
        let handover = self.handover.clone();
        let told = self.told;
        world.call(from, |agent| {
            let request = Attach {
                home,
                claim: true,
                link: None,
                ready: true,
                contexts: handover
                    .as_ref()
                    .map_or_else(Vec::new, |h| h.contexts.clone()),
                // Once the new site was told to take over, only the mapping service knows.
                binding: handover.and_then(|h| h.binding).filter(|_| !told),
            };
            agent.attach(now, request).is_ok()
        });
        (Step::Reattach(tries + 1), LOOK_AGAIN)
    }
}

//! One home address on its way: the requests, and how far they have come.

use std::time::{Duration, Instant};

use mat_dataplane::agent::{Activated, Handover, OwnStatus, RelayTo};
use mat_dataplane::io::api::{DetachBody, PrepareBody};
use mat_proto::auth::MoveKey;
use mat_proto::{Binding, Home, Locator};
use tokio::task::JoinSet;

use super::{HomeMove, Trip};
use crate::plan::Stage;
use crate::site::{Client, SiteError};

/// Between two looks at how the peers follow; the first acknowledgements take a round trip.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Between two looks whether the link is ready: the instance stands still meanwhile.
const LOOK_CLOSELY: Duration = Duration::from_millis(1);

/// The link of an instance at its new site.
pub(super) struct Link {
    home: Home,
    site: Client,
}

impl Link {
    /// Waits until the new site's kernel has the link ready, or `deadline`: an instance that runs
    /// before looks for its gateway in vain, and again only after a second.
    pub async fn ready(&mut self, deadline: Instant) {
        while Instant::now() < deadline {
            match self.site.home(self.home).await {
                Ok(Some(status)) if !status.ready => tokio::time::sleep(LOOK_CLOSELY).await,
                // If it cannot be asked, activation will say why.
                _ => return,
            }
        }
    }
}

pub(super) struct MovingHome {
    pub home: Home,
    pub stage: Stage,
    pub old: Client,
    pub new: Client,
    /// Another connection to the new site.
    link: Option<Link>,
    pub key: MoveKey,
    /// As the old site had it before the move.
    pub before: OwnStatus,
    /// What the old site gave away.
    pub handover: Option<Handover>,
    interface: Option<String>,
    mac: Option<String>,
    relay_to: Option<RelayTo>,
    /// The binding that names both sites.
    published: Option<Binding>,
    /// Connections that tell both sites that we are here.
    attending: JoinSet<()>,
    activated: Option<Activated>,
    peers_acknowledged: usize,
    last_ack_us: Option<u64>,
}

impl MovingHome {
    /// Connects to both sites; an error says why the move cannot even begin.
    pub async fn open(home: Home, key: MoveKey, trip: Trip<'_>) -> Result<Self, String> {
        let text = |error: SiteError| error.to_string();
        let mut old = trip.from.connect().await.map_err(text)?;
        let new = trip.to.connect().await.map_err(text)?;
        let beside = trip.to.connect().await.map_err(text)?;
        let from = &trip.from.name;
        let before = match old.home(home).await.map_err(text)? {
            Some(status) if status.state == "serving" => status,
            Some(status) => return Err(format!("{home} is {} at {from}", status.state)),
            None => return Err(format!("{home} is not attached at {from}")),
        };
        let link = before.link.as_ref();
        let link_interface = link.map(|link| link.interface.clone());
        let link_mac = link.and_then(|link| link.mac.clone());
        Ok(MovingHome {
            home,
            stage: Stage::Untouched,
            old,
            new,
            link: Some(Link { home, site: beside }),
            key,
            interface: trip.interface.map(str::to_owned).or(link_interface),
            mac: trip.mac.map(str::to_owned).or(link_mac),
            before,
            handover: None,
            relay_to: None,
            published: None,
            attending: JoinSet::new(),
            activated: None,
            peers_acknowledged: 0,
            last_ack_us: None,
        })
    }

    pub async fn prepare(&mut self) -> Result<(), String> {
        let body = PrepareBody {
            home: self.home,
            key: self.key,
            interface: self.interface.clone(),
            mac: self.mac.clone(),
        };
        match self.new.prepare(&body).await {
            Ok(prepared) => {
                self.stage = Stage::Prepared;
                self.relay_to = Some(RelayTo {
                    locator: prepared.locator,
                    port: prepared.port,
                    key: self.key,
                });
                self.attend().await.map_err(|error| error.to_string())
            }
            Err(error) => Err(self.failed(Stage::Prepared, &error)),
        }
    }

    /// From now on both sites know at once if we are gone.
    async fn attend(&mut self) -> Result<(), SiteError> {
        for site in [self.old.site(), self.new.site()] {
            self.attending
                .spawn(site.connect().await?.attend(self.home));
        }
        Ok(())
    }

    /// Has the new site published beside the old one.
    pub async fn publish(&mut self) -> Result<(), String> {
        let text = |error: SiteError| error.to_string();
        let handover = self.old.handover(self.home).await.map_err(text)?;
        self.published = Some(self.new.stand_by(handover).await.map_err(text)?);
        Ok(())
    }

    /// Has the old site tell its peers, so that they know the new one and have asked it before
    /// the gap. Those that have not until `patience` is over do so then.
    pub async fn tell_peers(&mut self, patience: Duration) -> Result<(), String> {
        let text = |error: SiteError| error.to_string();
        let Some(published) = &self.published else {
            return Ok(());
        };
        self.old.learn(published).await.map_err(text)?;
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            let status = self.old.home(self.home).await.map_err(text)?;
            let told = status.filter(|status| status.epoch >= published.epoch());
            if let Some(switch) = told.and_then(|status| status.switch)
                && switch.acknowledged >= switch.peers
            {
                break;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    pub async fn detach(&mut self) -> Result<(), String> {
        let body = DetachBody {
            home: self.home,
            to: self.relay_to,
        };
        match self.old.detach(&body).await {
            Ok(handover) => {
                self.stage = Stage::Detached;
                self.handover = Some(handover);
                Ok(())
            }
            Err(error) => Err(self.failed(Stage::Detached, &error)),
        }
    }

    pub async fn activate(&mut self) -> Result<(), String> {
        let handover = self.handover.clone();
        let handover = handover.ok_or_else(|| format!("{} was not detached", self.home))?;
        match self.new.activate(handover).await {
            Ok(activated) if activated.locator.is_some() => {
                self.stage = Stage::Activated;
                self.activated = Some(activated);
                Ok(())
            }
            Ok(_) => {
                self.stage = Stage::Uncertain;
                let to = &self.new.site().name;
                Err(format!("site {to}: {} was detached meanwhile", self.home))
            }
            Err(error) => Err(self.failed(Stage::Uncertain, &error)),
        }
    }

    /// What watches its link at the new site; once.
    pub fn link(&mut self) -> Option<Link> {
        self.link.take()
    }

    /// Watches the peers until all have acknowledged. It is no failure if they have not: the new
    /// site goes on telling them.
    pub async fn follow(&mut self, deadline: Instant) {
        loop {
            // Neither is it one if the forwarder cannot be asked: it serves by now.
            if let Ok(Some(status)) = self.new.home(self.home).await
                && let Some(switch) = status.switch
            {
                self.peers_acknowledged = switch.acknowledged;
                self.last_ack_us = switch.last_ack_us;
            }
            let peers = self.activated.map_or(0, |activated| activated.peers);
            if self.peers_acknowledged >= peers || Instant::now() >= deadline {
                return;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    pub fn summary(&self) -> Option<HomeMove> {
        let activated = self.activated?;
        let active = |handover: &Handover| {
            let entry = handover.binding.as_ref()?.active()?;
            Some(entry.locator)
        };
        let locator_before: Option<Locator> = self.handover.as_ref().and_then(active);
        Some(HomeMove {
            home: self.home,
            locator_before,
            locator_after: activated.locator,
            epoch_before: self.before.epoch.0,
            epoch_after: activated.epoch_after.0,
            map_update_us: activated.map_update_us,
            contexts: self.handover.as_ref().map_or(0, |h| h.contexts.len()),
            peers: activated.peers,
            peers_acknowledged: self.peers_acknowledged,
            last_ack_us: self.last_ack_us,
        })
    }

    /// A request that certainly changed nothing leaves the home where it was.
    fn failed(&mut self, stage: Stage, error: &SiteError) -> String {
        if !error.changed_nothing() {
            self.stage = stage;
        }
        error.to_string()
    }
}

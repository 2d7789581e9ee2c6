//! The mapping service as a whole: every zone with servers, key and push of its own, and each
//! home asked for where it belongs.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use mat_mapping::client::push::{Changed, Endpoint, Health, Subscriber};
use mat_mapping::client::{Algorithm, Anchors, MapClient, MapError, Swap, TsigKey};
use mat_proto::apl::List;
use mat_proto::{Binding, Home};

use tokio::sync::mpsc;

use super::api::PushStatus;
use super::engine::EngineHandle;
use crate::agent::{Answer, Proof, UpdateResult};
use crate::config::{Config, KeyAlgorithm, Told, Trust, Zone};
use crate::zoning::Zoning;

/// Changes that wait for the data thread.
const NEWS: usize = 256;

/// All zones.
pub struct Directory {
    zoning: Zoning,
    zones: Vec<Member>,
    /// What is pushed stands for an answer for so long.
    age: Duration,
    trust: Trust,
}

struct Member {
    client: MapClient,
    trust: Trust,
    endpoint: Option<Endpoint>,
    subscriber: Option<Subscriber>,
}

impl Member {
    fn proof(&self, verified: bool) -> Proof {
        match (verified, self.trust) {
            (true, _) => Proof::Signed,
            (false, Trust::Network) => Proof::Network,
            (false, Trust::Tsig | Trust::Dnssec) => Proof::Missing,
        }
    }
}

impl Directory {
    /// As configured.
    ///
    /// # Errors
    /// A name or key that DNS cannot have.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        let zones = config.mapping.zones.iter().map(member);
        Ok(Directory {
            zoning: config.mapping.zoning(),
            zones: zones.collect::<anyhow::Result<_>>()?,
            age: Duration::from_millis(config.mapping.poll_ms),
            trust: config.mapping.trust(),
        })
    }

    /// Has what zones push go to the data thread, until this is dropped.
    pub fn subscribe(&mut self, engine: &EngineHandle) {
        for zone in &mut self.zones {
            let Some(endpoint) = zone.endpoint.take() else {
                continue;
            };
            let (news, mut changes) = mpsc::channel(NEWS);
            let name = zone.client.zone().clone();
            zone.subscriber = Some(Subscriber::start(name, endpoint, self.age, news));
            let engine = engine.clone();
            tokio::spawn(async move {
                // Subscribed to are single homes.
                while let Some(Changed { whose, binding }) = changes.recv().await {
                    engine.news(whose.first(), pushed(binding));
                }
            });
        }
    }

    /// The binding that a zone has pushed of a home, if it would have pushed what has changed. From
    /// now on it does.
    pub fn recent(&self, home: Home) -> Option<Answer> {
        let subscriber = self.zone(home).subscriber.as_ref()?;
        // There may be a binding for its whole prefix, which only an answer says (RFC 8765 section
        // 6.2.1: subscriptions know no wildcards).
        let binding = subscriber.get(home)?;
        binding.is_some().then(|| pushed(binding))
    }

    /// Has a zone push what becomes of a home, for some minutes.
    pub fn watch(&self, home: Home) {
        // What is known already was told when it came.
        let _known = self.recent(home);
    }

    /// The weakest trust of any zone.
    pub fn trust(&self) -> Trust {
        self.trust
    }

    /// How push is doing.
    pub fn push(&self) -> Vec<PushStatus> {
        let subscribed = self.zones.iter().filter_map(|zone| {
            let (subscriptions, away) = match zone.subscriber.as_ref()?.health() {
                Health::Connected(subscriptions) => (subscriptions, None),
                Health::Away(why) => (0, Some(why)),
            };
            Some(PushStatus {
                zone: zone.client.zone().to_string(),
                subscriptions,
                away,
            })
        });
        subscribed.collect()
    }

    /// What the first zone says of its prefixes, in these lists.
    ///
    /// # Errors
    /// Also if its answer is not authenticated as `mapping.trust` wants it.
    pub async fn told(&self, lists: &[List]) -> anyhow::Result<Told> {
        let zone = &self.zones[0];
        let mut told = Told::default();
        for list in lists {
            let said = zone.client.prefixes(*list).await?;
            if zone.proof(said.verified) == Proof::Missing {
                bail!(
                    "the answer of zone {} is not authenticated (mapping.trust = \"{}\")",
                    zone.client.zone(),
                    zone.trust
                );
            }
            match list {
                List::Homes => told.homes = said.prefixes,
                List::Locators => told.locators = said.prefixes,
            }
        }
        Ok(told)
    }

    /// What is said of a home.
    pub async fn get(&self, home: Home) -> Answer {
        let zone = self.zone(home);
        let lookup = match zone.client.get(home).await {
            Ok(lookup) => lookup,
            Err(error) => return Answer::Failed(self.named(zone, &error)),
        };
        let proof = zone.proof(lookup.verified);
        match lookup.binding {
            Some(binding) => Answer::Found { binding, proof },
            None => Answer::NotFound { proof },
        }
    }

    /// Changes the binding of a home if it is exactly as expected.
    pub async fn swap(
        &self,
        home: Home,
        expect: Option<&Binding>,
        new: Option<&Binding>,
    ) -> UpdateResult {
        let zone = self.zone(home);
        match zone.client.compare_and_swap(home, expect, new).await {
            Ok(Swap::Committed) => UpdateResult::Committed,
            Ok(Swap::Conflict) => UpdateResult::Conflict,
            Err(error @ (MapError::Refused { .. } | MapError::NotAuth { .. })) => {
                UpdateResult::Refused(self.named(zone, &error))
            }
            Err(error) => UpdateResult::Unknown(self.named(zone, &error)),
        }
    }

    fn zone(&self, home: Home) -> &Member {
        &self.zones[self.zoning.of(home)]
    }

    /// With several zones, which one it was.
    fn named(&self, zone: &Member, error: &MapError) -> String {
        match self.zones.len() {
            1 => error.to_string(),
            _ => format!("zone {}: {error}", zone.client.zone()),
        }
    }
}

/// A server that pushes has proved who it is.
fn pushed(binding: Option<Binding>) -> Answer {
    let proof = Proof::Signed;
    match binding {
        Some(binding) => Answer::Found { binding, proof },
        None => Answer::NotFound { proof },
    }
}

fn member(zone: &Zone) -> anyhow::Result<Member> {
    let name = zone.name.parse().context("mapping.zone")?;
    let key = zone.key.as_ref().map(|key| {
        let algorithm = match key.algorithm {
            KeyAlgorithm::HmacSha256 => Algorithm::HmacSha256,
            KeyAlgorithm::HmacSha384 => Algorithm::HmacSha384,
            KeyAlgorithm::HmacSha512 => Algorithm::HmacSha512,
        };
        let name = key.name.parse().context("mapping.key.name")?;
        TsigKey::new(name, algorithm, key.secret.clone()).context("mapping.key")
    });
    let endpoint = zone.push.as_ref().map(|push| {
        let endpoint = Endpoint::new(push.server, &push.name, &push.certificates);
        endpoint.map_err(|why| anyhow!("mapping.push: {why}"))
    });
    let mut client = MapClient::new(name, zone.servers.clone(), key.transpose()?);
    if let Some(anchor) = &zone.anchor {
        let anchors = Anchors::from_file(anchor);
        let anchors = anchors.map_err(|why| anyhow!("{}: {why}", anchor.display()));
        client = client.validating(anchors?);
    }
    Ok(Member {
        endpoint: endpoint.transpose()?,
        subscriber: None,
        client,
        trust: zone.trust,
    })
}

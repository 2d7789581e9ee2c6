//! The mapping service as a whole: every zone with servers and key of its own, and each home
//! asked for where it belongs.

use anyhow::Context;
use mat_mapping::client::{Algorithm, MapClient, MapError, Swap, TsigKey};
use mat_proto::{Binding, Home};

use crate::agent::{Answer, Proof, UpdateResult};
use crate::config::{Config, KeyAlgorithm, Trust, Zone};
use crate::zoning::Zoning;

/// All zones.
pub struct Directory {
    zoning: Zoning,
    zones: Vec<Member>,
}

struct Member {
    client: MapClient,
    trust: Trust,
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
        })
    }

    /// What is said of a home.
    pub async fn get(&self, home: Home) -> Answer {
        let zone = self.zone(home);
        let lookup = match zone.client.get(home).await {
            Ok(lookup) => lookup,
            Err(error) => return Answer::Failed(self.named(zone, &error)),
        };
        let proof = match (lookup.verified, zone.trust) {
            (true, _) => Proof::Signed,
            (false, Trust::Network) => Proof::Network,
            (false, Trust::Tsig) => Proof::Missing,
        };
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
    Ok(Member {
        client: MapClient::new(name, zone.servers.clone(), key.transpose()?),
        trust: zone.trust,
    })
}

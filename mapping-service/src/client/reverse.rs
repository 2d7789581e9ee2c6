//! Bindings found through the reverse tree, by those who do not know which zone speaks for a home:
//!
//! ```text
//! _mat.10.2.0.192.in-addr.arpa. 3600 IN CNAME 10.2.0.192.h4.map.example.
//! ```
//!
//! Alias and binding are asked for one after the other, so that each is verified by itself, and
//! the alias may lead nowhere but to the home's own owner name in some zone: whoever writes the
//! reverse zone says which zone speaks for the home, and cannot give it another home's binding.

use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::rdata::SVCB;
use hickory_proto::rr::{Name, RData, RecordType};
use ipnet::IpNet;
use mat_proto::{Home, record};

use super::exchange::Answer;
use super::{MapClient, MapError, data_at};

/// The label in front of a home's name in the reverse tree.
const LABEL: &str = "_mat";

/// Whether `zone` is of the reverse tree (or above it: `arpa.`).
pub fn is_reverse(zone: &Name) -> bool {
    zone.iter()
        .next_back()
        .is_some_and(|top| top.eq_ignore_ascii_case(b"arpa"))
}

/// The addresses whose names are below a zone of the reverse tree, if that is of one family.
pub fn addresses_below(zone: &Name) -> Option<IpNet> {
    let mut zone = zone.clone();
    zone.set_fqdn(true);
    zone.parse_arpa_name().ok()
}

impl MapClient {
    /// The raw SVCB set of `home`, and the answer it came in, or in which the alias was not.
    pub(super) async fn read_reverse(&self, home: Home) -> Result<(Answer, Vec<SVCB>), MapError> {
        let alias = Name::from(home.ip()).prepend_label(LABEL);
        let alias = alias.map_err(|e| self.no_room(&e))?;
        if !self.zone.zone_of(&alias) {
            return Err(MapError::Request(format!(
                "{home} is not in {}: its alias would be {alias}",
                self.zone
            )));
        }
        let answer = self.ask(&alias, RecordType::CNAME).await?;
        let target = data_at(&answer, &alias).find_map(|data| match data {
            RData::CNAME(CNAME(target)) => Some(target.clone()),
            _ => None,
        });
        let Some(target) = target else {
            return Ok((answer, Vec::new()));
        };
        if record::zone_of(home, &target).is_none() {
            return Err(MapError::Astray {
                alias: alias.to_string(),
                target: target.to_string(),
            });
        }
        let (mut found, set) = self.read_at(&target).await?;
        found.verified &= answer.verified;
        Ok((found, set))
    }
}

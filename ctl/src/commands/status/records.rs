//! Which records name a place where the instance is not. Pure.

use mat_dataplane::io::api::Report;
use mat_proto::{Binding, Epoch, Home, Locator};
use serde::Serialize;

/// A record that no site of those asked stands by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct NotAttached {
    pub home: Home,
    pub epoch: Epoch,
    /// Where the record says it is; `None` if it names no locator in use.
    pub locator: Option<Locator>,
    /// Where it is attached, although not with that locator.
    pub attached: Vec<Elsewhere>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Elsewhere {
    pub site: String,
    pub state: String,
}

/// The bindings whose locator in use is in no home attached at these sites.
pub(super) fn not_attached(bindings: &[Binding], reports: &[(&str, &Report)]) -> Vec<NotAttached> {
    let mut found = Vec::new();
    let of_a_pair = |home| {
        let mut identities = reports.iter().map(|(_, report)| &report.identity);
        identities.any(|identity| identity.pair == Some(home))
    };
    for binding in bindings.iter().filter(|b| !of_a_pair(b.home())) {
        let locator = binding.active().map(|entry| entry.locator);
        let mut attached = Vec::new();
        let mut stands = false;
        for (site, report) in reports {
            let homes = report.status.homes.iter();
            for status in homes.filter(|status| status.home == binding.home()) {
                stands |= locator.is_some() && status.locator == locator;
                attached.push(Elsewhere {
                    site: (*site).to_owned(),
                    state: status.state.clone(),
                });
            }
        }
        if !stands {
            found.push(NotAttached {
                home: binding.home(),
                epoch: binding.epoch(),
                locator,
                attached,
            });
        }
    }
    found.sort_by_key(|record| record.home);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn report(homes: &[Value]) -> Report {
        serde_json::from_value(json!({
            "version": "0.1.0", "site": "a", "placement": "gateway", "path": "tun",
            "trust": "tsig", "pid": 1, "homes": homes, "contexts": [], "not_attached": {},
            "mapping": { "reachable": true, "authenticated": true }, "held_bytes": 0,
            "counters": {},
        }))
        .unwrap()
    }

    fn home(home: &str, state: &str, locator: Option<&str>) -> Value {
        let mut value = json!({
            "home": home, "state": state, "reserved": [], "epoch": 7, "ready": true,
            "held_bytes": 0,
        });
        if let Some(locator) = locator {
            value["locator"] = json!(locator);
        }
        value
    }

    fn binding(home: &str, locator: &str) -> Binding {
        let (home, locator) = (home.parse().unwrap(), locator.parse().unwrap());
        Binding::single(home, Epoch(7), 30, locator, 6283).unwrap()
    }

    #[test]
    fn a_record_is_right_only_if_a_site_serves_it_there() {
        let a = report(&[
            home("192.0.2.10", "serving", Some("198.51.100.7")),
            home("192.0.2.11", "not serving", None),
        ]);
        let b = report(&[home("192.0.2.12", "serving", Some("203.0.113.7"))]);
        let bindings = [
            binding("192.0.2.13", "203.0.113.9"),
            binding("192.0.2.12", "203.0.113.8"),
            binding("192.0.2.11", "203.0.113.7"),
            binding("192.0.2.10", "198.51.100.7"),
        ];
        let found = not_attached(&bindings, &[("a", &a), ("b", &b)]);
        let seen: Vec<_> = found
            .iter()
            .map(|record| {
                let sites = record.attached.iter();
                let sites = sites.map(|e| format!("{}:{}", e.site, e.state));
                (record.home.to_string(), sites.collect::<String>())
            })
            .collect();
        let wanted = [
            ("192.0.2.11", "a:not serving"),
            ("192.0.2.12", "b:serving"),
            ("192.0.2.13", ""),
        ];
        assert_eq!(seen, wanted.map(|(h, s)| (h.to_owned(), s.to_owned())));
    }
}

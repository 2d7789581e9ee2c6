//! `matctl map watch`.
//!
//! # Limitations
//! It asks once a second: of several changes within a second only the last is seen.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mat_mapping::client::{MapClient, MapError};
use mat_proto::{Binding, Home};
use serde::Serialize;

use super::super::local_time::local;
use super::super::{ConfigArg, block_on, say};
use super::{client, line};

const PERIOD: Duration = Duration::from_secs(1);

/// `matctl map watch`
#[derive(Clone, Debug, clap::Args)]
pub struct WatchArgs {
    /// Watch only this home address (all of the zone needs the right to transfer it)
    home: Option<Home>,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArg,
}

pub(super) fn run(args: WatchArgs) -> anyhow::Result<ExitCode> {
    let map = client(&args.config)?;
    block_on(async {
        // The first answer must come: a wrong key or zone is not worth watching.
        let mut seen = read(&map, args.home).await?;
        for change in changes(&BTreeMap::new(), &seen) {
            show(&change, args.json)?;
        }
        let mut fault: Option<String> = None;
        let mut tick = tokio::time::interval(PERIOD);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            match read(&map, args.home).await {
                Ok(now) => {
                    if fault.take().is_some() {
                        eprintln!("matctl: the mapping service answers again");
                    }
                    for change in changes(&seen, &now) {
                        show(&change, args.json)?;
                    }
                    seen = now;
                }
                Err(error) => {
                    let text = error.to_string();
                    if fault.as_ref() != Some(&text) {
                        eprintln!("matctl: {text}; still trying");
                        fault = Some(text);
                    }
                }
            }
        }
    })
}

type Bindings = BTreeMap<Home, Binding>;

async fn read(map: &MapClient, home: Option<Home>) -> Result<Bindings, MapError> {
    let bindings = match home {
        Some(home) => map.get(home).await?.binding.into_iter().collect(),
        None => map.list().await?,
    };
    Ok(bindings.into_iter().map(|b| (b.home(), b)).collect())
}

/// What is different, in order of home addresses.
fn changes(before: &Bindings, after: &Bindings) -> Vec<Change> {
    let mut homes: Vec<Home> = before.keys().chain(after.keys()).copied().collect();
    homes.sort_unstable();
    homes.dedup();
    homes
        .into_iter()
        .filter(|home| before.get(home) != after.get(home))
        .map(|home| Change {
            home,
            binding: after.get(&home).cloned(),
        })
        .collect()
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Change {
    home: Home,
    /// `None`: it is not bound any more.
    binding: Option<Binding>,
}

fn show(change: &Change, json: bool) -> anyhow::Result<()> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let unix_us = since.map_or(0, |since| since.as_micros() as u64);
    if json {
        let mut value = serde_json::to_value(change)?;
        value["unix_us"] = unix_us.into();
        return say(&value.to_string());
    }
    let what = match &change.binding {
        Some(binding) => line(binding),
        None => format!("{} is not bound any more", change.home),
    };
    say(&format!("{}  {what}", local(unix_us)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mat_proto::Epoch;

    fn bindings(list: &[(&str, u64)]) -> Bindings {
        let binding = |(home, epoch): &(&str, u64)| {
            let home: Home = home.parse().unwrap();
            let locator = "198.51.100.7".parse().unwrap();
            (
                home,
                Binding::single(home, Epoch(*epoch), 30, locator, 6283).unwrap(),
            )
        };
        list.iter().map(binding).collect()
    }

    #[test]
    fn new_changed_and_gone_bindings_are_changes() {
        let before = bindings(&[("192.0.2.1", 1), ("192.0.2.2", 1), ("192.0.2.3", 1)]);
        let after = bindings(&[("192.0.2.2", 2), ("192.0.2.3", 1), ("192.0.2.0", 1)]);
        let seen: Vec<_> = changes(&before, &after)
            .into_iter()
            .map(|change| (change.home.to_string(), change.binding.map(|b| b.epoch().0)))
            .collect();
        let wanted = [
            ("192.0.2.0", Some(1)),
            ("192.0.2.1", None),
            ("192.0.2.2", Some(2)),
        ];
        assert_eq!(seen, wanted.map(|(home, epoch)| (home.to_owned(), epoch)));
        assert!(changes(&after, &after).is_empty());
    }
}

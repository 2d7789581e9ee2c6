//! `matctl map watch`.
//!
//! # Limitations
//! Without push it asks once a second: of several changes within a second only the last is seen.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use ipnet::IpNet;
use mat_mapping::client::push::{Changed, Endpoint, Health, Subscriber};
use mat_mapping::client::{MapClient, MapError};
use mat_proto::{Binding, Home, Whose, record};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::super::local_time::local;
use super::super::{ConfigArg, block_on, say};
use super::{client_of, homes, line};

const PERIOD: Duration = Duration::from_secs(1);
/// A server that pushes has to be there by then.
const PATIENCE: u32 = 8;

/// `matctl map watch`
#[derive(Clone, Debug, clap::Args)]
pub struct WatchArgs {
    /// Watch only this home address, or those of this prefix (without push, all but a single
    /// address needs the right to transfer the zone)
    #[arg(value_parser = homes)]
    homes: Option<IpNet>,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArg,
}

pub(super) fn run(args: WatchArgs) -> anyhow::Result<ExitCode> {
    let config = args.config.load()?;
    let push = config.push.clone();
    let map = client_of(config, &args.config)?;
    map.has_bindings("watch")?;
    match push {
        Some(endpoint) => block_on(hear(&map, endpoint, &args)),
        None => block_on(ask(&map, &args)),
    }
}

/// Shows what is pushed.
async fn hear(map: &MapClient, endpoint: Endpoint, args: &WatchArgs) -> anyhow::Result<ExitCode> {
    let zone = map.zone().clone();
    let below = args.homes.map(|homes| record::above(homes, &zone));
    let below = below.transpose().context("the zone's name is too long")?;
    let below = below.unwrap_or(zone.clone());
    let (sender, mut news) = mpsc::channel(256);
    let subscriber = Subscriber::follow(zone, &below, endpoint, sender);
    let mut seen = Bindings::new();
    let mut fault: Option<String> = None;
    let mut tick = interval(PERIOD);
    let (mut ticks, mut connected) = (0, false);
    loop {
        tokio::select! {
            Some(Changed { whose, binding }) = news.recv() => {
                connected = true;
                if wanted(args.homes, whose) && seen.get(&whose) != binding.as_ref() {
                    match &binding {
                        Some(binding) => seen.insert(whose, binding.clone()),
                        None => seen.remove(&whose),
                    };
                    show(&Changed { whose, binding }, args.json)?;
                }
            }
            _ = tick.tick() => match subscriber.health() {
                Health::Connected(_) => {
                    connected = true;
                    if fault.take().is_some() {
                        eprintln!("matctl: the mapping service pushes again");
                    }
                }
                // A wrong certificate is not worth watching.
                Health::Away(why) if !connected && ticks >= PATIENCE => {
                    bail!("no push from the mapping service (mapping.push): {why}")
                }
                Health::Away(_) if !connected => ticks += 1,
                Health::Away(why) => {
                    if fault.as_ref() != Some(&why) {
                        eprintln!("matctl: {why}; still trying");
                        fault = Some(why);
                    }
                }
            }
        }
    }
}

/// Asks again and again, and shows what is different.
async fn ask(map: &MapClient, args: &WatchArgs) -> anyhow::Result<ExitCode> {
    // The first answer must come: a wrong key or zone is not worth watching.
    let mut seen = read(map, args.homes).await?;
    for change in changes(&BTreeMap::new(), &seen) {
        show(&change, args.json)?;
    }
    let mut fault: Option<String> = None;
    let mut tick = interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        match read(map, args.homes).await {
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
}

type Bindings = BTreeMap<Whose, Binding>;

async fn read(map: &MapClient, homes: Option<IpNet>) -> Result<Bindings, MapError> {
    let single = homes.filter(|homes| homes.prefix_len() == homes.max_prefix_len());
    let single = single.and_then(|homes| Home::new(homes.addr()).ok());
    let bindings = match single {
        Some(home) => {
            let binding = map.get(home).await?.binding;
            binding.map(|b| (home.into(), b)).into_iter().collect()
        }
        None => map.list().await?,
    };
    let bindings = bindings.into_iter();
    Ok(bindings
        .filter(|(whose, _)| wanted(homes, *whose))
        .collect())
}

/// Whether whoever watches these homes wants to hear of what is `whose`.
fn wanted(homes: Option<IpNet>, whose: Whose) -> bool {
    let concerned = |homes: IpNet| homes.contains(&whose.net()) || whose.net().contains(&homes);
    homes.is_none_or(concerned)
}

/// What is different, in order of home addresses.
fn changes(before: &Bindings, after: &Bindings) -> Vec<Changed> {
    let all: BTreeSet<Whose> = before.keys().chain(after.keys()).copied().collect();
    all.into_iter()
        .filter(|whose| before.get(whose) != after.get(whose))
        .map(|whose| Changed {
            whose,
            binding: after.get(&whose).cloned(),
        })
        .collect()
}

fn show(change: &Changed, json: bool) -> anyhow::Result<()> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let unix_us = since.map_or(0, |since| since.as_micros() as u64);
    if json {
        let mut value = serde_json::to_value(change)?;
        value["unix_us"] = unix_us.into();
        return say(&value.to_string());
    }
    let what = match &change.binding {
        Some(binding) => line(change.whose, binding),
        None => format!("{} is not bound any more", change.whose),
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
                home.into(),
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
            .map(|change| {
                (
                    change.whose.to_string(),
                    change.binding.map(|b| b.epoch().0),
                )
            })
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

//! `matctl map set` and `matctl map delete`.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use hickory_proto::op::ResponseCode;
use ipnet::IpNet;
use mat_mapping::client::{MapClient, MapError, Swap};
use mat_proto::{Binding, BindingError, Entry, Epoch, Locator, Modes, Priority, Whose};

use super::super::{ConfigArg, block_on, say, say_json};
use super::{LocatorPort, client, line, shown};

/// Lease of a new binding, in seconds.
const LEASE: u32 = 30;
/// Somebody who changes the binding faster than this many attempts can be made wins.
const ATTEMPTS: u32 = 5;

/// `matctl map set`
#[derive(Clone, Debug, clap::Args)]
pub struct SetArgs {
    /// Home address, or prefix of them
    #[arg(value_name = "HOME|PREFIX")]
    whose: Whose,
    /// Locator in use from now on; for a prefix of homes, the first one of as many
    #[arg(value_name = "LOCATOR[:PORT]")]
    locator: LocatorPort,
    /// A locator that is prepared; can be given several times
    #[arg(long, value_name = "LOCATOR[:PORT]")]
    standby: Vec<LocatorPort>,
    /// How long the binding may be used without being renewed; as before, or 30, if left out
    #[arg(long, value_name = "SECONDS")]
    lease: Option<u32>,
    #[command(flatten)]
    guard: Guard,
    /// Print the new binding as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArg,
}

/// `matctl map delete`
#[derive(Clone, Debug, clap::Args)]
pub struct DeleteArgs {
    /// Home address, or prefix of them
    #[arg(value_name = "HOME|PREFIX")]
    whose: Whose,
    #[command(flatten)]
    guard: Guard,
    /// Print the binding that was removed as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArg,
}

/// What a change may replace.
#[derive(Clone, Debug, clap::Args)]
struct Guard {
    /// Change nothing unless the epoch is this one now (0: unless it is not bound)
    #[arg(long, value_name = "EPOCH", conflicts_with = "force")]
    expect_epoch: Option<u64>,
    /// If somebody else changes it meanwhile, try again, five times in all
    #[arg(long)]
    force: bool,
}

pub(super) fn set(args: SetArgs) -> anyhow::Result<ExitCode> {
    let map = client(&args.config)?;
    let lease = args.lease;
    let make = |before: Option<&Binding>, unix_seconds: u64| {
        next(
            args.whose,
            &args.locator,
            &args.standby,
            lease,
            before,
            unix_seconds,
        )
        .map(Some)
    };
    // Refused before anything is asked, with the same words as afterwards.
    make(None, 0)?;
    if let Some(homes) = args.whose.prefix() {
        let given = std::iter::once(&args.locator).chain(&args.standby);
        given
            .map(|place| place.locator)
            .try_for_each(|at| first_of_as_many(at, homes))?;
    }
    let (_, after) = block_on(change(&map, args.whose, &args.guard, make))?;
    match after {
        Some(after) if args.json => say_json(&shown(args.whose, &after))?,
        Some(after) => say(&line(args.whose, &after))?,
        None => {}
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn delete(args: DeleteArgs) -> anyhow::Result<ExitCode> {
    let map = client(&args.config)?;
    let (before, _) = block_on(change(&map, args.whose, &args.guard, |_, _| Ok(None)))?;
    match before {
        before if args.json => say_json(&before.as_ref().map(|b| shown(args.whose, b)))?,
        Some(before) => say(&format!(
            "{} is not bound any more; it was: {}",
            args.whose,
            line(args.whose, &before)
        ))?,
        None => say(&format!("{} is not bound; nothing to do", args.whose))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Refuses locators of which there are not as many behind as there are homes.
fn first_of_as_many(locator: Locator, homes: IpNet) -> anyhow::Result<()> {
    let locators = IpNet::new(locator.ip(), homes.prefix_len());
    let locators =
        locators.with_context(|| format!("{locator} cannot be a locator for {homes}"))?;
    if locators.trunc() != locators {
        bail!(
            "{locator} is not the first of a prefix of locators as long as {homes}: that is {}",
            locators.network()
        );
    }
    Ok(())
}

/// The binding that follows `before`. Modes of locators it had already are kept.
fn next(
    whose: Whose,
    active: &LocatorPort,
    standby: &[LocatorPort],
    lease: Option<u32>,
    before: Option<&Binding>,
    unix_seconds: u64,
) -> Result<Binding, BindingError> {
    let entry = |priority, place: &LocatorPort| Entry {
        priority,
        locator: place.locator,
        port: place.port,
        modes: before
            .and_then(|before| before.entry(place.locator))
            .map_or(Modes::NATIVE, |entry| entry.modes),
    };
    let mut entries = vec![entry(Priority::ACTIVE, active)];
    entries.extend(standby.iter().map(|place| entry(Priority::STANDBY, place)));
    let epoch = before.map_or(Epoch(0), Binding::epoch).next(unix_seconds);
    let lease = lease
        .or(before.map(Binding::lease_seconds))
        .unwrap_or(LEASE);
    Binding::new(whose.first(), epoch, lease, entries)
}

type Change = (Option<Binding>, Option<Binding>);

/// Reads, makes the next binding of what was read, and swaps the two.
async fn change(
    map: &MapClient,
    whose: Whose,
    guard: &Guard,
    make: impl Fn(Option<&Binding>, u64) -> Result<Option<Binding>, BindingError>,
) -> anyhow::Result<Change> {
    let mut least = 0;
    for _ in 0..ATTEMPTS {
        let found = map.get(whose).await?;
        let before = found.binding;
        let epoch = before.as_ref().map_or(0, |binding| binding.epoch().0);
        if let Some(expected) = guard.expect_epoch
            && expected != epoch
        {
            bail!(
                "not epoch {expected}: {}; nothing was changed",
                now(whose, before.as_ref())
            );
        }
        let after = make(before.as_ref(), unix_seconds().max(least))?;
        if before.is_none() && after.is_none() {
            return Ok((None, None));
        }
        if let (None, Some(shared)) = (&after, found.shared) {
            bail!(
                "{whose} has no binding of its own: it shares that of {shared}, which `map delete \
                 {shared}` removes; nothing was changed"
            );
        }
        let swapped = map.compare_and_swap(whose, before.as_ref(), after.as_ref());
        let swap = match swapped.await {
            Err(
                error @ MapError::Refused {
                    code: ResponseCode::Refused,
                    ..
                },
            ) if before.is_none() && least == 0 => {
                // After several changes within a second the last epoch is ahead of the clock.
                let told = map.past(Some(whose.net())).await.ok();
                let Some(Epoch(last)) = told.and_then(|told| told.withdrawn_at(whose)) else {
                    return Err(error.into());
                };
                least = last.saturating_add(1);
                continue;
            }
            swapped => swapped?,
        };
        match swap {
            Swap::Committed => return Ok((before, after)),
            Swap::Conflict if guard.force => {}
            Swap::Conflict => {
                let there = map.get(whose).await?.binding;
                bail!(
                    "somebody else changed it in this moment: {}; nothing was changed (--force \
                     tries again)",
                    now(whose, there.as_ref())
                );
            }
        }
    }
    bail!("somebody else changed {whose} each of {ATTEMPTS} times; nothing was changed")
}

fn now(whose: Whose, binding: Option<&Binding>) -> String {
    match binding {
        Some(binding) => format!("now it is {}", line(whose, binding)),
        None => format!("{whose} is not bound now"),
    }
}

fn unix_seconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> LocatorPort {
        text.parse().unwrap()
    }

    #[test]
    fn the_next_binding_keeps_what_it_is_not_told_to_change() {
        let home: Whose = "192.0.2.10".parse().unwrap();
        let both = Modes {
            native: true,
            encap: true,
        };
        let entry = Entry {
            priority: Priority::STANDBY,
            locator: "203.0.113.7".parse().unwrap(),
            port: 7000,
            modes: both,
        };
        let before = Binding::new(home.first(), Epoch(50), 12, vec![entry]).unwrap();
        let standby = [place("198.51.100.7")];
        let after = next(
            home,
            &place("203.0.113.7"),
            &standby,
            None,
            Some(&before),
            7,
        )
        .unwrap();
        assert_eq!((after.epoch(), after.lease_seconds()), (Epoch(51), 12));
        let active = after.active().unwrap();
        assert_eq!(
            (active.locator, active.port, active.modes),
            (entry.locator, 6283, both)
        );
        assert_eq!(after.entries()[1].modes, Modes::NATIVE);
        let first = next(
            home,
            &place("203.0.113.7"),
            &[],
            Some(5),
            None,
            1_800_000_000,
        )
        .unwrap();
        assert_eq!(
            (first.epoch(), first.lease_seconds()),
            (Epoch(1_800_000_000), 5)
        );
    }

    #[test]
    fn a_prefix_of_homes_needs_one_of_locators() {
        let check = |at: &str, homes: &str| {
            first_of_as_many(at.parse().unwrap(), homes.parse().unwrap())
                .map_err(|error| error.to_string())
        };
        assert_eq!(check("198.51.100.0", "192.0.2.0/24"), Ok(()));
        assert_eq!(check("2001:db8:2::", "2001:db8:1::/48"), Ok(()));
        let said = check("198.51.100.7", "192.0.2.0/24").unwrap_err();
        assert!(said.ends_with("that is 198.51.100.0"), "{said}");
        assert!(check("198.51.100.0", "2001:db8:1::/48").is_err());
    }

    #[test]
    fn what_is_no_binding_is_refused() {
        let home = "192.0.2.10".parse().unwrap();
        let at = place("203.0.113.7");
        assert!(next(home, &at, &[at], None, None, 1).is_err());
        assert!(next(home, &at, &[], Some(0), None, 1).is_err());
        assert!(next(home, &place("2001:db8::7"), &[], None, None, 1).is_err());
    }
}

//! What a move consists of, and what has to be undone when it fails. Pure.
//!
//! Forward, each step for all home addresses of the instance at once:
//!
//! | step | where | what |
//! |---|---|---|
//! | [`Step::Prepare`] | new site | a locator is reserved, packets for it are held |
//! | [`Step::Publish`] | both sites | the binding names it as standing by, peers make sure of it |
//! | [`Step::Detach`] | old site | it hands over its contexts and relays what still arrives |
//! | [`Step::Relocate`] | driver | the instance itself changes places |
//! | [`Step::Activate`] | new site | the binding changes, peers are told; at the same time if the instance stands still |
//!
//! Invariant: whatever the point of failure, [`roll_back`] ends with the home addresses served
//! where the instance is, at the old site, and with nothing reserved at the new one.

use std::fmt;

use mat_dataplane::agent::OwnStatus;
use mat_proto::Home;

/// A step of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Looking whether the instance is where it is said to be, and both sites answer.
    Check,
    /// Reserving locators at the new site.
    Prepare,
    /// Telling everybody that the new site stands by.
    Publish,
    /// Taking the instance's state from the old site.
    Detach,
    /// Moving the instance itself.
    Relocate,
    /// Changing the binding.
    Activate,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::Check => "check",
            Step::Prepare => "prepare",
            Step::Publish => "publish",
            Step::Detach => "detach",
            Step::Relocate => "relocate",
            Step::Activate => "activate",
        })
    }
}

/// How far one home address has come; a request whose outcome is not known counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Nothing has been changed.
    Untouched,
    /// Reserved at the new site.
    Prepared,
    /// Let go of by the old site.
    Detached,
    /// The new site was told to take over, and whether it did is not known.
    Uncertain,
    /// Served at the new site.
    Activated,
}

/// One thing to undo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undo {
    /// The driver takes the instance back to the old site.
    BringBack,
    /// The old site serves the home address again, with the contexts it gave away.
    Reattach(Home),
    /// The new site hands the home address back: a move of its own, because peers follow the
    /// new site already.
    TakeBack(Home),
    /// The new site forgets the home address.
    Withdraw(Home),
    /// The old site is watched until it is certain that it goes on serving.
    Confirm(Home),
}

/// What to do, in this order, when a move cannot go on.
pub fn roll_back(relocated: bool, homes: &[(Home, Stage)]) -> Vec<Undo> {
    let of = |stages: &'static [Stage], undo: fn(Home) -> Undo| {
        homes
            .iter()
            .filter(move |(_, stage)| stages.contains(stage))
            .map(move |(home, _)| undo(*home))
    };
    relocated
        .then_some(Undo::BringBack)
        .into_iter()
        .chain(of(&[Stage::Activated], Undo::TakeBack))
        // The old site first: until it serves, packets have nowhere to go.
        .chain(of(&[Stage::Detached, Stage::Uncertain], Undo::Reattach))
        .chain(of(
            &[Stage::Prepared, Stage::Detached, Stage::Uncertain],
            Undo::Withdraw,
        ))
        .chain(of(&[Stage::Uncertain], Undo::Confirm))
        .collect()
}

/// The homes of one site, as its forwarder reports them.
pub struct SiteHomes<'a> {
    /// Name of the site.
    pub site: &'a str,
    /// What is attached there.
    pub homes: &'a [OwnStatus],
}

/// Why it is not clear where an instance is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unlocated {
    /// No site that answered knows any of its homes.
    #[error("no site that answers has {home} attached; attach it first: matctl attach {home}")]
    Nowhere {
        /// A home address of the instance.
        home: Home,
    },
    /// It is attached, but no single site serves all its homes.
    #[error("no site serves it: {states}; if an earlier move was cut off, see `matctl help move`")]
    Split {
        /// Every home and its state at every site.
        states: String,
    },
}

/// The site that serves all of `homes`.
///
/// # Errors
/// See [`Unlocated`].
pub fn locate<'a>(homes: &[Home], sites: &[SiteHomes<'a>]) -> Result<&'a str, Unlocated> {
    let state = |site: &SiteHomes<'a>, home: &Home| {
        let found = site.homes.iter().find(|status| status.home == *home);
        found.map(|status| status.state.clone())
    };
    let serves_all = |site: &&SiteHomes<'a>| {
        let serves = |home| state(site, home).as_deref() == Some("serving");
        homes.iter().all(serves)
    };
    if let Some(site) = sites.iter().find(serves_all) {
        return Ok(site.site);
    }
    let mut states = Vec::new();
    for home in homes {
        for site in sites {
            if let Some(state) = state(site, home) {
                states.push(format!("{home} is {state} at {}", site.site));
            }
        }
    }
    match (states.is_empty(), homes.first()) {
        (true, Some(home)) => Err(Unlocated::Nowhere { home: *home }),
        _ => Err(Unlocated::Split {
            states: states.join(", "),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn home(last: u8) -> Home {
        format!("192.0.2.{last}").parse().unwrap()
    }

    fn status(last: u8, state: &str) -> OwnStatus {
        serde_json::from_value(json!({
            "home": home(last), "state": state, "reserved": [], "epoch": 1, "ready": true,
            "held_bytes": 0,
        }))
        .unwrap()
    }

    /// For every point at which two homes can stop: what is undone, in order.
    #[test]
    fn each_point_of_failure_has_its_roll_back() {
        use Stage::*;
        use Undo::*;
        let (a, b) = (home(1), home(2));
        let cases: [(bool, Stage, Stage, &[Undo]); 9] = [
            (false, Untouched, Untouched, &[]),
            (false, Prepared, Untouched, &[Withdraw(a)]),
            (false, Prepared, Prepared, &[Withdraw(a), Withdraw(b)]),
            (
                false,
                Detached,
                Prepared,
                &[Reattach(a), Withdraw(a), Withdraw(b)],
            ),
            (
                false,
                Detached,
                Detached,
                &[Reattach(a), Reattach(b), Withdraw(a), Withdraw(b)],
            ),
            (
                true,
                Detached,
                Detached,
                &[
                    BringBack,
                    Reattach(a),
                    Reattach(b),
                    Withdraw(a),
                    Withdraw(b),
                ],
            ),
            (
                true,
                Detached,
                Uncertain,
                &[
                    BringBack,
                    Reattach(a),
                    Reattach(b),
                    Withdraw(a),
                    Withdraw(b),
                    Confirm(b),
                ],
            ),
            (
                true,
                Detached,
                Activated,
                &[BringBack, TakeBack(b), Reattach(a), Withdraw(a)],
            ),
            (
                true,
                Uncertain,
                Activated,
                &[BringBack, TakeBack(b), Reattach(a), Withdraw(a), Confirm(a)],
            ),
        ];
        for (relocated, first, second, wanted) in cases {
            let found = roll_back(relocated, &[(a, first), (b, second)]);
            assert_eq!(found, wanted, "{relocated} {first:?} {second:?}");
        }
    }

    /// Wherever it stops, a home that has left the old site comes back to it, and nothing stays
    /// at the new one.
    #[test]
    fn every_roll_back_leaves_the_homes_at_the_old_site() {
        use Stage::*;
        for relocated in [false, true] {
            for stage in [Untouched, Prepared, Detached, Uncertain, Activated] {
                let plan = roll_back(relocated, &[(home(1), stage)]);
                let has = |undo| plan.contains(&undo);
                assert_eq!(has(Undo::BringBack), relocated);
                let left = matches!(stage, Detached | Uncertain | Activated);
                let served = has(Undo::Reattach(home(1))) || has(Undo::TakeBack(home(1)));
                assert_eq!(served, left, "{stage:?}");
                let reserved = matches!(stage, Prepared | Detached | Uncertain);
                assert_eq!(has(Undo::Withdraw(home(1))), reserved, "{stage:?}");
            }
        }
    }

    #[test]
    fn an_instance_is_where_all_its_homes_are_served() {
        let a = [
            status(1, "serving"),
            status(2, "departed"),
            status(3, "serving"),
        ];
        let b = [status(2, "serving"), status(3, "not serving")];
        let sites = [
            SiteHomes {
                site: "a",
                homes: &a,
            },
            SiteHomes {
                site: "b",
                homes: &b,
            },
        ];
        assert_eq!(locate(&[home(1)], &sites), Ok("a"));
        assert_eq!(locate(&[home(2)], &sites), Ok("b"));
        assert_eq!(locate(&[home(1), home(3)], &sites), Ok("a"));
        let error = locate(&[home(1), home(2)], &sites).unwrap_err().to_string();
        for part in [
            "192.0.2.1 is serving at a",
            "192.0.2.2 is departed at a",
            "192.0.2.2 is serving at b",
        ] {
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(
            locate(&[home(9)], &sites),
            Err(Unlocated::Nowhere { home: home(9) })
        );
    }
}

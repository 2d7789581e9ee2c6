//! Bindings that all homes of a prefix share.

use hickory_proto::rr::rdata::svcb::{SvcParamKey, SvcParamValue, Unknown};
use ipnet::IpNet;
use mat_mapping::policy::{Denial, Policy, Scope};
use mat_mapping::zone::rules::Breach;
use mat_proto::{Binding, Entry, Epoch, Home, Modes, Priority, record};
use proptest::prelude::*;

use super::*;

fn prefix(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn binding(home: &str, epoch: u64, locator: &str) -> Binding {
    let entry = Entry {
        priority: Priority::ACTIVE,
        locator: locator.parse().unwrap(),
        port: 6283,
        modes: Modes::NATIVE,
    };
    Binding::new(home.parse().unwrap(), Epoch(epoch), 30, vec![entry]).unwrap()
}

/// Deletes what is there, and adds that.
fn set(records: Vec<Record>) -> Update {
    let mut delete = bare("x.", DNSClass::ANY, RecordType::SVCB);
    delete.name = records[0].name.clone();
    message(vec![], [vec![delete], records].concat())
}

fn one(home: &str, epoch: u64, locator: &str) -> Update {
    set(record::to_records(&binding(home, epoch, locator), &name(ZONE), 0).unwrap())
}

fn shared_with(homes: &str, epoch: u64, first: &str, length: Option<&str>) -> Update {
    let homes = prefix(homes);
    let binding = binding(&homes.network().to_string(), epoch, first);
    let mut records = record::to_records(&binding, &name(ZONE), 0).unwrap();
    for record in &mut records {
        record.name = record::prefix_owner(homes, &name(ZONE)).unwrap();
        if let (RData::SVCB(svcb), Some(length)) = (&mut record.data, length) {
            let value = Unknown(length.as_bytes().to_vec());
            let key = SvcParamKey::Key(record::KEY_PREFIX);
            svcb.svc_params.push((key, SvcParamValue::Unknown(value)));
        }
    }
    set(records)
}

fn shared(homes: &str, epoch: u64, first: &str) -> Update {
    let length = prefix(homes).prefix_len().to_string();
    shared_with(homes, epoch, first, Some(&length))
}

fn gone(owner: &str) -> Update {
    message(vec![], vec![bare(owner, DNSClass::ANY, RecordType::ANY)])
}

/// Where the zone says a home is, and since which epoch.
fn place(zone: &Zone, home: &str) -> Option<(String, u64)> {
    let home: Home = home.parse().unwrap();
    let owner = record::owner(home, &name(ZONE)).unwrap();
    let answer = zone.answer(&owner, RecordType::SVCB);
    assert_eq!(answer.denied.is_some(), answer.answers.is_empty());
    let svcb = answer.answers.iter().map(|record| match &record.data {
        RData::SVCB(svcb) if record.name == owner => svcb,
        _ => panic!("{record}"),
    });
    let svcb: Vec<_> = svcb.collect();
    let binding = record::from_svcb(home, svcb).ok()?;
    Some((binding.entries()[0].locator.to_string(), binding.epoch().0))
}

/// The same by the rules of DNS alone (RFC 4592), as a secondary answers.
fn place_elsewhere(zone: &Zone, home: &str) -> Option<(String, u64)> {
    let home: Home = home.parse().unwrap();
    let owner = record::owner(home, &name(ZONE)).unwrap();
    let records: Vec<Record> = zone.records().collect();
    let exists = records.iter().any(|record| record.name == owner);
    let source = match exists {
        true => owner,
        false => owner.base_name().prepend_label("*").unwrap(),
    };
    let svcb = records.iter().filter_map(|record| match &record.data {
        RData::SVCB(svcb) if record.name == source => Some(svcb),
        _ => None,
    });
    let binding = record::from_svcb(home, svcb).ok()?;
    Some((binding.entries()[0].locator.to_string(), binding.epoch().0))
}

fn breach(result: Result<Change, Refusal>) -> Breach {
    match result {
        Err(Refusal::Breach(breach)) => breach,
        other => panic!("{other:?}"),
    }
}

fn falls(result: Result<Change, Refusal>) -> bool {
    matches!(breach(result), Breach::Epoch { .. })
}

#[test]
fn homes_without_a_binding_of_their_own_are_where_their_prefix_is() {
    let mut zone = zone();
    update(&mut zone, &shared("192.0.2.0/24", 100, "198.51.100.0")).unwrap();
    assert_eq!(
        place(&zone, "192.0.2.10"),
        Some(("198.51.100.10".into(), 100))
    );
    assert_eq!(place(&zone, "192.0.3.10"), None);
    let a = zone.answer(&name("10.2.0.192.h4.map.example."), RecordType::A);
    assert_eq!((a.code, a.answers.len()), (ResponseCode::NoError, 0));

    // One of them moves away, and the others with one message.
    update(&mut zone, &one("192.0.2.10", 101, "203.0.113.7")).unwrap();
    assert_eq!(
        place(&zone, "192.0.2.10"),
        Some(("203.0.113.7".into(), 101))
    );
    update(&mut zone, &shared("192.0.2.0/24", 102, "198.18.0.0")).unwrap();
    assert_eq!(
        place(&zone, "192.0.2.10"),
        Some(("203.0.113.7".into(), 101))
    );
    assert_eq!(
        place(&zone, "192.0.2.11"),
        Some(("198.18.0.11".into(), 102))
    );

    // Back among them it does not go back in time.
    update(&mut zone, &one("192.0.2.10", 110, "203.0.113.8")).unwrap();
    let own = "10.2.0.192.h4.map.example.";
    update(&mut zone, &gone(own)).unwrap();
    assert_eq!(place(&zone, "192.0.2.10"), None);
    let words = zone.answer(&name(own), RecordType::TXT).answers;
    let words = words.iter().map(mat_mapping::zonefile::print);
    let said = format!("{own} 5 IN TXT \"withdrawn\" \"epoch=110\"");
    assert_eq!(words.collect::<Vec<_>>(), [said]);
    update(&mut zone, &shared("192.0.2.0/24", 111, "198.18.0.0")).unwrap();
    assert!(zone.answer(&name(own), RecordType::TXT).answers.is_empty());
    assert_eq!(
        place(&zone, "192.0.2.10"),
        Some(("198.18.0.10".into(), 111))
    );

    let mut copy = super::zone();
    copy.apply(zone.snapshot());
    assert_eq!(place(&copy, "192.0.2.10"), place(&zone, "192.0.2.10"));
    update(&mut zone, &gone("*.2.0.192.h4.map.example.")).unwrap();
    assert_eq!(place(&zone, "192.0.2.10"), None);
}

#[test]
fn epochs_of_a_prefix_and_of_its_homes_rise_together() {
    let mut zone = zone();
    update(&mut zone, &shared("192.0.2.0/24", 100, "198.51.100.0")).unwrap();
    assert!(falls(update(
        &mut zone,
        &shared("192.0.2.0/24", 99, "198.18.0.0")
    )));
    assert!(falls(update(
        &mut zone,
        &one("192.0.2.10", 100, "203.0.113.7")
    )));
    update(&mut zone, &gone("*.2.0.192.h4.map.example.")).unwrap();
    assert!(falls(update(
        &mut zone,
        &one("192.0.2.10", 100, "203.0.113.7")
    )));
    assert!(falls(update(
        &mut zone,
        &shared("192.0.2.0/24", 100, "198.18.0.0")
    )));
    update(&mut zone, &one("192.0.2.10", 101, "203.0.113.7")).unwrap();
}

#[test]
fn the_clock_of_whoever_moves_a_prefix_is_not_that_of_its_homes() {
    let mut zone = zone();
    update(&mut zone, &one("192.0.2.10", 100, "203.0.113.7")).unwrap();
    update(
        &mut zone,
        &shared("192.0.2.0/24", 3_000_000_000, "198.51.100.0"),
    )
    .unwrap();
    // It has never been told of that epoch.
    update(&mut zone, &one("192.0.2.10", 101, "203.0.113.8")).unwrap();
    assert_eq!(
        place(&zone, "192.0.2.10"),
        Some(("203.0.113.8".into(), 101))
    );
    // The others have.
    assert!(falls(update(
        &mut zone,
        &one("192.0.2.11", 101, "203.0.113.9")
    )));
    // And so has it, once it shares their binding.
    update(&mut zone, &gone("10.2.0.192.h4.map.example.")).unwrap();
    assert!(falls(update(
        &mut zone,
        &one("192.0.2.10", 102, "203.0.113.8")
    )));
}

#[test]
fn a_prefix_of_ipv6_is_answered_for_at_any_depth() {
    let mut zone = zone();
    update(&mut zone, &shared("2001:db8:1::/64", 5, "2001:db8:2::")).unwrap();
    let at = |last: &str| place(&zone, &format!("2001:db8:1::{last}"));
    assert_eq!(at("a:b"), Some(("2001:db8:2::a:b".into(), 5)));
    let owner = record::owner("2001:db8:1::5".parse().unwrap(), &name(ZONE)).unwrap();
    // In the middle of the way there is nothing.
    let between = zone.answer(&owner.base_name(), RecordType::SVCB);
    assert_eq!(between.code, ResponseCode::NXDomain);
    // A name of its own would take its neighbours out.
    let own = update(&mut zone, &one("2001:db8:1::5", 6, "2001:db8:3::5"));
    assert!(matches!(breach(own), Breach::Deeper { .. }));
}

#[test]
fn nothing_is_in_the_way_of_a_wildcard() {
    let mut zone = zone();
    update(&mut zone, &one("192.0.2.10", 1, "203.0.113.7")).unwrap();
    let wide = |zone: &mut Zone| update(zone, &shared("192.0.0.0/16", 5, "198.18.0.0"));
    assert!(matches!(breach(wide(&mut zone)), Breach::Deeper { .. }));
    update(&mut zone, &shared("192.0.2.0/24", 5, "198.51.100.0")).unwrap();
    update(&mut zone, &gone("10.2.0.192.h4.map.example.")).unwrap();
    assert!(matches!(breach(wide(&mut zone)), Breach::Deeper { .. }));
    update(&mut zone, &gone("*.2.0.192.h4.map.example.")).unwrap();
    wide(&mut zone).unwrap();
    assert_eq!(place(&zone, "192.0.7.9"), Some(("198.18.7.9".into(), 5)));
    for deeper in [
        one("192.0.2.10", 9, "203.0.113.7"),
        shared("192.0.2.0/24", 9, "198.51.100.0"),
    ] {
        assert!(matches!(
            breach(update(&mut zone, &deeper)),
            Breach::Deeper { .. }
        ));
    }
    // Nor within a batch, or a message.
    let empty = super::zone();
    let mut draft = Draft::new(&empty);
    let mut send = |u: &Update| draft.update(u, |_| Ok::<_, Refusal>(()));
    send(&one("192.0.2.10", 1, "203.0.113.7")).unwrap();
    let both = send(&shared("192.0.0.0/16", 5, "198.18.0.0"));
    assert!(matches!(breach(both), Breach::Deeper { .. }));
    let mut both = shared("192.0.0.0/16", 5, "198.18.0.0");
    both.updates
        .extend(one("192.0.2.10", 1, "203.0.113.7").updates);
    let mut zone = super::zone();
    assert!(matches!(
        breach(update(&mut zone, &both)),
        Breach::Deeper { .. }
    ));
}

#[test]
fn each_home_of_a_prefix_is_alone_at_its_locator() {
    let mut zone = zone();
    update(&mut zone, &shared("192.0.2.0/24", 5, "198.51.100.0")).unwrap();
    for stranger in [
        one("192.0.3.10", 1, "198.51.100.10"),
        one("192.0.2.10", 9, "198.51.100.11"),
        shared("192.0.3.0/24", 1, "198.51.100.0"),
        shared("193.0.0.0/16", 1, "198.51.0.0"),
    ] {
        let result = update(&mut zone, &stranger);
        assert!(
            matches!(breach(result), Breach::Span { .. }),
            "{stranger:?}"
        );
    }
    // In its own place it may have a binding of its own.
    update(&mut zone, &one("192.0.2.10", 9, "198.51.100.10")).unwrap();
    update(&mut zone, &shared("192.0.2.0/24", 10, "198.18.0.0")).unwrap();
    update(&mut zone, &shared("192.0.2.0/24", 11, "198.51.100.0")).unwrap();
    // Free again.
    update(&mut zone, &shared("192.0.2.0/24", 12, "198.18.0.0")).unwrap();
    update(&mut zone, &one("192.0.3.10", 1, "198.51.100.11")).unwrap();
    let back = update(&mut zone, &shared("192.0.2.0/24", 13, "198.51.100.0"));
    assert!(matches!(breach(back), Breach::Occupied { .. }));

    let empty = super::zone();
    let mut draft = Draft::new(&empty);
    let mut send = |u: &Update| draft.update(u, |_| Ok::<_, Refusal>(()));
    send(&shared("192.0.2.0/24", 5, "198.51.100.0")).unwrap();
    assert!(matches!(
        breach(send(&one("192.0.3.10", 1, "198.51.100.10"))),
        Breach::Span { .. }
    ));
    send(&one("192.0.3.10", 1, "198.18.0.10")).unwrap();
    let taken = send(&shared("192.0.2.0/24", 6, "198.18.0.0"));
    assert!(matches!(breach(taken), Breach::Occupied { .. }));
}

#[test]
fn what_is_no_binding_of_a_prefix_is_refused() {
    let mut zone = zone();
    for (wrong, words) in [
        (
            shared_with("192.0.2.0/24", 1, "198.51.100.0", None),
            "key65283 is missing",
        ),
        (
            shared_with("192.0.2.0/24", 1, "198.51.100.0", Some("16")),
            "not in prefixes of length 16",
        ),
        (
            shared_with("192.0.2.0/24", 1, "198.51.0.0", Some("16")),
            "not the length of the prefix",
        ),
        (
            shared("192.0.2.0/24", 1, "198.51.100.1"),
            "the locator the first in its own",
        ),
        (
            message(vec![], vec![add("*.2.0.192.h4.map.example.", 0, a(1))]),
            "only SVCB",
        ),
    ] {
        let said = update(&mut zone, &wrong).unwrap_err().to_string();
        assert!(said.contains(words), "{words}: {said}");
    }
    let mut one = shared("192.0.2.0/24", 1, "198.51.100.0");
    for record in &mut one.updates {
        record.name = name("10.2.0.192.h4.map.example.");
    }
    assert!(matches!(breach(update(&mut zone, &one)), Breach::NotOne(_)));
    assert!(
        update(&mut zone, &gone("*.2.0.192.h4.map.example."))
            .unwrap()
            .is_empty()
    );
}

#[test]
fn a_key_needs_the_whole_prefix_and_all_of_its_locators() {
    let scope = |prefixes: &[&str]| Scope::Prefixes(prefixes.iter().map(|p| prefix(p)).collect());
    let policy = |homes: &str, locators: &str| Policy {
        homes: scope(&[homes]),
        locators: scope(&[locators]),
        types: vec![RecordType::SVCB],
        other_names: false,
        transfer: false,
        reads: Scope::All,
    };
    let update = shared("192.0.2.0/24", 5, "198.51.100.0");
    let zone = zone();
    let decide = |policy: Policy| {
        let change = Draft::new(&zone)
            .update(&update, |_| Ok::<_, Refusal>(()))
            .unwrap();
        policy.permits(&name(ZONE), &update, &change)
    };
    assert_eq!(decide(policy("192.0.2.0/23", "198.51.100.0/24")), Ok(()));
    let half = decide(policy("192.0.2.0/25", "198.51.100.0/24"));
    assert!(matches!(half, Err(Denial::Prefix(_))), "{half:?}");
    let half = decide(policy("192.0.2.0/24", "198.51.100.0/25"));
    assert!(matches!(half, Err(Denial::Locator { .. })), "{half:?}");
}

#[test]
fn what_follows_by_the_rules_takes_no_right_of_its_own() {
    let mut zone = zone();
    let homes = |prefix: &str| Policy {
        homes: Scope::Prefixes(vec![prefix.parse().unwrap()]),
        locators: Scope::All,
        types: vec![RecordType::SVCB],
        other_names: false,
        transfer: false,
        reads: Scope::All,
    };
    let (all, one_home) = (homes("192.0.2.0/24"), homes("192.0.2.10/32"));
    let mut send = |policy: &Policy, update: &Update| {
        let change = Draft::new(&zone).update(update, |_| Ok::<_, Refusal>(()));
        let change = change.unwrap();
        policy.permits(&name(ZONE), update, &change)?;
        zone.apply(change.clone());
        Ok::<usize, Denial>(change.sets.len())
    };
    let own = "10.2.0.192.h4.map.example.";
    send(&all, &shared("192.0.2.0/24", 5, "198.51.100.0")).unwrap();
    send(&one_home, &one("192.0.2.10", 6, "203.0.113.7")).unwrap();
    // The binding, what is left in its place, and the serial.
    assert_eq!(send(&one_home, &gone(own)), Ok(3));
    assert_eq!(send(&one_home, &one("192.0.2.10", 7, "203.0.113.7")), Ok(3));
    assert_eq!(send(&one_home, &gone(own)), Ok(3));
    assert_eq!(
        send(&all, &shared("192.0.2.0/24", 8, "198.51.100.0")),
        Ok(3)
    );
    // Whoever asks for it needs it.
    let words = TXT::new(vec!["withdrawn".into(), "epoch=9".into()]);
    let words = message(vec![], vec![add(own, 5, RData::TXT(words))]);
    let denied = send(&one_home, &words);
    assert!(matches!(denied, Err(Denial::Kind(..))), "{denied:?}");
}

/// What may happen to a prefix and to homes in it.
#[derive(Clone, Debug)]
enum Step {
    Share(u64),
    /// By somebody whose clock is ahead.
    ShareAhead(u64),
    ShareNoMore,
    Bind(u8, u64),
    Withdraw(u8),
    /// Another home comes to its locator.
    Displace(u8, u64),
    /// What no user has business with.
    Text(u8, Option<u64>),
}

fn step() -> impl Strategy<Value = Step> {
    let (home, rise) = (0..3u8, 0..4u64);
    prop_oneof![
        rise.clone().prop_map(Step::Share),
        rise.clone().prop_map(Step::ShareAhead),
        Just(Step::ShareNoMore),
        (home.clone(), rise.clone()).prop_map(|(home, rise)| Step::Bind(home, rise)),
        home.clone().prop_map(Step::Withdraw),
        (home.clone(), rise.clone()).prop_map(|(home, rise)| Step::Displace(home, rise)),
        (home, proptest::option::of(rise)).prop_map(|(home, rise)| Step::Text(home, rise)),
    ]
}

proptest! {
    /// Secondaries know no epochs and no memory; what they answer is the same nevertheless, and
    /// what a copy of the records makes of the next prefix as well.
    #[test]
    fn whoever_has_the_records_answers_the_same(
        steps in proptest::collection::vec(step(), 1..30),
        batch in any::<bool>(),
    ) {
        let mut zone = zone();
        let mut now = 100;
        let mut last = std::collections::BTreeMap::new();
        let message = |step: &Step, now: &mut u64| {
            let mut epoch = |rise: &u64| {
                *now += rise;
                *now
            };
            let owner = |home: &u8| format!("{home}.2.0.192.h4.{ZONE}");
            match step {
                Step::Share(rise) => shared("192.0.2.0/24", epoch(rise), "198.51.100.0"),
                Step::ShareAhead(ahead) => {
                    shared("192.0.2.0/24", epoch(&1) + ahead, "198.51.100.0")
                }
                Step::ShareNoMore => gone(&format!("*.2.0.192.h4.{ZONE}")),
                Step::Bind(home, rise) => {
                    one(&format!("192.0.2.{home}"), epoch(rise), &format!("203.0.113.{home}"))
                }
                Step::Withdraw(home) => gone(&owner(home)),
                Step::Displace(home, rise) => {
                    one("192.0.3.1", epoch(rise), &format!("203.0.113.{home}"))
                }
                Step::Text(home, None) => message(
                    vec![],
                    vec![bare(&owner(home), DNSClass::ANY, RecordType::TXT)],
                ),
                Step::Text(home, Some(rise)) => {
                    let words = vec!["withdrawn".into(), format!("epoch={}", epoch(rise))];
                    let data = RData::TXT(TXT::new(words));
                    message(vec![], vec![add(&owner(home), 5, data)])
                }
            }
        };
        for pair in steps.chunks(2) {
            let messages: Vec<Update> = pair.iter().map(|step| message(step, &mut now)).collect();
            if batch {
                let before = zone.clone();
                let mut draft = Draft::new(&before);
                for message in &messages {
                    if let Ok(change) = draft.update(message, |_| Ok::<_, Refusal>(())) {
                        zone.apply(change);
                    }
                }
            } else {
                for message in &messages {
                    let _refused = update(&mut zone, message);
                }
            }
            for home in 0..3 {
                let home = format!("192.0.2.{home}");
                let there = place(&zone, &home);
                prop_assert_eq!(&there, &place_elsewhere(&zone, &home), "{}", home);
                if let Some((_, epoch)) = there {
                    let last = last.entry(home).or_default();
                    prop_assert!(*last <= epoch, "{} fell to {}", last, epoch);
                    *last = epoch;
                }
            }
        }
    }
}

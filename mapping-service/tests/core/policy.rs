//! Who may change what.

use mat_mapping::policy::{Denial, Policy, Scope, may_read};
use mat_mapping::zone::rules::Breach;
use mat_proto::{Binding, Entry, Epoch, Modes, Priority, record};

use super::*;

fn scope(prefixes: &[&str]) -> Scope {
    Scope::Prefixes(prefixes.iter().map(|p| p.parse().unwrap()).collect())
}

fn site_b() -> Policy {
    Policy {
        homes: scope(&["192.0.2.0/24"]),
        locators: scope(&["203.0.113.0/24"]),
        types: vec![RecordType::SVCB, RecordType::A],
        other_names: false,
        transfer: false,
        reads: Scope::All,
    }
}

fn set_to(home: &str, epoch: u64, locators: &[(u16, &str)]) -> Update {
    let entries = locators.iter().map(|(priority, locator)| Entry {
        priority: Priority::new(*priority).unwrap(),
        locator: locator.parse().unwrap(),
        port: 6283,
        modes: Modes::NATIVE,
    });
    let home = home.parse().unwrap();
    let binding = Binding::new(home, Epoch(epoch), 30, entries.collect()).unwrap();
    let records = record::to_records(&binding, &name(ZONE), 0).unwrap();
    let mut delete = bare("x.", DNSClass::ANY, RecordType::SVCB);
    delete.name = records[0].name.clone();
    message(vec![], [vec![delete], records].concat())
}

fn decide(zone: &mut Zone, policy: &Policy, update: &Update) -> Result<(), Denial> {
    let change = Draft::new(zone)
        .update(update, |_| Ok::<_, Refusal>(()))
        .unwrap();
    policy.permits(&name(ZONE), update, &change)?;
    zone.apply(change);
    Ok(())
}

#[test]
fn a_site_claims_moves_and_deletes_within_its_bounds() {
    let mut zone = zone();
    let b = site_b();
    let away = set_to("192.0.2.10", 1, &[(1, "198.51.100.7")]);
    assert!(matches!(
        decide(&mut zone, &b, &away),
        Err(Denial::Locator { .. })
    ));
    let a = Policy {
        locators: scope(&["198.51.100.0/24"]),
        ..b.clone()
    };
    decide(&mut zone, &a, &away).unwrap();
    // Preparing keeps the other site's locator, activating drops it; putting it
    // back is the other site's business.
    let prepared = set_to("192.0.2.10", 2, &[(1, "198.51.100.7"), (2, "203.0.113.7")]);
    decide(&mut zone, &b, &prepared).unwrap();
    decide(
        &mut zone,
        &b,
        &set_to("192.0.2.10", 3, &[(1, "203.0.113.7")]),
    )
    .unwrap();
    let back = set_to("192.0.2.10", 4, &[(1, "198.51.100.7")]);
    assert!(matches!(
        decide(&mut zone, &b, &back),
        Err(Denial::Locator { .. })
    ));
    decide(&mut zone, &a, &back).unwrap();
    let owner = "10.2.0.192.h4.map.example.";
    let delete = message(vec![], vec![bare(owner, DNSClass::ANY, RecordType::ANY)]);
    decide(&mut zone, &b, &delete).unwrap();
}

#[test]
fn other_names_types_and_the_apex_are_not_a_sites_to_change() {
    let mut zone = zone();
    let b = site_b();
    let foreign = set_to("198.18.0.1", 1, &[(1, "203.0.113.7")]);
    assert!(matches!(
        decide(&mut zone, &b, &foreign),
        Err(Denial::Home(_))
    ));
    // Also where nothing would change.
    let owner = "1.0.18.198.h4.map.example.";
    let nothing = message(vec![], vec![bare(owner, DNSClass::ANY, RecordType::ANY)]);
    assert!(matches!(
        decide(&mut zone, &b, &nothing),
        Err(Denial::Home(_))
    ));
    let text = message(vec![], vec![add("note.map.example.", 60, txt("x"))]);
    assert!(matches!(decide(&mut zone, &b, &text), Err(Denial::Name(_))));
    let mut operator = Policy {
        homes: Scope::All,
        locators: Scope::All,
        other_names: true,
        ..b
    };
    assert!(matches!(
        decide(&mut zone, &operator, &text),
        Err(Denial::Kind(..))
    ));
    operator.types.push(RecordType::TXT);
    decide(&mut zone, &operator, &text).unwrap();
    operator.types.push(RecordType::NS);
    let server = message(vec![], vec![add(ZONE, 60, ns("evil.example."))]);
    assert!(matches!(
        decide(&mut zone, &operator, &server),
        Err(Denial::Apex)
    ));
    let mut soa = zone.soa().unwrap().clone();
    soa.serial += 1000;
    let soa = message(vec![], vec![add(ZONE, 60, RData::SOA(soa))]);
    assert!(matches!(
        decide(&mut zone, &operator, &soa),
        Err(Denial::Apex)
    ));
}

#[test]
fn whoever_is_registered_at_a_locator_last_has_it() {
    let mut zone = zone();
    let b = site_b();
    decide(
        &mut zone,
        &b,
        &set_to("192.0.2.10", 5, &[(1, "203.0.113.7")]),
    )
    .unwrap();
    decide(
        &mut zone,
        &b,
        &set_to("192.0.2.11", 1, &[(1, "203.0.113.7")]),
    )
    .unwrap();
    assert!(data_of(&zone, "10.2.0.192.h4.map.example.", RecordType::SVCB).is_empty());
    // As after any deletion the epoch does not go back, and back it may come.
    let older = set_to("192.0.2.10", 5, &[(1, "203.0.113.8")]);
    let refused = Draft::new(&zone).update(&older, |_| Ok::<_, Refusal>(()));
    assert_eq!(code(&refused), ResponseCode::Refused);
    decide(
        &mut zone,
        &b,
        &set_to("192.0.2.10", 6, &[(1, "203.0.113.8")]),
    )
    .unwrap();
    assert!(!data_of(&zone, "11.2.0.192.h4.map.example.", RecordType::SVCB).is_empty());
}

/// A site that lost its memory gives an instance the locator that it had prepared for another one,
/// which is served elsewhere, and goes on being served there.
#[test]
fn whoever_only_stands_by_at_a_locator_loses_no_more_than_that() {
    let mut zone = zone();
    let b = site_b();
    let of = |home, epoch, entries| set_to(home, epoch, entries);
    let both = [(1, "203.0.113.7"), (2, "203.0.113.8")];
    decide(&mut zone, &b, &of("192.0.2.10", 5, &both)).unwrap();
    decide(&mut zone, &b, &of("192.0.2.11", 1, &[(1, "203.0.113.8")])).unwrap();
    let left = set_to("192.0.2.10", 6, &[(1, "203.0.113.7")]);
    let left: Vec<RData> = left.updates.into_iter().map(|r| r.data).skip(1).collect();
    let owner = "10.2.0.192.h4.map.example.";
    assert_eq!(data_of(&zone, owner, RecordType::SVCB), left);
    // To stand by is no reason to take somebody's place.
    let beside = of("192.0.2.14", 1, &[(1, "203.0.113.14"), (2, "203.0.113.7")]);
    let refused = Draft::new(&zone).update(&beside, |_| Ok::<_, Refusal>(()));
    let refused = refused.unwrap_err();
    assert!(
        matches!(refused, Refusal::Breach(Breach::InUse(..))),
        "{refused:?}"
    );
    // What the same message asks for at the other one's name is looked at as ever.
    let both = [(1, "203.0.113.7"), (2, "203.0.113.11")];
    decide(&mut zone, &b, &of("192.0.2.10", 7, &both)).unwrap();
    let narrow = Policy {
        types: vec![RecordType::SVCB],
        ..site_b()
    };
    let mut sugared = of("192.0.2.15", 1, &[(1, "203.0.113.11")]);
    let sugar = RData::A("203.0.113.11".parse().unwrap());
    sugared.updates.push(add(owner, 5, sugar));
    let denied = decide(&mut zone, &narrow, &sugared);
    assert!(matches!(denied, Err(Denial::Kind(..))), "{denied:?}");
    // Both places of another at once: nothing is left.
    decide(
        &mut zone,
        &b,
        &of("192.0.2.12", 1, &[(1, "203.0.113.9"), (2, "203.0.113.10")]),
    )
    .unwrap();
    let first = [(1, "203.0.113.9"), (2, "203.0.113.10")];
    decide(&mut zone, &b, &of("192.0.2.13", 1, &first)).unwrap();
    assert!(data_of(&zone, "12.2.0.192.h4.map.example.", RecordType::SVCB).is_empty());
}

#[test]
fn a_home_is_displaced_by_those_alone_who_speak_for_it_or_for_its_locator() {
    let mut zone = zone();
    let at_seven = |home, epoch| set_to(home, epoch, &[(1, "203.0.113.7")]);
    decide(&mut zone, &site_b(), &at_seven("192.0.2.10", 5)).unwrap();
    let roaming = Policy {
        homes: scope(&["192.0.2.99/32"]),
        locators: Scope::All,
        ..site_b()
    };
    let taken = decide(&mut zone, &roaming, &at_seven("192.0.2.99", 1));
    assert!(matches!(taken, Err(Denial::Taken { .. })), "{taken:?}");
    // The site's own key speaks for its locators, although not for that home.
    let site = Policy {
        homes: scope(&["192.0.2.99/32"]),
        ..site_b()
    };
    decide(&mut zone, &site, &at_seven("192.0.2.99", 1)).unwrap();
    let both = Policy {
        homes: scope(&["192.0.2.0/24"]),
        locators: Scope::All,
        ..site_b()
    };
    decide(&mut zone, &both, &at_seven("192.0.2.10", 6)).unwrap();
    assert!(data_of(&zone, "99.2.0.192.h4.map.example.", RecordType::SVCB).is_empty());
}

#[test]
fn a_locator_is_displaced_within_a_batch_too_and_not_shared_within_a_message() {
    let zone = zone();
    let mut draft = Draft::new(&zone);
    let fine = |_: &Change| Ok::<_, Refusal>(());
    let seven = [(1, "203.0.113.7")];
    draft
        .update(&set_to("192.0.2.10", 1, &seven), fine)
        .unwrap();
    let second = draft
        .update(&set_to("192.0.2.11", 1, &seven), fine)
        .unwrap();
    assert_eq!(second.moves[1].whose.to_string(), "192.0.2.10");
    assert_eq!(
        second.moves[1].displaced_from,
        Some("203.0.113.7".parse().unwrap())
    );
    // It has gone elsewhere meanwhile: nobody to displace.
    draft
        .update(&set_to("192.0.2.11", 2, &[(1, "203.0.113.8")]), fine)
        .unwrap();
    let third = draft
        .update(&set_to("192.0.2.12", 1, &seven), fine)
        .unwrap();
    assert_eq!(third.moves.len(), 1);
    let (mut both, other) = (
        set_to("192.0.2.20", 1, &[(1, "203.0.113.9")]),
        set_to("192.0.2.21", 1, &[(1, "203.0.113.9")]),
    );
    both.updates.extend(other.updates);
    assert_eq!(code(&draft.update(&both, fine)), ResponseCode::Refused);
}

#[test]
fn private_homes_are_told_to_their_keys_alone() {
    let origin = name("map.example.");
    let net = |text: &str| Scope::Prefixes(vec![text.parse().unwrap()]);
    let private = net("192.0.2.0/25");
    let reader = Policy {
        reads: net("192.0.2.0/28"),
        ..site_b()
    };
    for (owner, anybody, key) in [
        ("1.2.0.192.h4", false, true),
        ("100.2.0.192.H4", false, false),
        ("200.2.0.192.h4", true, true),
        // Whether they exist says who is there.
        ("2.0.192.h4", false, false),
        ("h4", false, false),
        ("x.1.2.0.192.h4", false, false),
        ("h6", false, false),
        ("h4.note", true, true),
        ("note", true, true),
    ] {
        let owner = name(&format!("{owner}.map.example."));
        let told = |key| may_read(&private, key, &owner, &origin);
        assert_eq!((told(None), told(Some(&reader))), (anybody, key), "{owner}");
        let open = Scope::Prefixes(Vec::new());
        assert!(may_read(&open, None, &owner, &origin));
    }
    assert!(may_read(&private, None, &origin, &origin));
    let all = Policy {
        reads: net("192.0.2.0/24"),
        ..site_b()
    };
    let owner = name("2.0.192.h4.map.example.");
    assert!(may_read(&private, Some(&all), &owner, &origin));
}

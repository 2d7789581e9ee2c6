//! The rules for the owners of home addresses.

use hickory_proto::rr::rdata::NULL;
use mat_mapping::zone::rules::Breach;
use mat_proto::{Binding, Entry, Epoch, Home, Modes, Priority, record};
use proptest::prelude::*;

use super::*;

const OWNER: &str = "10.2.0.192.h4.map.example.";

fn home() -> Home {
    "192.0.2.10".parse().unwrap()
}

fn binding(epoch: u64, locators: &[&str]) -> Binding {
    let entries = locators.iter().enumerate().map(|(i, locator)| Entry {
        priority: Priority::new(i as u16 + 1).unwrap(),
        locator: locator.parse().unwrap(),
        port: 6283,
        modes: Modes::NATIVE,
    });
    Binding::new(home(), Epoch(epoch), 30, entries.collect()).unwrap()
}

fn records(binding: &Binding) -> Vec<Record> {
    record::to_records(binding, &name(ZONE), 0).unwrap()
}

/// Delete the set, add `binding`.
fn set_to(binding: &Binding) -> Update {
    let mut updates = vec![bare(OWNER, DNSClass::ANY, RecordType::SVCB)];
    updates.extend(records(binding));
    message(vec![], updates)
}

fn delete() -> Update {
    message(vec![], vec![bare(OWNER, DNSClass::ANY, RecordType::ANY)])
}

fn held(zone: &Zone) -> Option<Binding> {
    let set = zone.set(&name(OWNER), RecordType::SVCB)?;
    let svcb = set.data.iter().map(|data| match data {
        RData::SVCB(svcb) => svcb,
        other => panic!("not SVCB: {other:?}"),
    });
    Some(record::from_svcb(home(), svcb).expect("the zone holds a binding"))
}

#[test]
fn a_move_is_one_compare_and_swap() {
    let mut zone = zone();
    let old = binding(100, &["198.51.100.7"]);
    let new = binding(101, &["203.0.113.7"]);
    let claim = Update {
        prerequisites: vec![bare(OWNER, DNSClass::NONE, RecordType::SVCB)],
        ..set_to(&old)
    };
    let change = update(&mut zone, &claim).unwrap();
    assert_eq!(change.moves.len(), 1);
    assert_eq!(
        (&change.moves[0].from, &change.moves[0].to),
        (&None, &Some(old.clone()))
    );
    assert_eq!(code(&update(&mut zone, &claim)), ResponseCode::YXRRSet);
    let swap = Update {
        prerequisites: records(&old),
        ..set_to(&new)
    };
    let change = update(&mut zone, &swap).unwrap();
    assert_eq!(
        (&change.moves[0].from, &change.moves[0].to),
        (&Some(old), &Some(new.clone()))
    );
    assert_eq!(code(&update(&mut zone, &swap)), ResponseCode::NXRRSet);
    assert_eq!(held(&zone), Some(new));
}

#[test]
fn the_epoch_rises_with_every_change_also_over_a_deletion() {
    let mut zone = zone();
    let mut put = |epoch, locator| update(&mut zone, &set_to(&binding(epoch, &[locator])));
    put(100, "198.51.100.7").unwrap();
    for stale in [0, 99, 100] {
        let result = put(stale, "198.51.100.8");
        assert!(
            matches!(result, Err(Refusal::Breach(Breach::Epoch { .. }))),
            "{stale}"
        );
    }
    // The same set again is no change.
    assert!(put(100, "198.51.100.7").unwrap().is_empty());
    put(101, "198.51.100.8").unwrap();
    update(&mut zone, &delete()).unwrap();
    assert_eq!(held(&zone), None);
    let mut put = |epoch| update(&mut zone, &set_to(&binding(epoch, &["198.51.100.9"])));
    let refusal = put(101).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "the epoch of 192.0.2.10 must rise above 101, not be 101 (new = max(old + 1, Unix seconds))"
    );
    put(102).unwrap();
}

#[test]
fn deleting_and_claiming_in_one_batch_does_not_go_back() {
    let mut zone = zone();
    update(&mut zone, &set_to(&binding(100, &["198.51.100.7"]))).unwrap();
    let mut draft = Draft::new(&zone);
    let mut send = |u: &Update| draft.update(u, |_| Ok::<_, Refusal>(()));
    send(&delete()).unwrap();
    assert!(send(&set_to(&binding(100, &["198.51.100.8"]))).is_err());
    send(&set_to(&binding(101, &["198.51.100.8"]))).unwrap();
    assert!(send(&set_to(&binding(101, &["198.51.100.9"]))).is_err());
}

#[test]
fn what_is_no_binding_is_refused() {
    let one = || records(&binding(5, &["198.51.100.7"])).remove(0);
    let other_epoch = records(&binding(6, &["198.51.100.8"])).remove(0);
    let mut alias = one();
    if let RData::SVCB(svcb) = &mut alias.data {
        svcb.svc_priority = 0;
    }
    let list = |octets: &[u8]| RData::Unknown {
        code: 42.into(),
        rdata: NULL::with(octets.to_vec()),
    };
    let wrong: [(Vec<Record>, &str); 10] = [
        (vec![one(), other_epoch], "different epochs"),
        (vec![alias], "AliasMode"),
        (vec![one(), add(OWNER, 5, txt("note"))], "only SVCB"),
        (vec![add(OWNER, 5, cname("x.map.example."))], "only SVCB"),
        (
            vec![add("*.10.2.0.192.h4.map.example.", 5, txt("x"))],
            "names no home address",
        ),
        (
            vec![add("h4.map.example.", 5, txt("x"))],
            "names no home address",
        ),
        (
            vec![add("x.h6.map.example.", 5, txt("x"))],
            "names no home address",
        ),
        (vec![add("*.map.example.", 5, txt("x"))], "wildcards"),
        (
            vec![add(
                "_home.map.example.",
                5,
                list(&[0, 1, 24, 0x83, 192, 0, 2]),
            )],
            "item 1 is an exception",
        ),
        (
            vec![add("sub.map.example.", 5, ns("ns.example."))],
            "not served below the apex",
        ),
    ];
    for (records, why) in wrong {
        let mut zone = zone();
        let before = zone.snapshot();
        let result = update(&mut zone, &message(vec![], records));
        assert_eq!(code(&result), ResponseCode::Refused, "{why}");
        let said = result.unwrap_err().to_string();
        assert!(said.contains(why), "{said} should say {why}");
        assert_eq!(zone.snapshot(), before);
    }
    let top = binding(u64::MAX, &["198.51.100.7"]);
    assert!(matches!(
        update(&mut zone(), &set_to(&top)),
        Err(Refusal::Breach(Breach::EpochTooHigh { .. }))
    ));
}

#[test]
fn addresses_for_people_are_welcome_and_ttls_are_lowered() {
    let mut zone = zone();
    let mut all = records(&binding(5, &["198.51.100.7"]));
    all[0].ttl = 3600;
    all.push(add(OWNER, 3600, a(7)));
    update(&mut zone, &message(vec![], all)).unwrap();
    for kind in [RecordType::SVCB, RecordType::A] {
        assert_eq!(zone.set(&name(OWNER), kind).unwrap().ttl, 5);
    }
    // Sugar alone is no binding and has no epoch.
    let other = "11.2.0.192.h4.map.example.";
    let change = update(&mut zone, &message(vec![], vec![add(other, 5, a(7))])).unwrap();
    assert!(change.moves.is_empty());
}

/// What a client may try on one home address.
fn attempt() -> impl Strategy<Value = Update> {
    let locators =
        proptest::sample::subsequence(vec!["198.51.100.7", "198.51.100.8", "203.0.113.7"], 1..=3);
    let set = (0u64..12, locators).prop_map(|(epoch, l)| binding(epoch, &l));
    prop_oneof![
        4 => set.clone().prop_map(|b| set_to(&b)),
        2 => set.clone().prop_map(|b| message(vec![], records(&b))),
        1 => set.clone().prop_map(|b| {
            let one = records(&b).remove(0).data;
            message(vec![], vec![delete_record(OWNER, one)])
        }),
        2 => Just(delete()),
        2 => (set.clone(), set).prop_map(|(old, new)| Update {
            prerequisites: records(&old),
            ..set_to(&new)
        }),
    ]
}

proptest! {
    #[test]
    fn an_owner_always_holds_a_binding_that_never_goes_back(
        attempts in proptest::collection::vec(attempt(), 1..40)
    ) {
        let mut zone = zone();
        let mut journal = Vec::new();
        let mut last = None;
        for attempt in &attempts {
            let before = held(&zone);
            if let Ok(change) = update(&mut zone, attempt) {
                journal.push(change);
            } else {
                prop_assert_eq!(&before, &held(&zone));
            }
            let after = held(&zone);
            if let Some(after) = &after
                && before.as_ref() != Some(after)
            {
                prop_assert!(Some(after.epoch()) > last);
            }
            last = after.map(|b| b.epoch()).max(last);
        }
        // What the journal has makes the same zone again.
        let mut copy = super::zone();
        for change in journal {
            copy.apply(change);
        }
        prop_assert_eq!(copy.snapshot(), zone.snapshot());
    }
}

//! Who may change what.

use mat_mapping::policy::{Denial, Policy, Scope};
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

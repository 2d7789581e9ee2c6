//! Each clause of RFC 2136 sections 2 and 3, by itself.

use super::*;

const OWNER: &str = "host.map.example.";

fn with_two_texts() -> Zone {
    let mut zone = zone();
    let updates = vec![add(OWNER, 60, txt("x")), add(OWNER, 60, txt("y"))];
    update(&mut zone, &message(vec![], updates)).unwrap();
    zone
}

/// What a prerequisite section alone comes to.
fn require(zone: &Zone, prerequisites: Vec<Record>) -> ResponseCode {
    code(&update(&mut zone.clone(), &message(prerequisites, vec![])))
}

#[test]
fn the_zone_section_names_our_zone_and_nothing_else() {
    let with = |zone| Update {
        zone,
        ..message(vec![], vec![])
    };
    let question = |owner: &str, kind| Query::query(name(owner), kind);
    let result = |u: &Update| code(&update(&mut zone(), u));
    let soa = question(ZONE, RecordType::SOA);
    assert_eq!(result(&with(vec![soa.clone()])), ResponseCode::NoError);
    let upper = question("MAP.example.", RecordType::SOA);
    assert_eq!(result(&with(vec![upper])), ResponseCode::NoError);
    assert_eq!(result(&with(vec![])), ResponseCode::FormErr);
    assert_eq!(result(&with(vec![soa.clone(), soa])), ResponseCode::FormErr);
    let wrong_type = question(ZONE, RecordType::A);
    assert_eq!(result(&with(vec![wrong_type])), ResponseCode::FormErr);
    let other = question("other.example.", RecordType::SOA);
    assert_eq!(result(&with(vec![other])), ResponseCode::NotAuth);
    let below = question("h4.map.example.", RecordType::SOA);
    assert_eq!(result(&with(vec![below])), ResponseCode::NotAuth);
    let mut chaos = question(ZONE, RecordType::SOA);
    chaos.set_query_class(DNSClass::CH);
    assert_eq!(result(&with(vec![chaos])), ResponseCode::NotAuth);
}

#[test]
fn set_exists_by_value_is_equality_not_membership() {
    let zone = with_two_texts();
    let has = |texts: &[&str]| {
        let records = texts.iter().map(|t| add(OWNER, 0, txt(t)));
        require(&zone, records.collect())
    };
    assert_eq!(has(&["x", "y"]), ResponseCode::NoError);
    assert_eq!(has(&["y", "x"]), ResponseCode::NoError);
    assert_eq!(has(&["x", "y", "x"]), ResponseCode::NoError);
    assert_eq!(has(&["x"]), ResponseCode::NXRRSet);
    assert_eq!(has(&["x", "y", "z"]), ResponseCode::NXRRSet);
    assert_eq!(has(&["x", "z"]), ResponseCode::NXRRSet);
    let missing = vec![add("none.map.example.", 0, txt("x"))];
    assert_eq!(require(&zone, missing), ResponseCode::NXRRSet);
    let other_type = vec![add(OWNER, 0, a(1))];
    assert_eq!(require(&zone, other_type), ResponseCode::NXRRSet);
    // Names in any case.
    let upper = ["x", "y"].map(|t| add("HOST.Map.Example.", 0, txt(t)));
    assert_eq!(require(&zone, upper.to_vec()), ResponseCode::NoError);
}

#[test]
fn the_other_four_prerequisites() {
    let zone = with_two_texts();
    let needs = |owner, class, kind| require(&zone, vec![bare(owner, class, kind)]);
    let none = "none.map.example.";
    let cases = [
        (OWNER, DNSClass::ANY, RecordType::TXT, ResponseCode::NoError),
        (OWNER, DNSClass::ANY, RecordType::A, ResponseCode::NXRRSet),
        (none, DNSClass::ANY, RecordType::TXT, ResponseCode::NXRRSet),
        (
            OWNER,
            DNSClass::NONE,
            RecordType::TXT,
            ResponseCode::YXRRSet,
        ),
        (OWNER, DNSClass::NONE, RecordType::A, ResponseCode::NoError),
        (OWNER, DNSClass::ANY, RecordType::ANY, ResponseCode::NoError),
        (none, DNSClass::ANY, RecordType::ANY, ResponseCode::NXDomain),
        (
            OWNER,
            DNSClass::NONE,
            RecordType::ANY,
            ResponseCode::YXDomain,
        ),
        (none, DNSClass::NONE, RecordType::ANY, ResponseCode::NoError),
    ];
    for (owner, class, kind, wanted) in cases {
        assert_eq!(needs(owner, class, kind), wanted, "{owner} {class} {kind}");
    }
}

#[test]
fn an_empty_non_terminal_is_not_in_use() {
    let mut zone = zone();
    let deep = add("deep.er.map.example.", 60, txt("x"));
    update(&mut zone, &message(vec![], vec![deep])).unwrap();
    let needs = |class| require(&zone, vec![bare("er.map.example.", class, RecordType::ANY)]);
    assert_eq!(needs(DNSClass::ANY), ResponseCode::NXDomain);
    assert_eq!(needs(DNSClass::NONE), ResponseCode::NoError);
}

#[test]
fn malformed_prerequisites() {
    let zone = with_two_texts();
    let with_ttl = vec![add(OWNER, 1, txt("x"))];
    assert_eq!(require(&zone, with_ttl), ResponseCode::FormErr);
    let outside = vec![bare("other.example.", DNSClass::ANY, RecordType::ANY)];
    assert_eq!(require(&zone, outside), ResponseCode::NotZone);
    for class in [DNSClass::ANY, DNSClass::NONE] {
        let mut with_data = add(OWNER, 0, txt("x"));
        with_data.dns_class = class;
        assert_eq!(require(&zone, vec![with_data]), ResponseCode::FormErr);
    }
    for class in [DNSClass::IN, DNSClass::CH] {
        let no_data = bare(OWNER, class, RecordType::TXT);
        assert_eq!(require(&zone, vec![no_data]), ResponseCode::FormErr);
    }
}

#[test]
fn the_prescan_stops_everything() {
    let first = || add(OWNER, 60, a(1));
    let mut class_any_with_data = add(OWNER, 0, txt("x"));
    class_any_with_data.dns_class = DNSClass::ANY;
    let mut any_with_ttl = bare(OWNER, DNSClass::ANY, RecordType::TXT);
    any_with_ttl.ttl = 1;
    let mut none_with_ttl = delete_record(OWNER, txt("x"));
    none_with_ttl.ttl = 1;
    let mut chaos = add(OWNER, 60, txt("x"));
    chaos.dns_class = DNSClass::CH;
    let form = ResponseCode::FormErr;
    let cases = [
        (add("other.example.", 60, txt("x")), ResponseCode::NotZone),
        (bare(OWNER, DNSClass::IN, RecordType::TXT), form),
        (bare(OWNER, DNSClass::IN, RecordType::ANY), form),
        (bare(OWNER, DNSClass::IN, RecordType::AXFR), form),
        (bare(OWNER, DNSClass::ANY, RecordType::AXFR), form),
        (bare(OWNER, DNSClass::NONE, RecordType::ANY), form),
        (bare(OWNER, DNSClass::NONE, RecordType::TXT), form),
        (class_any_with_data, form),
        (any_with_ttl, form),
        (none_with_ttl, form),
        (chaos, form),
    ];
    for (bad, wanted) in cases {
        let mut zone = with_two_texts();
        let before = zone.snapshot();
        let shown = format!("{bad:?}");
        let result = update(&mut zone, &message(vec![], vec![first(), bad]));
        assert_eq!(code(&result), wanted, "{shown}");
        assert_eq!(zone.snapshot(), before, "{shown}");
    }
}

#[test]
fn adding_and_the_three_ways_to_delete() {
    let mut zone = with_two_texts();
    let send = |zone: &mut Zone, record| update(zone, &message(vec![], vec![record])).unwrap();
    send(&mut zone, add(OWNER, 60, a(1)));
    send(&mut zone, delete_record(OWNER, txt("x")));
    assert_eq!(data_of(&zone, OWNER, RecordType::TXT), [txt("y")]);
    send(&mut zone, bare(OWNER, DNSClass::ANY, RecordType::TXT));
    assert!(data_of(&zone, OWNER, RecordType::TXT).is_empty());
    assert_eq!(data_of(&zone, OWNER, RecordType::A), [a(1)]);
    send(&mut zone, add(OWNER, 60, txt("z")));
    send(&mut zone, bare(OWNER, DNSClass::ANY, RecordType::ANY));
    assert!(zone.kinds(&name(OWNER)).is_empty());
    // The last record of a set takes the set with it.
    send(&mut zone, add(OWNER, 60, txt("z")));
    send(&mut zone, delete_record(OWNER, txt("z")));
    assert!(zone.kinds(&name(OWNER)).is_empty());
}

#[test]
fn no_octets_are_data_of_a_type_that_is_not_known() {
    let mut zone = zone();
    let kind = RecordType::Unknown(65280);
    let nothing = RData::Update0(kind);
    let added = message(vec![], vec![add(OWNER, 60, nothing.clone())]);
    assert!(!update(&mut zone, &added).unwrap().is_empty());
    assert_eq!(data_of(&zone, OWNER, kind), vec![nothing.clone()]);
    let prerequisite = vec![add(OWNER, 0, nothing.clone())];
    let deleted = message(prerequisite, vec![delete_record(OWNER, nothing)]);
    update(&mut zone, &deleted).unwrap();
    assert!(zone.kinds(&name(OWNER)).is_empty());
}

#[test]
fn cnames_stay_alone_whoever_came_first() {
    let mut zone = with_two_texts();
    let send = |zone: &mut Zone, record| update(zone, &message(vec![], vec![record])).unwrap();
    assert!(send(&mut zone, add(OWNER, 60, cname("a.map.example."))).is_empty());
    let alias = "alias.map.example.";
    send(&mut zone, add(alias, 60, cname("a.map.example.")));
    assert!(send(&mut zone, add(alias, 60, txt("x"))).is_empty());
    // A second CNAME replaces the first.
    send(&mut zone, add(alias, 60, cname("b.map.example.")));
    assert_eq!(
        data_of(&zone, alias, RecordType::CNAME),
        [cname("b.map.example.")]
    );
    // Within one message the order counts.
    let swap = vec![
        bare(alias, DNSClass::ANY, RecordType::CNAME),
        add(alias, 60, txt("x")),
    ];
    update(&mut zone, &message(vec![], swap)).unwrap();
    assert_eq!(zone.kinds(&name(alias)), [RecordType::TXT]);
}

#[test]
fn the_apex_keeps_soa_and_ns() {
    let mut zone = zone();
    let before = zone.snapshot();
    let attempts = vec![
        bare(ZONE, DNSClass::ANY, RecordType::ANY),
        bare(ZONE, DNSClass::ANY, RecordType::SOA),
        bare(ZONE, DNSClass::ANY, RecordType::NS),
        delete_record(ZONE, RData::SOA(zone.soa().unwrap().clone())),
    ];
    update(&mut zone, &message(vec![], attempts)).unwrap();
    assert_eq!(zone.snapshot(), before);
    let both = ["ns1.map.example.", "ns2.map.example."].map(|t| delete_record(ZONE, ns(t)));
    update(&mut zone, &message(vec![], both.to_vec())).unwrap();
    assert_eq!(data_of(&zone, ZONE, RecordType::NS).len(), 1);
}

#[test]
fn the_soa_goes_forwards_only() {
    let mut zone = zone();
    let with_serial = |zone: &Zone, serial| {
        let mut soa = zone.soa().unwrap().clone();
        soa.serial = serial;
        message(vec![], vec![add(ZONE, 300, RData::SOA(soa))])
    };
    let newer = with_serial(&zone, 50);
    update(&mut zone, &newer).unwrap();
    assert_eq!(zone.serial(), 50);
    let older = with_serial(&zone, 49);
    assert!(update(&mut zone, &older).unwrap().is_empty());
    let mut elsewhere = with_serial(&zone, 60);
    elsewhere.updates[0].name = name(OWNER);
    assert!(update(&mut zone, &elsewhere).unwrap().is_empty());
}

#[test]
fn the_serial_rises_if_and_only_if_something_changes() {
    let mut zone = with_two_texts();
    assert_eq!(zone.serial(), 2);
    let nothing = vec![
        add(OWNER, 60, txt("x")),
        bare("none.map.example.", DNSClass::ANY, RecordType::ANY),
        delete_record(OWNER, txt("never there")),
    ];
    update(&mut zone, &message(vec![], nothing)).unwrap();
    assert_eq!(zone.serial(), 2);
    let undone = vec![add(OWNER, 60, txt("new")), delete_record(OWNER, txt("new"))];
    update(&mut zone, &message(vec![], undone)).unwrap();
    assert_eq!(zone.serial(), 2);
    let ttl_only = vec![add(OWNER, 61, txt("x"))];
    update(&mut zone, &message(vec![], ttl_only)).unwrap();
    assert_eq!(zone.serial(), 3);
    assert_eq!(zone.set(&name(OWNER), RecordType::TXT).unwrap().ttl, 61);
}

#[test]
fn sets_are_bounded() {
    let mut zone = zone();
    let many = (0..300).map(|i| add(OWNER, 60, txt(&i.to_string())));
    let result = update(&mut zone, &message(vec![], many.collect()));
    assert_eq!(code(&result), ResponseCode::Refused);
    assert_eq!(zone.serial(), 1);
}

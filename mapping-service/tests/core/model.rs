//! Random messages against a second, naive implementation of RFC 2136: the
//! pseudo-code of its sections 3.2.5, 3.4.1.3 and 3.4.2.7, line by line, on
//! plain lists.

use proptest::prelude::*;

use super::*;

const NAMES: [&str; 4] = [
    "map.example.",
    "a.map.example.",
    "b.a.map.example.",
    "outside.example.",
];

#[derive(Clone, Debug, Default, PartialEq)]
struct Model(Vec<(Name, RData)>);

impl Model {
    fn of(zone: &Zone) -> Self {
        let records = zone.records().map(|r| (r.name, without_serial(r.data)));
        let mut list: Vec<_> = records.collect();
        list.sort_by_key(|entry| format!("{entry:?}"));
        Model(list)
    }

    fn sorted(mut self) -> Self {
        self.0.sort_by_key(|entry| format!("{entry:?}"));
        self
    }

    fn set(&self, owner: &Name, kind: RecordType) -> Vec<RData> {
        let at = self.0.iter().filter(|(n, _)| n == owner);
        at.map(|(_, d)| d.clone())
            .filter(|d| d.record_type() == kind)
            .collect()
    }

    fn in_use(&self, owner: &Name) -> bool {
        self.0.iter().any(|(n, _)| n == owner)
    }

    fn update(&mut self, update: &Update) -> ResponseCode {
        let origin = name(ZONE);
        let mut temp: Vec<(Name, RData)> = Vec::new();
        for rr in &update.prerequisites {
            let kind = rr.record_type();
            let empty = matches!(rr.data, RData::Update0(_));
            if rr.ttl != 0 {
                return ResponseCode::FormErr;
            }
            if !origin.zone_of(&rr.name) {
                return ResponseCode::NotZone;
            }
            let exists = !self.set(&rr.name, kind).is_empty();
            match rr.dns_class {
                DNSClass::ANY | DNSClass::NONE if !empty => return ResponseCode::FormErr,
                DNSClass::ANY if kind == RecordType::ANY => {
                    if !self.in_use(&rr.name) {
                        return ResponseCode::NXDomain;
                    }
                }
                DNSClass::ANY if !exists => return ResponseCode::NXRRSet,
                DNSClass::NONE if kind == RecordType::ANY => {
                    if self.in_use(&rr.name) {
                        return ResponseCode::YXDomain;
                    }
                }
                DNSClass::NONE if exists => return ResponseCode::YXRRSet,
                DNSClass::ANY | DNSClass::NONE => {}
                _ if empty => return ResponseCode::FormErr,
                _ => {
                    let entry = (rr.name.clone(), rr.data.clone());
                    if !temp.contains(&entry) {
                        temp.push(entry);
                    }
                }
            }
        }
        for (owner, data) in &temp {
            let kind = data.record_type();
            let wanted = temp
                .iter()
                .filter(|(n, d)| n == owner && d.record_type() == kind);
            let held = self.set(owner, kind);
            if wanted.clone().count() != held.len()
                || !wanted.clone().all(|(_, d)| held.contains(d))
            {
                return ResponseCode::NXRRSet;
            }
        }
        for rr in &update.updates {
            let empty = matches!(rr.data, RData::Update0(_));
            let any = rr.record_type() == RecordType::ANY;
            let bad = match rr.dns_class {
                DNSClass::IN => any || empty,
                DNSClass::ANY => rr.ttl != 0 || !empty,
                _ => rr.ttl != 0 || any || empty,
            };
            if !origin.zone_of(&rr.name) {
                return ResponseCode::NotZone;
            }
            if bad {
                return ResponseCode::FormErr;
            }
        }
        for rr in &update.updates {
            self.apply(rr, rr.name == origin);
        }
        ResponseCode::NoError
    }

    fn apply(&mut self, rr: &Record, apex: bool) {
        let kind = rr.record_type();
        let protected = |k| apex && matches!(k, RecordType::SOA | RecordType::NS);
        match rr.dns_class {
            DNSClass::IN => {
                let has_cname = !self.set(&rr.name, RecordType::CNAME).is_empty();
                let has_other = self
                    .0
                    .iter()
                    .any(|(n, d)| *n == rr.name && d.record_type() != RecordType::CNAME);
                match kind {
                    RecordType::CNAME if has_other => {}
                    RecordType::CNAME => {
                        self.0.retain(|(n, _)| *n != rr.name);
                        self.0.push((rr.name.clone(), rr.data.clone()));
                    }
                    _ if has_cname => {}
                    _ => {
                        let entry = (rr.name.clone(), rr.data.clone());
                        if !self.0.contains(&entry) {
                            self.0.push(entry);
                        }
                    }
                }
            }
            DNSClass::ANY => self.0.retain(|(n, d)| {
                let matches = kind == RecordType::ANY || d.record_type() == kind;
                *n != rr.name || !matches || protected(d.record_type())
            }),
            _ => {
                let last_ns = protected(kind) && self.set(&rr.name, kind).len() == 1;
                if kind != RecordType::SOA && !last_ns {
                    self.0.retain(|(n, d)| *n != rr.name || *d != rr.data);
                }
            }
        }
    }
}

fn without_serial(data: RData) -> RData {
    match data {
        RData::SOA(mut soa) => {
            soa.serial = 0;
            RData::SOA(soa)
        }
        other => other,
    }
}

fn data() -> impl Strategy<Value = RData> {
    prop_oneof![
        (0u8..3).prop_map(a),
        (0u8..3).prop_map(|i| txt(&i.to_string())),
        (0u8..2).prop_map(|i| cname(["x.map.example.", "y.map.example."][usize::from(i)])),
    ]
}

fn apex_ns() -> impl Strategy<Value = Record> {
    let target = prop_oneof![
        Just("ns1.map.example."),
        Just("ns2.map.example."),
        Just("ns3.map.example.")
    ];
    (target, any::<bool>()).prop_map(|(target, adds)| {
        if adds {
            add(ZONE, 60, ns(target))
        } else {
            delete_record(ZONE, ns(target))
        }
    })
}

fn kind() -> impl Strategy<Value = RecordType> {
    prop_oneof![
        Just(RecordType::A),
        Just(RecordType::TXT),
        Just(RecordType::CNAME),
        Just(RecordType::NS),
        Just(RecordType::SOA),
        Just(RecordType::ANY),
    ]
}

/// Mostly sound records; sometimes one with a wrong TTL, class or name.
fn record(ttl: u32) -> impl Strategy<Value = Record> {
    let owner = prop_oneof![20 => 0usize..3, 1 => Just(3usize)].prop_map(|i| NAMES[i]);
    let class = prop_oneof![Just(DNSClass::ANY), Just(DNSClass::NONE)];
    let ttl = prop_oneof![20 => Just(ttl), 1 => Just(7u32)];
    prop_oneof![
        4 => (owner.clone(), ttl, data()).prop_map(|(o, ttl, d)| add(o, ttl, d)),
        3 => (owner.clone(), class, kind()).prop_map(|(o, c, k)| bare(o, c, k)),
        2 => (owner, data()).prop_map(|(o, d)| delete_record(o, d)),
    ]
}

fn updates() -> impl Strategy<Value = Update> {
    let change = prop_oneof![9 => record(60), 1 => apex_ns()];
    (
        proptest::collection::vec(record(0), 0..2),
        proptest::collection::vec(change, 0..5),
    )
        .prop_map(|(prerequisites, updates)| message(prerequisites, updates))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn both_implementations_agree(sequence in proptest::collection::vec(updates(), 1..12)) {
        let mut zone = zone();
        let mut model = Model::of(&zone);
        for update in &sequence {
            let before = zone.clone();
            let mut expected = model.clone();
            let wanted = expected.update(update);
            let result = super::update(&mut zone, update);
            prop_assert_eq!(code(&result), wanted, "{:?}", update);
            if wanted == ResponseCode::NoError {
                model = expected.sorted();
                let changed = Model::of(&zone) != Model::of(&before);
                if changed {
                    prop_assert_eq!(zone.serial(), before.serial() + 1);
                }
            } else {
                prop_assert_eq!(zone.snapshot(), before.snapshot());
            }
            prop_assert_eq!(Model::of(&zone), model.clone());
        }
    }

    #[test]
    fn a_batch_is_the_same_as_one_by_one(sequence in proptest::collection::vec(updates(), 1..12)) {
        let mut single = zone();
        let singly: Vec<_> = sequence.iter().map(|u| super::update(&mut single, u)).collect();
        let mut batched = zone();
        let together: Vec<_> = {
            let mut draft = Draft::new(&batched);
            sequence.iter().map(|u| draft.update(u, |_| Ok::<_, Refusal>(()))).collect()
        };
        prop_assert_eq!(&singly, &together);
        for change in together.into_iter().flatten() {
            batched.apply(change);
        }
        prop_assert_eq!(batched.snapshot(), single.snapshot());
    }
}

//! Who has changed which binding: told to those who may change it, also after a restart.

use mat_mapping::client::{Algorithm, MapError, Swap, Told, TsigKey};

use crate::harness::*;

async fn past(mapd: &Mapd, key: TsigKey, homes: &str) -> Result<Told, MapError> {
    let client = mapd.client_with(Some(key));
    let homes = (!homes.is_empty()).then(|| homes.parse().unwrap());
    client.past(homes).await
}

/// What was told, without the times.
fn lines(told: Result<Told, MapError>) -> Vec<String> {
    let told = told.unwrap();
    assert!(!told.older);
    let steps = told.steps.iter();
    let lines = steps.map(|step| step.to_string().split_once(' ').unwrap().1.to_owned());
    lines.collect()
}

#[tokio::test]
async fn whoever_may_change_a_binding_is_told_who_did() {
    let dir = directory();
    let mapd = Mapd::start(dir.path());
    let key_b = TsigKey::from_base64("site-b", Algorithm::HmacSha512, SECRET_B).unwrap();
    let (a, b) = (mapd.client(), mapd.client_with(Some(key_b.clone())));
    let first = binding("192.0.2.10", 5, "198.51.100.10");
    let second = binding("192.0.2.10", 6, "203.0.113.10");
    let other = binding("192.0.2.200", 1, "198.51.100.20");
    let six = binding("2001:db8:1::1", 1, "2001:db8:a::1");
    for (client, old, new) in [
        (&a, None, Some(&first)),
        (&b, Some(&first), Some(&second)),
        (&a, None, Some(&other)),
        (&a, None, Some(&six)),
        (&a, Some(&other), None),
    ] {
        let home = old.or(new).unwrap().home();
        let done = client.compare_and_swap(home, old, new).await.unwrap();
        assert_eq!(done, Swap::Committed);
    }
    let all = [
        "site-a. 192.0.2.10: nothing -> 198.51.100.10@5",
        "site-b. 192.0.2.10: 198.51.100.10@5 -> 203.0.113.10@6",
        "site-a. 192.0.2.200: nothing -> 198.51.100.20@1",
        "site-a. 2001:db8:1::1: nothing -> 2001:db8:a::1@1",
        "site-a. 192.0.2.200: 198.51.100.20@1 -> nothing",
    ];
    let told = async |mapd: &Mapd, homes| lines(past(mapd, key_a(), homes).await);
    assert_eq!(told(&mapd, "").await, all);
    assert_eq!(told(&mapd, "192.0.2.10/32").await, all[..2]);
    assert_eq!(told(&mapd, "192.0.2.192/26").await, [all[2], all[4]]);
    assert_eq!(told(&mapd, "2001:db8:1::/48").await, [all[3]]);
    assert!(told(&mapd, "192.0.2.11/32").await.is_empty());
    assert_eq!(lines(past(&mapd, key_b.clone(), "").await), all[..2]);
    assert_eq!(
        lines(past(&mapd, key_b.clone(), "192.0.2.0/24").await),
        all[..2]
    );
    for homes in ["192.0.2.200/32", "192.0.2.192/27", "2001:db8:1::/48"] {
        let refused = past(&mapd, key_b.clone(), homes).await.unwrap_err();
        assert!(matches!(refused, MapError::NoPast { .. }), "{refused}");
    }

    // With tools that know nothing of it.
    let signed = format!("-y hmac-sha256:site-a:{SECRET_A}");
    let owner = format!("10.2.0.192.h4.{ZONE}");
    let said = mapd.dig(&format!("{owner} CH TXT +short {signed}"));
    let texts: Vec<&str> = said.lines().collect();
    assert!(
        texts.len() == 2 && texts[1].ends_with(&format!("Z {}\"", all[1])),
        "{said}"
    );
    for asked in [
        format!("{owner} CH TXT"),
        format!("{owner} CH TXT -y hmac-sha512:site-b:{SECRET_A}"),
        format!("{ZONE} CH TXT"),
        format!("example. CH TXT {signed}"),
        format!("{owner} CH SVCB {signed}"),
    ] {
        let said = mapd.dig(&asked);
        let refused = ["REFUSED", "NOTAUTH"]
            .iter()
            .any(|code| said.contains(code));
        assert!(
            refused && !said.contains("198.51.100.10@5"),
            "{asked}: {said}"
        );
    }

    // Another TTL is no change of a binding, now or after a restart.
    let there = mapd.dig_binding("10.2.0.192.h4");
    let done = mapd.nsupdate(&format!(
        "update delete {owner} SVCB\nupdate add {owner} 3 SVCB {there}"
    ));
    assert!(done.ok, "{}", done.text);
    let said = mapd.dig(&format!("{owner} SVCB +noall +answer"));
    assert_eq!(said.split_whitespace().nth(1), Some("3"), "{said}");
    assert_eq!(told(&mapd, "").await, all);
    mapd.kill();
    let mapd = Mapd::start(dir.path());
    assert_eq!(told(&mapd, "").await, all);
    let third = binding("192.0.2.10", 7, "198.51.100.11");
    let client = mapd.client();
    let done = client.compare_and_swap(third.home(), Some(&second), Some(&third));
    assert_eq!(done.await.unwrap(), Swap::Committed);
    let last = "site-a. 192.0.2.10: 203.0.113.10@6 -> 198.51.100.11@7";
    assert_eq!(told(&mapd, "192.0.2.10/32").await, [all[0], all[1], last]);
    mapd.stop();
}

#[tokio::test]
async fn whoever_may_not_read_or_not_change_a_binding_is_not_told() {
    let dir = directory();
    let config = config("0")
        .replace("data_dir", "private = [\"192.0.2.128/25\"]\ndata_dir")
        .replace(
            "homes = [\"192.0.2.0/25\"]",
            "homes = [\"all\"]\nreads = []",
        )
        + &format!(
            "[[key]]\nname = \"names\"\nsecret = {SECRET_B:?}\nhomes = [\"all\"]\n\
             locators = []\ntypes = [\"A\"]\n"
        );
    let mapd = Mapd::start_with(dir.path(), &config);
    for home in ["192.0.2.10", "192.0.2.200"] {
        let new = binding(home, 1, &home.replace("192.0.2", "198.51.100"));
        let client = mapd.client();
        let done = client.compare_and_swap(new.home(), None, Some(&new));
        assert_eq!(done.await.unwrap(), Swap::Committed);
    }
    let key = |name, algorithm| TsigKey::from_base64(name, algorithm, SECRET_B).unwrap();
    let b = key("site-b", Algorithm::HmacSha512);
    assert_eq!(lines(past(&mapd, key_a(), "").await).len(), 2);
    let open = ["site-a. 192.0.2.10: nothing -> 198.51.100.10@1"];
    assert_eq!(lines(past(&mapd, b.clone(), "").await), open);
    assert_eq!(lines(past(&mapd, b.clone(), "192.0.2.0/24").await), open);
    let names = key("names", Algorithm::HmacSha256);
    for (key, homes) in [
        (b.clone(), "192.0.2.200/32"),
        (b, "192.0.2.128/26"),
        (names, ""),
    ] {
        let refused = past(&mapd, key, homes).await.unwrap_err();
        assert!(matches!(refused, MapError::NoPast { .. }), "{refused}");
    }
    mapd.stop();
}

#[tokio::test]
async fn an_answer_has_the_latest_changes_and_says_that_there_are_more() {
    let dir = directory();
    let mapd = Mapd::start(dir.path());
    let client = mapd.client();
    let mut old = None;
    for epoch in 1..=800 {
        let new = binding("192.0.2.10", epoch, "198.51.100.10");
        let done = client.compare_and_swap(new.home(), old.as_ref(), Some(&new));
        assert_eq!(done.await.unwrap(), Swap::Committed);
        old = Some(new);
    }
    let told = past(&mapd, key_a(), "192.0.2.10/32").await.unwrap();
    assert!(told.older && told.steps.len() > 500, "{}", told.steps.len());
    assert_eq!(&told.steps.last().unwrap().is[..], "198.51.100.10@800");
    mapd.stop();
}

//! DNSSEC as BIND's tools see it: `delv` believes what it is answered, with the trust anchor that
//! `mat-mapd ds` prints and with no other; `dig` shows what is there.

use std::path::Path;
use std::process::Command;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::RecordType;

use mat_mapping::client::Anchors;
use mat_proto::Home;

use crate::harness::*;

/// What the example configuration tells people to type; the key goes to `map.example.pem`.
fn make_key(dir: &Path, algorithm: &str) {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/mat-mapd.example.toml");
    let example = std::fs::read_to_string(example).unwrap();
    let given = |line: &&str| line.contains("openssl genpkey") && line.contains(algorithm);
    let line = example.lines().find(given).unwrap();
    let command = line.trim_start_matches('#');
    let made = Command::new("sh")
        .args(["-c", command])
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(made.status.success(), "{command}: {made:?}");
}

/// The configuration with that key.
fn signed(config: &str) -> String {
    let config = config.replace(
        "transfer = true",
        "transfer = true\nother_names = true\ntypes = [\"SVCB\", \"A\", \"CNAME\", \"TXT\"]",
    );
    config.replacen(
        "[[key]]",
        "[dnssec]\nkey = \"map.example.pem\"\n\n[[key]]",
        1,
    )
}

/// Writes the trust anchor for the configuration in `dir` to `anchor` there.
fn write_anchor(dir: &Path) {
    let (ok, said) = run(dir, &signed(&config("53")), &["ds"]);
    assert!(ok, "{said}");
    let lines: Vec<&str> = said.lines().collect();
    assert!(
        lines.len() == 3 && lines[0].starts_with("map.example. 3600 IN DS "),
        "{said}"
    );
    std::fs::write(dir.join("anchor"), lines[1]).unwrap();
    std::fs::write(dir.join("map.example.anchor"), &said).unwrap();
}

fn start(dir: &Path, algorithm: &str) -> Mapd {
    make_key(dir, algorithm);
    write_anchor(dir);
    let mapd = Mapd::start_with(dir, &signed(&config("0")));
    for update in [
        binding_of("10.2.0.192.h4", 100, "ipv4hint=198.51.100.7"),
        binding_of(OWNER_V6, 100, "ipv6hint=2001:db8:a::7"),
        format!("update add Alias.{ZONE} 5 CNAME 10.2.0.192.H4.{ZONE}"),
        format!("update add dangling.{ZONE} 5 CNAME nobody.{ZONE}"),
        format!("update add many.{ZONE} 5 A 192.0.2.9\nupdate add many.{ZONE} 5 A 192.0.2.10"),
    ] {
        let done = mapd.nsupdate(&update);
        assert!(done.ok, "{}", done.text);
    }
    mapd
}

const OWNER_V6: &str = "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2.h6";

fn binding_of(owner: &str, epoch: u64, hint: &str) -> String {
    format!(
        "update delete {owner}.{ZONE} SVCB\nupdate add {owner}.{ZONE} 0 SVCB 1 . port=6283 {hint} \
         key65280=\"{epoch}\" key65281=\"native\" key65282=\"30\""
    )
}

/// Asks `mapd` as a validator that believes `anchor`.
fn delv_with(mapd: &Mapd, anchor: &Path, what: &str) -> String {
    let mut command = Command::new("delv");
    command.args(["@127.0.0.1", "-p", &mapd.address.port().to_string(), "-a"]);
    command
        .arg(anchor)
        .args(["+root=map.example", "+multiline"]);
    let output = command.args(what.split_whitespace()).output();
    let output = output.expect("delv is needed: apt-get install bind9-dnsutils");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

fn delv(mapd: &Mapd, what: &str) -> String {
    delv_with(mapd, &mapd.dir.join("anchor"), what)
}

fn a_validator_believes(algorithm: &str) {
    let dir = directory();
    let mut mapd = start(dir.path(), algorithm);
    let own = format!("10.2.0.192.h4.{ZONE}");
    for (what, wanted) in [
        (format!("{own} SVCB"), "198.51.100.7"),
        ("10.2.0.192.H4.Map.Example. SVCB".to_owned(), "198.51.100.7"),
        (format!("{OWNER_V6}.{ZONE} SVCB"), "2001:db8:a::7"),
        (format!("alias.{ZONE} SVCB"), "198.51.100.7"),
        (format!("many.{ZONE} A"), "192.0.2.10"),
        (format!("{ZONE} SOA"), "hostmaster.map.example."),
        (format!("{ZONE} NS"), "ns.map.example."),
        (format!("{ZONE} DNSKEY"), "257 3 "),
        (
            format!("dangling.{ZONE} A"),
            "nobody.map.example. NSEC \\000.nobody.map.example. RRSIG NSEC TYPE128",
        ),
        (
            format!("nobody.{ZONE} NSEC"),
            "NSEC \\000.nobody.map.example.",
        ),
        (format!("{own} NSEC"), "RRSIG NSEC SVCB"),
    ] {
        let said = delv(&mapd, &what);
        assert!(said.contains("; fully validated"), "{what}: {said}");
        // Later versions know the name of type 128.
        let said = said.replace("NXNAME", "TYPE128");
        assert!(said.contains(wanted), "{what}: {said}");
    }
    let longest = [
        ["x"; 63].concat(),
        ["y"; 63].concat(),
        ["z"; 63].concat(),
        ["w"; 49].concat(),
    ];
    let longest = longest.join(".");
    assert_eq!(format!("{longest}.{ZONE}").len(), 254);
    for what in [
        format!("{own} A"),
        format!("{OWNER_V6}.{ZONE} AAAA"),
        format!("11.2.0.192.h4.{ZONE} SVCB"),
        format!("2.0.192.h4.{ZONE} SVCB"),
        format!("*.{ZONE} A"),
        format!("{longest}.{ZONE} A"),
        format!("{ZONE} A"),
        format!("{own} DS"),
        format!("{own} DNSKEY"),
    ] {
        let said = delv(&mapd, &what);
        assert!(
            said.contains("; negative response, fully validated"),
            "{what}: {said}"
        );
    }

    // It moves, and what is said then is believed at once.
    for epoch in 101..104 {
        let hint = format!("ipv4hint=198.51.100.{epoch}");
        let moved = mapd.nsupdate(&binding_of("10.2.0.192.h4", epoch, &hint));
        assert!(moved.ok, "{}", moved.text);
        let said = delv(&mapd, &format!("{own} SVCB"));
        assert!(
            said.contains("; fully validated") && said.contains(&hint[9..]),
            "{said}"
        );
    }
    let gone = mapd.nsupdate(&format!("update delete {own}"));
    assert!(gone.ok, "{}", gone.text);
    let said = delv(&mapd, &format!("{own} SVCB"));
    assert!(
        said.contains("; negative response, fully validated"),
        "{said}"
    );

    // Another key is not believed, until it is this one.
    std::fs::copy(dir.path().join("anchor"), dir.path().join("before")).unwrap();
    make_key(dir.path(), algorithm);
    write_anchor(dir.path());
    let said = delv(&mapd, &format!("{ZONE} SOA"));
    assert!(!said.contains("fully validated"), "{said}");
    mapd.signal(nix::sys::signal::Signal::SIGHUP);
    mapd.wait_for("reloaded keys=2");
    let said = delv(&mapd, &format!("{ZONE} SOA"));
    assert!(said.contains("; fully validated"), "{said}");
    let said = delv_with(&mapd, &dir.path().join("before"), &format!("{ZONE} SOA"));
    assert!(!said.contains("fully validated"), "{said}");
    mapd.stop();
}

#[test]
fn a_validator_believes_a_key_for_ecdsa() {
    a_validator_believes("-algorithm EC ");
}

#[test]
fn a_validator_believes_a_key_for_ed25519() {
    a_validator_believes("-algorithm ED25519 ");
}

#[test]
fn signatures_are_for_those_who_ask_for_them() {
    let dir = directory();
    make_key(dir.path(), "-algorithm EC ");
    let config = signed(&config("0"));
    let config = config.replace("data_dir", "metrics_listen = \"127.0.0.1:0\"\ndata_dir");
    let mut mapd = Mapd::start_with(dir.path(), &config);
    let done = mapd.nsupdate(&binding_of("10.2.0.192.h4", 100, "ipv4hint=198.51.100.7"));
    assert!(done.ok, "{}", done.text);
    let own = format!("10.2.0.192.h4.{ZONE} SVCB");
    let nobody = format!("nobody.{ZONE} A");

    let plain = mapd.dig(&own);
    assert!(
        !plain.contains("RRSIG") && plain.contains("198.51.100.7"),
        "{plain}"
    );
    let plain = mapd.dig(&nobody);
    assert!(
        plain.contains("NXDOMAIN") && !plain.contains("NSEC"),
        "{plain}"
    );
    let key = mapd.dig(&format!("{ZONE} DNSKEY"));
    assert!(key.contains("257 3 13") && !key.contains("RRSIG"), "{key}");

    let said = mapd.dig(&format!("{own} +dnssec"));
    assert!(said.contains("RRSIG\tSVCB 13 7 0 "), "{said}");
    let said = mapd.dig(&format!("{nobody} +dnssec"));
    assert!(said.contains("status: NOERROR"), "{said}");
    let said = said.replace("NXNAME", "TYPE128");
    let nsec = "2\tIN\tNSEC\t\\000.nobody.map.example. RRSIG NSEC TYPE128";
    assert!(said.contains(nsec), "{said}");
    // Whoever can take it is told that it does not exist.
    let mut edns = Edns::new();
    edns.set_dnssec_ok(true).set_max_payload(1232);
    edns.flags_mut().z = 0x4000;
    let mut question = Message::new(rand_id(), MessageType::Query, OpCode::Query);
    question.add_query(Query::query(name("nobody.map.example."), RecordType::A));
    question.edns = Some(edns);
    let said = ask(mapd.address, &question.to_vec().unwrap()).unwrap();
    let said = Message::from_vec(&said).unwrap();
    assert_eq!(said.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(
        (said.authorities.len(), said.edns.unwrap().flags().z),
        (4, 0x4000)
    );
    let said = mapd.dig(&format!("{nobody} +noall +answer +comments TYPE128"));
    assert!(said.contains("status: FORMERR"), "{said}");
    let said = mapd.dig(&format!("nobody.{ZONE} RRSIG"));
    assert!(said.contains("RRSIG\tNSEC 13 3 2 "), "{said}");
    let said = mapd.dig(&format!("10.2.0.192.h4.{ZONE} ANY +dnssec +notcp"));
    assert!(said.contains("RRSIG\tSVCB "), "{said}");
    // With TSIG as well.
    let said = mapd.dig(&format!("{own} +dnssec -y hmac-sha256:site-a:{SECRET_A}"));
    assert!(
        said.contains("RRSIG\tSVCB ") && said.contains("TSIG"),
        "{said}"
    );
    assert!(!said.contains("verify failure"), "{said}");
    // Secondaries get the zone as it is.
    let zone = mapd.dig(&format!("{ZONE} AXFR -y hmac-sha256:site-a:{SECRET_A}"));
    assert!(zone.contains("198.51.100.7"), "{zone}");
    assert!(
        !zone.contains("RRSIG") && !zone.contains("DNSKEY"),
        "{zone}"
    );

    for record in [
        "DNSKEY 257 3 15 l02Woi0iS8Aa25FQkUd9RMzZHJpBoRQwAQEX1SxZJA4=",
        "NSEC a. A",
    ] {
        let refused = mapd.nsupdate(&format!("update add x.{ZONE} 5 {record}"));
        assert!(refused.text.contains("REFUSED"), "{}", refused.text);
    }
    for kind in ["DNSKEY", "NSEC"] {
        mapd.wait_for(&format!("{kind} records are made by the server"));
    }
    let text = mapd.metrics();
    assert!(text.contains("cause=\"dnssec_answers\"} 6\n"), "{text}");
    mapd.stop();
}

/// An answer with signatures that is too long for UDP is truncated, and there is nothing in it.
#[test]
fn what_does_not_fit_is_truncated_whole() {
    let dir = directory();
    make_key(dir.path(), "-algorithm EC ");
    let mapd = Mapd::start_with(dir.path(), &signed(&config("0")));
    let a = |n: u32| format!("update add many.{ZONE} 5 A 192.0.2.{n}");
    let lines: Vec<String> = (0..25).map(a).collect();
    assert!(mapd.nsupdate(&lines.join("\n")).ok);
    let what = format!("many.{ZONE} A +dnssec +bufsize=512");
    let said = mapd.dig(&format!("{what} +ignore"));
    assert!(said.contains(" tc") && said.contains("ANSWER: 0"), "{said}");
    // By TCP it is there.
    let said = mapd.dig(&what);
    assert!(
        said.contains("ANSWER: 26") && said.contains("RRSIG\tA "),
        "{said}"
    );
    // Without signatures it fits.
    let said = mapd.dig(&format!("many.{ZONE} A +bufsize=512 +ignore"));
    assert!(
        !said.contains(" tc") && said.contains("ANSWER: 25"),
        "{said}"
    );
    mapd.stop();
}

#[test]
fn private_homes_are_denied_to_nobody() {
    let dir = directory();
    make_key(dir.path(), "-algorithm EC ");
    let config = signed(&config("0"));
    let config = config.replace("data_dir", "private = [\"192.0.2.0/25\"]\ndata_dir");
    let mapd = Mapd::start_with(dir.path(), &config);
    for update in [
        binding_of("10.2.0.192.h4", 100, "ipv4hint=198.51.100.7"),
        format!("update add alias.{ZONE} 5 CNAME 10.2.0.192.h4.{ZONE}"),
    ] {
        let done = mapd.nsupdate(&update);
        assert!(done.ok, "{}", done.text);
    }
    for owner in [
        "10.2.0.192.h4",
        "11.2.0.192.h4",
        "2.0.192.h4",
        "h4",
        "alias",
    ] {
        for kind in ["SVCB", "A", "NSEC", "RRSIG", "ANY", "DNSKEY", "DS"] {
            let what = format!("{owner}.{ZONE} {kind} +dnssec");
            let said = mapd.dig(&what);
            assert!(
                said.contains("REFUSED") && !said.contains("\\000."),
                "{what}: {said}"
            );
            let said = mapd.dig(&format!("{what} -y hmac-sha256:site-a:{SECRET_A}"));
            assert!(
                said.contains("status: NOERROR") && said.contains("RRSIG"),
                "{what}: {said}"
            );
        }
    }
    let said = mapd.dig(&format!("{ZONE} DNSKEY +dnssec"));
    assert!(said.contains("RRSIG\tDNSKEY "), "{said}");
    mapd.stop();
}

#[test]
fn without_a_key_there_is_nothing_to_print_and_nothing_of_dnssec() {
    let dir = directory();
    let (ok, said) = run(dir.path(), &config("53"), &["ds"]);
    assert!(!ok && said.contains("has no [dnssec]"), "{said}");
    let mapd = Mapd::start(dir.path());
    let said = mapd.dig(&format!("{ZONE} SOA +dnssec"));
    assert!(
        !said.contains("RRSIG") && said.contains("flags: do"),
        "{said}"
    );
    let said = mapd.dig(&format!("{ZONE} DNSKEY +dnssec"));
    assert!(said.contains("ANSWER: 0"), "{said}");
    mapd.stop();
}

/// What forwarders do with `trust = "dnssec"`.
#[tokio::test(flavor = "multi_thread")]
async fn the_client_believes_what_is_proved() {
    for algorithm in ["EC -pkeyopt ec_paramgen_curve:P-256", "ED25519"] {
        let dir = directory();
        let mapd = start(dir.path(), algorithm);
        let anchors = |dir: &Path| Anchors::from_file(&dir.join("map.example.anchor")).unwrap();
        let client = mapd.client().validating(anchors(dir.path()));
        let found = client
            .get("192.0.2.10".parse::<Home>().unwrap())
            .await
            .unwrap();
        assert!(found.verified && found.binding.unwrap().epoch().0 == 100);
        let found = client
            .get("2001:db8:1::7".parse::<Home>().unwrap())
            .await
            .unwrap();
        assert!(found.verified && found.binding.is_some());
        // Nothing below its prefix, a name on the way to another, a name beside others.
        for home in ["198.51.100.1", "192.0.2.11"] {
            let none = client.get(home.parse::<Home>().unwrap()).await.unwrap();
            assert!(none.verified && none.binding.is_none(), "{home}");
        }
        // It moves, and goes: each is proved at once.
        let before = binding("192.0.2.10", 100, "198.51.100.7");
        let after = binding("192.0.2.10", 101, "198.51.100.8");
        let home = after.home();
        client
            .compare_and_swap(home, Some(&before), Some(&after))
            .await
            .unwrap();
        let found = client.get(home).await.unwrap();
        assert!(found.verified && found.binding == Some(after.clone()));
        client
            .compare_and_swap(home, Some(&after), None)
            .await
            .unwrap();
        let found = client.get(home).await.unwrap();
        assert!(found.verified && found.binding.is_none());

        // Another key, and no signatures at all.
        let other = directory();
        make_key(other.path(), algorithm);
        write_anchor(other.path());
        let astray = mapd.client().validating(anchors(other.path()));
        let six = "2001:db8:1::7".parse().unwrap();
        for home in [six, home] {
            assert!(!astray.get(home).await.unwrap().verified);
        }
        mapd.stop();
        let plain = Mapd::start_with(dir.path(), &config("0"));
        let client = plain.client().validating(anchors(dir.path()));
        for home in [six, home] {
            assert!(!client.get(home).await.unwrap().verified);
        }
        plain.stop();
    }
}

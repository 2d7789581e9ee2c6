//! `matctl map`, and the comparison of records in `matctl status`, against a mapping service that
//! runs in this process, on loopback.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use super::fake::Sites;
use super::{code, err, has, out, with};
use mat_mapping::client::{Algorithm, MapClient, Swap, TsigKey};
use mat_mapping::daemon;
use mat_netns::dns_servers::free_address;
use mat_netns::wait_until;
use mat_proto::{Binding, Epoch};
use serde_json::Value;

const SECRET: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// The address of the mapping service, which ends with this process. One serves all tests: each
/// has home addresses of its own.
fn mapd() -> SocketAddr {
    static ADDRESS: OnceLock<SocketAddr> = OnceLock::new();
    *ADDRESS.get_or_init(|| {
        let address = free_address();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mapd.toml");
        let key = |name: &str, homes: &str, transfer: bool| {
            format!(
                "[[key]]\nname = {name:?}\nsecret = {SECRET:?}\nhomes = [{homes:?}]\n\
                 locators = [\"all\"]\ntransfer = {transfer}\n"
            )
        };
        let text = format!(
            "zone = \"map.example.\"\nlisten = [\"{address}\"]\ndata_dir = {:?}\n{}{}",
            dir.path().join("data"),
            key("all", "all", true),
            key("some", "192.0.2.0/28", false)
        );
        std::fs::write(&path, text).unwrap();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let ended = runtime.block_on(daemon::serve(&path));
            drop(dir);
            panic!("the mapping service ended: {ended:?}");
        });
        let started = || TcpStream::connect(address).ok();
        wait_until(
            Duration::from_secs(10),
            "the mapping service to start",
            started,
        )
        .unwrap();
        address
    })
}

fn mapping(key: &str) -> String {
    format!(
        "[mapping]\nservers = [\"{}\"]\nzone = \"map.example.\"\n\
         key = {{ name = {key:?}, secret = {SECRET:?} }}\n",
        mapd()
    )
}

fn config(dir: &tempfile::TempDir, key: &str) -> PathBuf {
    let path = dir.path().join(format!("{key}.toml"));
    std::fs::write(&path, mapping(key)).unwrap();
    path
}

/// Binds a home that has no binding, with this epoch.
fn set_epoch(home: &str, epoch: u64) {
    let key = TsigKey::from_base64("all", Algorithm::HmacSha256, SECRET).unwrap();
    let zone = "map.example.".parse().unwrap();
    let client = MapClient::new(zone, vec![mapd()], Some(key));
    let (home, locator) = (home.parse().unwrap(), "198.51.100.8".parse().unwrap());
    let binding = Binding::single(home, Epoch(epoch), 30, locator, 6283).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let done = runtime.block_on(client.compare_and_swap(home, None, Some(&binding)));
    assert_eq!(done.unwrap(), Swap::Committed);
}

#[test]
fn a_binding_is_set_read_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir, "all");
    let run = |args: &[&str]| with(&config, &[&["map"], args].concat());
    let home = "192.0.2.30";

    let none = run(&["get", home]);
    assert_eq!(
        (code(&none), out(&none)),
        (1, format!("{home} is not bound\n"))
    );
    let set = run(&[
        "set",
        home,
        "203.0.113.7",
        "--standby",
        "198.51.100.7:7000",
        "--lease",
        "12",
    ]);
    assert_eq!(code(&set), 0, "{}", err(&set));
    has(
        &out(&set),
        &[
            "192.0.2.30 -> 203.0.113.7, 198.51.100.7:7000 (standby); epoch ",
            ", lease 12 s",
        ],
    );
    let got = run(&["get", home, "--json"]);
    let before: Value = serde_json::from_str(&out(&got)).unwrap();
    let epoch = before["epoch"].as_u64().unwrap();
    assert!(epoch > 1_700_000_000, "{before}");

    // The lease is kept, the epoch rises.
    let set = run(&["set", home, "198.51.100.7", "--json"]);
    let after: Value = serde_json::from_str(&out(&set)).unwrap();
    assert!(
        after["epoch"].as_u64().unwrap() > epoch && after["lease"] == 12,
        "{after}"
    );
    assert_eq!(out(&run(&["get", home])).matches("198.51.100.7").count(), 1);
    let listed = run(&["list"]);
    has(&out(&listed), &["192.0.2.30 -> 198.51.100.7; epoch "]);

    let deleted = run(&["delete", home]);
    has(
        &out(&deleted),
        &["192.0.2.30 is not bound any more; it was: 192.0.2.30 -> 198.51.100.7"],
    );
    let again = run(&["delete", home]);
    assert_eq!(
        (code(&again), out(&again)),
        (0, format!("{home} is not bound; nothing to do\n"))
    );
    // A last epoch that is ahead of the clock.
    let ahead = epoch + 1_000_000;
    set_epoch(home, ahead);
    assert_eq!(code(&run(&["delete", home])), 0);
    let set = run(&["set", home, "198.51.100.9"]);
    assert_eq!(code(&set), 0, "{}", err(&set));
    has(&out(&set), &[&format!("epoch {}", ahead + 1)]);

    let past = run(&["history", home]);
    let said = out(&past);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 6, "{said}");
    let step = format!(" all. {home}: nothing -> 203.0.113.7,[198.51.100.7]@{epoch}");
    assert!(
        lines[0].contains("Z all.") && lines[0].ends_with(&step),
        "{said}"
    );
    assert!(lines[4].ends_with(" -> nothing"), "{said}");
    let steps: Value = serde_json::from_str(&out(&run(&["history", home, "--json"]))).unwrap();
    assert_eq!(steps[5]["home"], home);
    assert!(
        steps[5]["is"]
            .as_str()
            .unwrap()
            .starts_with("198.51.100.9@")
    );
    assert_eq!(
        out(&run(&["history", "192.0.2.33"])),
        "no change that the mapping service remembers\n"
    );
    let refused = with(&self::config(&dir, "some"), &["map", "history", home]);
    assert_eq!(code(&refused), 1);
    has(
        &err(&refused),
        &["its key may not change or read that binding"],
    );
}

#[test]
fn a_change_that_expects_another_epoch_names_who_has_it_now() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir, "all");
    let run = |args: &[&str]| with(&config, &[&["map"], args].concat());
    let home = "2001:db8:1::30";
    let none = run(&["set", home, "2001:db8:b::7", "--expect-epoch", "5"]);
    assert_eq!(code(&none), 1);
    has(
        &err(&none),
        &["not epoch 5: 2001:db8:1::30 is not bound now; nothing was changed"],
    );
    assert_eq!(
        code(&run(&["set", home, "2001:db8:b::7", "--expect-epoch", "0"])),
        0
    );
    let taken = run(&["set", home, "2001:db8:c::7", "--expect-epoch", "0"]);
    assert_eq!(code(&taken), 1);
    has(
        &err(&taken),
        &["not epoch 0: now it is 2001:db8:1::30 -> 2001:db8:b::7; epoch "],
    );
    let delete = run(&["delete", home, "--expect-epoch", "0"]);
    assert_eq!(code(&delete), 1);
    assert_eq!(
        code(&run(&["set", home, "[2001:db8:c::7]:7000", "--force"])),
        0
    );
    has(
        &out(&run(&["get", home])),
        &["-> [2001:db8:c::7]:7000; epoch"],
    );
}

#[test]
fn what_the_key_may_not_do_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let some = config(&dir, "some");
    let refused = with(&some, &["map", "set", "192.0.2.31", "203.0.113.7"]);
    assert_eq!(code(&refused), 1);
    has(&err(&refused), &["its policy forbids this key"]);
    let unknown = with(&config(&dir, "nobody"), &["map", "get", "192.0.2.31"]);
    assert_eq!(code(&unknown), 1);
    has(&err(&unknown), &["does not know our key"]);
    assert_eq!(code(&with(&some, &["map", "list"])), 1);
    let other_family = with(&some, &["map", "set", "192.0.2.1", "2001:db8::7"]);
    has(&err(&other_family), &["the address families differ"]);
}

#[test]
fn a_watch_prints_one_line_for_each_change() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir, "all");
    let home = "192.0.2.32";
    assert_eq!(
        code(&with(&config, &["map", "set", home, "203.0.113.7"])),
        0
    );
    let mut watch = Command::new(env!("CARGO_BIN_EXE_matctl"))
        .args(["map", "watch", home, "--json", "--config"])
        .arg(&config)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    let locator = |change: &Value| change["binding"]["entries"][0]["locator"].clone();
    assert_eq!(locator(&next()), "203.0.113.7");
    assert_eq!(
        code(&with(&config, &["map", "set", home, "198.51.100.7"])),
        0
    );
    assert_eq!(locator(&next()), "198.51.100.7");
    assert_eq!(code(&with(&config, &["map", "delete", home])), 0);
    let gone = next();
    assert!(gone["binding"].is_null() && gone["home"] == home, "{gone}");
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[test]
fn records_no_site_stands_by_are_shown() {
    let sites = Sites::new(&["192.0.2.3"]);
    // This key may not transfer the zone: the instances of the configuration are looked up.
    let instances = "[[instance]]\nname = \"x\"\nhomes = [\"192.0.2.3\", \"192.0.2.4\"]\n";
    let config = sites.config(&format!("{}{instances}", mapping("some")));
    for (home, locator) in [("192.0.2.3", "198.51.100.7"), ("192.0.2.4", "203.0.113.9")] {
        assert_eq!(code(&with(&config, &["map", "set", home, locator])), 0);
    }
    let status = with(&config, &["status"]);
    assert_eq!(code(&status), 0, "{}", err(&status));
    let text = out(&status);
    has(
        &text,
        &[
            "record 192.0.2.4: not attached: epoch ",
            " names 203.0.113.9, and no site that was asked",
        ],
    );
    assert!(!text.contains("record 192.0.2.3"), "{text}");
    // With the right to transfer, all records are compared.
    let all = sites.config(&mapping("all"));
    let json = with(&all, &["status", "--json"]);
    let value: Value = serde_json::from_str(&out(&json)).unwrap();
    let found = value["not_attached"].as_array().unwrap();
    assert!(
        found.iter().any(|record| record["home"] == "192.0.2.4"),
        "{value}"
    );
}

#[test]
fn a_mapping_service_that_is_away_is_named() {
    let sites = Sites::new(&["192.0.2.10"]);
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let config = sites.config(&format!(
        "[mapping]\nservers = [\"{address}\"]\nzone = \"map.example.\"\n"
    ));
    let get = with(&config, &["map", "get", "192.0.2.10"]);
    assert_eq!(code(&get), 1);
    has(
        &err(&get),
        &[&format!("no answer from the mapping service at {address}")],
    );
    // The sites are shown all the same.
    let status = with(&config, &["status"]);
    assert_eq!(code(&status), 1);
    has(&out(&status), &["site a: gateway", "site b: gateway"]);
    has(&err(&status), &["records cannot be compared: "]);
}

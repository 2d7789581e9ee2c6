//! TSIG: clocks that are off, messages captured and sent again, copies of
//! messages whose answer was lost.

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::tsig::TsigError;
use hickory_proto::rr::{DNSClass, Record, RecordType};
use mat_mapping::tsig::{Fault, Link, TsigKey};
use mat_proto::record;

use crate::harness::*;

const OWNER: &str = "10.2.0.192.h4.map.example.";

fn records(epoch: u64, locator: &str) -> Vec<Record> {
    record::to_records(&binding("192.0.2.10", epoch, locator), &name(ZONE), 0).unwrap()
}

fn replace_by(epoch: u64, locator: &str) -> Vec<Record> {
    [vec![delete_name(OWNER)], records(epoch, locator)].concat()
}

/// Sends, and checks the answer's signature.
fn verified(mapd: &Mapd, key: &TsigKey, wire: &[u8], mac: &[u8]) -> ResponseCode {
    let answer = ask(mapd.address, wire).expect("an answer");
    key.verify(&answer, Some(mac), Link::First).unwrap();
    Message::from_vec(&answer).unwrap().metadata.response_code
}

#[test]
fn a_clock_that_is_off_is_told_by_how_much() {
    let dir = directory();
    let mapd = Mapd::start(dir.path());
    for time in [now() - 3600, now() + 3600, 5] {
        let (wire, mac) = signed_update(&key_a(), time, vec![], replace_by(1, "198.51.100.7"));
        let answer = ask(mapd.address, &wire).expect("an answer");
        let signature = key_a().verify(&answer, Some(&mac), Link::First).unwrap();
        assert_eq!(signature.error, Some(TsigError::BadTime));
        assert_eq!(signature.time, time);
        assert!(signature.server_time().unwrap().abs_diff(now()) < 60);
        let code = Message::from_vec(&answer).unwrap().metadata.response_code;
        assert_eq!(code, ResponseCode::NotAuth);
    }
    assert_eq!(mapd.dig_binding("10.2.0.192.h4"), "");
}

#[test]
fn a_copy_gets_the_first_ones_answer_and_is_not_carried_out_again() {
    let dir = directory();
    let mapd = Mapd::start(dir.path());
    let key = key_a();
    // Without a prerequisite: the worst case, TSIG alone would let it repeat.
    let (delete, delete_mac) = signed_update(&key, now(), vec![], vec![delete_name(OWNER)]);
    let (claim, claim_mac) = signed_update(&key, now(), vec![], records(1, "198.51.100.7"));
    let (denied, denied_mac) = signed_update(&key, now(), vec![], records(9, "203.0.113.1"));
    let send = |wire: &[u8], mac: &[u8]| verified(&mapd, &key, wire, mac);
    for _ in 0..3 {
        assert_eq!(send(&claim, &claim_mac), ResponseCode::NoError);
        assert_eq!(send(&denied, &denied_mac), ResponseCode::Refused);
    }
    assert_eq!(send(&delete, &delete_mac), ResponseCode::NoError);
    assert_eq!(mapd.dig_binding("10.2.0.192.h4"), "");
    let (second, mac) = signed_update(&key, now(), vec![], replace_by(2, "198.51.100.8"));
    assert_eq!(send(&second, &mac), ResponseCode::NoError);
    // The captured deletion: answered as before, and the binding stays.
    for _ in 0..3 {
        assert_eq!(send(&delete, &delete_mac), ResponseCode::NoError);
        assert!(mapd.dig_binding("10.2.0.192.h4").contains("198.51.100.8"));
    }
}

#[test]
fn a_restart_does_not_forget_what_was_carried_out() {
    let dir = directory();
    let mapd = Mapd::start(dir.path());
    let key = key_a();
    let claim = |epoch| signed_update(&key, now(), vec![], replace_by(epoch, "198.51.100.7"));
    let (first, first_mac) = claim(1);
    let (delete, delete_mac) = signed_update(&key, now(), vec![], vec![delete_name(OWNER)]);
    verified(&mapd, &key, &first, &first_mac);
    verified(&mapd, &key, &delete, &delete_mac);
    let (second, second_mac) = claim(2);
    verified(&mapd, &key, &second, &second_mac);
    mapd.kill();
    let mapd = Mapd::start(dir.path());
    let again = verified(&mapd, &key, &delete, &delete_mac);
    assert_eq!(again, ResponseCode::NoError);
    assert!(mapd.dig_binding("10.2.0.192.h4").contains("key65280=\"2\""));
}

#[test]
fn a_truncated_signature_is_none() {
    let dir = directory();
    let mapd = Mapd::start(dir.path());
    let mut message = Message::new(rand_id(), MessageType::Query, OpCode::Query);
    message.add_query(Query::query(name(ZONE), RecordType::SOA));
    let (wire, mac) = sign(&key_a(), now(), message);
    let mut parsed = Message::from_vec(&wire).unwrap();
    let mut tsig = parsed.take_signature().unwrap();
    tsig.data.mac.truncate(16);
    parsed.set_signature(tsig);
    let answer = ask(mapd.address, &parsed.to_vec().unwrap()).expect("an answer");
    let answer_fault = key_a()
        .verify(&answer, Some(&mac), Link::First)
        .unwrap_err();
    assert_eq!(answer_fault, Fault::Truncated);
    let said = Message::from_vec(&answer).unwrap();
    assert_eq!(said.metadata.response_code, ResponseCode::NotAuth);
    assert_eq!(
        said.signature().unwrap().data.error,
        Some(TsigError::BadTrunc)
    );
}

#[test]
fn the_case_of_key_and_algorithm_names_does_not_matter() {
    let dir = directory();
    let mapd = Mapd::start(dir.path());
    let answer = mapd.dig(&format!("{ZONE} SOA -y hmac-sha256:SITE-A:{SECRET_A}"));
    assert!(answer.contains("TSIG PSEUDOSECTION"), "{answer}");
    assert!(!answer.contains("could not be validated"), "{answer}");
}

#[test]
fn a_key_taken_out_is_out_after_sighup() {
    let dir = directory();
    let mut mapd = Mapd::start(dir.path());
    let path = dir.path().join("mapd.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let claim = format!(
        "update add {OWNER} 0 IN SVCB 1 . ipv4hint=198.51.100.7 key65280=1 key65281=native key65282=30"
    );
    std::fs::write(&path, "zone = nonsense").unwrap();
    mapd.signal(nix::sys::signal::Signal::SIGHUP);
    mapd.wait_for("not reloaded");
    assert!(mapd.nsupdate(&claim).ok);
    std::fs::write(
        &path,
        text.replace("name = \"site-a\"", "name = \"site-c\""),
    )
    .unwrap();
    mapd.signal(nix::sys::signal::Signal::SIGHUP);
    mapd.wait_for("reloaded keys=2");
    let refused = mapd.nsupdate(&claim);
    assert!(refused.text.contains("BADKEY"), "{}", refused.text);
    let key_c = format!("hmac-sha256:site-c:{SECRET_A}");
    let delete = mapd.nsupdate_as(&key_c, &format!("update delete {OWNER}"));
    assert!(delete.ok, "{}", delete.text);
}

#[test]
fn class_none_prerequisites_of_the_whole_name() {
    let dir = directory();
    let mapd = Mapd::start(dir.path());
    let mut unused = delete_name(OWNER);
    unused.dns_class = DNSClass::NONE;
    let key = key_a();
    for wanted in [ResponseCode::NoError, ResponseCode::YXDomain] {
        let updates = records(1, "198.51.100.7");
        let (wire, mac) = signed_update(&key, now(), vec![unused.clone()], updates);
        assert_eq!(verified(&mapd, &key, &wire, &mac), wanted);
    }
}

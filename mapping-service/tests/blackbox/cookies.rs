//! DNS cookies, and the limit for those who show none.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::path::Path;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};

use crate::harness::*;

const OWNER: &str = "10.2.0.192.h4.map.example.";
const OWN: [u8; 8] = *b"mycookie";
const SECRETS: [&str; 2] = [
    "e5e973e5a6b2a43f48e7dc849e37bfcf",
    "445536bcd2513298075a5d379663c962",
];

/// A server with `more` in its configuration, metrics, and a binding.
fn start(dir: &Path, more: &str) -> Mapd {
    let config = config("0").replace(
        "responses_per_second = 0",
        &format!("metrics_listen = \"127.0.0.1:0\"\n{more}"),
    );
    let mapd = Mapd::start_with(dir, &config);
    let claim = format!(
        "update add {OWNER} 0 SVCB 1 . ipv4hint=198.51.100.7 key65280=1 key65281=native key65282=30"
    );
    assert!(mapd.nsupdate(&claim).ok);
    mapd
}

/// A question for the binding with this COOKIE option.
pub fn question(cookie: Option<&[u8]>) -> Message {
    let mut message = Message::new(rand_id(), MessageType::Query, OpCode::Query);
    message.add_query(Query::query(name(OWNER), RecordType::SVCB));
    message.edns = cookie.map(|octets| {
        let mut edns = Edns::new();
        edns.set_max_payload(1232);
        let option = EdnsOption::Unknown(EdnsCode::Cookie.into(), octets.to_vec());
        edns.options_mut().insert(option);
        edns
    });
    message
}

fn exchange(mapd: &Mapd, message: &Message) -> Message {
    let answer = ask(mapd.address, &message.to_vec().unwrap()).expect("an answer");
    Message::from_vec(&answer).unwrap()
}

/// The COOKIE option of an answer; empty if there is none.
fn cookie(answer: &Message) -> Vec<u8> {
    match answer
        .edns
        .as_ref()
        .and_then(|e| e.option(EdnsCode::Cookie))
    {
        Some(EdnsOption::Unknown(_, octets)) => octets.clone(),
        _ => Vec::new(),
    }
}

fn learn(mapd: &Mapd) -> Vec<u8> {
    let learned = cookie(&exchange(mapd, &question(Some(&OWN))));
    assert!(learned.len() == 24 && learned.starts_with(&OWN));
    learned
}

fn count(mapd: &mut Mapd, cause: &str) -> u32 {
    let metrics = mapd.metrics();
    let line = format!("mat_map_events_total{{cause=\"{cause}\"}} ");
    let (_, rest) = metrics.split_once(&line).expect("the cause is counted");
    rest.lines().next().unwrap().parse().unwrap()
}

/// Sends it `times` times, as many at once as a socket holds answers to; how many of them are
/// whole, and how many truncated. Whoever has `learned` a cookie finds out when all have come.
fn flood(mapd: &Mapd, learned: &[u8], wire: &[u8], times: usize) -> (usize, usize) {
    const AT_ONCE: usize = 100;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(mapd.address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut end = question(Some(learned));
    end.metadata.id = u16::from_be_bytes([!wire[0], wire[1]]);
    let end_wire = end.to_vec().unwrap();
    let mut buffer = [0; 1500];
    let (mut whole, mut truncated) = (0, 0);
    for sent in (0..times).step_by(AT_ONCE) {
        for _ in 0..AT_ONCE.min(times - sent) {
            socket.send(wire).unwrap();
        }
        socket.send(&end_wire).unwrap();
        loop {
            let length = socket.recv(&mut buffer).expect("the last answer");
            let answer = Message::from_vec(&buffer[..length]).unwrap();
            if answer.metadata.id == end.metadata.id {
                break;
            }
            if answer.metadata.truncation {
                // With a whole cookie where the question had half of one, at most.
                assert!(answer.answers.is_empty() && length <= wire.len() + 16);
                truncated += 1;
            } else {
                whole += 1;
            }
        }
    }
    (whole, truncated)
}

#[test]
fn dig_gets_a_cookie_and_finds_it_good_and_it_is_known_again() {
    let dir = directory();
    let mut mapd = start(dir.path(), "");
    for (what, options) in [
        (format!("{OWNER} SVCB"), ""),
        (format!("{OWNER} SVCB"), "+tcp"),
        (ZONE.to_owned() + " SOA", ""),
        (ZONE.to_owned() + " SOA", "+tcp"),
        (format!("11.{ZONE} SVCB"), ""),
        (ZONE.to_owned() + " SOA -c CH", ""),
        (format!("{ZONE} SOA -y hmac-sha256:site-a:{SECRET_A}"), ""),
    ] {
        let news = count(&mut mapd, "cookies_new");
        let shown = mapd.dig(&format!("{what} {options}"));
        let (_, rest) = shown.split_once("; COOKIE: ").expect("a cookie");
        let cookie = rest.split_once(" (good)").expect("a good one").0.to_owned();
        assert_eq!(cookie.len(), 48, "{shown}");
        assert_eq!(count(&mut mapd, "cookies_new"), news + 1);
        // The same again, and it is the one to go on with.
        let known = count(&mut mapd, "cookies_valid");
        let again = mapd.dig(&format!("{what} {options} +cookie={cookie}"));
        assert!(again.contains(&format!("{cookie} (good)")), "{again}");
        assert_eq!(count(&mut mapd, "cookies_valid"), known + 1);
    }
    // Whoever wants none gets none.
    let shown = mapd.dig(&format!("{OWNER} SVCB +nocookie"));
    assert!(!shown.contains("COOKIE") && shown.contains("198.51.100.7"));
    mapd.stop();
}

/// RFC 7873 section 5.2.2.
#[test]
fn a_cookie_of_a_wrong_length_is_a_wrong_message() {
    let dir = directory();
    let mut mapd = start(dir.path(), "");
    for length in [0, 1, 7, 9, 15, 41, 100] {
        let answer = exchange(&mapd, &question(Some(&vec![1; length])));
        assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
        assert!(answer.edns.is_some() && cookie(&answer).is_empty());
    }
    assert_eq!(count(&mut mapd, "malformed"), 7);
    // Those that may be another's are no mistake.
    for length in [16, 24, 40] {
        let answer = exchange(&mapd, &question(Some(&vec![1; length])));
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert_eq!(answer.answers.len(), 1);
        assert_eq!(cookie(&answer)[..8], [1; 8]);
    }
    assert_eq!(count(&mut mapd, "cookies_invalid"), 3);
    mapd.stop();
}

/// RFC 7873 section 5.4.
#[test]
fn a_cookie_may_be_all_that_is_asked_for() {
    let dir = directory();
    let mapd = start(dir.path(), "");
    let learned = learn(&mapd);
    let mut forged = learned.clone();
    forged[23] ^= 1;
    for (sent, wanted) in [
        (&OWN[..], ResponseCode::NoError),
        (&learned, ResponseCode::NoError),
        (&forged, ResponseCode::BADCOOKIE),
    ] {
        let mut message = question(Some(sent));
        message.queries.clear();
        let answer = exchange(&mapd, &message);
        assert_eq!(answer.metadata.response_code, wanted);
        assert_eq!(cookie(&answer)[..8], OWN);
    }
    let mut nothing = question(None);
    nothing.queries.clear();
    let answer = exchange(&mapd, &nothing);
    assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
    mapd.stop();
}

#[test]
fn servers_with_one_secret_know_each_others_cookies_while_it_changes_too() {
    let (here, there) = (directory(), directory());
    let [old, new] = SECRETS;
    let first = start(here.path(), &format!("cookie_secret = \"{old}\""));
    let mut second = start(
        there.path(),
        &format!("cookie_secret = [\"{new}\", \"{old}\"]"),
    );
    let by_first = learn(&first);
    // It is known, and the answer has one by the new secret, which the first does not know yet.
    let by_second = cookie(&exchange(&second, &question(Some(&by_first))));
    assert_eq!(count(&mut second, "cookies_valid"), 1);
    assert_ne!(by_second, by_first);
    let invalid = cookie(&exchange(&first, &question(Some(&by_second))));
    assert_ne!(invalid, by_second);

    let path = here.path().join("mapd.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let both = format!("[\"{new}\", \"{old}\"]");
    std::fs::write(&path, text.replace(&format!("\"{old}\""), &both)).unwrap();
    let mut first = first;
    first.signal(nix::sys::signal::Signal::SIGHUP);
    first.wait_for("reloaded keys=2");
    let known = exchange(&first, &question(Some(&by_second)));
    assert_eq!(cookie(&known), by_second);
    assert_eq!(count(&mut first, "cookies_valid"), 1);
    first.stop();
    second.stop();
}

#[test]
fn a_network_gets_so_many_answers_a_second_and_whoever_is_there_gets_all() {
    let dir = directory();
    let mut mapd = start(dir.path(), "responses_per_second = 20");
    let learned = learn(&mapd);
    let plain = question(None);
    let quick = plain.to_vec().unwrap();
    let mut other = question(None);
    other.queries[0].set_query_type(RecordType::TXT);
    let mut wrong = quick.clone();
    wrong.truncate(quick.len() - 1);
    let (mut whole, mut truncated) = (0, 0);
    let began = std::time::Instant::now();
    for wire in [&quick, &other.to_vec().unwrap(), &wrong] {
        let answers = flood(&mapd, &learned, wire, 300);
        whole += answers.0;
        truncated += answers.1;
    }
    let most = 20 + 20 * (1 + began.elapsed().as_secs() as usize);
    // What cannot be read is refused by a header, which cannot be shorter.
    let (headers, beyond) = (150, 900 - most);
    assert!((20..=most + headers).contains(&whole), "{whole}");
    assert!(truncated + headers >= beyond / 2 - 1, "{truncated}");
    let dropped = count(&mut mapd, "rate_limited_dropped") as usize;
    let limited = count(&mut mapd, "rate_limited_truncated") as usize;
    assert!(dropped >= beyond / 2 && dropped <= 450, "{dropped}");
    assert!(limited.abs_diff(dropped) <= 1, "{limited} {dropped}");

    // An answer that says "truncated" is an answer: the client comes by TCP.
    let shown = mapd.dig(&format!("{OWNER} SVCB +nocookie"));
    assert!(shown.contains("198.51.100.7"), "{shown}");
    // Whoever shows that it is there gets all it asks for.
    let known = question(Some(&learned)).to_vec().unwrap();
    assert_eq!(flood(&mapd, &learned, &known, 300), (300, 0));
    let (signed, _) = sign(&key_a(), now(), plain.clone());
    assert_eq!(flood(&mapd, &learned, &signed, 300), (300, 0));
    // Whoever claims to be does not.
    let forged = question(Some(&[7; 24])).to_vec().unwrap();
    let (whole, truncated) = flood(&mapd, &learned, &forged, 300);
    assert!(whole < 150 && truncated > 50, "{whole} {truncated}");
    let (stale, _) = sign(&key_a(), 5, plain);
    let (whole, truncated) = flood(&mapd, &learned, &stale, 300);
    assert!(whole < 150 && truncated > 50, "{whole} {truncated}");

    // TCP has no limit: its handshake has shown it.
    let mut stream = TcpStream::connect(mapd.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    for _ in 0..100 {
        let length = (quick.len() as u16).to_be_bytes();
        stream.write_all(&[&length[..], &quick].concat()).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut answer = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(Message::from_vec(&answer).unwrap().answers.len(), 1);
    }
    // And it comes back.
    mat_netns::wait_until(PATIENCE, "an answer", || {
        (flood(&mapd, &learned, &quick, 1) == (1, 0)).then_some(())
    })
    .unwrap();
    mapd.stop();
}

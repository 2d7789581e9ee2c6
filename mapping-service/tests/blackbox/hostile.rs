//! Nonsense on the wire: no crash, no hang, and honest questions still answered.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::RecordType;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;

use crate::harness::*;

fn question() -> Vec<u8> {
    let mut message = Message::new(rand_id(), MessageType::Query, OpCode::Query);
    message.add_query(Query::query(name(ZONE), RecordType::SOA));
    message.to_vec().unwrap()
}

fn alive(mapd: &Mapd) {
    // The nonsense may fill the socket's buffer: ask again, as any client does.
    let patience = Duration::from_millis(500);
    let answer = (0..40).find_map(|_| ask_for(mapd.address, &question(), patience));
    let answer = Message::from_vec(&answer.expect("an answer")).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    assert_eq!(answer.answers.len(), 1);
}

/// Sends without waiting for an answer, which may or may not come.
fn throw(mapd: &Mapd, wire: &[u8]) {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.send_to(wire, mapd.address).unwrap();
}

fn valid_messages() -> Vec<Vec<u8>> {
    let claim =
        mat_proto::record::to_records(&binding("192.0.2.10", 1, "198.51.100.7"), &name(ZONE), 0)
            .unwrap();
    let (update, _) = signed_update(&key_a(), now(), claim.clone(), claim);
    let (stale, _) = signed_update(&key_a(), 5, vec![], vec![delete_name("a.map.example.")]);
    let with_cookie = crate::cookies::question(Some(&[7; 24])).to_vec().unwrap();
    vec![question(), with_cookie, update, stale]
}

#[test]
fn random_bytes() {
    let dir = directory();
    let mapd = Mapd::start(dir.path());
    let mut runner = TestRunner::deterministic();
    let bytes = proptest::collection::vec(proptest::num::u8::ANY, 0..600);
    for i in 0..3000 {
        let wire = bytes.new_tree(&mut runner).unwrap().current();
        throw(&mapd, &wire);
        if i % 500 == 0 {
            alive(&mapd);
        }
    }
    alive(&mapd);
    mapd.stop();
}

#[test]
fn valid_messages_cut_at_every_length_and_with_every_byte_changed() {
    let dir = directory();
    let mapd = Mapd::start(dir.path());
    for wire in valid_messages() {
        for len in 0..wire.len() {
            throw(&mapd, &wire[..len]);
        }
        alive(&mapd);
        for at in 0..wire.len() {
            for value in [0, 0x3f, 0x7f, 0xc0, 0xff] {
                let mut changed = wire.clone();
                changed[at] = value;
                throw(&mapd, &changed);
            }
            if at % 64 == 0 {
                alive(&mapd);
            }
        }
        alive(&mapd);
    }
    mapd.stop();
}

#[test]
fn compression_loops_and_lying_counts() {
    let dir = directory();
    let mapd = Mapd::start(dir.path());
    let header = |counts: [u16; 4]| {
        let mut wire = vec![0x12, 0x34, 0, 0];
        wire.extend(counts.iter().flat_map(|c| c.to_be_bytes()));
        wire
    };
    let tail: [&[u8]; 6] = [
        // A name that points at itself, one that points forwards, two that point
        // at each other, a label and a pointer back to it.
        &[0xc0, 12, 0, 1, 0, 1],
        &[0xc0, 14, 0xc0, 16, 0xc0, 18, 0, 1, 0, 1],
        &[0xc0, 14, 0xc0, 12, 0, 1, 0, 1],
        &[1, b'a', 0xc0, 12, 0, 1, 0, 1],
        &[63; 300],
        &[],
    ];
    for counts in [
        [1, 0, 0, 0],
        [65535, 0, 0, 0],
        [1, 65535, 65535, 65535],
        [0, 0, 0, 1],
    ] {
        for tail in tail {
            for flags in [0x00, 0x28, 0x20, 0x78] {
                let mut wire = header(counts);
                wire[2] = flags;
                wire.extend_from_slice(tail);
                throw(&mapd, &wire);
                alive(&mapd);
            }
        }
    }
    // An answer is never answered.
    let mut response = question();
    response[2] |= 0x80;
    assert_eq!(
        ask_for(mapd.address, &response, Duration::from_millis(200)),
        None
    );
    mapd.stop();
}

/// One client has its share of connections, and nothing waits without bound for one that does
/// not read.
#[test]
fn tcp_clients_that_want_too_much() {
    let dir = directory();
    let mapd = Mapd::start(dir.path());
    let wire = question();
    let message = [&(wire.len() as u16).to_be_bytes()[..], &wire].concat();
    let is_served = |stream: &mut TcpStream| {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&message).is_ok() && stream.read_exact(&mut [0; 2]).is_ok()
    };
    let mut crowd: Vec<TcpStream> = Vec::new();
    for n in 0..80 {
        let mut stream = TcpStream::connect(mapd.address).unwrap();
        assert_eq!(is_served(&mut stream), n < 64, "{n}");
        if n < 64 {
            crowd.push(stream);
        }
    }
    // There is room again when somebody has gone.
    crowd.truncate(10);
    mat_netns::wait_until(PATIENCE, "room for another connection", || {
        let mut stream = TcpStream::connect(mapd.address).ok()?;
        is_served(&mut stream).then_some(())
    })
    .unwrap();

    // Questions without end, and no answer is read: it is not listened to any more.
    let mut deaf = TcpStream::connect(mapd.address).unwrap();
    deaf.set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let many = message.repeat(1000);
    let mut written = 0;
    while deaf.write_all(&many).is_ok() {
        written += many.len();
        assert!(written < 64 << 20, "it takes whatever is sent");
    }
    alive(&mapd);
    mapd.stop();
}

#[test]
fn tcp_connections_that_lie_stall_or_break_off() {
    let dir = directory();
    let mapd = Mapd::start(dir.path());
    let connect = || TcpStream::connect(mapd.address).unwrap();
    let mut stalled = Vec::new();
    for wire in [
        &b""[..],
        &[0],
        &[0xff, 0xff, 1, 2, 3],
        &[0, 0],
        &[0, 5, 1, 2, 3, 4, 5],
    ] {
        let mut stream = connect();
        stream.write_all(wire).unwrap();
        stalled.push(stream);
    }
    for _ in 0..50 {
        connect().write_all(&[0, 200, 1]).unwrap();
    }
    alive(&mapd);
    let mut honest = connect();
    honest.set_read_timeout(Some(PATIENCE)).unwrap();
    let wire = question();
    for _ in 0..3 {
        honest
            .write_all(&(wire.len() as u16).to_be_bytes())
            .unwrap();
        honest.write_all(&wire).unwrap();
        let mut len = [0; 2];
        honest.read_exact(&mut len).unwrap();
        let mut answer = vec![0; u16::from_be_bytes(len).into()];
        honest.read_exact(&mut answer).unwrap();
        assert_eq!(Message::from_vec(&answer).unwrap().answers.len(), 1);
    }
    drop(stalled);
    mapd.stop();
}

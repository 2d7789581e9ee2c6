//! NOTIFY (RFC 1996) as a secondary meets it.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{RData, RecordType};
use mat_mapping::tsig::Link;
use mat_netns::wait_until;

use crate::servers::*;

/// The next NOTIFY, its octets and who sent it.
fn next(socket: &UdpSocket) -> (Message, Vec<u8>, SocketAddr) {
    let mut buffer = [0; 2048];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    let wire = buffer[..length].to_vec();
    (Message::from_vec(&wire).unwrap(), wire, from)
}

/// Answers it, signed.
fn answer(socket: &UdpSocket, (message, _, to): &(Message, Vec<u8>, SocketAddr)) {
    let mut answer = message.clone();
    let mac = message.signature().unwrap().data.mac.clone();
    answer.metadata.message_type = MessageType::Response;
    answer.signature = None;
    socket.send_to(&sign(&mut answer, Some(&mac)), to).unwrap();
}

fn serial(message: &Message) -> u32 {
    match &message.answers[0].data {
        RData::SOA(soa) => soa.serial,
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secondary_is_told_until_it_answers_and_not_more_often_than_it_needs() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let place = Place::new(socket.local_addr().unwrap());
    let primary = place.start();

    // At the start, from the address that it serves on.
    let first = next(&socket);
    let (message, wire, from) = &first;
    assert_eq!(message.metadata.op_code, OpCode::Notify);
    assert!(message.metadata.authoritative);
    assert_eq!(message.queries[0].name().to_ascii(), ZONE);
    assert_eq!(message.queries[0].query_type(), RecordType::SOA);
    assert_eq!(serial(message), 1);
    assert_eq!(from.ip(), primary.address.ip());
    key().verify(wire, None, Link::First).unwrap();
    // Without an answer the same again.
    let again = next(&socket);
    assert_eq!(first.1, again.1);
    answer(&socket, &again);

    // The first change at once, the others together.
    let began = Instant::now();
    let mut told = 0;
    for home in 1..=100 {
        place.shift(home, None, 0).await;
    }
    loop {
        let notify = next(&socket);
        answer(&socket, &notify);
        told += 1;
        if serial(&notify.0) == 101 {
            break;
        }
    }
    let most = 2 + began.elapsed().as_millis() / 500;
    assert!((2..=most).contains(&told), "{told}, not {most} at most");

    // A refusal is no silence: nothing is sent again, and the log says so.
    place.shift(1, Some(0), 1).await;
    let (mut refusal, _, to) = next(&socket);
    refusal.metadata.message_type = MessageType::Response;
    refusal.metadata.response_code = ResponseCode::NotAuth;
    refusal.signature = None;
    socket.send_to(&refusal.to_vec().unwrap(), to).unwrap();
    let more_than_a_wait = Some(Duration::from_millis(1200));
    socket.set_read_timeout(more_than_a_wait).unwrap();
    assert!(socket.recv_from(&mut [0; 2048]).is_err());

    // Whom to notify is read at the start only, the key whenever it is needed.
    primary.reconfigure("name = \"secondary\"", "name = \"other\"");
    let refused = || {
        let log = primary.log();
        log.contains("notify.key = \"secondary\": is not the name")
            .then_some(())
    };
    wait_until(PATIENCE, "a mistake to be found", refused).unwrap();
    primary.reconfigure(", key = \"secondary\"", "");
    let reloaded = || {
        let log = primary.log();
        log.contains("notify change at the next start only")
            .then_some(())
    };
    wait_until(PATIENCE, "the configuration to be read", reloaded).unwrap();
    place.shift(2, Some(0), 1).await;
    let without_key = || {
        primary
            .log()
            .contains("is not configured any more")
            .then_some(())
    };
    wait_until(PATIENCE, "the key to be missed", without_key).unwrap();

    let log = primary.stop();
    assert!(log.contains("secondary refuses to be notified"), "{log}");
    assert!(log.contains("notify_refused=1"), "{log}");
}

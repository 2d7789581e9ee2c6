//! Every form of answer to an IXFR question (RFC 1995), as dig sees it.

use std::net::UdpSocket;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::{Name, RData, Record, RecordType};

use mat_netns::dns_servers::free_address;

use crate::servers::*;

/// The SOA serials among `records`, and how many others there are between them.
fn shape(records: &[String]) -> (Vec<u32>, Vec<usize>) {
    let serials = records.iter().filter_map(|record| serial_of(record));
    let between = records.split(|record| serial_of(record).is_some());
    (serials.collect(), between.map(<[String]>::len).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_answer() {
    let place = Place::new(free_address());
    let primary = place.start();
    for home in 1..=40 {
        place.shift(home, None, 0).await;
    }
    let before = primary.serial().unwrap();
    place.shift(1, Some(0), 1).await;
    place.shift(1, Some(1), 2).await;
    place.shift(2, Some(0), 1).await;
    let now = before + 3;

    // Up to date, and newer.
    for serial in [now, now + 5, now + (1 << 30)] {
        for options in ["", " +notcp"] {
            let records = primary.records(&format!("IXFR={serial}{options}"));
            assert_eq!(shape(&records), (vec![now], vec![0, 0]));
        }
    }
    // What has changed: of a home that moved twice the first and the last place.
    for options in ["", " +notcp"] {
        let records = primary.records(&format!("IXFR={before}{options}"));
        let sequence = (vec![now, before, now, now], vec![0, 0, 2, 2, 0]);
        assert_eq!(shape(&records), sequence, "{records:#?}");
        let has = |part: &[String], text: &str| part.iter().any(|r| r.contains(text));
        let (deleted, added) = (&records[2..4], &records[5..7]);
        assert!(has(deleted, "ipv4hint=198.51.0.1 "), "{records:#?}");
        assert!(has(added, "ipv4hint=198.51.2.1 "), "{records:#?}");
        assert!(!has(&records, "ipv4hint=198.51.1.1 "), "{records:#?}");
    }
    // More than a datagram holds.
    let since_start = before - 40;
    let records = primary.records(&format!("IXFR={since_start} +notcp"));
    assert_eq!(shape(&records), (vec![now], vec![0, 0]));
    let records = primary.records(&format!("IXFR={since_start}"));
    let sequence = (vec![now, since_start, now, now], vec![0, 0, 0, 40, 0]);
    assert_eq!(shape(&records), sequence);
    // Older than what is known.
    let older = since_start.wrapping_sub(1);
    let records = primary.records(&format!("IXFR={older}"));
    assert_eq!(shape(&records), (vec![now, now], vec![0, 41, 0]));
    assert_eq!(records, primary.records("AXFR"));
    let records = primary.records(&format!("IXFR={older} +notcp"));
    assert_eq!(shape(&records), (vec![now], vec![0, 0]));

    let log = primary.stop();
    let counts = "transfers=2 transfers_incremental=3 transfers_up_to_date=6 transfers_forgotten=1 transfers_need_tcp=2";
    assert!(log.contains(counts), "{log}");

    // A restart forgets.
    let primary = place.start();
    let records = primary.records(&format!("IXFR={before}"));
    assert_eq!(shape(&records), (vec![now, now], vec![0, 41, 0]));
}

#[test]
fn questions_without_a_serial_or_a_signature() {
    let place = Place::new(free_address());
    let primary = place.start();
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    let zone = Name::from_ascii(ZONE).unwrap();
    message.add_query(Query::query(zone, RecordType::IXFR));
    let unsigned = message.to_vec().unwrap();
    assert_eq!(code(&primary, &unsigned), ResponseCode::Refused);
    let mut named = message.clone();
    let signed = sign(&mut message, None);
    assert_eq!(code(&primary, &signed), ResponseCode::FormErr);
    // That of another zone.
    let other = Name::from_ascii("other.example.").unwrap();
    let soa = SOA::new(other.clone(), other.clone(), 1, 60, 10, 86_400, 2);
    named.add_authority(Record::from_rdata(other, 300, RData::SOA(soa)));
    let signed = sign(&mut named, None);
    assert_eq!(code(&primary, &signed), ResponseCode::FormErr);
}

fn code(server: &Server, question: &[u8]) -> ResponseCode {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(server.address).unwrap();
    socket.send(question).unwrap();
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer).unwrap();
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    answer.metadata.response_code
}

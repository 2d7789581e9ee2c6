//! From octets to a request, whatever they came by. Pure.

use std::net::SocketAddr;

use hickory_proto::ProtoError;
use hickory_proto::op::{Header, MessageType, ResponseCode};
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder};
use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;

/// What somebody has sent.
pub(super) enum Received {
    /// A request.
    Request(Box<Request>),
    /// None that can be read, and what to answer.
    Malformed(ProtoError, Vec<u8>),
    /// Nothing to answer: an answer, which would go in circles, or less than a header.
    Nothing,
}

/// Whether a name in the question section is continued in the header, which no name is (RFC 1035
/// section 4.1.4).
fn points_into_header(octets: &[u8]) -> bool {
    let Some([high, low]) = octets.get(4..6) else {
        return false;
    };
    let mut at = 12;
    for _ in 0..u16::from_be_bytes([*high, *low]) {
        loop {
            match octets.get(at..) {
                Some([0, ..]) => at += 1,
                Some([length @ 1..=63, ..]) => {
                    at += 1 + usize::from(*length);
                    continue;
                }
                Some([high @ 0xc0..=0xff, low, ..]) => {
                    if u16::from_be_bytes([high & 0x3f, *low]) < 12 {
                        return true;
                    }
                    at += 2;
                }
                // It cannot be read.
                _ => return false,
            }
            break;
        }
        at += 4;
    }
    false
}

pub(super) fn receive(octets: &[u8], from: SocketAddr, protocol: Protocol) -> Received {
    let header = Header::read(&mut BinDecoder::new(octets));
    let is_query = |header: &Header| header.metadata.message_type == MessageType::Query;
    if !header.is_ok_and(|header| is_query(&header)) {
        return Received::Nothing;
    }
    let request = match points_into_header(octets) {
        // Questions are given back as they are, behind a header of ours.
        true => Err(ProtoError::from(
            "a name in a question points into the header",
        )),
        false => Request::from_bytes(octets.to_vec(), from, protocol),
    };
    match request {
        Ok(request) => Received::Request(Box::new(request)),
        Err(error) => {
            // Its header alone, with the counts at 0 (RFC 1035 section 4.1.1).
            let code = u16::from(ResponseCode::FormErr) as u8;
            let flags = [octets[2] & 0b0111_1001 | 0x80, octets[3] & 0x10 | code];
            Received::Malformed(error, [&octets[..2], &flags, &[0; 8]].concat())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_not_continued_in_the_header() {
        let header = |count: u8| [0, 7, 0, 0, 0, count, 0, 0, 0, 0, 0, 0].to_vec();
        let question = |name: &[u8]| [name, &[0, 1, 0, 1]].concat();
        let plain = [header(1), question(b"\x01a\x00")].concat();
        assert!(!points_into_header(&plain));
        let points = [header(1), question(b"\x01a\xc0\x02")].concat();
        assert!(points_into_header(&points));
        let first = question(b"\x01a\x00");
        let second = [header(2), first.clone(), question(b"\xc0\x0c")].concat();
        assert!(!points_into_header(&second));
        let second = [header(2), first, question(b"\x01b\xc0\x0b")].concat();
        assert!(points_into_header(&second));
        let from = ([192, 0, 2, 1], 5353).into();
        for length in 0..second.len() {
            points_into_header(&second[..length]);
        }
        let received = receive(&points, from, Protocol::Udp);
        assert!(matches!(received, Received::Malformed(_, answer) if answer[3] & 0xf == 1));
    }
}

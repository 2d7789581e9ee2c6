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

pub(super) fn receive(octets: &[u8], from: SocketAddr, protocol: Protocol) -> Received {
    let header = Header::read(&mut BinDecoder::new(octets));
    let is_query = |header: &Header| header.metadata.message_type == MessageType::Query;
    if !header.is_ok_and(|header| is_query(&header)) {
        return Received::Nothing;
    }
    match Request::from_bytes(octets.to_vec(), from, protocol) {
        Ok(request) => Received::Request(Box::new(request)),
        Err(error) => {
            // Its header alone, with the counts at 0 (RFC 1035 section 4.1.1).
            let code = u16::from(ResponseCode::FormErr) as u8;
            let flags = [octets[2] & 0b0111_1001 | 0x80, octets[3] & 0x10 | code];
            Received::Malformed(error, [&octets[..2], &flags, &[0; 8]].concat())
        }
    }
}

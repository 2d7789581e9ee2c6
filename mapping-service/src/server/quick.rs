//! The answer to the most frequent question, octets to octets: one unsigned question for a set
//! that is there. Everything else is for the whole server, which would answer the same; a test
//! compares them. Pure.

use hickory_proto::rr::RecordType;
use hickory_proto::serialize::binary::BinEncodable as _;

use super::reply::UDP_PAYLOAD;
use crate::zone::Zone;

const HEADER: usize = 12;
/// An OPT record without options (RFC 6891 section 6.1.2).
const OPT: usize = 11;
/// A name that is the one at offset 12.
const SAME_NAME: [u8; 2] = [0xc0, HEADER as u8];

/// Writes the answer to the datagram `asked` into `out`, if it is such a question.
pub(super) fn answer(zone: &Zone, asked: &[u8], out: &mut Vec<u8>) -> Option<()> {
    // A query, whole, with one question and nothing else but perhaps an OPT record.
    let head = asked.get(..HEADER)?;
    let [0, 1, 0, 0, 0, 0, 0, extra @ (0 | 1)] = head[4..] else {
        return None;
    };
    if head[2] & 0b1111_1010 != 0 {
        return None;
    }
    let name = wire_name(&asked[HEADER..])?;
    let end = HEADER + name.len() + 4;
    let [kind_high, kind_low, 0, 1] = *asked.get(end - 4..end)? else {
        return None;
    };
    let kind = RecordType::from(u16::from_be_bytes([kind_high, kind_low]));
    // Names in data would have to be compressed, or not, as the whole server does it.
    if !matches!(kind, RecordType::SVCB | RecordType::A | RecordType::AAAA) {
        return None;
    }
    let edns = match (extra, asked.len() - end) {
        (0, 0) => None,
        (1, OPT) => Some(Edns::read(&asked[end..])?),
        _ => return None,
    };
    let set = zone.set_at(name, kind)?;

    out.clear();
    out.extend([head[0], head[1]]);
    // A response, authoritative; what was asked is repeated (RFC 1035 section 4.1.1).
    out.extend([0b1000_0100 | head[2] & 1, head[3] & 0b0001_0000]);
    out.extend([0, 1]);
    out.extend((set.data.len() as u16).to_be_bytes());
    out.extend([0, 0, 0, extra]);
    out.extend(&asked[HEADER..end]);
    for data in &set.data {
        let data = data.to_bytes().ok()?;
        out.extend(SAME_NAME);
        out.extend([kind_high, kind_low, 0, 1]);
        out.extend(set.ttl.to_be_bytes());
        out.extend((data.len() as u16).to_be_bytes());
        out.extend(data);
    }
    let limit = edns.map_or(512, |edns| edns.limit());
    if let Some(edns) = edns {
        edns.write(out);
    }
    // What is too long is cut by the whole server.
    (out.len() <= limit.into()).then_some(())
}

/// The uncompressed name that `octets` begin with (RFC 1035 section 3.1).
fn wire_name(octets: &[u8]) -> Option<&[u8]> {
    let mut at = 0;
    loop {
        match *octets.get(at)? {
            0 => return octets.get(..=at),
            label @ 1..=63 if at < 255 => at += 1 + usize::from(label),
            _ => return None,
        }
    }
}

/// What an asker says about itself.
#[derive(Clone, Copy)]
struct Edns {
    payload: u16,
    dnssec_ok: bool,
}

impl Edns {
    /// Of version 0 and without options.
    fn read(octets: &[u8]) -> Option<Self> {
        let [0, 0, 41, high, low, 0, 0, flags, 0, 0, 0] = *octets else {
            return None;
        };
        (flags & 0x7f == 0).then_some(Edns {
            payload: u16::from_be_bytes([high, low]),
            dnssec_ok: flags & 0x80 != 0,
        })
    }

    fn limit(self) -> u16 {
        self.payload.clamp(512, UDP_PAYLOAD)
    }

    fn write(self, out: &mut Vec<u8>) {
        let [high, low] = self.limit().to_be_bytes();
        let flags = if self.dnssec_ok { 0x80 } else { 0 };
        out.extend([0, 0, 41, high, low, 0, 0, flags, 0, 0, 0]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_ends_where_it_ends() {
        assert_eq!(wire_name(b"\x01a\x00rest"), Some(&b"\x01a\x00"[..]));
        assert_eq!(wire_name(b"\x00"), Some(&b"\x00"[..]));
        for none in [&b""[..], b"\x01", b"\x01a", b"\xc0\x0c", b"\x40aa"] {
            assert_eq!(wire_name(none), None);
        }
        let long = [&b"\x3f"[..], &[b'x'; 63]].concat().repeat(5);
        assert_eq!(wire_name(&[&long[..], b"\x00"].concat()), None);
    }
}

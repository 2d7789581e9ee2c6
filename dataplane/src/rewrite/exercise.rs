//! One door for fuzz targets and replayed inputs: any bytes go through everything here, and what
//! the module promises is checked. The only place in it that allocates or panics, both on purpose.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mat_proto::Family;

use super::build::{self, Unreachable};
use super::checksum;
use super::ip::Fragment;
use super::plain::{self, Ends, Plain};
use super::translate::{ChecksumState, Quoted, Translation, rewrite};
use super::transport::protocol;
use super::view::{self, Headers, Packet};

/// Reads `data` as a packet, rewrites it in every way, there and back, and answers it.
///
/// # Panics
/// If a promise of the [module](super) is broken.
pub fn exercise(data: &[u8]) {
    let Ok(headers) = Packet::parse(data) else {
        return;
    };
    assert!(headers.transport_offset() <= headers.total_len());
    assert!(headers.total_len() <= data.len());
    for (there, back) in translations(&headers) {
        for state in [ChecksumState::Full, ChecksumState::Partial] {
            round_trip(data, &headers, &there, &back, state);
        }
    }
    let mut buffer = [0; 1280];
    for reason in [Unreachable::Host, Unreachable::Prohibited] {
        if let Ok(length) = build::unreachable(&mut buffer, headers.dst(), data, reason) {
            let answer = Packet::parse(&buffer[..length]).expect("we built a packet");
            assert!(answer.is_icmp_error() && answer.total_len() == length);
            assert_eq!(answer.quoted_src(), Some(headers.src()));
            assert_eq!(answer.quoted_dst(), Some(headers.dst()));
            assert_eq!(residue(&buffer[..length], &answer), Some(0));
        }
    }
}

fn round_trip(
    data: &[u8],
    headers: &Headers,
    there: &Translation,
    back: &Translation,
    state: ChecksumState,
) {
    let mut packet = data.to_vec();
    if rewrite(&mut packet, headers, there, state).is_err() {
        assert_eq!(packet, data, "a refused packet is left as it was");
        return;
    }
    plain_agrees(data, &packet, there, state);
    let rewritten = Packet::parse(&packet).expect("a rewritten packet can be read");
    assert_eq!(rewritten.src(), there.new_src.unwrap_or(headers.src()));
    assert_eq!(rewritten.dst(), there.new_dst.unwrap_or(headers.dst()));
    if let Some(Quoted { new_src, new_dst }) = there.quoted {
        assert_eq!(rewritten.quoted_src(), new_src.or(headers.quoted_src()));
        assert_eq!(rewritten.quoted_dst(), new_dst.or(headers.quoted_dst()));
    }
    if headers.family() == Family::V4 {
        assert_eq!(
            header_residue(&packet),
            header_residue(data),
            "IPv4 header checksum"
        );
    }
    if state == ChecksumState::Full {
        assert_eq!(
            residue(&packet, &rewritten),
            residue(data, headers),
            "transport checksum"
        );
    }
    rewrite(&mut packet, &rewritten, back, state).expect("what went there comes back");
    assert_restored(&packet, data);
}

/// A plain packet is rewritten by [`plain::rewrite`] to the same octets.
fn plain_agrees(data: &[u8], rewritten: &[u8], there: &Translation, state: ChecksumState) {
    let (Some(source), Some(destination)) = (there.new_src, there.new_dst) else {
        return;
    };
    let mut packet = data.to_vec();
    match Plain::parse(data, 0) {
        Some(Plain::V4(shape, old)) => {
            let new = Ends::new(source, destination);
            plain::rewrite(&mut packet, shape, &new, old.delta(&new), state);
        }
        Some(Plain::V6(shape, old)) => {
            let new = Ends::new(source, destination);
            plain::rewrite(&mut packet, shape, &new, old.delta(&new), state);
        }
        None => return,
    }
    assert_eq!(packet, rewritten, "plain and general rewriting differ");
}

/// The new addresses, alone and together, and the way back.
fn translations(headers: &Headers) -> [(Translation, Translation); 4] {
    let [a, b]: [IpAddr; 2] = match headers.family() {
        Family::V4 => [
            Ipv4Addr::new(198, 51, 100, 7).into(),
            Ipv4Addr::new(203, 0, 113, 255).into(),
        ],
        Family::V6 => [
            Ipv6Addr::new(0x2001, 0xdb8, 0, 7, 0, 0, 0, 1).into(),
            Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0xfffe, 0, 0, 0, 0xabcd).into(),
        ],
    };
    let outer = |new_src: Option<IpAddr>, new_dst: Option<IpAddr>| {
        let there = Translation {
            new_src,
            new_dst,
            quoted: None,
        };
        let back = Translation {
            new_src: new_src.and(Some(headers.src())),
            new_dst: new_dst.and(Some(headers.dst())),
            quoted: None,
        };
        (there, back)
    };
    let (mut there, mut back) = outer(Some(a), Some(b));
    there.quoted = Some(Quoted {
        new_src: Some(b),
        new_dst: Some(a),
    });
    back.quoted = Some(Quoted {
        new_src: headers.quoted_src(),
        new_dst: headers.quoted_dst(),
    });
    [
        outer(Some(a), None),
        outer(None, Some(b)),
        outer(Some(b), Some(a)),
        (there, back),
    ]
}

/// What a receiver gets for the IPv4 header, 0 if it is right, with one spelling of zero.
fn header_residue(packet: &[u8]) -> u16 {
    let header = usize::from(packet[0] & 0x0F) * 4;
    one_spelling(checksum::ipv4_header(&packet[..header]))
}

/// What a receiver gets for the transport checksum, 0 if it is right. None where there is no
/// checksum, or where the header alone does not show what it covers.
fn residue(packet: &[u8], headers: &Headers) -> Option<u16> {
    let segment = &packet[headers.transport_offset()..headers.total_len()];
    let (src, dst, number) = (headers.src(), headers.dst(), headers.protocol());
    let direct = headers
        .routing()
        .is_none_or(|route| route.segments_left == 0);
    if headers.fragment() == Fragment::Later || !direct || headers.ip.home_address_option {
        return None;
    }
    let checksum = match (number, headers.family()) {
        (protocol::UDP | protocol::UDP_LITE, _) if segment[6..8] == [0, 0] => return None,
        (protocol::TCP | protocol::UDP | protocol::UDP_LITE | protocol::DCCP, _)
        | (protocol::ICMPV6 | protocol::MOBILITY, Family::V6) => {
            checksum::transport(src, dst, number, segment)
        }
        _ if view::is_icmp(&headers.ip) => !checksum::sum(segment),
        _ => return None,
    };
    Some(one_spelling(checksum))
}

fn one_spelling(checksum: u16) -> u16 {
    if checksum == 0xFFFF { 0 } else { checksum }
}

/// Equal but for a zero checksum that has come back in its other spelling.
fn assert_restored(packet: &[u8], original: &[u8]) {
    assert_eq!(packet.len(), original.len());
    let (was, is) = (original.chunks(2), packet.chunks(2));
    let respelt = was
        .zip(is)
        .filter(|(was, is)| was != is)
        .inspect(|(was, is)| {
            let zeros: [&[u8]; 2] = [&[0, 0], &[0xFF, 0xFF]];
            assert!(
                zeros.contains(was) && zeros.contains(is),
                "not restored: {was:x?} {is:x?}"
            );
        });
    assert!(
        respelt.count() <= 4,
        "there are at most four checksums in a packet"
    );
}

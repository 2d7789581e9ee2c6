//! Examples worked out by hand, so that an error shared with a library would show.

use mat_dataplane::rewrite::{
    ChecksumState, Family, Fragment, Packet, Quoted, RoutingKind, Translation, rewrite,
};

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(pair).collect()
}

fn check(before: &str, map: Translation, state: ChecksumState, after: &str) {
    let mut packet = hex(before);
    let headers = Packet::parse(&packet).unwrap();
    rewrite(&mut packet, &headers, &map, state).unwrap();
    assert_eq!(packet, hex(after));
}

fn new_src(address: &str) -> Translation {
    Translation {
        new_src: Some(address.parse().unwrap()),
        ..Translation::default()
    }
}

/// 192.0.2.1 -> 203.0.113.9 adds cb00 + 7109 - c000 - 0201 = 7a08.
/// Header: ~8e95 = 716a; 716a + 7a08 = eb72; ~eb72 = 148d.
/// UDP:    ~07ea = f815; f815 + 7a08 = 1721d -> 721e; ~721e = 8de1.
#[test]
fn udp_over_ipv4() {
    check(
        "4500001c 00000000 40118e95 c0000201 c6336407 03e807d0 000807ea",
        new_src("203.0.113.9"),
        ChecksumState::Full,
        "4500001c 00000000 4011148d cb007109 c6336407 03e807d0 00088de1",
    );
}

/// The same datagram with its checksum left to the card: the pseudo-header's sum is
/// c000 + 0201 + c633 + 6407 + 0011 + 0008 = ec55, and ec55 + 7a08 = 1665d -> 665e.
#[test]
fn udp_over_ipv4_with_a_partial_checksum() {
    check(
        "4500001c 00000000 40118e95 c0000201 c6336407 03e807d0 0008ec55",
        new_src("203.0.113.9"),
        ChecksumState::Partial,
        "4500001c 00000000 4011148d cb007109 c6336407 03e807d0 0008665e",
    );
}

#[test]
fn udp_over_ipv4_without_a_checksum() {
    check(
        "4500001c 00000000 40118e95 c0000201 c6336407 03e807d0 00080000",
        new_src("203.0.113.9"),
        ChecksumState::Full,
        "4500001c 00000000 4011148d cb007109 c6336407 03e807d0 00080000",
    );
}

/// A sum of 85f7 plus the 7a08 above is ffff, so the checksum computes to 0 and is sent as ffff.
#[test]
fn a_computed_zero_is_sent_as_all_ones() {
    check(
        "4500001c 00000000 40118e95 c0000201 c6336407 03e807d0 00087a08",
        new_src("203.0.113.9"),
        ChecksumState::Full,
        "4500001c 00000000 4011148d cb007109 c6336407 03e807d0 0008ffff",
    );
}

/// 2001:db8::1 -> 2001:db8:0:5::9 adds 5 + 9 - 1 = 000d.
/// Pseudo-header 2001 + 0db8 + 1 + 2001 + 0db8 + 2 + 0014 + 0006 = 5b8f, and TCP
/// 0050 + 1388 + 1 + 0 + 5002 + 2000 = 83db: df6a, ~ = 2095. After: df77, ~ = 2088.
#[test]
fn tcp_over_ipv6() {
    let header = "6c0abcde 00140640";
    let destination = "20010db8000000000000000000000002";
    let segment = |checksum| format!("00501388 00000001 00000000 50022000 {checksum}0000");
    check(
        &format!(
            "{header} 20010db8000000000000000000000001 {destination} {}",
            segment("2095")
        ),
        new_src("2001:db8:0:5::9"),
        ChecksumState::Full,
        &format!(
            "{header} 20010db8000000050000000000000009 {destination} {}",
            segment("2088")
        ),
    );
}

/// "Fragmentation needed" with MTU 1280, quoting 28 bytes of a UDP datagram of 1400.
///
/// In the quote the source changes by +7a08, so its header checksum by -7a08 (sum b6c6 -> 30cf) and
/// its UDP checksum by -7a08 as well: -7a08 in all, and the ICMP checksum rises by as much. Before:
/// 0304 + 0500 + quoted header ffff + 03e8 + 07d0 + 0564 + 07ea = 210a, ~ = def5; after: 58fe.
/// The outer header's sum goes from 099f to 83a7.
#[test]
fn path_mtu_discovery_over_ipv4() {
    check(
        "45000038 00000000 4001f660 c0000263 c0000201 0304def5 00000500 \
         45000578 00004000 40114939 c0000201 c6336407 03e807d0 056407ea",
        Translation {
            new_dst: Some("203.0.113.9".parse().unwrap()),
            quoted: Some(Quoted {
                new_src: Some("203.0.113.9".parse().unwrap()),
                new_dst: None,
            }),
            ..Translation::default()
        },
        ChecksumState::Full,
        "45000038 00000000 40017c58 c0000263 cb007109 030458fe 00000500 \
         45000578 00004000 4011cf30 cb007109 c6336407 03e807d0 05648de1",
    );
}

/// An unfinished loose source route: 198.51.100.7 is only the next stop, and the UDP checksum is
/// that of a datagram to 192.0.2.200, the last address in the option. Neither changes.
#[test]
fn a_source_route_hides_the_final_destination_from_the_header() {
    let before = "48000028 00000000 40110000 c0000201 c6336407 830704c0 0002c800 00000000 \
                  03e807d0 00081234";
    let route = Packet::parse(&hex(before)).unwrap().routing().unwrap();
    assert_eq!((route.kind, route.segments_left), (RoutingKind::Loose, 1));
    // The header checksum was 0 (sum ffff) and c633 + 6407 - cb00 - 7109 = ee30 goes into it.
    check(
        before,
        Translation {
            new_dst: Some("203.0.113.9".parse().unwrap()),
            ..Translation::default()
        },
        ChecksumState::Full,
        "48000028 00000000 4011ee30 c0000201 cb007109 830704c0 0002c800 00000000 \
         03e807d0 00081234",
    );
}

/// A DCCP checksum of 0 is a checksum like any other, before as after: sums 85f7 + 7a08 = ffff, and
/// back.
#[test]
fn zero_is_an_ordinary_checksum_of_dccp() {
    let home = "4500002c 00000000 40218e75 c0000201 c6336407 03e807d0 04007a08 01000000 00000009";
    let away = "4500002c 00000000 4021146d cb007109 c6336407 03e807d0 04000000 01000000 00000009";
    let tail = "00000000 00000000";
    let (home, away) = (format!("{home} {tail}"), format!("{away} {tail}"));
    check(&home, new_src("203.0.113.9"), ChecksumState::Full, &away);
    check(&away, new_src("192.0.2.1"), ChecksumState::Full, &home);
}

/// The offset field with each of its flags: more fragments, don't fragment, and the reserved bit
/// over IPv4; more fragments and the reserved bits over IPv6.
#[test]
fn every_bit_of_a_fragment_offset_counts() {
    let v4 = |field: u16| {
        let mut packet = hex("4500001c 00000000 40118e95 c0000201 c6336407 03e807d0 000807ea");
        packet[6..8].copy_from_slice(&field.to_be_bytes());
        Packet::parse(&packet).unwrap().fragment()
    };
    let v6 = |field: u16| {
        let header = "60000000 00102c40";
        let (a, b) = (
            "20010db8000000000000000000000001",
            "20010db8000000000000000000000002",
        );
        let rest = "11000000 00000001 03e807d0 00080000";
        let mut packet = hex(&format!("{header} {a} {b} {rest}"));
        packet[42..44].copy_from_slice(&field.to_be_bytes());
        Packet::parse(&packet).unwrap().fragment()
    };
    for bit in 0..13 {
        assert_eq!(v4(1 << bit), Fragment::Later);
        assert_eq!(v4(1 << bit | 0x2000), Fragment::Later);
        assert_eq!(v6(8 << bit), Fragment::Later);
        assert_eq!(v6(8 << bit | 1), Fragment::Later);
    }
    assert_eq!([v4(0), v4(0x4000), v4(0x8000)], [Fragment::None; 3]);
    assert_eq!([v4(0x2000), v4(0xE000)], [Fragment::First; 2]);
    assert_eq!([v6(0), v6(2), v6(4)], [Fragment::None; 3]);
    assert_eq!([v6(1), v6(7)], [Fragment::First; 2]);
}

#[test]
fn a_later_fragment_has_no_ports() {
    let headers = Packet::parse(&hex(
        "4500001c 00000002 40110000 c0000201 c6336407 03e807d0 000807ea",
    ))
    .unwrap();
    assert_eq!(headers.fragment(), Fragment::Later);
    assert_eq!((headers.ports(), headers.udp_ports()), (None, None));
    assert_eq!((headers.family(), headers.hop_limit()), (Family::V4, 64));
}

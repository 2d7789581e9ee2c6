//! The packets and addresses that the micro-benchmarks share.

use std::net::IpAddr;

use etherparse::PacketBuilder;

/// The addresses of one family: two homes and their locators.
pub struct Ends {
    pub name: &'static str,
    pub homes: (IpAddr, IpAddr),
    pub locators: (IpAddr, IpAddr),
}

/// One for each family.
pub fn families() -> [Ends; 2] {
    let ip = |text: &str| text.parse().expect("a literal address");
    [
        Ends {
            name: "ipv4",
            homes: (ip("192.0.2.10"), ip("192.0.2.20")),
            locators: (ip("198.51.100.33"), ip("198.51.100.161")),
        },
        Ends {
            name: "ipv6",
            homes: (ip("2001:db8:1::10"), ip("2001:db8:1::20")),
            locators: (ip("2001:db8:a::101"), ip("2001:db8:c::101")),
        },
    ]
}

/// A TCP segment with a complete checksum.
pub fn tcp((from, to): (IpAddr, IpAddr), payload: usize) -> Vec<u8> {
    let builder = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 64),
        _ => panic!("addresses of two families"),
    };
    let mut packet = Vec::new();
    builder
        .tcp(5000, 6000, 1, 8192)
        .write(&mut packet, &vec![0x5a; payload])
        .expect("fits");
    packet
}

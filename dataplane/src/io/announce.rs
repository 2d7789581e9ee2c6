//! Telling the neighbours on the uplink that a locator is reached through us:
//! gratuitous ARP (RFC 5227, section 3) and unsolicited neighbour advertisements
//! (RFC 4861, section 7.2.6).
//!
//! Without it the router keeps sending to the old place until its entry ages, or
//! waits out a failed resolution. A router that has no entry at all ignores both,
//! so it is asked for its own address in the locator's name, which makes it enter
//! the asker (RFC 826; RFC 4861, section 7.2.3): the first packets of a move come
//! in a burst that overflows the queue of an unresolved neighbour.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::io::MacAddr;

/// When it is said again, counted from the first time: soon, in case the frame
/// was lost, and later, in case the switch or the router was not ready. Linux
/// believes no second change of an entry within a second (`locktime`), hence the
/// last.
pub const REPEATS: [Duration; 4] = [
    Duration::from_millis(20),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_millis(1500),
];

const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const BROADCAST: [u8; 6] = [0xff; 6];
/// ff02::1, and its Ethernet form (RFC 2464, section 7).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

/// What says it. Its socket stays open: the kernel takes some ten milliseconds to close one of
/// these, and whoever does it waits.
#[derive(Debug)]
pub struct Announcer {
    socket: OwnedFd,
}

impl Announcer {
    /// In the network namespace of the calling thread; needs CAP_NET_RAW.
    pub fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            // No protocol: this socket receives nothing.
            None,
        )?;
        Ok(Announcer { socket })
    }

    /// Says once, on the interface with this index and MAC address, that `address`
    /// is here: to everybody, and to each of `routers`.
    pub fn announce(
        &self,
        address: IpAddr,
        routers: &[IpAddr],
        index: u32,
        mac: MacAddr,
    ) -> io::Result<()> {
        let everybody = match address {
            // An ARP request for the own address: also updates hosts that ignore
            // replies they did not ask for.
            IpAddr::V4(ip) => arp_request(ip, ip, mac),
            IpAddr::V6(ip) => unsolicited_advertisement(ip, mac),
        };
        self.send(&everybody, index)?;
        for router in routers {
            let question = match (address, *router) {
                (IpAddr::V4(ip), IpAddr::V4(router)) => arp_request(ip, router, mac),
                (IpAddr::V6(ip), IpAddr::V6(router)) => solicitation(ip, router, mac),
                _ => continue,
            };
            self.send(&question, index)?;
        }
        Ok(())
    }

    fn send(&self, frame: &[u8], index: u32) -> io::Result<()> {
        // SAFETY: a `sockaddr_ll` is plain integers; all zero is a valid value.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_ifindex = index as i32;
        // SAFETY: the socket is open, and both pointers lead to live values of the
        // lengths given with them.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const to).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

fn arp_request(from: Ipv4Addr, for_whom: Ipv4Addr, mac: MacAddr) -> Vec<u8> {
    let mut frame = ethernet(BROADCAST, mac, ETHERTYPE_ARP);
    // Ethernet, IPv4, lengths 6 and 4, operation 1: request (RFC 826).
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac.octets());
    frame.extend(from.octets());
    frame.extend([0; 6]);
    frame.extend(for_whom.octets());
    frame
}

fn unsolicited_advertisement(ip: Ipv6Addr, mac: MacAddr) -> Vec<u8> {
    const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    const OVERRIDE: u8 = 0b0010_0000;
    let mut icmp = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0];
    icmp.extend(ip.octets());
    // Target link-layer address option: type 2, one unit of eight bytes.
    icmp.extend([2, 1]);
    icmp.extend(mac.octets());
    neighbour_discovery(ip, ALL_NODES, ALL_NODES_MAC, mac, icmp)
}

fn solicitation(ip: Ipv6Addr, router: Ipv6Addr, mac: MacAddr) -> Vec<u8> {
    const NEIGHBOUR_SOLICITATION: u8 = 135;
    let mut icmp = vec![NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    icmp.extend(router.octets());
    // Source link-layer address option: type 1, one unit of eight bytes.
    icmp.extend([1, 1]);
    icmp.extend(mac.octets());
    // The solicited-node address of the router (RFC 4291, section 2.7.1).
    let [.., a, b, c] = router.octets();
    let [high, low] = [0xff00 | u16::from(a), u16::from_be_bytes([b, c])];
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, high, low);
    neighbour_discovery(ip, group, [0x33, 0x33, 0xff, a, b, c], mac, icmp)
}

fn neighbour_discovery(
    ip: Ipv6Addr,
    group: Ipv6Addr,
    group_mac: [u8; 6],
    mac: MacAddr,
    mut icmp: Vec<u8>,
) -> Vec<u8> {
    const ICMPV6: u8 = 58;
    let mut pseudo = Vec::new();
    pseudo.extend(ip.octets());
    pseudo.extend(group.octets());
    pseudo.extend((icmp.len() as u32).to_be_bytes());
    pseudo.extend([0, 0, 0, ICMPV6]);
    pseudo.extend(&icmp);
    let checksum = internet_checksum(&pseudo);
    icmp[2..4].copy_from_slice(&checksum.to_be_bytes());

    let mut frame = ethernet(group_mac, mac, ETHERTYPE_IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend((icmp.len() as u16).to_be_bytes());
    // The hop limit proves that it comes from this link (RFC 4861, section 7.1.2).
    frame.extend([ICMPV6, 255]);
    frame.extend(ip.octets());
    frame.extend(group.octets());
    frame.extend(icmp);
    frame
}

fn ethernet(to: [u8; 6], from: MacAddr, ethertype: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(86);
    frame.extend(to);
    frame.extend(from.octets());
    frame.extend(ethertype.to_be_bytes());
    frame
}

/// RFC 1071; `bytes` has an even length.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{Icmpv6Slice, NetSlice, SlicedPacket};

    const MAC: MacAddr = MacAddr::from_octets([2, 0, 0x5e, 0, 0x53, 1]);

    #[test]
    fn the_arp_frame_names_us_for_the_locator() {
        let locator = "198.51.100.7".parse().unwrap();
        let frame = arp_request(locator, locator, MAC);
        assert_eq!(frame.len(), 42);
        assert_eq!(frame[..6], BROADCAST);
        assert_eq!(frame[6..12], MAC.octets());
        assert_eq!(frame[22..28], MAC.octets());
        assert_eq!(frame[28..32], [198, 51, 100, 7]);
        assert_eq!(frame[38..42], [198, 51, 100, 7]);
    }

    #[test]
    fn the_advertisement_is_a_valid_icmpv6_message() {
        let ip: Ipv6Addr = "2001:db8:2::7".parse().unwrap();
        let frame = unsolicited_advertisement(ip, MAC);
        let packet = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(NetSlice::Ipv6(v6)) = packet.net else {
            panic!("not IPv6")
        };
        assert_eq!(v6.header().source_addr(), ip);
        assert_eq!(v6.header().hop_limit(), 255);
        let icmp = Icmpv6Slice::from_slice(v6.payload().payload).unwrap();
        assert!(icmp.is_checksum_valid(ip.octets(), ALL_NODES.octets()));
        assert_eq!(icmp.type_u8(), 136);
    }

    #[test]
    fn the_router_is_asked_in_the_locators_name() {
        let ip: Ipv6Addr = "2001:db8:2::7".parse().unwrap();
        let frame = solicitation(ip, "fe80::a:bc:de".parse().unwrap(), MAC);
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0xbc, 0, 0xde]);
        let packet = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(NetSlice::Ipv6(v6)) = packet.net else {
            panic!("not IPv6")
        };
        let group: Ipv6Addr = "ff02::1:ffbc:de".parse().unwrap();
        assert_eq!(v6.header().destination_addr(), group);
        let icmp = Icmpv6Slice::from_slice(v6.payload().payload).unwrap();
        assert!(icmp.is_checksum_valid(ip.octets(), group.octets()));
        assert_eq!(icmp.type_u8(), 135);
    }
}

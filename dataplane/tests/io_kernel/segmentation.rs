//! Joined packets as the kernel cuts them: forwarded from a TUN that takes super-packets to one
//! that does not.

use std::io::IoSlice;

use mat_dataplane::config::TunConfig;
use mat_dataplane::frame::{Frame, MAX_FRAME};
use mat_dataplane::gso::Kind;
use mat_dataplane::io::tun::{Offload, Tun};

use crate::netns::{in_namespace, ip};
use crate::packets::*;
use crate::tun::{config, recv, wait};

fn device(name: &str, offload: bool) -> Tun {
    let config = TunConfig {
        name: name.to_owned(),
        ..config(offload)
    };
    let tun = Tun::open(&config).unwrap();
    // No address, and so no message, of its own.
    std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/addr_gen_mode"), "1").unwrap();
    std::fs::write(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"), "0").unwrap();
    ip(&format!("link set {name} mtu 1500 txqueuelen 1000 up"));
    tun
}

/// What a router makes of a packet.
fn forwarded(mut packet: Vec<u8>) -> Vec<u8> {
    if packet[0] >> 4 == 4 {
        let (mut header, _) = etherparse::Ipv4Header::from_slice(&packet).unwrap();
        header.time_to_live -= 1;
        header.header_checksum = header.calc_header_checksum();
        packet[..20].copy_from_slice(&header.to_bytes());
    } else {
        packet[7] -= 1;
    }
    packet
}

#[test]
fn the_kernel_cuts_joined_packets_as_we_do() {
    in_namespace(async || {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "0").unwrap();
        std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        let (from, to) = (device("mat0", true), device("mat1", false));
        ip("route add 198.51.100.0/24 dev mat1");
        ip("route add 2001:db8::c8/128 dev mat1");
        let mut buffer = vec![0; MAX_FRAME];
        let mut next = || loop {
            wait(&to);
            let (_, packet) = recv(&to, &mut buffer).unwrap();
            // What the kernel itself says on a new link goes to a group.
            if packet[0] >> 4 == 4 || packet[24] != 0xFF {
                break packet.to_vec();
            }
        };
        let mut pass = |frame: &Frame, sent: &[Vec<u8>], what: &str| {
            from.send(&[IoSlice::new(&frame.to_octets())])
                .unwrap_or_else(|error| panic!("{what}: {error}"));
            let cut = wire(frame);
            assert_eq!(cut.len(), sent.len());
            for (cut, sent) in cut.into_iter().zip(sent) {
                assert!(is_same(&cut, sent), "{what}: cut by us");
                assert_eq!(next(), forwarded(cut), "{what}: cut by the kernel");
            }
        };
        // Before Linux 6.2 there are no batches of datagrams.
        let takes_udp = from.offload() == Offload::TcpUdp;
        for kind in KINDS.into_iter().filter(|kind| is_tcp(*kind) || takes_udp) {
            for dont_fragment in [true, false] {
                for sizes in [&[1400; 46][..], &[64; 64], &[501, 501, 8], &[1, 1]] {
                    let first = Spec {
                        dont_fragment,
                        ..Spec::new(kind)
                    };
                    let mut specs = train(&first, sizes);
                    specs.last_mut().unwrap().flags |= PSH;
                    let sent: Vec<_> = specs.iter().map(Spec::bytes).collect();
                    let written = join(&full(&specs));
                    assert_eq!(written.len(), 1);
                    let what = format!("{kind:?}, {} packets", sizes.len());
                    pass(&written[0].frame, &sent, &what);
                }
            }
        }
        for kind in [Kind::Tcp4, Kind::Tcp6] {
            let first = Spec {
                flags: ACK | ECE,
                ..Spec::new(kind)
            };
            let mut specs = train(&first, &[100; 3]);
            let payload = specs.iter().flat_map(|spec| spec.payload.clone()).collect();
            let whole = Spec {
                payload,
                flags: ACK | ECE | CWR | PSH | FIN,
                ..first
            };
            let mut frame = whole.whole(100);
            frame.offload.0[1] |= 0x80;
            specs[0].flags |= CWR;
            specs[2].flags |= PSH | FIN;
            let sent: Vec<_> = specs.iter().map(Spec::bytes).collect();
            pass(&frame, &sent, "with CWR and FIN");
        }
    });
}

//! The TUN device itself.

use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};

use mat_dataplane::config::TunConfig;
use mat_dataplane::io::tun::{Offload, Tun, TunError};
use mat_dataplane::io::vnet::{Gso, MAX_FRAME, VNET_HEADER};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::socket::{setsockopt, sockopt};

use crate::netns::{in_namespace, in_namespaces, ip};

fn config(offload: bool) -> TunConfig {
    TunConfig {
        name: "mat0".to_owned(),
        mtu: 1500,
        offload,
    }
}

/// An ICMP echo request from 192.0.2.2 to 192.0.2.1.
fn echo_request() -> Vec<u8> {
    let mut packet = Vec::new();
    etherparse::PacketBuilder::ipv4([192, 0, 2, 2], [192, 0, 2, 1], 64)
        .icmpv4_echo_request(1, 2)
        .write(&mut packet, b"payload")
        .unwrap();
    packet
}

/// Waits until the kernel has something for us.
pub fn wait(tun: &Tun) {
    let mut fds = [PollFd::new(tun.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, PollTimeout::from(5000u16)).unwrap(), 1);
}

#[test]
fn the_kernel_answers_what_is_written() {
    for offload in [false, true] {
        in_namespace(async move || {
            let tun = Tun::open(&config(offload)).unwrap();
            assert_eq!(tun.vnet(), offload);
            assert_ne!(tun.describe().contains("no offload"), offload);
            std::fs::write("/proc/sys/net/ipv6/conf/mat0/addr_gen_mode", "1").unwrap();
            ip("address add 192.0.2.1/24 dev mat0");
            ip("link set mat0 up");
            let mut buffer = vec![0; MAX_FRAME];
            assert_eq!(tun.recv(&mut buffer).unwrap(), None);

            let request = echo_request();
            let mut with_header = vec![0; if offload { VNET_HEADER } else { 0 }];
            with_header.extend(&request);
            for bare in [true, false] {
                if bare {
                    tun.send_packet(&request).unwrap();
                } else {
                    tun.send(&with_header).unwrap();
                }
                wait(&tun);
                let received = tun.recv(&mut buffer).unwrap().unwrap();
                let frame = received.frame;
                assert_eq!(frame.gso, Gso::None);
                assert_eq!(frame.packet.end, received.len);
                let packet = &buffer[frame.packet];
                assert_eq!(packet.len(), request.len());
                assert_eq!(packet[12..20], [192, 0, 2, 1, 192, 0, 2, 2]);
            }
        });
    }
}

#[test]
fn a_device_outlives_its_owner_until_destroyed() {
    in_namespace(async || {
        let tun = Tun::open(&config(true)).unwrap();
        assert!(matches!(Tun::open(&config(true)), Err(TunError::Busy(_))));
        assert!(matches!(Tun::destroy("mat0"), Err(TunError::Busy(_))));
        drop(tun);
        ip("link show mat0");
        // Taken over with other properties.
        let tun = Tun::open(&config(false)).unwrap();
        assert_eq!(tun.offload(), Offload::None);
        drop(tun);
        Tun::destroy("mat0").unwrap();
        Tun::destroy("mat0").unwrap();
        assert!(!ip("-o link").contains("mat0"));
    });
}

/// The device passes from descriptor to descriptor as it does from program to
/// program, with what waits in it.
#[test]
fn an_adopted_device_still_has_its_packets() {
    in_namespace(async || {
        let tun = Tun::open(&config(true)).unwrap();
        let offload = tun.offload();
        ip("address add 192.0.2.1/24 dev mat0");
        ip("link set mat0 up");
        let kept = tun.as_fd().try_clone_to_owned().unwrap();
        drop(tun);
        let socket = UdpSocket::bind("192.0.2.1:0").unwrap();
        socket.send_to(b"waits", "192.0.2.2:9").unwrap();

        let tun = Tun::adopt(kept, &config(true)).unwrap();
        assert_eq!(tun.offload(), offload);
        let mut buffer = vec![0; MAX_FRAME];
        let mut waiting = || tun.recv(&mut buffer).unwrap().map(|r| r.frame.packet);
        let mut found = false;
        while let Some(packet) = waiting() {
            found |= packet.len() == 20 + 8 + b"waits".len();
        }
        assert!(found, "the packet is gone");
    });
}

#[test]
fn what_is_not_the_configured_device_is_not_adopted() {
    in_namespace(async || {
        let refused = |descriptor: OwnedFd, config: &TunConfig, why: &str| {
            let error = Tun::adopt(descriptor, config).unwrap_err();
            assert!(matches!(error, TunError::Foreign { .. }), "{error}");
            assert!(error.to_string().contains(why), "{error}");
        };
        let file = std::fs::File::open("/dev/null").unwrap();
        refused(file.into(), &config(true), "it is none");
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        refused(socket.into(), &config(true), "it is none");

        let tun = Tun::open(&config(true)).unwrap();
        let copy = || tun.as_fd().try_clone_to_owned().unwrap();
        let other = TunConfig {
            name: "mat1".to_owned(),
            ..config(true)
        };
        refused(copy(), &other, "it is \"mat0\"");
        refused(copy(), &config(false), "flags");
        // A refused descriptor is closed, and the device as it was.
        Tun::adopt(copy(), &config(true)).unwrap();
        ip("link del mat0");
        refused(copy(), &config(true), "it is none");
    });
}

#[test]
fn with_offload_checksums_and_segmentation_are_left_to_us() {
    in_namespace(async || {
        let tun = Tun::open(&config(true)).unwrap();
        ip("address add 192.0.2.1/24 dev mat0");
        ip("link set mat0 up");
        let socket = UdpSocket::bind("192.0.2.1:0").unwrap();
        let mut buffer = vec![0; MAX_FRAME];
        // The kernel's own messages on a new link may come first.
        let mut next_udp = || loop {
            wait(&tun);
            let received = tun.recv(&mut buffer).unwrap().unwrap();
            let packet = &buffer[received.frame.packet.clone()];
            if packet[0] >> 4 == 4 && packet[9] == 17 {
                break received.frame;
            }
        };
        socket.send_to(&[7; 100], "192.0.2.2:9").unwrap();
        let frame = next_udp();
        assert!(frame.needs_csum);
        assert_eq!((frame.csum_start, frame.csum_offset), (20, 6));
        assert_eq!(frame.gso, Gso::None);

        // Before Linux 6.2 the kernel cuts such datagrams itself.
        assert!(matches!(tun.offload(), Offload::TcpUdp | Offload::Tcp));
        setsockopt(&socket, sockopt::UdpGsoSegment, &500).unwrap();
        socket.send_to(&[7; 5000], "192.0.2.2:9").unwrap();
        let frame = next_udp();
        match tun.offload() {
            Offload::TcpUdp => {
                assert_eq!(frame.gso, Gso::Udp { size: 500 });
                assert_eq!(frame.packet.len(), 20 + 8 + 5000);
            }
            _ => assert_eq!(frame.packet.len(), 20 + 8 + 500),
        }
    });
}

#[test]
fn a_name_in_use_by_something_else_is_said_so() {
    in_namespace(async || {
        ip("link add mat0 type veth peer name other");
        let error = Tun::open(&config(true)).unwrap_err();
        assert!(matches!(error, TunError::NotATun(_)), "{error}");
        assert!(error.to_string().contains("ip link del mat0"));
    });
}

#[test]
fn a_missing_device_node_is_said_so() {
    let kinds = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    in_namespaces(kinds, async || {
        let none = None::<&str>;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(none, "/", none, private, none).unwrap();
        mount(
            Some("none"),
            "/dev/net",
            Some("tmpfs"),
            MsFlags::empty(),
            none,
        )
        .unwrap();
        let error = Tun::open(&config(true)).unwrap_err();
        assert!(matches!(error, TunError::NoDevice), "{error}");
        assert!(error.to_string().contains("mknod"));
    });
}

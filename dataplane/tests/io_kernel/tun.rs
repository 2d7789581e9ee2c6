//! The TUN device itself.

use std::io::IoSlice;
use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};

use mat_dataplane::config::TunConfig;
use mat_dataplane::frame::{self, GSO_NONE, GSO_UDP_L4, Header, MAX_FRAME};
use mat_dataplane::io::tun::{Offload, Tun, TunError};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::socket::{setsockopt, sockopt};

use crate::netns::{in_namespace, in_namespaces, ip, run};

/// The usual device.
pub fn config(offload: bool) -> TunConfig {
    TunConfig {
        name: "mat0".to_owned(),
        mtu: 1500,
        offload,
        coalesce: true,
        queues: 1,
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

/// Writes a packet that lies in pieces and needs nothing done.
pub fn send(tun: &Tun, packet: &[&[u8]]) {
    let header = frame::Offload::default();
    let header = tun.vnet().then_some(&header.0[..]);
    let pieces = header.into_iter().chain(packet.iter().copied());
    let pieces: Vec<_> = pieces.map(IoSlice::new).collect();
    tun.send(&pieces).unwrap();
}

/// Reads a packet and what its header says, if one is waiting.
pub fn recv<'a>(tun: &Tun, buffer: &'a mut [u8]) -> Option<(Header, &'a [u8])> {
    let length = tun.recv(buffer).unwrap()?;
    match buffer[..length].split_first_chunk() {
        Some((header, packet)) if tun.vnet() => {
            Some((Header::from(&frame::Offload(*header)), packet))
        }
        _ => Some((Header::default(), &buffer[..length])),
    }
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
            // In one piece, and in several.
            for at in [0, 28] {
                let (first, second) = request.split_at(at);
                send(&tun, &[first, second]);
                wait(&tun);
                let (header, packet) = recv(&tun, &mut buffer).unwrap();
                assert_eq!(header.gso_type, GSO_NONE);
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
        let mut found = false;
        while let Some((_, packet)) = recv(&tun, &mut buffer) {
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

/// What the kernel was asked to leave undone outlives the one who asked.
#[test]
fn a_plain_device_leaves_nothing_to_be_done_whatever_it_was_before() {
    in_namespace(async || {
        let undone = || {
            let features = run("ethtool -k mat0");
            let on = |line: &&str| line.starts_with("tx-checksum-ip-generic: on");
            features.lines().map(str::trim).any(|line| on(&line))
        };
        for offload in [true, false, true, false] {
            let tun = Tun::open(&config(offload)).unwrap();
            assert_eq!(undone(), offload);
            drop(tun);
        }
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
            let (header, packet) = recv(&tun, &mut buffer).unwrap();
            if packet[0] >> 4 == 4 && packet[9] == 17 {
                break (header, packet.len());
            }
        };
        socket.send_to(&[7; 100], "192.0.2.2:9").unwrap();
        let (header, _) = next_udp();
        assert!(header.needs_csum());
        assert_eq!((header.csum_start, header.csum_offset), (20, 6));
        assert_eq!(header.gso_type, GSO_NONE);

        // Before Linux 6.2 the kernel cuts such datagrams itself.
        assert!(matches!(tun.offload(), Offload::TcpUdp | Offload::Tcp));
        setsockopt(&socket, sockopt::UdpGsoSegment, &500).unwrap();
        socket.send_to(&[7; 5000], "192.0.2.2:9").unwrap();
        let (header, length) = next_udp();
        match tun.offload() {
            Offload::TcpUdp => {
                assert_eq!((header.gso_type, header.gso_size), (GSO_UDP_L4, 500));
                assert_eq!(length, 20 + 8 + 5000);
            }
            _ => assert_eq!(length, 20 + 8 + 500),
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

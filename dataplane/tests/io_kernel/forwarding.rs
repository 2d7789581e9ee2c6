//! That the kernel really brings the right packets to the TUN and takes them
//! from there, with a rewriter of a few lines in between.
//!
//! ```text
//!  instance i1 ---- v1 (gateway or guest) u0 ---- p0 correspondent
//!  192.0.2.10          LOC = 198.51.100.130       198.51.100.2
//! ```
//! The correspondent is plain: what reaches it comes from a locator, and what it
//! answers goes there. The rewriter stands for it as home address 192.0.2.20.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use etherparse::{NetHeaders, PacketHeaders, TransportHeader};
use mat_dataplane::frame::MAX_FRAME;
use mat_dataplane::io::steering::{Attachment, Claims, Steering};
use mat_dataplane::io::tun::Tun;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;

use crate::netns::{Neighbour, in_namespace, ip, run};
use crate::steering::{POOL, config, links};
use crate::tun::{recv, send};

/// Rewrites source and destination of whole packets, and computes all
/// checksums afresh.
struct Rewriter {
    tun: Arc<Tun>,
    table: Vec<[[IpAddr; 2]; 2]>,
    stop: Arc<AtomicBool>,
    /// Packets that no line of the table is for.
    strange: Arc<AtomicUsize>,
}

impl Rewriter {
    fn run(self) {
        let mut buffer = vec![0; MAX_FRAME];
        while !self.stop.load(Ordering::Relaxed) {
            let mut fds = [PollFd::new(self.tun.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::from(20u16)).unwrap();
            while let Some((_, packet)) = recv(&self.tun, &mut buffer) {
                match rewritten(packet, &self.table) {
                    Some(packet) => send(&self.tun, &[&packet]),
                    None if is_chatter(packet) => {}
                    None => {
                        self.strange.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        }
    }
}

/// The kernel's own multicast listener reports, which go out of every interface.
fn is_chatter(packet: &[u8]) -> bool {
    packet[0] >> 4 == 6 && packet[24] == 0xff
}

fn rewritten(packet: &[u8], table: &[[[IpAddr; 2]; 2]]) -> Option<Vec<u8>> {
    let parsed = PacketHeaders::from_ip_slice(packet).ok()?;
    let (mut net, mut transport) = (parsed.net?, parsed.transport?);
    let payload = parsed.payload.slice();
    let found: [IpAddr; 2] = match &net {
        NetHeaders::Ipv4(v4, _) => [v4.source.into(), v4.destination.into()],
        NetHeaders::Ipv6(v6, _) => [v6.source.into(), v6.destination.into()],
        NetHeaders::Arp(_) => return None,
    };
    let [_, now] = table.iter().find(|[old, _]| *old == found)?;
    let mut out = Vec::new();
    match (&mut net, now) {
        (NetHeaders::Ipv4(v4, _), [IpAddr::V4(from), IpAddr::V4(to)]) => {
            (v4.source, v4.destination) = (from.octets(), to.octets());
            v4.write(&mut out).ok()?;
            transport.update_checksum_ipv4(v4, payload).ok()?;
        }
        (NetHeaders::Ipv6(v6, _), [IpAddr::V6(from), IpAddr::V6(to)]) => {
            (v6.source, v6.destination) = (from.octets(), to.octets());
            v6.write(&mut out).ok()?;
            transport.update_checksum_ipv6(v6, payload).ok()?;
        }
        _ => return None,
    }
    transport.write(&mut out).ok()?;
    out.extend(payload);
    Some(out)
}

/// Runs `test` while the rewriter works; returns how many strange packets came.
async fn while_rewriting(tun: Tun, table: &[[&str; 4]], test: impl AsyncFnOnce()) -> usize {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let strange = Arc::new(AtomicUsize::new(0));
    let rewriter = Rewriter {
        tun: Arc::new(tun),
        table: table
            .iter()
            .map(|[a, b, c, d]| [[ip(a), ip(b)], [ip(c), ip(d)]])
            .collect(),
        stop: stop.clone(),
        strange: strange.clone(),
    };
    let thread = std::thread::spawn(|| rewriter.run());
    test().await;
    stop.store(true, Ordering::Relaxed);
    thread.join().unwrap();
    strange.load(Ordering::Relaxed)
}

const LOC4: &str = "198.51.100.130";
const LOC6: &str = "2001:db8:2::8001";
const PEER4: &str = "198.51.100.2";
const PEER6: &str = "2001:db8:2::2";

/// From own home to peer home, as it is on the uplink; and back.
fn table(loc4: &'static str, loc6: &'static str) -> [[&'static str; 4]; 4] {
    let (home4, home6) = ("192.0.2.10", "2001:db8:1::10");
    let (far4, far6) = ("192.0.2.20", "2001:db8:1::20");
    [
        [home4, far4, loc4, PEER4],
        [PEER4, loc4, far4, home4],
        [home6, far6, loc6, PEER6],
        [PEER6, loc6, far6, home6],
    ]
}

fn outside_with_addresses() -> Neighbour {
    let outside = Neighbour::new();
    links(&outside);
    outside.run(&format!("ip address add {PEER4}/24 dev p0"));
    outside.run(&format!("ip address add {PEER6}/64 dev p0 nodad"));
    outside
}

#[test]
fn a_gateway_carries_its_instance_and_nobody_who_only_claims_to_be_it() {
    in_namespace(async || {
        let temp = tempfile::tempdir().unwrap();
        let outside = outside_with_addresses();
        // The instance's end lies in a namespace of its own.
        let instance = Neighbour::new();
        ip("link del v1");
        instance.link("v1", "i1");
        instance.run("sysctl -qw net.ipv6.conf.i1.addr_gen_mode=1");
        instance.run("ip link set i1 up");
        instance.run("ip address add fe80::10/64 dev i1 nodad");
        for address in [
            "192.0.2.10/32",
            "192.0.2.99/32",
            "2001:db8:1::10/128",
            "2001:db8:1::99/128",
        ] {
            let nodad = if address.contains(':') { " nodad" } else { "" };
            instance.run(&format!("ip address add {address} dev i1{nodad}"));
        }
        instance.run("ip route add 169.254.1.1 dev i1 scope link");
        instance.run("ip route add default via 169.254.1.1");
        instance.run("ip route add default via fe80::1 dev i1");

        let config = config(temp.path(), "gateway", POOL);
        let tun = Tun::open(&config.tun).unwrap();
        let mut steering = Steering::up(&config, tun.name()).await.unwrap();
        for home in ["192.0.2.10", "2001:db8:1::10"] {
            let attachment = Attachment {
                home: home.parse().unwrap(),
                interface: "v1".to_owned(),
                mac: None,
            };
            steering.attach(&attachment).await.unwrap();
        }
        for locator in [LOC4, LOC6] {
            steering
                .add_locator(locator.parse().unwrap())
                .await
                .unwrap();
        }
        let strange = while_rewriting(tun, &table(LOC4, LOC6), async || {
            for prefix in ["192.0.2.", "2001:db8:1::"] {
                let [far, own, other] = ["20", "10", "99"].map(|host| format!("{prefix}{host}"));
                let ping = instance.run(&format!("ping -c 3 -i 0.05 -W 5 -I {own} {far}"));
                assert!(ping.contains(" 0% packet loss"), "{ping}");
                let ping = instance.try_run(&format!("ping -c 2 -i 0.05 -W 0.3 -I {other} {far}"));
                assert!(ping.contains("100% packet loss"), "{ping}");
            }
            // The gateway itself is reached whatever the rules say.
            instance.run("ping -c 1 -W 5 169.254.1.1");
            instance.run("ping -c 1 -W 5 -I i1 fe80::1");
        })
        .await;
        assert_eq!(strange, 0, "what has another source must not reach the TUN");
        // The correspondent found the locators by asking, not by a route.
        let entry = outside.run(&format!("ip neigh show {LOC4}"));
        assert!(entry.contains("lladdr"), "{entry}");
        steering.down(&Claims::default()).await.unwrap();
    });
}

#[test]
fn a_guest_reaches_its_peer_from_its_home_through_a_dedicated_locator() {
    in_namespace(async || {
        let temp = tempfile::tempdir().unwrap();
        let _outside = outside_with_addresses();
        let config = config(temp.path(), "guest", POOL);
        let tun = Tun::open(&config.tun).unwrap();
        let mut steering = Steering::up(&config, tun.name()).await.unwrap();
        for home in ["192.0.2.10", "2001:db8:1::10"] {
            steering
                .add_guest_home(home.parse().unwrap())
                .await
                .unwrap();
        }
        for locator in [LOC4, LOC6] {
            steering
                .add_locator(locator.parse().unwrap())
                .await
                .unwrap();
        }
        let strange = while_rewriting(tun, &table(LOC4, LOC6), async || {
            for far in ["192.0.2.20", "2001:db8:1::20"] {
                let ping = run(&format!("ping -c 3 -i 0.05 -W 5 {far}"));
                assert!(ping.contains(" 0% packet loss"), "{ping}");
            }
        })
        .await;
        assert_eq!(strange, 0);
        steering.down(&Claims::default()).await.unwrap();
    });
}

#[test]
fn an_exclusive_locator_stays_the_hosts_but_for_its_pairs() {
    in_namespace(async || {
        let temp = tempfile::tempdir().unwrap();
        let outside = outside_with_addresses();
        outside.run("ip address add 198.51.100.3/24 dev p0");
        let config = config(temp.path(), "guest", "exclusive = true");
        let tun = Tun::open(&config.tun).unwrap();
        let mut steering = Steering::up(&config, tun.name()).await.unwrap();
        for home in ["192.0.2.10", "2001:db8:1::10"] {
            steering
                .add_guest_home(home.parse().unwrap())
                .await
                .unwrap();
        }
        let (own4, own6) = ("198.51.100.1", "2001:db8:2::1");
        let listen = |ip: &str| {
            let socket = UdpSocket::bind(SocketAddr::new(ip.parse().unwrap(), config.control_port));
            let socket = socket.unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            socket
        };
        let heard = |socket: &UdpSocket| {
            let mut buffer = [0; 16];
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"hello\n");
            from.ip().to_string()
        };
        let (outer, inner) = (listen(own4), listen("192.0.2.10"));
        outside.run(&format!("ping -c 1 -W 5 {own4}"));
        // The first message of the control exchange finds no pair yet.
        let send = format!("echo hello > /dev/udp/{own4}/{}", config.control_port);
        outside.run_script(&send);
        assert_eq!(heard(&outer), PEER4);
        for (peer, own) in [(PEER4, own4), (PEER6, own6)] {
            let (peer, own) = (peer.parse().unwrap(), own.parse().unwrap());
            steering.steer_pair(peer, own).await.unwrap();
        }
        let strange = while_rewriting(tun, &table(own4, own6), async || {
            for far in ["192.0.2.20", "2001:db8:1::20"] {
                let ping = run(&format!("ping -c 3 -i 0.05 -W 5 {far}"));
                assert!(ping.contains(" 0% packet loss"), "{ping}");
            }
            // Somebody else; and the control exchange with the peer itself, which
            // keeps its place among the pair's packets.
            outside.run(&format!("ping -c 1 -W 5 -I 198.51.100.3 {own4}"));
            outside.run_script(&send);
            assert_eq!(heard(&inner), "192.0.2.20");
        })
        .await;
        assert_eq!(strange, 0);
        // The pair ends, and the host has its address to itself again.
        steering
            .unsteer_pair(PEER4.parse().unwrap(), own4.parse().unwrap())
            .await
            .unwrap();
        outside.run(&format!("ping -c 1 -W 5 {own4}"));
        steering.down(&Claims::default()).await.unwrap();
    });
}

#[test]
fn errors_about_packets_of_a_pair_reach_the_tun() {
    in_namespace(async || {
        let temp = tempfile::tempdir().unwrap();
        let outside = outside_with_addresses();
        let config = config(temp.path(), "guest", "exclusive = true");
        let tun = Tun::open(&config.tun).unwrap();
        let mut steering = Steering::up(&config, tun.name()).await.unwrap();
        // The peers are behind the correspondent's host, which has no route.
        let pairs = [
            ("203.0.113.9", "198.51.100.1", PEER4),
            ("2001:db8:3::9", "2001:db8:2::1", PEER6),
        ];
        outside.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        let mut buffer = vec![0; MAX_FRAME];
        for (peer, own, router) in pairs {
            ip(&format!("route add {peer} via {router}"));
            let pair = (peer.parse().unwrap(), own.parse().unwrap());
            steering.steer_pair(pair.0, pair.1).await.unwrap();
            let socket = UdpSocket::bind(SocketAddr::new(pair.1.ip(), 0)).unwrap();
            socket
                .send_to(b"x", SocketAddr::new(pair.0.ip(), 9))
                .unwrap();
            crate::tun::wait(&tun);
            let (_, packet) = recv(&tun, &mut buffer).unwrap();
            let packet = PacketHeaders::from_ip_slice(packet).unwrap();
            assert!(matches!(
                packet.transport,
                Some(TransportHeader::Icmpv4(_) | TransportHeader::Icmpv6(_))
            ));
        }
        steering.down(&Claims::default()).await.unwrap();
    });
}

//! Packets nobody should send: counted by cause, and traffic goes on.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use mat_netns::Host;
use mat_netns::testbed::Testbed;
use socket2::{Domain, Protocol, Socket, Type};

use crate::common::scene::Scene;
use crate::common::{api, causes, sockets};

/// Reproducible noise (xorshift).
struct Noise(u64);

impl Noise {
    fn octets(&mut self, length: usize) -> Vec<u8> {
        let mut next = || {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 32) as u8
        };
        (0..length).map(|_| next()).collect()
    }
}

/// One IP packet with a header of our own; in IPv4 the kernel adds its checksum.
fn packet(src: IpAddr, dst: IpAddr, protocol: u8, fragment: u16, body: &[u8]) -> Vec<u8> {
    let [high, low] = fragment.to_be_bytes();
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let length = (20 + body.len() as u16).to_be_bytes();
            let head = [
                0x45, 0, length[0], length[1], 7, 7, high, low, 64, protocol, 0, 0,
            ];
            [&head[..], &src.octets(), &dst.octets(), body].concat()
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let length = (body.len() as u16).to_be_bytes();
            let head = [0x60, 0, 0, 0, length[0], length[1], protocol, 64];
            [&head[..], &src.octets(), &dst.octets(), body].concat()
        }
        _ => unreachable!("both addresses are of one family"),
    }
}

fn send(host: &Host, dst: IpAddr, packets: &[Vec<u8>]) -> Result<()> {
    let domain = if dst.is_ipv4() {
        Domain::IPV4
    } else {
        Domain::IPV6
    };
    let raw = Some(Protocol::from(libc::IPPROTO_RAW));
    let socket = host.enter(|| Socket::new(domain, Type::RAW, raw))??;
    for packet in packets {
        // Some noise is a packet that the sender's own kernel refuses.
        let _ = socket.send_to(packet, &SocketAddr::new(dst, 0).into());
    }
    Ok(())
}

/// How every control message begins: magic and version.
const HEAD: &[u8; 5] = b"MAT\n\x01";

const TCP: u8 = 6;
const AH: u8 = 51;
const MORE_FRAGMENTS: u16 = 0x2000;

/// Everything that is wrong in a way of its own, and the cause it is counted under.
fn faulty(src: IpAddr, dst: IpAddr) -> Vec<(Vec<u8>, &'static str)> {
    let ah = [&[TCP, 4, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1][..], &[0; 32]].concat();
    let common = [
        (packet(src, dst, TCP, 0, &[0; 3]), "short_transport"),
        (packet(src, dst, AH, 0, &ah), "authentication_header"),
    ];
    let own = if src.is_ipv4() {
        vec![(
            packet(src, dst, TCP, MORE_FRAGMENTS, &[0; 8]),
            "short_first_fragment",
        )]
    } else {
        vec![
            // A routing header of unknown type with segments left, then TCP.
            (
                packet(
                    src,
                    dst,
                    43,
                    0,
                    &[[6, 0, 77, 1, 0, 0, 0, 0], [0; 8], [0; 8], [0; 8]].concat(),
                ),
                "routing_header_type",
            ),
            // Extension headers without end.
            (
                packet(src, dst, 60, 0, &[60, 0, 1, 4, 0, 0, 0, 0].repeat(60)),
                "too_many_extension_headers",
            ),
            (
                packet(
                    src,
                    dst,
                    44,
                    0,
                    &[[6, 0, 0, 1, 0, 0, 0, 1], [0; 8]].concat(),
                ),
                "short_first_fragment",
            ),
        ]
    };
    common.into_iter().chain(own).collect()
}

fn noise(src: IpAddr, dst: IpAddr) -> Vec<Vec<u8>> {
    let mut noise = Noise(0x2545_f491_4f6c_dd1d);
    let mut packets = Vec::new();
    for length in (0..=1200).step_by(7) {
        for protocol in [0, 1, 6, 17, 33, 43, 44, 50, 51, 58, 60, 132, 136, 255] {
            packets.push(packet(src, dst, protocol, 0, &noise.octets(length % 400)));
        }
    }
    packets
}

fn all_is_well(bed: &Testbed, scene_of: (&Host, &str, &Host, &str)) -> Result<()> {
    let (one, one_home, two, two_home) = scene_of;
    for site in &bed.sites {
        assert!(
            site.matd.is_running(),
            "matd at {} has ended",
            site.spec.name
        );
        assert!(
            !site.matd.log().contains("panicked"),
            "{}",
            site.matd.log_tail()
        );
    }
    sockets::transfer(one, two, two_home, 500_000)?;
    sockets::transfer(two, one, one_home, 500_000)
}

#[test]
fn malformed_packets_are_counted_by_cause_and_traffic_goes_on() -> Result<()> {
    let scene = Scene::new()?;
    let families = scene.families().into_iter().zip([
        ("203.0.113.80", "198.51.100.33"),
        ("2001:db8:80::80", "2001:db8:a::100"),
    ]);
    for (homes, (stranger, locator)) in families {
        let people = (&scene.web.host, homes.web, &scene.user.host, homes.user);
        all_is_well(&scene.bed, people)?;
        // From the instance, and from outside to its locator.
        let (web, user) = (homes.web.parse()?, homes.user.parse()?);
        let (stranger, locator) = (stranger.parse()?, locator.parse()?);
        for (host, src, dst) in [
            (&scene.web.host, web, user),
            (&scene.bed.plain, stranger, locator),
        ] {
            for (packet, cause) in faulty(src, dst) {
                let before = causes::counter(scene.socket("a"), cause)?;
                send(host, dst, &[packet])?;
                causes::counted(scene.socket("a"), cause, before + 1)?;
            }
            send(host, dst, &noise(src, dst))?;
        }
        all_is_well(&scene.bed, people)?;
    }
    scene.end()
}

#[test]
fn noise_on_the_control_port_is_counted_and_traffic_goes_on() -> Result<()> {
    let scene = Scene::new()?;
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    for (homes, locator) in scene
        .families()
        .into_iter()
        .zip(["198.51.100.33", "2001:db8:a::100"])
    {
        let people = (&scene.web.host, homes.web, &scene.user.host, homes.user);
        all_is_well(&scene.bed, people)?;
        let before = api::get(scene.socket("a"), "status")?;
        let port = SocketAddr::new(locator.parse()?, 6283);
        let socket = sockets::udp(&scene.bed.plain, port)?;
        let mut sent = [0; 3];
        for length in 0..600 {
            let pure = noise.octets(length);
            // The magic and the version open further doors.
            let named = [&HEAD[..4], &pure].concat();
            let spoken = [&HEAD[..], &pure].concat();
            for (n, octets) in [pure, named, spoken].iter().enumerate() {
                socket.send(octets)?;
                sent[n] += 1;
            }
        }
        let after = || api::get(scene.socket("a"), "status");
        let causes = ["control_magic", "control_version", "control_malformed"];
        let count = |status: &serde_json::Value, cause: &str| {
            status["counters"][cause].as_u64().unwrap_or(0)
        };
        mat_netns::wait_until(
            std::time::Duration::from_secs(10),
            "all of it to be counted",
            || {
                let after = after().ok()?;
                let counted = causes.map(|cause| count(&after, cause) - count(&before, cause));
                (counted.iter().sum::<u64>() >= sent.iter().sum::<u64>() * 9 / 10).then_some(())
            },
        )?;
        let after = after()?;
        for cause in causes {
            assert!(count(&after, cause) > count(&before, cause), "no {cause}");
        }
        all_is_well(&scene.bed, people)?;
    }
    scene.end()
}

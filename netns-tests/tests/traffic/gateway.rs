//! Between two instances behind gateways at different sites.

use std::io::ErrorKind;

use anyhow::{Context, Result};
use mat_netns::Host;
use mat_netns::testbed::Options;

use crate::common::scene::Scene;
use crate::common::{api, counters, datagrams, iperf, sockets};

const MB: u64 = 1_000_000;

fn without_offloads() -> Result<Options> {
    Ok(Options {
        offloads: false,
        ..Options::new()?
    })
}

/// iperf3 in both directions and families, then bytes that are compared one by one.
fn tcp_works(scene: &Scene, megabytes: u64) -> Result<()> {
    let (web, user) = (&scene.web.host, &scene.user.host);
    let server = iperf::serve(web)?;
    for homes in scene.families() {
        for direction in ["", "-R"] {
            let moved = iperf::tcp(user, homes.web, &format!("-n {megabytes}M {direction}"))?;
            // What is still on its way when the sender has done its part is not counted.
            assert!(
                moved > megabytes * MB / 2,
                "{} {direction}: {moved} bytes",
                homes.web
            );
        }
        sockets::transfer(user, web, homes.web, 2_000_000)?;
        sockets::transfer(web, user, homes.user, 2_000_000)?;
    }
    server.kill()?;
    no_checksum_errors(&[web, user])
}

fn no_checksum_errors(hosts: &[&Host]) -> Result<()> {
    for host in hosts {
        assert_eq!(counters::checksum_errors(host)?, 0, "at {}", host.name());
    }
    Ok(())
}

/// Mean size of the packets `site` has sent to its only peer, from the forwarder's own books.
fn mean_packet(scene: &Scene, site: &str) -> Result<f64> {
    let status = api::get(scene.socket(site), "status")?;
    let contexts = status["contexts"].as_array().context("contexts")?;
    let sum = |key: &str| -> f64 {
        contexts
            .iter()
            .filter_map(|context| context["sent"][key].as_f64())
            .sum()
    };
    Ok(sum("bytes") / sum("packets"))
}

#[test]
fn pings_of_every_size_are_answered_from_the_home_address() -> Result<()> {
    let scene = Scene::new()?;
    for homes in scene.families() {
        for (host, peer) in [(&scene.user.host, homes.web), (&scene.web.host, homes.user)] {
            for size in [56, 1472, 8000] {
                let said = host.run(format!("ping -n -c 3 -i 0.02 -W 2 -s {size} {peer}"))?;
                assert!(
                    said.contains("3 received"),
                    "{size} bytes to {peer}:\n{said}"
                );
                let from = format!("bytes from {peer}");
                assert_eq!(said.matches(&from).count(), 3, "{said}");
            }
        }
    }
    no_checksum_errors(&[&scene.web.host, &scene.user.host])?;
    scene.end()
}

#[test]
fn tcp_is_right_where_every_checksum_is_verified() -> Result<()> {
    let scene = Scene::with(without_offloads()?)?;
    tcp_works(&scene, 20)?;
    let mean = mean_packet(&scene, "c")?;
    assert!(mean <= 1500.0, "{mean} bytes a packet: offloads are on");
    scene.end()
}

#[test]
fn a_wrong_checksum_would_be_noticed() -> Result<()> {
    let scene = Scene::with(without_offloads()?)?;
    let server = iperf::serve(&scene.web.host)?;
    scene.bed.router.nft(
        "table inet spoil {
           chain forward {
             type filter hook forward priority 0
             tcp dport 5201 tcp checksum set 0xbad
           }
         }",
    )?;
    let homes = scene.families()[0];
    let refused = scene
        .user
        .host
        .exec(format!("iperf3 -c {} --connect-timeout 1500", homes.web))?;
    assert!(!refused.status.success(), "connected with a wrong checksum");
    assert!(counters::checksum_errors(&scene.web.host)? > 0);
    server.kill()?;
    scene.end()
}

#[test]
fn tcp_is_right_in_super_packets_with_partial_checksums() -> Result<()> {
    let scene = Scene::new()?;
    tcp_works(&scene, 200)?;
    let mean = mean_packet(&scene, "c")?;
    assert!(mean > 3000.0, "{mean} bytes a packet: no super-packets");
    scene.end()
}

#[test]
fn tcp_is_right_through_a_tun_without_offloads() -> Result<()> {
    let extra = "[tun]\noffload = false\n".to_owned();
    let scene = Scene::with(Options {
        extra,
        ..Options::new()?
    })?;
    tcp_works(&scene, 10)?;
    scene.end()
}

#[test]
fn no_datagram_is_lost_at_a_modest_rate() -> Result<()> {
    for options in [Options::new()?, without_offloads()?] {
        let scene = Scene::with(options)?;
        let server = iperf::serve(&scene.web.host)?;
        for homes in scene.families() {
            for direction in ["", "-R"] {
                let words = format!("-b 10M -l 1200 -t 1 {direction}");
                let (sent, lost) = iperf::udp(&scene.user.host, homes.web, &words)?;
                assert!(
                    sent > 900,
                    "{sent} datagrams sent to {} {direction}",
                    homes.web
                );
                assert_eq!(lost, 0, "of {sent} to {} {direction}", homes.web);
            }
        }
        server.kill()?;
        no_checksum_errors(&[&scene.web.host, &scene.user.host])?;
        scene.end()?;
    }
    Ok(())
}

/// The first of them meet a cold forwarder: all pieces of a datagram have to be held together.
#[test]
fn datagrams_in_fragments_arrive_intact() -> Result<()> {
    for options in [Options::new()?, without_offloads()?] {
        let scene = Scene::with(options)?;
        let (web, user) = (&scene.web.host, &scene.user.host);
        let all: Vec<u32> = (0..20).collect();
        for homes in scene.families() {
            assert_eq!(datagrams::deliver(user, web, homes.web, 20, 8192)?, all);
            assert_eq!(datagrams::deliver(web, user, homes.user, 20, 8192)?, all);
        }
        no_checksum_errors(&[web, user])?;
        scene.end()?;
    }
    Ok(())
}

#[test]
fn traceroute_names_every_hop_and_ends_at_the_home_address() -> Result<()> {
    let scene = Scene::new()?;
    let ways = [
        (
            scene.families()[0].web,
            "169.254.1.1",
            "198.51.100.129",
            "198.51.100.2",
        ),
        (
            scene.families()[1].web,
            "",
            "2001:db8:c::1",
            "2001:db8:a::2",
        ),
    ];
    for (home, first, router, gateway) in ways {
        for method in ["", "-I", "-T -p 9"] {
            let said = scene
                .user
                .host
                .run(format!("traceroute -n -q 2 -w 1 {method} {home}"))?;
            let hops: Vec<&str> = said.lines().skip(1).collect();
            assert!(!said.contains('*'), "a probe without answer:\n{said}");
            assert!(
                hops[0].contains(first),
                "{first} is not the first hop:\n{said}"
            );
            assert!(said.contains(router), "{router} is missing:\n{said}");
            assert!(said.contains(gateway), "{gateway} is missing:\n{said}");
            assert_eq!(hops.len(), 6, "{said}");
            assert!(hops[5].contains(home), "it ends elsewhere:\n{said}");
        }
    }
    scene.end()
}

#[test]
fn tracepath_reaches_the_home_address_and_finds_the_mtu() -> Result<()> {
    let scene = Scene::new()?;
    for homes in scene.families() {
        let said = scene.user.host.run(format!("tracepath -n {}", homes.web))?;
        assert!(said.contains("reached"), "{said}");
        assert!(said.contains("pmtu 1500 hops 6 back 6"), "{said}");
    }
    scene.end()
}

#[test]
fn a_closed_port_refuses_at_once() -> Result<()> {
    let scene = Scene::new()?;
    for homes in scene.families() {
        let closed = format!("{}:9", homes.web).parse();
        let closed = closed.or_else(|_| format!("[{}]:9", homes.web).parse())?;
        let socket = sockets::udp(&scene.user.host, closed)?;
        socket.send(b"anybody there?")?;
        let error = socket.recv(&mut [0; 100]).unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::ConnectionRefused,
            "UDP to {closed}: {error}"
        );
        let error = sockets::connect(&scene.user.host, closed).unwrap_err();
        let error = error.downcast::<std::io::Error>()?;
        assert_eq!(
            error.kind(),
            ErrorKind::ConnectionRefused,
            "TCP to {closed}: {error}"
        );
    }
    scene.end()
}

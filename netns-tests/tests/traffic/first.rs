//! First packets, and what never gets further than the first forwarder.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use mat_netns::testbed::Options;

use crate::common::capture::watch;
use crate::common::scene::{Homes, Scene, plug_in};
use crate::common::{causes, counters, datagrams, sockets};

/// Round trip between sites: a look-up, an OPEN and a handshake are three of them.
const RTT_MS: f64 = 20.0;

fn far_apart() -> Result<Scene> {
    Scene::with(Options {
        rtt_ms: RTT_MS,
        ..Options::new()?
    })
}

/// The kernel would send the SYN again after a second.
#[test]
fn the_first_syn_to_a_cold_peer_is_held_not_lost() -> Result<()> {
    let scene = far_apart()?;
    let user = &scene.user.host;
    for Homes { web, .. } in scene.families() {
        let listener = sockets::listen(&scene.web.host, web)?;
        let (stream, cold) = sockets::connect(user, listener.local_addr()?)?;
        let (accepted, _) = listener.accept()?;
        let (_, warm) = sockets::connect(user, listener.local_addr()?)?;
        assert!(
            cold < Duration::from_millis(500),
            "{web}: cold {cold:?}, warm {warm:?}"
        );
        assert!(warm < Duration::from_millis(100), "{web}: warm {warm:?}");
        assert_eq!(
            counters::counted(user, "RetransSegs")?,
            0,
            "{web}: a segment was sent again"
        );
        sockets::carry(&stream, &accepted, 100_000)?;
    }
    scene.end()
}

#[test]
fn the_first_datagrams_of_a_cold_flow_all_arrive_in_order() -> Result<()> {
    let scene = far_apart()?;
    let (web, user) = (&scene.web.host, &scene.user.host);
    let all: Vec<u32> = (0..100).collect();
    for homes in scene.families() {
        assert_eq!(
            datagrams::deliver(user, web, homes.web, 100, 1000)?,
            all,
            "{}",
            homes.web
        );
    }
    scene.end()
}

#[test]
fn both_ends_may_begin_at_the_same_moment() -> Result<()> {
    let scene = far_apart()?;
    let (web, user) = (&scene.web.host, &scene.user.host);
    let all: Vec<u32> = (0..50).collect();
    for homes in scene.families() {
        let (there, back) = std::thread::scope(|scope| {
            let there = scope.spawn(|| datagrams::deliver(user, web, homes.web, 50, 1000));
            let back = scope.spawn(|| datagrams::deliver(web, user, homes.user, 50, 1000));
            (
                there.join().expect("no panic"),
                back.join().expect("no panic"),
            )
        });
        assert_eq!(there?, all, "to {}", homes.web);
        assert_eq!(back?, all, "to {}", homes.user);
    }
    scene.end()
}

#[test]
fn a_home_without_binding_is_unreachable_at_once() -> Result<()> {
    let scene = Scene::new()?;
    for nobody in ["192.0.2.99", "2001:db8:1::99"] {
        let start = Instant::now();
        let error = sockets::connect(&scene.user.host, SocketAddr::new(nobody.parse()?, 80));
        let error = error.unwrap_err().downcast::<io::Error>()?;
        assert_eq!(
            error.kind(),
            io::ErrorKind::HostUnreachable,
            "{nobody}: {error}"
        );
        let took = start.elapsed();
        assert!(
            took < Duration::from_secs(1),
            "{nobody}: only after {took:?}"
        );
    }
    assert!(causes::counter(scene.socket("c"), "no_binding")? >= 2);
    // Once it is there, it is found: "no" is believed for a moment only.
    let late = plug_in(&scene.bed, "late", 99, "a")?;
    for home in [&late.home, &late.home6] {
        mat_netns::wait_until(
            Duration::from_secs(5),
            format!("{home} to be found"),
            || scene.user.host.pings(home).ok()?.then_some(()),
        )?;
    }
    scene.end()
}

/// Whoever uses it would lose the connection at the next move, or meet somebody else there.
#[test]
fn a_locator_of_a_mobile_peer_cannot_be_addressed_directly() -> Result<()> {
    let scene = Scene::new()?;
    let shop = plug_in(&scene.bed, "shop", 11, "a")?;
    // From another site, from the same site, and one's own.
    let attempts = [(&scene.user, "c"), (&shop, "a"), (&scene.web, "a")];
    for (instance, site) in attempts {
        for (homes, locator) in scene
            .families()
            .into_iter()
            .zip(["198.51.100.33", "2001:db8:a::100"])
        {
            let listener = sockets::listen(&scene.web.host, homes.web)?;
            let door = SocketAddr::new(locator.parse()?, listener.local_addr()?.port());
            let before = causes::counter(scene.socket(site), "to_mobile_locator")?;
            let start = Instant::now();
            let error = sockets::connect(&instance.host, door).err();
            assert!(error.is_some(), "{} is connected to {door}", instance.name);
            assert!(
                start.elapsed() < Duration::from_secs(1),
                "{}: {error:?}",
                instance.name
            );
            assert!(causes::counter(scene.socket(site), "to_mobile_locator")? > before);
        }
    }
    scene.end()
}

#[test]
fn the_control_port_is_reserved() -> Result<()> {
    let scene = Scene::new()?;
    let web = &scene.web.host;
    for homes in scene.families() {
        let port = |ip: &str| ip.parse().map(|ip| SocketAddr::new(ip, 6283));
        let receiver =
            web.enter(|| std::net::UdpSocket::bind(port(homes.web).expect("fixed")))??;
        receiver.set_read_timeout(Some(Duration::from_millis(300)))?;
        // From a neighbour across sites, and from one that is not mobile.
        let before = causes::counter(scene.socket("c"), "control_port_reserved")?;
        sockets::udp(&scene.user.host, port(homes.web)?)?.send(b"intruder")?;
        causes::counted(scene.socket("c"), "control_port_reserved", before + 1)?;
        let locator = if homes.web.contains(':') {
            "2001:db8:a::100"
        } else {
            "198.51.100.33"
        };
        let before = causes::counter(scene.socket("a"), "control_magic")?;
        sockets::udp(&scene.bed.plain, port(locator)?)?.send(b"intruder")?;
        causes::counted(scene.socket("a"), "control_magic", before + 1)?;
        let heard = receiver.recv(&mut [0; 100]);
        assert!(heard.is_err(), "the instance heard {heard:?}");
        // Nor may it answer from there, or speak to the forwarder itself.
        let before = causes::counter(scene.socket("a"), "control_port_reserved")?;
        receiver.send_to(b"answer", port(homes.user)?)?;
        receiver.send_to(b"answer", SocketAddr::new(homes.user.parse()?, 9))?;
        causes::counted(scene.socket("a"), "control_port_reserved", before + 2)?;
    }
    scene.end()
}

/// From a host that is not mobile, and from the router: whoever can send such packets.
#[test]
fn a_forged_source_reaches_nobody() -> Result<()> {
    let scene = Scene::new()?;
    let plain = &scene.bed.plain;
    let capture = watch(&scene.web.host, "eth0")?;
    // A mobile peer's home address, a home address of nobody, the instance's own, and a locator
    // without context: the last is held in case its forwarder can explain itself.
    let forged = [
        ("192.0.2.20", "198.51.100.33", "home_address_outside"),
        ("192.0.2.99", "198.51.100.33", "home_address_outside"),
        ("192.0.2.10", "198.51.100.33", "to_mobile_locator"),
        ("198.51.100.99", "198.51.100.33", "stranger"),
        ("2001:db8:1::20", "2001:db8:a::100", "home_address_outside"),
        ("2001:db8:1::10", "2001:db8:a::100", "to_mobile_locator"),
        ("2001:db8:b::105", "2001:db8:a::100", "stranger"),
    ];
    for (source, locator, cause) in forged {
        let before = causes::counter(scene.socket("a"), cause)?;
        let add = if source.contains(':') {
            "/128 dev lo nodad"
        } else {
            "/32 dev lo"
        };
        plain.ip(&format!("addr add {source}{add}"))?;
        plain.exec(format!("ping -n -c 1 -W 0.1 -s 333 -I {source} {locator}"))?;
        causes::counted(scene.socket("a"), cause, before + 1)?;
    }
    plain.run("ping -n -c 1 -s 444 -I 203.0.113.80 198.51.100.33")?;
    capture.wait_for_log("length 452", Duration::from_secs(5))?;
    assert!(!capture.log().contains("length 341"), "{}", capture.log());
    scene.end()
}

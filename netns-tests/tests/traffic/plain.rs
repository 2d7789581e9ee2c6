//! Peers that are not mobile, and what `explain` says about every kind of pair.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::common::route::learned;
use crate::common::scene::Scene;
use crate::common::{api, datagrams, iperf, sockets};

/// The host that is not mobile, in both families, and `web`'s locators.
const PLAIN: [(&str, &str); 2] = [
    ("203.0.113.80", "198.51.100.33"),
    ("2001:db8:80::80", "2001:db8:a::100"),
];

#[test]
fn a_peer_that_is_not_mobile_sees_the_locator() -> Result<()> {
    let scene = Scene::new()?;
    let (web, plain) = (&scene.web.host, &scene.bed.plain);
    for (address, locator) in PLAIN {
        let listener = sockets::listen(plain, address)?;
        let (stream, _) = sockets::connect(web, listener.local_addr()?)?;
        let (accepted, from) = listener.accept()?;
        assert_eq!(from.ip().to_string(), locator);
        sockets::carry(&stream, &accepted, 3_000_000)?;

        let here = SocketAddr::new(address.parse()?, 0);
        let receiver = plain.enter(|| UdpSocket::bind(here))??;
        receiver.set_read_timeout(Some(Duration::from_secs(5)))?;
        let socket = sockets::udp(web, receiver.local_addr()?)?;
        socket.send(b"question")?;
        let mut buffer = [0; 100];
        let (length, from) = receiver.recv_from(&mut buffer)?;
        assert_eq!(&buffer[..length], b"question");
        assert_eq!(from.ip().to_string(), locator);
        receiver.send_to(b"answer", from)?;
        let length = socket.recv(&mut buffer)?;
        assert_eq!(&buffer[..length], b"answer");
        assert_eq!(
            datagrams::deliver(web, plain, address, 5, 8192)?,
            [0, 1, 2, 3, 4]
        );
    }
    scene.end()
}

#[test]
fn a_peer_that_is_not_mobile_reaches_the_locator() -> Result<()> {
    let scene = Scene::new()?;
    let (web, plain) = (&scene.web.host, &scene.bed.plain);
    for (homes, (address, locator)) in scene.families().into_iter().zip(PLAIN) {
        let listener = sockets::listen(web, homes.web)?;
        let door = SocketAddr::new(locator.parse()?, listener.local_addr()?.port());
        let (stream, _) = sockets::connect(plain, door)?;
        let (accepted, from) = listener.accept()?;
        assert_eq!(from.ip().to_string(), address);
        sockets::carry(&stream, &accepted, 3_000_000)?;
        let server = iperf::serve(web)?;
        assert!(iperf::tcp(plain, locator, "-n 20M")? > 10_000_000);
        assert!(iperf::tcp(plain, locator, "-n 20M -R")? > 10_000_000);
        server.kill()?;
    }
    scene.end()
}

#[test]
fn errors_and_path_mtu_come_back_from_a_peer_that_is_not_mobile() -> Result<()> {
    let scene = Scene::new()?;
    let (web, plain) = (&scene.web.host, &scene.bed.plain);
    scene.bed.router.ip("link set dev p mtu 1400")?;
    for (address, _) in PLAIN {
        sockets::transfer(web, plain, address, 2_000_000)?;
        learned(web, address, 1400)?;
        let closed = SocketAddr::new(address.parse()?, 9);
        let socket = sockets::udp(web, closed)?;
        socket.send(b"anybody there?")?;
        let error = socket.recv(&mut [0; 100]).unwrap_err();
        assert_eq!(
            error.kind(),
            std::io::ErrorKind::ConnectionRefused,
            "{error}"
        );
        let said = web.run(format!("traceroute -n -q 1 -w 1 {address}"))?;
        assert!(
            !said.contains('*') && said.trim_end().lines().count() == 5,
            "{said}"
        );
    }
    scene.end()
}

#[test]
fn explain_gives_the_verdict_on_every_kind_of_pair() -> Result<()> {
    let scene = Scene::new()?;
    for homes in scene.families() {
        assert!(scene.user.host.pings(homes.web)?);
    }
    let (web, user) = (&scene.web, &scene.user);
    let expected = [
        (
            web.home.as_str(),
            user.home.as_str(),
            "native",
            "the context is open",
        ),
        (
            "198.51.100.161",
            "198.51.100.33",
            "native",
            "comes from 192.0.2.20",
        ),
        (&web.home6, &user.home6, "native", "the context is open"),
        (
            &web.home,
            "203.0.113.80",
            "pass",
            "is not mobile: sent from 198.51.100.33",
        ),
        (
            &web.home6,
            "2001:db8:80::80",
            "pass",
            "is not mobile: sent from 2001:db8:a::100",
        ),
        (
            "203.0.113.80",
            "198.51.100.33",
            "pass",
            "goes to 192.0.2.10",
        ),
        ("192.0.2.99", "198.51.100.33", "drop", "is a home address"),
        (&web.home, "192.0.2.99", "hold", "would be looked up first"),
        (
            &web.home,
            "198.51.100.161",
            "drop",
            "is a locator; use the home address",
        ),
        (
            &web.home,
            "198.51.100.33",
            "drop",
            "is a locator; use the home address",
        ),
        (
            "192.0.2.99",
            "203.0.113.80",
            "drop",
            "neither is 192.0.2.99 attached here",
        ),
    ];
    for (src, dst, verdict, reason) in expected {
        let (said, why) = explain(scene.socket("a"), src, dst)?;
        assert_eq!(said, verdict, "{src} to {dst}: {why}");
        assert!(why.contains(reason), "{src} to {dst}: {why}");
        let printed = scene.bed.matctl("a", &["explain", src, dst])?;
        assert!(
            printed.contains(verdict) && printed.contains(reason),
            "{printed}"
        );
    }
    scene.end()
}

/// The verdict on packets from `src` to `dst`, and its reason.
pub fn explain(socket: &Path, src: &str, dst: &str) -> Result<(String, String)> {
    let answer = api::get(socket, &format!("explain?src={src}&dst={dst}"))?;
    let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
    Ok((text("verdict"), text("reason")))
}

//! Path-MTU discovery: where a packet is too big, whoever notices says so to an address that the
//! sender never used; without the right translation of that message nothing moves any more.

use anyhow::Result;
use mat_netns::testbed::Options;

use crate::common::route::{forget, learned};
use crate::common::scene::Scene;
use crate::common::sockets;

const BYTES: usize = 3_000_000;

/// Both ways and families. What is small is the link between the router and site a: towards
/// `web` the router notices, towards `user` the gateway's own kernel.
fn crosses_a_link_of(mtu: u32, options: Options) -> Result<()> {
    let scene = Scene::with(options)?;
    scene.bed.router.ip(&format!("link set dev a mtu {mtu}"))?;
    scene
        .bed
        .site("a")
        .host
        .ip(&format!("link set dev eth0 mtu {mtu}"))?;
    let (web, user) = (&scene.web.host, &scene.user.host);
    for homes in scene.families() {
        sockets::transfer(user, web, homes.web, BYTES)?;
        learned(user, homes.web, mtu)?;
        // Or it would tell `web` at once how much it can take.
        forget(user)?;
        sockets::transfer(web, user, homes.user, BYTES)?;
        learned(web, homes.user, mtu)?;
    }
    scene.end()
}

#[test]
fn tcp_crosses_a_link_of_1400_bytes() -> Result<()> {
    crosses_a_link_of(1400, Options::new()?)
}

#[test]
fn tcp_crosses_a_link_of_1280_bytes() -> Result<()> {
    crosses_a_link_of(1280, Options::new()?)
}

#[test]
fn tcp_crosses_a_link_of_1400_bytes_without_offloads() -> Result<()> {
    crosses_a_link_of(
        1400,
        Options {
            offloads: false,
            ..Options::new()?
        },
    )
}

/// Here the gateway answers a packet that has been rewritten already: to a home address.
#[test]
fn tcp_reaches_an_instance_whose_own_link_is_small() -> Result<()> {
    let scene = Scene::new()?;
    let (web, user) = (&scene.web.host, &scene.user.host);
    scene
        .bed
        .site("a")
        .host
        .ip(&format!("link set dev {} mtu 1300", scene.web.interface))?;
    for homes in scene.families() {
        sockets::transfer(user, web, homes.web, BYTES)?;
        learned(user, homes.web, 1300)?;
        sockets::transfer(web, user, homes.user, BYTES)?;
    }
    scene.end()
}

#[test]
fn tracepath_finds_the_small_link() -> Result<()> {
    let scene = Scene::new()?;
    scene.bed.router.ip("link set dev a mtu 1400")?;
    scene.bed.site("a").host.ip("link set dev eth0 mtu 1400")?;
    for homes in scene.families() {
        for (host, peer) in [(&scene.user.host, homes.web), (&scene.web.host, homes.user)] {
            let said = host.run(format!("tracepath -n {peer}"))?;
            assert!(said.contains("reached"), "{said}");
            assert!(said.contains("Resume: pmtu 1400"), "{said}");
        }
    }
    scene.end()
}

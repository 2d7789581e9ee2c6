//! Several instances at one site, and what an instance may not send.

use std::time::Duration;

use anyhow::Result;

use crate::common::capture::watch;
use crate::common::scene::{Scene, plug_in};
use crate::common::{api, datagrams, sockets};
use crate::plain::explain;

const SOON: Duration = Duration::from_secs(5);

#[test]
fn instances_at_one_site_reach_each_other() -> Result<()> {
    let scene = Scene::new()?;
    let shop = plug_in(&scene.bed, "shop", 11, "a")?;
    let uplink = watch(&scene.bed.site("a").host, "eth0")?;
    let web = &scene.web;
    for (one, two) in [(&web.home, &shop.home), (&web.home6, &shop.home6)] {
        let (verdict, reason) = explain(scene.socket("a"), one, two)?;
        assert_eq!(verdict, "local", "{reason}");
        sockets::transfer(&web.host, &shop.host, two, 5_000_000)?;
        sockets::transfer(&shop.host, &web.host, one, 5_000_000)?;
        assert_eq!(
            datagrams::deliver(&web.host, &shop.host, two, 5, 8192)?,
            [0, 1, 2, 3, 4]
        );
    }
    // None of it left the site, and the watch would have seen it.
    assert!(scene.user.host.pings(&web.home)?);
    uplink.wait_for_log("198.51.100.33 >", SOON)?;
    for inner in [
        "> 192.0.2.",
        "> 2001:db8:1::",
        "> 198.51.100.34",
        "> 2001:db8:a::101",
    ] {
        let mut strayed = lines_with(&uplink.log(), inner);
        strayed.retain(|line| !line.contains("ICMP6, neighbor"));
        assert!(strayed.is_empty(), "on the uplink: {strayed:#?}");
    }
    scene.end()
}

#[test]
fn several_instances_talk_to_the_same_peer_at_once() -> Result<()> {
    let scene = Scene::new()?;
    let shop = plug_in(&scene.bed, "shop", 11, "a")?;
    let pairs = [(&scene.web, &scene.user.home), (&shop, &scene.user.home6)];
    std::thread::scope(|scope| {
        let transfers: Vec<_> = pairs
            .into_iter()
            .chain([(&scene.web, &scene.user.home6), (&shop, &scene.user.home)])
            .map(|(from, to)| {
                let user = &scene.user.host;
                scope.spawn(move || sockets::transfer(&from.host, user, to, 10_000_000))
            })
            .collect();
        transfers
            .into_iter()
            .try_for_each(|transfer| transfer.join().expect("no panic"))
    })?;
    let status = api::get(scene.socket("c"), "status")?;
    assert_eq!(
        status["contexts"].as_array().map(Vec::len),
        Some(4),
        "{status:#}"
    );
    scene.end()
}

/// Addresses an instance could pretend to have: nobody's, its neighbour's, its peer's, a
/// locator, its gateway's, a stranger's.
#[test]
fn nothing_leaves_an_instance_but_from_its_own_home() -> Result<()> {
    let scene = Scene::new()?;
    let shop = plug_in(&scene.bed, "shop", 11, "a")?;
    let (web, user) = (&scene.web, &scene.user);
    let claimed = [
        ("192.0.2.99", &user.home, &shop.home),
        (&shop.home, &user.home, &shop.home),
        (&user.home, &shop.home, &shop.home),
        ("198.51.100.34", &user.home, &shop.home),
        ("198.51.100.2", &user.home, &shop.home),
        ("203.0.113.99", &user.home, &shop.home),
        ("2001:db8:1::99", &user.home6, &shop.home6),
        (&shop.home6, &user.home6, &shop.home6),
        (&user.home6, &shop.home6, &shop.home6),
        ("2001:db8:a::101", &user.home6, &shop.home6),
        ("2001:db8:a::2", &user.home6, &shop.home6),
        ("2001:db8:80::99", &user.home6, &shop.home6),
    ];
    let places = [
        watch(&scene.bed.site("a").host, "eth0")?,
        watch(&shop.host, "eth0")?,
        watch(&user.host, "eth0")?,
    ];
    for (source, far, near) in claimed {
        let length = if source.contains(':') { 128 } else { 32 };
        let add = format!("addr add {source}/{length} dev lo");
        web.host
            .ip(&if length == 128 { add + " nodad" } else { add })?;
        let plain = if length == 128 {
            "2001:db8:80::80"
        } else {
            "203.0.113.80"
        };
        for to in [far.as_str(), near.as_str(), plain] {
            if to != source {
                // The size tells these pings from all other traffic.
                let ping = format!("ping -n -c 1 -W 0.1 -s 333 -I {source} {to}");
                assert!(
                    !web.host.exec(ping)?.status.success(),
                    "{source} got an answer of {to}"
                );
            }
        }
        web.host.ip(&format!("addr del {source}/{length} dev lo"))?;
    }
    // What the instance sends from its own address comes through, and is seen, behind all that.
    for (host, home, plain) in [
        (web, &user.home, "203.0.113.80"),
        (web, &shop.home6, plain6()),
    ] {
        host.host.run(format!("ping -n -c 1 -s 444 {home}"))?;
        host.host.run(format!("ping -n -c 1 -s 444 {plain}"))?;
    }
    web.host.run(format!("ping -n -c 1 -s 444 {}", shop.home))?;
    for place in &places {
        place.wait_for_log("length 452", SOON)?;
        let leaked: Vec<String> = lines_with(&place.log(), "length 341");
        assert!(leaked.is_empty(), "at {}: {leaked:#?}", place.name());
    }
    scene.end()
}

fn plain6() -> &'static str {
    "2001:db8:80::80"
}

fn lines_with(log: &str, needle: &str) -> Vec<String> {
    log.lines()
        .filter(|line| line.contains(needle))
        .map(str::to_owned)
        .collect()
}

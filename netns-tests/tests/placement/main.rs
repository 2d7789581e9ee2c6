//! The forwarder on the machine that has the home address: with dedicated locators or with the
//! one address the machine has, towards instances behind gateways and towards its like.

#[path = "../common"]
mod common {
    pub mod api;
    pub mod counters;
    pub mod datagrams;
    pub mod route;
    pub mod sockets;
}

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use mat_netns::testbed::Locators::{Dedicated, Exclusive};
use mat_netns::testbed::{Instance, Locators, Node, Options, Testbed};
use mat_netns::{Host, wait_until};

use common::route::{forget, learned};
use common::{api, counters, datagrams, sockets};

const SOON: Duration = Duration::from_secs(10);
const BYTES: usize = 3_000_000;

/// The node in place 0, and `user` behind the gateway of site c.
struct Scene {
    node: Node,
    user: Instance,
    bed: Testbed,
}

impl Scene {
    fn new(locators: Locators) -> Result<Self> {
        Self::with(locators, Options::new()?)
    }

    fn with(locators: Locators, options: Options) -> Result<Self> {
        let bed = Testbed::new(options)?;
        let node = bed.node("node", 30, 0, locators)?;
        let user = bed.instance("user", 20, "c")?;
        Ok(Self { node, user, bed })
    }

    /// Home addresses of the two, in IPv4 and IPv6.
    fn families(&self) -> [(&str, &str); 2] {
        let (node, user) = (&self.node, &self.user);
        [(&node.home, &user.home), (&node.home6, &user.home6)]
    }
}

/// Pings, streams and datagrams, both ways.
fn reach_each_other(one: (&Host, &str), two: (&Host, &str)) -> Result<()> {
    for ((from, _), (to, address)) in [(one, two), (two, one)] {
        let said = from.run(format!("ping -n -c 3 -i 0.02 -W 2 -s 3000 {address}"))?;
        let answers = format!("3008 bytes from {address}");
        assert_eq!(said.matches(&answers).count(), 3, "{said}");
        sockets::transfer(from, to, address, BYTES)?;
        let arrived = datagrams::deliver(from, to, address, 10, 4000)?;
        assert_eq!(arrived, (0..10).collect::<Vec<_>>(), "to {address}");
    }
    for (host, _) in [one, two] {
        assert_eq!(counters::checksum_errors(host)?, 0, "at {}", host.name());
    }
    Ok(())
}

fn works_with_an_instance_behind_a_gateway(locators: Locators) -> Result<()> {
    let scene = Scene::new(locators)?;
    for (node, user) in scene.families() {
        reach_each_other((&scene.node.host, node), (&scene.user.host, user))?;
    }
    scene.bed.lab.end()
}

#[test]
fn a_node_with_dedicated_locators_works_with_an_instance_behind_a_gateway() -> Result<()> {
    works_with_an_instance_behind_a_gateway(Dedicated)
}

/// Its own kernel takes a TCP segment of any size.
#[test]
fn a_node_without_offloads_joins_what_is_for_itself() -> Result<()> {
    let options = Options {
        extra: "[tun]\noffload = false\n".to_owned(),
        ..Options::new()?
    };
    let scene = Scene::with(Dedicated, options)?;
    for (node, user) in scene.families() {
        reach_each_other((&scene.node.host, node), (&scene.user.host, user))?;
    }
    let status = api::get(&scene.node.socket, "status")?;
    let thread = &status["threads"][0];
    let count = |what: &str| thread[what].as_u64().unwrap_or_default();
    let (joined, writes) = (count("joined"), count("joined_writes"));
    // How many come at once is up to the machine, but not all of them are pairs.
    assert!(joined > 2 * writes && writes > 0, "{thread:#}");
    scene.bed.lab.end()
}

#[test]
fn a_node_with_its_one_address_works_with_an_instance_behind_a_gateway() -> Result<()> {
    works_with_an_instance_behind_a_gateway(Exclusive)
}

#[test]
fn nodes_of_every_kind_work_with_each_other() -> Result<()> {
    let bed = Testbed::new(Options::new()?)?;
    let nodes = [
        bed.node("one", 31, 0, Dedicated)?,
        bed.node("two", 32, 1, Exclusive)?,
        bed.node("three", 33, 2, Exclusive)?,
        bed.node("four", 34, 3, Dedicated)?,
    ];
    for (one, two) in [(0, 1), (1, 2), (0, 3)] {
        let (one, two) = (&nodes[one], &nodes[two]);
        reach_each_other((&one.host, &one.home), (&two.host, &two.home))?;
        reach_each_other((&one.host, &one.home6), (&two.host, &two.home6))?;
    }
    bed.lab.end()
}

/// What has nothing to do with mobility works as if the forwarder were not there, also while
/// contexts are open.
fn ordinary_traffic_works(locators: Locators) -> Result<()> {
    let scene = Scene::new(locators)?;
    let (host, plain) = (&scene.node.host, &scene.bed.plain);
    for (_, user) in scene.families() {
        assert!(host.pings(user)?);
    }
    let families = [
        ("203.0.113.80", &scene.node.address),
        ("2001:db8:80::80", &scene.node.address6),
    ];
    for (peer, address) in families {
        assert!(host.pings(peer)? && plain.pings(address)?, "{address}");
        let listener = sockets::listen(plain, peer)?;
        let (stream, _) = sockets::connect(host, listener.local_addr()?)?;
        let (accepted, from) = listener.accept()?;
        assert_eq!(from.ip().to_string(), *address);
        sockets::carry(&stream, &accepted, BYTES)?;
        sockets::transfer(plain, host, address, BYTES)?;
        let arrived = datagrams::deliver(plain, host, address, 10, 4000)?;
        assert_eq!(arrived.len(), 10, "to {address}");
    }
    for server in ["203.0.113.53", "2001:db8:53::53"] {
        let answer = host.run(format!("dig +short +timeout=2 @{server} map.example. SOA"))?;
        assert!(answer.contains("map.example."), "{answer}");
    }
    scene.bed.lab.end()
}

#[test]
fn ordinary_traffic_works_beside_dedicated_locators() -> Result<()> {
    ordinary_traffic_works(Dedicated)
}

#[test]
fn ordinary_traffic_works_beside_an_exclusive_locator() -> Result<()> {
    ordinary_traffic_works(Exclusive)
}

/// Errors come to a locator and are about packets that only the forwarder knows.
fn errors_find_their_way(locators: Locators) -> Result<()> {
    let scene = Scene::new(locators)?;
    let (host, user) = (&scene.node.host, &scene.user.host);
    for (node_home, user_home) in scene.families() {
        for (from, to) in [(host, user_home), (user, node_home)] {
            let closed = SocketAddr::new(to.parse()?, 9);
            let socket = sockets::udp(from, closed)?;
            socket.send(b"anybody there?")?;
            let error = socket.recv(&mut [0; 100]).unwrap_err();
            assert_eq!(
                error.kind(),
                io::ErrorKind::ConnectionRefused,
                "{closed}: {error}"
            );
            let said = from.run(format!("tracepath -n {to}"))?;
            assert!(said.contains("reached"), "{said}");
        }
    }
    // A small link in the middle, then at the node itself.
    let small = [(&scene.bed.router, "c"), (host, "eth0")];
    for (at, device) in small {
        at.ip(&format!("link set dev {device} mtu 1400"))?;
        for (node_home, user_home) in scene.families() {
            sockets::transfer(host, user, user_home, BYTES)?;
            learned(host, &format!("{user_home} from {node_home}"), 1400)?;
        }
        at.ip(&format!("link set dev {device} mtu 1500"))?;
        forget(host)?;
    }
    scene.bed.lab.end()
}

#[test]
fn errors_find_their_way_to_a_node_with_dedicated_locators() -> Result<()> {
    errors_find_their_way(Dedicated)
}

#[test]
fn errors_find_their_way_to_a_node_with_its_one_address() -> Result<()> {
    errors_find_their_way(Exclusive)
}

#[test]
fn connections_survive_a_new_address_of_the_uplink_and_the_record_follows() -> Result<()> {
    let scene = Scene::new(Exclusive)?;
    let host = &scene.node.host;
    host.sysctl("net.ipv4.conf.all.promote_secondaries", 1)?;
    let renumbering = [
        (
            &scene.node.address,
            "198.51.100.195",
            "/28",
            "30.2.0.192.h4",
        ),
        (&scene.node.address6, "2001:db8:d0::3", "/64 nodad", ""),
    ];
    for ((node, user), (old, new, length, owner)) in scene.families().into_iter().zip(renumbering) {
        // One connection in each direction.
        let there = sockets::listen(host, node)?;
        let back = sockets::listen(&scene.user.host, user)?;
        let (out, _) = sockets::connect(&scene.user.host, there.local_addr()?)?;
        let (home, _) = sockets::connect(host, back.local_addr()?)?;
        let ends = [(out, there.accept()?.0), (home, back.accept()?.0)];
        for (one, two) in &ends {
            sockets::carry(one, two, 100_000)?;
        }
        let (length, flags) = length.split_once(' ').unwrap_or((length, ""));
        host.ip(&format!("addr add {new}{length} dev eth0 {flags}"))?;
        host.ip(&format!("addr del {old}{length} dev eth0"))?;
        for (one, two) in ends {
            sockets::carry(&one, &two, 100_000)?;
            sockets::carry(&two, &one, 100_000)?;
            sockets::carry(&one, &two, 1_000_000)?;
        }
        let what = format!("{node} to be served at {new}");
        wait_until(SOON, what, || {
            let status = api::get(&scene.node.socket, &format!("homes/{node}")).ok()?;
            (status["registered_at"] == new && status["locator"] == new).then_some(())
        })?;
        if !owner.is_empty() {
            let dig = format!("dig +short @203.0.113.53 {owner}.map.example. SVCB");
            let record = scene.bed.plain.run(dig)?;
            assert!(
                record.contains(new) && !record.contains(old.as_str()),
                "{record}"
            );
        }
        // New connections too.
        reach_each_other((host, node), (&scene.user.host, user))?;
    }
    scene.bed.lab.end()
}

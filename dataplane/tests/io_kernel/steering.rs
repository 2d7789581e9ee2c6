//! Routes, rules, proxies, addresses and settings: made, repeated, taken over
//! after a crash, and gone without a trace.

use std::path::Path;
use std::time::Duration;

use mat_dataplane::config::Config;
use mat_dataplane::io::MacAddr;
use mat_dataplane::io::steering::{
    Attached, Attachment, Claims, GATEWAY_MAC, Steering, SteeringError,
};
use mat_dataplane::io::tun::Tun;
use mat_netns::wait_until;

use crate::netns::{Neighbour, assert_same, in_namespace, ip, run, snapshot};

const SOON: Duration = Duration::from_secs(10);

/// A configuration whose state lies in `folder`.
pub fn config(folder: &Path, placement: &str, locators: &str) -> Config {
    let text = format!(
        r#"
site = "a"
placement = "{placement}"
uplink = "u0"
control_socket = "/run/matd.sock"
state_dir = "{}"
[homes]
prefixes = ["192.0.2.0/24", "2001:db8:1::/48"]
[locators]
prefixes = ["198.51.100.0/24", "203.0.113.0/24", "2001:db8:2::/48", "2001:db8:3::/48"]
{locators}
[mapping]
servers = ["203.0.113.53:53"]
zone = "map.example."
trust = "network"
"#,
        folder.display()
    );
    Config::parse("test.toml", &text, folder, None).unwrap()
}

pub const POOL: &str = r#"pool = ["198.51.100.128/28", "2001:db8:2::8000/124"]"#;
const EXCLUSIVE: &str = "exclusive = true";

/// The uplink `u0` and an instance's `v1`, both up and without link-local
/// addresses of the kernel's making, whose coming would show in a snapshot.
pub fn links(outside: &Neighbour) {
    for (here, there) in [("u0", "p0"), ("v1", "i1")] {
        outside.link(here, there);
        run(&format!("sysctl -qw net.ipv6.conf.{here}.addr_gen_mode=1"));
        ip(&format!("link set {here} up"));
        outside.run(&format!("ip link set {there} up"));
        // On a busy machine the kernel takes its time to notice the carrier, and then adds routes.
        let up = || ip(&format!("-o -br link show {here}")).contains(" UP ");
        wait_until(SOON, format!("{here} to come up"), || up().then_some(())).unwrap();
    }
    ip("address add 198.51.100.1/24 dev u0");
    ip("address add 2001:db8:2::1/64 dev u0 nodad");
    ip("address add fe80::2/64 dev u0 nodad");
}

/// The same, and who is there.
fn linked() -> Neighbour {
    let outside = Neighbour::new();
    links(&outside);
    outside
}

/// Device and steering of a forwarder that starts.
async fn up(config: &Config) -> (Tun, Steering) {
    let tun = Tun::open(&config.tun).unwrap();
    let steering = Steering::up(config, tun.name()).await.unwrap();
    (tun, steering)
}

fn attachment(home: &str, interface: &str) -> Attachment {
    Attachment {
        home: home.parse().unwrap(),
        interface: interface.to_owned(),
        mac: Some("02:00:5e:00:53:01".parse().unwrap()),
    }
}

fn gateway_claims() -> Claims {
    Claims {
        locators: ["198.51.100.130", "2001:db8:2::8001"]
            .map(|ip| ip.parse().unwrap())
            .into(),
        attachments: [
            attachment("192.0.2.10", "v1"),
            attachment("2001:db8:1::10", "v1"),
            attachment("192.0.2.11", "later"),
        ]
        .into(),
        ..Claims::default()
    }
}

async fn make(steering: &mut Steering, claims: &Claims) -> Vec<Attached> {
    for locator in &claims.locators {
        steering.add_locator(*locator).await.unwrap();
        steering.announce(*locator).await.unwrap();
    }
    for home in &claims.homes {
        steering.add_guest_home(*home).await.unwrap();
    }
    for (peer, own) in &claims.pairs {
        steering.steer_pair(*peer, *own).await.unwrap();
    }
    let mut attached = Vec::new();
    for attachment in &claims.attachments {
        attached.push(steering.attach(attachment).await.unwrap());
    }
    attached
}

/// What kill -9 leaves: everything up, and never `down`.
async fn crash(config: &Config, claims: &Claims) {
    let (_tun, mut steering) = up(config).await;
    make(&mut steering, claims).await;
}

async fn unmake(steering: &mut Steering, claims: &Claims) {
    for attachment in &claims.attachments {
        steering.detach(attachment).await.unwrap();
    }
    for (peer, own) in &claims.pairs {
        steering.unsteer_pair(*peer, *own).await.unwrap();
    }
    for home in &claims.homes {
        steering.remove_guest_home(*home).await.unwrap();
    }
    for locator in &claims.locators {
        steering.remove_locator(*locator).await.unwrap();
    }
}

/// Everything up twice, everything down twice: the second time changes nothing,
/// and at the end all is as it was.
async fn there_and_back(config: &Config, claims: &Claims) {
    let before = snapshot();
    let (_tun, mut steering) = up(config).await;
    let empty = snapshot();
    make(&mut steering, claims).await;
    let made = snapshot();
    assert_ne!(made, empty);
    make(&mut steering, claims).await;
    steering.reconcile(claims).await.unwrap();
    steering.refresh().await.unwrap();
    steering.down(claims).await.unwrap();
    assert_same(&made, &snapshot());
    assert_eq!(steering.claims(), claims);

    unmake(&mut steering, claims).await;
    unmake(&mut steering, claims).await;
    assert_same(&empty, &snapshot());
    assert!(steering.claims().is_empty());

    steering.down(&Claims::default()).await.unwrap();
    steering.down(&Claims::default()).await.unwrap();
    assert_same(&before, &snapshot());
}

#[test]
fn a_gateway_leaves_nothing_behind() {
    in_namespace(async || {
        let temp = tempfile::tempdir().unwrap();
        let _outside = linked();
        let config = config(temp.path(), "gateway", POOL);
        there_and_back(&config, &gateway_claims()).await;
    });
}

#[test]
fn small_datagrams_are_joined_at_the_uplink_unless_nothing_is_to_be() {
    in_namespace(async || {
        let temp = tempfile::tempdir().unwrap();
        let _outside = linked();
        let joined = || run("ethtool -k u0").contains("rx-udp-gro-forwarding: on");
        let mut config = config(temp.path(), "gateway", POOL);
        for coalesce in [true, false] {
            config.tun.coalesce = coalesce;
            let (_tun, mut steering) = up(&config).await;
            assert_eq!(joined(), coalesce);
            steering.down(&Claims::default()).await.unwrap();
            assert!(!joined());
        }
        // Killed, and started with another wish.
        for coalesce in [true, false] {
            config.tun.coalesce = coalesce;
            crash(&config, &Claims::default()).await;
            assert_eq!(joined(), coalesce);
        }
    });
}

#[test]
fn a_guest_with_dedicated_locators_leaves_nothing_behind() {
    in_namespace(async || {
        let temp = tempfile::tempdir().unwrap();
        let _outside = linked();
        let claims = Claims {
            locators: gateway_claims().locators,
            homes: ["192.0.2.10", "192.0.2.11", "2001:db8:1::10"]
                .map(|ip| ip.parse().unwrap())
                .into(),
            ..Claims::default()
        };
        there_and_back(&config(temp.path(), "guest", POOL), &claims).await;
    });
}

#[test]
fn a_guest_with_an_exclusive_locator_leaves_nothing_behind() {
    in_namespace(async || {
        let temp = tempfile::tempdir().unwrap();
        let _outside = linked();
        let pair = |peer: &str, own: &str| (peer.parse().unwrap(), own.parse().unwrap());
        let claims = Claims {
            homes: ["192.0.2.10", "2001:db8:1::10"]
                .map(|ip| ip.parse().unwrap())
                .into(),
            pairs: [
                pair("203.0.113.9", "198.51.100.1"),
                pair("2001:db8:3::9", "2001:db8:2::1"),
            ]
            .into(),
            ..Claims::default()
        };
        there_and_back(&config(temp.path(), "guest", EXCLUSIVE), &claims).await;
    });
}

#[test]
fn an_interface_that_appears_later_gets_the_rest_then() {
    in_namespace(async || {
        let temp = tempfile::tempdir().unwrap();
        let outside = linked();
        let config = config(temp.path(), "gateway", POOL);
        let (_tun, mut steering) = up(&config).await;
        let later = attachment("192.0.2.11", "later");
        assert_eq!(steering.attach(&later).await.unwrap(), Attached::Waiting);
        let rules = ip("rule");
        assert!(rules.contains("from 192.0.2.11 iif later"), "{rules}");
        assert!(ip("-6 rule").contains("iif later"));

        outside.link("later", "i2");
        assert_eq!(steering.attach(&later).await.unwrap(), Attached::Ready);
        assert!(ip("route get 192.0.2.11").contains("dev later"));
        let link = ip("-o link show later");
        assert!(link.contains(&GATEWAY_MAC.to_string()), "{link}");
        assert!(ip("-4 -o addr show later").contains("169.254.1.1/32"));
        assert!(ip("neigh show 192.0.2.11").contains("PERMANENT"));
        // No address that the kernel made up while the link came up.
        assert!(!ip("-6 -o addr show later").contains("fe80::"));

        // It goes and comes back, as in a move away and back.
        ip("link del later");
        assert_eq!(steering.attach(&later).await.unwrap(), Attached::Waiting);
        assert!(ip("route get 192.0.2.11").contains("dev mat0"));
        outside.link("later", "i2");
        assert_eq!(steering.attach(&later).await.unwrap(), Attached::Ready);
        assert!(ip("route get 192.0.2.11").contains("dev later"));

        // Attached again elsewhere, it is nowhere else.
        let v1 = attachment("192.0.2.11", "v1");
        assert_eq!(steering.attach(&v1).await.unwrap(), Attached::Ready);
        assert!(ip("route get 192.0.2.11").contains("dev v1"));
        assert!(!ip("rule").contains("later"));
        assert_eq!(steering.claims().attachments, [v1].into());
        assert!(!is_the_gateway("later"));
        steering.down(&Claims::default()).await.unwrap();
    });
}

/// On a link with other gateways nobody is to take two of them for one.
#[test]
fn an_interface_is_the_gateway_while_an_instance_is_attached() {
    in_namespace(async || {
        let temp = tempfile::tempdir().unwrap();
        let outside = linked();
        let config = config(temp.path(), "gateway", POOL);
        let (_tun, mut steering) = up(&config).await;
        let [one, two] = ["192.0.2.10", "2001:db8:1::10"].map(|home| attachment(home, "v1"));
        steering.attach(&one).await.unwrap();
        steering.attach(&two).await.unwrap();
        assert!(is_the_gateway("v1"));
        // It comes back, and now the kernel would make addresses of its own.
        ip("link del v1");
        outside.link("v1", "i2");
        run("sysctl -qw net.ipv6.conf.v1.addr_gen_mode=0");
        let own = ip("-o -br link show v1");
        steering.attach(&one).await.unwrap();
        steering.attach(&two).await.unwrap();
        assert!(is_the_gateway("v1"));
        steering.detach(&one).await.unwrap();
        assert!(is_the_gateway("v1"), "the other one is still there");
        steering.detach(&two).await.unwrap();
        assert!(!is_the_gateway("v1"));
        let mac = own.split_whitespace().nth(2).unwrap();
        assert!(ip("-o -br link show v1").contains(mac), "not {own}");
        steering.down(&Claims::default()).await.unwrap();
    });
}

/// By its MAC address, or by a link-local one that the kernel has made of that.
fn is_the_gateway(dev: &str) -> bool {
    let there = ip(&format!("address show {dev}"));
    there.contains(&GATEWAY_MAC.to_string()) || there.contains("fe80::4d:41ff:fe54:1/")
}

#[test]
fn after_a_crash_what_is_claimed_stays_and_the_rest_goes() {
    in_namespace(async || {
        let temp = tempfile::tempdir().unwrap();
        let _outside = linked();
        let config = config(temp.path(), "gateway", POOL);
        let before = snapshot();
        let mut claims = gateway_claims();
        crash(&config, &claims).await;
        let crashed = snapshot();
        assert!(crashed["-4 route show table all"].contains("198.51.100.130 dev mat0"));
        // Packets of the instance fall into the TUN that nobody holds, or below.
        let route = ip("route get 198.18.0.1 from 192.0.2.10 iif v1");
        assert!(route.contains("dev mat0"), "{route}");

        let (_tun, mut steering) = up(&config).await;
        // One thing more and some things less than before.
        claims.locators = ["198.51.100.131".parse().unwrap()].into();
        claims.attachments.retain(|a| a.interface == "v1");
        steering.reconcile(&claims).await.unwrap();
        let after = snapshot();
        let routes = &after["-4 route show table all"];
        assert!(routes.contains("198.51.100.131 dev mat0"), "{routes}");
        assert!(!routes.contains("198.51.100.130"), "{routes}");
        assert!(routes.contains("192.0.2.10 dev v1"), "{routes}");
        // Nor is an interface what nobody claims any more.
        assert!(is_the_gateway("v1"));
        claims.attachments.clear();
        steering.reconcile(&claims).await.unwrap();
        assert!(!is_the_gateway("v1"));
        assert!(!after["-4 rule"].contains("later"));
        assert!(!after["-6 neigh show proxy"].contains("2001:db8:2::8001"));
        assert!(after["-4 neigh show proxy"].contains("198.51.100.131"));

        steering.down(&Claims::default()).await.unwrap();
        assert_same(&before, &snapshot());
    });
}

#[test]
fn without_the_tun_packets_fall_into_the_blackhole() {
    in_namespace(async || {
        let temp = tempfile::tempdir().unwrap();
        let _outside = linked();
        ip("route add default via 198.51.100.254");
        let config = config(temp.path(), "gateway", POOL);
        let (_tun, mut steering) = up(&config).await;
        make(&mut steering, &gateway_claims()).await;
        ip("link del mat0");
        let routes = ip("route show table all") + &ip("-6 route show table all");
        for blackhole in [
            "blackhole default table 100",
            "blackhole 192.0.2.0/24",
            "blackhole 198.51.100.130",
            "blackhole 2001:db8:1::/48",
            "blackhole 2001:db8:2::8001",
        ] {
            assert!(routes.contains(blackhole), "{blackhole}: {routes}");
        }
        let temp = std::process::Command::new("ip")
            .args("route get 198.18.0.1 from 192.0.2.10 iif v1".split(' '))
            .output()
            .unwrap();
        assert!(!temp.status.success(), "{temp:?}");
    });
}

#[test]
fn a_guest_starts_connections_into_home_prefixes_from_its_home() {
    in_namespace(async || {
        let temp = tempfile::tempdir().unwrap();
        let _outside = linked();
        ip("route add default via 198.51.100.254");
        let config = config(temp.path(), "guest", POOL);
        let (_tun, mut steering) = up(&config).await;
        let homes = ["192.0.2.10", "2001:db8:1::10"].map(|ip| ip.parse().unwrap());
        for home in homes {
            steering.add_guest_home(home).await.unwrap();
        }
        let route = |what: &str| ip(&format!("route get {what}"));
        assert!(route("192.0.2.20").contains("dev mat0 src 192.0.2.10"));
        assert!(route("2001:db8:1::20").contains("dev mat0"));
        assert!(route("2001:db8:1::20").contains("src 2001:db8:1::10"));
        // Ordinary traffic stays on the underlay, answers from the home do not.
        assert!(route("198.18.0.1").contains("dev u0 src 198.51.100.1"));
        assert!(route("198.18.0.1 from 192.0.2.10").contains("dev mat0"));

        // Another home takes over as the source; the last one takes no route along.
        let second = "192.0.2.11".parse().unwrap();
        steering.add_guest_home(second).await.unwrap();
        steering.remove_guest_home(homes[0]).await.unwrap();
        assert!(route("192.0.2.20").contains("dev mat0 src 192.0.2.11"));
        steering.remove_guest_home(second).await.unwrap();
        assert!(route("192.0.2.20").contains("dev mat0"));
        steering.down(&Claims::default()).await.unwrap();
    });
}

#[test]
fn another_configuration_is_taken_up_while_running() {
    in_namespace(async || {
        let temp = tempfile::tempdir().unwrap();
        let _outside = linked();
        let before = snapshot();
        let old = config(temp.path(), "gateway", POOL);
        let mut new = old.clone();
        new.homes.prefixes = vec!["192.0.2.0/25".parse().unwrap()];
        let (_tun, mut steering) = up(&old).await;
        let v1 = attachment("192.0.2.10", "v1");
        steering.attach(&v1).await.unwrap();
        steering.reconfigure(&new).await.unwrap();
        let routes = ip("route show") + &ip("-6 route show");
        assert!(routes.contains("192.0.2.0/25 dev mat0"), "{routes}");
        assert!(routes.contains("192.0.2.10 dev v1"), "{routes}");
        assert!(!routes.contains("192.0.2.0/24"), "{routes}");
        assert!(!routes.contains("2001:db8:1::/48"), "{routes}");
        steering.down(&Claims::default()).await.unwrap();
        assert_same(&before, &snapshot());
    });
}

#[test]
fn an_uplink_goes_on_listening_to_routers_if_it_did() {
    for (forwarded, expected) in [("0", "2"), ("1", "1")] {
        in_namespace(async move || {
            let temp = tempfile::tempdir().unwrap();
            let _outside = linked();
            run(&format!(
                "sysctl -qw net.ipv6.conf.all.forwarding={forwarded}"
            ));
            run("sysctl -qw net.ipv6.conf.u0.accept_ra=1");
            let before = snapshot();
            let config = config(temp.path(), "gateway", POOL);
            let accepts = || run("sysctl -n net.ipv6.conf.u0.accept_ra");
            for _ in 0..2 {
                let tun = Tun::open(&config.tun).unwrap();
                let _crashes = Steering::up(&config, tun.name()).await.unwrap();
                assert_eq!(accepts().trim(), expected);
            }
            let (_tun, mut steering) = up(&config).await;
            steering.down(&Claims::default()).await.unwrap();
            assert_same(&before, &snapshot());
        });
    }
}

#[test]
fn without_ipv6_an_ipv4_deployment_works() {
    in_namespace(async || {
        let temp = tempfile::tempdir().unwrap();
        let _outside = linked();
        run("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
        let mut config = config(temp.path(), "gateway", POOL);
        config
            .homes
            .prefixes
            .retain(|prefix| prefix.addr().is_ipv4());
        config
            .locators
            .pool
            .retain(|prefix| prefix.addr().is_ipv4());
        let mut claims = gateway_claims();
        claims.locators.retain(|locator| locator.ip().is_ipv4());
        claims.attachments.retain(|a| a.home.ip().is_ipv4());
        there_and_back(&config, &claims).await;
    });
}

#[test]
fn a_second_forwarder_finds_the_namespace_taken() {
    in_namespace(async || {
        let temp = tempfile::tempdir().unwrap();
        let _outside = linked();
        let config = config(temp.path(), "gateway", POOL);
        let tun = Tun::open(&config.tun).unwrap();
        let first = Steering::up(&config, tun.name()).await.unwrap();
        let made = snapshot();
        let error = Steering::up(&config, tun.name()).await.unwrap_err();
        assert!(matches!(error, SteeringError::Taken), "{error}");
        assert_same(&made, &snapshot());
        drop(first);
        let mut next = Steering::up(&config, tun.name()).await.unwrap();
        next.down(&Claims::default()).await.unwrap();
    });
}

#[test]
fn a_missing_uplink_is_named_and_nothing_is_left() {
    in_namespace(async || {
        let temp = tempfile::tempdir().unwrap();
        let config = config(temp.path(), "gateway", POOL);
        let tun = Tun::open(&config.tun).unwrap();
        let before = snapshot();
        let error = Steering::up(&config, tun.name()).await.unwrap_err();
        assert!(matches!(error, SteeringError::Rt(_)));
        let text = error.to_string();
        assert!(text.contains("no interface u0; create it"), "{text}");
        assert_same(&before, &snapshot());
    });
}

#[test]
fn what_is_left_can_be_removed_when_the_uplink_has_gone() {
    in_namespace(async || {
        let temp = tempfile::tempdir().unwrap();
        let _outside = linked();
        let config = config(temp.path(), "gateway", POOL);
        crash(&config, &gateway_claims()).await;
        ip("link del u0");
        let mut steering = Steering::take(&config, &config.tun.name).await.unwrap();
        steering.down(&Claims::default()).await.unwrap();
        let left = snapshot();
        assert!(!left["-o -br link"].contains("mat0"), "{left:#?}");
        for rules in ["-4 rule", "-6 rule"] {
            assert!(!left[rules].contains("proto 77"), "{left:#?}");
        }
        assert!(!left["-4 route show table all"].contains("blackhole"));
    });
}

#[test]
fn an_announcement_corrects_the_neighbours_of_the_uplink() {
    in_namespace(async || {
        let temp = tempfile::tempdir().unwrap();
        let outside = linked();
        outside.run("sysctl -qw net.ipv4.neigh.p0.locktime=0");
        outside.run("ip address add 198.51.100.2/24 dev p0");
        let stale = "lladdr 02:00:5e:00:53:99 dev p0 nud stale";
        let config = config(temp.path(), "gateway", POOL);
        let (_tun, mut steering) = up(&config).await;
        let link = ip("-o link show u0");
        let mac = link.split("link/ether ").nth(1).unwrap();
        let mac: MacAddr = mac.split(' ').next().unwrap().parse().unwrap();
        for locator in gateway_claims().locators {
            outside.run(&format!("ip neigh replace {locator} {stale}"));
            steering.add_locator(locator).await.unwrap();
            steering.announce(locator).await.unwrap();
            let told = || {
                let entry = outside.run(&format!("ip neigh show {locator}"));
                entry.contains(&mac.to_string()).then_some(())
            };
            wait_until(SOON, format!("{locator} to be known at {mac}"), told).unwrap();
        }
        steering.down(&Claims::default()).await.unwrap();
    });
}

//! Connections outlive the moves of their ends: `matctl move` between real forwarders, while real
//! programs transfer data. Needs root or a user namespace: `scripts/privileged cargo test`.
//!
//! The network is that of [`mat_netns::testbed`]. How fast a move is, the demo and the benchmarks
//! say; here only what would be a defect on any machine fails, and the figures are printed.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mat_netns::testbed::{Instance, Options, Testbed, Transfer, serve};
use mat_netns::{Process, wait_until};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);
/// What a move may cost beyond the time in which the instance is nowhere.
const TOLERANCE_MS: f64 = 1000.0;

fn bed(rtt_ms: f64) -> Result<Testbed> {
    Testbed::new(Options {
        rtt_ms,
        ..Options::new()?
    })
}

/// Moves the instance and returns how long it could not be reached at either site, in
/// milliseconds. Most of that is the kernel's, which moves its interface, and grows without bound
/// on a machine that does other things.
fn moved(bed: &Testbed, instance: &Instance, to: &str) -> Result<f64> {
    let said = bed.move_instance(instance, to)?;
    println!("{said}");
    let rest = said.split("blackout ").nth(1).context("no blackout")?;
    Ok(rest.split(' ').next().unwrap_or_default().parse()?)
}

/// Moves two instances at the same time and returns the sum of how long each was nowhere.
fn both_moved(bed: &Testbed, moves: [(&Instance, &str); 2]) -> Result<f64> {
    thread::scope(|scope| {
        let both = moves.map(|(instance, to)| scope.spawn(|| moved(bed, instance, to)));
        let both = both.map(|one| one.join().expect("a move does not panic"));
        both.into_iter().sum()
    })
}

/// Ends the transfer; its ends must not have noticed much more of the moves than that the instance
/// was away for `blackout_ms` in all.
fn finish(transfer: Transfer, what: &str, blackout_ms: f64) -> Result<()> {
    let report = transfer.finish(what)?;
    let gap = report["udp"]["longest_gap_ms"].as_f64();
    ensure!(
        gap < Some(blackout_ms + TOLERANCE_MS),
        "{what}: the longest gap was {gap:?} ms, the moves took {blackout_ms} ms"
    );
    // TCP tries again at intervals that double, from a timeout that packets which were held have
    // made longer.
    let stall = report["tcp"]["longest_stall_ms"].as_f64();
    ensure!(
        stall < Some(4.0 * blackout_ms + TOLERANCE_MS),
        "{what}: the longest stall was {stall:?} ms, the moves took {blackout_ms} ms"
    );
    Ok(())
}

/// Transfers over both families, from site c to an instance that moves from a to b and back.
fn there_and_back(rtt_ms: f64) -> Result<()> {
    let bed = bed(rtt_ms)?;
    let web = bed.instance("web", 10, "a")?;
    let user = bed.instance("user", 20, "c")?;
    let _server = serve(&bed, &web.host)?;
    let transfers = Transfer::both(&bed, &user, &web, "")?;
    let mut blackout = 0.0;
    for to in ["b", "a"] {
        blackout += moved(&bed, &web, to)?;
        for home in [&web.home, &web.home6] {
            ensure!(bed.home_state(to, home)? == "serving");
        }
        for (_, transfer) in &transfers {
            transfer.flows()?;
        }
    }
    for (family, transfer) in transfers {
        finish(transfer, &format!("{family} at {rtt_ms} ms"), blackout)?;
    }
    bed.lab.end()
}

#[test]
fn a_transfer_survives_the_way_there_and_back() -> Result<()> {
    there_and_back(0.0)
}

#[test]
fn a_transfer_over_a_wide_area_survives_the_way_there_and_back() -> Result<()> {
    there_and_back(20.0)
}

/// web leaves its neighbour for the site where its peer is, and comes back.
#[test]
fn peers_become_neighbours_and_neighbours_peers() -> Result<()> {
    let bed = bed(20.0)?;
    let web = bed.instance("web", 10, "a")?;
    let neighbour = bed.instance("cache", 12, "a")?;
    let peer = bed.instance("db", 11, "b")?;
    let _server = serve(&bed, &web.host)?;
    let pace = "--tcp-rate-mbps 100";
    let from = |instance: &Instance, home: &str| Transfer::start(&bed, &instance.host, home, pace);
    let transfers = [
        ("from its neighbour", from(&neighbour, &web.home)?),
        ("from its neighbour, IPv6", from(&neighbour, &web.home6)?),
        ("from its peer", from(&peer, &web.home)?),
        ("from its peer, IPv6", from(&peer, &web.home6)?),
    ];
    let mut blackout = 0.0;
    for to in ["b", "a"] {
        blackout += moved(&bed, &web, to)?;
        for (_, transfer) in &transfers {
            transfer.flows()?;
        }
    }
    for (what, transfer) in transfers {
        finish(transfer, what, blackout)?;
    }
    bed.lab.end()
}

#[test]
fn iperf3_notices_nothing_but_a_dip() -> Result<()> {
    let bed = bed(0.0)?;
    let web = bed.instance("web", 10, "a")?;
    let user = bed.instance("user", 20, "c")?;
    let server = web.host.spawn("iperf3 -s -1 --forceflush")?;
    server.wait_for_log("listening", SOON)?;
    let client = user.host.spawn(format!(
        "iperf3 -c {} -t 5 -i 0.5 -f m --forceflush",
        web.home
    ))?;
    let mut blackout = 0.0;
    for (since, to) in [("1.00", "b"), ("3.00", "a")] {
        client.wait_for_log(&format!("-{since} "), SOON)?;
        blackout += moved(&bed, &web, to)?;
    }
    client.wait_success(SOON)?;
    println!("{}", client.log());
    let rates = iperf_rates(&client);
    ensure!(rates.len() >= 10, "{rates:?}");
    let still = rates.iter().filter(|mbps| **mbps == 0.0).count();
    ensure!(
        still as f64 * 500.0 <= 4.0 * blackout,
        "the moves took {blackout} ms, these are the rates of every half second: {rates:?}"
    );
    server.wait_success(SOON)?;
    bed.lab.end()
}

/// The rates of all intervals in Mbit/s.
fn iperf_rates(client: &Process) -> Vec<f64> {
    let log = client.log();
    let lines = log.lines().take_while(|line| !line.contains("- - -"));
    lines
        .filter_map(|line| {
            line.split_once(" Mbits/sec")?
                .0
                .rsplit(' ')
                .next()?
                .parse()
                .ok()
        })
        .collect()
}

#[test]
fn a_thousand_connections_survive_a_move() -> Result<()> {
    let bed = bed(0.0)?;
    let web = bed.instance("web", 10, "a")?;
    let user = bed.instance("user", 20, "c")?;
    let _server = serve(&bed, &web.host)?;
    let crowd = "--connections 1000 --tcp-rate-mbps 50";
    let transfer = Transfer::start(&bed, &user.host, &web.home, crowd)?;
    println!("{}", bed.move_instance(&web, "b")?);
    transfer.flows()?;
    let report = transfer.finish("a thousand connections")?;
    let crowd = &report["connections"];
    ensure!(
        crowd["opened"] == 1000 && crowd["intact"] == 1000,
        "{crowd:#}"
    );
    println!(
        "the crowd's longest stall: {} ms",
        crowd["longest_stall_ms"]
    );
    bed.lab.end()
}

/// web and db are neighbours at site a and talk to each other and to user at site c; web leaves
/// and comes back.
#[test]
fn neighbours_stay_connected_when_one_of_them_leaves_and_returns() -> Result<()> {
    let bed = bed(0.0)?;
    let web = bed.instance("web", 10, "a")?;
    let db = bed.instance("db", 11, "a")?;
    let user = bed.instance("user", 20, "c")?;
    let _servers = [serve(&bed, &web.host)?, serve(&bed, &db.host)?];
    let pace = "--tcp-rate-mbps 100";
    let transfers = [
        (
            "web - db",
            Transfer::start(&bed, &web.host, &db.home, pace)?,
        ),
        (
            "db - web, IPv6",
            Transfer::start(&bed, &db.host, &web.home6, pace)?,
        ),
        (
            "user - web",
            Transfer::start(&bed, &user.host, &web.home, pace)?,
        ),
        (
            "user - db",
            Transfer::start(&bed, &user.host, &db.home, pace)?,
        ),
    ];
    let verdict = || bed.matctl("a", &["explain", &db.home, &web.home]);
    ensure!(verdict()?.contains("local"), "{}", verdict()?);
    let mut blackout = 0.0;
    for (to, expected) in [("b", "native"), ("a", "local")] {
        blackout += moved(&bed, &web, to)?;
        for (_, transfer) in &transfers {
            transfer.flows()?;
        }
        ensure!(verdict()?.contains(expected), "{}", verdict()?);
    }
    for (what, transfer) in transfers {
        finish(transfer, what, blackout)?;
    }
    bed.lab.end()
}

/// As in an evacuation.
#[test]
fn neighbours_may_leave_at_the_same_time() -> Result<()> {
    let bed = bed(20.0)?;
    let web = bed.instance("web", 10, "a")?;
    let db = bed.instance("db", 11, "a")?;
    let _server = serve(&bed, &web.host)?;
    let transfers = Transfer::both(&bed, &db, &web, "--tcp-rate-mbps 100")?;
    let mut blackout = 0.0;
    for to in ["b", "c", "a"] {
        blackout += both_moved(&bed, [(&web, to), (&db, to)])?;
        for (_, transfer) in &transfers {
            transfer.flows()?;
        }
    }
    for (family, transfer) in transfers {
        finish(transfer, &format!("both moved, {family}"), blackout)?;
    }
    bed.lab.end()
}

/// Each end leaves its site while the other one does: their forwarders learn of each other's new
/// place only from the old ones.
#[test]
fn both_ends_may_move_at_the_same_time() -> Result<()> {
    let bed = bed(20.0)?;
    let web = bed.instance("web", 10, "a")?;
    let user = bed.instance("user", 20, "c")?;
    let _server = serve(&bed, &web.host)?;
    let transfers = Transfer::both(&bed, &user, &web, "--tcp-rate-mbps 100")?;
    let mut blackout = 0.0;
    for (web_to, user_to) in [("b", "a"), ("a", "c")] {
        blackout += both_moved(&bed, [(&web, web_to), (&user, user_to)])?;
        for (_, transfer) in &transfers {
            transfer.flows()?;
        }
        for (site, home) in [(web_to, &web.home), (user_to, &user.home6)] {
            ensure!(bed.home_state(site, home)? == "serving");
        }
    }
    for (family, transfer) in transfers {
        finish(transfer, &format!("both ends moved, {family}"), blackout)?;
    }
    bed.lab.end()
}

/// The peer's site is cut off while the instance moves, so nobody can tell it.
#[test]
fn a_peer_that_was_cut_off_during_the_move_finds_the_new_place() -> Result<()> {
    let bed = bed(5.0)?;
    let web = bed.instance("web", 10, "a")?;
    let user = bed.instance("user", 20, "c")?;
    let _server = serve(&bed, &web.host)?;
    let transfer = Transfer::start(&bed, &user.host, &web.home, "--tcp-rate-mbps 50")?;
    let wan = bed
        .site("c")
        .wan
        .as_ref()
        .context("site c has a wide-area link")?;
    wan.cut();
    println!("{}", bed.move_instance(&web, "b")?);
    wan.restore();
    let since = Instant::now();
    transfer.flows()?;
    println!(
        "data flowed {} ms after the cut",
        since.elapsed().as_millis()
    );
    transfer.finish("the peer was cut off")?;
    bed.lab.end()
}

/// Both sides of every context agree where the other one is, once the dust has settled.
#[test]
fn peers_agree_on_the_epoch_after_many_moves() -> Result<()> {
    let bed = bed(0.0)?;
    let web = bed.instance("web", 10, "a")?;
    let user = bed.instance("user", 20, "c")?;
    ensure!(user.host.pings(&web.home)?);
    for to in ["b", "a", "b", "c", "a", "c", "b"] {
        bed.move_instance(&web, to)?;
        ensure!(user.host.pings(&web.home)?, "no answer from {to}");
    }
    let homes = bed.status("b")?["homes"].clone();
    let epoch = find(&homes, "home", &web.home)?["epoch"].clone();
    wait_until(SOON, format!("epoch {epoch} at the peer"), || {
        let contexts = bed.status("c").ok()?["contexts"].clone();
        let context = find(&contexts, "peer", &web.home).ok()?.clone();
        (context["epoch"] == epoch && context["state"] == "open").then_some(())
    })?;
    bed.lab.end()
}

fn find<'a>(list: &'a Value, key: &str, value: &str) -> Result<&'a Value> {
    let mut items = list.as_array().into_iter().flatten();
    let found = items.find(|item| item[key] == value);
    found.with_context(|| format!("no {key} {value} in {list:#}"))
}

/// One control message in a hundred is lost between the sites, whatever it carries: first contacts,
/// what is relayed, what peers are told. No datagram of the instances is.
#[test]
fn control_messages_that_are_lost_cost_no_data() -> Result<()> {
    let bed = bed(20.0)?;
    let web = bed.instance("web", 10, "a")?;
    let user = bed.instance("user", 20, "c")?;
    bed.router.nft(
        "table inet lossy {
           counter control { }
           counter lost { }
           chain forward {
             type filter hook forward priority 0
             udp dport 6283 counter name control
             udp dport 6283 numgen random mod 100 < 1 counter name lost drop
           }
         }",
    )?;
    let _server = serve(&bed, &web.host)?;
    let pace = "--tcp-rate-mbps 50";
    let transfers = Transfer::both(&bed, &user, &web, pace)?;
    let mut blackout = 0.0;
    for to in ["b", "a", "b", "a"] {
        blackout += moved(&bed, &web, to)?;
        for (_, transfer) in &transfers {
            transfer.flows()?;
        }
    }
    println!("{}", bed.router.run("nft list counters table inet lossy")?);
    for (family, transfer) in transfers {
        let report = transfer.finish(family)?;
        // What web itself sends while it has no link is lost in its own kernel.
        let up = &report["udp_up"];
        ensure!(up["lost"] == 0 && up["duplicated"] == 0, "{up:#}");
    }
    println!("blackout {blackout} ms in all");
    bed.lab.end()
}

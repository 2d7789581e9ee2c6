//! `nsupdate` alone decides who serves.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use mat_netns::testbed::{Instance, Locators, Options, Testbed};
use mat_netns::{Cmd, wait_until};
use serde_json::Value;

use crate::record::{addition, hand_to, nsupdate, operator, shown};
use mat_netns::testbed::{Transfer, serve};
use mat_netns::watch::{RESETS, Watch};

const SOON: Duration = Duration::from_secs(10);
const PACE: &str = "--tcp-rate-mbps 100";
/// Forwarders look at the records of their instances once a second; some time for a busy machine.
const FOLLOWED: Duration = Duration::from_secs(4);

/// Gives an instance a second link, to another site, where it waits to be served.
pub fn attach_twice(bed: &Testbed, instance: &Instance, site: &str) -> Result<()> {
    let gateway = &bed.site(site).host;
    bed.lab
        .link(&instance.host, "eth1", gateway, &instance.interface)?;
    for device in ["all", "eth0", "eth1"] {
        // What comes in on one link may be answered on the other.
        instance
            .host
            .sysctl(&format!("net.ipv4.conf.{device}.rp_filter"), 0)?;
    }
    instance.host.ip(&format!(
        "addr add {}/32 dev eth1
         addr add {}/128 dev eth1 nodad",
        instance.home, instance.home6
    ))?;
    bed.attach(instance, site, &["--no-claim"])?;
    for home in [&instance.home, &instance.home6] {
        ensure!(bed.home_state(site, home)? == "not serving");
    }
    Ok(())
}

/// The instance sends by this link from now on.
pub fn send_by(instance: &Instance, device: &str) -> Result<()> {
    instance.host.ip(&format!(
        "route replace default via 169.254.1.1 dev {device} onlink
         route replace default via fe80::1 dev {device}"
    ))?;
    Ok(())
}

/// Its first locator at a site.
fn locator(status: &Value, home: &str) -> Result<String> {
    let mut homes = status["homes"].as_array().into_iter().flatten();
    let found = homes.find(|own| own["home"] == home);
    let locator = found.and_then(|own| own["reserved"][0].as_str());
    Ok(locator
        .with_context(|| format!("{home} in {status:#}"))?
        .to_owned())
}

#[test]
fn nsupdate_hands_an_instance_from_one_site_to_another_and_back() -> Result<()> {
    hand_over(Options {
        push: false,
        ..Options::new()?
    })
}

/// With push nobody has to ask: these ask once a minute.
#[test]
fn what_nsupdate_does_is_pushed() -> Result<()> {
    hand_over(Options {
        extra: "poll_ms = 60000\n".to_owned(),
        ..Options::new()?
    })
}

fn hand_over(options: Options) -> Result<()> {
    let bed = Testbed::new(options)?;
    let web = bed.instance("web", 10, "a")?;
    let user = bed.instance("user", 20, "c")?;
    attach_twice(&bed, &web, "b")?;
    let _server = serve(&bed, &web.host)?;
    let transfers = [
        ("IPv4", Transfer::start(&bed, &user.host, &web.home, PACE)?),
        ("IPv6", Transfer::start(&bed, &user.host, &web.home6, PACE)?),
    ];
    let homes = [&web.home, &web.home6];
    for (old, new, device) in [("a", "b", "eth1"), ("b", "a", "eth0")] {
        let status = bed.status(new)?;
        let start = Instant::now();
        for home in homes {
            hand_to(&bed, home, &locator(&status, home)?)?;
        }
        for home in homes {
            bed.wait_for_state(new, home, "serving")?;
            bed.wait_for_state(old, home, "not serving")?;
        }
        let served = start.elapsed();
        send_by(&web, device)?;
        for (_, transfer) in &transfers {
            transfer.flows()?;
        }
        println!(
            "nsupdate {old} -> {new}: the forwarders followed within {} ms, data flowed within \
             {} ms",
            served.as_millis(),
            start.elapsed().as_millis()
        );
        ensure!(served < FOLLOWED, "{served:?}");
    }
    for (family, transfer) in transfers {
        transfer.finish(&format!("handed over by nsupdate, {family}"))?;
    }
    bed.lab.end()
}

#[test]
fn nsupdate_hands_a_node_from_one_of_its_addresses_to_the_other() -> Result<()> {
    let bed = Testbed::new(Options::new()?)?;
    let laptop = bed.node("laptop", 10, 0, Locators::Exclusive)?;
    let user = bed.instance("user", 20, "c")?;
    let _server = serve(&bed, &laptop.host)?;
    let transfer = Transfer::start(&bed, &user.host, &laptop.home, PACE)?;
    let second = "198.51.100.195";
    laptop.host.ip(&format!("addr add {second}/28 dev eth0"))?;
    for locator in [second, &laptop.address] {
        let start = Instant::now();
        hand_to(&bed, &laptop.home, locator)?;
        wait_until(FOLLOWED, format!("the peer to send to {locator}"), || {
            let status = bed.status("c").ok()?;
            let mut contexts = status["contexts"].as_array()?.iter();
            let context = contexts.find(|context| context["peer"] == laptop.home.as_str())?;
            (context["remote"] == locator && context["state"] == "open").then_some(())
        })?;
        transfer.flows()?;
        println!("nsupdate to {locator}: {} ms", start.elapsed().as_millis());
    }
    transfer.finish("a node handed over by nsupdate")?;
    bed.lab.end()
}

/// A record that names a site where the instance is not: first a locator there that nobody has,
/// then one that is somebody else's.
#[test]
fn a_record_that_names_a_place_where_the_instance_is_not_is_shown_and_delivers_nothing()
-> Result<()> {
    let bed = Testbed::new(Options::new()?)?;
    let web = bed.instance("web", 10, "a")?;
    let other = bed.instance("other", 11, "b")?;
    let user = bed.instance("user", 20, "c")?;
    let config = bed.matctl_config(&[&web, &other, &user])?;
    let _server = serve(&bed, &web.host)?;
    let transfer = Transfer::start(&bed, &user.host, &web.home, PACE)?;
    let strays = Watch::on(
        &other.host,
        &[("strays", "ip saddr { 192.0.2.20, 198.51.100.128/26 }")],
    )?;
    let resets = Watch::on(&web.host, &[RESETS])?;
    other.host.pings("203.0.113.80")?;

    let here = locator(&bed.status("a")?, &web.home)?;
    let others = locator(&bed.status("b")?, &other.home)?;
    let free = bed.site("b").spec.locator(20);
    let stands_still = || {
        transfer.wait("it to stand still", |line| {
            line["up_quiet_ms"].as_u64() > Some(400) && line["down_quiet_ms"].as_u64() > Some(400)
        })
    };
    hand_to(&bed, &web.home, &free)?;
    bed.wait_for_state("a", &web.home, "not serving")?;
    let matctl = Cmd::new(bed.options().binaries.join("matctl"));
    let status = matctl.args(["status", "--config"]).arg(&config);
    let status = bed.map.run(status)?;
    let not_attached = format!("record {}: not attached", web.home);
    ensure!(
        status.contains(&not_attached) && status.contains(&format!("names {free}")),
        "{status}"
    );
    stands_still()?;
    // In use there: its site, which knows better, has it back, and nobody has the instance.
    hand_to(&bed, &web.home, &others)?;
    wait_until(SOON, "the record of the other one to come back", || {
        let back = shown(&bed, &other.home).ok()?.contains(&others);
        (back && shown(&bed, &web.home).ok()?.is_empty()).then_some(())
    })?;
    bed.wait_for_state("b", &other.home, "serving")?;
    stands_still()?;
    ensure!(
        strays.count("strays")? == 0,
        "delivered to the wrong instance"
    );

    // Above all that the forwarders have made of it.
    let epoch = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 60;
    let there_again = addition(&web.home, epoch, &here)?;
    let (done, said) = nsupdate(&bed, &operator(), &there_again)?;
    ensure!(done && said.contains("NOERROR"), "{said}");
    transfer.flows()?;
    ensure!(bed.home_state("a", &web.home)? == "serving");
    ensure!(
        strays.count("strays")? == 0,
        "delivered to the wrong instance"
    );
    ensure!(resets.count(RESETS.0)? == 0);
    ensure!(
        user.host.pings(&other.home)? && strays.count("strays")? > 0,
        "the watch is blind"
    );
    transfer.finish("the record named another place for a while")?;
    bed.lab.end()
}

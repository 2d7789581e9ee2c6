//! A locator gets another owner while somebody still sends to the old one.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use mat_netns::testbed::{Options, Testbed};
use mat_netns::{Signal, wait_until};

use crate::record::shown;
use mat_netns::testbed::{Transfer, serve};
use mat_netns::watch::Watch;

const SOON: Duration = Duration::from_secs(10);

/// web leaves site a while the peer's forwarder at site c is cut off from the mapping service and
/// hears no control message: it goes on sending to web's old locator. Site a gives that locator to
/// another instance, far too early (it is configured so). Not one packet may reach that instance.
#[test]
fn packets_for_the_old_owner_of_a_locator_never_reach_the_new_one() -> Result<()> {
    let bed = Testbed::new(Options {
        extra: "[limits]\ngrace_ms = 500\nquarantine_extra_s = 0\n".to_owned(),
        ..Options::new()?
    })?;
    let web = bed.instance("web", 10, "a")?;
    let user = bed.instance("user", 20, "c")?;
    let _server = serve(&bed, &web.host)?;
    let transfer = Transfer::start(&bed, &user.host, &web.home, "--tcp-rate-mbps 20")?;
    let locator = bed.site("a").spec.locator(1);
    ensure!(shown(&bed, &web.home)?.contains(&locator));

    // One locator in all, and a quarantine of a second.
    let site = bed.site("a");
    let text = fs::read_to_string(&site.config)?;
    let text = text
        .replace(&site.spec.pool()[0], &format!("{locator}/32"))
        .replace("trust =", "lease_s = 1\ntrust =");
    fs::write(&site.config, text)?;
    site.matd.signal(Signal::SIGHUP)?;
    site.matd.wait_for_log("configuration reloaded", SOON)?;

    bed.router.nft(
        "table inet cut {
           chain forward {
             type filter hook forward priority 0
             oifname \"c\" udp dport 6283 drop
             iifname \"c\" ip daddr 203.0.113.53 drop
           }
         }",
    )?;
    bed.move_instance(&web, "b")?;
    let next = bed.unattached("next", 11, "a")?;
    let attached = wait_until(SOON, "the locator to be free again", || {
        let words = ["attach", &next.home, "--interface", &next.interface];
        bed.matctl("a", &words).ok()
    })?;
    ensure!(attached.contains(&locator), "{attached}");
    let strays = Watch::on(
        &next.host,
        &[(
            "strays",
            "ip saddr { 192.0.2.20, 198.51.100.128/26, 198.51.100.64/26 }",
        )],
    )?;
    // It has a locator that works, and hears what is for it.
    wait_until(SOON, "the next owner to be reached", || {
        next.host.pings("203.0.113.80").ok()?.then_some(())
    })?;
    let to_locator = format!("ip saddr 198.51.100.128/26 ip daddr {locator}");
    let arrivals = Watch::on(&bed.site("a").host, &[("arrivals", &to_locator)])?;
    wait_until(SOON, "packets for the old owner to arrive", || {
        (arrivals.count("arrivals").ok()? > 100).then_some(())
    })?;
    ensure!(strays.count("strays")? == 0, "delivered to the next owner");

    bed.router.nft("delete table inet cut")?;
    transfer.flows()?;
    ensure!(strays.count("strays")? == 0, "delivered to the next owner");
    transfer.finish("the old locator was given to somebody else")?;
    // The two can talk to each other, each under its own name.
    ensure!(user.host.pings(&next.home)? && user.host.pings(&web.home)?);
    ensure!(strays.count("strays")? > 0, "the watch is blind");
    bed.lab.end()
}

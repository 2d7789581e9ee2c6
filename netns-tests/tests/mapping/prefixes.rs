//! Forwarders that are told by the zone which prefixes there are.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mat_netns::testbed::{Options, Testbed, Transfer, serve};
use mat_netns::wait_until;
use nix::sys::signal::Signal;

use crate::record::{nsupdate, operator};

const SOON: Duration = Duration::from_secs(15);
const PACE: &str = "--tcp-rate-mbps 50";

const LOCATORS: &str = "1:198.51.100.0/24 2:2001:db8:a::/47 2:2001:db8:c::/47";

/// Has the zone say where homes are.
fn say(bed: &Testbed, homes: &str) -> Result<()> {
    say_both(bed, homes, LOCATORS)
}

/// Has the zone say where homes and locators are.
fn say_both(bed: &Testbed, homes: &str, locators: &str) -> Result<()> {
    let (done, said) = nsupdate(
        bed,
        &operator(),
        &format!(
            "update delete _home.map.example. APL\nupdate delete _loc.map.example. APL\n\
             update add _home.map.example. 300 APL {homes} 2:2001:db8:1::/64\n\
             update add _loc.map.example. 300 APL {locators}"
        ),
    )?;
    ensure!(done && said.contains("NOERROR"), "{said}");
    Ok(())
}

#[test]
fn prefixes_are_what_the_zone_says_and_follow_it() -> Result<()> {
    let mut bed = Testbed::new(Options::new()?)?;
    let reloaded = |bed: &Testbed, site: &str| -> Result<()> {
        let site = bed.site(site);
        site.matd.signal(Signal::SIGHUP)?;
        site.matd.wait_for_log("configuration reloaded", SOON)
    };
    for site in &bed.sites {
        let text = std::fs::read_to_string(&site.config)?;
        let kept = text.lines().filter(|line| !line.starts_with("prefixes = "));
        let kept: String = kept.map(|line| format!("{line}\n")).collect();
        std::fs::write(
            &site.config,
            kept.replacen("[mapping]", "[mapping]\npoll_ms = 200", 1),
        )?;
        ensure!(text != std::fs::read_to_string(&site.config)?);
    }
    // It says nothing yet, so nothing changes.
    let a = &bed.site("a").matd;
    a.signal(Signal::SIGHUP)?;
    a.wait_for_log("_home.map.example. has no APL record", SOON)?;

    say(&bed, "1:192.0.2.0/25")?;
    for site in ["a", "b", "c"] {
        reloaded(&bed, site)?;
    }
    let web = bed.instance("web", 10, "a")?;
    let user = bed.instance("user", 20, "c")?;
    let _server = serve(&bed, &web.host)?;
    let transfer = Transfer::start(&bed, &user.host, &web.home, PACE)?;
    bed.move_instance(&web, "b")?;
    transfer.flows()?;

    // Only from now on can it be a home.
    let late = bed.unattached("late", 140, "a")?;
    let refused = bed.attach(&late, "a", &[]).err();
    let refused = format!("{:#}", refused.context("attached")?);
    ensure!(refused.contains("192.0.2.140"), "{refused}");
    say(&bed, "1:192.0.2.0/24")?;
    for site in ["a", "b", "c"] {
        let matd = &bed.site(site).matd;
        matd.wait_for_log("the zone says other prefixes: taken up", SOON)?;
    }
    bed.attach(&late, "a", &[])?;
    let _late_server = serve(&bed, &late.host)?;
    let late_transfer = Transfer::start(&bed, &user.host, &late.home, PACE)?;
    late_transfer.flows()?;

    // What cannot be is said once, and what was before goes on.
    let a = &bed.site("a").matd;
    say_both(&bed, "1:192.0.2.0/24", "1:192.0.2.0/25 2:2001:db8:a::/47")?;
    let wrong = "locators.prefixes (the APL records of _loc)";
    a.wait_for_log(wrong, SOON)?;
    say(&bed, "1:192.0.2.0/24")?;
    a.wait_for_log("the zone says again what is in force", SOON)?;
    ensure!(a.log().matches(wrong).count() == 1, "{}", a.log());
    transfer.flows()?;

    // A prefix with an instance here is gone, and comes back.
    say(&bed, "1:192.0.2.0/25")?;
    a.wait_for_log(
        "192.0.2.140 is attached here and in none of these home prefixes",
        SOON,
    )?;
    let status = bed.status("a")?;
    let mut homes = status["homes"].as_array().into_iter().flatten();
    let outside = homes.any(|own| own["home"] == late.home.as_str() && own["outside"] == true);
    ensure!(outside, "{status:#}");
    say(&bed, "1:192.0.2.0/24")?;
    late_transfer.flows()?;

    // Without the mapping service a forwarder goes by what the zone said last.
    bed.mapd.kill()?;
    bed.site("b").matd.kill()?;
    bed.restart_matd("b")?;
    transfer.flows()?;
    bed.site("a")
        .matd
        .wait_for_log("going on with what it said last", SOON)?;
    bed.restart_mapd()?;
    wait_until(SOON, "b to serve what moved there", || {
        (bed.home_state("b", &web.home).ok()? == "serving").then_some(())
    })?;
    transfer.finish("prefixes from the zone")?;
    late_transfer.finish("a prefix that came later")?;
    bed.lab.end()
}

//! `matctl map watch` shows what is pushed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mat_netns::testbed::{Options, Testbed};
use mat_netns::{Cmd, wait_until};

const SOON: Duration = Duration::from_secs(15);

#[test]
fn every_change_below_a_prefix_is_shown_and_what_is_gone_after_an_interruption() -> Result<()> {
    let mut bed = Testbed::new(Options::new()?)?;
    let web = bed.instance("web", 10, "a")?;
    let other = bed.instance("other", 140, "b")?;
    let config = bed.matctl_config(&[&web, &other])?;
    let watch = Cmd::new(bed.options().binaries.join("matctl"))
        .args(["map", "watch", "192.0.2.0/25", "--json", "--config"])
        .arg(&config)
        .name("watch");
    let watch = bed.map.spawn(watch)?;
    let at = |site: &str| format!("\"locator\":\"{}\"", bed.site(site).spec.locator(1));
    watch.wait_for_log(&at("a"), SOON)?;
    bed.move_instance(&web, "b")?;
    // Nothing is asked once a second: all of the move is there.
    watch.wait_for_log(&format!("\"home\":\"{}\"", web.home), SOON)?;
    let moved = || {
        let log = watch.log();
        let lines: Vec<&str> = log.lines().collect();
        let standby = lines
            .iter()
            .any(|line| line.matches("\"locator\"").count() == 2);
        let there = lines.last()?.matches("\"locator\"").count() == 1;
        (standby && there && lines.len() >= 3).then_some(())
    };
    wait_until(SOON, "all of the move to be shown", moved).with_context(|| watch.log())?;
    ensure!(!watch.log().contains(&other.home), "{}", watch.log());

    bed.mapd.kill()?;
    watch.wait_for_log("still trying", SOON)?;
    bed.site("b").matd.kill()?;
    bed.restart_mapd()?;
    watch.wait_for_log("pushes again", SOON)?;
    let delete = Cmd::new(bed.options().binaries.join("matctl"));
    let delete = delete
        .args(["map", "delete", &web.home, "--config"])
        .arg(&config);
    bed.map.run(delete)?;
    watch.wait_for_log("\"binding\":null", SOON)?;
    let shared = Cmd::new(bed.options().binaries.join("matctl"));
    let shared = shared.args(["map", "set", "192.0.2.0/24", "198.18.240.0", "--config"]);
    bed.map.run(shared.arg(&config))?;
    watch.wait_for_log("\"home\":\"192.0.2.0/24\"", SOON)?;
    watch.kill()?;
    bed.lab.end()
}

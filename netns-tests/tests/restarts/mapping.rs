//! `mat-mapd` goes away in the middle of transfers and comes back.

use std::time::Duration;

use anyhow::{Result, ensure};
use mat_netns::testbed::{Options, Testbed};
use mat_netns::wait_until;

use mat_netns::testbed::{Transfer, serve};

const SOON: Duration = Duration::from_secs(15);

/// What the forwarder of `site` thinks of the mapping service.
fn wait_for_reachable(bed: &Testbed, site: &str, reachable: bool) -> Result<()> {
    let what = format!("{site} to say that the mapping service is reachable: {reachable}");
    wait_until(SOON, what, || {
        let mapping = bed.status(site).ok()?["mapping"].clone();
        // Whoever says no says why.
        (mapping["reachable"] == reachable && mapping["fault"].is_string() != reachable)
            .then_some(())
    })
}

fn records(bed: &Testbed) -> Result<Vec<String>> {
    ["10.2.0.192.h4", "20.2.0.192.h4"]
        .iter()
        .map(|owner| {
            bed.map.run(format!(
                "dig +short @203.0.113.53 {owner}.map.example. SVCB"
            ))
        })
        .collect()
}

#[test]
fn flows_outlive_the_mapping_service_and_it_forgets_nothing() -> Result<()> {
    let mut bed = Testbed::new(Options::new()?)?;
    let web = bed.instance("web", 10, "a")?;
    let user = bed.instance("user", 20, "c")?;
    let _server = serve(&bed, &web.host)?;
    // The last change it acknowledges before it dies.
    bed.move_instance(&web, "b")?;
    let transfer = Transfer::start(&bed, &user.host, &web.home, "--tcp-rate-mbps 100")?;
    let before = records(&bed)?;
    bed.mapd.kill()?;

    for site in ["b", "c"] {
        wait_for_reachable(&bed, site, false)?;
    }
    transfer.flows()?;

    let error = match bed.move_instance(&web, "a") {
        Ok(moved) => anyhow::bail!("moved without a mapping service: {moved}"),
        Err(error) => format!("{error:#}"),
    };
    println!("{error}");
    ensure!(error.contains("mapping service"), "unclear: {error}");
    ensure!(!error.contains("ROLL-BACK FAILED"), "{error}");
    for home in [&web.home, &web.home6] {
        ensure!(bed.home_state("b", home)? == "serving");
    }
    transfer.flows()?;

    bed.restart_mapd()?;
    ensure!(
        records(&bed)? == before,
        "{:?} was {before:?}",
        records(&bed)?
    );
    for site in ["b", "c"] {
        wait_for_reachable(&bed, site, true)?;
    }
    transfer.flows()?;
    let report = transfer.finish("mapping service restarted")?;
    let stall = report["tcp"]["longest_stall_ms"].as_f64();
    ensure!(stall < Some(1000.0), "the longest stall was {stall:?} ms");
    println!("{}", bed.move_instance(&web, "a")?);
    ensure!(user.host.pings(&web.home)?, "no answer from a");
    bed.lab.end()
}

//! A forwarder that believes what DNSSEC proves, and nothing else.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mat_netns::testbed::{Options, Testbed, Transfer, serve};
use mat_netns::{Cmd, wait_until};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(15);

#[test]
fn a_forwarder_believes_what_is_proved_from_its_anchor_and_nothing_else() -> Result<()> {
    // What is pushed is believed for another reason.
    let mut bed = Testbed::new(Options {
        push: false,
        ..Options::new()?
    })?;
    let make_key = "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out";
    let key = bed.lab.dir().join("map.example.pem");
    bed.map.run(Cmd::from(make_key).arg(&key))?;
    let config = fs::read_to_string(&bed.mapd_config)?;
    let signed = config.replacen("[[key]]", "[dnssec]\nkey = \"map.example.pem\"\n[[key]]", 1);
    fs::write(&bed.mapd_config, signed)?;
    bed.mapd.stop(SOON)?;
    bed.restart_mapd()?;
    let ds = || {
        let mapd = Cmd::new(bed.options().binaries.join("mat-mapd"));
        bed.map
            .run(mapd.arg("--config").arg(&bed.mapd_config).arg("ds"))
    };
    let anchor = bed.lab.write("map.example.anchor", ds()?)?;
    let matd = bed.site("c").config.clone();
    let proved = fs::read_to_string(&matd)?.replace(
        "trust = \"tsig\"",
        "trust = \"dnssec\"\nanchor = \"map.example.anchor\"",
    );
    fs::write(&matd, proved)?;
    let reload = |bed: &Testbed| -> Result<()> {
        bed.site("c").matd.signal(Signal::SIGHUP)?;
        bed.site("c")
            .matd
            .wait_for_log("configuration reloaded", SOON)
    };
    reload(&bed)?;

    // It claims, is reached, and follows a move.
    let web = bed.instance("web", 10, "a")?;
    let user = bed.instance("user", 20, "c")?;
    let _server = serve(&bed, &web.host)?;
    let transfer = Transfer::start(&bed, &user.host, &web.home, "--tcp-rate-mbps 20")?;
    bed.move_instance(&web, "b")?;
    transfer.flows()?;
    transfer.finish("a peer that believes what is proved")?;
    let said = bed.matctl("c", &["status"])?;
    ensure!(said.contains("answers, trust dnssec"), "{said}");

    // Another key: nothing it says counts.
    bed.map.run(Cmd::from(make_key).arg(&key))?;
    fs::write(&anchor, ds()?)?;
    bed.site("c").matd.kill()?;
    bed.restart_matd("c")?;
    wait_until(SOON, "the forwarder to believe nothing", || {
        let said = bed.matctl("c", &["status"]).ok()?;
        said.contains("ANSWERS ARE NOT PROVED").then_some(())
    })
    .with_context(|| bed.matctl("c", &["status"]).unwrap_or_default())?;
    bed.lab.end()
}

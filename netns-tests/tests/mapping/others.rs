//! BIND and Knot as the mapping service, with the configurations of `docs/other-servers`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use mat_netns::testbed::{OPERATOR_SECRET, Options, Testbed, Transfer, serve};
use mat_netns::{Cmd, Process, dns_servers, wait_until};

use crate::record::{hand_to, shown};

const PATIENCE: Duration = Duration::from_secs(20);
const PACE: &str = "--tcp-rate-mbps 50";

/// Puts another server in mat-mapd's place.
fn replace(bed: &Testbed, program: Cmd, config: &str) -> Result<Process> {
    bed.mapd.stop(PATIENCE)?;
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/other-servers");
    let folder = bed.lab.dir().join("other");
    std::fs::create_dir(&folder)?;
    let zone = "map.example.zone";
    std::fs::copy(docs.join(zone), folder.join(zone))?;
    let mut text = std::fs::read_to_string(docs.join(config))?
        .replace("DIRECTORY", &folder.display().to_string())
        .replace("SECRET-OPERATOR", OPERATOR_SECRET);
    for site in &bed.sites {
        let letter = site.spec.name.to_uppercase();
        text = text.replace(&format!("SECRET-{letter}"), &site.spec.secret());
    }
    let path: PathBuf = folder.join(config);
    std::fs::write(&path, text)?;
    let foreground = if config == "named.conf" {
        &["-g"][..]
    } else {
        &[]
    };
    let server = bed
        .map
        .spawn(program.args(foreground).arg("-c").arg(path))?;
    let asked = wait_until(PATIENCE, "the other server", || {
        let soa = bed
            .map
            .run("dig @203.0.113.53 map.example SOA +short +time=1 +tries=1");
        soa.ok()
            .filter(|text| text.contains("hostmaster"))
            .map(drop)
    });
    ensure!(asked.is_ok(), "{}", server.log());
    Ok(server)
}

/// Instances are attached, moved by `matctl` and by `nsupdate` while they are used, and detached.
fn serves(program: &str, config: &str) -> Result<()> {
    if !dns_servers::is_here(program) {
        return Ok(());
    }
    let program = dns_servers::program(program)?.cmd();
    let bed = Testbed::new(Options::new()?)?;
    let _other = replace(&bed, program, config)?;
    let web = bed.instance("web", 10, "a")?;
    let user = bed.instance("user", 20, "c")?;
    ensure!(bed.status("a")?["mapping"]["authenticated"] == true);
    let _server = serve(&bed, &web.host)?;
    let transfers = Transfer::both(&bed, &user, &web, PACE)?;
    for to in ["b", "a"] {
        let said = bed.move_instance(&web, to)?;
        ensure!(said.contains("moved"), "{said}");
        for (_, transfer) in &transfers {
            transfer.flows()?;
        }
    }
    // By hand: the same place with a higher epoch.
    let home = &user.home;
    let before = shown(&bed, home)?;
    let locator = before
        .split("ipv4hint=")
        .nth(1)
        .and_then(|t| t.split(' ').next());
    hand_to(&bed, home, locator.unwrap_or_default())?;
    for (family, transfer) in transfers {
        transfer.flows()?;
        transfer.finish(family)?;
    }
    bed.matctl("a", &["detach", &web.home])?;
    ensure!(shown(&bed, &web.home)?.is_empty());
    bed.lab.end()
}

#[test]
fn bind_is_a_mapping_service() -> Result<()> {
    serves("named", "named.conf")
}

#[test]
fn knot_is_a_mapping_service() -> Result<()> {
    serves("knotd", "knot.conf")
}

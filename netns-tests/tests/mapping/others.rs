//! BIND and Knot as the mapping service, with the configurations of `docs/other-servers`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use mat_netns::testbed::{OPERATOR_SECRET, Options, Testbed, Transfer, serve};
use mat_netns::{Cmd, Process, dns_servers, wait_until};
use nix::sys::signal::Signal;

use crate::record::{hand_to, shown};

const PATIENCE: Duration = Duration::from_secs(20);
const PACE: &str = "--tcp-rate-mbps 50";

/// Puts another server in mat-mapd's place.
fn replace(bed: &Testbed, program: Cmd, config: &str) -> Result<Process> {
    bed.mapd.stop(PATIENCE)?;
    start(
        bed,
        program,
        config,
        "map.example.zone",
        ("203.0.113.53", "map.example"),
    )
}

/// Starts a server that serves the zone in this file, and waits until it answers for it.
fn start(
    bed: &Testbed,
    program: Cmd,
    config: &str,
    zone: &str,
    (address, name): (&str, &str),
) -> Result<Process> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/other-servers");
    let folder = bed.lab.dir().join("other");
    std::fs::create_dir(&folder)?;
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
    let foreground = if config == "knot.conf" {
        &[]
    } else {
        &["-g"][..]
    };
    let host = if address == "203.0.113.53" {
        &bed.map
    } else {
        &bed.plain
    };
    let server = host.spawn(program.args(foreground).arg("-c").arg(path))?;
    let asked = wait_until(PATIENCE, "the other server", || {
        let words = format!("dig @{address} {name} SOA +short +time=1 +tries=1");
        host.run(words)
            .ok()
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

/// Whoever has the reverse zone says which zone speaks for a home, and no more than that.
#[test]
fn bindings_are_found_through_the_reverse_tree() -> Result<()> {
    const ZONE: &str = "2.0.192.in-addr.arpa";
    if !dns_servers::is_here("named") {
        return Ok(());
    }
    let program = dns_servers::program("named")?.cmd();
    let bed = Testbed::new(Options::new()?)?;
    let file = format!("{ZONE}.zone");
    let resolver = start(&bed, program, "reverse.conf", &file, ("203.0.113.80", ZONE))?;

    let matctl = |args: &str| -> Result<(bool, String)> {
        let config = bed.lab.write(
            "reverse.toml",
            "[mapping]\nservers = [\"203.0.113.80:53\"]\nzone = \"in-addr.arpa.\"\n",
        )?;
        let matctl = Cmd::new(bed.options().binaries.join("matctl"));
        let output = bed
            .plain
            .exec(matctl.args(args.split(' ')).arg("--config").arg(config))?;
        let text = [output.stdout, output.stderr].concat();
        Ok((
            output.status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        ))
    };
    let web = bed.instance("web", 10, "a")?;
    let user = bed.instance("user", 140, "c")?;
    let (found, said) = matctl("map get 192.0.2.10")?;
    ensure!(found && said.contains("198.51.100."), "{said}");
    for unbound in ["192.0.2.11", "192.0.2.12"] {
        let (found, said) = matctl(&format!("map get {unbound}"))?;
        ensure!(!found && said.contains("is not bound"), "{said}");
    }
    let (changed, said) = matctl("map set 192.0.2.10 198.51.100.1")?;
    ensure!(
        !changed && said.contains("only found through in-addr.arpa."),
        "{said}"
    );

    for words in ["map list", "map watch 192.0.2.10", "map history"] {
        let (done, said) = matctl(words)?;
        ensure!(
            !done && said.contains("only found through"),
            "{words}: {said}"
        );
    }

    // A forwarder that goes by it.
    let c = bed.site("c");
    let mut text = std::fs::read_to_string(&c.config)?;
    let others = text.clone()
        + "[[zone]]\nhomes = [\"192.0.2.0/25\"]\nservers = [\"203.0.113.80:53\"]\n\
           zone = \"10.in-addr.arpa.\"\ntrust = \"network\"\n";
    std::fs::write(&c.config, others)?;
    c.matd.signal(Signal::SIGHUP)?;
    c.matd
        .wait_for_log("this is the reverse zone of 10.0.0.0/8", PATIENCE)?;
    text += "[[zone]]\nhomes = [\"192.0.2.0/25\"]\nservers = [\"203.0.113.80:53\"]\n\
             zone = \"in-addr.arpa.\"\ntrust = \"network\"\n";
    std::fs::write(&c.config, text)?;
    c.matd.signal(Signal::SIGHUP)?;
    c.matd.wait_for_log("configuration reloaded", PATIENCE)?;
    let _server = serve(&bed, &web.host)?;
    let transfer = Transfer::start(&bed, &user.host, &web.home, PACE)?;
    bed.move_instance(&web, "b")?;
    transfer.flows()?;
    transfer.finish("found through the reverse tree")?;

    // To somebody else's owner name.
    let zone = bed.lab.dir().join("other").join(&file);
    let text = std::fs::read_to_string(&zone)?;
    let astray = text
        .replace(" 1 3600 600", " 2 3600 600")
        .replace("CNAME 11.2", "CNAME 10.2");
    std::fs::write(&zone, astray)?;
    resolver.signal(Signal::SIGHUP)?;
    wait_until(PATIENCE, "the alias that leads astray", || {
        let (found, said) = matctl("map get 192.0.2.11").ok()?;
        (!found && said.contains("which is not the owner name")).then_some(())
    })?;
    bed.lab.end()
}

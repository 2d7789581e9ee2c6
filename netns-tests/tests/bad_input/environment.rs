//! A machine that lacks something, or has something too many.

use std::time::Duration;

use anyhow::Result;
use mat_netns::Cmd;
use mat_netns::testbed::{Options, Site, Testbed};

use crate::complaint::{changed, complaint, says};

fn matd(bed: &Testbed, config: &std::path::Path) -> Cmd {
    Cmd::new(bed.options().binaries.join("matd"))
        .arg("--config")
        .arg(config)
}

/// Site b, without its forwarder.
fn vacant(bed: &Testbed) -> Result<&Site> {
    let site = bed.site("b");
    site.matd.stop(Duration::from_secs(5))?;
    Ok(site)
}

/// Nothing of a forwarder that failed to start is there.
fn nothing_left(site: &Site) -> Result<()> {
    let left = site.host.ip("link
rule
route show table all")?;
    assert!(
        !left.contains("mat0") && !left.contains("proto 77"),
        "{left}"
    );
    Ok(())
}

#[test]
fn without_a_tun_device_matd_says_how_to_get_one() -> Result<()> {
    let bed = Testbed::new(Options::new()?)?;
    let site = vacant(&bed)?;
    let script = "mount -t tmpfs none /dev/net && exec \"$@\"";
    let shell = Cmd::new("unshare").words("-m sh -c").arg(script).arg("sh");
    let inner = [
        bed.options().binaries.join("matd"),
        "--config".into(),
        site.config.clone(),
    ];
    let said = complaint(&site.host, shell.args(inner))?;
    says(&said, &["/dev/net/tun is missing", "modprobe tun", "mknod"]);
    nothing_left(site)?;
    bed.lab.end()
}

#[test]
fn without_privileges_matd_says_which_it_needs() -> Result<()> {
    let bed = Testbed::new(Options::new()?)?;
    let site = vacant(&bed)?;
    let matd = bed.options().binaries.join("matd");
    let without = |capability: &str| {
        let words = format!("--bounding-set -{capability} --inh-caps -{capability}");
        let setpriv = Cmd::new("setpriv").words(&words).arg(&matd);
        complaint(&site.host, setpriv.arg("--config").arg(&site.config))
    };
    let said = without("net_admin")?;
    says(
        &said,
        &["TUN device mat0", "not permitted", "CAP_NET_ADMIN"],
    );
    nothing_left(site)?;
    bed.lab.end()
}

#[test]
fn without_a_usable_control_socket_matd_does_not_stay() -> Result<()> {
    let bed = Testbed::new(Options::new()?)?;
    let site = vacant(&bed)?;
    let own = site.socket.display().to_string();
    let file = changed(&site.config, &own, "/dev/null/matd.sock")?;
    let said = complaint(&site.host, matd(&bed, &file))?;
    says(
        &said,
        &[
            "control socket /dev/null/matd.sock",
            "cannot make its folder",
        ],
    );
    nothing_left(site)?;
    let taken = bed.site("a").socket.display().to_string();
    let file = changed(&site.config, &own, &taken)?;
    let said = complaint(&site.host, matd(&bed, &file))?;
    says(&said, &[&taken, "another matd answers there"]);
    nothing_left(site)?;
    assert!(
        bed.matctl("a", &["status"]).is_ok(),
        "the other's socket is gone"
    );
    bed.lab.end()
}

#[test]
fn without_its_uplink_matd_names_it() -> Result<()> {
    let bed = Testbed::new(Options::new()?)?;
    let site = vacant(&bed)?;
    let file = changed(&site.config, "uplink = \"eth0\"", "uplink = \"eth7\"")?;
    says(&complaint(&site.host, matd(&bed, &file))?, &["eth7"]);
    nothing_left(site)?;
    bed.lab.end()
}

#[test]
fn a_second_matd_leaves_the_first_alone() -> Result<()> {
    let bed = Testbed::new(Options::new()?)?;
    let (web, user) = (
        bed.instance("web", 10, "a")?,
        bed.instance("user", 20, "c")?,
    );
    let site = bed.site("a");
    let before = site.host.ip("rule")? + &site.host.ip("route show table all")?;
    says(
        &complaint(&site.host, matd(&bed, &site.config))?,
        &["state directory", "state_dir"],
    );
    let state = bed.lab.dir().join("state-a").display().to_string();
    let elsewhere = bed.lab.dir().join("elsewhere").display().to_string();
    let file = changed(&site.config, &state, &elsewhere)?;
    says(
        &complaint(&site.host, matd(&bed, &file))?,
        &["another matd answers there"],
    );
    let file = changed(
        &file,
        &site.socket.display().to_string(),
        &format!("{elsewhere}.sock"),
    )?;
    says(
        &complaint(&site.host, matd(&bed, &file))?,
        &["mat0", "in use", "another matd"],
    );
    let file = changed(&file, "[homes]", "[tun]\nname = \"mat1\"\n[homes]")?;
    let said = complaint(&site.host, matd(&bed, &file))?;
    says(&said, &["another matd serves this network namespace"]);
    assert!(
        !site.host.ip("link")?.contains("mat1"),
        "the second one's device is still there"
    );
    assert_eq!(
        site.host.ip("rule")? + &site.host.ip("route show table all")?,
        before
    );
    assert!(site.matd.is_running() && user.host.pings(&web.home)?);
    bed.lab.end()
}

#[test]
fn a_second_mat_mapd_leaves_the_first_alone() -> Result<()> {
    let bed = Testbed::new(Options::new()?)?;
    let listen = "\"203.0.113.53:853\", \"[2001:db8:53::53]:853\"";
    let (plain, tls) = (
        "listen = [\"203.0.113.53:53\", \"[2001:db8:53::53]:53\"]",
        format!("listen = [{listen}]"),
    );
    let mapd = |file: &std::path::Path| {
        let mapd = Cmd::new(bed.options().binaries.join("mat-mapd"));
        complaint(&bed.map, mapd.arg("--config").arg(file))
    };
    let elsewhere = bed.lab.dir().join("elsewhere").display().to_string();
    let data = bed.lab.dir().join("mapd").display().to_string();
    let file = changed(&bed.mapd_config, &data, &elsewhere)?;
    says(&mapd(&file)?, &["203.0.113.53:53", "in use"]);
    let file = changed(&bed.mapd_config, plain, "listen = [\"203.0.113.53:54\"]")?;
    says(
        &mapd(&file)?,
        &["203.0.113.53:853", "in use", "`tls.listen`"],
    );
    let file = changed(&file, &tls, "listen = [\"203.0.113.53:854\"]")?;
    says(&mapd(&file)?, &[&data]);
    let file = changed(&bed.mapd_config, "203.0.113.53:53", "203.0.113.54:53")?;
    says(&mapd(&file)?, &["203.0.113.54:53"]);
    let answer = bed
        .plain
        .run("dig +short +timeout=2 @203.0.113.53 map.example. SOA")?;
    says(&answer, &["map.example."]);
    assert!(bed.mapd.is_running());
    bed.lab.end()
}

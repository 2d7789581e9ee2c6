//! Two zones, each with a service and keys of its own, share the home addresses.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mat_netns::testbed::{Options, Testbed, Transfer, serve};
use mat_netns::{Cmd, wait_until};

const SOON: Duration = Duration::from_secs(15);

/// 32 octets that only the other zone knows.
const SECRET: &str = "dGVuYW50dGVuYW50dGVuYW50dGVuYW50dGVuYW50dGU=";

/// IPv4 homes from 128 up are in the zone of a tenant, whose service runs at 203.0.113.80.
fn zoned() -> Result<Options> {
    Ok(Options {
        extra: format!(
            "[[zone]]\nhomes = [\"192.0.2.128/25\"]\nservers = [\"203.0.113.80:53\"]\n\
             zone = \"tenant.example.\"\ntrust = \"tsig\"\n\
             key = {{ name = \"tenant.\", algorithm = \"hmac-sha256\", secret = \"{SECRET}\" }}\n"
        ),
        ..Options::new()?
    })
}

#[test]
fn each_home_is_registered_in_the_zone_that_speaks_for_it() -> Result<()> {
    let bed = Testbed::new(zoned()?)?;
    let config = bed.lab.write(
        "tenant.toml",
        format!(
            "zone = \"tenant.example.\"\nlisten = [\"203.0.113.80:53\"]\ndata_dir = \"{}\"\n\
             [[key]]\nname = \"tenant\"\nsecret = \"{SECRET}\"\nhomes = [\"192.0.2.128/25\"]\n\
             locators = [\"198.51.100.0/24\"]\n",
            bed.lab.dir().join("tenant").display()
        ),
    )?;
    let mapd = Cmd::new(bed.options().binaries.join("mat-mapd"));
    let mapd = mapd.arg("--config").arg(config).name("tenant-mapd");
    let tenant = bed.plain.spawn(mapd)?;
    tenant.wait_for_log("ready", SOON)?;

    let web = bed.instance("web", 10, "a")?;
    let guest = bed.instance("guest", 140, "a")?;
    let user = bed.instance("user", 20, "c")?;
    let tsig = |name: &str, secret: &str| format!("-y hmac-sha256:{name}:{secret}");
    let operator = tsig("operator", mat_netns::testbed::OPERATOR_SECRET);
    let shown = |key: &str, server: &str, name: &str| {
        let words = format!("dig +short {key} @{server} {name} SVCB");
        bed.router.run(Cmd::from(words))
    };
    let tenants = tsig("tenant", SECRET);
    let registered = |zone: &str, number: u8| match zone {
        "map" => shown(
            &operator,
            "203.0.113.53",
            &format!("{number}.2.0.192.h4.map.example."),
        ),
        _ => shown(
            &tenants,
            "203.0.113.80",
            &format!("{number}.2.0.192.h4.tenant.example."),
        ),
    };
    ensure!(registered("map", 10)?.contains("198.51.100."));
    ensure!(registered("tenant", 140)?.contains("198.51.100."));
    for (zone, number) in [("map", 140), ("tenant", 10)] {
        let said = registered(zone, number)?;
        ensure!(
            !said.contains("198.51.100."),
            "{number} is in {zone}: {said}"
        );
    }

    // Both are reached, and both move.
    let _servers = [serve(&bed, &web.host)?, serve(&bed, &guest.host)?];
    let pace = "--tcp-rate-mbps 20";
    let transfers = [
        Transfer::start(&bed, &user.host, &web.home, pace)?,
        Transfer::start(&bed, &user.host, &guest.home, pace)?,
    ];
    for instance in [&web, &guest] {
        bed.move_instance(instance, "b")?;
    }
    transfers.iter().try_for_each(Transfer::flows)?;

    // Without the tenant's service its homes stay where they are, and the others still move.
    tenant.kill()?;
    wait_until(SOON, "site b to notice", || {
        let said = bed.matctl("b", &["status"]).ok()?;
        said.contains("zone tenant.example.: ").then_some(())
    })
    .with_context(|| bed.matctl("b", &["status"]).unwrap_or_default())?;
    let refused = bed.move_instance(&guest, "a");
    let refused = format!("{:#}", refused.err().context("it moved")?);
    ensure!(refused.contains("zone tenant.example."), "{refused}");
    bed.move_instance(&web, "a")?;
    for (transfer, what) in transfers.into_iter().zip(["web", "guest"]) {
        transfer.flows()?;
        transfer.finish(what)?;
    }
    bed.lab.end()
}

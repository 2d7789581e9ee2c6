//! A whole prefix of homes with one binding: one message moves them all.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use mat_netns::Cmd;
use mat_netns::testbed::{Instance, Options, Testbed, Transfer, serve};

use crate::by_hand::{attach_twice, send_by};
use crate::record::{epoch, nsupdate, operator, owner, shown};

const PACE: &str = "--tcp-rate-mbps 50";
const HOMES: &str = "192.0.2.0/24";
const SHARED: &str = "*.2.0.192.h4.map.example.";

/// Has all homes be at the locators that begin with this one, unless that has changed, as somebody
/// does who has `nsupdate` alone.
fn put(bed: &Testbed, before: Option<&str>, epoch: u64, first: &str) -> Result<String> {
    let record = format!(
        "1 . port=6283 ipv4hint={first} key65280=\"{epoch}\" key65281=\"native\" \
         key65282=\"30\" key65283=\"24\""
    );
    let prerequisite = match before {
        Some(before) => format!("prereq yxrrset {SHARED} SVCB {before}"),
        None => format!("prereq nxrrset {SHARED} SVCB"),
    };
    let (done, said) = nsupdate(
        bed,
        &operator(),
        &format!(
            "{prerequisite}\nupdate delete {SHARED} SVCB\nupdate add {SHARED} 0 SVCB {record}"
        ),
    )?;
    ensure!(done && said.contains("NOERROR"), "{said}");
    Ok(record)
}

#[test]
fn a_prefix_moves_with_one_message_and_a_home_can_leave_it() -> Result<()> {
    let bed = Testbed::new(Options {
        crowded: true,
        ..Options::new()?
    })?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let at_a = put(&bed, None, now, "198.18.0.0")?;
    let instance = |name: &str, number: u8| -> Result<Instance> {
        let instance = bed.unattached(name, number, "a")?;
        let words = ["attach", &instance.home, "--interface", &instance.interface];
        bed.matctl("a", &[&words[..], &["--no-claim"]].concat())?;
        let words = [
            "attach",
            &instance.home6,
            "--interface",
            &instance.interface,
        ];
        bed.matctl("a", &words)?;
        bed.wait_for_state("a", &instance.home, "serving")?;
        attach_twice(&bed, &instance, "b")?;
        Ok(instance)
    };
    let moving = [instance("web", 10)?, instance("db", 11)?];
    // Who claims has a binding of its own, although one reads the shared one before.
    let user = bed.instance("user", 20, "c")?;
    ensure!(shown(&bed, &user.home)?.contains("ipv4hint=198.18.128."));
    let status = bed.status("a")?;
    for instance in &moving {
        let last = instance.home.rsplit('.').next().unwrap_or_default();
        let (home, place) = (instance.home.as_str(), format!("198.18.0.{last}"));
        let mut homes = status["homes"].as_array().into_iter().flatten();
        ensure!(
            homes.any(|own| own["home"] == home && own["reserved"][0] == place.as_str()),
            "{home} is not at {place}: {status:#}"
        );
    }

    let _servers = [serve(&bed, &moving[0].host)?, serve(&bed, &moving[1].host)?];
    let transfers = [
        Transfer::start(&bed, &user.host, &moving[0].home, PACE)?,
        Transfer::start(&bed, &user.host, &moving[1].home, PACE)?,
    ];
    let flow = || transfers.iter().try_for_each(Transfer::flows);
    put(&bed, Some(&at_a), now + 1, "198.18.64.0")?;
    for instance in &moving {
        bed.wait_for_state("b", &instance.home, "serving")?;
        bed.wait_for_state("a", &instance.home, "not serving")?;
        send_by(instance, "eth1")?;
    }
    flow()?;

    // One goes back by itself, the other one with everybody.
    let web = &moving[0];
    bed.matctl("a", &["detach", &web.home])?;
    let words = ["attach", &web.home, "--interface", &web.interface];
    bed.matctl("a", &words)?;
    bed.wait_for_state("a", &web.home, "serving")?;
    bed.wait_for_state("b", &web.home, "not serving")?;
    send_by(web, "eth0")?;
    flow()?;
    let own = shown(&bed, &web.home)?;
    ensure!(!own.contains("key65283") && epoch(&own)? > now + 1, "{own}");
    let config = bed.matctl_config(&[&moving[1]])?;
    let matctl = |words: &str| -> Result<(bool, String)> {
        let matctl = Cmd::new(bed.options().binaries.join("matctl"));
        let matctl = matctl.args(words.split(' ')).arg("--config").arg(&config);
        let output = bed.map.exec(matctl)?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        Ok((output.status.success(), text))
    };
    let back = format!("map set {HOMES} 198.18.0.0 --expect-epoch");
    let (set, said) = matctl(&format!("{back} {now}"))?;
    ensure!(!set && said.contains("not epoch"), "{said}");
    let (set, said) = matctl(&format!("{back} {}", now + 1))?;
    ensure!(
        set && said.contains("192.0.2.0/24 -> 198.18.0.0/24;"),
        "{said}"
    );
    bed.wait_for_state("a", &moving[1].home, "serving")?;
    send_by(&moving[1], "eth0")?;
    flow()?;

    let (told, said) = matctl("map history 192.0.2.0/24")?;
    let last = said.lines().rfind(|line| line.contains(" 192.0.2.0/24: "));
    let is = format!("-> 198.18.0.0@{}", now + 2);
    ensure!(
        told && last.is_some_and(|line| line.contains(&is)),
        "{said}"
    );

    let (listed, said) = matctl("map list")?;
    let lines: Vec<&str> = said
        .lines()
        .filter(|line| !line.starts_with("2001:"))
        .collect();
    let [first, own, user] = lines[..] else {
        anyhow::bail!("{said}");
    };
    ensure!(
        listed && first.starts_with("192.0.2.0/24 -> 198.18.0.0/24; "),
        "{said}"
    );
    ensure!(
        own.starts_with("192.0.2.10 -> ") && user.starts_with("192.0.2.20 -> "),
        "{said}"
    );
    let (found, said) = matctl("map get 192.0.2.11 --json")?;
    ensure!(
        found && said.contains("\"shared_by\": \"192.0.2.0/24\""),
        "{said}"
    );
    let (found, said) = matctl("map get 192.0.2.11")?;
    ensure!(found && said.contains("198.18.0.11"), "{said}");
    ensure!(said.contains("shared by all of 192.0.2.0/24"), "{said}");
    let (deleted, said) = matctl("map delete 192.0.2.11")?;
    ensure!(!deleted && said.contains("no binding of its own"), "{said}");

    // Nothing of it can be had for something else.
    let (done, said) = nsupdate(
        &bed,
        &operator(),
        &format!(
            "update add {} 0 SVCB 1 . port=6283 ipv4hint=198.18.0.99 key65280=\"{now}\" \
             key65281=\"native\" key65282=\"30\"",
            owner("192.0.3.1")?
        ),
    )?;
    ensure!(!done && said.contains("REFUSED"), "{said}");
    for (transfer, what) in transfers.into_iter().zip(["web", "db"]) {
        transfer.finish(what)?;
    }
    bed.lab.end()
}

//! Whose key may change what.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mat_netns::testbed::{Options, SITES, Testbed};
use mat_netns::{Cmd, Signal};

use crate::record::{addition, epoch, hand_to, nsupdate, operator, owner, shown};

const SOON: Duration = Duration::from_secs(10);

/// Has the forwarder of `site` read its configuration again, with these words replaced.
fn reconfigure(bed: &Testbed, site: &str, replace: &[(&str, &str)]) -> Result<()> {
    let site = bed.site(site);
    let mut text = fs::read_to_string(&site.config)?;
    for (old, new) in replace {
        ensure!(text.contains(old), "no {old} in {text}");
        text = text.replace(old, new);
    }
    fs::write(&site.config, text)?;
    let reloads = |log: String| log.matches("configuration reloaded").count();
    let before = reloads(site.matd.log());
    site.matd.signal(Signal::SIGHUP)?;
    mat_netns::wait_until(SOON, "the configuration to be reloaded", || {
        (reloads(site.matd.log()) > before).then_some(())
    })
}

/// What is said when an attach, which must not succeed, is tried at `site`.
fn refusal(bed: &Testbed, site: &str, home: &str, interface: &str) -> Result<String> {
    let words = ["attach", home, "--interface", interface];
    match bed.matctl(site, &words) {
        Ok(said) => bail!("attached: {said}"),
        Err(error) => Ok(format!("{error:#}")),
    }
}

#[test]
fn a_forwarder_with_a_wrong_key_says_so_and_serves_nothing_until_it_has_the_right_one() -> Result<()>
{
    let bed = Testbed::new(Options::new()?)?;
    let secret = |n: usize| SITES[n].secret();
    let (a, b, wrong) = (secret(0), secret(1), secret(0).replace('a', "q"));
    let ours = format!("name = \"site-b.\", algorithm = \"hmac-sha256\", secret = \"{b}\"");
    let keys = [
        ("it finds our signature wrong", ours.replace(&b, &wrong)),
        (
            "it does not know our key",
            ours.replace("site-b.", "nobody."),
        ),
        // A good key, but its locators are those of another site.
        (
            "Refused",
            ours.replace("site-b.", "site-a.").replace(&b, &a),
        ),
    ];
    for (n, (cause, theirs)) in keys.iter().enumerate() {
        let number = 30 + n as u8;
        let guest = bed.unattached(&format!("guest{n}"), number, "b")?;
        reconfigure(&bed, "b", &[(&ours, theirs)])?;
        let said = refusal(&bed, "b", &guest.home, &guest.interface)?;
        println!("{said}");
        ensure!(
            said.contains(cause) && said.contains("mapping service"),
            "{said}"
        );
        ensure!(bed.home_state("b", &guest.home)? != "serving");
        ensure!(shown(&bed, &guest.home)?.is_empty());
        ensure!(!guest.host.pings("203.0.113.80")?, "it is served");

        // The operator mends the key; what was to be attached is, without being asked again.
        reconfigure(&bed, "b", &[(theirs, &ours)])?;
        bed.wait_for_state("b", &guest.home, "serving")
            .context("with the right key")?;
        ensure!(guest.host.pings("203.0.113.80")?);
    }
    bed.lab.end()
}

#[test]
fn a_key_changes_only_what_its_policy_allows() -> Result<()> {
    let bed = Testbed::new(Options::new()?)?;
    let web = bed.instance("web", 10, "a")?;
    let before = shown(&bed, &web.home)?;
    let site_b = format!("hmac-sha256:site-b:{}", SITES[1].secret());
    let stranger = "203.0.113.99";
    let name = owner(&web.home)?;
    let next = epoch(&before)? + 1;
    let attempts = [
        // A home that is not one of its own.
        addition(stranger, next, &bed.site("b").spec.locator(5))?,
        // Its own home at somebody else's place.
        format!(
            "update delete {name} SVCB\n{}",
            addition(&web.home, next, &bed.site("c").spec.locator(5))?
        ),
        // Names that are no homes.
        "update add note.map.example. 60 IN TXT hello".to_owned(),
    ];
    for attempt in attempts {
        let (done, said) = nsupdate(&bed, &site_b, &attempt)?;
        ensure!(!done && said.contains("REFUSED"), "{attempt}\n{said}");
    }
    ensure!(shown(&bed, stranger)?.is_empty());
    ensure!(shown(&bed, &web.home)? == before);
    // The same with a key that may.
    let (done, said) = nsupdate(
        &bed,
        &operator(),
        "update add note.map.example. 60 IN TXT hello",
    )?;
    ensure!(done, "{said}");
    bed.lab.end()
}

#[test]
fn a_change_against_a_record_that_has_changed_is_a_conflict() -> Result<()> {
    let bed = Testbed::new(Options::new()?)?;
    let web = bed.instance("web", 10, "a")?;
    let config = bed.matctl_config(&[&web])?;
    let (here, there) = (bed.site("a").spec.locator(1), bed.site("b").spec.locator(9));
    let stale = epoch(&shown(&bed, &web.home)?)?;
    let now = hand_to(&bed, &web.home, &here)?;
    let set = |expected: u64| {
        let matctl = Cmd::new(bed.options().binaries.join("matctl"));
        let words = format!("map set {} {there} --expect-epoch {expected}", web.home);
        bed.map
            .run(matctl.words(&words).arg("--config").arg(&config))
    };
    let said = match set(stale) {
        Ok(said) => bail!("changed: {said}"),
        Err(error) => format!("{error:#}"),
    };
    println!("{said}");
    ensure!(
        said.contains(&now.to_string()) && said.contains("nothing was changed"),
        "{said}"
    );
    ensure!(shown(&bed, &web.home)?.contains(&here));
    set(now)?;
    ensure!(shown(&bed, &web.home)?.contains(&there));
    bed.lab.end()
}

//! Mistakes in the configurations: found before anything is touched, and named with file, line,
//! key and the mend.

use anyhow::Result;
use mat_netns::testbed::{Options, Testbed};
use mat_netns::{Cmd, Signal};

use crate::complaint::{changed, complaint, line_of, says};

/// What is changed, into what, and what the complaint must hold beside file and line.
type Mistake = (&'static str, &'static str, &'static [&'static str]);

/// What `ip` shows of a host.
const EVERYTHING: &str = "link
                          addr
                          rule
                          route show table all";

const MATD: &[Mistake] = &[
    (
        "placement = \"gateway\"",
        "placement = \"gatway\"",
        &["placement", "gatway", "gateway"],
    ),
    (
        "uplink = \"eth0\"",
        "upling = \"eth0\"",
        &["upling", "uplink"],
    ),
    (
        "zone = \"map.example.\"",
        "zone = \"map..example.\"",
        &["mapping.zone", "map..example."],
    ),
    ("trust = \"tsig\"", "trust = 1", &["trust"]),
    (
        "servers = [\"203.0.113.53:53\"]",
        "servers = [\"203.0.113.53\"]",
        &["mapping.servers", "203.0.113.53:53"],
    ),
    (
        "prefixes = [\"192.0.2.0/24\"",
        "prefixes = [\"192.0.2.0/33\"",
        &["homes.prefixes", "192.0.2.0/33"],
    ),
    (
        "prefixes = [\"192.0.2.0/24\"",
        "prefixes = [\"198.51.100.0/24\"",
        &[
            "locators.prefixes",
            "overlaps the home prefix",
            "prefixes of their own",
        ],
    ),
    (
        "pool = [\"198.51.100.96/27\"",
        "pool = [\"203.0.113.96/27\"",
        &["locators.pool", "203.0.113.96/27", "locators.prefixes"],
    ),
    (
        "secret = \"bbbb",
        "secret = \"not base64: bbbb",
        &["mapping.key.secret", "base64", "tsig-keygen"],
    ),
    (
        "[mapping]",
        "[limits]\nhold_ms = 1\n[mapping]",
        &["limits.hold_ms", "100 to 60000"],
    ),
    (
        "[mapping]",
        "[[instance]]\nhome = \"192.0.2.77\"\n[mapping]",
        &["instance.interface", "gateway", "veth or TAP"],
    ),
];

#[test]
fn matd_names_every_mistake_of_its_configuration_and_touches_nothing() -> Result<()> {
    let bed = Testbed::new(Options::new()?)?;
    let (site, matd) = (bed.site("b"), bed.options().binaries.join("matd"));
    site.matd.stop(std::time::Duration::from_secs(5))?;
    let before = site.host.ip(EVERYTHING)?;
    for (from, to, words) in MATD {
        let file = changed(&site.config, from, to)?;
        let said = complaint(&site.host, Cmd::new(&matd).arg("--config").arg(&file))?;
        let lines = to.matches('\n').count();
        let first = line_of(&file, to)?;
        let places = (first..=first + lines).map(|n| format!("{}:{n}: ", file.display()));
        // Prefixes that overlap are a mistake of two lines; either may be named.
        let place = places.into_iter().any(|place| said.contains(&place));
        assert!(
            place || words[0] == "locators.prefixes",
            "no place in: {said}"
        );
        says(&said, &[&file.display().to_string()]);
        says(&said, words);
        assert!(!said.contains("bbbbbbbb"), "it shows the secret: {said}");
        let checked = Cmd::new(&matd)
            .arg("--config")
            .arg(&file)
            .arg("check-config");
        assert_eq!(complaint(&site.host, checked)?, said);
    }
    let nowhere = Cmd::new(&matd).words("--config /nowhere/matd.toml");
    says(
        &complaint(&site.host, nowhere)?,
        &["/nowhere/matd.toml", "No such file"],
    );
    assert_eq!(site.host.ip(EVERYTHING)?, before);
    bed.lab.end()
}

#[test]
fn a_reload_with_a_mistake_changes_nothing() -> Result<()> {
    let bed = Testbed::new(Options::new()?)?;
    let (web, user) = (
        bed.instance("web", 10, "a")?,
        bed.instance("user", 20, "c")?,
    );
    assert!(user.host.pings(&web.home)?);
    let site = bed.site("a");
    let wrong = changed(&site.config, "trust = \"tsig\"", "trust = \"everybody\"")?;
    std::fs::copy(&wrong, &site.config)?;
    site.matd.signal(Signal::SIGHUP)?;
    let soon = std::time::Duration::from_secs(5);
    site.matd.wait_for_log("configuration not reloaded", soon)?;
    says(&site.matd.log(), &["everybody", "trust"]);
    assert!(site.matd.is_running() && user.host.pings(&web.home)?);
    bed.lab.end()
}

const MAPD: &[Mistake] = &[
    (
        "zone = \"map.example.\"",
        "zone = \"map..example.\"",
        &["zone", "is not a domain name"],
    ),
    ("data_dir", "datadir", &["datadir", "data_dir"]),
    (
        "\"203.0.113.53:53\"",
        "\"203.0.113.53\"",
        &["listen", "203.0.113.53:53"],
    ),
    (
        "name = \"site-b\"",
        "name = \"site-a\"",
        &["key.name", "is used twice"],
    ),
    ("types = [\"SVCB\"", "types = [\"SVCP\"", &["SVCP"]),
];

#[test]
fn mat_mapd_names_every_mistake_of_its_configuration() -> Result<()> {
    let bed = Testbed::new(Options::new()?)?;
    let mapd = bed.options().binaries.join("mat-mapd");
    for (from, to, words) in MAPD {
        let file = changed(&bed.mapd_config, from, to)?;
        let said = complaint(&bed.map, Cmd::new(&mapd).arg("--config").arg(&file))?;
        // A name used twice is a mistake of the second line that has it.
        let text = std::fs::read_to_string(&file)?;
        let hits = text.match_indices(to).last().map_or(0, |(at, _)| at);
        let line = text[..hits].matches('\n').count() + 1;
        says(&said, &[&format!("{}:{line}", file.display())]);
        says(&said, words);
    }
    assert!(bed.mapd.is_running());
    bed.lab.end()
}

//! A forwarder of ours in each end, with the home address on its TUN device.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use mat_netns::testbed::{HOMES, toml_list};
use mat_netns::{Cmd, Host, Process};
use serde_json::Value;

use super::{Carrier, Course, PATIENCE, Reads, Site};
use crate::contender::Contender;
use crate::plan::Family;

/// Secret of the one key that there is: 32 octets that anybody may know.
const SECRET: &str = "YmVuY2hiZW5jaGJlbmNoYmVuY2hiZW5jaGJlbmNoYmU=";

/// With its defaults, but what comes to a locator is led into the TUN by `tc` at ingress.
pub fn redirected(site: &Site, contender: &'static Contender) -> Result<Course> {
    let course = build(site, contender, "")?;
    let (left, right) = pools(site.family);
    let (protocol, field) = match site.family {
        Family::Ipv4 => ("ip", "ip"),
        Family::Ipv6 => ("ipv6", "ip6"),
    };
    for (host, pool) in [(&course.left, left), (&course.right, right)] {
        host.tc("qdisc add dev eth0 clsact")?;
        host.tc(&format!(
            "filter add dev eth0 ingress protocol {protocol} prio 1 u32 \
             match {field} dst {pool} action mirred egress redirect dev mat0"
        ))?;
    }
    Ok(course)
}

/// `tun` are lines for the table of that name.
pub fn build(site: &Site, contender: &'static Contender, tun: &str) -> Result<Course> {
    let ends = site.ends(contender)?;
    let (left, right) = (&ends.left, &ends.right);
    let homes = site.homes();
    let (left_pool, right_pool) = pools(site.family);
    let end = |name, home, pool| End {
        name: format!("{}-{name}", contender.id),
        home,
        pool,
        tun,
        server: server(site),
    };
    let sides = [
        (left, end("left", homes.left, left_pool)),
        (right, end("right", homes.right, right_pool)),
    ];
    let configs = sides
        .iter()
        .map(|(host, end)| end.config(site, host))
        .collect::<Result<Vec<_>>>()?;
    start_mapd(site, contender, left)?;
    let mut matds = Vec::new();
    for ((host, end), config) in sides.iter().zip(&configs) {
        matds.push(end.start(site, host, config)?);
    }
    let carrier = Forwarders {
        host: left.clone(),
        matctl: site.tools.own("matctl"),
        socket: sides[0].1.socket(site),
        matds,
    };
    let about = carrier.report()?;
    let about = about["path"].as_str().context("no `path` in the status")?;
    Ok(ends.course(contender, about.to_owned(), &homes, carrier))
}

/// Of locators, on the subnet of the veth.
fn pools(family: Family) -> (&'static str, &'static str) {
    match family {
        Family::Ipv4 => ("198.51.100.144/28", "198.51.100.160/28"),
        Family::Ipv6 => ("2001:db8:2::a00/120", "2001:db8:2::b00/120"),
    }
}

/// The mapping service is in the left end, and has nothing to do once both ends have met.
fn server(site: &Site) -> String {
    let address = site.underlay().left;
    match site.family {
        Family::Ipv4 => format!("{address}:53"),
        Family::Ipv6 => format!("[{address}]:53"),
    }
}

fn start_mapd(site: &Site, contender: &Contender, host: &Host) -> Result<()> {
    let (left, right) = pools(site.family);
    let config = site.lab.write(
        &format!("mat-mapd-{}.toml", contender.id),
        format!(
            "zone = \"map.example.\"\nlisten = [\"{}\"]\ndata_dir = \"{}\"\n\
             [[key]]\nname = \"bench\"\nsecret = \"{SECRET}\"\nhomes = {}\nlocators = {}\n",
            server(site),
            site.lab
                .dir()
                .join(format!("mapd-{}", contender.id))
                .display(),
            toml_list(&HOMES),
            toml_list(&[left, right]),
        ),
    )?;
    let mapd = Cmd::new(site.tools.own("mat-mapd")).arg("--config");
    let mapd = host.spawn(mapd.arg(config))?;
    mapd.wait_for_log("ready", PATIENCE)
}

/// One forwarder.
struct End<'a> {
    name: String,
    home: &'static str,
    pool: &'static str,
    tun: &'a str,
    server: String,
}

impl End<'_> {
    /// Writes its configuration; one that `matd` does not take is an error with its words.
    fn config(&self, site: &Site, host: &Host) -> Result<PathBuf> {
        let (left, right) = pools(site.family);
        let config = site.lab.write(
            &format!("matd-{}.toml", self.name),
            // Long polls and leases: nothing but the traffic happens while it is measured.
            format!(
                "site = \"{name}\"\nplacement = \"guest\"\nuplink = \"eth0\"\n\
                 control_socket = \"{socket}\"\nstate_dir = \"{state}\"\n\
                 [tun]\n{tun}\n\
                 [homes]\nprefixes = {homes}\n\
                 [locators]\nprefixes = {locators}\npool = [\"{pool}\"]\n\
                 [mapping]\nservers = [\"{server}\"]\nzone = \"map.example.\"\ntrust = \"tsig\"\n\
                 lease_s = 3600\npoll_ms = 60000\n\
                 key = {{ name = \"bench.\", algorithm = \"hmac-sha256\", secret = \"{SECRET}\" }}\n\
                 [[instance]]\nhome = \"{home}\"\n",
                name = self.name,
                socket = self.socket(site).display(),
                state = site.lab.dir().join(format!("state-{}", self.name)).display(),
                tun = self.tun,
                homes = toml_list(&HOMES),
                locators = toml_list(&[left, right]),
                pool = self.pool,
                server = self.server,
                home = self.home,
            ),
        )?;
        let check = Cmd::new(site.tools.own("matd"))
            .arg("--config")
            .arg(&config);
        let output = host.exec(check.arg("check-config"))?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            let words = words.replace(&format!("{}/", site.lab.dir().display()), "");
            bail!("matd does not take its configuration: {}", words.trim());
        }
        Ok(config)
    }

    fn start(&self, site: &Site, host: &Host, config: &Path) -> Result<Process> {
        let matd = Cmd::new(site.tools.own("matd")).arg("--config").arg(config);
        let matd = host.spawn(matd)?;
        matd.wait_for_log(&format!("{}: serving at", self.home), PATIENCE)?;
        Ok(matd)
    }

    fn socket(&self, site: &Site) -> PathBuf {
        site.lab.dir().join(format!("{}.sock", self.name))
    }
}

struct Forwarders {
    host: Host,
    matctl: PathBuf,
    socket: PathBuf,
    matds: Vec<Process>,
}

impl Forwarders {
    /// What the forwarder at the left end says about itself.
    fn report(&self) -> Result<Value> {
        let matctl = Cmd::new(&self.matctl).words("status --json --socket");
        let text = self.host.run(matctl.arg(&self.socket))?;
        let mut status: Value = serde_json::from_str(&text).context("matctl status --json")?;
        Ok(status["sites"][0]["report"].take())
    }
}

impl Carrier for Forwarders {
    fn carried(&self) -> Result<u64> {
        let report = self.report()?;
        let contexts = report["contexts"].as_array();
        let contexts = contexts.context("no `contexts` in the status")?;
        let sent = |context: &Value| context["sent"]["bytes"].as_u64();
        Ok(contexts.iter().filter_map(sent).sum())
    }

    fn processes(&self) -> Vec<u32> {
        self.matds.iter().map(Process::pid).collect()
    }

    fn reads(&self) -> Result<Option<Reads>> {
        Ok(reads(&self.report()?))
    }
}

/// What the status tells of the system calls that read packets, if it does.
fn reads(report: &Value) -> Option<Reads> {
    let sum = |name: &str| -> Option<u64> {
        let threads = report["threads"].as_array()?;
        threads.iter().map(|thread| thread[name].as_u64()).sum()
    };
    Some(Reads {
        count: sum("reads")?,
        bytes: sum("read_bytes")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_are_told_where_the_status_tells_them() {
        let report = json!({"threads": [{"reads": 1, "read_bytes": 1000}, {"reads": 1, "read_bytes": 130_000}]});
        let expected = Reads {
            count: 2,
            bytes: 131_000,
        };
        assert_eq!(reads(&report), Some(expected));
        assert_eq!(reads(&json!({"path": "tun mat0"})), None);
    }
}

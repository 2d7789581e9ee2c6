//! The deployment that the demo, the tests and the benchmarks run: three sites
//! with a forwarder each, a mapping service, and instances.
//!
//! ```text
//!   [user]                                             [web] (moves between a and b)
//!     │ v-user                                           │ v-web
//!   site c ── eth0 ═══ c                       a ═══ eth0 ── site a
//!   198.51.100.128/26     \                   /     198.51.100.0/26
//!                          ────── router ──────
//!   plain, not mobile     /                   \     198.51.100.64/26
//!   203.0.113.80 ── eth0 ═ p                   b ═══ eth0 ── site b
//!   map 203.0.113.53 ── eth0 ═ m
//! ```
//!
//! Every site's pool of locators is the upper half of its prefix (IPv6:
//! `2001:db8:a::100/120` and so on); home addresses are in 192.0.2.0/24 and
//! 2001:db8:1::/64. Double lines are wide-area links when a round trip is asked
//! for: a quarter of it per link and direction, so that any two sites, and a
//! site and the mapping service, are one round trip apart.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::{Cmd, Host, Lab, LinkOptions, Process, Wan, WanConfig, wait_until};

mod node;
mod stepped;
mod transfer;

pub use node::{Locators, NODE_LOCATORS, Node};
pub use stepped::SteppedMove;
pub use transfer::{Transfer, serve};

/// How long a program may take until it is ready.
const START: Duration = Duration::from_secs(10);

/// Could be locators, but are nobody's.
pub const STRANGERS: &str = "198.19.0.0/16";

/// Prefixes of home addresses, as in every configuration.
pub const HOMES: [&str; 2] = ["192.0.2.0/24", "2001:db8:1::/64"];

/// A place with a forwarder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SiteSpec {
    /// Its name, and the letter in its IPv6 prefix.
    pub name: &'static str,
    /// First address of its /26, last octet.
    base: u8,
}

/// The three sites; the instance that moves starts at the first.
pub const SITES: [SiteSpec; 3] = [
    SiteSpec { name: "a", base: 0 },
    SiteSpec {
        name: "b",
        base: 64,
    },
    SiteSpec {
        name: "c",
        base: 128,
    },
];

impl SiteSpec {
    /// Address of its gateway.
    pub fn gateway(&self) -> String {
        format!("198.51.100.{}", self.base + 2)
    }

    /// IPv6 address of its gateway.
    pub fn gateway6(&self) -> String {
        format!("2001:db8:{}::2", self.name)
    }

    /// More locators, which the router leads to its gateway; its pool if the testbed is crowded.
    pub fn crowd(&self) -> String {
        format!("198.18.{}.0/24", self.base)
    }

    /// Its pools of locators.
    pub fn pool(&self) -> [String; 2] {
        [
            format!("198.51.100.{}/27", self.base + 32),
            format!("2001:db8:{}::100/120", self.name),
        ]
    }

    /// The n-th IPv4 locator of its pool, from 1.
    pub fn locator(&self, n: u8) -> String {
        format!("198.51.100.{}", self.base + 32 + n)
    }

    /// Secret of its key, in base64: 32 octets that anybody may know, since they
    /// never leave the lab.
    pub fn secret(&self) -> String {
        let letter = self.name.as_bytes()[0] as char;
        // 43 characters and padding: 32 octets.
        format!("{}{}=", String::from(letter).repeat(42), 'A')
    }
}

/// The key that may do everything.
pub const OPERATOR_SECRET: &str = "b3BlcmF0b3JvcGVyYXRvcm9wZXJhdG9yb3BlcmF0b3I=";

/// Who pushes, as forwarders and matctl are told.
const PUSH: &str = "push = { server = \"203.0.113.53:853\", name = \"ns1.map.example\", \
                    certificate = \"mat-mapd.pem\" }\n";

/// How to build a [`Testbed`].
#[derive(Clone, Debug)]
pub struct Options {
    /// Where `matd`, `mat-mapd` and `matctl` are.
    pub binaries: PathBuf,
    /// Round trip between any two sites, in milliseconds; 0: plain links.
    pub rtt_ms: f64,
    /// Checksums and segmentation are done in software on the wide-area links,
    /// so that receivers really check what they get.
    pub offloads: bool,
    /// Extra lines for the configuration of every forwarder.
    pub extra: String,
    /// Room for 254 instances at each site.
    pub crowded: bool,
    /// The mapping service tells forwarders what changes; otherwise they ask.
    pub push: bool,
}

impl Options {
    /// The programs built along with the running one.
    pub fn new() -> Result<Self> {
        Ok(Options {
            binaries: binaries()?,
            rtt_ms: 0.0,
            offloads: true,
            extra: String::new(),
            crowded: false,
            push: true,
        })
    }

    /// What the link of a site is, if it is a wide-area link.
    fn wan(&self) -> Option<WanConfig> {
        (self.rtt_ms > 0.0).then(|| WanConfig {
            delay_ms: self.rtt_ms / 4.0,
            ..WanConfig::default()
        })
    }
}

/// The folder of the programs built along with the running one.
pub fn binaries() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("where am I?")?;
    let folder = exe.parent().context("a program is in a folder")?;
    let folder = if folder.ends_with("deps") {
        folder.parent().context("deps is in a folder")?
    } else {
        folder
    };
    for name in ["matd", "mat-mapd", "matctl"] {
        ensure!(
            folder.join(name).is_file(),
            "{} is missing: run `cargo build --workspace` first",
            folder.join(name).display()
        );
    }
    Ok(folder.to_owned())
}

/// A site of a running testbed.
#[derive(Debug)]
pub struct Site {
    /// What it is.
    pub spec: SiteSpec,
    /// Its gateway.
    pub host: Host,
    /// Its forwarder.
    pub matd: Process,
    /// Configuration of the forwarder.
    pub config: PathBuf,
    /// Control socket of the forwarder.
    pub socket: PathBuf,
    /// Its link to the router, if it is a wide-area link.
    pub wan: Option<Wan>,
}

/// An instance: a namespace with home addresses.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Its name.
    pub name: String,
    /// Where its processes run.
    pub host: Host,
    /// Its home address.
    pub home: String,
    /// Its IPv6 home address.
    pub home6: String,
    /// Host end of its link, at whichever site it is.
    pub interface: String,
}

/// A running deployment.
#[derive(Debug)]
pub struct Testbed {
    /// Everything in it.
    pub lab: Lab,
    /// Sites a, b and c.
    pub sites: Vec<Site>,
    /// In the middle.
    pub router: Host,
    /// Where the mapping service runs.
    pub map: Host,
    /// The mapping service.
    pub mapd: Process,
    /// Configuration of the mapping service.
    pub mapd_config: PathBuf,
    /// A host that is not mobile, at 203.0.113.80 and 2001:db8:80::80.
    pub plain: Host,
    options: Options,
}

impl Testbed {
    /// Builds the network and starts the programs.
    pub fn new(options: Options) -> Result<Self> {
        let lab = Lab::new()?;
        let router = lab.host("router")?;
        router.forwarding()?;
        let map = lab.host("map")?;
        connect(
            &lab,
            &options,
            &map,
            &router,
            "m",
            "203.0.113.53/28",
            "203.0.113.49/28",
        )?;
        address6(&map, &router, "m", "2001:db8:53::53", "2001:db8:53::1")?;
        let plain = lab.host("plain")?;
        connect(
            &lab,
            &options,
            &plain,
            &router,
            "p",
            "203.0.113.80/28",
            "203.0.113.81/28",
        )?;
        address6(&plain, &router, "p", "2001:db8:80::80", "2001:db8:80::1")?;
        if options.push {
            make_certificate(&map, lab.dir())?;
        }
        let mapd_config = lab.write("mat-mapd.toml", mapd_config(lab.dir(), options.push))?;
        let mapd = start_mapd(&map, &options, &mapd_config)?;
        let mut sites = Vec::new();
        for spec in SITES {
            sites.push(start_site(&lab, &options, &router, spec)?);
        }
        Ok(Testbed {
            lab,
            sites,
            router,
            map,
            mapd,
            mapd_config,
            plain,
            options,
        })
    }

    /// A site by its name.
    pub fn site(&self, name: &str) -> &Site {
        let found = self.sites.iter().find(|s| s.spec.name == name);
        found.expect("only the names in SITES are asked for")
    }

    /// Makes an instance, plugs it in at a site, and attaches it there.
    pub fn instance(&self, name: &str, number: u8, site: &str) -> Result<Instance> {
        let instance = self.unattached(name, number, site)?;
        self.attach(&instance, site, &[])?;
        Ok(instance)
    }

    /// Makes an instance and plugs it in, without telling the forwarder.
    pub fn unattached(&self, name: &str, number: u8, site: &str) -> Result<Instance> {
        let host = self.lab.host(name)?;
        let instance = Instance {
            name: name.to_owned(),
            host,
            home: format!("192.0.2.{number}"),
            home6: format!("2001:db8:1::{number}"),
            interface: format!("v-{name}"),
        };
        let gateway = &self.site(site).host;
        self.lab
            .link(&instance.host, "eth0", gateway, &instance.interface)?;
        let (home, home6) = (&instance.home, &instance.home6);
        instance.host.ip(&format!(
            "addr add {home}/32 dev eth0
             addr add {home6}/128 dev eth0 nodad
             route add 169.254.1.1 dev eth0 scope link
             route add default via 169.254.1.1
             route add default via fe80::1 dev eth0"
        ))?;
        Ok(instance)
    }

    /// Attaches both home addresses of an instance; `more` are further
    /// arguments of `matctl attach`.
    pub fn attach(&self, instance: &Instance, site: &str, more: &[&str]) -> Result<()> {
        for home in [&instance.home, &instance.home6] {
            let words = ["attach", home, "--interface", &instance.interface];
            self.matctl(site, &[&words[..], more].concat())?;
        }
        Ok(())
    }

    /// Runs `matctl ARGS --socket ...` at a site and gives back what it prints.
    pub fn matctl(&self, site: &str, args: &[&str]) -> Result<String> {
        let site = self.site(site);
        let matctl = Cmd::new(self.options.binaries.join("matctl"));
        site.host
            .run(matctl.args(args).arg("--socket").arg(&site.socket))
    }

    /// The status of a site's forwarder.
    pub fn status(&self, site: &str) -> Result<serde_json::Value> {
        let text = self.matctl(site, &["status", "--json"])?;
        let answer: serde_json::Value = serde_json::from_str(&text)?;
        Ok(answer["sites"][0]["report"].clone())
    }

    /// What a site's forwarder does with a home address: `serving`, `not serving` and so on, or
    /// `not attached`.
    pub fn home_state(&self, site: &str, home: &str) -> Result<String> {
        let status = self.status(site)?;
        let mut homes = status["homes"].as_array().into_iter().flatten();
        let found = homes.find(|h| h["home"] == home);
        let state = found.and_then(|h| h["state"].as_str());
        Ok(state.unwrap_or("not attached").to_owned())
    }

    /// Waits until a site's forwarder does that with a home address.
    pub fn wait_for_state(&self, site: &str, home: &str, state: &str) -> Result<()> {
        let what = format!("{home} to be {state} at {site}");
        let reached = wait_until(START, what, || {
            (self.home_state(site, home).ok()? == state).then_some(())
        });
        reached.with_context(|| format!("it is {:?}", self.home_state(site, home)))
    }

    /// A configuration for `matctl` that knows all sites and these instances.
    pub fn matctl_config(&self, instances: &[&Instance]) -> Result<PathBuf> {
        let mut text = format!(
            "[mapping]\nservers = [\"203.0.113.53:53\"]\nzone = \"map.example.\"\n\
             key = {{ name = \"operator.\", algorithm = \"hmac-sha256\", \
             secret = \"{OPERATOR_SECRET}\" }}\n"
        );
        if self.options.push {
            text += PUSH;
        }
        for site in &self.sites {
            text += &format!(
                "[[site]]\nname = \"{}\"\nsocket = \"{}\"\nnetns = \"{}\"\n",
                site.spec.name,
                site.socket.display(),
                site.host.namespace_name()
            );
        }
        for i in instances {
            text += &format!(
                "[[instance]]\nname = \"{}\"\nhomes = [\"{}\", \"{}\"]\ninterface = \"{}\"\n",
                i.name, i.home, i.home6, i.interface
            );
        }
        // Moves of different instances may be started at the same time.
        let first = instances.first().map_or("", |i| i.name.as_str());
        let name = format!("matctl-{first}-{}.toml", instances.len());
        self.lab.write(&name, text)
    }

    /// Moves an instance with `matctl move` and gives back what it prints.
    pub fn move_instance(&self, instance: &Instance, to: &str) -> Result<String> {
        let config = self.matctl_config(&[instance])?;
        let matctl = Cmd::new(self.options.binaries.join("matctl"))
            .args([
                "move",
                &instance.name,
                "--to",
                to,
                "--driver",
                "netns",
                "--config",
            ])
            .arg(config);
        self.map.run(matctl)
    }

    /// Starts the forwarder of a site again, after it has ended.
    pub fn restart_matd(&mut self, name: &str) -> Result<()> {
        let options = self.options.clone();
        let site = self.sites.iter_mut().find(|s| s.spec.name == name);
        let site = site.context("no such site")?;
        site.matd = start_matd(&site.host, &options, &site.config, &site.socket)?;
        Ok(())
    }

    /// Starts the mapping service again, after it has ended.
    pub fn restart_mapd(&mut self) -> Result<()> {
        self.mapd = start_mapd(&self.map, &self.options, &self.mapd_config)?;
        Ok(())
    }

    /// How the testbed was built.
    pub fn options(&self) -> &Options {
        &self.options
    }
}

fn connect(
    lab: &Lab,
    options: &Options,
    host: &Host,
    router: &Host,
    port: &str,
    address: &str,
    gateway: &str,
) -> Result<Option<Wan>> {
    let wan = if let Some(config) = options.wan() {
        Some(lab.wan(host, "eth0", router, port, config)?)
    } else {
        lab.link_with(
            host,
            "eth0",
            router,
            port,
            LinkOptions {
                offloads: options.offloads,
                ..LinkOptions::default()
            },
        )?;
        None
    };
    if wan.is_some() && !options.offloads {
        host.offloads_off("eth0")?;
        router.offloads_off(port)?;
    }
    let via = gateway.split('/').next().unwrap_or(gateway);
    router.ip(&format!("addr add {gateway} dev {port}"))?;
    host.ip(&format!(
        "addr add {address} dev eth0
         route add default via {via}"
    ))?;
    Ok(wan)
}

fn address6(host: &Host, router: &Host, port: &str, address: &str, gateway: &str) -> Result<()> {
    router.ip(&format!("addr add {gateway}/64 dev {port} nodad"))?;
    host.ip(&format!(
        "addr add {address}/64 dev eth0 nodad
         route add default via {gateway}"
    ))?;
    Ok(())
}

fn start_site(lab: &Lab, options: &Options, router: &Host, spec: SiteSpec) -> Result<Site> {
    let name = spec.name;
    let host = lab.host(&format!("site-{name}"))?;
    let router_side = format!("198.51.100.{}/26", spec.base + 1);
    let wan = connect(
        lab,
        options,
        &host,
        router,
        name,
        &format!("{}/26", spec.gateway()),
        &router_side,
    )?;
    address6(
        &host,
        router,
        name,
        &spec.gateway6(),
        &format!("2001:db8:{name}::1"),
    )?;
    router.ip(&format!(
        "route add {} via {}",
        spec.crowd(),
        spec.gateway()
    ))?;
    let socket = lab.dir().join(format!("matd-{name}.sock"));
    let state = lab.dir().join(format!("state-{name}"));
    let config = lab.write(
        &format!("matd-{name}.toml"),
        matd_config(options, spec, &socket, &state),
    )?;
    let matd = start_matd(&host, options, &config, &socket)?;
    Ok(Site {
        spec,
        host,
        matd,
        config,
        socket,
        wan,
    })
}

fn start_matd(host: &Host, options: &Options, config: &Path, socket: &Path) -> Result<Process> {
    let matd = Cmd::new(options.binaries.join("matd"))
        .arg("--config")
        .arg(config)
        .name(format!("matd-{}", host.name()));
    let process = host.spawn(matd)?;
    process.wait_for_log("ready, control socket", START)?;
    ensure!(socket.exists(), "{} is missing", socket.display());
    Ok(process)
}

fn start_mapd(host: &Host, options: &Options, config: &Path) -> Result<Process> {
    let mapd = Cmd::new(options.binaries.join("mat-mapd"))
        .arg("--config")
        .arg(config)
        .name("mat-mapd");
    let process = host.spawn(mapd)?;
    process.wait_for_log("ready", START)?;
    Ok(process)
}

/// Where locators can be: the pools of all sites, and the addresses of nodes.
pub fn locator_prefixes() -> Vec<String> {
    let pools = SITES.iter().flat_map(SiteSpec::pool);
    let crowds = SITES.iter().map(SiteSpec::crowd);
    let others = [NODE_LOCATORS[0], NODE_LOCATORS[1], STRANGERS];
    let others = others.map(str::to_owned);
    pools.chain(crowds).chain(others).collect()
}

/// `["a", "b"]` in TOML.
pub fn toml_list<S: AsRef<str>>(items: &[S]) -> String {
    let quoted: Vec<_> = items
        .iter()
        .map(|i| format!("\"{}\"", i.as_ref()))
        .collect();
    format!("[{}]", quoted.join(", "))
}

/// Makes `mat-mapd.pem` and `mat-mapd.key` for ns1.map.example, as the example configuration of
/// mat-mapd tells people to.
pub fn make_certificate(host: &Host, dir: &Path) -> Result<()> {
    let openssl = Cmd::from(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 \
         -subj /CN=ns1.map.example -addext subjectAltName=DNS:ns1.map.example \
         -addext basicConstraints=critical,CA:FALSE",
    );
    let key = openssl.arg("-keyout").arg(dir.join("mat-mapd.key"));
    host.run(key.arg("-out").arg(dir.join("mat-mapd.pem")))?;
    Ok(())
}

fn matd_config(options: &Options, spec: SiteSpec, socket: &Path, state: &Path) -> String {
    format!(
        "site = \"{name}\"\n\
         placement = \"gateway\"\n\
         uplink = \"eth0\"\n\
         control_socket = \"{socket}\"\n\
         state_dir = \"{state}\"\n\
         [homes]\nprefixes = {homes}\n\
         [locators]\nprefixes = {locators}\npool = {pool}\n\
         [mapping]\nservers = [\"203.0.113.53:53\"]\nzone = \"map.example.\"\ntrust = \"tsig\"\n\
         key = {{ name = \"site-{name}.\", algorithm = \"hmac-sha256\", secret = \"{secret}\" }}\n\
         {push}{extra}\n",
        name = spec.name,
        push = match options.push {
            true => PUSH,
            false => "",
        },
        socket = socket.display(),
        state = state.display(),
        homes = toml_list(&HOMES),
        locators = toml_list(&locator_prefixes()),
        pool = toml_list(&match options.crowded {
            true => [spec.crowd(), spec.pool()[1].clone()],
            false => spec.pool(),
        }),
        secret = spec.secret(),
        extra = options.extra,
    )
}

fn mapd_config(dir: &Path, push: bool) -> String {
    let mut text = format!(
        "zone = \"map.example.\"\n\
         listen = [\"203.0.113.53:53\", \"[2001:db8:53::53]:53\"]\n\
         data_dir = \"{}\"\n",
        dir.join("mapd").display()
    );
    if push {
        text += "[tls]\nlisten = [\"203.0.113.53:853\", \"[2001:db8:53::53]:853\"]\n\
                 certificate = \"mat-mapd.pem\"\nprivate_key = \"mat-mapd.key\"\n";
    }
    for site in SITES {
        text += &format!(
            "[[key]]\nname = \"site-{}\"\nsecret = \"{}\"\nhomes = {}\nlocators = {}\n",
            site.name,
            site.secret(),
            toml_list(&HOMES),
            toml_list(&[site.pool().to_vec(), vec![site.crowd()]].concat()),
        );
    }
    text += &format!(
        "[[key]]\nname = \"nodes\"\nsecret = \"{}\"\nhomes = {}\nlocators = {}\n",
        node::NODE_SECRET,
        toml_list(&HOMES),
        toml_list(&NODE_LOCATORS),
    );
    text + &format!(
        "[[key]]\nname = \"operator\"\nsecret = \"{OPERATOR_SECRET}\"\nhomes = [\"all\"]\n\
         locators = [\"all\"]\ntypes = [\"SVCB\", \"A\", \"AAAA\", \"TXT\", \"APL\"]\nother_names = true\n\
         transfer = true\n"
    )
}

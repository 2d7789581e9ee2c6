//! From the shape of the file to its meaning: every rule, each with its mend.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use hickory_proto::rr::Name;
use mat_dataplane::config::Source;
use mat_dataplane::io::MacAddr;
use mat_mapping::client::push::{self, Endpoint};
use mat_mapping::client::{Algorithm, MapClient, TsigKey};
use mat_proto::Home;
use serde::Deserialize;
use toml::Spanned;

use super::{Config, ConfigError, Finding, Instance};
use crate::site::Site;

/// Linux: IFNAMSIZ without the final NUL.
const INTERFACE_NAME_MAX: usize = 15;
/// Linux: `sun_path` without the final NUL.
const SOCKET_PATH_MAX: usize = 107;

type Text = Spanned<String>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    mapping: Option<RawMapping>,
    #[serde(default)]
    site: Vec<RawSite>,
    #[serde(default)]
    instance: Vec<RawInstance>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMapping {
    servers: Spanned<Vec<Text>>,
    zone: Text,
    key: Option<Spanned<RawKey>>,
    push: Option<RawPush>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPush {
    server: Text,
    name: Text,
    certificate: Text,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKey {
    name: Text,
    algorithm: Option<Text>,
    secret: Option<Text>,
    secret_file: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSite {
    name: Text,
    socket: Text,
    other_socket: Option<Text>,
    netns: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawInstance {
    name: Text,
    homes: Spanned<Vec<Text>>,
    interface: Option<Text>,
    mac: Option<Text>,
}

pub(super) struct Checker<'a> {
    source: Source<'a>,
    folder: &'a Path,
    findings: Vec<Finding>,
}

impl<'a> Checker<'a> {
    pub fn new(source: Source<'a>, folder: &'a Path) -> Self {
        Checker {
            source,
            folder,
            findings: Vec::new(),
        }
    }

    pub fn config(mut self, raw: &Raw) -> Result<Config, ConfigError> {
        let config = Config {
            mapping: raw.mapping.as_ref().and_then(|raw| self.mapping(raw)),
            push: raw
                .mapping
                .as_ref()
                .and_then(|raw| self.push(raw.push.as_ref()?)),
            sites: self.sites(&raw.site),
            instances: self.instances(&raw.instance),
        };
        if self.findings.is_empty() {
            Ok(config)
        } else {
            self.findings.sort_by_key(|finding| finding.line);
            Err(ConfigError::Invalid(self.findings))
        }
    }

    fn mapping(&mut self, raw: &RawMapping) -> Option<MapClient> {
        let mut servers = Vec::new();
        for text in raw.servers.get_ref() {
            servers.extend(self.parsed::<SocketAddr>(
                "mapping.servers",
                text,
                "is not an address with a port",
                "write \"203.0.113.53:53\" or \"[2001:db8::53]:53\"",
            ));
        }
        if raw.servers.get_ref().is_empty() {
            self.fault(
                "mapping.servers",
                raw.servers.span(),
                "is empty",
                "name at least one",
            );
        }
        let zone = self.domain("mapping.zone", &raw.zone);
        let key = match &raw.key {
            Some(raw) => Some(self.key(raw)?),
            None => None,
        };
        Some(MapClient::new(zone?, servers, key))
    }

    fn push(&mut self, raw: &RawPush) -> Option<Endpoint> {
        let server = self.parsed::<SocketAddr>(
            "mapping.push.server",
            &raw.server,
            "is not an address with a port",
            "write \"203.0.113.53:853\" or \"[2001:db8::53]:853\"",
        );
        let file = self.folder.join(raw.certificate.get_ref());
        let certificates = push::certificates(&file);
        if let Err(problem) = &certificates {
            let mend = "copy the file that `tls.certificate` of mat-mapd names";
            let span = raw.certificate.span();
            self.fault("mapping.push.certificate", span, problem, mend);
        }
        let endpoint = Endpoint::new(server?, raw.name.get_ref(), &certificates.ok()?);
        if let Err(problem) = &endpoint {
            let mend = "write the name that the certificate is for, as in \"ns1.map.example\"";
            self.fault("mapping.push.name", raw.name.span(), problem, mend);
        }
        endpoint.ok()
    }

    fn key(&mut self, raw: &Spanned<RawKey>) -> Option<TsigKey> {
        let key = raw.get_ref();
        let name = self.domain("mapping.key.name", &key.name)?;
        let algorithm = match &key.algorithm {
            None => Algorithm::default(),
            Some(text) => self.parsed(
                "mapping.key.algorithm",
                text,
                "is not offered",
                "write \"hmac-sha256\", \"hmac-sha384\" or \"hmac-sha512\"",
            )?,
        };
        let (field, span, secret) = match (&key.secret, &key.secret_file) {
            (Some(secret), None) => (
                "mapping.key.secret",
                secret.span(),
                secret.get_ref().clone(),
            ),
            (None, Some(file)) => {
                let field = "mapping.key.secret_file";
                let path = self.folder.join(file.get_ref());
                match std::fs::read_to_string(&path) {
                    Ok(text) => (field, file.span(), text),
                    Err(error) => {
                        let problem = format!("{} cannot be read: {error}", path.display());
                        let mend = "put the base64 secret, or what tsig-keygen writes, there";
                        self.fault(field, file.span(), &problem, mend);
                        return None;
                    }
                }
            }
            _ => {
                self.fault(
                    "mapping.key.name",
                    key.name.span(),
                    "has no secret, or two",
                    "give exactly one of `secret` (base64 text) and `secret_file`",
                );
                return None;
            }
        };
        let parsed = if secret.contains('{') {
            TsigKey::from_clause(&secret)
        } else {
            TsigKey::from_base64(key.name.get_ref(), algorithm, &secret)
        };
        match parsed {
            Ok(parsed) if *parsed.name() == name => Some(parsed),
            Ok(parsed) => {
                let problem = format!("holds key {}, not {name}", parsed.name());
                self.fault(field, span, &problem, "make the names equal");
                None
            }
            Err(error) => {
                self.fault(
                    field,
                    span,
                    &error.to_string(),
                    "compare it with the server's key",
                );
                None
            }
        }
    }

    fn sites(&mut self, raw: &[RawSite]) -> Vec<Site> {
        let mut sites: Vec<Site> = Vec::new();
        for entry in raw {
            let name = self.name("site.name", &entry.name);
            if sites.iter().any(|site| site.name == name) {
                let mend = "give each site its own name";
                self.fault("site.name", entry.name.span(), "is used twice", mend);
            }
            sites.push(Site {
                name,
                socket: self.socket("site.socket", &entry.socket),
                other_socket: entry.other_socket.as_ref().map(|text| {
                    if text.get_ref() == entry.socket.get_ref() {
                        let mend = "write that of the other gateway, or remove this key";
                        self.fault("site.other_socket", text.span(), "is `socket`", mend);
                    }
                    self.socket("site.other_socket", text)
                }),
                netns: entry
                    .netns
                    .as_ref()
                    .map(|text| self.name("site.netns", text)),
            });
        }
        sites
    }

    fn instances(&mut self, raw: &[RawInstance]) -> Vec<Instance> {
        let mut instances: Vec<Instance> = Vec::new();
        for entry in raw {
            let name = self.name("instance.name", &entry.name);
            if instances.iter().any(|instance| instance.name == name) {
                let mend = "give each instance its own name";
                self.fault("instance.name", entry.name.span(), "is used twice", mend);
            }
            let mut homes: Vec<Home> = Vec::new();
            for text in entry.homes.get_ref() {
                let Some(home) = self.parsed::<Home>(
                    "instance.homes",
                    text,
                    "is not a routable unicast address",
                    "write a home address, without a prefix length",
                ) else {
                    continue;
                };
                let taken = instances.iter().flat_map(|instance| &instance.homes);
                if homes.contains(&home) || taken.clone().any(|other| *other == home) {
                    let mend = "a home address belongs to one instance, once";
                    self.fault("instance.homes", text.span(), "is named twice", mend);
                }
                homes.push(home);
            }
            if entry.homes.get_ref().is_empty() {
                let mend = "name at least one home address";
                self.fault("instance.homes", entry.homes.span(), "is empty", mend);
            }
            if let (None, Some(mac)) = (&entry.interface, &entry.mac) {
                let mend = "add `interface`, or remove this key";
                self.fault("instance.mac", mac.span(), "has no interface", mend);
            }
            let interface = entry.interface.as_ref().map(|text| self.interface(text));
            let mac = entry.mac.as_ref().and_then(|text| {
                self.parsed::<MacAddr>(
                    "instance.mac",
                    text,
                    "is not the MAC address of one interface",
                    "write six bytes as \"02:00:5e:00:53:01\"",
                )?;
                Some(text.get_ref().clone())
            });
            instances.push(Instance {
                name,
                homes,
                interface,
                mac,
            });
        }
        instances
    }

    fn socket(&mut self, key: &str, text: &Text) -> PathBuf {
        let path = PathBuf::from(text.get_ref());
        let length = text.get_ref().len();
        if !path.is_absolute() {
            let mend = "begin it with '/', as `control_socket` in that site's matd.toml";
            self.fault(key, text.span(), "is not an absolute path", mend);
        } else if length > SOCKET_PATH_MAX {
            let problem = format!("{length} bytes are too long for a Unix socket");
            let mend = format!("choose a path of at most {SOCKET_PATH_MAX} bytes");
            self.fault(key, text.span(), &problem, &mend);
        }
        path
    }

    fn interface(&mut self, text: &Text) -> String {
        let name = text.get_ref();
        let odd = |c: char| c.is_whitespace() || c.is_control() || "/:%".contains(c);
        if name.is_empty() || name.len() > INTERFACE_NAME_MAX || name.contains(odd) {
            self.fault(
                "instance.interface",
                text.span(),
                "is not an interface name",
                &format!("use 1 to {INTERFACE_NAME_MAX} letters, digits, '-', '_' and '.'"),
            );
        }
        name.clone()
    }

    /// A name that can stand on a command line and in a path.
    fn name(&mut self, key: &str, text: &Text) -> String {
        let name = text.get_ref();
        let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let usual = (1..=63).contains(&name.len()) && name.chars().all(good);
        if !usual || name.starts_with(['-', '.']) {
            let mend = "use 1 to 63 letters, digits, '-', '_' and '.'";
            self.fault(key, text.span(), "is not a name", mend);
        } else if name.parse::<std::net::IpAddr>().is_ok() {
            let mend = "choose a name; the address goes into `homes`";
            self.fault(key, text.span(), "is an address", mend);
        }
        name.clone()
    }

    fn domain(&mut self, key: &str, text: &Text) -> Option<Name> {
        let name = Name::from_ascii(text.get_ref()).ok();
        let name = name.filter(|name| name.num_labels() > 0);
        if name.is_none() {
            let mend = "write labels with dots between, as \"map.example.\"";
            self.fault(key, text.span(), "is not a domain name", mend);
        }
        name.map(|name| {
            let mut name = name.to_lowercase();
            name.set_fqdn(true);
            name
        })
    }

    fn parsed<T: FromStr>(
        &mut self,
        key: &str,
        text: &Text,
        problem: &str,
        mend: &str,
    ) -> Option<T> {
        let parsed = text.get_ref().parse().ok();
        if parsed.is_none() {
            self.fault(key, text.span(), problem, mend);
        }
        parsed
    }

    fn fault(&mut self, key: &str, span: Range<usize>, problem: &str, mend: &str) {
        let finding = self.source.finding(key, span, problem, mend);
        self.findings.push(finding);
    }
}

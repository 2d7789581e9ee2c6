//! The configuration of mat-mapd, read from TOML and turned into meaning.
//!
//! Every mistake is reported with file, line, key, value and what to write
//! instead; an unknown key is a mistake. The example
//! `mapping-service/mat-mapd.example.toml` documents every key and is read by a
//! test.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hickory_proto::rr::{Name, RecordType};
use ipnet::IpNet;
use mat_proto::record;
use serde::Deserialize;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::NoServerSessionStorage;
use toml::Spanned;

use crate::dnssec::{ZoneKey, is_made_here};
use crate::notify::Secondary;
use crate::policy::{Policy, Scope};
use crate::server::cookie::Secrets;
use crate::server::tcp::{PER_CLIENT, SESSIONS};
use crate::server::tls::usable;
use crate::tsig::{Algorithm, TsigKey};
use crate::zone::{Apex, lower};
use crate::zonefile::record_type;

/// Where the journal is kept unless the configuration says otherwise.
pub const DATA_DIR: &str = "/var/lib/mat-mapd";

/// Longest negative TTL: forwarders believe "not bound" for 2 s at most.
const NEGATIVE_TTL: u32 = 2;

/// Answers over UDP a second and client network unless the configuration says otherwise, and at
/// most.
const RESPONSES: u32 = 1000;
const MOST_RESPONSES: u32 = 1_000_000;

/// A configuration without mistakes.
#[derive(Clone, Debug)]
pub struct Config {
    /// Addresses to serve on, UDP and TCP.
    pub listen: Vec<SocketAddr>,
    /// Directory of the journal.
    pub data_dir: PathBuf,
    /// Zone, name servers, contact.
    pub apex: Apex,
    /// The TSIG keys.
    pub keys: Keys,
    /// Home addresses whose bindings are not told to everybody.
    pub private: Scope,
    /// Where Prometheus metrics are served.
    pub metrics_listen: Option<SocketAddr>,
    /// Who is told of changes.
    pub notify: Vec<Secondary>,
    /// What DNS cookies are made with, if not with a secret of the server's own.
    pub cookies: Option<Secrets>,
    /// Answers over UDP a second that a client network gets; `None`: any number.
    pub responses_per_second: Option<NonZeroU32>,
    /// Where DNS is served over TLS, with push.
    pub tls: Option<Tls>,
    /// What answers are signed with.
    pub dnssec: Option<Arc<ZoneKey>>,
}

/// DNS over TLS.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Addresses to serve on, TCP.
    pub listen: Vec<SocketAddr>,
    /// The certificate to show, and its key.
    pub config: Arc<ServerConfig>,
    /// Connections of one client address (an IPv6 /64) at the same time.
    pub connections_per_client: usize,
}

/// TSIG keys and what they may do, by name.
pub type Keys = BTreeMap<Name, Arc<KeyEntry>>;

/// One TSIG key and its policy.
#[derive(Clone, Debug)]
pub struct KeyEntry {
    /// The key.
    pub key: TsigKey,
    /// What its holder may do.
    pub policy: Arc<Policy>,
}

/// A mistake in the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {error}; name the configuration with --config FILE")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// Not TOML, an unknown key, a value of the wrong type, a key missing.
    #[error("{place}: {what}; every key is described in mat-mapd.example.toml")]
    Syntax {
        /// File and line.
        place: Place,
        /// What is wrong.
        what: String,
    },
    /// A value that means nothing.
    #[error("{place}: {key} = {value}: {mend}")]
    Value {
        /// File and line.
        place: Place,
        /// The key.
        key: &'static str,
        /// Its value as written (never a secret).
        value: String,
        /// What is wrong and what to write instead.
        mend: String,
    },
}

/// A line of a file.
#[derive(Clone, Debug)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// Line, from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.path.display(), self.line)
    }
}

impl Config {
    /// Reads `path` and the secret files it names.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Read {
            path: path.to_owned(),
            error,
        })?;
        Config::parse(path, &text)
    }

    /// As [`Config::load`], from text; secret files are found relative to
    /// `path`'s directory.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let source = Source { path, text };
        let file: File = toml::from_str(text).map_err(|error| ConfigError::Syntax {
            place: source.place(error.span().map_or(0, |span| span.start)),
            what: error.message().to_owned(),
        })?;
        let apex = source.apex(&file)?;
        let mut keys = Keys::new();
        for table in &file.key {
            let entry = source.key(table)?;
            if keys.contains_key(entry.key.name()) {
                return Err(source.wrong(
                    "key.name",
                    &table.name,
                    "is used twice; give each key its own name",
                ));
            }
            keys.insert(entry.key.name().clone(), Arc::new(entry));
        }
        let listen = source.listen("listen", &file.listen)?;
        let tls = match &file.tls {
            Some(table) => Some(source.tls(table, &listen)?),
            None => None,
        };
        let taken = tls.iter().flat_map(|tls| &tls.listen).chain(&listen);
        let metrics_listen = source.metrics(&file, taken)?;
        let dnssec = file.dnssec.as_ref().map(|table| source.dnssec(table));
        Ok(Config {
            dnssec: dnssec.transpose()?.map(Arc::new),
            tls,
            listen,
            notify: source.notify(&file, &keys)?,
            cookies: source.cookies(&file)?,
            responses_per_second: source.responses(&file)?,
            data_dir: file.data_dir.unwrap_or_else(|| DATA_DIR.into()),
            apex,
            keys,
            private: source.scope("private", &file.private)?,
            metrics_listen,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    zone: Spanned<String>,
    listen: Spanned<Vec<Spanned<String>>>,
    data_dir: Option<PathBuf>,
    #[serde(default)]
    nameservers: Vec<Spanned<String>>,
    contact: Option<Spanned<String>>,
    negative_ttl: Option<Spanned<u32>>,
    metrics_listen: Option<Spanned<String>>,
    #[serde(default)]
    private: Vec<Spanned<String>>,
    #[serde(default)]
    notify: Vec<NotifyTable>,
    tls: Option<TlsTable>,
    dnssec: Option<DnssecTable>,
    cookie_secret: Option<Spanned<CookieSecret>>,
    responses_per_second: Option<Spanned<u32>>,
    #[serde(default)]
    key: Vec<KeyTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NotifyTable {
    address: Spanned<String>,
    key: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsTable {
    listen: Spanned<Vec<Spanned<String>>>,
    certificate: Spanned<PathBuf>,
    private_key: Spanned<PathBuf>,
    connections_per_client: Option<Spanned<usize>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DnssecTable {
    key: Spanned<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyTable {
    name: Spanned<String>,
    algorithm: Option<Spanned<String>>,
    secret: Option<Spanned<String>>,
    secret_file: Option<Spanned<PathBuf>>,
    homes: Vec<Spanned<String>>,
    locators: Vec<Spanned<String>>,
    types: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    other_names: bool,
    #[serde(default)]
    transfer: bool,
    reads: Option<Vec<Spanned<String>>>,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "cookie_secret is no string and no array of strings"
)]
enum CookieSecret {
    One(String),
    More(Vec<String>),
}

impl fmt::Debug for CookieSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(not shown)")
    }
}

struct Source<'t> {
    path: &'t Path,
    text: &'t str,
}

impl Source<'_> {
    fn place(&self, offset: usize) -> Place {
        let before = self.text.as_bytes().iter().take(offset);
        Place {
            path: self.path.to_owned(),
            line: 1 + before.filter(|byte| **byte == b'\n').count(),
        }
    }

    fn wrong<T: fmt::Debug>(
        &self,
        key: &'static str,
        value: &Spanned<T>,
        mend: impl Into<String>,
    ) -> ConfigError {
        ConfigError::Value {
            place: self.place(value.span().start),
            key,
            value: format!("{:?}", value.get_ref()),
            mend: mend.into(),
        }
    }

    fn name(&self, key: &'static str, value: &Spanned<String>) -> Result<Name, ConfigError> {
        Name::from_ascii(value.get_ref())
            .ok()
            .filter(|name| name.num_labels() > 0)
            .map(|name| lower(&name))
            .ok_or_else(|| {
                self.wrong(
                    key,
                    value,
                    "is not a domain name; write e.g. \"map.example.\"",
                )
            })
    }

    fn apex(&self, file: &File) -> Result<Apex, ConfigError> {
        let origin = self.name("zone", &file.zone)?;
        let below = |label: &str| {
            origin
                .prepend_label(label)
                .map_err(|e| self.wrong("zone", &file.zone, format!("is too long: {e}")))
        };
        let longest = mat_proto::Home::new(std::net::Ipv6Addr::from(1u128 << 125).into())
            .map(|home| record::owner(home, &origin));
        if !matches!(longest, Ok(Ok(_))) {
            return Err(self.wrong(
                "zone",
                &file.zone,
                "is too long: IPv6 owners of 67 more octets must fit below it; choose a name of at most 180 characters",
            ));
        }
        let mut nameservers = Vec::new();
        for text in &file.nameservers {
            nameservers.push(self.name("nameservers", text)?);
        }
        if nameservers.is_empty() {
            nameservers.push(below("ns")?);
        }
        let contact = match &file.contact {
            Some(text) => self.name("contact", text)?,
            None => below("hostmaster")?,
        };
        let negative_ttl = match &file.negative_ttl {
            Some(ttl) if *ttl.get_ref() > NEGATIVE_TTL => {
                return Err(self.wrong(
                    "negative_ttl",
                    ttl,
                    "is too long: a home address may be claimed at any time; write 0, 1 or 2 seconds",
                ));
            }
            Some(ttl) => *ttl.get_ref(),
            None => NEGATIVE_TTL,
        };
        Ok(Apex {
            origin,
            nameservers,
            contact,
            ttl: 300,
            negative_ttl,
        })
    }

    fn listen(
        &self,
        key: &'static str,
        list: &Spanned<Vec<Spanned<String>>>,
    ) -> Result<Vec<SocketAddr>, ConfigError> {
        let addresses = list.get_ref();
        if addresses.is_empty() {
            return Err(self.wrong(
                key,
                list,
                "is empty; name at least one address, e.g. [\"203.0.113.53:53\"]",
            ));
        }
        let mut named = Vec::new();
        for text in addresses {
            let address = self.address(key, text)?;
            if named.contains(&address) && address.port() != 0 {
                return Err(self.wrong(key, text, "is named twice; name each address once"));
            }
            named.push(address);
        }
        Ok(named)
    }

    fn tls(&self, table: &TlsTable, others: &[SocketAddr]) -> Result<Tls, ConfigError> {
        let listen = self.listen("tls.listen", &table.listen)?;
        let mut both = listen.iter().zip(table.listen.get_ref());
        let plain = |address: &SocketAddr| others.contains(address) && address.port() != 0;
        if let Some((_, text)) = both.find(|(address, _)| plain(address)) {
            let mend =
                "is in `listen`, where DNS is served without TLS; choose another port, e.g. 853";
            return Err(self.wrong("tls.listen", text, mend));
        }
        let wrong = |key, value, what: String| self.wrong(key, value, what);
        let read = not_read;
        let chain: Result<Vec<_>, _> =
            CertificateDer::pem_file_iter(self.beside(&table.certificate))
                .and_then(Iterator::collect);
        let chain = chain.map_err(|e| wrong("tls.certificate", &table.certificate, read(&e)))?;
        if let Err(what) = usable(&chain) {
            return Err(wrong(
                "tls.certificate",
                &table.certificate,
                what.to_owned(),
            ));
        }
        let key = PrivateKeyDer::from_pem_file(self.beside(&table.private_key));
        let key = key.map_err(|e| wrong("tls.private_key", &table.private_key, read(&e)))?;
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key));
        let mut config = config.map_err(|error| {
            let mend = "they must belong together";
            let what = format!("does not go with tls.private_key: {error}; {mend}");
            wrong("tls.certificate", &table.certificate, what)
        })?;
        // Nobody comes back often enough for what would have to be remembered of him.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        let config = Arc::new(config);
        let connections_per_client = match &table.connections_per_client {
            None => PER_CLIENT,
            Some(count) if (1..=SESSIONS).contains(count.get_ref()) => *count.get_ref(),
            Some(count) => {
                let mend = format!("is out of range; write 1 to {SESSIONS}");
                return Err(self.wrong("tls.connections_per_client", count, mend));
            }
        };
        Ok(Tls {
            listen,
            config,
            connections_per_client,
        })
    }

    fn dnssec(&self, table: &DnssecTable) -> Result<ZoneKey, ConfigError> {
        let wrong = |what: &str| {
            let mend = "make one with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out FILE`";
            self.wrong("dnssec.key", &table.key, format!("{what}; {mend}"))
        };
        let key = PrivateKeyDer::from_pem_file(self.beside(&table.key));
        let key = key.map_err(|error| wrong(&not_read(&error)))?;
        ZoneKey::new(&key).ok_or_else(|| wrong("is no key for ECDSA P-256 or Ed25519 in PKCS#8"))
    }

    /// Files are named relative to the configuration's.
    fn beside(&self, file: &Spanned<PathBuf>) -> PathBuf {
        let directory = self.path.parent().unwrap_or(Path::new(""));
        directory.join(file.get_ref())
    }

    fn metrics<'a>(
        &self,
        file: &File,
        mut taken: impl Iterator<Item = &'a SocketAddr>,
    ) -> Result<Option<SocketAddr>, ConfigError> {
        let Some(text) = &file.metrics_listen else {
            return Ok(None);
        };
        let address = self.address("metrics_listen", text)?;
        if taken.any(|taken| *taken == address) && address.port() != 0 {
            let mend = "is in `listen`, where DNS is served; choose another port";
            return Err(self.wrong("metrics_listen", text, mend));
        }
        Ok(Some(address))
    }

    fn notify(&self, file: &File, keys: &Keys) -> Result<Vec<Secondary>, ConfigError> {
        let mut secondaries: Vec<Secondary> = Vec::new();
        for table in &file.notify {
            let address = self.address("notify.address", &table.address)?;
            if secondaries.iter().any(|s| s.address == address) {
                let mend = "is named twice; name each secondary once";
                return Err(self.wrong("notify.address", &table.address, mend));
            }
            let key = match &table.key {
                None => None,
                Some(text) => {
                    let name = self.name("notify.key", text)?;
                    if !keys.contains_key(&name) {
                        let mend = "is not the name of a [[key]]; write one, or leave it out";
                        return Err(self.wrong("notify.key", text, mend));
                    }
                    Some(name)
                }
            };
            secondaries.push(Secondary { address, key });
        }
        Ok(secondaries)
    }

    fn cookies(&self, file: &File) -> Result<Option<Secrets>, ConfigError> {
        let Some(given) = &file.cookie_secret else {
            return Ok(None);
        };
        let texts = match given.get_ref() {
            CookieSecret::One(text) => std::slice::from_ref(text),
            CookieSecret::More(texts) => texts,
        };
        let secrets: Option<Vec<_>> = texts.iter().map(|text| octets(text)).collect();
        match secrets.as_deref() {
            Some([first]) => Ok(Some(Secrets::new(first, None))),
            Some([first, second]) => Ok(Some(Secrets::new(first, Some(second)))),
            _ => {
                let mend = "is not 32 hex digits, or an array of one or two such texts; make one with `od -An -tx1 -N16 /dev/urandom | tr -d ' '`";
                Err(self.wrong("cookie_secret", given, mend))
            }
        }
    }

    fn responses(&self, file: &File) -> Result<Option<NonZeroU32>, ConfigError> {
        match &file.responses_per_second {
            Some(rate) if *rate.get_ref() > MOST_RESPONSES => {
                let mend = format!("is too many; write 1 to {MOST_RESPONSES}, or 0 for no limit");
                Err(self.wrong("responses_per_second", rate, mend))
            }
            Some(rate) => Ok(NonZeroU32::new(*rate.get_ref())),
            None => Ok(NonZeroU32::new(RESPONSES)),
        }
    }

    fn address(
        &self,
        key: &'static str,
        text: &Spanned<String>,
    ) -> Result<SocketAddr, ConfigError> {
        text.get_ref().parse().map_err(|_| {
            let mend = "is not an address with a port; write \"203.0.113.53:53\" or \"[2001:db8:53::53]:53\"";
            self.wrong(key, text, mend)
        })
    }

    fn key(&self, table: &KeyTable) -> Result<KeyEntry, ConfigError> {
        Ok(KeyEntry {
            key: self.tsig(table)?,
            policy: Arc::new(Policy {
                homes: self.scope("key.homes", &table.homes)?,
                locators: self.scope("key.locators", &table.locators)?,
                types: self.types(table)?,
                other_names: table.other_names,
                transfer: table.transfer,
                reads: match &table.reads {
                    Some(list) => self.scope("key.reads", list)?,
                    None => Scope::All,
                },
            }),
        })
    }

    fn tsig(&self, table: &KeyTable) -> Result<TsigKey, ConfigError> {
        let name = table.name.get_ref();
        let algorithm = match &table.algorithm {
            None => Algorithm::default(),
            Some(text) => text.get_ref().parse().map_err(|_| {
                let mend = "is not offered; write hmac-sha256, hmac-sha384 or hmac-sha512";
                self.wrong("key.algorithm", text, mend)
            })?,
        };
        let of_name = |mend: String| self.wrong("key.name", &table.name, mend);
        match (&table.secret, &table.secret_file) {
            (Some(secret), None) => TsigKey::from_base64(name, algorithm, secret.get_ref())
                .map_err(|e| of_name(e.to_string())),
            (None, Some(file)) => {
                let wrong = |what: String| self.wrong("key.secret_file", file, what);
                let text = std::fs::read_to_string(self.beside(file))
                    .map_err(|e| wrong(format!("cannot be read: {e}")))?;
                if !text.contains('{') {
                    return TsigKey::from_base64(name, algorithm, &text)
                        .map_err(|e| wrong(e.to_string()));
                }
                let key = TsigKey::from_clause(&text).map_err(|e| wrong(e.to_string()))?;
                if *key.name() != self.name("key.name", &table.name)? {
                    return Err(wrong(format!(
                        "holds key {}, not {name}; make the names equal",
                        key.name()
                    )));
                }
                Ok(key)
            }
            _ => Err(of_name(
                "needs exactly one of `secret` (base64 text) and `secret_file`".to_owned(),
            )),
        }
    }

    fn scope(&self, key: &'static str, list: &[Spanned<String>]) -> Result<Scope, ConfigError> {
        let mut prefixes = Vec::new();
        for text in list {
            let value = text.get_ref();
            if value == "all" {
                return Ok(Scope::All);
            }
            let net = address_or_prefix(value).ok_or_else(|| {
                let mend = "is not an address or prefix; write \"192.0.2.0/24\", \"2001:db8::7\" or \"all\"";
                self.wrong(key, text, mend)
            })?;
            if net.trunc() != net {
                let mend = format!(
                    "has bits beyond its prefix length; write \"{}\"",
                    net.trunc()
                );
                return Err(self.wrong(key, text, mend));
            }
            prefixes.push(net);
        }
        Ok(Scope::Prefixes(prefixes))
    }

    fn types(&self, table: &KeyTable) -> Result<Vec<RecordType>, ConfigError> {
        let Some(list) = &table.types else {
            return Ok(vec![RecordType::SVCB, RecordType::A, RecordType::AAAA]);
        };
        list.iter()
            .map(|text| {
                record_type(text.get_ref())
                    .filter(|kind| !matches!(kind, RecordType::SOA | RecordType::NS | RecordType::ANY))
                    .filter(|kind| !is_made_here(*kind))
                    .ok_or_else(|| {
                        let mend = "is not a record type that may be written; write e.g. \"SVCB\", \"A\", \"AAAA\", \"TXT\"";
                        self.wrong("key.types", text, mend)
                    })
            })
            .collect()
    }
}

/// What is wrong with a file in PEM form.
fn not_read(error: &pem::Error) -> String {
    match error {
        pem::Error::NoItemsFound => "holds none in PEM form".to_owned(),
        error => format!("cannot be read: {error}"),
    }
}

/// A secret in hex.
fn octets(text: &str) -> Option<[u8; 16]> {
    let is_hex = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let number = is_hex.then(|| u128::from_str_radix(text, 16).ok());
    number.flatten().map(u128::to_be_bytes)
}

/// A prefix; an address alone is one of full length.
pub fn address_or_prefix(text: &str) -> Option<IpNet> {
    let single = text.parse::<IpAddr>().map(IpNet::from);
    single.or_else(|_| text.parse()).ok()
}

/// A type by its name, or by its number as `TYPE65280` (RFC 3597 section 5).
#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = r#"
[[key]]
name = "site-a"
secret = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
homes = ["192.0.2.0/24", "2001:db8::7"]
locators = ["all"]
"#;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(Path::new("mapd.toml"), text)
    }

    #[test]
    fn the_least_configuration_is_small() {
        let config = parse(&format!(
            "zone = \"Map.Example\"\nlisten = [\"127.0.0.1:53\"]\n{KEY}"
        ))
        .unwrap();
        assert_eq!(config.apex.origin.to_ascii(), "map.example.");
        assert_eq!(config.apex.nameservers[0].to_ascii(), "ns.map.example.");
        assert_eq!(config.data_dir, Path::new(DATA_DIR));
        assert_eq!(config.notify, []);
        assert!(config.cookies.is_none());
        assert_eq!(config.responses_per_second, NonZeroU32::new(RESPONSES));
        let entry = config.keys.values().next().unwrap();
        assert!(entry.policy.homes.contains("192.0.2.9".parse().unwrap()));
        assert!(!entry.policy.homes.contains("2001:db8::8".parse().unwrap()));
        assert_eq!(entry.policy.locators, Scope::All);
        assert!(!entry.policy.transfer);
    }

    #[test]
    fn a_type_without_a_name_is_written_as_its_number() {
        let head = "zone = \"map.example.\"\nlisten = [\"127.0.0.1:53\"]\n";
        let types = |list: &str| parse(&format!("{head}{KEY}types = [{list}]"));
        let config = types("\"TYPE65280\", \"TYPE16\", \"APL\"").unwrap();
        let entry = config.keys.values().next().unwrap();
        let wanted = [
            RecordType::Unknown(65280),
            RecordType::TXT,
            RecordType::Unknown(42),
        ];
        assert_eq!(entry.policy.types, wanted);
        assert!(types("\"TYPE2\"").is_err());
        assert!(types("\"TYPE65536\"").is_err());
    }

    #[test]
    fn cookies_have_one_secret_or_two_and_answers_a_limit_or_none() {
        let head = "zone = \"map.example.\"\nlisten = [\"127.0.0.1:53\"]\n";
        let secret = "e5e973e5a6b2a43f48e7dc849e37bfcf";
        for (given, wanted) in [
            (format!("\"{secret}\""), true),
            (format!("[\"{secret}\"]"), true),
            (
                format!("[\"{secret}\", \"{}\"]", secret.to_uppercase()),
                true,
            ),
            (format!("[\"{secret}\", \"{secret}\", \"{secret}\"]"), false),
            (format!("[\"{secret}\", \"\"]"), false),
        ] {
            let config = parse(&format!("{head}cookie_secret = {given}"));
            assert_eq!(config.is_ok_and(|c| c.cookies.is_some()), wanted, "{given}");
        }
        for rate in [0, 1, 1_000_000] {
            let config = parse(&format!("{head}responses_per_second = {rate}")).unwrap();
            assert_eq!(config.responses_per_second, NonZeroU32::new(rate));
        }
    }

    #[test]
    fn mistakes_name_file_line_key_value_and_mend() {
        let dir = tempfile::tempdir().unwrap();
        let rsa = dir.path().join("rsa.pem");
        let pem = "-----BEGIN RSA PRIVATE KEY-----\nMAA=\n-----END RSA PRIVATE KEY-----\n";
        std::fs::write(&rsa, pem).unwrap();
        let head = "zone = \"map.example.\"\nlisten = [\"127.0.0.1:53\"]\n";
        let cases = [
            (
                "zone = 5\n".to_owned(),
                "mapd.toml:1: invalid type: integer `5`, expected a string",
            ),
            ("listen = []".to_owned(), "missing field `zone`"),
            (
                "zone = \"map.example.\"\nlisten = []".to_owned(),
                "mapd.toml:2: listen = []: is empty",
            ),
            (
                "zone = \"map.example.\"\nlisten = [\n\"127.0.0.1\"]".to_owned(),
                "mapd.toml:3: listen = \"127.0.0.1\": is not an address with a port; write",
            ),
            (
                "zone = \"a..b\"\nlisten = [\"127.0.0.1:53\"]".to_owned(),
                "mapd.toml:1: zone = \"a..b\": is not a domain name",
            ),
            (
                format!("{head}lissten = 3"),
                "mapd.toml:3: unknown field `lissten`",
            ),
            (
                format!("{head}negative_ttl = 60"),
                "mapd.toml:3: negative_ttl = 60: is too long",
            ),
            (
                format!("{head}{}", KEY.replace("192.0.2.0/24", "192.0.2.1/24")),
                "mapd.toml:7: key.homes = \"192.0.2.1/24\": has bits beyond its prefix length; write \"192.0.2.0/24\"",
            ),
            (
                format!("{head}{}", KEY.replace("[\"all\"]", "[\"every\"]")),
                "mapd.toml:8: key.locators = \"every\": is not an address or prefix",
            ),
            (
                format!(
                    "{head}[tls]\nlisten = [\"127.0.0.1:53\"]\ncertificate = \"c\"\nprivate_key = \"k\"\n"
                ),
                "mapd.toml:4: tls.listen = \"127.0.0.1:53\": is in `listen`, where DNS is served without TLS",
            ),
            (
                format!(
                    "{head}[tls]\nlisten = [\"127.0.0.1:853\"]\ncertificate = \"no.pem\"\nprivate_key = \"k\"\n"
                ),
                "mapd.toml:5: tls.certificate = \"no.pem\": cannot be read: ",
            ),
            (
                format!("{head}[tls]\nlisten = []\ncertificate = \"c\"\nprivate_key = \"k\"\n"),
                "mapd.toml:4: tls.listen = []: is empty",
            ),
            (
                format!("{head}{KEY}{KEY}"),
                "mapd.toml:11: key.name = \"site-a\": is used twice",
            ),
            (
                format!("{head}metrics_listen = \"9253\""),
                "mapd.toml:3: metrics_listen = \"9253\": is not an address with a port",
            ),
            (
                format!("{head}metrics_listen = \"127.0.0.1:53\""),
                "mapd.toml:3: metrics_listen = \"127.0.0.1:53\": is in `listen`",
            ),
            (
                "zone = \"map.example.\"\nlisten = [\"127.0.0.1:53\",\n\"127.0.0.1:53\"]"
                    .to_owned(),
                "mapd.toml:3: listen = \"127.0.0.1:53\": is named twice",
            ),
            (
                format!("{head}private = [\"192.0.2.0/33\"]"),
                "mapd.toml:3: private = \"192.0.2.0/33\": is not an address or prefix",
            ),
            (
                format!("{head}{KEY}reads = [\"some\"]"),
                "key.reads = \"some\": is not an address or prefix",
            ),
            (
                format!("{head}notify = [ {{ address = \"ns2.example.net\" }} ]"),
                "mapd.toml:3: notify.address = \"ns2.example.net\": is not an address with a port",
            ),
            (
                format!("{head}notify = [ {{ key = \"site-a\" }} ]{KEY}"),
                "mapd.toml:3: missing field `address`",
            ),
            (
                format!(
                    "{head}notify = [\n{{ address = \"192.0.2.1:53\", key = \"site-b\" }} ]{KEY}"
                ),
                "mapd.toml:4: notify.key = \"site-b\": is not the name of a [[key]]",
            ),
            (
                format!(
                    "{head}notify = [\n{{ address = \"192.0.2.1:53\" }},\n{{ address = \"192.0.2.1:53\" }} ]"
                ),
                "mapd.toml:5: notify.address = \"192.0.2.1:53\": is named twice",
            ),
            (
                format!("{head}cookie_secret = 5"),
                "mapd.toml:3: cookie_secret is no string and no array of strings",
            ),
            (
                format!("{head}cookie_secret = \"5eca\""),
                "mapd.toml:3: cookie_secret = (not shown): is not 32 hex digits",
            ),
            (
                format!("{head}cookie_secret = \"+{}\"", "5".repeat(31)),
                "mapd.toml:3: cookie_secret = (not shown): is not 32 hex digits",
            ),
            (
                format!("{head}\ncookie_secret = []"),
                "mapd.toml:4: cookie_secret = (not shown): is not 32 hex digits, or an array",
            ),
            (
                format!("{head}responses_per_second = -1"),
                "mapd.toml:3: invalid value: integer `-1`, expected u32",
            ),
            (
                format!("{head}responses_per_second = 2000000"),
                "mapd.toml:3: responses_per_second = 2000000: is too many; write 1 to 1000000",
            ),
            (
                format!("{head}{KEY}algorithm = \"hmac-md5\""),
                "key.algorithm = \"hmac-md5\": is not offered",
            ),
            (
                format!("{head}{KEY}types = [\"SOA\"]"),
                "key.types = \"SOA\": is not a record type that may be written",
            ),
            (
                format!("{head}{KEY}types = [\"A\",\n\"DNSKEY\"]"),
                "mapd.toml:10: key.types = \"DNSKEY\": is not a record type that may be written",
            ),
            (
                format!("{head}[dnssec]\nkey = \"no.pem\""),
                "mapd.toml:4: dnssec.key = \"no.pem\": cannot be read: ",
            ),
            (
                format!(
                    "{head}[dnssec]\nkey = \"{}/Cargo.toml\"",
                    env!("CARGO_MANIFEST_DIR")
                ),
                "Cargo.toml\": holds none in PEM form; make one with `openssl genpkey -algorithm EC",
            ),
            (
                format!("{head}[dnssec]\nkey = \"{}\"", rsa.display()),
                "is no key for ECDSA P-256 or Ed25519 in PKCS#8; make one with `openssl genpkey",
            ),
            (
                format!("{head}[dnssec]\n"),
                "mapd.toml:3: missing field `key`",
            ),
            (
                format!("{head}{KEY}secret_file = \"x\""),
                "needs exactly one of `secret`",
            ),
            (
                format!("{head}{}", KEY.replace("secret = ", "secret_file = ")),
                "cannot be read: No such file",
            ),
            (
                format!(
                    "{head}{}",
                    KEY.replace("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "AAEC")
                ),
                "has 3 octets; at least 16 are needed",
            ),
        ];
        for (text, wanted) in cases {
            let error = parse(&text).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}\nshould contain\n{wanted}");
            assert!(error.starts_with("mapd.toml:"), "{error}");
        }
    }

    #[test]
    fn secrets_may_live_in_files_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("mapd.toml");
        let head = "zone = \"map.example.\"\nlisten = [\"127.0.0.1:53\"]\n[[key]]\nname = \"site-a\"\nsecret_file = \"site-a.key\"\nhomes = []\nlocators = []\n";
        let read = |text: &str| {
            std::fs::write(dir.path().join("site-a.key"), text).unwrap();
            Config::parse(&config, head)
        };
        let secret = "AAECAwQFBgcICQoLDA0ODw==";
        assert!(read(&format!("{secret}\n")).is_ok());
        let clause =
            |name| format!("key \"{name}\" {{ algorithm hmac-sha512; secret \"{secret}\"; }};");
        let loaded = read(&clause("site-a")).unwrap();
        let entry = loaded.keys.values().next().unwrap();
        assert_eq!(entry.key.algorithm(), Algorithm::HmacSha512);
        let error = read(&clause("site-b")).unwrap_err().to_string();
        assert!(error.contains("holds key site-b., not site-a"), "{error}");
    }

    #[test]
    fn the_example_is_read() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("mat-mapd.example.toml");
        let config = Config::load(&path).unwrap();
        assert_eq!(config.listen.len(), 2);
        assert_eq!(config.keys.len(), 4);
        assert_eq!(config.responses_per_second, NonZeroU32::new(RESPONSES));
        assert_eq!(
            config.notify[0].key,
            Some(lower(&"secondary".parse().unwrap()))
        );
        assert_eq!(config.notify[1].key, None);
    }
}

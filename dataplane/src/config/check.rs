//! From the shape of the file to its meaning: every rule, each with its mend.

use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ipnet::IpNet;
use mat_mapping::client::{Anchors, addresses_below, is_reverse, push};
use mat_proto::{CONTROL_PORT, Home, Locator, apl};
use toml::Spanned;

use super::raw::{
    Raw, RawInstance, RawKey, RawLimits, RawLocators, RawPair, RawPush, RawTun, RawZone,
};
use super::source::{ConfigError, Finding, Source};
use super::{
    Config, Homes, Instance, Key, Limits, Locators, Mapping, OnIsolation, Pair, Placement, Push,
    Told, Trust, TunConfig, Zone, family_of,
};

/// Linux: IFNAMSIZ without the final NUL.
const INTERFACE_NAME_MAX: usize = 15;

/// Whether an interface can have that name; if not, what is wrong and what to do.
pub(crate) fn interface_name(name: &str) -> Result<(), (String, String)> {
    let well_formed = !name.is_empty()
        && !matches!(name, "." | "..")
        && !name.contains(|c: char| c.is_whitespace() || c.is_control() || "/:%".contains(c));
    if name.len() > INTERFACE_NAME_MAX {
        let problem = format!("{} bytes are too long for an interface name", name.len());
        return Err((problem, format!("use at most {INTERFACE_NAME_MAX}")));
    }
    if !well_formed {
        let mend = "use letters, digits, '-', '_' and '.'";
        return Err(("is not an interface name".to_owned(), mend.to_owned()));
    }
    Ok(())
}
/// Linux: `sun_path` without the final NUL.
const SOCKET_PATH_MAX: usize = 107;
/// IPv6 needs 1280 on every link (RFC 8200, section 5).
const MTU: RangeInclusive<i64> = 1280..=65535;
/// Threads beyond this have only been seen to get in each other's way.
const QUEUES: RangeInclusive<i64> = 1..=16;
const LEASE_S: RangeInclusive<i64> = 1..=86_400;
/// A shorter secret than half the digest is guessable (RFC 8945, section 8).
const SECRET_MIN: usize = 16;

type List = Spanned<Vec<Spanned<String>>>;

/// Whether one of these holds `inner`, or they are not known.
fn holds(prefixes: &[IpNet], inner: &IpNet) -> bool {
    prefixes.is_empty() || prefixes.iter().any(|prefix| prefix.contains(inner))
}

pub(super) struct Checker<'a> {
    source: Source<'a>,
    folder: &'a Path,
    findings: Vec<Finding>,
}

impl<'a> Checker<'a> {
    pub fn new(source: Source<'a>, folder: &'a Path) -> Self {
        Self {
            source,
            folder,
            findings: Vec::new(),
        }
    }

    pub fn config(mut self, raw: &Raw, told: Option<&Told>) -> Result<Config, ConfigError> {
        let placement = *raw.placement.get_ref();
        let (homes_left, locators_left) = (&raw.homes.prefixes, &raw.locators.prefixes);
        let listed = |given: &Option<List>, told: Option<&Vec<IpNet>>| {
            // What the zone says stands where it is named.
            let at = raw.mapping.zone.span();
            let text = |prefix: &IpNet| Spanned::new(at.clone(), prefix.to_string());
            let told = told.map(|list| list.iter().map(text).collect());
            given.clone().or(told.map(|told| Spanned::new(at, told)))
        };
        let key = |list: apl::List, key: &str, given: &Option<List>| match given {
            Some(_) => key.to_owned(),
            None => format!("{key} (the APL records of {})", list.label()),
        };
        let homes_key = key(apl::List::Homes, "homes.prefixes", homes_left);
        let locators_key = key(apl::List::Locators, "locators.prefixes", locators_left);
        let homes = listed(homes_left, told.map(|told| &told.homes));
        let homes = Homes {
            prefixes: self.bounds(&homes_key, homes.as_ref()),
        };
        let all = listed(locators_left, told.map(|told| &told.locators));
        let locators = self.locators(
            &raw.locators,
            (&locators_key, all.as_ref()),
            placement,
            &homes,
        );
        if homes_left.is_none() || locators_left.is_none() {
            self.has_lists(&raw.mapping.zone);
        }
        let config = Config {
            left_to_zone: [
                (apl::List::Homes, homes_left),
                (apl::List::Locators, locators_left),
            ]
            .into_iter()
            .filter_map(|(list, given)| given.is_none().then_some(list))
            .collect(),
            site: self.label("site", &raw.site),
            placement,
            uplink: self.interface("uplink", &raw.uplink),
            control_socket: self.absolute("control_socket", &raw.control_socket),
            state_dir: self.absolute("state_dir", &raw.state_dir),
            control_port: raw
                .control_port
                .as_ref()
                .map_or(CONTROL_PORT, |n| self.number("control_port", n, 1..=65_535)),
            metrics_listen: raw.metrics_listen.as_ref().and_then(|text| {
                self.parsed(
                    "metrics_listen",
                    text,
                    "is not an address with a port",
                    "write \"127.0.0.1:9283\" or \"[::1]:9283\"",
                )
            }),
            tun: self.tun(&raw.tun, raw.uplink.get_ref()),
            mapping: self.mapping(raw, &homes),
            pair: raw
                .pair
                .as_ref()
                .and_then(|pair| self.pair(pair, raw, &homes, &locators)),
            limits: self.limits(&raw.limits),
            instances: self.instances(raw, &homes, &locators),
            homes,
            locators,
        };
        let socket_path = config.control_socket.as_os_str().len();
        if socket_path > SOCKET_PATH_MAX {
            self.fault(
                "control_socket",
                raw.control_socket.span(),
                &format!("{socket_path} bytes are too long for a Unix socket"),
                &format!("choose a path of at most {SOCKET_PATH_MAX} bytes"),
            );
        }
        if self.findings.is_empty() {
            Ok(config)
        } else {
            self.findings.sort_by_key(|finding| finding.line);
            Err(ConfigError::Invalid(self.findings))
        }
    }

    fn tun(&mut self, raw: &RawTun, uplink: &str) -> TunConfig {
        let name = match &raw.name {
            Some(name) => {
                if name.get_ref() == uplink {
                    self.fault(
                        "tun.name",
                        name.span(),
                        "this is the uplink",
                        "name a device that matd may create, for example \"mat0\"",
                    );
                }
                self.interface("tun.name", name)
            }
            None => "mat0".to_owned(),
        };
        TunConfig {
            name,
            mtu: raw
                .mtu
                .as_ref()
                .map_or(1500, |n| self.number("tun.mtu", n, MTU)),
            offload: raw.offload.unwrap_or(true),
            coalesce: raw.coalesce.unwrap_or(true),
            queues: raw
                .queues
                .as_ref()
                .map_or(1, |n| self.number("tun.queues", n, QUEUES)),
        }
    }

    /// Prefixes that others must be in; none if that cannot be checked, because nobody has said
    /// which they are, or one of them is faulty: what lies in it would be faulty too.
    fn bounds(&mut self, key: &str, list: Option<&List>) -> Vec<IpNet> {
        let Some(list) = list else {
            return Vec::new();
        };
        self.not_empty(key, list);
        let prefixes = self.prefixes(key, list);
        let complete = prefixes.len() == list.get_ref().len();
        if complete { prefixes } else { Vec::new() }
    }

    fn locators(
        &mut self,
        raw: &RawLocators,
        (key, list): (&str, Option<&List>),
        placement: Placement,
        homes: &Homes,
    ) -> Locators {
        let prefixes = self.bounds(key, list);
        for text in list.into_iter().flat_map(Spanned::get_ref) {
            let Ok(locator) = text.get_ref().parse::<IpNet>() else {
                continue;
            };
            for home in &homes.prefixes {
                if home.contains(&locator) || locator.contains(home) {
                    self.fault(
                        key,
                        text.span(),
                        &format!("{locator} overlaps the home prefix {home}"),
                        "home addresses and locators need prefixes of their own",
                    );
                }
            }
        }
        let pool = raw.pool.as_ref();
        let pool = pool.map_or_else(Vec::new, |list| self.pool(list, &prefixes));
        let exclusive = raw.exclusive.as_ref().is_some_and(|flag| *flag.get_ref());
        let place =
            |field: Option<Range<usize>>| field.unwrap_or_else(|| list.map_or(0..0, Spanned::span));
        if exclusive && placement == Placement::Gateway {
            self.fault(
                "locators.exclusive",
                place(raw.exclusive.as_ref().map(Spanned::span)),
                "a gateway serves several instances and needs one locator for each",
                "set it to false and give a `pool`",
            );
        } else if exclusive && !pool.is_empty() {
            self.fault(
                "locators.pool",
                place(raw.pool.as_ref().map(Spanned::span)),
                "a pool is never used when `exclusive` is true",
                "remove the pool, or set `exclusive` to false",
            );
        } else if !exclusive
            && raw
                .pool
                .as_ref()
                .is_none_or(|list| list.get_ref().is_empty())
        {
            self.fault(
                "locators.pool",
                place(raw.pool.as_ref().map(Spanned::span)),
                "there is no locator to give to an instance",
                "list the prefixes reserved for this site (a guest may set `exclusive = true` instead)",
            );
        }
        Locators {
            prefixes,
            pool,
            exclusive,
        }
    }

    fn pool(&mut self, list: &List, prefixes: &[IpNet]) -> Vec<IpNet> {
        let pool = self.prefixes("locators.pool", list);
        for text in list.get_ref() {
            let Ok(prefix) = text.get_ref().parse::<IpNet>() else {
                continue;
            };
            if !holds(prefixes, &prefix) {
                self.fault(
                    "locators.pool",
                    text.span(),
                    "is inside none of `locators.prefixes`, so peers would not accept it",
                    "add its prefix to `locators.prefixes` at every site, or correct it",
                );
            }
        }
        pool
    }

    fn mapping(&mut self, raw: &Raw, homes: &Homes) -> Mapping {
        let given = &raw.mapping;
        let first = Zone {
            homes: Vec::new(),
            servers: self.servers("mapping.servers", &given.servers),
            name: self.domain("mapping.zone", &given.zone),
            trust: self.trust("mapping.trust", given.trust.clone(), given.key.is_some()),
            anchor: self.anchor("mapping", &given.trust, given.anchor.as_ref()),
            key: given
                .key
                .as_ref()
                .and_then(|key| self.key("mapping.key", key)),
            push: given
                .push
                .as_ref()
                .and_then(|push| self.push("mapping.push", push)),
        };
        let mut zones = vec![first];
        for raw in &raw.zone {
            let zone = self.zone(raw, homes, &zones);
            zones.push(zone);
        }
        let first = std::iter::once((&given.zone, &homes.prefixes));
        let others = raw.zone.iter().zip(&zones[1..]);
        let others = others.map(|(raw, zone)| (&raw.zone, &zone.homes));
        for (name, homes) in first.chain(others) {
            self.leads_to(name, homes);
        }
        let mapping = Mapping {
            zones,
            lease_s: given
                .lease_s
                .as_ref()
                .map_or(30, |n| self.number("mapping.lease_s", n, LEASE_S)),
            poll_ms: given
                .poll_ms
                .as_ref()
                .map_or(1_000, |n| self.number("mapping.poll_ms", n, 100..=60_000)),
            on_isolation: given
                .on_isolation
                .as_ref()
                .and_then(|text| {
                    self.parsed(
                        "mapping.on_isolation",
                        text,
                        "says neither to serve nor to stop",
                        "write \"serve\", or \"stop-after 30\" with a number of seconds from 1 to 86400",
                    )
                })
                .unwrap_or(OnIsolation::Serve),
        };
        let pushes = given.push.iter().map(|push| (&given.zone, push));
        let others = raw.zone.iter();
        let others = others.filter_map(|raw| Some((&raw.zone, raw.push.as_ref()?)));
        for (zone, push) in pushes.chain(others) {
            if zone.get_ref().parse().is_ok_and(|name| is_reverse(&name)) {
                self.fault(
                    "push.server",
                    push.server.span(),
                    "cannot push what is found through the reverse tree",
                    "remove push, or name the zone where the bindings are",
                );
            }
        }
        let poll = Duration::from_millis(mapping.poll_ms);
        if let (Some(text), OnIsolation::StopAfter(time)) =
            (&given.on_isolation, mapping.on_isolation)
            && mapping.is_pushed()
            && time < poll * 3
        {
            self.fault(
                "mapping.on_isolation",
                text.span(),
                "is too soon: with push an answer is up to mapping.poll_ms old",
                "write at least three times that, or a shorter mapping.poll_ms",
            );
        }
        mapping
    }

    /// A `[[zone]]`; `others` are those before it.
    /// A zone of the reverse tree has aliases of single homes, and nothing else.
    fn has_lists(&mut self, zone: &Spanned<String>) {
        if zone.get_ref().parse().is_ok_and(|name| is_reverse(&name)) {
            self.fault(
                "mapping.zone",
                zone.span(),
                "the reverse tree says nothing of prefixes, which are left to the zone",
                "write `prefixes` in [homes] and [locators]",
            );
        }
    }

    /// A zone of the reverse tree has aliases of some of the homes that it speaks for.
    fn leads_to(&mut self, zone: &Spanned<String>, homes: &[IpNet]) {
        let name = zone.get_ref().parse().ok();
        let Some(part) = name.and_then(|name| addresses_below(&name)) else {
            return;
        };
        let concerned = |homes: &IpNet| homes.contains(&part) || part.contains(homes);
        if !homes.is_empty() && !homes.iter().any(concerned) {
            self.fault(
                "zone",
                zone.span(),
                &format!("this is the reverse zone of {part}, and no home is in that"),
                "name that of the homes, or one above it",
            );
        }
    }

    fn zone(&mut self, raw: &RawZone, homes: &Homes, others: &[Zone]) -> Zone {
        self.not_empty("zone.homes", &raw.homes);
        let prefixes = self.prefixes("zone.homes", &raw.homes);
        for prefix in &prefixes {
            let span = raw.homes.span();
            if !holds(&homes.prefixes, prefix) {
                self.fault(
                    "zone.homes",
                    span.clone(),
                    "is in none of homes.prefixes",
                    "a zone speaks for a part of the home prefixes: write one that lies in them, or add it there",
                );
            }
            if others.iter().any(|zone| zone.homes.contains(prefix)) {
                self.fault(
                    "zone.homes",
                    span,
                    "another [[zone]] speaks for this prefix",
                    "name it once",
                );
            }
        }
        let name = self.domain("zone.zone", &raw.zone);
        Zone {
            homes: prefixes,
            servers: self.servers("zone.servers", &raw.servers),
            name,
            trust: self.trust("zone.trust", raw.trust.clone(), raw.key.is_some()),
            anchor: self.anchor("zone", &raw.trust, raw.anchor.as_ref()),
            key: raw.key.as_ref().and_then(|key| self.key("zone.key", key)),
            push: raw
                .push
                .as_ref()
                .and_then(|push| self.push("zone.push", push)),
        }
    }

    fn push(&mut self, at: &str, raw: &RawPush) -> Option<Push> {
        let server = self.parsed::<SocketAddr>(
            &format!("{at}.server"),
            &raw.server,
            "is not an address with a port",
            "write \"203.0.113.53:853\" or \"[2001:db8::53]:853\"",
        );
        let file = self.folder.join(raw.certificate.get_ref());
        let certificates = push::certificates(&file);
        if let Err(problem) = &certificates {
            let name = format!("{at}.certificate");
            let mend = "copy the file that `tls.certificate` of mat-mapd names";
            self.fault(&name, raw.certificate.span(), problem, mend);
        }
        let (server, certificates) = (server?, certificates.ok()?);
        let name = raw.name.get_ref();
        if let Err(problem) = push::Endpoint::new(server, name, &certificates) {
            let mend = "write the name that the certificate is for, as in \"ns1.map.example\"";
            self.fault(&format!("{at}.name"), raw.name.span(), &problem, mend);
        }
        Some(Push {
            server,
            name: name.clone(),
            certificates,
        })
    }

    fn servers(&mut self, name: &str, raw: &List) -> Vec<SocketAddr> {
        self.not_empty(name, raw);
        let servers = raw.get_ref().iter().filter_map(|text| {
            self.parsed::<SocketAddr>(
                name,
                text,
                "is not an address with a port",
                "write \"203.0.113.53:53\" or \"[2001:db8::53]:53\"",
            )
        });
        servers.collect()
    }

    fn trust(&mut self, name: &str, raw: Spanned<Trust>, key: bool) -> Trust {
        if *raw.get_ref() == Trust::Tsig && !key {
            self.fault(
                name,
                raw.span(),
                "signed answers need a key",
                "add `key = { name = .., algorithm = \"hmac-sha256\", secret_file = .. }`, or accept unsigned answers with trust = \"network\"",
            );
        }
        raw.into_inner()
    }

    fn anchor(
        &mut self,
        at: &str,
        trust: &Spanned<Trust>,
        file: Option<&Spanned<String>>,
    ) -> Option<PathBuf> {
        let name = format!("{at}.anchor");
        let Some(file) = file else {
            if *trust.get_ref() == Trust::Dnssec {
                self.fault(
                    &format!("{at}.trust"),
                    trust.span(),
                    "answers can be proved from a key only that is known already",
                    "add `anchor = \"map.example.anchor\"`, a file with what `mat-mapd ds` prints",
                );
            }
            return None;
        };
        if *trust.get_ref() != Trust::Dnssec {
            let problem = "is for trust = \"dnssec\" only";
            self.fault(&name, file.span(), problem, "remove it, or write that");
        }
        let path = self.folder.join(file.get_ref());
        if let Err(problem) = Anchors::from_file(&path) {
            let mend = "put there what `mat-mapd ds` prints, or the zone's DNSKEY record";
            self.fault(&name, file.span(), &problem, mend);
        }
        Some(path)
    }

    fn pair(
        &mut self,
        raw: &Spanned<RawPair>,
        all: &Raw,
        homes: &Homes,
        locators: &Locators,
    ) -> Option<Pair> {
        let pair = raw.get_ref();
        if *all.placement.get_ref() != Placement::Gateway {
            self.fault(
                "pair",
                raw.span(),
                "only a gateway can have another one beside it",
                "remove the table",
            );
        }
        let home: Option<Home> = self.parsed(
            "pair.home",
            &pair.home,
            "is not a routable unicast address",
            "write a home address that no instance has",
        );
        let locator: Option<Locator> = self.parsed(
            "pair.locator",
            &pair.locator,
            "is not a routable unicast address",
            "write an address of this site that stands for this gateway",
        );
        if let Some(home) = home {
            let own = |entry: &&RawInstance| entry.home.get_ref().parse() == Ok(home);
            if !holds(&homes.prefixes, &home.ip().into()) {
                self.fault(
                    "pair.home",
                    pair.home.span(),
                    "is inside none of `homes.prefixes`",
                    "write a home address that no instance has",
                );
            } else if all.instance.iter().any(|entry| own(&entry)) {
                self.fault(
                    "pair.home",
                    pair.home.span(),
                    "is the home address of an [[instance]]",
                    "write one that no instance has",
                );
            }
        }
        if let Some(locator) = locator {
            let ip = locator.ip();
            if home.is_some_and(|home| home.family() != locator.family()) {
                self.fault(
                    "pair.locator",
                    pair.locator.span(),
                    "is of another family than `pair.home`",
                    "write two of one family",
                );
            } else if !holds(&locators.prefixes, &ip.into()) {
                self.fault(
                    "pair.locator",
                    pair.locator.span(),
                    "is inside none of `locators.prefixes`",
                    "write an address of this site",
                );
            } else if locators.pool.iter().any(|p| p.contains(&ip)) {
                self.fault(
                    "pair.locator",
                    pair.locator.span(),
                    "is inside `locators.pool`, so an instance could get it",
                    "write one outside the pool",
                );
            }
        }
        let mut address = |key: &str, text: &Spanned<String>| {
            self.parsed::<SocketAddr>(
                key,
                text,
                "is not an address with a port",
                "write \"203.0.113.2:6284\" or \"[2001:db8::2]:6284\"",
            )
        };
        let listen = address("pair.listen", &pair.listen);
        let peer = address("pair.peer", &pair.peer);
        let all = [
            ("pair.listen", &pair.listen, listen),
            ("pair.peer", &pair.peer, peer),
        ];
        for (key, text, address) in all {
            let Some(address) = address else {
                continue;
            };
            if address.port() == 0 {
                let mend = "write one of 1 to 65535";
                self.fault(key, text.span(), "has no port", mend);
            }
            if homes.prefixes.iter().any(|p| p.contains(&address.ip())) {
                let problem = "is inside `homes.prefixes`, where instances are";
                let mend = "write an address that the gateway's machine has for itself";
                self.fault(key, text.span(), problem, mend);
            }
        }
        if listen
            .zip(peer)
            .is_some_and(|(l, p)| l.is_ipv4() != p.is_ipv4())
        {
            self.fault(
                "pair.peer",
                pair.peer.span(),
                "is of another family than `pair.listen`",
                "write two of one family",
            );
        }
        if listen.is_some() && listen == peer {
            self.fault(
                "pair.peer",
                pair.peer.span(),
                "is `pair.listen`",
                "write what the other gateway has there",
            );
        }
        let (name, text, span) =
            self.secret("pair", raw.span(), (&pair.secret, &pair.secret_file))?;
        let secret = BASE64.decode(text.trim()).ok();
        let secret = secret.and_then(|octets| <[u8; 32]>::try_from(octets).ok());
        if secret.is_none() {
            self.fault(
                &name,
                span,
                "is not the base64 text of 32 bytes",
                "use what `openssl rand -base64 32` prints, at both gateways",
            );
        }
        Some(Pair {
            home: home?,
            locator: locator?,
            listen: listen?,
            peer: peer?,
            secret: secret?,
        })
    }

    /// A secret that is in the file or in one of its own: what to call it, its text, its place.
    fn secret(
        &mut self,
        at: &str,
        whole: Range<usize>,
        given: (&Option<Spanned<String>>, &Option<Spanned<String>>),
    ) -> Option<(String, String, Range<usize>)> {
        match given {
            (Some(secret), None) => Some((
                format!("{at}.secret"),
                secret.get_ref().clone(),
                secret.span(),
            )),
            (None, Some(file)) => {
                let path = self.folder.join(file.get_ref());
                match std::fs::read_to_string(&path) {
                    Ok(text) => Some((format!("{at}.secret_file"), text, file.span())),
                    Err(error) => {
                        let problem = format!("{} cannot be read: {error}", path.display());
                        let mend = "put the base64 secret there, readable for matd alone";
                        self.fault(&format!("{at}.secret_file"), file.span(), &problem, mend);
                        None
                    }
                }
            }
            _ => {
                self.fault(
                    at,
                    whole,
                    "needs either `secret` or `secret_file`",
                    "give exactly one of them",
                );
                None
            }
        }
    }

    fn key(&mut self, at: &str, raw: &Spanned<RawKey>) -> Option<Key> {
        let key = raw.get_ref();
        let (name, text, span) = self.secret(at, raw.span(), (&key.secret, &key.secret_file))?;
        let mend = "paste the base64 text that `tsig-keygen` prints";
        let secret = match BASE64.decode(text.trim()) {
            Ok(secret) => secret,
            Err(error) => {
                self.fault(&name, span, &format!("is not base64: {error}"), mend);
                return None;
            }
        };
        if secret.len() < SECRET_MIN {
            let problem = format!("{} bytes are too few for a secret", secret.len());
            self.fault(
                &name,
                span,
                &problem,
                &format!("use at least {SECRET_MIN} bytes"),
            );
            return None;
        }
        Some(Key {
            name: self.domain(&format!("{at}.name"), &key.name),
            algorithm: key.algorithm,
            secret,
        })
    }

    fn limits(&mut self, raw: &RawLimits) -> Limits {
        const GIB: i64 = 1 << 30;
        let default = Limits::default();
        let limits = Limits {
            hold_bytes_per_home: raw
                .hold_bytes_per_home
                .as_ref()
                .map_or(default.hold_bytes_per_home, |n| {
                    self.number("limits.hold_bytes_per_home", n, 65_536..=16 * GIB)
                }),
            hold_bytes_total: raw
                .hold_bytes_total
                .as_ref()
                .map_or(default.hold_bytes_total, |n| {
                    self.number("limits.hold_bytes_total", n, 65_536..=64 * GIB)
                }),
            hold_ms: raw.hold_ms.as_ref().map_or(default.hold_ms, |n| {
                self.number("limits.hold_ms", n, 100..=60_000)
            }),
            contexts: raw.contexts.as_ref().map_or(default.contexts, |n| {
                self.number("limits.contexts", n, 1..=10_000_000)
            }),
            grace_ms: raw.grace_ms.as_ref().map_or(default.grace_ms, |n| {
                self.number("limits.grace_ms", n, 0..=600_000)
            }),
            quarantine_extra_s: raw
                .quarantine_extra_s
                .as_ref()
                .map_or(default.quarantine_extra_s, |n| {
                    self.number("limits.quarantine_extra_s", n, 0..=86_400)
                }),
        };
        if limits.hold_bytes_per_home > limits.hold_bytes_total {
            let place = [&raw.hold_bytes_per_home, &raw.hold_bytes_total];
            if let Some(span) = place.into_iter().flatten().map(Spanned::span).next() {
                self.fault(
                    "limits.hold_bytes_per_home",
                    span,
                    &format!(
                        "one home may hold {} bytes, all together only {}",
                        limits.hold_bytes_per_home, limits.hold_bytes_total
                    ),
                    "lower it, or raise `limits.hold_bytes_total`",
                );
            }
        }
        limits
    }

    fn instances(&mut self, raw: &Raw, homes: &Homes, locators: &Locators) -> Vec<Instance> {
        let mut instances: Vec<Instance> = Vec::new();
        for entry in &raw.instance {
            let Some(home) = self.instance_home(entry, homes, locators) else {
                continue;
            };
            let family = home.family();
            let twin = |other: &Instance| {
                other.home == home || (locators.exclusive && other.home.family() == family)
            };
            if let Some(other) = instances.iter().find(|other| twin(other)) {
                let (problem, mend) = if other.home == home {
                    ("is listed twice".to_owned(), "keep one of them")
                } else {
                    (
                        format!(
                            "an exclusive {family} locator already serves {}",
                            other.home
                        ),
                        "keep one home of each family, or use dedicated locators (`pool`)",
                    )
                };
                self.fault("instance.home", entry.home.span(), &problem, mend);
            }
            match (raw.placement.get_ref(), &entry.interface) {
                (Placement::Gateway, None) => self.fault(
                    "instance.interface",
                    entry.home.span(),
                    "is missing: a gateway must know the instance's link",
                    "name the host end of its veth or TAP",
                ),
                (Placement::Guest, Some(interface)) => self.fault(
                    "instance.interface",
                    interface.span(),
                    "a guest's home address is on the TUN device",
                    "remove this key",
                ),
                _ => {}
            }
            let interface = entry.interface.as_ref().map(|text| {
                if text.get_ref() == raw.uplink.get_ref() {
                    self.fault(
                        "instance.interface",
                        text.span(),
                        "this is the uplink, by which everybody else comes",
                        "name the host end of the instance's veth or TAP",
                    );
                }
                self.interface("instance.interface", text)
            });
            let mac = entry.mac.as_ref().and_then(|text| {
                self.parsed(
                    "instance.mac",
                    text,
                    "is not the MAC address of one interface",
                    "write six bytes as \"02:00:5e:00:53:01\"",
                )
            });
            instances.push(Instance {
                home,
                interface,
                mac,
            });
        }
        instances
    }

    fn instance_home(
        &mut self,
        entry: &RawInstance,
        homes: &Homes,
        locators: &Locators,
    ) -> Option<Home> {
        let home: Home = self.parsed(
            "instance.home",
            &entry.home,
            "is not a routable unicast address",
            "write the instance's home address, without a prefix length",
        )?;
        let family = home.family();
        if !holds(&homes.prefixes, &home.ip().into()) {
            self.fault(
                "instance.home",
                entry.home.span(),
                "is inside none of `homes.prefixes`",
                "add its prefix there at every site, or correct it",
            );
        } else if !locators.exclusive
            && !locators.pool.is_empty()
            && !locators.pool.iter().any(|p| family_of(p) == family)
        {
            self.fault(
                "instance.home",
                entry.home.span(),
                &format!("`locators.pool` has no {family} locator for it"),
                &format!("add an {family} prefix to the pool"),
            );
        }
        Some(home)
    }

    fn fault(&mut self, key: &str, span: Range<usize>, problem: &str, mend: &str) {
        let finding = self.source.finding(key, span, problem, mend);
        self.findings.push(finding);
    }

    fn parsed<T: FromStr>(
        &mut self,
        key: &str,
        text: &Spanned<String>,
        problem: &str,
        mend: &str,
    ) -> Option<T> {
        let parsed = text.get_ref().parse().ok();
        if parsed.is_none() {
            self.fault(key, text.span(), problem, mend);
        }
        parsed
    }

    fn number<T>(&mut self, key: &str, number: &Spanned<i64>, range: RangeInclusive<i64>) -> T
    where
        T: TryFrom<i64> + Default,
    {
        let value = Some(*number.get_ref()).filter(|value| range.contains(value));
        value.and_then(|v| T::try_from(v).ok()).unwrap_or_else(|| {
            let mend = format!("write a number from {} to {}", range.start(), range.end());
            self.fault(key, number.span(), "is out of range", &mend);
            T::default()
        })
    }

    fn not_empty<T>(&mut self, key: &str, list: &Spanned<Vec<T>>) {
        if list.get_ref().is_empty() {
            self.fault(key, list.span(), "is empty", "name at least one");
        }
    }

    /// Prefixes with no host bits, each of them routable, none inside another.
    fn prefixes(&mut self, key: &str, list: &List) -> Vec<IpNet> {
        let mut prefixes: Vec<IpNet> = Vec::new();
        for text in list.get_ref() {
            let Some(prefix) = self.parsed::<IpNet>(
                key,
                text,
                "is not a prefix",
                "write an address and a length, as \"192.0.2.0/24\" or \"2001:db8:1::/48\"",
            ) else {
                continue;
            };
            if prefix.trunc() != prefix {
                let mend = format!("write \"{}\"", prefix.trunc());
                self.fault(key, text.span(), "has bits set beyond its length", &mend);
            } else if prefix.prefix_len() == 0 || Locator::new(prefix.addr()).is_err() {
                self.fault(
                    key,
                    text.span(),
                    &format!("{prefix} is not a prefix of routable unicast addresses"),
                    "name the prefix that is really used",
                );
            } else if let Some(other) = prefixes
                .iter()
                .find(|other| other.contains(&prefix) || prefix.contains(*other))
            {
                let problem = format!("{prefix} overlaps {other}");
                self.fault(key, text.span(), &problem, "keep the larger one");
            } else {
                prefixes.push(prefix);
            }
        }
        prefixes
    }

    fn interface(&mut self, key: &str, text: &Spanned<String>) -> String {
        let name = text.get_ref();
        if let Err((problem, mend)) = interface_name(name) {
            self.fault(key, text.span(), &problem, &mend);
        }
        name.clone()
    }

    fn label(&mut self, key: &str, text: &Spanned<String>) -> String {
        let label = text.get_ref();
        let good = (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if !good {
            self.fault(
                key,
                text.span(),
                "is not a name",
                "use 1 to 63 letters, digits, '-' and '_'",
            );
        }
        label.clone()
    }

    fn absolute(&mut self, key: &str, text: &Spanned<String>) -> PathBuf {
        let path = PathBuf::from(text.get_ref());
        if !path.is_absolute() {
            self.fault(
                key,
                text.span(),
                "is not an absolute path",
                "begin it with '/': matd does not depend on where it is started",
            );
        }
        path
    }

    /// A domain name in lower case with its final dot (RFC 1035, section 2.3.4).
    fn domain(&mut self, key: &str, text: &Spanned<String>) -> String {
        let name = text.get_ref().to_ascii_lowercase();
        let relative = name.strip_suffix('.').unwrap_or(&name);
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        if relative.len() > 253 || !relative.split('.').all(label) {
            self.fault(
                key,
                text.span(),
                "is not a domain name",
                "write labels of 1 to 63 letters, digits and '-', as \"map.example.\"",
            );
        } else if name.len() == relative.len() {
            self.fault(
                key,
                text.span(),
                "has no final dot",
                &format!("write \"{relative}.\""),
            );
        }
        name
    }
}

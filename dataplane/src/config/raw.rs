//! The shape of the file, before its meaning is checked: what `serde` can see.
//! `Spanned` keeps the place of a value, so that a later complaint can name it.

use serde::Deserialize;
use toml::Spanned;

use super::{KeyAlgorithm, Placement, Trust};

type Text = Spanned<String>;
type Number = Spanned<i64>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    pub site: Text,
    pub placement: Spanned<Placement>,
    pub uplink: Text,
    pub control_socket: Text,
    pub state_dir: Text,
    pub control_port: Option<Number>,
    pub metrics_listen: Option<Text>,
    #[serde(default)]
    pub tun: RawTun,
    #[serde(default)]
    pub homes: RawHomes,
    pub locators: RawLocators,
    pub mapping: RawMapping,
    #[serde(default)]
    pub zone: Vec<RawZone>,
    pub pair: Option<Spanned<RawPair>>,
    #[serde(default)]
    pub limits: RawLimits,
    #[serde(default)]
    pub instance: Vec<RawInstance>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTun {
    pub name: Option<Text>,
    pub mtu: Option<Number>,
    pub offload: Option<bool>,
    pub coalesce: Option<bool>,
    pub queues: Option<Number>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHomes {
    pub prefixes: Option<Spanned<Vec<Text>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLocators {
    pub prefixes: Option<Spanned<Vec<Text>>>,
    pub pool: Option<Spanned<Vec<Text>>>,
    pub exclusive: Option<Spanned<bool>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMapping {
    pub servers: Spanned<Vec<Text>>,
    pub zone: Text,
    pub trust: Spanned<Trust>,
    pub anchor: Option<Text>,
    pub key: Option<Spanned<RawKey>>,
    pub push: Option<RawPush>,
    pub lease_s: Option<Number>,
    pub poll_ms: Option<Number>,
    pub on_isolation: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawZone {
    pub homes: Spanned<Vec<Text>>,
    pub servers: Spanned<Vec<Text>>,
    pub zone: Text,
    pub trust: Spanned<Trust>,
    pub anchor: Option<Text>,
    pub key: Option<Spanned<RawKey>>,
    pub push: Option<RawPush>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPush {
    pub server: Text,
    pub name: Text,
    pub certificate: Text,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawKey {
    pub name: Text,
    pub algorithm: KeyAlgorithm,
    pub secret: Option<Text>,
    pub secret_file: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPair {
    pub home: Text,
    pub locator: Text,
    pub listen: Text,
    pub peer: Text,
    pub secret: Option<Text>,
    pub secret_file: Option<Text>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimits {
    pub hold_bytes_per_home: Option<Number>,
    pub hold_bytes_total: Option<Number>,
    pub hold_ms: Option<Number>,
    pub contexts: Option<Number>,
    pub grace_ms: Option<Number>,
    pub quarantine_extra_s: Option<Number>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawInstance {
    pub home: Text,
    pub interface: Option<Text>,
    pub mac: Option<Text>,
}

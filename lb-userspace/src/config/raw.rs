//! The file as TOML sees it: keys and kinds, no meaning. What can be wrong in meaning keeps its span.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::{Affinity, ForwardMode, PolicyKind, Protocol, XdpMode};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    #[serde(default)]
    pub daemon: RawDaemon,
    #[serde(default)]
    pub health: RawHealth,
    #[serde(default)]
    pub interface: Vec<RawInterface>,
    #[serde(default)]
    pub vip: Vec<RawVip>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDaemon {
    pub tick: Option<Spanned<String>>,
    pub socket: Option<Spanned<PathBuf>>,
    pub pin: Option<Spanned<PathBuf>>,
    pub flows: Option<Spanned<i64>>,
    pub idle_after: Option<Spanned<String>>,
    pub idle_timeout: Option<Spanned<String>>,
    pub udp_timeout: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHealth {
    pub interval: Option<Spanned<String>>,
    pub timeout: Option<Spanned<String>>,
    pub rise: Option<Spanned<i64>>,
    pub fall: Option<Spanned<i64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawInterface {
    pub name: Spanned<String>,
    pub mode: Option<XdpMode>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawVip {
    pub name: Spanned<String>,
    pub address: Spanned<IpAddr>,
    pub port: Spanned<i64>,
    pub mode: ForwardMode,
    pub protocol: Option<Protocol>,
    pub policy: Option<PolicyKind>,
    pub affinity: Option<Affinity>,
    pub epsilon: Option<Spanned<f64>>,
    pub announce: Option<Spanned<RawAnnounce>>,
    pub announce_on: Option<Spanned<String>>,
    pub skip_bytes: Option<Spanned<i64>>,
    pub duty: Option<Spanned<f64>>,
    #[serde(default)]
    pub backend: Vec<RawBackend>,
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RawAnnounce {
    Address,
    Arp,
    None,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBackend {
    pub name: Spanned<String>,
    pub address: Spanned<IpAddr>,
    pub port: Option<Spanned<i64>>,
    pub weight: Option<Spanned<i64>>,
    pub limit: Option<Spanned<i64>>,
    pub metrics: Option<Spanned<String>>,
}

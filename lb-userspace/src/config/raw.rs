//! The file as TOML sees it: keys and kinds, no meaning. What can be wrong in meaning keeps its span.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::{Affinity, Encap, PolicyKind, Protocol, XdpMode};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    #[serde(default)]
    pub daemon: RawDaemon,
    #[serde(default)]
    pub health: RawHealth,
    #[serde(default)]
    pub tunnel: RawTunnel,
    #[serde(default)]
    pub nat: RawNat,
    #[serde(default)]
    pub nvml: RawNvml,
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

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTunnel {
    pub source_v4: Option<Spanned<String>>,
    pub source_v6: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNat {
    #[serde(default)]
    pub sources: Vec<Spanned<IpAddr>>,
    pub announce: Option<Spanned<RawAnnounce>>,
    pub announce_on: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNvml {
    pub library: Option<Spanned<PathBuf>>,
    pub discover: Option<bool>,
    pub interval: Option<Spanned<String>>,
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
    pub port: Spanned<RawPort>,
    pub mode: RawMode,
    pub encap: Option<Spanned<Encap>>,
    pub source_nat: Option<Spanned<bool>>,
    pub protocol: Option<Protocol>,
    pub policy: Option<PolicyKind>,
    pub affinity: Option<Affinity>,
    pub epsilon: Option<Spanned<f64>>,
    pub announce: Option<Spanned<RawAnnounce>>,
    pub announce_on: Option<Spanned<String>>,
    pub skip_bytes: Option<Spanned<i64>>,
    pub duty: Option<Spanned<f64>>,
    pub probe_port: Option<Spanned<i64>>,
    pub quic: Option<Spanned<RawQuic>>,
    #[serde(default)]
    pub backend: Vec<RawBackend>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "invalid type, expected a port number or \"any\"")]
pub(super) enum RawPort {
    Number(i64),
    Word(String),
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RawMode {
    L2,
    Nat,
    Tunnel,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawQuic {
    pub config_id: Spanned<i64>,
    pub server_id_length: Spanned<i64>,
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
    pub gpus: Option<Vec<Spanned<RawGpu>>>,
    pub server_id: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "invalid type, expected the number or the UUID of a GPU")]
pub(super) enum RawGpu {
    Index(i64),
    Uuid(String),
}

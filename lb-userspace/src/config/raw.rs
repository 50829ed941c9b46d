//! The file as TOML sees it: keys and kinds, no meaning. What can be wrong in meaning keeps its span.

use std::fmt;
use std::net::IpAddr;
use std::ops::Range;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use toml::Spanned;

use super::{Affinity, Encap, GovernorMode, PolicyKind, Protocol, XdpMode};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    #[serde(default)]
    pub daemon: RawDaemon,
    #[serde(default)]
    pub health: RawHealth,
    #[serde(default)]
    pub scrape: RawScrape,
    #[serde(default)]
    pub tunnel: RawTunnel,
    #[serde(default)]
    pub nat: RawNat,
    #[serde(default)]
    pub nvml: RawNvml,
    #[serde(default)]
    pub agents: RawAgents,
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
    pub governor: Option<GovernorMode>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHealth {
    pub interval: Option<Spanned<String>>,
    pub timeout: Option<Spanned<String>>,
    pub rise: Option<Spanned<i64>>,
    pub fall: Option<Spanned<i64>>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawScrape {
    pub interval: Option<Spanned<String>>,
    pub timeout: Option<Spanned<String>>,
    pub light_interval: Option<Spanned<String>>,
    pub server: Option<Spanned<String>>,
    pub ca: Option<Spanned<PathBuf>>,
    pub token_file: Option<Spanned<PathBuf>>,
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

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAgents {
    pub ca: Option<Spanned<PathBuf>>,
    pub cert: Option<Spanned<PathBuf>>,
    pub key: Option<Spanned<PathBuf>>,
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
    pub governor: Option<GovernorMode>,
    pub affinity: Option<Affinity>,
    pub epsilon: Option<Spanned<f64>>,
    pub announce: Option<Spanned<RawAnnounce>>,
    pub announce_on: Option<Spanned<String>>,
    pub skip_bytes: Option<Spanned<i64>>,
    pub duty: Option<Spanned<f64>>,
    pub probe_port: Option<Spanned<i64>>,
    pub quic: Option<Spanned<RawQuic>>,
    #[serde(default)]
    pub scrape: RawScrape,
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
    pub metrics: Option<Spanned<RawEndpoint>>,
    pub dcgm: Option<Spanned<RawEndpoint>>,
    pub gpus: Option<Vec<Spanned<RawGpu>>>,
    pub agent: Option<Spanned<String>>,
    pub server_id: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "invalid type, expected the number or the UUID of a GPU")]
pub(super) enum RawGpu {
    Index(i64),
    Uuid(String),
}

/// A URL alone, or a table around it.
pub(super) enum RawEndpoint {
    Url(String),
    Table(Box<RawEndpointTable>),
}

/// [`RawScrape`], and what only one server has. (`serde(flatten)` loses the places.)
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEndpointTable {
    url: Spanned<String>,
    gpus: Option<Spanned<Vec<String>>>,
    interval: Option<Spanned<String>>,
    timeout: Option<Spanned<String>>,
    light_interval: Option<Spanned<String>>,
    server: Option<Spanned<String>>,
    ca: Option<Spanned<PathBuf>>,
    token_file: Option<Spanned<PathBuf>>,
}

impl RawEndpoint {
    /// The URL and its place, `span` being that of the whole.
    pub fn url(&self, span: Range<usize>) -> (&str, Range<usize>) {
        match self {
            Self::Url(url) => (url, span),
            Self::Table(table) => (table.url.get_ref(), table.url.span()),
        }
    }

    pub fn gpus(&self) -> Option<&Spanned<Vec<String>>> {
        match self {
            Self::Url(_) => None,
            Self::Table(table) => table.gpus.as_ref(),
        }
    }

    /// What it says of scraping.
    pub fn scrape(&self) -> RawScrape {
        match self {
            Self::Url(_) => RawScrape::default(),
            Self::Table(table) => RawScrape {
                interval: table.interval.clone(),
                timeout: table.timeout.clone(),
                light_interval: table.light_interval.clone(),
                server: table.server.clone(),
                ca: table.ca.clone(),
                token_file: table.token_file.clone(),
            },
        }
    }
}

/// By hand, because an untagged enum loses the places of what is in it.
impl<'de> Deserialize<'de> for RawEndpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = RawEndpoint;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a url, or a table with one")
            }

            fn visit_str<E: Error>(self, url: &str) -> Result<RawEndpoint, E> {
                Ok(RawEndpoint::Url(url.to_owned()))
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<RawEndpoint, M::Error> {
                let table = RawEndpointTable::deserialize(MapAccessDeserializer::new(map))?;
                Ok(RawEndpoint::Table(Box::new(table)))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

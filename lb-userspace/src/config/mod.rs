//! The configuration file: its typed form, its defaults and its ranges.
//!
//! Owns every rule that can be decided from the text alone, so that a [`Config`] in hand is consistent. It never
//! looks at the machine: whether an interface exists or a backend answers is for its users to find out, and they
//! name the [`Place`] that each item carries when they report it.

mod agent;
mod agents;
mod announce;
mod backend;
mod check;
mod error;
mod nvml;
mod quic;
mod raw;
mod scrape;
mod sources;
mod terms;
mod vip;

use std::fs::File;
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::agent::{AgentUrl, SHORTEST_INTERVAL};
use crate::signals::{DcgmTarget, Target};

pub use agent::{AgentBackend, AgentConfig};
pub use agents::{Agents, Identity};
pub use check::is_name;
pub use error::{ConfigError, Place, Problem};
pub use nvml::{GpuId, Nvml};
pub use sources::{Nat, Prefix, Source, Tunnel};
pub use terms::{Affinity, Encap, ForwardMode, GovernorMode, Policy, PolicyKind, Protocol, XdpMode};

/// Largest configuration file that is read, in bytes; 512 VIPs and 4,096 backends need less than half of it.
pub const MAX_BYTES: usize = 1 << 20;
/// Most VIPs and source addresses in one configuration: the rows of the kernel's `VIPS` map.
pub const MAX_VIPS: usize = 512;
/// Most source addresses of one family: each has a slot in the flow table for every port.
pub const MAX_NAT_SOURCES: usize = 16;
/// Most backends over all VIPs: the rows of the kernel's `BACKENDS` map.
pub const MAX_BACKENDS: usize = 4096;
/// Longest interface name: Linux's `IFNAMSIZ` less the closing zero.
pub const MAX_INTERFACE_NAME: usize = 15;
/// Longest VIP or backend name, as for a DNS label.
pub const MAX_NAME: usize = 63;
/// Longest socket path: Linux's `sun_path` (108 bytes) less the closing zero.
pub const MAX_SOCKET_PATH: usize = 107;

/// Where the admin socket lies unless the configuration or the command line says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/guidevane/guidevane.sock";
/// Where the configuration of a host is, by convention.
pub const DEFAULT_FILE: &str = "/etc/guidevane/guidevane.toml";

/// Longest life of an idle flow; the age that a flow table entry holds does not count much further.
const MAX_IDLE_TIMEOUT: Duration = Duration::from_secs(2 * 3600 + 15 * 60);
const TICK: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(1);
const IDLE_AFTER: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);
const FLOW_TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(1)..=MAX_IDLE_TIMEOUT;
const HEALTH_INTERVAL: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
const HEALTH_TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(3600);
const HEALTH_COUNT: RangeInclusive<i64> = 1..=100;
const SCRAPE_INTERVAL: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60);
const SCRAPE_TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60);
/// From one question to a DCGM exporter to the next: few beside the 30 s that it takes to have something new.
const DCGM_INTERVAL: Duration = Duration::from_secs(5);
/// Reports of agents; no more often than costs are computed.
const AGENT_INTERVAL: RangeInclusive<Duration> = SHORTEST_INTERVAL..=Duration::from_secs(60);
const FLOWS: RangeInclusive<i64> = 4096..=1 << 26;
const PORT: RangeInclusive<i64> = 1..=65_535;
/// The port of a VIP that is for all of them.
pub const ANY_PORT: u16 = 0;
/// A prefix of tunnel sources leaves this many bits to vary with the flow, 16 and 64 at most.
const TUNNEL_V4: RangeInclusive<u8> = 16..=32;
const TUNNEL_V6: RangeInclusive<u8> = 64..=128;
/// Seven is for connection IDs that name no server (draft-ietf-quic-load-balancers section 3.1).
const QUIC_CONFIG: RangeInclusive<i64> = 0..=6;
const SERVER_ID_LENGTH: RangeInclusive<i64> = 1..=8;
const SKIP_BYTES: RangeInclusive<i64> = 0..=65_535;
const WEIGHT: RangeInclusive<i64> = 0..=1000;
/// Utilization is sampled by the driver several times a second at most.
const NVML_INTERVAL: RangeInclusive<Duration> = Duration::from_millis(20)..=Duration::from_secs(10);
/// More than any host has.
const GPU_INDEX: RangeInclusive<i64> = 0..=255;
const LIMIT: RangeInclusive<i64> = 1..=65_535;
const EPSILON: RangeInclusive<f64> = 0.01..=10.0;
const DUTY: RangeInclusive<f64> = 0.0..=1.0;

/// A whole, consistent configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Settings of the daemon itself.
    pub daemon: Daemon,
    /// How backends are probed.
    pub health: Health,
    /// Where tunnels come from.
    pub tunnel: Tunnel,
    /// Where one-armed `nat` comes from.
    pub nat: Nat,
    /// How GPUs of this host are read.
    pub nvml: Nvml,
    /// How agents are asked.
    pub agents: Agents,
    /// Interfaces that receive the VIPs' traffic; at least one, no name twice.
    pub interfaces: Vec<Interface>,
    /// Virtual services, in the file's order; at least one.
    pub vips: Vec<Vip>,
}

/// `[daemon]`
#[derive(Debug, Clone, PartialEq)]
pub struct Daemon {
    /// Time from one governor tick to the next, 1 ms to 1 s.
    pub tick: Duration,
    /// Path of the admin socket.
    pub socket: PathBuf,
    /// Directory on a BPF file system to pin the program and its maps in; without it nothing outlives the daemon.
    pub pin: Option<PathBuf>,
    /// Slots of the flow table: a power of two from 4,096 to 2^26.
    pub flows: u32,
    /// Silence after which a streaming flow counts as idle, 100 ms to 60 s.
    pub idle_after: Duration,
    /// Silence after which an idle TCP flow is freed, 1 s to 2 h 15 min.
    pub idle_timeout: Duration,
    /// Silence after which a UDP flow is freed, 1 s to 2 h 15 min.
    pub udp_timeout: Duration,
    /// What the governor does for VIPs that do not say.
    pub governor: GovernorMode,
}

impl Default for Daemon {
    fn default() -> Self {
        Self {
            tick: Duration::from_millis(5),
            socket: PathBuf::from(DEFAULT_SOCKET),
            pin: None,
            flows: 1 << 20,
            idle_after: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(2 * 3600),
            udp_timeout: Duration::from_secs(30),
            governor: GovernorMode::default(),
        }
    }
}

/// `[health]`
#[derive(Debug, Clone, PartialEq)]
pub struct Health {
    /// Time from one probe of a backend to the next, 100 ms to 1 h.
    pub interval: Duration,
    /// Time after which a probe has failed, 10 ms to `interval`.
    pub timeout: Duration,
    /// Successful probes in a row that bring a backend up, 1 to 100.
    pub rise: u32,
    /// Failed probes in a row that take a backend down, 1 to 100.
    pub fall: u32,
}

impl Default for Health {
    fn default() -> Self {
        Self { interval: Duration::from_secs(1), timeout: Duration::from_millis(500), rise: 2, fall: 3 }
    }
}

/// `[[interface]]`
#[derive(Debug, Clone, PartialEq)]
pub struct Interface {
    /// Name as `ip link` shows it.
    pub name: String,
    /// How the XDP program is attached.
    pub mode: XdpMode,
    /// Where the file names this interface.
    pub place: Place,
}

/// `[[vip]]`
#[derive(Debug, Clone, PartialEq)]
pub struct Vip {
    /// Name, unique among VIPs.
    pub name: String,
    /// Virtual address.
    pub address: IpAddr,
    /// Port; [`ANY_PORT`] for all of them, in `l2` and `tunnel`.
    pub port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
    /// How packets reach the backends.
    pub mode: ForwardMode,
    /// How a new flow's backend is picked.
    pub policy: Policy,
    /// What the governor does for it.
    pub governor: GovernorMode,
    /// What a client's flows are hashed by.
    pub affinity: Affinity,
    /// How the neighbours learn of the address.
    pub announce: Announce,
    /// Bytes of a response that the client acknowledges before it counts as progress: its headers.
    pub skip_bytes: u16,
    /// Share of an idle flow that counts as load, 0 to 1; `None` has it measured.
    pub duty: Option<f64>,
    /// Port that probes connect to, where it is not the backends' own.
    pub probe_port: Option<u16>,
    /// How QUIC connection IDs name servers, where they do.
    pub quic: Option<Quic>,
    /// Servers behind the VIP, at least one.
    pub backends: Vec<Backend>,
    /// Where the file names this VIP.
    pub place: Place,
}

impl Vip {
    /// Address and port together.
    pub fn endpoint(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }

    /// Where a probe of one of the backends connects to: nowhere, if neither protocol nor port say so.
    pub fn probe_address(&self, backend: &Backend) -> Option<SocketAddr> {
        let own = (self.protocol == Protocol::Tcp && backend.port != ANY_PORT).then_some(backend.port);
        Some(SocketAddr::new(backend.address, self.probe_port.or(own)?))
    }
}

/// `[vip.quic]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quic {
    /// The number of this form in a connection ID's first three bits, 0 to 6.
    pub config_id: u8,
    /// Bytes of a server ID, 1 to 8.
    pub server_id_length: u8,
}

/// How the neighbours learn of a VIP's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Announce {
    /// Not by Guidevane: a router sends the traffic here.
    None,
    /// The address is put on an interface.
    Address {
        /// Name of one of [`Config::interfaces`].
        interface: String,
    },
    /// ARP and neighbour discovery are answered in XDP.
    Arp {
        /// Name of one of [`Config::interfaces`].
        interface: String,
    },
}

/// `[[vip.backend]]`
#[derive(Debug, Clone, PartialEq)]
pub struct Backend {
    /// Name, unique in the whole file.
    pub name: String,
    /// Address, of the VIP's family except in `tunnel`.
    pub address: IpAddr,
    /// Port; the VIP's own except in `nat`.
    pub port: u16,
    /// Static capacity relative to the VIP's other backends, 0 to 1,000; 0 takes no new flows.
    pub weight: u16,
    /// Requests the server runs at once (its batch size), 1 to 65,535; `None` has it learned.
    pub limit: Option<u32>,
    /// Where the server's metrics are, and how they are scraped.
    pub metrics: Option<Target>,
    /// Where a DCGM exporter tells of the server's GPUs.
    pub dcgm: Option<DcgmTarget>,
    /// The GPUs of this host that it runs on; `None` has them found, where `[nvml]` says so.
    pub gpus: Option<Vec<GpuId>>,
    /// The agent on the server's host, or another server of ORCA reports.
    pub agent: Option<AgentUrl>,
    /// What QUIC connection IDs of the VIP call it, as a big-endian number.
    pub server_id: Option<u64>,
    /// Where the file names this backend.
    pub place: Place,
}

impl Backend {
    /// Weight where the file gives none.
    pub const DEFAULT_WEIGHT: u16 = 100;

    /// Address and port together.
    pub fn endpoint(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }
}

impl Config {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// The file cannot be read, is larger than [`MAX_BYTES`], or [`Config::parse`] refuses it.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        read(path, Self::parse)
    }

    /// Checks the configuration in `text`; `name` is what errors call the file.
    ///
    /// # Errors
    /// The first thing found wrong, with its line and column and what to do about it.
    pub fn parse(name: &str, text: &str) -> Result<Self, ConfigError> {
        if text.len() > MAX_BYTES {
            return Err(ConfigError::Oversized { file: name.to_owned() });
        }
        let source = error::Source::new(name, text);
        let raw = toml::from_str(text).map_err(|error| source.syntax(&error))?;
        check::config(&source, raw)
    }
}

/// Reads a file of at most [`MAX_BYTES`] and parses it under its name.
fn read<T>(path: &Path, parse: impl FnOnce(&str, &str) -> Result<T, ConfigError>) -> Result<T, ConfigError> {
    let name = path.display().to_string();
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes))
        .map_err(|source| ConfigError::Read { file: name.clone(), source })?;
    if bytes.len() > MAX_BYTES {
        return Err(ConfigError::Oversized { file: name });
    }
    match str::from_utf8(&bytes) {
        Ok(text) => parse(&name, text),
        Err(error) => Err(ConfigError::not_utf8(&name, &bytes, error)),
    }
}

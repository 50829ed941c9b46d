//! The daemon's state as `status` reports it. Field names are stable and carry their unit; a field is `null` where
//! the daemon has nothing to say. Every number is finite.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Signal;
use crate::config::{ForwardMode, GovernorMode, PolicyKind, Protocol, XdpMode};
use crate::dataplane::build::Build;

/// Everything at one moment. Counters count from the load of the kernel program on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The daemon and its kernel side.
    pub daemon: Daemon,
    /// VIPs in the configuration's order.
    pub vips: Vec<Vip>,
    /// Packets dropped, by reason.
    pub drops: BTreeMap<String, u64>,
    /// Packets for a VIP that were passed to the host's own stack, by reason.
    pub passes: BTreeMap<String, u64>,
}

/// The daemon and its kernel side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Daemon {
    /// Version of the daemon's binary.
    pub version: String,
    /// Time since the daemon started.
    pub uptime_seconds: f64,
    /// Time from one governor tick to the next.
    pub tick_seconds: f64,
    /// The kernel program.
    pub kernel: Kernel,
    /// The flow table.
    pub flows: Flows,
    /// Source addresses of one-armed `nat`, IPv4 first.
    pub nat_sources: Vec<NatSource>,
    /// Events of single flows.
    pub events: Events,
    /// How reading the GPUs of this host goes; `None` if no backend has any here.
    pub nvml: Option<Nvml>,
}

/// How reading the GPUs of this host goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Nvml {
    /// The driver's version, while it can be read.
    pub driver: Option<String>,
    /// Why it cannot be read, in words.
    pub problem: Option<String>,
    /// Calls of the driver.
    pub calls: u64,
    /// Time spent in them.
    pub spent_seconds: f64,
    /// Passes that ran out of their time and went on later.
    pub overruns: u64,
}

/// Events of single flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// One in this many new flows is reported, by what traces ask for; 0 while there is none.
    pub sample: u32,
    /// Events that the kernel had no room for.
    pub lost: u64,
}

/// The kernel program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kernel {
    /// SHA-256 of the loaded object, in hexadecimal.
    pub sha256: String,
    /// Which build of the object the running kernel took.
    pub build: Build,
    /// Whether program and maps are pinned, so that they outlive the daemon.
    pub pinned: bool,
    /// Interfaces the program is attached to.
    pub interfaces: Vec<Interface>,
}

/// An interface with the program attached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Name.
    pub name: String,
    /// How it is attached.
    pub mode: XdpMode,
}

/// The flow table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flows {
    /// Slots there are.
    pub slots: u64,
    /// Slots in use as of the last sweep.
    pub used: u64,
    /// Flows that had to make room for others.
    pub evictions: u64,
}

/// A source address of one-armed `nat`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatSource {
    /// The address.
    pub address: IpAddr,
    /// Ports it has.
    pub ports: u32,
    /// Ports in use as of the last sweep, those at rest after their flow included.
    pub used: u32,
}

/// A VIP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Vip {
    /// Name.
    pub name: String,
    /// Virtual address.
    pub address: IpAddr,
    /// Port; 0 for all of them.
    pub port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
    /// How packets reach the backends: `mode`, with `source_nat` or `encap` where the mode has it.
    #[serde(flatten)]
    pub mode: ForwardMode,
    /// How a new flow's backend is picked.
    pub policy: PolicyKind,
    /// What the governor does for it.
    pub governor: GovernorMode,
    /// Packets from clients that were forwarded.
    pub packets: u64,
    /// Bytes of those, with their Ethernet headers.
    pub bytes: u64,
    /// Flows opened.
    pub new_flows: u64,
    /// Backends in the configuration's order.
    pub backends: Vec<Backend>,
}

/// A backend of a VIP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Backend {
    /// Name, unique over all VIPs.
    pub name: String,
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// Configured weight, 0 to 1,000.
    pub weight: u16,
    /// Requests it runs at once, configured or learned.
    pub limit: Option<u32>,
    /// What the probes say.
    pub health: Health,
    /// What the operator says.
    pub admin: AdminState,
    /// Where its packets are sent; `None` until a neighbour is resolved, and it takes no new flows until then.
    pub next_hop: Option<NextHop>,
    /// Why there is no next hop, in words.
    pub unreachable: Option<String>,
    /// Live flows that have not sent a request yet.
    pub opening: u32,
    /// Live flows whose request waits for its first progress.
    pub awaiting: u32,
    /// What those that wait have asked, each by its size, in KiB.
    pub prompts_kib: u32,
    /// Live flows with a response under way.
    pub streaming: u32,
    /// Live flows between requests.
    pub idle: u32,
    /// Slowness that the kernel multiplies the load by; 1 is nominal, more is slower.
    pub cost: f64,
    /// Requests at the server beyond the live flows (other balancers'), added to the load; may be negative.
    pub correction: f64,
    /// Part of the VIP's new flows in the last 10 s, 0 to 1; `None` if there were none.
    pub share: Option<f64>,
    /// Requests seen.
    pub requests: u64,
    /// Clients that sent their SYN a third time: nobody answered them.
    pub unanswered: u64,
    /// Packets from clients that were forwarded to it.
    pub packets: u64,
    /// Bytes of those, with their Ethernet headers.
    pub bytes: u64,
    /// Mean time from a request to its first progress, exact; `None` before the first.
    pub ttft_mean_seconds: Option<f64>,
    /// Median of the same, to a tenth: the kernel has four buckets for each doubling.
    pub ttft_p50_seconds: Option<f64>,
    /// 99th percentile of the same, as exact.
    pub ttft_p99_seconds: Option<f64>,
    /// The server's own report; `None` if it gives none or it is too old to use.
    pub reported: Option<Reported>,
    /// What its GPUs say; `None` if nobody reads them.
    pub gpu: Option<Gpu>,
    /// Everything that its cost is made from, with its age.
    pub signals: Vec<Signal>,
}

/// The GPUs of a backend together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gpu {
    /// Part of its full clock at which the slowest may run, 0 to 1.
    pub speed: Option<f64>,
    /// Part of the busiest one's time that goes to others, 0 to 1.
    pub foreign: Option<f64>,
    /// Part of the time in which the busiest did anything, 0 to 1.
    pub utilization: Option<f64>,
    /// Part of the memory in use on the fullest, 0 to 1.
    pub memory: Option<f64>,
    /// Why no new flow goes there, in words.
    pub fault: Option<String>,
    /// Age of the oldest of these values.
    pub age_seconds: f64,
}

/// What the probes say of a backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Up or down.
    pub state: HealthState,
    /// Why, in words, where there is something to say.
    pub reason: Option<String>,
}

/// Up or down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HealthState {
    /// Takes flows.
    Up,
    /// Takes none.
    Down,
    /// Not probed often enough yet.
    Unknown,
}

/// What the operator says of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdminState {
    /// Takes new flows.
    Active,
    /// Keeps the flows it has and takes no new ones.
    Draining,
}

/// Where a backend's packets are sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextHop {
    /// MAC address, in colon notation.
    pub mac: String,
    /// Interface.
    pub interface: String,
    /// The largest IP packet that this way takes, in bytes.
    pub mtu: u16,
}

/// An inference server's own report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reported {
    /// Requests in its batch.
    pub running: f64,
    /// Requests in its queue.
    pub waiting: f64,
    /// Part of its KV cache in use, 0 to 1, where it says so.
    pub kv_usage: Option<f64>,
    /// Age of the report.
    pub age_seconds: f64,
}

impl fmt::Display for HealthState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Unknown => "unknown",
        })
    }
}

impl fmt::Display for AdminState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Active => "active",
            Self::Draining => "draining",
        })
    }
}

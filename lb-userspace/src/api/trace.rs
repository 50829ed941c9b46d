//! Traces of new flows: what is asked for, and the events as the admin socket sends them.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;

use ipnet::IpNet;
use lb_common::reason::Reason;
use serde::{Deserialize, Serialize};

use crate::config::PolicyKind;

/// Which new flows to trace; what is left out does not matter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TraceRequest {
    /// Flows to this VIP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vip: Option<String>,
    /// Flows that went to this backend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// Flows of clients in this network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<IpNet>,
    /// Flows whose packet was counted under this reason.
    #[serde(skip_serializing_if = "Option::is_none", with = "reason_name")]
    pub reason: Option<Reason>,
    /// One in this many new flows, chosen by their hash; 0 is taken for 1.
    pub every: u32,
    /// Ends after so many events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

impl Default for TraceRequest {
    fn default() -> Self {
        Self { vip: None, backend: None, client: None, reason: None, every: 1, count: None }
    }
}

/// Reasons by the names they have everywhere.
mod reason_name {
    use lb_common::reason::Reason;
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(reason: &Option<Reason>, to: S) -> Result<S::Ok, S::Error> {
        reason.map(Reason::name).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Reason>, D::Error> {
        let Some(name) = Option::<String>::deserialize(from)? else { return Ok(None) };
        let found = Reason::ALL.iter().copied().find(|reason| reason.name() == name);
        found.map(Some).ok_or_else(|| D::Error::custom(format!("no reason is named `{name}`")))
    }
}

/// What became of one flow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlowEvent {
    /// When, by the system's clock, in seconds since 1970.
    pub unix_seconds: f64,
    /// What happened.
    pub outcome: Outcome,
    /// Under which reason the packet was counted.
    pub reason: String,
    /// Name of the VIP.
    pub vip: String,
    /// The client.
    pub client: SocketAddr,
    /// Name of the backend; `None` when no backend could take the flow.
    pub backend: Option<String>,
    /// The largest IP packet that gets to the backend, in bytes, with [`Outcome::PathMtu`].
    pub mtu: Option<u16>,
    /// How the VIP picks.
    pub policy: PolicyKind,
    /// What made the choice; `None` where none was made.
    pub why: Option<Why>,
    /// The flow's hash, in hexadecimal.
    pub hash: String,
    /// The CPU that took the packet.
    pub cpu: u16,
    /// The governor was silent, so that corrections did not count.
    pub governor_silent: bool,
    /// A candidate changed while the pick ran, which may have seen another state of it.
    pub moved: bool,
    /// The candidates whose loads such a pick compares, in its order.
    pub candidates: Vec<Candidate>,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// A new flow went to its backend.
    Opened,
    /// A new flow was dropped.
    Refused,
    /// The way to a backend turned out to be narrower than was known.
    PathMtu,
}

/// What made a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// The smallest load.
    Least,
    /// The smallest load, all being at their limit.
    AllFull,
    /// The flow is one of those that go to their first candidate whatever its load.
    Explored,
    /// The first candidate within its bound.
    WithinBound,
    /// The first candidate that can take a flow.
    First,
    /// The next in the list of backends that can take a flow.
    NextMember,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Least => "the smallest load",
            Self::AllFull => "the smallest load, and all are at their limit",
            Self::Explored => "its first candidate, whatever the load: one flow in 128",
            Self::WithinBound => "the first candidate within its bound",
            Self::First => "the first candidate that can take a flow",
            Self::NextMember => "the next backend that can take a flow",
        })
    }
}

/// A candidate as the pick saw it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Name of the backend.
    pub backend: String,
    /// The flow went to it.
    pub picked: bool,
    /// The load that is compared: 1 for a backend of nominal cost without a flow.
    pub load: f64,
    /// Live flows that have not sent a request yet.
    pub opening: u32,
    /// Live flows whose request waits for its first progress.
    pub awaiting: u32,
    /// What those that waited had asked, each by its size, in KiB.
    pub prompts_kib: u32,
    /// Live flows with a response under way.
    pub streaming: u32,
    /// Live flows between requests.
    pub idle: u32,
    /// Slowness that the load is multiplied by; 1 is nominal.
    pub cost: f64,
    /// Requests at the server beyond the live flows.
    pub correction: f64,
    /// Requests it runs at once, configured or learned.
    pub limit: Option<u32>,
    /// It ran as many as it can.
    pub at_limit: bool,
    /// One more flow would have been above its bound (`bounded`).
    pub over_bound: bool,
    /// What it lacked to take a flow.
    pub lacks: Vec<Lack>,
}

/// What a backend lacks to take new flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lack {
    /// It is not configured any more.
    Configured,
    /// Its probes fail.
    Healthy,
    /// It drains, or its weight is zero.
    Active,
    /// Its next hop is not resolved.
    Reachable,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Configured => "no longer configured",
            Self::Healthy => "down",
            Self::Active => "draining",
            Self::Reachable => "no next hop",
        })
    }
}

/// The end of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traced {
    /// Events that were sent.
    pub events: u64,
    /// Events that were not.
    pub lost: Lost,
}

/// Events that did not reach a trace while it ran.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// The kernel had no room for them; which trace they were for is not known.
    pub kernel: u64,
    /// The client did not take them in time.
    pub reader: u64,
}

/// A trace under way; it ends when this is dropped.
pub trait Tracing: Send {
    /// The next event, when there is one; none when there will be none. Nothing is lost when it is dropped.
    fn next(&mut self) -> impl Future<Output = Option<FlowEvent>> + Send;

    /// Events that did not reach this trace so far.
    fn lost(&self) -> Lost;
}

//! Single flows: where a client's next connection would go, and what the flow table holds. Field names are stable
//! and carry their unit; a field is `null` where nothing is known.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{Candidate, Why};
use crate::config::PolicyKind;

/// Whose next connection is asked about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForesightRequest {
    /// The client's address and port.
    pub client: SocketAddr,
    /// The VIP: its name, or `ADDRESS:PORT/PROTOCOL`.
    pub vip: String,
}

/// What the kernel would do with a client's next SYN or first datagram.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Foresight {
    /// The client.
    pub client: SocketAddr,
    /// Name of the VIP.
    pub vip: String,
    /// The backend that it would go to; `None` when it would be dropped.
    pub backend: Option<String>,
    /// It belongs to `flow`, goes where that one goes, and nothing is picked.
    pub goes_on: bool,
    /// The flow of this client and port that the table has.
    pub flow: Option<Flow>,
    /// What a new flow would be picked.
    pub pick: Pick,
}

/// A pick as it would be made now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pick {
    /// The backend; `None` when no backend can take the flow.
    pub backend: Option<String>,
    /// How the VIP picks.
    pub policy: PolicyKind,
    /// What makes the choice; `None` where none is made.
    pub why: Option<Why>,
    /// The flow's hash, in hexadecimal.
    pub hash: String,
    /// The governor is silent, so that corrections do not count.
    pub governor_silent: bool,
    /// The candidates whose loads such a pick compares, in its order.
    pub candidates: Vec<Candidate>,
}

/// Which flows to list; what is left out does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FlowsRequest {
    /// Flows of this VIP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vip: Option<String>,
    /// Flows of this backend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// Flows in this state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<FlowState>,
    /// Flows whose client was last heard of at least so long ago, in milliseconds.
    pub silent_ms: u64,
    /// At most so many; 0 is taken for as many as a page holds.
    pub limit: u32,
    /// From here on: what an earlier page gave as its `next`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page: Option<String>,
}

/// A part of the flow table. A page may be empty and not be the last one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlowPage {
    /// In the order of the table, which says nothing.
    pub flows: Vec<Flow>,
    /// Where the next page begins; `None` after the last one.
    pub next: Option<String>,
}

/// A flow in the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Flow {
    /// The client; `None` for a flow of `l2` or `tunnel` whose client has sent no more than its SYN: the table knows
    /// its hash alone.
    pub client: Option<SocketAddr>,
    /// Name of the VIP.
    pub vip: String,
    /// Name of the backend.
    pub backend: String,
    /// What it is doing.
    pub state: FlowState,
    /// Time since the client was last heard of, in whole ticks of the table's clock of about a second.
    pub silent_seconds: f64,
    /// Time since it was opened; `None` where the client is.
    pub open_seconds: Option<f64>,
}

/// What a flow is doing, as seen from the client's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlowState {
    /// Reset.
    Closed,
    /// The client has said that it is done.
    Closing,
    /// Half-open for more than a second.
    Stale,
    /// Half-open.
    Opening,
    /// No request is under way.
    Idle,
    /// The server is answering.
    Streaming,
    /// A request waits for the first of its answer.
    Awaiting,
}

impl FlowState {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Closed,
        Self::Closing,
        Self::Stale,
        Self::Opening,
        Self::Idle,
        Self::Streaming,
        Self::Awaiting,
    ];

    /// What it is called everywhere.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Closing => "closing",
            Self::Stale => "stale",
            Self::Opening => "opening",
            Self::Idle => "idle",
            Self::Streaming => "streaming",
            Self::Awaiting => "awaiting",
        }
    }
}

impl fmt::Display for FlowState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

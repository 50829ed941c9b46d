//! The admin socket: JSON lines over a Unix socket, one request object a line, one response object a line.
//!
//! ```text
//! {"status":{}}                     {"status":{"daemon":{..},"vips":[..],"drops":{..},"passes":{..}}}
//! {"drain":{"backend":"gpu-0"}}     {"change":{"backend":"gpu-0","before":"active","after":"draining"}}
//! {"resume":{"backend":"gpu-9"}}    {"error":{"message":"no backend is named `gpu-9`; .."}}
//! {"explain":{"backend":"gpu-0"}}   {"explanation":{"backend":"gpu-0","vip":"chat","written":{..},..}}
//! {"foresee":{"client":"192.0.2.7:4","vip":"chat"}}  {"foresight":{"backend":"gpu-0","flow":null,..}}
//! {"flows":{"vip":"chat"}}          {"flows":{"flows":[..],"next":"65536"}}
//! {"governor":{"mode":"observe"}}   {"governed":[{"vip":"chat","before":"on","after":"observe"}]}
//! {"trace":{"vip":"chat"}}          {"event":{..}} {"event":{..}} .. {"traced":{"events":2,"lost":{..}}}
//! {"record":{"every_ms":100}}       {"recording":{..}} {"sample":{..}} .. {"recorded":{"samples":9,"lost":0}}
//! ```
//!
//! A trace or a recording goes on until it has its count, or until the client sends another line or nothing more.
//!
//! Owns the wire format and both ends of it. It decides nothing: the daemon answers through [`Handler`].

mod client;
mod explanation;
mod flow;
mod record;
mod server;
mod signal;
mod snapshot;
mod table;
mod trace;

use std::future::Future;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::config::GovernorMode;
use crate::recording;

pub use client::{Client, ClientError, Recorder, Tracer};
pub use explanation::{
    Correction, Damping, Explanation, Failed, HardwareFactor, Limit, LimitOrigin, Measure, Slowness, Terms,
    Trust,
};
pub use flow::{Flow, FlowPage, FlowState, FlowsRequest, Foresight, ForesightRequest, Pick};
pub use record::{RecordRequest, Sampling};
pub use server::{BindError, Server};
pub use signal::{Signal, SignalSource};
pub use snapshot::{
    AdminState, Backend, Daemon, Events, Flows, Gpu, Health, HealthState, Interface, Kernel, NatSource,
    NextHop, Nvml, Reported, Snapshot, Vip,
};
pub use table::{BackendSlots, TableShares};
pub use trace::{Candidate, FlowEvent, Lack, Lost, Outcome, TraceRequest, Traced, Tracing, Why};

/// Longest request line, in bytes without its line feed; a longer one is refused and skipped.
pub const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// The whole state.
    Status {},
    /// No new flows for a backend; its established flows stay.
    Drain {
        /// Name of the backend.
        backend: String,
    },
    /// New flows again for a drained backend.
    Resume {
        /// Name of the backend.
        backend: String,
    },
    /// Why a backend costs what it costs.
    Explain {
        /// Name of the backend.
        backend: String,
    },
    /// Where a client's next connection would go.
    Foresee(ForesightRequest),
    /// A part of the flow table.
    Flows(FlowsRequest),
    /// Which backends a VIP's Maglev table leads to.
    Table {
        /// Name of the VIP.
        vip: String,
    },
    /// What the governor does for VIPs, and what it shall do.
    Governor(GovernorRequest),
    /// Events of new flows as they come.
    Trace(TraceRequest),
    /// What the governor sees and writes, as it does.
    Record(RecordRequest),
}

/// What is wanted of the governor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GovernorRequest {
    /// What it shall do, until the next restart or reload; without it nothing changes.
    pub mode: Option<GovernorMode>,
    /// For this VIP alone.
    pub vip: Option<String>,
}

/// The response to a [`Request`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// To `status`.
    Status(Box<Snapshot>),
    /// To `drain` and `resume`.
    Change(Change),
    /// To `explain`.
    Explanation(Box<Explanation>),
    /// To `foresee`.
    Foresight(Box<Foresight>),
    /// To `flows`.
    Flows(FlowPage),
    /// To `table`.
    Table(TableShares),
    /// To `governor`, for each VIP that was meant.
    Governed(Vec<ModeChange>),
    /// To `trace`, once for each event.
    Event(Box<FlowEvent>),
    /// To `trace`, at its end.
    Traced(Traced),
    /// To `record`: whose samples follow.
    Recording(Box<recording::Header>),
    /// To `record`: one moment.
    Sample(Box<recording::Sample>),
    /// To `record`, at its end.
    Recorded(recording::End),
    /// The request was refused or failed; nothing changed.
    Error {
        /// Why, with the remedy where one is known.
        message: String,
    },
}

/// What a command did to a backend; both states are the same if there was nothing to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Name of the backend.
    pub backend: String,
    /// State before the command.
    pub before: AdminState,
    /// State since.
    pub after: AdminState,
}

/// What the governor did for a VIP and does now; both are the same if there was nothing to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModeChange {
    /// Name of the VIP.
    pub vip: String,
    /// Before the command.
    pub before: GovernorMode,
    /// Since.
    pub after: GovernorMode,
}

/// Why the daemon did not carry out a command.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The state could not be read.
    #[error("cannot read the kernel's state: {reason}")]
    Unreadable {
        /// What went wrong.
        reason: String,
    },
    /// The configuration has no such backend.
    #[error("no backend is named `{name}`; `guidevane status` lists them")]
    UnknownBackend {
        /// Name that was asked for.
        name: String,
    },
    /// The configuration has no such VIP.
    #[error("no VIP is named `{name}`; `guidevane status` lists them")]
    UnknownVip {
        /// Name that was asked for.
        name: String,
    },
    /// The client's address is of another family than the VIP's.
    #[error(
        "no packet of {client} can be for VIP `{vip}`: one is IPv4, the other IPv6; ask for the VIP of its family"
    )]
    OtherFamily {
        /// The client.
        client: SocketAddr,
        /// The VIP as it was asked for.
        vip: String,
    },
    /// A page of flows that no page led to.
    #[error("`{page}` is no page of flows; begin without one, or take the `next` of an earlier page")]
    UnknownPage {
        /// The page that was asked for.
        page: String,
    },
    /// The governor's thread is late by seconds, or gone.
    #[error("the governor does not answer; `guidevane status` shows whether the daemon still works")]
    Silent,
    /// A new mode could not be applied.
    #[error("the governor's mode is unchanged: {reason}")]
    Mode {
        /// What went wrong.
        reason: String,
    },
    /// The data plane refused.
    #[error("backend `{name}` is unchanged: {reason}")]
    Failed {
        /// Name of the backend.
        name: String,
        /// What went wrong.
        reason: String,
    },
}

/// The daemon, as the admin socket sees it. Calls may come from several connections at once.
pub trait Handler: Send + Sync + 'static {
    /// A trace under way.
    type Trace: Tracing;

    /// A recording under way.
    type Recording: Sampling;

    /// The state now.
    fn status(&self) -> impl Future<Output = Result<Snapshot, CommandError>> + Send;

    /// Takes new flows away from a backend.
    fn drain(&self, backend: &str) -> impl Future<Output = Result<Change, CommandError>> + Send;

    /// Gives new flows to a backend again.
    fn resume(&self, backend: &str) -> impl Future<Output = Result<Change, CommandError>> + Send;

    /// Why a backend costs what it costs.
    fn explain(&self, backend: &str) -> impl Future<Output = Result<Explanation, CommandError>> + Send;

    /// Where a client's next connection would go.
    fn foresee(
        &self,
        request: &ForesightRequest,
    ) -> impl Future<Output = Result<Foresight, CommandError>> + Send;

    /// A part of the flow table.
    fn flows(&self, request: &FlowsRequest) -> impl Future<Output = Result<FlowPage, CommandError>> + Send;

    /// Which backends a VIP's Maglev table leads to.
    fn table(&self, vip: &str) -> impl Future<Output = Result<TableShares, CommandError>> + Send;

    /// Says what the governor does, and changes it.
    fn governor(
        &self,
        request: &GovernorRequest,
    ) -> impl Future<Output = Result<Vec<ModeChange>, CommandError>> + Send;

    /// Begins a trace, which lasts until it is dropped; `count` is not its business.
    fn trace(&self, request: &TraceRequest)
    -> impl Future<Output = Result<Self::Trace, CommandError>> + Send;

    /// Begins a recording, which lasts until it is dropped; `count` is not its business.
    fn record(
        &self,
        request: &RecordRequest,
    ) -> impl Future<Output = Result<Self::Recording, CommandError>> + Send;
}

#[cfg(test)]
mod tests;

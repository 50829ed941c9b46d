//! Recordings of what a daemon's governor saw and wrote, as lines of JSON: the wire format of the admin socket's
//! `record` and the files of `guidevane sim --record` alike.
//!
//! ```text
//! {"recording":{"format":2,"version":"0.1.0","vips":[{"name":"chat","policy":"least",..,"backends":["gpu-0",..]}]}}
//! {"sample":{"at_us":5000,"vips":[{"opening_cap":4294967295,"duty":16,"prompt":32768,"backends":[{..,"written":{..}},..]}]}}
//! {"recorded":{"samples":1,"lost":0}}
//! ```
//!
//! VIPs and backends of a sample are in the order of the last `recording` before it; another one comes whenever they
//! change. Times are whole microseconds on a clock of the recording's own, so that a report that stays the same
//! stays the same; ages are differences to `at_us`.
//!
//! Plain data and its reading; it knows no daemon and judges nothing.

mod convert;
mod file;

use serde::{Deserialize, Serialize};

use crate::config::{GovernorMode, PolicyKind};

pub use file::{Recording, RecordingError, Segment, read};

/// The version of this format; what is added later gets another one.
pub const FORMAT: u32 = 2;

/// A line of a recording.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    /// Whose samples follow.
    Recording(Header),
    /// One moment.
    Sample(Sample),
    /// The end.
    Recorded(End),
}

/// Whose samples follow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// [`FORMAT`].
    pub format: u32,
    /// Version of the daemon.
    pub version: String,
    /// VIPs, in the configuration's order.
    pub vips: Vec<Vip>,
}

/// A VIP, as far as it is the same in all samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Vip {
    /// Name.
    pub name: String,
    /// How the kernel picked: with the governor on `observe`, least connections.
    pub policy: PolicyKind,
    /// How much more a flow counts while it waits for its first progress.
    pub awaiting_weight: u8,
    /// The margin of `bounded`; 0 for other policies.
    pub epsilon: f64,
    /// What the governor did.
    pub governor: GovernorMode,
    /// Names of its backends.
    pub backends: Vec<String>,
}

/// One moment of all VIPs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// When.
    pub at_us: u64,
    /// VIPs, in the header's order.
    pub vips: Vec<VipSample>,
}

/// One moment of a VIP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VipSample {
    /// Half-open flows of a backend counted up to this many.
    pub opening_cap: u32,
    /// The part of their time in which open connections ask for something, in 256ths.
    pub duty: u32,
    /// The part of a usual request that one of the prompts is, in 32,768ths.
    pub prompt: u32,
    /// Backends, in the header's order.
    pub backends: Vec<BackendSample>,
}

/// What the governor saw of a backend, and what it wrote. Counters count from the load of the kernel program on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackendSample {
    /// Live flows that have not sent a request yet.
    pub opening: u32,
    /// Live flows whose request waits for its first progress.
    pub awaiting: u32,
    /// Live flows with a response under way.
    pub streaming: u32,
    /// Live flows between requests.
    pub idle: u32,
    /// What those that wait have asked, each by its size in KiB.
    pub prompts: u32,
    /// Flows opened.
    pub opened: u64,
    /// Requests seen.
    pub requests: u64,
    /// Bytes of answers acknowledged.
    pub progressed: u64,
    /// Requests whose first progress was timed.
    pub progress_count: u64,
    /// The sum of those times.
    pub progress_sum_ns: u64,
    /// Configured weight.
    pub weight: u32,
    /// Configured limit.
    pub configured_limit: Option<u32>,
    /// Healthy, reachable, not draining.
    pub usable: bool,
    /// The server's last good report.
    pub reported: Option<Report>,
    /// The last reading of its GPUs.
    pub hardware: Option<Gpus>,
    /// What the kernel was told.
    pub written: Written,
}

/// A server's report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Requests in its batch.
    pub running: Option<f64>,
    /// Requests in its queue.
    pub waiting: Option<f64>,
    /// Share of its KV cache in use, 0 to 1.
    pub kv_usage: Option<f64>,
    /// Tokens generated since it started.
    pub generation_tokens: Option<f64>,
    /// Prompt tokens taken in since it started.
    pub prompt_tokens: Option<f64>,
    /// The largest batch it is set to.
    pub max_num_seqs: Option<u32>,
    /// How old the numbers may have been when it was asked.
    pub cadence_us: Option<u64>,
    /// Before it was asked.
    pub taken_start_us: u64,
    /// After it had answered.
    pub taken_end_us: u64,
}

/// A reading of a server's GPUs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gpus {
    /// Part of its full clock at which the slowest may run, 0 to 1.
    pub speed: Option<f64>,
    /// Part of the busiest one's time that goes to others, 0 to 1.
    pub foreign: Option<f64>,
    /// Before the first value was read.
    pub taken_start_us: u64,
    /// After the last one was.
    pub taken_end_us: u64,
}

/// What the kernel was told, in its own units: see [`crate::governor::Output`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Slowness in 1,024ths.
    pub cost: u32,
    /// Requests beyond the live flows, in 256ths.
    pub correction: i32,
    /// Flows at once; 0 when unknown.
    pub limit: u32,
    /// The cost of the weight alone, in 1,024ths.
    pub static_cost: u32,
    /// Part of the usable capacity by weight, in 65,536ths.
    pub share: u32,
}

/// The end of a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Samples it has.
    pub samples: u64,
    /// Samples that were not taken from the daemon in time.
    pub lost: u64,
}

impl Header {
    /// The header of this version.
    pub fn new(vips: Vec<Vip>) -> Self {
        Self { format: FORMAT, version: env!("CARGO_PKG_VERSION").to_owned(), vips }
    }
}

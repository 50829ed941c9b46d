//! A cluster in virtual time: engines, clients, the kernel's gauges, the governor and the pick, in one thread.
//!
//! The pick is [`lb_common::pick`], the governor is the daemon's, the engines are those of the simulated server;
//! modelled are the network, the clients and the states that the kernel gives to flows. It must never read a
//! clock: the same scenario and seed give the same figures to the last digit.

mod run;
mod view;

use std::time::Duration;

use guidevane::governor::Explained;
use lb_common::pick::Policy;

use crate::{
    load::lengths::Lengths,
    sim::{engine::EngineConfig, profile::Profile},
};

pub use run::run;

/// One server of the cluster.
#[derive(Debug, Clone)]
pub struct Server {
    /// Its engine.
    pub engine: EngineConfig,
    /// Speed, 1 is the profile's own.
    pub rate: f64,
    /// Requests from elsewhere that are in its batch all the time.
    pub foreign: u32,
    /// Speeds that it takes on later, by time.
    pub changes: Vec<(Duration, f64)>,
}

impl Server {
    /// A server of a profile with `slots` places in its batch.
    pub fn new(profile: &Profile, slots: u32) -> Self {
        let engine = EngineConfig { max_num_seqs: slots, ..profile.engine_config() };
        Self { engine, rate: 1.0, foreign: 0, changes: Vec::new() }
    }

    /// The same at another speed.
    pub fn at_rate(self, rate: f64) -> Self {
        Self { rate, ..self }
    }

    /// The same with requests from elsewhere.
    pub fn with_foreign(self, foreign: u32) -> Self {
        Self { foreign, ..self }
    }
}

/// How requests come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Traffic {
    /// This many clients, each asking anew as soon as it has its answer.
    Closed(u32),
    /// This many requests a second at random times, whatever becomes of them.
    Poisson(f64),
}

/// Servers, traffic and the time that is measured.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// All servers.
    pub servers: Vec<Server>,
    /// How requests come.
    pub traffic: Traffic,
    /// Tokens of prompts.
    pub prompt: Lengths,
    /// Tokens of answers.
    pub output: Lengths,
    /// Nothing that begins before this is measured.
    pub warm_up: Duration,
    /// Nothing begins after this.
    pub end: Duration,
    /// From here on no server reports anything.
    pub reports_end: Option<Duration>,
    /// Makes the run.
    pub seed: u64,
}

/// Who chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balancer {
    /// Each server in turn.
    RoundRobin,
    /// The fewest open connections, as proxies count them.
    LeastConnections,
    /// Consistent hashing alone.
    Hash,
    /// The kernel's live load with static costs.
    Static,
    /// The same with the governor.
    Governor,
}

impl Balancer {
    /// All of them, baselines first.
    pub const ALL: [Self; 5] =
        [Self::RoundRobin, Self::LeastConnections, Self::Hash, Self::Static, Self::Governor];

    fn policy(self) -> Policy {
        match self {
            Self::RoundRobin => Policy::RoundRobin,
            Self::LeastConnections => Policy::LeastConnections,
            Self::Hash => Policy::Hash,
            Self::Static | Self::Governor => Policy::Least,
        }
    }
}

/// A distribution of times in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Times {
    /// Mean.
    pub mean: f64,
    /// Half are below.
    pub p50: f64,
    /// All but a tenth are below.
    pub p90: f64,
    /// All but a hundredth are below.
    pub p99: f64,
}

impl Times {
    fn of(mut seconds: Vec<f64>) -> Self {
        seconds.sort_unstable_by(f64::total_cmp);
        let Some(last) = seconds.len().checked_sub(1) else { return Self::default() };
        let at = |part: f64| seconds[(last as f64 * part).round() as usize];
        let mean = seconds.iter().sum::<f64>() / seconds.len() as f64;
        Self { mean, p50: at(0.5), p90: at(0.9), p99: at(0.99) }
    }
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Requests that began in the measured time; all of them were answered.
    pub requests: usize,
    /// Tokens that clients got in the measured time, a second.
    pub tokens_per_second: f64,
    /// From opening the connection to the first token.
    pub first_token: Times,
    /// From opening the connection to the last token.
    pub latency: Times,
    /// Requests begun in the measured time, by server.
    pub served: Vec<usize>,
    /// The governor's state at the end of the measured time, by server; default under other balancers.
    pub explained: Vec<Explained>,
}

//! What is simulated: servers, traffic, and what balancers get to hear.

use std::{sync::Arc, time::Duration};

use super::{engine::EngineConfig, lengths::Lengths, profile::Profile, trace::Arrival};

/// One server of the cluster.
#[derive(Debug, Clone)]
pub struct Server {
    /// Its engine.
    pub engine: EngineConfig,
    /// Requests a second that it answers at its best batch size and rate 1; only oracles know it.
    pub capacity: f64,
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
        Self { engine, capacity: 1.0, rate: 1.0, foreign: 0, changes: Vec::new() }
    }

    /// The same at another speed.
    pub fn at_rate(self, rate: f64) -> Self {
        Self { rate, ..self }
    }

    /// The same with requests from elsewhere.
    pub fn with_foreign(self, foreign: u32) -> Self {
        Self { foreign, ..self }
    }

    /// Its speed as a mean over `span`, changes counted in.
    pub fn mean_rate(&self, span: Duration) -> f64 {
        let (mut since, mut rate, mut sum) = (Duration::ZERO, self.rate, 0.0);
        for &(at, next) in self.changes.iter().filter(|(at, _)| *at < span) {
            sum += (at - since).as_secs_f64() * rate;
            (since, rate) = (at, next);
        }
        (sum + (span - since).as_secs_f64() * rate) / span.as_secs_f64()
    }
}

/// How long prompts and answers are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sizes {
    /// Tokens of prompts.
    pub prompt: Lengths,
    /// Tokens of answers.
    pub output: Lengths,
}

/// How requests come.
#[derive(Debug, Clone)]
pub enum Traffic {
    /// This many clients, each asking anew as soon as it has its answer.
    Closed(u32, Sizes),
    /// This many requests a second at random times, whatever becomes of them.
    Poisson(f64, Sizes),
    /// These, in order of time.
    Trace(Arc<[Arrival]>),
}

/// What balancers hear from servers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reports {
    /// Time between two scrapes of a server.
    pub interval: Duration,
    /// How old a report is when it is heard, beside its own trip.
    pub delay: Duration,
    /// Part of the reports that is lost, 0 to 1.
    pub loss: f64,
    /// From here on no server reports anything.
    pub end: Option<Duration>,
}

impl Default for Reports {
    fn default() -> Self {
        // The daemon's own interval.
        Self { interval: Duration::from_millis(250), delay: Duration::ZERO, loss: 0.0, end: None }
    }
}

/// Servers, traffic and the time that is measured.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// All servers.
    pub servers: Vec<Server>,
    /// How requests come.
    pub traffic: Traffic,
    /// Balancers that share the servers and do not talk to each other, at least 1; each gets its part of the
    /// requests at random.
    pub balancers: u32,
    /// What they hear.
    pub reports: Reports,
    /// Requests on a connection, as a mean, at least 1; more than 1 keeps connections open between them.
    pub requests_per_connection: f64,
    /// Nothing that begins before this is measured.
    pub warm_up: Duration,
    /// Nothing begins after this.
    pub end: Duration,
    /// Makes the run: hashes of flows, phases of scrapes, random arrivals and lengths.
    pub seed: u64,
}

impl Scenario {
    /// One balancer with the daemon's own settings.
    pub fn new(servers: Vec<Server>, traffic: Traffic, end: Duration) -> Self {
        Self {
            servers,
            traffic,
            balancers: 1,
            reports: Reports::default(),
            requests_per_connection: 1.0,
            warm_up: Duration::ZERO,
            end,
            seed: 1,
        }
    }
}

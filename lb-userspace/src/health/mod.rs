//! Whether backends answer: probes on a schedule, thresholds over their results.
//!
//! It publishes states and reasons; what follows from them (tables, drains) is decided elsewhere.

mod judge;
mod monitor;
mod probe;
mod silence;

use std::time::Duration;

pub use judge::State;
pub use monitor::{Health, Key, Report, Status};
pub use probe::{Probe, ProbeError, TcpProbe};
pub use silence::{Seen, Silence};

/// How often backends are probed and how many results it takes to believe a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthOptions {
    /// From the start of one probe to the start of the next, give or take a tenth. Default 1 s.
    pub interval: Duration,
    /// A probe that takes longer has failed. Default 500 ms.
    pub timeout: Duration,
    /// Consecutive successes that bring a backend up again, at least 1. Default 2.
    pub rise: u32,
    /// Consecutive failures that take a backend down, at least 1. Default 3.
    pub fall: u32,
}

impl Default for HealthOptions {
    fn default() -> Self {
        Self { interval: Duration::from_secs(1), timeout: Duration::from_millis(500), rise: 2, fall: 3 }
    }
}

//! Sources of what is known of a backend: how old their last word is, and how often they could not be heard.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// One source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Signal {
    /// Which.
    pub source: SignalSource,
    /// Which server it was recognised as, or configured to be; for `metrics` and `light`.
    pub server: Option<String>,
    /// Age of the last good reading; `None` before the first.
    pub age_seconds: Option<f64>,
    /// Failures since the source is read, by kind; kinds that did not occur are left out.
    pub failures: BTreeMap<String, u64>,
    /// Failures since the last good reading.
    pub consecutive_failures: u64,
    /// The latest failure, in words; it stays after later good readings.
    pub last_error: Option<String>,
}

/// Where something is known from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SignalSource {
    /// The kernel's gauges and histograms, read at every tick of the governor.
    Kernel,
    /// The server's metrics.
    Metrics,
    /// Its small answers between two scrapes of them.
    Light,
    /// Its agent's reports, where its metrics are not read from here.
    Agent,
    /// What is known of its GPUs, whoever read them last.
    Gpu,
    /// A DCGM exporter, which is one of those.
    Dcgm,
}

impl Signal {
    /// A source that does not count failures.
    pub fn new(source: SignalSource, age_seconds: Option<f64>) -> Self {
        Self {
            source,
            server: None,
            age_seconds,
            failures: BTreeMap::new(),
            consecutive_failures: 0,
            last_error: None,
        }
    }
}

impl fmt::Display for SignalSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kernel => "kernel",
            Self::Metrics => "metrics",
            Self::Light => "light",
            Self::Agent => "agent",
            Self::Gpu => "gpu",
            Self::Dcgm => "dcgm",
        })
    }
}

//! Why a backend costs what it costs, as `backends explain` reports it. Field names are stable and carry their unit;
//! a field is `null` where nothing is known.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::{GovernorMode, PolicyKind};

/// How the governor came to its last output for a backend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// Name of the backend.
    pub backend: String,
    /// Name of its VIP.
    pub vip: String,
    /// How the VIP picks.
    pub policy: PolicyKind,
    /// What the governor does for the VIP.
    pub governor: GovernorMode,
    /// What the kernel goes by now.
    pub written: Terms,
    /// What it would go by if the governor were on.
    pub proposed: Terms,
    /// The cost of the configured weight alone; the factors below multiply it.
    pub cost_by_weight: f64,
    /// All factors together, as they are to be.
    pub target: f64,
    /// All factors together, as they are by now.
    pub factor: f64,
    /// Why the two differ.
    pub waits_for: Option<Damping>,
    /// How slow the server is beside the others.
    pub slowness: Slowness,
    /// What its GPUs say beyond that.
    pub hardware: HardwareFactor,
    /// Factor for a server that runs full, from 1.
    pub saturation: f64,
    /// Factor for a server that has just come back, from 1.
    pub slow_start: f64,
    /// What is on the server beyond the flows counted here.
    pub correction: Correction,
    /// What is counted, as part of the correction, for flows that failed at once.
    pub failed: Failed,
    /// What the kernel's own signals allow its reports.
    pub trust: Trust,
    /// How many flows it can work on at once.
    pub limit: Limit,
    /// Mean time from request to first progress in the last seconds.
    pub first_progress_seconds: Option<f64>,
}

/// What a pick goes by, beside the live counts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Terms {
    /// What one flow more costs, 1 is nominal.
    pub cost: f64,
    /// Flows beyond those counted here.
    pub correction: f64,
    /// Flows at once; `None` when unknown.
    pub limit: Option<u32>,
}

/// The kernel's own picture of a backend, beside which its reports are held.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Trust {
    /// All factors together by the kernel's signals alone.
    pub kernel_factor: f64,
    /// Whether cost or correction were kept from making more than twice its share of it.
    pub bounded: bool,
}

/// Why a factor is not its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Damping {
    /// The difference is too small to act on.
    Deadband,
    /// It is on its way.
    Slew,
}

/// Flows that ended far sooner than others, and with far less of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Failed {
    /// The part of the server's flows that are such ones, 0 to 1.
    pub part: f64,
    /// What is counted for them, in flows.
    pub flows: f64,
    /// How long flows live at the other servers.
    pub lifetime_seconds: Option<f64>,
}

/// How slow a server is beside the others of its VIP.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Slowness {
    /// The factor applied, 1/8 to 8.
    pub factor: f64,
    /// The factor as measured.
    pub measured: Option<f64>,
    /// Measured factors up to this one, or down to its inverse, count as 1.
    pub band: f64,
    /// What it was measured by.
    pub by: Option<Measure>,
    /// Age of the newest measurement.
    pub age_seconds: Option<f64>,
}

/// What slowness is measured by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// The server's count of tokens.
    Tokens,
    /// Bytes that clients acknowledged.
    Bytes,
}

/// What a server's GPUs say beyond the slowness that was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct HardwareFactor {
    /// The factor applied.
    pub factor: f64,
    /// The factor of now.
    pub now: Option<f64>,
    /// The factor at which slowness was measured.
    pub learned: f64,
    /// Age of the oldest value.
    pub age_seconds: Option<f64>,
}

/// What is on a server beyond the flows counted here, in flows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Correction {
    /// The last report less our own flows at its time.
    pub reported: Option<f64>,
    /// The same, smoothed and faded by age.
    pub smoothed: f64,
    /// Age of the report.
    pub age_seconds: Option<f64>,
}

/// How many flows a server can work on at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// That many; `None` when unknown.
    pub flows: Option<u32>,
    /// Who says so.
    pub origin: LimitOrigin,
}

/// Where a limit comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LimitOrigin {
    /// There is none.
    Unknown,
    /// The configuration.
    Configured,
    /// The server's own setting, as it reports it.
    Reported,
    /// The server's queue, which shows how much it works on at once.
    Learned,
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tokens => "tokens",
            Self::Bytes => "bytes",
        })
    }
}

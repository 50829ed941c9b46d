//! Recordings of what the governor sees: what is asked for. The lines themselves are in [`crate::recording`].

use std::future::Future;

use serde::{Deserialize, Serialize};

use crate::recording::Line;

/// How to record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecordRequest {
    /// Milliseconds from one sample to the next; each tick of the governor gives one at most.
    pub every_ms: u64,
    /// Ends after so many samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

impl Default for RecordRequest {
    fn default() -> Self {
        Self { every_ms: 100, count: None }
    }
}

/// A recording under way; it ends when this is dropped.
pub trait Sampling: Send {
    /// The next line, when there is one: samples, and whose they are before the first and whenever that changes.
    /// None when there will be none. Nothing is lost when it is dropped.
    fn next(&mut self) -> impl Future<Output = Option<Line>> + Send;

    /// Samples that were not taken in time.
    fn lost(&self) -> u64;
}

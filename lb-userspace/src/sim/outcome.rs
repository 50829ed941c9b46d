//! What came of a run.

use std::time::Duration;

use serde::Serialize;

use crate::governor::Explained;

/// A distribution of times in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
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
    /// Of these values, in any order; zero without any.
    pub fn of(mut seconds: Vec<f64>) -> Self {
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
    /// Requests that began in the measured time and were answered.
    pub requests: usize,
    /// Requests that began in it and were not answered within an hour of its end.
    pub unfinished: usize,
    /// Tokens that clients got in the measured time, a second.
    pub tokens_per_second: f64,
    /// From opening the connection to the first token.
    pub first_token: Times,
    /// From opening the connection to the last token.
    pub latency: Times,
    /// Requests begun in the measured time, by server.
    pub served: Vec<usize>,
    /// The first balancer's governor at the end of the measured time, by server; default where there is none.
    pub explained: Vec<Explained>,
    /// How long the first balancer's governor took to follow each change of a server's speed: to four fifths of
    /// the change, as logarithms. `None` where it had not by the next change or the end.
    pub learned: Vec<Option<Duration>>,
    /// Requests at each server, sampled at [`super::spectrum::SAMPLE`], server by server.
    pub load: Vec<Vec<f32>>,
}

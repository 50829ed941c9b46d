//! What the world says about backends: one file a source, all behind [`Source`].
//!
//! It reports what was said, when, and how often it could not be heard; it judges nothing. What the
//! reports mean for costs is the governor's business.

mod board;
pub mod exposition;
mod hardware;
mod http;
mod scraper;
mod vllm;

use std::time::{Duration, Instant};

use futures::future::BoxFuture;

pub use crate::health::Key;
pub use board::{Board, Faults};
pub use hardware::{Fault, Hardware};
pub use http::{MetricsUrl, UrlError};
pub use scraper::{Failures, Scrape, ScrapeOptions, Scraper, Scrapers};
pub use vllm::Vllm;

/// One reading of an inference server; `None` where it does not say, or says nonsense.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// Requests in the batch, over all engines.
    pub running: Option<f64>,
    /// Requests queued before the batch, over all engines.
    pub waiting: Option<f64>,
    /// Share of the KV cache in use, 0 to 1, of the fullest engine.
    pub kv_usage: Option<f64>,
    /// Tokens generated since the server started, over all engines.
    pub generation_tokens: Option<f64>,
    /// Prompt tokens processed since the server started, over all engines.
    pub prompt_tokens: Option<f64>,
    /// Time to first token of every request since the server started, in seconds.
    pub ttft: Option<Totals>,
    /// Largest batch, in requests, of servers that tell (vLLM does not).
    pub max_num_seqs: Option<u32>,
    /// Before the server was asked.
    pub taken_start: Instant,
    /// After it had answered.
    pub taken_end: Instant,
}

/// The sum and count of a histogram since the server started; differences of two give a mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Totals {
    /// Sum of all values.
    pub sum: f64,
    /// Number of values.
    pub count: f64,
}

/// How old an observation is: the server answered at some moment between asking and having heard.
/// What it answered may be older still, by up to its own update cadence (vLLM: an engine step).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age {
    /// Since the answer was complete.
    pub at_least: Duration,
    /// Since the question was put.
    pub at_most: Duration,
}

impl Observation {
    /// The age at `now`; zero for moments before the observation.
    pub fn age(&self, now: Instant) -> Age {
        Age {
            at_least: now.saturating_duration_since(self.taken_end),
            at_most: now.saturating_duration_since(self.taken_start),
        }
    }
}

/// Something that can be asked how a backend is doing.
pub trait Source: Send + 'static {
    /// Asks once. Needs no time limit of its own: the caller drops a question that takes too long,
    /// and may ask anew at any time after.
    fn observe(&mut self) -> BoxFuture<'_, Result<Observation, SourceError>>;
}

/// Why a source could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// No connection.
    #[error("connect to {authority}: {source}")]
    Connect {
        /// Host and port.
        authority: String,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// No complete answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The answer is not HTTP, or broke off.
    #[error("http: {0}")]
    Http(String),
    /// The server answered with another status than 200.
    #[error("status {0}")]
    Status(u16),
    /// The answer is longer than any such server's.
    #[error("the answer exceeds {limit} bytes")]
    TooLarge {
        /// Longest answer that is read.
        limit: usize,
    },
    /// The answer holds none of the expected metrics.
    #[error("{0}")]
    Content(&'static str),
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Age, Observation};

    #[test]
    fn the_age_is_bracketed_by_asking_and_having_heard() {
        let taken_start = Instant::now();
        let observation = Observation {
            running: None,
            waiting: None,
            kv_usage: None,
            generation_tokens: None,
            prompt_tokens: None,
            ttft: None,
            max_num_seqs: None,
            taken_start,
            taken_end: taken_start + Duration::from_millis(30),
        };
        let age = |millis| observation.age(taken_start + Duration::from_millis(millis));
        let ms = Duration::from_millis;
        assert_eq!(age(100), Age { at_least: ms(70), at_most: ms(100) });
        assert_eq!(age(10), Age { at_least: ms(0), at_most: ms(10) });
    }
}

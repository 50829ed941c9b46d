//! What the world says about backends: one file a source, all behind [`Source`].
//!
//! It reports what was said, when, and how often it could not be heard; it judges nothing. What the
//! reports mean for costs is the governor's business.
//!
//! | module | owns |
//! |---|---|
//! | [`exposition`] | the text format of metrics |
//! | `servers` | what each inference server calls its metrics, and how often it renews them |
//! | [`reading`] | from an exposition to an [`Observation`] |
//! | `light` | the small answers that some servers give between two scrapes |
//! | [`dcgm`] | from a DCGM exporter's exposition to [`Hardware`] |
//! | `http`, `watched` | connections, certificates and tokens |
//! | `metrics` | the sources that are asked over HTTP |
//! | `scraper`, `targets` | asking on a schedule, and of whom |

mod board;
pub mod dcgm;
pub mod exposition;
mod hardware;
mod http;
mod light;
mod metrics;
mod observation;
pub mod reading;
mod scraper;
mod servers;
mod targets;
#[cfg(test)]
mod testing;
mod watched;

use std::{path::PathBuf, time::Duration};

use futures::future::{self, BoxFuture};

pub use crate::health::Key;
pub use board::{Board, Faults};
pub use hardware::{Fault, Hardware};
pub use http::{Endpoint, MetricsUrl, UrlError};
pub use metrics::{DcgmExporter, ServerMetrics};
pub use observation::{Age, Observation, Totals};
pub use scraper::{Failures, Scrape, ScrapeOptions, scrape};
pub use servers::ServerKind;
pub use targets::{DcgmTarget, Scrapers, Target};

/// Something that can be asked how a backend is doing.
pub trait Source: Send + 'static {
    /// What it gives.
    type Reading: Clone + Send + Sync + 'static;

    /// Asks once. Needs no time limit of its own: the caller drops a question that takes too long,
    /// and may ask anew at any time after.
    fn observe(&mut self) -> BoxFuture<'_, Result<Self::Reading, SourceError>>;

    /// A smaller question between two of [`Source::observe`], which costs the answerer less; none if there
    /// is no such, or the answer is not to be believed.
    fn glance(&mut self) -> BoxFuture<'_, Result<Option<Self::Reading>, SourceError>> {
        Box::pin(future::ready(Ok(None)))
    }
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
    /// The other end does not speak TLS, or is not the one it should be.
    #[error("tls with {authority}: {source}")]
    Tls {
        /// Host and port.
        authority: String,
        /// What is wrong.
        source: std::io::Error,
    },
    /// A file with a token or certificates is not as it should be.
    #[error("read {path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
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

//! One scraping task a source: it asks on a schedule and keeps the last good answer.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{Observation, Source, SourceError};
use crate::net::jitter::{first_delay, jittered};

/// How often a source is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrapeOptions {
    /// From the start of one scrape to the start of the next, give or take a tenth. Default 250 ms.
    pub interval: Duration,
    /// A scrape that takes longer has failed. Default 1 s.
    pub timeout: Duration,
    /// The same as `interval` for the small questions between two scrapes; they are not asked without.
    pub light_interval: Option<Duration>,
}

impl Default for ScrapeOptions {
    fn default() -> Self {
        Self { interval: Duration::from_millis(250), timeout: Duration::from_secs(1), light_interval: None }
    }
}

/// What scraping a source has led to so far.
#[derive(Clone, Debug, PartialEq)]
pub struct Scrape<R = Observation> {
    /// The last good answer, however old; see [`Observation::age`].
    pub last: Option<R>,
    /// The last good answer to a small question, whichever of the two is newer. It holds no totals.
    pub glance: Option<R>,
    /// Good answers since the start.
    pub successes: u64,
    /// Failures since the start, by kind.
    pub failures: Failures,
    /// Failures since the last good answer.
    pub consecutive_failures: u64,
    /// The text of the latest failure; it stays after later good answers.
    pub last_error: Option<String>,
}

impl<R> Default for Scrape<R> {
    fn default() -> Self {
        Self {
            last: None,
            glance: None,
            successes: 0,
            failures: Failures::default(),
            consecutive_failures: 0,
            last_error: None,
        }
    }
}

impl Scrape {
    /// The newer of the last good answers.
    pub fn newest(&self) -> Option<&Observation> {
        self.last.iter().chain(&self.glance).max_by_key(|observation| observation.taken_end)
    }
}

/// Numbers of failed scrapes by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// No connection.
    pub connect: u64,
    /// No TLS, or with the wrong server.
    pub tls: u64,
    /// No token, or no certificates to trust.
    pub file: u64,
    /// No complete answer in time.
    pub timeout: u64,
    /// Not HTTP, or broken off.
    pub http: u64,
    /// Another status than 200.
    pub status: u64,
    /// Longer than the limit.
    pub too_large: u64,
    /// Without the expected metrics.
    pub content: u64,
}

impl Failures {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.by_kind().iter().map(|(_, count)| count).sum()
    }

    /// Each kind by its name, zeros included.
    pub fn by_kind(&self) -> [(&'static str, u64); 8] {
        let Self { connect, tls, file, timeout, http, status, too_large, content } = *self;
        [
            ("connect", connect),
            ("tls", tls),
            ("file", file),
            ("timeout", timeout),
            ("http", http),
            ("status", status),
            ("too_large", too_large),
            ("content", content),
        ]
    }

    fn count(&mut self, error: &SourceError) {
        let counter = match error {
            SourceError::Connect { .. } => &mut self.connect,
            SourceError::Tls { .. } => &mut self.tls,
            SourceError::File { .. } => &mut self.file,
            SourceError::Timeout(_) => &mut self.timeout,
            SourceError::Http(_) => &mut self.http,
            SourceError::Status(_) => &mut self.status,
            SourceError::TooLarge { .. } => &mut self.too_large,
            SourceError::Content(_) => &mut self.content,
        };
        *counter += 1;
    }
}

/// Asks `source` on the current tokio runtime until the last receiver is dropped; the log calls it `what`.
pub fn scrape<S: Source>(
    what: String,
    source: S,
    options: ScrapeOptions,
) -> watch::Receiver<Scrape<S::Reading>> {
    let (publish, scrapes) = watch::channel(Scrape::default());
    tokio::spawn(async move {
        tokio::select! {
            () = publish.closed() => {}
            () = scrape_forever(&what, source, &options, &publish) => {}
        }
    });
    scrapes
}

async fn scrape_forever<S: Source>(
    what: &str,
    mut source: S,
    options: &ScrapeOptions,
    publish: &watch::Sender<Scrape<S::Reading>>,
) {
    sleep(first_delay(options.interval)).await;
    loop {
        let next = Instant::now() + jittered(options.interval);
        let result = match timeout(options.timeout, source.observe()).await {
            Ok(result) => result,
            Err(_) => Err(SourceError::Timeout(options.timeout)),
        };
        let good = result.is_ok();
        let failed = publish.borrow().consecutive_failures > 0;
        say(what, failed, &result);
        publish.send_modify(|scrape| record(scrape, result));
        if let Some(interval) = options.light_interval.filter(|_| good) {
            glance_until(next, interval, &mut source, options, publish).await;
        }
        sleep_until(next).await;
    }
}

/// Asks small questions until a whole scrape is due, or one of them was in vain.
async fn glance_until<S: Source>(
    due: Instant,
    interval: Duration,
    source: &mut S,
    options: &ScrapeOptions,
    publish: &watch::Sender<Scrape<S::Reading>>,
) {
    loop {
        let next = Instant::now() + jittered(interval);
        if next >= due {
            return;
        }
        sleep_until(next).await;
        match timeout(options.timeout, source.glance()).await {
            Ok(Ok(Some(seen))) => publish.send_modify(|scrape| scrape.glance = Some(seen)),
            // The next scrape will tell what is wrong.
            Ok(Ok(None) | Err(_)) | Err(_) => return,
        }
    }
}

/// Logs what has changed. The log may block, so nothing is locked here that others read.
fn say<R>(what: &str, failed: bool, result: &Result<R, SourceError>) {
    match result {
        Ok(_) if failed => tracing::info!("{what} are readable again"),
        Err(error) if !failed => tracing::warn!("{what} cannot be read: {error}"),
        _ => {}
    }
}

fn record<R>(scrape: &mut Scrape<R>, result: Result<R, SourceError>) {
    match result {
        Ok(reading) => {
            scrape.last = Some(reading);
            scrape.successes += 1;
            scrape.consecutive_failures = 0;
        }
        Err(error) => {
            scrape.failures.count(&error);
            scrape.consecutive_failures += 1;
            scrape.last_error = Some(error.to_string());
        }
    }
}

#[cfg(test)]
#[path = "scraper_tests.rs"]
mod tests;

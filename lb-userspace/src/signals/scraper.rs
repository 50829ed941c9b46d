//! One scraping task a backend: it asks on a schedule and keeps the last good answer.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{MetricsUrl, Observation, Source, SourceError, Vllm};
use crate::{
    health::Key,
    net::jitter::{first_delay, jittered},
};

/// How often servers are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrapeOptions {
    /// From the start of one scrape to the start of the next, give or take a tenth. Default 250 ms.
    pub interval: Duration,
    /// A scrape that takes longer has failed. Default 1 s.
    pub timeout: Duration,
}

impl Default for ScrapeOptions {
    fn default() -> Self {
        Self { interval: Duration::from_millis(250), timeout: Duration::from_secs(1) }
    }
}

/// What scraping a backend has led to so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scrape {
    /// The last good answer, however old; see [`Observation::age`].
    pub last: Option<Observation>,
    /// Good answers since the start.
    pub successes: u64,
    /// Failures since the start, by kind.
    pub failures: Failures,
    /// Failures since the last good answer.
    pub consecutive_failures: u64,
    /// The text of the latest failure; it stays after later good answers.
    pub last_error: Option<String>,
}

/// Numbers of failed scrapes by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// No connection.
    pub connect: u64,
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
        self.connect + self.timeout + self.http + self.status + self.too_large + self.content
    }

    fn count(&mut self, error: &SourceError) {
        let counter = match error {
            SourceError::Connect { .. } => &mut self.connect,
            SourceError::Timeout(_) => &mut self.timeout,
            SourceError::Http(_) => &mut self.http,
            SourceError::Status(_) => &mut self.status,
            SourceError::TooLarge { .. } => &mut self.too_large,
            SourceError::Content(_) => &mut self.content,
        };
        *counter += 1;
    }
}

/// Starts scraping tasks.
#[derive(Debug)]
pub struct Scraper;

impl Scraper {
    /// Scrapes a vLLM server on the current tokio runtime until the last receiver is dropped.
    pub fn spawn(backend: Key, url: MetricsUrl, options: ScrapeOptions) -> watch::Receiver<Scrape> {
        Self::spawn_source(backend, Vllm::new(url), options)
    }

    /// The same for any source.
    pub fn spawn_source(
        backend: Key,
        source: impl Source,
        options: ScrapeOptions,
    ) -> watch::Receiver<Scrape> {
        let (publish, scrapes) = watch::channel(Scrape::default());
        tokio::spawn(async move {
            tokio::select! {
                () = publish.closed() => {}
                () = scrape_forever(&backend, source, &options, &publish) => {}
            }
        });
        scrapes
    }
}

async fn scrape_forever(
    backend: &str,
    mut source: impl Source,
    options: &ScrapeOptions,
    publish: &watch::Sender<Scrape>,
) {
    sleep(first_delay(options.interval)).await;
    loop {
        let next = Instant::now() + jittered(options.interval);
        let result = match timeout(options.timeout, source.observe()).await {
            Ok(result) => result,
            Err(_) => Err(SourceError::Timeout(options.timeout)),
        };
        publish.send_modify(|scrape| record(backend, scrape, result));
        sleep_until(next).await;
    }
}

fn record(backend: &str, scrape: &mut Scrape, result: Result<Observation, SourceError>) {
    match result {
        Ok(observation) => {
            if scrape.consecutive_failures > 0 {
                tracing::info!("metrics of backend {backend} are readable again");
            }
            scrape.last = Some(observation);
            scrape.successes += 1;
            scrape.consecutive_failures = 0;
        }
        Err(error) => {
            if scrape.consecutive_failures == 0 {
                tracing::warn!("metrics of backend {backend} cannot be read: {error}");
            }
            scrape.failures.count(&error);
            scrape.consecutive_failures += 1;
            scrape.last_error = Some(error.to_string());
        }
    }
}

/// The scraping of a changing set of backends.
#[derive(Debug)]
pub struct Scrapers {
    options: ScrapeOptions,
    running: HashMap<Key, (MetricsUrl, watch::Receiver<Scrape>)>,
}

impl Scrapers {
    /// Scrapes nothing yet.
    pub fn new(options: ScrapeOptions) -> Self {
        Self { options, running: HashMap::new() }
    }

    /// Replaces the set of backends. Those that stay under the same key and URL are not disturbed.
    pub fn set_targets(&mut self, targets: impl IntoIterator<Item = (Key, MetricsUrl)>) {
        let mut before = std::mem::take(&mut self.running);
        for (key, url) in targets {
            let scrapes = match before.remove(&key) {
                Some((known, scrapes)) if known == url => scrapes,
                _ => Scraper::spawn(Arc::clone(&key), url.clone(), self.options.clone()),
            };
            self.running.insert(key, (url, scrapes));
        }
    }

    /// What is known of every backend in the set.
    pub fn snapshot(&self) -> BTreeMap<Key, Scrape> {
        let entries = self.running.iter();
        entries.map(|(key, (_, scrapes))| (Arc::clone(key), scrapes.borrow().clone())).collect()
    }

    /// Updates of one backend, if it is in the set. Whoever holds the receiver keeps the scraping
    /// alive, even after the backend has left the set.
    pub fn subscribe(&self, key: &str) -> Option<watch::Receiver<Scrape>> {
        self.running.get(key).map(|(_, scrapes)| scrapes.clone())
    }
}

#[cfg(test)]
#[path = "scraper_tests.rs"]
mod tests;

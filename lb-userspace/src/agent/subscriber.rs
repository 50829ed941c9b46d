//! The daemon's end: one subscription for each backend that has an agent, kept up for as long as the backend is
//! configured. What arrives is published as scrapes are, and what does not lets the last observation age.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::TryStreamExt as _;
use rustls::ClientConfig;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    AgentUrl,
    connection::{self, Failure, Subscription},
    fold,
    message::OrcaLoadReport,
};
use crate::{
    net::jitter::scattered,
    signals::{Board, Failures, Hardware, Key, Observation, Scrape},
};

/// Time to the next attempt after a failure: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A subscription without a report for so many intervals, and at least for so long, is taken anew.
const PATIENCE_INTERVALS: u32 = 4;
const LEAST_PATIENCE: Duration = Duration::from_secs(2);

/// The same for servers that do not say how often they report: gRPC's own do at most every 30 s by default
/// (gRFC A51).
const UNKNOWN_PATIENCE: Duration = Duration::from_secs(120);

/// Two reports are of one reading when their agent dates it equally, but for rounding.
const SAME_READING_MS: f64 = 0.01;

/// Where a backend's agent is, and what it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where it is.
    pub url: AgentUrl,
    /// Whether it is heard on the GPUs too.
    pub gpus: bool,
}

/// How agents are asked.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// The balancer's certificate and what it trusts; none where all agents are in the clear.
    pub tls: Option<Arc<ClientConfig>>,
    /// Time between reports.
    pub interval: Duration,
}

impl PartialEq for Terms {
    fn eq(&self, other: &Self) -> bool {
        let same = match (&self.tls, &other.tls) {
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            (None, None) => true,
            _ => false,
        };
        same && self.interval == other.interval
    }
}

/// The subscriptions of a changing set of backends.
#[derive(Debug)]
pub struct Agents {
    board: Arc<Board>,
    terms: Terms,
    running: HashMap<Key, (Target, watch::Receiver<Scrape>)>,
}

impl Agents {
    /// Subscribes to nothing yet; readings of GPUs go to `board`.
    pub fn new(board: Arc<Board>) -> Self {
        Self { board, terms: Terms::default(), running: HashMap::new() }
    }

    /// Replaces the set of backends. Those that stay under the same key, target and terms are not disturbed.
    pub fn set_targets(&mut self, terms: Terms, targets: impl IntoIterator<Item = (Key, Target)>) {
        let unchanged = self.terms == terms;
        let mut before = std::mem::take(&mut self.running);
        self.terms = terms;
        for (key, target) in targets {
            let scrape = match before.remove(&key) {
                Some((known, scrape)) if unchanged && known == target => scrape,
                _ => {
                    let board = target.gpus.then(|| Arc::clone(&self.board));
                    subscribe(Arc::clone(&key), target.url.clone(), self.terms.clone(), board)
                }
            };
            self.running.insert(key, (target, scrape));
        }
    }

    /// What one backend's server reports, if it is in the set. Whoever holds the receiver keeps the subscription
    /// alive, even after the backend has left the set.
    pub fn subscribe(&self, key: &str) -> Option<watch::Receiver<Scrape>> {
        self.running.get(key).map(|(_, scrape)| scrape.clone())
    }
}

/// Subscribes on the current tokio runtime until the last receiver is dropped. What is said of GPUs goes to `board`;
/// without one, nobody wants to know.
pub fn subscribe(
    backend: Key,
    url: AgentUrl,
    terms: Terms,
    board: Option<Arc<Board>>,
) -> watch::Receiver<Scrape> {
    let (scrapes, scrape) = watch::channel(Scrape::default());
    let publisher = Publisher { backend, url, scrapes, board, said: None, samples: (None, None) };
    tokio::spawn(async move {
        let scrapes = publisher.scrapes.clone();
        tokio::select! {
            () = scrapes.closed() => {}
            () = subscribe_forever(publisher, terms) => {}
        }
    });
    scrape
}

async fn subscribe_forever(mut publisher: Publisher, terms: Terms) {
    let mut pause = FIRST_PAUSE;
    loop {
        let Publisher { url, backend, .. } = &publisher;
        let opened = connection::open(url, terms.tls.as_ref(), backend, terms.interval).await;
        let failure = match opened {
            Ok(mut subscription) => {
                publisher.samples = (None, None);
                let (failure, reports) = follow(&mut publisher, &mut subscription).await;
                if reports > 0 {
                    pause = FIRST_PAUSE;
                }
                failure
            }
            Err(failure) => failure,
        };
        publisher.fail(&failure);
        sleep(scattered(pause)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Publishes what comes until nothing does any more; says why, and how many reports there were.
async fn follow(publisher: &mut Publisher, subscription: &mut Subscription) -> (Failure, u64) {
    let patience = subscription
        .interval
        .map_or(UNKNOWN_PATIENCE, |interval| interval.saturating_mul(PATIENCE_INTERVALS).max(LEAST_PATIENCE));
    let mut reports = 0;
    loop {
        let report = match timeout(patience, subscription.reports.try_next()).await {
            Err(_elapsed) => return (Failure::Silent(patience), reports),
            Ok(Err(status)) => return (subscription.failure(status).await, reports),
            Ok(Ok(None)) => return (Failure::Ended, reports),
            Ok(Ok(Some(report))) => report,
        };
        let received = Instant::now();
        let sending = subscription.transit.receive(received, fold::sent(&report));
        publisher.publish(&report, fold::observation(&report, sending), fold::hardware(&report, sending));
        reports += 1;
    }
}

/// One backend's news.
struct Publisher {
    backend: Key,
    url: AgentUrl,
    scrapes: watch::Sender<Scrape>,
    board: Option<Arc<Board>>,
    /// The last failure that was logged, until a report comes.
    said: Option<String>,
    /// The readings published last, as their agent dates them.
    samples: (Option<f64>, Option<f64>),
}

impl Publisher {
    fn publish(
        &mut self,
        report: &OrcaLoadReport,
        observation: Option<Observation>,
        hardware: Option<Hardware>,
    ) {
        if self.said.take().is_some() {
            tracing::info!("agent {} reports on backend {} again", self.url, self.backend);
        }
        // A reading that comes again is no newer, although its bracket may have moved a little.
        let known = std::mem::replace(&mut self.samples, fold::samples(report));
        let news = observation.filter(|_| is_new(known.0, self.samples.0));
        self.scrapes.send_modify(|scrape| {
            scrape.successes += 1;
            scrape.consecutive_failures = 0;
            if let Some(news) = news {
                scrape.last = Some(news);
            }
        });
        let news = hardware.filter(|_| is_new(known.1, self.samples.1));
        if let Some((board, news)) = self.board.as_ref().zip(news) {
            board.publish(&self.backend, Some(news));
        }
    }

    fn fail(&mut self, failure: &Failure) {
        let words = failure.to_string();
        if self.said.as_ref() != Some(&words) {
            tracing::warn!("agent {} does not report on backend {}: {words}", self.url, self.backend);
        }
        self.scrapes.send_modify(|scrape| {
            count(&mut scrape.failures, failure);
            scrape.consecutive_failures += 1;
            scrape.last_error = Some(words.clone());
        });
        self.said = Some(words);
    }
}

fn is_new(known: Option<f64>, sample: Option<f64>) -> bool {
    known.zip(sample).is_none_or(|(known, sample)| (known - sample).abs() > SAME_READING_MS)
}

fn count(failures: &mut Failures, failure: &Failure) {
    let counter = match failure {
        Failure::Connect(_) => &mut failures.connect,
        Failure::Tls { .. } => &mut failures.tls,
        Failure::NoIdentity => &mut failures.file,
        Failure::Timeout | Failure::Silent(_) => &mut failures.timeout,
        Failure::Http(_) | Failure::Ended => &mut failures.http,
        Failure::Status { .. } => &mut failures.status,
        Failure::Unnamed { .. } | Failure::Other { .. } => &mut failures.content,
    };
    *counter += 1;
}

//! Of whom metrics are asked: the scraping of a changing set of backends.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use tokio::{sync::watch, task::JoinHandle};

use super::{
    Board, DcgmExporter, Endpoint, Hardware, Key, Scrape, ScrapeOptions, ServerKind, ServerMetrics, scrape,
};

/// An inference server to scrape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where it is.
    pub endpoint: Endpoint,
    /// Which server it is, if that is not to be found out.
    pub server: Option<ServerKind>,
    /// How often it is asked.
    pub options: ScrapeOptions,
}

/// A DCGM exporter to scrape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DcgmTarget {
    /// Where it is.
    pub endpoint: Endpoint,
    /// The backend's GPUs, by number or UUID; none named means all of the host.
    pub gpus: Vec<String>,
    /// How often it is asked.
    pub options: ScrapeOptions,
}

/// What runs for each target.
#[derive(Debug)]
struct Running<T, H>(HashMap<Key, (T, H)>);

impl<T: PartialEq, H> Running<T, H> {
    /// Replaces the set; what stays the same is not disturbed.
    fn set(&mut self, targets: impl IntoIterator<Item = (Key, T)>, start: impl Fn(&Key, &T) -> H) {
        let mut before = std::mem::take(&mut self.0);
        for (key, target) in targets {
            let handle = match before.remove(&key) {
                Some((known, handle)) if known == target => handle,
                _ => start(&key, &target),
            };
            self.0.insert(key, (target, handle));
        }
    }
}

/// The scraping of a changing set of backends, on the current tokio runtime.
#[derive(Debug)]
pub struct Scrapers {
    board: Arc<Board>,
    servers: Running<Target, watch::Receiver<Scrape>>,
    exporters: Running<DcgmTarget, Publishing>,
}

impl Scrapers {
    /// Scrapes nobody yet; what exporters say will be pinned up on `board`.
    pub fn new(board: Arc<Board>) -> Self {
        Self { board, servers: Running(HashMap::new()), exporters: Running(HashMap::new()) }
    }

    /// Replaces the set of servers. Those that stay the same under the same key are not disturbed.
    pub fn set_targets(&mut self, targets: impl IntoIterator<Item = (Key, Target)>) {
        self.servers.set(targets, |key, target| {
            let source = ServerMetrics::new(target.endpoint.clone(), target.server);
            scrape(format!("metrics of backend {key}"), source, target.options.clone())
        });
    }

    /// The same for DCGM exporters.
    pub fn set_exporters(&mut self, targets: impl IntoIterator<Item = (Key, DcgmTarget)>) {
        self.exporters.set(targets, |key, target| {
            let source = DcgmExporter::new(target.endpoint.clone(), target.gpus.clone());
            let scrapes = scrape(format!("dcgm metrics of backend {key}"), source, target.options.clone());
            Publishing::start(Arc::clone(&self.board), Arc::clone(key), scrapes)
        });
    }

    /// The same for a backend's exporter.
    pub fn subscribe_exporter(&self, key: &str) -> Option<watch::Receiver<Scrape<Hardware>>> {
        self.exporters.0.get(key).map(|(_, publishing)| publishing.scrapes.clone())
    }

    /// What is known of every server in the set.
    pub fn snapshot(&self) -> BTreeMap<Key, Scrape> {
        let entries = self.servers.0.iter();
        entries.map(|(key, (_, scrapes))| (Arc::clone(key), scrapes.borrow().clone())).collect()
    }

    /// Updates of one backend's server, if it is in the set. Whoever holds the receiver keeps the
    /// scraping alive, even after the backend has left the set.
    pub fn subscribe(&self, key: &str) -> Option<watch::Receiver<Scrape>> {
        self.servers.0.get(key).map(|(_, scrapes)| scrapes.clone())
    }
}

/// What pins an exporter's good readings up, until it is dropped.
#[derive(Debug)]
struct Publishing {
    task: JoinHandle<()>,
    scrapes: watch::Receiver<Scrape<Hardware>>,
}

impl Publishing {
    fn start(board: Arc<Board>, key: Key, mut scrapes: watch::Receiver<Scrape<Hardware>>) -> Self {
        let seen = scrapes.clone();
        let task = tokio::spawn(async move {
            while scrapes.changed().await.is_ok() {
                let scrape = scrapes.borrow_and_update();
                if scrape.consecutive_failures == 0 {
                    board.publish(&key, scrape.last.clone());
                }
            }
        });
        Self { task, scrapes: seen }
    }
}

impl Drop for Publishing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

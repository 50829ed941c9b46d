//! One probing task a backend, and the report of all of them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
    time::{sleep, sleep_until, timeout},
};

use super::{HealthOptions, Probe, ProbeError, State, judge::Judge};
use crate::net::jitter::{first_delay, jittered};

/// What a backend is called, any text that is unique.
pub type Key = Arc<str>;

/// What is known of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The state that the thresholds allow to be believed.
    pub state: State,
    /// When the state began.
    pub since: Instant,
    /// Why the latest probe failed; `None` if it succeeded. While a backend is up, a reason means
    /// that failures are being counted against it.
    pub reason: Option<String>,
}

/// The status of every backend that is probed.
pub type Report = Arc<BTreeMap<Key, Status>>;

/// Probes a changing set of backends on the current tokio runtime. Dropping it stops all probes.
#[derive(Debug)]
pub struct Health {
    options: HealthOptions,
    report: Arc<watch::Sender<Report>>,
    tasks: HashMap<Key, Task>,
}

/// The reason shown while nobody but the backend's clients has said anything against it.
const UNANSWERED: &str = "clients send their SYNs again and again";

#[derive(Debug)]
struct Task {
    abort: AbortHandle,
    doubts: Arc<Notify>,
    /// Read and written within modifications of the report only: a task whose probe ends just when
    /// it is removed or replaced has no say any more.
    retired: Arc<AtomicBool>,
}

impl Health {
    /// Probes nothing yet.
    pub fn new(options: HealthOptions) -> Self {
        Self { options, report: Arc::new(watch::Sender::new(Report::default())), tasks: HashMap::new() }
    }

    /// The report, now and whenever a state or a reason changes.
    pub fn subscribe(&self) -> watch::Receiver<Report> {
        self.report.subscribe()
    }

    /// Starts probing `key`, in the state [`State::Unknown`]; replaces what was probed under that key.
    pub fn add(&mut self, key: Key, probe: impl Probe) {
        self.remove(&key);
        let status = Status { state: State::Unknown, since: Instant::now(), reason: None };
        self.report.send_modify(|report| {
            Arc::make_mut(report).insert(Arc::clone(&key), status);
        });
        let retired = Arc::new(AtomicBool::new(false));
        let outlet =
            Outlet { key: Arc::clone(&key), report: Arc::clone(&self.report), retired: Arc::clone(&retired) };
        let doubts = Arc::new(Notify::new());
        let probing = probe_forever(probe, self.options.clone(), Arc::clone(&doubts), outlet);
        let abort = tokio::spawn(probing).abort_handle();
        self.tasks.insert(key, Task { abort, doubts, retired });
    }

    /// Counts a failure against `key` that was seen elsewhere, and probes it at once. A probe that succeeds
    /// outweighs it: what clients do alone cannot take down a backend that answers.
    pub fn doubt(&self, key: &str) {
        if let Some(task) = self.tasks.get(key) {
            task.doubts.notify_one();
        }
    }

    /// Stops probing `key` and takes it out of the report.
    pub fn remove(&mut self, key: &str) {
        if let Some(task) = self.tasks.remove(key) {
            task.abort.abort();
            self.report.send_modify(|report| {
                task.retired.store(true, Ordering::Relaxed);
                Arc::make_mut(report).remove(key);
            });
        }
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        self.tasks.values().for_each(|task| task.abort.abort());
    }
}

async fn probe_forever(probe: impl Probe, options: HealthOptions, doubts: Arc<Notify>, outlet: Outlet) {
    let mut judge = Judge::new(options.rise, options.fall);
    sleep(first_delay(options.interval)).await;
    loop {
        let next = tokio::time::Instant::now() + jittered(options.interval);
        let result = match timeout(options.timeout, probe.probe()).await {
            Ok(result) => result,
            Err(_) => Err(ProbeError::Timeout(options.timeout)),
        };
        let state = judge.observe(result.is_ok());
        outlet.publish(state, result.err().map(|error| error.to_string()));
        tokio::select! {
            () = sleep_until(next) => {}
            () = doubts.notified() => outlet.publish(judge.observe(false), Some(UNANSWERED.to_owned())),
        }
    }
}

/// Where a task's results go.
struct Outlet {
    key: Key,
    report: Arc<watch::Sender<Report>>,
    retired: Arc<AtomicBool>,
}

impl Outlet {
    fn publish(&self, state: State, reason: Option<String>) {
        self.report.send_if_modified(|report| {
            let unchanged = |status: &Status| status.state == state && status.reason == reason;
            if self.retired.load(Ordering::Relaxed) || report.get(&self.key).is_none_or(unchanged) {
                return false;
            }
            let Some(status) = Arc::make_mut(report).get_mut(&self.key) else { return false };
            if status.state != state {
                let because = reason.as_deref().map_or(String::new(), |reason| format!(": {reason}"));
                tracing::info!("backend {} is {state}{because}", self.key);
                status.state = state;
                status.since = Instant::now();
            }
            status.reason = reason;
            true
        });
    }
}

#[cfg(test)]
#[path = "monitor_tests.rs"]
mod tests;

//! What a run saw: live counters for a view while it runs, histograms and the report at the end.
//!
//! Every event is booked at the moment it happens. Those before the end of the warm-up are left out of the figures,
//! but a failure is counted whenever it happens.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// The longest time that histograms tell apart, in µs: an hour.
const LONGEST_MICROS: u64 = 3_600_000_000;

/// How a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// No connection: refused, unreachable, or the TLS handshake failed.
    Connect,
    /// Not finished within the time allowed.
    Timeout,
    /// Another HTTP status than 200.
    Status,
    /// The connection broke before the response, or the stream holds no completion.
    Protocol,
    /// The stream ended early: broken off, without `[DONE]`, or with fewer tokens than asked for.
    Truncated,
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Status => "status",
            Self::Protocol => "protocol",
            Self::Truncated => "truncated",
        })
    }
}

/// Counters of a run that others may read while it runs; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Live(Arc<LiveCounters>);

#[derive(Debug, Default)]
struct LiveCounters {
    in_flight: AtomicU64,
    finished: AtomicU64,
    failed: AtomicU64,
    tokens: AtomicU64,
}

/// The counters at one moment, warm-up included.
#[derive(Debug, Clone, Copy)]
pub struct LiveSnapshot {
    /// The moment.
    pub at: Instant,
    /// Requests under way.
    pub in_flight: u64,
    /// Requests that ended well.
    pub finished: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Output tokens received.
    pub tokens: u64,
}

impl Live {
    /// The counters now.
    pub fn snapshot(&self) -> LiveSnapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LiveSnapshot {
            at: Instant::now(),
            in_flight: read(&self.0.in_flight),
            finished: read(&self.0.finished),
            failed: read(&self.0.failed),
            tokens: read(&self.0.tokens),
        }
    }
}

impl LiveSnapshot {
    /// Output tokens per second since an earlier snapshot; 0 if no time has passed.
    pub fn tokens_per_second_since(&self, earlier: &Self) -> f64 {
        let seconds = self.at.saturating_duration_since(earlier.at).as_secs_f64();
        if seconds > 0.0 { self.tokens.saturating_sub(earlier.tokens) as f64 / seconds } else { 0.0 }
    }
}

/// A distribution of times, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
}

impl Quantiles {
    /// None when nothing was measured: a missing figure must not look like a good one.
    fn of(histogram: &Histogram<u64>) -> Option<Self> {
        let quantile = |part| histogram.value_at_quantile(part) as f64 / 1e6;
        (!histogram.is_empty()).then(|| Self {
            mean: histogram.mean() / 1e6,
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
        })
    }
}

/// The figures of a run. Times are those of events inside the measured window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Requests that ended inside the window, well or not.
    pub requests: u64,
    /// Requests that failed at any time, warm-up included.
    pub failed: u64,
    /// Output tokens received inside the window, over its length.
    pub output_tokens_per_second: f64,
    /// From before the connection is opened to the first token.
    pub ttft_seconds: Option<Quantiles>,
    /// From before the connection is opened to the end of the response.
    pub latency_seconds: Option<Quantiles>,
    /// Gaps between tokens; tokens that come in one read share its gap.
    pub inter_token_seconds: Option<Quantiles>,
    /// Requests still under way when the run ended.
    pub unfinished: u64,
    /// `failed` by kind.
    pub failures: BTreeMap<Failure, u64>,
    /// Length of the measured window in seconds.
    pub seconds: f64,
}

/// Takes the events of all requests of a run.
#[derive(Debug)]
pub(crate) struct Recorder {
    from: Instant,
    figures: Mutex<Figures>,
    live: Live,
}

#[derive(Debug)]
struct Figures {
    /// Set once, at the end: what comes later is no part of the run.
    to: Option<Instant>,
    requests: u64,
    tokens: u64,
    first_token: Histogram<u64>,
    latency: Histogram<u64>,
    inter_token: Histogram<u64>,
    failures: BTreeMap<Failure, u64>,
}

impl Recorder {
    /// A recorder whose window opens at `from`.
    pub(crate) fn new(from: Instant, live: Live) -> Self {
        let histogram = || {
            Histogram::new_with_bounds(1, LONGEST_MICROS, 3).expect("1 µs to an hour at 3 digits is valid")
        };
        let figures = Figures {
            to: None,
            requests: 0,
            tokens: 0,
            first_token: histogram(),
            latency: histogram(),
            inter_token: histogram(),
            failures: BTreeMap::new(),
        };
        Self { from, figures: Mutex::new(figures), live }
    }

    /// Closes the window and reports.
    pub(crate) fn close(&self, to: Instant) -> Report {
        let mut figures = self.lock();
        figures.to = Some(to);
        let seconds = to.saturating_duration_since(self.from).as_secs_f64();
        Report {
            requests: figures.requests,
            failed: figures.failures.values().sum(),
            output_tokens_per_second: if seconds > 0.0 { figures.tokens as f64 / seconds } else { 0.0 },
            ttft_seconds: Quantiles::of(&figures.first_token),
            latency_seconds: Quantiles::of(&figures.latency),
            inter_token_seconds: Quantiles::of(&figures.inter_token),
            unfinished: self.live.snapshot().in_flight,
            failures: figures.failures.clone(),
            seconds,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The figures, if an event at `at` belongs into them.
    fn window(&self, at: Instant) -> Option<MutexGuard<'_, Figures>> {
        let figures = self.lock();
        (at >= self.from && figures.to.is_none()).then_some(figures)
    }
}

/// Watches one request from its start on. Dropped before its end, it leaves the request unfinished.
#[derive(Debug)]
pub(crate) struct RequestWatch {
    recorder: Arc<Recorder>,
    started: Instant,
    latest_token: Option<Instant>,
    tokens: u32,
}

impl RequestWatch {
    /// Starts the clock of a request.
    pub(crate) fn start(recorder: &Arc<Recorder>) -> Self {
        recorder.live.0.in_flight.fetch_add(1, Ordering::Relaxed);
        Self { recorder: recorder.clone(), started: Instant::now(), latest_token: None, tokens: 0 }
    }

    /// Tokens received so far.
    pub(crate) fn tokens(&self) -> u32 {
        self.tokens
    }

    /// Books tokens that have just come.
    pub(crate) fn receive(&mut self, count: u32) {
        if count == 0 {
            return;
        }
        let now = Instant::now();
        let before = self.latest_token.replace(now);
        self.tokens += count;
        self.recorder.live.0.tokens.fetch_add(u64::from(count), Ordering::Relaxed);
        let Some(mut figures) = self.recorder.window(now) else { return };
        figures.tokens += u64::from(count);
        match before {
            None => figures.first_token.saturating_record(micros(now - self.started)),
            Some(before) => {
                let gap = micros(now - before) / u64::from(count);
                figures.inter_token.saturating_record_n(gap, u64::from(count));
            }
        }
    }

    /// Books tokens that the server counted but wrote together with others: they came when those came.
    pub(crate) fn correct(&mut self, total: u32) {
        let missed = u64::from(total.saturating_sub(self.tokens));
        self.tokens = self.tokens.max(total);
        self.recorder.live.0.tokens.fetch_add(missed, Ordering::Relaxed);
        if let Some(mut figures) = self.recorder.window(Instant::now()) {
            figures.tokens += missed;
        }
    }

    /// Books the end of the request.
    pub(crate) fn end(self, result: Result<(), Failure>) {
        let now = Instant::now();
        let live = &self.recorder.live.0;
        let counter = if result.is_ok() { &live.finished } else { &live.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        let mut figures = self.recorder.lock();
        if figures.to.is_some() {
            return;
        }
        let measured = now >= self.recorder.from;
        figures.requests += u64::from(measured);
        match result {
            Ok(()) if measured => figures.latency.saturating_record(micros(now - self.started)),
            Ok(()) => {}
            Err(failure) => *figures.failures.entry(failure).or_default() += 1,
        }
    }
}

impl Drop for RequestWatch {
    fn drop(&mut self) {
        self.recorder.live.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use tokio::time::Instant;

    use super::{Failure, Live, Recorder, Report, RequestWatch};

    #[test]
    fn warm_up_is_left_out_but_its_failures_are_not() {
        let live = Live::default();
        let recorder = Arc::new(Recorder::new(Instant::now() + Duration::from_secs(3600), live.clone()));
        let mut watch = RequestWatch::start(&recorder);
        watch.receive(5);
        watch.end(Ok(()));
        RequestWatch::start(&recorder).end(Err(Failure::Timeout));
        let report = recorder.close(Instant::now());
        assert_eq!((report.requests, report.failed, report.ttft_seconds), (0, 1, None));
        assert_eq!(report.failures[&Failure::Timeout], 1);
        let snapshot = live.snapshot();
        assert_eq!((snapshot.finished, snapshot.failed, snapshot.tokens, snapshot.in_flight), (1, 1, 5, 0));
    }

    #[test]
    fn a_request_under_way_at_the_end_is_unfinished_and_no_failure() {
        let recorder = Arc::new(Recorder::new(Instant::now(), Live::default()));
        let mut watch = RequestWatch::start(&recorder);
        watch.receive(1);
        let report = recorder.close(Instant::now());
        watch.end(Err(Failure::Truncated));
        assert_eq!((report.requests, report.failed, report.unfinished), (0, 0, 1));
        assert!(report.ttft_seconds.is_some());
    }

    #[test]
    fn the_report_keeps_its_published_shape() {
        let recorder = Arc::new(Recorder::new(Instant::now(), Live::default()));
        let mut watch = RequestWatch::start(&recorder);
        watch.receive(1);
        watch.receive(2);
        watch.correct(4);
        watch.end(Ok(()));
        RequestWatch::start(&recorder).end(Err(Failure::Connect));
        let report = recorder.close(Instant::now() + Duration::from_secs(1));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((&json["requests"], &json["failed"]), (&2.into(), &1.into()));
        assert_eq!(json["failures"], serde_json::json!({"connect": 1}));
        for times in ["ttft_seconds", "latency_seconds", "inter_token_seconds"] {
            for figure in ["mean", "p50", "p90", "p99"] {
                assert!(json[times][figure].is_number(), "no {times}.{figure} in {json}");
            }
        }
        assert!((report.output_tokens_per_second * report.seconds - 4.0).abs() < 1e-6, "{report:?}");
        assert_eq!(serde_json::from_value::<Report>(json).unwrap(), report);
    }
}

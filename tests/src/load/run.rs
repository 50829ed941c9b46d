//! Drives a run: sends the traffic on time, watches every request, and stops the clock.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};

use crate::load::{
    client::{Connect, Connection, Target, TargetError, exchange},
    lengths::Lengths,
    stats::{Failure, Live, Recorder, Report, RequestWatch},
    traffic::{Size, Sizes, Traffic, poisson_gaps},
};

/// How long a client of a closed loop rests after a failure, so that a dead server is not hammered.
const FAILURE_PAUSE: Duration = Duration::from_millis(100);

/// What a run is to do.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// `http[s]://HOST[:PORT][/PATH]`; the path is `/v1/completions` if there is none.
    pub url: String,
    /// When requests are sent.
    pub traffic: Traffic,
    /// How large they are; a trace brings its own sizes.
    pub sizes: Sizes,
    /// Time before the measured window.
    pub warm_up: Duration,
    /// The measured window; none, for traces only, is until the last request has ended.
    pub duration: Option<Duration>,
    /// Time allowed for a whole request.
    pub timeout: Duration,
    /// Whether connections are used again.
    pub keep_alive: bool,
    /// The model to ask for, if the server wants one.
    pub model: Option<String>,
    /// How to check servers, for `https`.
    pub tls: Option<Arc<rustls::ClientConfig>>,
}

impl LoadOptions {
    /// Ten seconds of `traffic` to `url`, with 512 prompt and 128 output tokens a request.
    pub fn new(url: impl Into<String>, traffic: Traffic) -> Self {
        Self {
            url: url.into(),
            traffic,
            sizes: Sizes { prompt: Lengths::Fixed(512), output: Lengths::Fixed(128), seed: 0 },
            warm_up: Duration::ZERO,
            duration: Some(Duration::from_secs(10)),
            timeout: Duration::from_secs(300),
            keep_alive: false,
            model: None,
            tls: None,
        }
    }
}

/// Why a run cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The URL cannot be a target.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The traffic has no end of its own and none was given.
    #[error("this traffic never ends by itself: give the run a duration")]
    Endless,
}

/// Runs the load to its end. `live` may be read meanwhile.
///
/// # Errors
/// [`LoadError`] when the run cannot start; requests that fail are counted in the report.
pub async fn run(options: LoadOptions, connector: impl Connect, live: Live) -> Result<Report, LoadError> {
    if options.duration.is_none() && !matches!(options.traffic, Traffic::Trace(_)) {
        return Err(LoadError::Endless);
    }
    let target = Target::resolve(&options.url, options.model.clone(), options.tls.clone()).await?;
    let start = Instant::now();
    let from = start + options.warm_up;
    let recorder = Arc::new(Recorder::new(from, live));
    let job = Arc::new(Job { target, connector, recorder, options, idle: Mutex::default() });
    let mut tasks = JoinSet::new();
    match job.options.duration {
        None => job.drive(start, &mut tasks).await,
        Some(duration) => {
            let end = from + duration;
            // Traffic that ends early leaves the rest of the window idle; it is still measured.
            if timeout_at(end, job.drive(start, &mut tasks)).await.is_ok() {
                sleep_until(end).await;
            }
        }
    }
    let report = job.recorder.close(Instant::now());
    tasks.shutdown().await;
    Ok(report)
}

struct Job<C> {
    target: Target,
    connector: C,
    recorder: Arc<Recorder>,
    options: LoadOptions,
    /// Open connections that no request of an open loop uses.
    idle: Mutex<Vec<Connection>>,
}

impl<C: Connect> Job<C> {
    async fn drive(self: &Arc<Self>, start: Instant, tasks: &mut JoinSet<()>) {
        let sizes = self.options.sizes.clone();
        match self.options.traffic.clone() {
            Traffic::Closed { clients } => self.closed(clients, tasks).await,
            Traffic::Poisson { rate } => {
                let mut at = start;
                let arrivals = (0..).zip(poisson_gaps(rate, sizes.seed)).map(|(index, gap)| {
                    at += gap;
                    (at, sizes.of(index))
                });
                self.open(arrivals, tasks).await;
            }
            Traffic::Trace(arrivals) => {
                let arrivals = arrivals.iter().map(|arrival| {
                    let size =
                        Size { prompt_tokens: arrival.prompt_tokens, output_tokens: arrival.output_tokens };
                    (start + arrival.at, size)
                });
                self.open(arrivals, tasks).await;
            }
        }
    }

    async fn closed(self: &Arc<Self>, clients: usize, tasks: &mut JoinSet<()>) {
        let next = Arc::new(AtomicU64::new(0));
        for _ in 0..clients {
            let (job, next) = (self.clone(), next.clone());
            tasks.spawn(async move {
                let mut kept = None;
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if job.request(&mut kept, index, job.options.sizes.of(index)).await.is_err() {
                        sleep(FAILURE_PAUSE).await;
                    }
                }
            });
        }
        reap(tasks).await;
    }

    async fn open(
        self: &Arc<Self>,
        arrivals: impl Iterator<Item = (Instant, Size)>,
        tasks: &mut JoinSet<()>,
    ) {
        for (index, (at, size)) in (0..).zip(arrivals) {
            sleep_until(at).await;
            let job = self.clone();
            tasks.spawn(async move {
                let mut kept = job.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let _ = job.request(&mut kept, index, size).await;
                job.idle.lock().unwrap_or_else(PoisonError::into_inner).extend(kept);
            });
            while let Some(ended) = tasks.try_join_next() {
                ended.expect("a request task ends without a panic");
            }
        }
        reap(tasks).await;
    }

    async fn request(&self, kept: &mut Option<Connection>, index: u64, size: Size) -> Result<(), Failure> {
        let mut watch = RequestWatch::start(&self.recorder);
        let exchange = exchange(&self.target, &self.connector, kept, (index, size), &mut watch);
        let result = timeout(self.options.timeout, exchange).await.unwrap_or(Err(Failure::Timeout));
        watch.end(result);
        if !self.options.keep_alive {
            kept.take();
        }
        result
    }
}

/// Waits for all tasks and passes a panic on.
async fn reap(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        ended.expect("a request task ends without a panic");
    }
}

//! Runs an engine against the clock: one task that sleeps until each step ends and wakes the streams that got tokens.
//!
//! Deadlines accumulate from step to step, so a late timer does not slow the model down. A server that falls far
//! behind because its machine is busy does not catch up in a burst: it lets the time go and counts it as lag.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use crate::sim::{
    engine::{Engine, EngineConfig, Event, Refusal, Request, RequestId},
    metrics::{Metrics, Stats},
    script::Script,
};

/// How far steps may trail the clock before the difference is given up: a few steps of a usual profile, so that what
/// is caught up in one go stays small beside any time to first token.
const MAX_LAG: Duration = Duration::from_millis(50);

/// How an engine is to be run.
#[derive(Debug, Clone)]
pub struct DriverOptions {
    /// The engine.
    pub engine: EngineConfig,
    /// Runs everything this many times faster than the profile; above 0.
    pub speed: f64,
    /// Slow-downs by the time since the start.
    pub script: Script,
    /// Foreign sequences from the start.
    pub foreign: u32,
    /// Tokens gathered before a stream is woken, the first and last excepted (vLLM's `--stream-interval`); at least 1.
    pub stream_interval: u32,
}

enum Command {
    Submit(Request, Stream),
    Abort(RequestId),
    Rate(f64),
    Foreign(u32),
}

/// The driver's end of one request.
struct Stream {
    tokens: watch::Sender<u32>,
    arrived: Instant,
    latest_token: Instant,
}

/// A way to talk to a running engine; clones talk to the same one.
#[derive(Debug, Clone)]
pub struct EngineHandle {
    commands: mpsc::UnboundedSender<Command>,
    next_id: Arc<AtomicU64>,
    metrics: Arc<Mutex<Metrics>>,
    config: EngineConfig,
}

impl EngineHandle {
    /// Queues a request and returns the stream of its tokens; dropping the stream aborts the request.
    ///
    /// # Errors
    /// [`Refusal`] when it could never run.
    pub fn submit(&self, prompt_tokens: u32, output_tokens: u32) -> Result<TokenStream, Refusal> {
        self.config.admits(prompt_tokens, output_tokens)?;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, tokens) = watch::channel(0);
        let now = Instant::now();
        let stream = Stream { tokens: sender, arrived: now, latest_token: now };
        // A driver that is gone drops the sender, and the stream ends at once.
        let _ = self.commands.send(Command::Submit(Request { id, prompt_tokens, output_tokens }, stream));
        Ok(TokenStream { tokens, seen: 0, total: output_tokens, id, commands: self.commands.clone() })
    }

    /// Sets the rate factor that throttling leaves, on top of speed and script; 1 is none.
    pub fn set_rate(&self, rate: f64) {
        let _ = self.commands.send(Command::Rate(rate));
    }

    /// Changes the number of foreign sequences.
    ///
    /// # Errors
    /// [`Refusal`] when they do not fit.
    pub fn set_foreign(&self, count: u32) -> Result<(), Refusal> {
        self.config.admits_foreign(count)?;
        let _ = self.commands.send(Command::Foreign(count));
        Ok(())
    }

    /// The state after the latest step.
    pub fn stats(&self) -> Stats {
        lock(&self.metrics).stats
    }

    /// The mean time from a request's arrival to its first token, in seconds; none before the first.
    pub fn mean_first_token(&self) -> Option<f64> {
        lock(&self.metrics).first_token.mean()
    }

    /// The text of `/metrics`.
    pub fn render_metrics(&self, model: &str) -> String {
        let metrics = lock(&self.metrics).clone();
        metrics.render(model, self.config.kv_blocks)
    }
}

/// The tokens of one request as they come. Dropped before the last, it aborts the request.
#[derive(Debug)]
pub struct TokenStream {
    tokens: watch::Receiver<u32>,
    seen: u32,
    total: u32,
    id: RequestId,
    commands: mpsc::UnboundedSender<Command>,
}

impl TokenStream {
    /// Waits for more tokens and returns how many came; none when the engine stopped.
    pub async fn next(&mut self) -> Option<u32> {
        self.tokens.changed().await.ok()?;
        let produced = *self.tokens.borrow_and_update();
        let new = produced - self.seen;
        self.seen = produced;
        Some(new)
    }

    /// Whether all tokens have been returned.
    pub fn is_finished(&self) -> bool {
        self.seen == self.total
    }

    /// The number of this request on its server.
    pub fn id(&self) -> RequestId {
        self.id
    }
}

impl Drop for TokenStream {
    fn drop(&mut self) {
        if !self.is_finished() {
            let _ = self.commands.send(Command::Abort(self.id));
        }
    }
}

/// Makes an engine: a handle to it, and the future that runs it for as long as it is polled and handles exist.
///
/// # Errors
/// [`Refusal`] when the foreign load does not fit.
pub fn start(options: DriverOptions) -> Result<(EngineHandle, impl Future<Output = ()> + Send), Refusal> {
    let mut engine = Engine::new(options.engine);
    engine.set_foreign(options.foreign)?;
    let (sender, commands) = mpsc::unbounded_channel();
    let metrics = Arc::new(Mutex::new(Metrics::default()));
    let handle = EngineHandle {
        commands: sender,
        next_id: Arc::new(AtomicU64::new(0)),
        metrics: metrics.clone(),
        config: options.engine,
    };
    let driver = Driver {
        engine,
        speed: options.speed,
        script: options.script,
        throttle: 1.0,
        stream_interval: options.stream_interval.max(1),
        streams: HashMap::new(),
        commands,
        metrics,
        lag: Duration::ZERO,
    };
    Ok((handle, driver.run()))
}

struct Driver {
    engine: Engine,
    speed: f64,
    script: Script,
    throttle: f64,
    stream_interval: u32,
    streams: HashMap<RequestId, Stream>,
    commands: mpsc::UnboundedReceiver<Command>,
    metrics: Arc<Mutex<Metrics>>,
    lag: Duration,
}

impl Driver {
    async fn run(mut self) {
        let start = Instant::now();
        let mut step_start = start;
        loop {
            while let Ok(command) = self.commands.try_recv() {
                self.apply(command);
            }
            let rate = self.speed * self.throttle * self.script.rate_at(step_start - start);
            self.engine.set_rate(rate);
            let duration = self.engine.begin_step();
            self.publish(rate);
            let Some(duration) = duration else {
                let Some(command) = self.commands.recv().await else { return };
                self.apply(command);
                step_start = Instant::now();
                continue;
            };
            let step_end = step_start + duration;
            if !self.wait(step_end).await {
                return;
            }
            self.deliver(step_start);
            step_start = self.next_start(step_end);
        }
    }

    /// Takes commands until the step ends; false when nobody is left to talk to.
    async fn wait(&mut self, step_end: Instant) -> bool {
        let end = sleep_until(step_end);
        tokio::pin!(end);
        loop {
            tokio::select! {
                biased;
                () = &mut end => return true,
                command = self.commands.recv() => match command {
                    Some(command) => self.apply(command),
                    None => return false,
                },
            }
        }
    }

    fn next_start(&mut self, step_end: Instant) -> Instant {
        let now = Instant::now();
        let behind = now.saturating_duration_since(step_end);
        if behind <= MAX_LAG {
            return step_end;
        }
        self.lag += behind;
        now
    }

    fn apply(&mut self, command: Command) {
        match command {
            Command::Submit(request, stream) => {
                if self.engine.submit(request).is_ok() {
                    self.streams.insert(request.id, stream);
                }
            }
            Command::Abort(id) => {
                self.engine.abort(id);
                self.streams.remove(&id);
            }
            Command::Rate(rate) => self.throttle = rate,
            Command::Foreign(count) => {
                if let Err(refusal) = self.engine.set_foreign(count) {
                    tracing::warn!("foreign load unchanged: {refusal}");
                }
            }
        }
    }

    /// Ends the step that began at `step_start` and hands its tokens to their streams.
    fn deliver(&mut self, step_start: Instant) {
        let now = Instant::now();
        let mut metrics = lock(&self.metrics);
        for event in self.engine.finish_step() {
            match *event {
                Event::Started(id) => {
                    if let Some(stream) = self.streams.get(&id) {
                        // A step that started late on its own clock can begin before the request came.
                        let waited = step_start.saturating_duration_since(stream.arrived);
                        metrics.queue.observe(waited.as_secs_f64());
                    }
                }
                Event::Token { id, number, last } => {
                    let Some(stream) = self.streams.get_mut(&id) else { continue };
                    stream.observe(number, last, now, &mut metrics);
                    if last || number == 1 || number % self.stream_interval == 0 {
                        stream.tokens.send_replace(number);
                    }
                    if last {
                        self.streams.remove(&id);
                    }
                }
            }
        }
    }

    fn publish(&self, rate: f64) {
        lock(&self.metrics).stats = Stats {
            running: self.engine.running(),
            waiting: self.engine.waiting(),
            foreign: self.engine.foreign(),
            kv_usage: self.engine.kv_usage(),
            rate,
            counters: self.engine.counters(),
            lag_seconds: self.lag.as_secs_f64(),
        };
    }
}

impl Stream {
    fn observe(&mut self, number: u32, last: bool, now: Instant, metrics: &mut Metrics) {
        let gap = (now - self.latest_token).as_secs_f64();
        if number == 1 {
            metrics.first_token.observe(gap);
        } else {
            metrics.inter_token.observe(gap);
        }
        self.latest_token = now;
        if last {
            metrics.request.observe((now - self.arrived).as_secs_f64());
        }
    }
}

/// Metrics stay usable when a holder panicked: every update leaves them whole.
fn lock(metrics: &Mutex<Metrics>) -> MutexGuard<'_, Metrics> {
    metrics.lock().unwrap_or_else(PoisonError::into_inner)
}

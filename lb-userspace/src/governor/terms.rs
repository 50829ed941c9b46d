//! What goes into a tick, what comes out of it, and what each number came from.
//!
//! Plain data: nothing here decides.

use std::time::Duration;

use lb_common::slot::{GAUGES, Gauge};

/// Everything that a tick knows of one backend.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Input {
    /// Live flows, in the order of [`Gauge`].
    pub gauges: [u32; GAUGES],
    /// Flows opened, ever. A counter that goes back is taken for a new one.
    pub opened: u64,
    /// Requests seen, ever.
    pub requests: u64,
    /// Bytes of answers acknowledged, ever; noted about once a second for each flow.
    pub progressed: u64,
    /// Requests whose first progress was timed, ever.
    pub progress_count: u64,
    /// The sum of those times in nanoseconds.
    pub progress_sum_ns: u64,
    /// The configured weight, 0 to 1000, 100 nominal.
    pub weight: u32,
    /// Requests that the server works on at once, where configured.
    pub configured_limit: Option<u32>,
    /// Healthy, reachable, not draining.
    pub usable: bool,
    /// The last good report of the server itself.
    pub reported: Option<Reported>,
    /// The last reading of its GPUs.
    pub hardware: Option<Hardware>,
}

impl Input {
    /// Live flows in one state.
    pub(crate) fn gauge(&self, gauge: Gauge) -> u32 {
        self.gauges[gauge as usize]
    }

    /// Flows with a request at the server.
    pub(super) fn at_work(&self) -> u32 {
        self.gauge(Gauge::Awaiting).saturating_add(self.gauge(Gauge::Streaming))
    }
}

/// What a server says of itself. Times are on the clock of the tick.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reported {
    /// Requests in the batch.
    pub running: Option<f64>,
    /// Requests queued before the batch.
    pub waiting: Option<f64>,
    /// Share of the KV cache in use, 0 to 1.
    pub kv_usage: Option<f64>,
    /// Tokens generated since the server started.
    pub generation_tokens: Option<f64>,
    /// How old the numbers may have been when the server was asked, where that is known.
    pub cadence: Option<Duration>,
    /// Prompt tokens taken in since the server started.
    pub prompt_tokens: Option<f64>,
    /// The largest batch that the server is set to, where it says so.
    pub max_num_seqs: Option<u32>,
    /// Before the server was asked.
    pub taken_start: Duration,
    /// After it had answered.
    pub taken_end: Duration,
}

/// What a server's GPUs say. Times are on the clock of the tick.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hardware {
    /// Part of its full clock at which the slowest GPU may run, 0 to 1.
    pub speed: Option<f64>,
    /// Part of the busiest GPU's time that goes to others, 0 to 1.
    pub foreign: Option<f64>,
    /// Before the oldest of these values was read.
    pub taken_start: Duration,
    /// After the newest was.
    pub taken_end: Duration,
}

/// No server has as many requests, and none gives as many tokens; what says so is broken.
const TOO_MANY_REQUESTS: f64 = 1e6;
const TOO_MANY_TOKENS: f64 = 1e15;

fn below(limit: f64, value: Option<f64>) -> Option<f64> {
    value.filter(|value| (0.0..limit).contains(value))
}

impl Reported {
    /// The same with every implausible number left out: NaN, infinite, negative or absurd. A batch beside an absurd
    /// queue is none either.
    pub(super) fn sane(&self) -> Self {
        let requests = |value| below(TOO_MANY_REQUESTS, value);
        let waiting = requests(self.waiting);
        let counted = waiting.is_some() == self.waiting.is_some();
        Self {
            running: requests(self.running).filter(|_| counted),
            waiting,
            kv_usage: below(TOO_MANY_REQUESTS, self.kv_usage),
            generation_tokens: below(TOO_MANY_TOKENS, self.generation_tokens),
            cadence: self.cadence,
            prompt_tokens: below(TOO_MANY_TOKENS, self.prompt_tokens),
            max_num_seqs: self.max_num_seqs.filter(|batch| *batch > 0),
            taken_start: self.taken_start.min(self.taken_end),
            taken_end: self.taken_end,
        }
    }

    /// The middle of the time in which the server answered.
    pub(super) fn moment(&self) -> Duration {
        self.taken_start + self.taken_end.saturating_sub(self.taken_start) / 2
    }
}

/// What the kernel is told of one backend; the fields of [`lb_common::layout::Load`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Slowness, [`lb_common::pick::COST_ONE`] when nominal, `1..=`[`lb_common::pick::COST_MAX`].
    pub cost: u32,
    /// What is on the server beyond our own flows, in [`lb_common::pick::FLOW`]ths of a flow.
    pub correction: i32,
    /// Flows at once that the server can work on; 0 when unknown.
    pub limit: u32,
    /// The cost of the weight alone.
    pub static_cost: u32,
    /// Part of the usable capacity by weight, in 65,536ths.
    pub share: u32,
}

/// How one backend's output came about.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Explained {
    /// Slowness.
    pub theta: ThetaTerm,
    /// What is on the server beyond our own flows.
    pub correction: CorrectionTerm,
    /// Flows at once.
    pub limit: LimitTerm,
    /// Flows that ended far too soon.
    pub fail_fast: FailFastTerm,
    /// What its GPUs say.
    pub hardware: HardwareTerm,
    /// Factor for a server that runs full, from 1.
    pub saturation: f64,
    /// Factor for a server that has just come back, from 1.
    pub slow_start: f64,
    /// All factors of the cost, before deadband and slew; static cost not included.
    pub target: f64,
    /// The factor that holds now.
    pub factor: f64,
    /// What the output waits for.
    pub damping: Damping,
    /// The factor by the kernel's own signals alone.
    pub kernel_factor: f64,
    /// Whether reports were kept from giving it more than twice the share that the kernel's own signals do.
    pub bounded: bool,
    /// Mean time from request to first progress in the last seconds.
    pub first_progress: Option<Duration>,
    /// What mode `on` would write.
    pub proposed: Output,
    /// What was written.
    pub written: Output,
}

/// Slowness and where it comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ThetaTerm {
    /// The factor applied, 1/8 to 8; 1 when nothing is known or within the error band.
    pub applied: f64,
    /// The factor as measured.
    pub sample: Option<f64>,
    /// Ratios to 1 up to this factor are noise.
    pub band: f64,
    /// Age of the newest sample.
    pub age: Option<Duration>,
    /// Where the sample comes from.
    pub source: Option<ThetaSource>,
    /// The factor was cut to its range.
    pub clamped: bool,
}

impl Default for ThetaTerm {
    fn default() -> Self {
        Self { applied: 1.0, sample: None, band: 1.0, age: None, source: None, clamped: false }
    }
}

/// What slowness was measured by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThetaSource {
    /// The server's count of generated tokens, for each running sequence.
    Tokens,
    /// Bytes that clients acknowledged, for each streaming flow.
    Bytes,
}

/// The factor of the hardware and where it comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HardwareTerm {
    /// The factor applied: that of now over the one that slowness already holds. 1 when nothing is known.
    pub applied: f64,
    /// The factor of now: 1 / speed, and over the part of the time that others leave.
    pub now: Option<f64>,
    /// The factor that slowness was learned at.
    pub learned: f64,
    /// Work of others is part of both: no report shows their requests.
    pub foreign_counted: bool,
    /// Age of the oldest value.
    pub age: Option<Duration>,
}

impl Default for HardwareTerm {
    fn default() -> Self {
        Self { applied: 1.0, now: None, learned: 1.0, foreign_counted: true, age: None }
    }
}

/// The correction and where it comes from, in flows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CorrectionTerm {
    /// The last report less our own flows at its time.
    pub raw: Option<f64>,
    /// The same, low-passed and faded by age.
    pub filtered: f64,
    /// Age of the report.
    pub age: Option<Duration>,
}

/// Flows that ended far sooner than the pool's, and with far less of an answer; they stay counted for a while.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FailFastTerm {
    /// The part of the backend's flows that counts as failed, 0 to 1.
    pub part: f64,
    /// What is counted for them, in flows.
    pub flows: f64,
    /// How long flows of the pool live.
    pub lifetime: Option<Duration>,
}

/// The limit and where it comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitTerm {
    /// Flows at once.
    pub flows: Option<u32>,
    /// By what.
    pub origin: LimitOrigin,
    /// When it was last confirmed, on the clock of the tick; none for configured ones.
    pub since: Option<Duration>,
}

/// Where a limit comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LimitOrigin {
    /// There is none.
    #[default]
    Unknown,
    /// The configuration.
    Configured,
    /// The server's own setting, as it reports it.
    Reported,
    /// The server's queue, which shows how much it works on at once.
    Learned,
}

/// Why a factor is not its target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Damping {
    /// It is.
    #[default]
    None,
    /// The difference is within the deadband.
    Deadband,
    /// It is on its way.
    Slew,
}

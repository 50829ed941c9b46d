//! The governor: observations in, costs, corrections and limits out.
//!
//! Pure: it reads no clock, does no I/O and knows no map; the caller passes the time since some start of its
//! own and everything it has seen. One governor belongs to one VIP. What the numbers do at a pick is decided in
//! [`lb_common::pick`], never here.
//!
//! ```text
//! correction = beyond our own flows + flows that failed at once
//! cost = static cost x slowness ^ emphasis x hardware x saturation x slow start      (deadband, slew: fast up, slow down)
//! ```
//!
//! What reports do to that and to the correction is bounded by the kernel's own signals, in `trust`.

mod capacity;
mod correction;
mod curve;
mod damping;
mod emphasis;
mod failfast;
mod flood;
mod freshness;
mod hardware;
mod limit;
mod prompts;
mod terms;
mod theta;
mod trust;

#[cfg(test)]
mod sources_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::time::Duration;

use lb_common::{
    layout::Total,
    pick::{COST_MAX, FLOW},
    slot::Gauge,
};

use correction::Correction;
use damping::{SLOW_START_TIME, Slew};
use emphasis::Emphasis;
use failfast::{FailFast, Lens, Pool};
use flood::Flood;
use freshness::Freshness;
use hardware::Hardware;
use limit::Limit;
use prompts::Prompts;
use theta::{Curves, Theta, Watched};

pub use terms::{
    CorrectionTerm, Damping, Explained, FailFastTerm, Hardware as HardwareReading, HardwareTerm, Input,
    LimitOrigin, LimitTerm, Output, Reported, ThetaSource, ThetaTerm,
};

/// How far the governor may go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Computes and explains; what it writes is static. The VIP is meant to run plain least connections.
    Observe,
    /// Weights and configured limits alone, with the live counts of the kernel.
    Static,
    /// Everything.
    #[default]
    On,
    /// What was written last stays, whatever is observed; new backends are static.
    Freeze,
}

/// Settings of a governor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How far it may go.
    pub mode: Mode,
    /// How old a server's numbers may be when it is asked, where it is not known which server it is.
    pub cadence: Duration,
}

impl Default for Options {
    fn default() -> Self {
        // A step of a large batch on the slowest GPU of the simulator's profiles, with some prefill.
        Self { mode: Mode::default(), cadence: Duration::from_millis(50) }
    }
}

/// How much more a flow counts while it waits for its first progress; see [`lb_common::pick::Rule::awaiting_weight`].
pub const AWAITING_WEIGHT: u8 = 16;

/// What a cost depends on beside the kernel's own signals: reports, tokens among them, and hardware.
const SOURCES: usize = 3;

/// Time constant of the mean first progress that is shown, in seconds.
const RECENT_SECONDS: f64 = 2.0;

#[derive(Clone, Debug, Default)]
struct Backend {
    before: Option<Input>,
    theta: Theta,
    hardware: Hardware,
    correction: Correction,
    limit: Limit,
    fail_fast: FailFast,
    slew: Slew,
    kernel: trust::Kernel,
    reports: Freshness,
    believed: [f64; SOURCES],
    /// Since when it takes flows, and since when it is spared.
    usable_since: Option<Duration>,
    came_back: Option<Duration>,
    /// Recent first progress: its count and its seconds.
    progress: (f64, f64),
    written: Option<Output>,
    /// The logarithm of the hardware's factor.
    hardware_log: f64,
    /// How the output came about, without the terms that only whoever asks needs.
    explained: Explained,
}

/// The governor of one VIP.
#[derive(Clone, Debug, Default)]
pub struct Governor {
    options: Options,
    backends: Vec<Backend>,
    curves: Curves,
    kernel_curves: Curves,
    flood: Flood,
    emphasis: Emphasis,
    prompts: Prompts,
    pool: Pool,
    now: Option<Duration>,
}

/// What holds for all backends in a tick.
struct Shared<'a> {
    /// Sum of the weights of usable backends.
    weight: u64,
    /// How much of slowness becomes cost.
    exponent: f64,
    /// What usable backends have beyond our own flows, as a mean.
    correction: f64,
    pool: &'a Pool,
    mode: Mode,
}

/// What changed at a backend in a tick.
struct Change {
    opened: u64,
    requests: u64,
    /// A new sample of slowness came.
    sampled: bool,
}

impl Governor {
    /// A governor that has seen nothing.
    pub fn new(options: Options) -> Self {
        Self { options, ..Self::default() }
    }

    /// How far it goes from the next tick on. Nothing that was learned is lost.
    pub fn set_mode(&mut self, mode: Mode) {
        self.options.mode = mode;
    }

    /// How far it goes.
    pub fn mode(&self) -> Mode {
        self.options.mode
    }

    /// One tick at `now`, a time since any fixed start: an input a backend, by position, and as many outputs.
    ///
    /// A `now` before the last one counts as the last one. Backends beyond the known ones are new, missing ones
    /// are forgotten; where positions change, call [`Governor::reset_membership`] first.
    pub fn tick(&mut self, now: Duration, inputs: &[Input], outputs: &mut Vec<Output>) {
        let last = self.now.unwrap_or(now);
        let now = now.max(last);
        let step = now - last;
        self.now = Some(now);
        self.backends.resize_with(inputs.len(), Backend::default);

        let established = self.has_established(now);
        let lens = Lens { opening_cap: self.opening_cap(), duty: self.duty(), prompt: self.prompt() };
        let (mut opened, mut requests, mut sampled) = (0_u64, 0_u64, false);
        for (backend, input) in self.backends.iter_mut().zip(inputs) {
            backend.judge_usable(now, input, established);
            let before = backend.before.unwrap_or(*input);
            backend.fail_fast.watch(step, &before, input, &self.pool, &lens);
            let change = backend.observe(now, step, input, lens.opening_cap, &self.options, &mut self.curves);
            opened = opened.saturating_add(change.opened);
            requests = requests.saturating_add(change.requests);
            sampled |= change.sampled;
        }
        self.flood.tick(step, inputs, opened, requests);
        if sampled {
            let servers = self.backends.iter_mut().zip(inputs);
            theta::judge(now, &mut self.curves, servers.map(|(b, input)| (&mut b.theta, input.usable)));
        }

        let usable = self.backends.iter().zip(inputs).filter(|(_, input)| input.usable);
        self.pool.tick(step, opened, usable.map(|(backend, _)| &backend.fail_fast));
        self.emphasis.tick(step, inputs);
        self.prompts.tick(step, inputs);
        let shared = Shared {
            weight: capacity::usable_weight(inputs),
            exponent: self.emphasis.exponent(),
            correction: self.mean_correction(now, inputs),
            pool: &self.pool,
            mode: self.options.mode,
        };
        outputs.clear();
        for (backend, input) in self.backends.iter_mut().zip(inputs) {
            outputs.push(backend.write(now, step, input, &shared));
        }
        let moment = trust::Moment { now, step, exponent: shared.exponent };
        trust::bound(&moment, &mut self.backends, &mut self.kernel_curves, inputs);
        if self.options.mode == Mode::On {
            for (backend, output) in self.backends.iter_mut().zip(outputs) {
                *output = backend.explained.proposed;
                backend.written = Some(*output);
                backend.explained.written = *output;
            }
        }
    }

    fn mean_correction(&self, now: Duration, inputs: &[Input]) -> f64 {
        let usable = self.backends.iter().zip(inputs).filter(|(_, input)| input.usable);
        let (count, sum) = usable.fold((0.0, 0.0), |(count, sum), (backend, _)| {
            (count + 1.0, sum + backend.correction.flows(now))
        });
        if count > 0.0 { sum / count } else { 0.0 }
    }

    /// Whether some backend takes flows for longer than a slow start: only beside such a one is another spared.
    fn has_established(&self, now: Duration) -> bool {
        let established = |since: Duration| now.saturating_sub(since) >= SLOW_START_TIME;
        self.backends.iter().any(|backend| backend.usable_since.is_some_and(established))
    }

    /// How the last tick's output at a position came about; none beyond the last.
    pub fn explain(&self, position: usize) -> Option<Explained> {
        let now = self.now.unwrap_or_default();
        self.backends.get(position).map(|backend| backend.explain(now))
    }

    /// How many half-open flows of a backend count as load at most; `u32::MAX` unless SYNs flood the VIP.
    pub fn opening_cap(&self) -> u32 {
        self.flood.opening_cap()
    }

    /// The part of its time that an idle connection will ask for something, in 256ths.
    pub fn duty(&self) -> u32 {
        self.flood.duty()
    }

    /// The part of a usual request that one of [`lb_common::slot::Gauge::Prompts`] is, in [`lb_common::pick::PROMPT`]ths.
    pub fn prompt(&self) -> u32 {
        self.prompts.part()
    }

    /// What holds for all backends, as the kernel takes it; it has no gauges.
    pub fn total(&self) -> Total {
        Total {
            opening_cap: self.opening_cap(),
            duty: self.duty(),
            prompt: self.prompt(),
            ..Total::default()
        }
    }

    /// Carries what is known of backends over to new positions: for each new position, where the backend was,
    /// or none for a new one.
    pub fn reset_membership(&mut self, origins: &[Option<usize>]) {
        let mut old: Vec<Option<Backend>> =
            std::mem::take(&mut self.backends).into_iter().map(Some).collect();
        let mut take = |origin: Option<usize>| old.get_mut(origin?)?.take();
        self.backends = origins.iter().map(|origin| take(*origin).unwrap_or_default()).collect();
    }
}

/// Growth of a counter; one that went back was reset and counts from now on.
fn growth(before: u64, after: u64) -> u64 {
    after.saturating_sub(before)
}

impl Backend {
    fn judge_usable(&mut self, now: Duration, input: &Input, established: bool) {
        if !input.usable {
            (self.usable_since, self.came_back) = (None, None);
        } else if self.usable_since.is_none() {
            self.usable_since = Some(now);
            self.came_back = established.then_some(now);
            self.slew = Slew::at(damping::slow_start(now, self.came_back));
        }
    }

    fn observe(
        &mut self,
        now: Duration,
        step: Duration,
        input: &Input,
        opening_cap: u32,
        options: &Options,
        curves: &mut Curves,
    ) -> Change {
        let before = self.before.replace(*input).unwrap_or(*input);
        let opened = growth(before.opened, input.opened);
        let requests = growth(before.requests, input.requests);
        self.remember(step, &before, input);

        let cadence = input.reported.and_then(|report| report.cadence).unwrap_or(options.cadence);
        self.correction.tick(now, step, input, opening_cap, cadence);
        self.limit.tick(now, input);
        let watched = Watched {
            bytes: growth(before.progressed, input.progressed),
            prompts: growth(before.progress_count, input.progress_count),
            streaming: input.gauge(Gauge::Streaming),
            occupied: f64::from(input.at_work()) + self.correction.flows(now),
        };
        let mut sampled = self.theta.watch(now, step, &watched, curves);
        if let Some(report) = &input.reported {
            self.reports.note(now, report.taken_end);
            sampled |= self.theta.report(now, &report.sane(), curves);
        }
        let queued = self.correction.sees_queue();
        self.hardware.tick(now, step, input.hardware.as_ref(), queued, sampled);
        Change { opened, requests, sampled }
    }

    fn remember(&mut self, step: Duration, before: &Input, input: &Input) {
        let keep = (-step.as_secs_f64() / RECENT_SECONDS).exp();
        let count = growth(before.progress_count, input.progress_count) as f64;
        let nanoseconds = growth(before.progress_sum_ns, input.progress_sum_ns);
        let seconds = Duration::from_nanos(nanoseconds).as_secs_f64();
        self.progress = (self.progress.0 * keep + count, self.progress.1 * keep + seconds);
    }

    /// Mean time to first progress, once at least one weighs half of what it did when it came.
    fn first_progress(&self) -> Option<Duration> {
        let (count, seconds) = self.progress;
        (count >= 0.5).then(|| Duration::try_from_secs_f64(seconds / count).unwrap_or(Duration::MAX))
    }

    /// Whether a source has less of a say than a tick before.
    fn fades(&mut self, now: Duration) -> bool {
        let believed = [self.reports.trust(now), self.theta.trust(now), self.hardware.trust()];
        let before = std::mem::replace(&mut self.believed, believed);
        believed.iter().zip(&before).any(|(now, before)| now < before)
    }

    fn write(&mut self, now: Duration, step: Duration, input: &Input, shared: &Shared<'_>) -> Output {
        let fades = self.fades(now);
        let saturation = damping::saturation(input.reported.as_ref(), self.reports.trust(now));
        let slow_start = damping::slow_start(now, self.came_back);
        let (measured, kept) = self.theta.over(now, &self.kernel.theta);
        let slowness = if self.fail_fast.fails() { measured.max(1.0) } else { measured };
        let ended = self.fail_fast.flows(shared.pool);
        let hardware = self.hardware.log(slowness.ln(), kept);
        let target = slowness.powf(shared.exponent) * hardware.exp() * saturation * slow_start;
        let damping = self.slew.tick(step, target, fades);
        let static_cost = capacity::static_cost(input.weight);
        let configured = input.configured_limit.unwrap_or(0);
        let limit = self.limit.explain(input.configured_limit);
        let unmoved = Output {
            cost: static_cost,
            correction: 0,
            limit: configured,
            static_cost,
            share: capacity::share(input, shared.weight),
        };
        let proposed = Output {
            cost: scale(static_cost, self.slew.factor()),
            correction: self.correction.output(now, shared.correction).saturating_add(in_flow_units(ended)),
            limit: limit.flows.unwrap_or(0),
            ..unmoved
        };
        let written = match shared.mode {
            Mode::On => proposed,
            Mode::Observe | Mode::Static => unmoved,
            Mode::Freeze => self.written.unwrap_or(unmoved),
        };
        self.written = Some(written);
        self.hardware_log = hardware;
        self.explained = Explained {
            theta: ThetaTerm { applied: measured, ..ThetaTerm::default() },
            limit,
            fail_fast: FailFastTerm {
                part: self.fail_fast.part(),
                flows: ended,
                lifetime: shared.pool.lifetime(),
            },
            saturation,
            slow_start,
            target,
            factor: self.slew.factor(),
            damping,
            kernel_factor: 1.0,
            bounded: false,
            proposed,
            written,
            ..self.explained
        };
        written
    }

    fn explain(&self, now: Duration) -> Explained {
        Explained {
            theta: self.theta.explain(now, self.explained.theta.applied),
            correction: self.correction.explain(now),
            hardware: self.hardware.explain(self.hardware_log),
            first_progress: self.first_progress(),
            ..self.explained
        }
    }
}

/// Saturating, as casts are.
fn in_flow_units(flows: f64) -> i32 {
    (flows * f64::from(FLOW)).round() as i32
}

fn scale(cost: u32, factor: f64) -> u32 {
    // Casts saturate, and the factor is finite: it comes from clamped logarithms.
    ((f64::from(cost) * factor).round() as u32).clamp(1, COST_MAX)
}

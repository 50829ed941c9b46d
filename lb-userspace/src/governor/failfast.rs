//! What a server that fails fast would hold, if its flows lived as long as the pool's.
//!
//! Errors at once leave a server idle, and the idlest server gets the next flow: one of eight that failed at once drew
//! 84 to 90 % of new connections by simulation. So where flows end far sooner than in the pool, and with far less of an
//! answer, those that ended stay counted until they would have ended there, and speed is no merit.
//!
//! A server that is merely fast gives whole answers and is left alone. Lives are told by Little's law: flow-seconds over
//! flows that ended. A server that answers nobody ends none of its flows, and has no say in how long they live.

use std::time::Duration;

use lb_common::{
    pick::{FLOW, PROMPT},
    slot::{self, Gauge},
};

use super::{AWAITING_WEIGHT, growth, terms::Input};

/// How many ends are remembered, of a server for itself, so few that a failure is known after a dozen flows; and as its part
/// in the pool, so many that means are known to a tenth.
const FEW_ENDS: f64 = 8.0;
const MANY_ENDS: f64 = 64.0;

/// Ends that say anything of a server.
const ENOUGH: f64 = 6.0;

/// Answers of a pool that are larger than this, in bytes, can be told from errors by their size.
const ANSWER: f64 = 1024.0;

/// Then the last few flows may be errors if their size is below this part of the pool's: a few short answers in a row are
/// not that small.
const SMALL: f64 = 1.0 / 6.0;

/// They are odd if their lives are below the first part of the pool's, and errors without a doubt below the second.
/// Longer ones, of before, end among them.
const SHORT: f64 = 1.0 / 7.0;
const SHORTEST: f64 = 1.0 / 9.0;

/// The same where sizes do not tell. Servers of one pool that differ by more than that in speed have not been met.
const ALONE_SHORT: f64 = 1.0 / 12.0;
const ALONE_SHORTEST: f64 = 1.0 / 24.0;

/// Smaller parts are none.
const LEAST: f64 = 0.01;

/// Half-open flows stay so for as long as at other servers, or nobody answers: longer by the first factor is odd, and by
/// the second it is sure. What is shorter than this many seconds may be the way of some clients.
const ODD: f64 = 8.0;
const SURE: f64 = 16.0;
const ROUND_TRIP: f64 = 0.05;

/// By how much more a flow counts where all fail: shares of a second vary by as much.
const MARGIN: f64 = 0.25;

/// Where sizes do not tell, it takes a majority to say what is normal.
const MAJORITY: usize = 3;

/// Time constant of the pool's load for a flow, and of its rate, in seconds.
const SMOOTH_SECONDS: f64 = 1.0;

/// Sums over flows that ended lately.
#[derive(Clone, Copy, Debug, Default)]
struct Lives {
    seconds: f64,
    ends: f64,
    bytes: f64,
}

impl Lives {
    fn add(&mut self, part: &Self, memory: f64) {
        let keep = (-part.ends / memory).exp();
        self.seconds = self.seconds * keep + part.seconds;
        self.ends = self.ends * keep + part.ends;
        self.bytes = self.bytes * keep + part.bytes;
    }

    /// Seconds of a life; where nothing has ended yet, what it is at least.
    fn lifetime(&self) -> f64 {
        self.seconds / self.ends.max(1.0)
    }

    fn size(&self) -> f64 {
        self.bytes / self.ends.max(1.0)
    }
}

/// How the kernel counts flows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lens {
    /// Half-open flows count up to this many.
    pub(super) opening_cap: u32,
    /// The part for which idle connections count, in 256ths.
    pub(super) duty: u32,
    /// The part of a usual request that one of [`Gauge::Prompts`] is, in [`PROMPT`]ths.
    pub(super) prompt: u32,
}

impl Lens {
    /// What a backend's flows count for, in flows.
    fn load(&self, input: &Input) -> f64 {
        let of = |gauge| f64::from(input.gauge(gauge));
        let opening = input.gauge(Gauge::Opening).min(self.opening_cap);
        f64::from(opening)
            + of(Gauge::Awaiting)
            + of(Gauge::Prompts) * f64::from(self.prompt) / f64::from(PROMPT) * f64::from(AWAITING_WEIGHT)
            + of(Gauge::Streaming)
            + of(Gauge::Idle) * f64::from(self.duty) / f64::from(FLOW)
    }
}

/// One backend's flows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FailFast {
    few: Lives,
    many: Lives,
    /// Flow-seconds and bytes since the last flow ended.
    since: Lives,
    /// The same of the half-open part of lives.
    half: Lives,
    half_since: Lives,
    /// Flows that would be there if they lived as long as the pool's.
    present: f64,
    load: f64,
    open: f64,
    part: f64,
}

impl FailFast {
    /// Moves on by `step`, from one input to the next.
    pub(super) fn watch(&mut self, step: Duration, before: &Input, input: &Input, pool: &Pool, lens: &Lens) {
        let count = |input: &Input| f64::from(slot::flows(&input.gauges));
        let (was, is) = (count(before), count(input));
        let opened = growth(before.opened, input.opened) as f64;
        let seconds = step.as_secs_f64();
        self.since.seconds += (was + is) / 2.0 * seconds;
        self.since.bytes += growth(before.progressed, input.progressed) as f64;
        let ends = (opened + was - is).max(0.0);
        self.since.ends = ends;
        if ends > 0.0 {
            let part = std::mem::take(&mut self.since);
            self.few.add(&part, FEW_ENDS);
            self.many.add(&part, MANY_ENDS);
        }
        let [was, is_now] = [before, input].map(|input| f64::from(input.gauge(Gauge::Opening)));
        self.half_since.seconds += (was + is_now) / 2.0 * seconds;
        self.half_since.ends = (opened + was - is_now).max(0.0);
        if self.half_since.ends > 0.0 {
            self.half.add(&std::mem::take(&mut self.half_since), MANY_ENDS);
        }
        (self.load, self.open) = (lens.load(input), is);
        self.present = self.present * pool.kept(seconds) + opened;
        // As long as a life, since flows of before may hide them.
        let kept = self.part * pool.kept(seconds);
        let part = kept.max(self.unanswered(pool)).max(self.failed(pool));
        self.part = if part < LEAST { 0.0 } else { part };
    }

    /// The part of its flows that nobody answers, 0 to 1.
    fn unanswered(&self, pool: &Pool) -> f64 {
        let lasting = self.half_since.lifetime().max(self.half.lifetime());
        below(-lasting / pool.half_open.max(ROUND_TRIP), -ODD, -SURE)
    }

    /// The part of its flows that ends in errors, 0 to 1.
    fn failed(&self, pool: &Pool) -> f64 {
        let Some(lifetime) = pool.lifetime.filter(|_| self.few.ends >= ENOUGH) else { return 0.0 };
        let life = self.life() / lifetime;
        if pool.size >= ANSWER {
            let small = self.few.size() < pool.size * SMALL;
            if small { below(life, SHORT, SHORTEST) } else { 0.0 }
        } else {
            let told = pool.members >= MAJORITY;
            if told { below(life, ALONE_SHORT, ALONE_SHORTEST) } else { 0.0 }
        }
    }

    /// Seconds of the last few lives, those that go on counted in.
    fn life(&self) -> f64 {
        (self.few.seconds + self.since.seconds) / self.few.ends.max(1.0)
    }

    /// What it would count for beyond what it does, in flows.
    pub(super) fn flows(&self, pool: &Pool) -> f64 {
        if self.part == 0.0 {
            return 0.0;
        }
        // Until the next tick the emptiest server gets all that comes: half of that is there in the mean.
        let present = self.present + pool.coming / 2.0;
        let counted = present * pool.weight() * (1.0 + MARGIN * self.part);
        self.part * (counted - self.load).max(0.0)
    }

    /// Whether its speed is no merit.
    pub(super) fn fails(&self) -> bool {
        self.part > 0.0
    }

    pub(super) fn part(&self) -> f64 {
        self.part
    }
}

/// 0 from `high` on upwards, 1 from `low` on downwards.
fn below(value: f64, high: f64, low: f64) -> f64 {
    ((high - value) / (high - low)).clamp(0.0, 1.0)
}

/// What the flows of a VIP are like.
#[derive(Clone, Debug, Default)]
pub(super) struct Pool {
    /// Seconds of a flow's life.
    lifetime: Option<f64>,
    /// Bytes of an answer.
    size: f64,
    /// Seconds that a flow is half-open.
    half_open: f64,
    /// Backends that say so.
    members: usize,
    /// Load and number of flows at backends that do not fail.
    load: f64,
    open: f64,
    /// Flows that come until the next tick.
    coming: f64,
    values: Vec<f64>,
}

impl Pool {
    /// Takes in a tick that is `step` after the last, with all usable backends and the flows that were opened.
    pub(super) fn tick<'a>(
        &mut self,
        step: Duration,
        opened: u64,
        backends: impl Iterator<Item = &'a FailFast> + Clone,
    ) {
        let seconds = step.as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        let gain = -(-seconds / SMOOTH_SECONDS).exp_m1();
        self.coming += (opened as f64 - self.coming) * gain;
        let sound = backends.clone().filter(|backend| !backend.fails());
        let (load, open) = sound.fold((0.0, 0.0), |sum, one| (sum.0 + one.load, sum.1 + one.open));
        self.load += (load - self.load) * gain;
        self.open += (open - self.open) * gain;

        let known = |backend: &&FailFast| backend.many.ends > 0.0;
        let lifetime = |backend: &FailFast| {
            let known = backend.many.ends > 0.0;
            if known { backend.many.lifetime() } else { backend.since.lifetime() }
        };
        let (_, size) = self.middle(backends.clone().filter(known).map(|backend| backend.many.size()));
        let (_, half_open) = self.middle(backends.clone().map(|backend| backend.half.lifetime()));
        let (members, lifetime) = self.middle(backends.map(lifetime).filter(|lifetime| *lifetime > 0.0));
        (self.size, self.half_open) = (size.unwrap_or(0.0), half_open.unwrap_or(0.0));
        (self.members, self.lifetime) = (members, lifetime.filter(|_| members > 1));
    }

    /// How many values there are, and the middle one; of two in the middle the larger, so that of two servers the one
    /// that fails is not the measure.
    fn middle(&mut self, values: impl Iterator<Item = f64>) -> (usize, Option<f64>) {
        self.values.clear();
        self.values.extend(values);
        let count = self.values.len();
        let middle = (count > 0).then(|| *self.values.select_nth_unstable_by(count / 2, f64::total_cmp).1);
        (count, middle)
    }

    /// The part of some flows that is there after some seconds.
    fn kept(&self, seconds: f64) -> f64 {
        self.lifetime.map_or(0.0, |lifetime| (-seconds / lifetime).exp())
    }

    /// What a flow counts for as a mean over its life, in flows.
    fn weight(&self) -> f64 {
        if self.open > f64::MIN_POSITIVE { self.load / self.open } else { 1.0 }
    }

    pub(super) fn lifetime(&self) -> Option<Duration> {
        Duration::try_from_secs_f64(self.lifetime?).ok()
    }
}

#[cfg(test)]
#[path = "failfast_tests.rs"]
mod tests;

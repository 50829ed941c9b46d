//! How far reports are believed: no report, however it lies, lifts a backend above twice the share of flows that the
//! kernel's own signals give it.
//!
//! Beside the governor's picture of the pool there is another, drawn from the kernel's signals alone: static cost,
//! slow start, slowness by the bytes that clients acknowledge, and flows that failed at once. Reports may make any
//! backend look worse, but no better than this, with `n` of our flows at work there and `f` counted for those that
//! failed, `k` its cost by the kernel's picture, `c` and `e` cost and correction by the governor's, and `a` the weight
//! of a flow that awaits its first progress:
//!
//! ```text
//! (n + e + 1 + a) x c  >=  (n / 2 + f + 1 + a) x k
//! ```
//!
//! Flows count for half at least, whether by a low cost or by a negative correction or by both; and an idle backend
//! looks no emptier than idle, so that it cannot draw every flow of a pool with little to do. A pick takes the smallest
//! load, so at any level of load the backend has at most twice the flows that it would have at that level by the
//! kernel's picture. It holds for every count above `n` where it holds at `n`, as `c >= k / 2`; so what flows count for
//! more while they await, and those that open or idle, can be left out of `n`.
//!
//! Only the ratios of costs matter to a pick, and a report can also make *others* look slow, by shifting what the pool
//! compares with. So a backend's cost by the kernel's picture is brought to the scale of the governor's first: such that
//! the others have the same capacity, the sum of `1 / cost`, in both pictures, each within its own bound. What it has
//! against all others then at most doubles, and so its share does, of flows as of load, whatever its speed. Where the
//! kernel agrees with the reports, or there are none, nothing is changed.
//!
//! Shares follow costs where servers have work, some flows each. Where most are idle, flows go to the first of several,
//! and a report that makes those before it look slower than the kernel knows can put a backend there.

use std::time::Duration;

use lb_common::{pick::COST_MAX, slot::Gauge};

use super::{
    AWAITING_WEIGHT, Backend,
    damping::Slew,
    growth, in_flow_units,
    terms::{Explained, Input, Output},
    theta::{self, Curves, Theta, Watched},
};

/// What a backend has against the others grows by this factor at most.
const LIFT: f64 = 2.0;

/// The new flow itself, in flows: it will be live, and it will await its first progress.
const TO_COME: f64 = 1.0 + AWAITING_WEIGHT as f64;

/// A tick.
pub(super) struct Moment {
    pub(super) now: Duration,
    pub(super) step: Duration,
    /// How much of slowness becomes cost.
    pub(super) exponent: f64,
}

/// One backend by the kernel's own signals.
#[derive(Clone, Debug, Default)]
pub(super) struct Kernel {
    pub(super) theta: Theta,
    slew: Slew,
    /// The counters of bytes and of prompts at the last tick.
    before: Option<(u64, u64)>,
    usable: bool,
}

impl Kernel {
    /// Moves on to a moment. True when a new sample of slowness came.
    fn watch(&mut self, moment: &Moment, input: &Input, curves: &mut Curves) -> bool {
        let counters = (input.progressed, input.progress_count);
        let before = self.before.replace(counters).unwrap_or(counters);
        let watched = Watched {
            bytes: growth(before.0, input.progressed),
            prompts: growth(before.1, input.progress_count),
            streaming: input.gauge(Gauge::Streaming),
            occupied: f64::from(input.at_work()),
        };
        self.theta.watch(moment.now, moment.step, &watched, curves)
    }

    /// The factor of the static cost.
    fn factor(&mut self, moment: &Moment, usable: bool, slow_start: f64, fails: bool) -> f64 {
        if usable && !self.usable {
            self.slew = Slew::at(slow_start);
        }
        self.usable = usable;
        let slowness = self.theta.factor(moment.now);
        let slowness = if fails { slowness.max(1.0) } else { slowness };
        self.slew.tick(moment.step, slowness.powf(moment.exponent) * slow_start, false);
        self.slew.factor()
    }
}

/// What a backend can carry in both pictures: one over its cost.
#[derive(Clone, Copy)]
struct Capacity {
    kernel: f64,
    governor: f64,
}

impl Capacity {
    fn of(kernel_cost: f64, governor_cost: u32) -> Self {
        Self { kernel: 1.0 / kernel_cost, governor: 1.0 / f64::from(governor_cost) }
    }

    /// The largest part of a pool that it may be in the governor's picture, where the pool is `own` in the kernel's.
    fn most(&self, own: f64) -> f64 {
        LIFT * self.kernel / (own + (LIFT - 1.0) * self.kernel)
    }

    /// What the kernel's cost is multiplied by so that all others of the pool carry as much in both pictures.
    fn scale(&self, pool: &Self) -> f64 {
        let within = self.governor.min(self.most(pool.kernel) * pool.governor);
        let others = (pool.kernel - self.kernel, pool.governor - within);
        if others.0 > 0.0 && others.1 > 0.0 { others.0 / others.1 } else { 1.0 }
    }
}

/// Moves the kernel's picture on to a moment, and bounds what the backends propose.
pub(super) fn bound(moment: &Moment, backends: &mut [Backend], curves: &mut Curves, inputs: &[Input]) {
    let mut sampled = false;
    for (backend, input) in backends.iter_mut().zip(inputs) {
        sampled |= backend.kernel.watch(moment, input, curves);
    }
    if sampled {
        let servers = backends.iter_mut().zip(inputs);
        theta::judge(moment.now, curves, servers.map(|(b, input)| (&mut b.kernel.theta, input.usable)));
    }
    for (backend, input) in backends.iter_mut().zip(inputs) {
        let (slow_start, fails) = (backend.explained.slow_start, backend.fail_fast.fails());
        backend.explained.kernel_factor = backend.kernel.factor(moment, input.usable, slow_start, fails);
    }
    let taking = |input: &Input| input.usable && input.weight > 0;
    let capacity = |e: &Explained| Capacity::of(kernel_cost(e), e.proposed.cost);
    let members = backends.iter().zip(inputs).filter(|(_, input)| taking(input));
    let pool = sum(&members.map(|(backend, _)| capacity(&backend.explained)).collect::<Vec<_>>());
    for (backend, input) in backends.iter_mut().zip(inputs).filter(|(_, input)| taking(input)) {
        let explained = &mut backend.explained;
        let scale = capacity(explained).scale(&pool);
        let flows = Flows { at_work: f64::from(input.at_work()), failed: explained.fail_fast.flows };
        let bounded = held(explained.proposed, kernel_cost(explained) * scale, &flows);
        explained.bounded = bounded != explained.proposed;
        explained.proposed = bounded;
    }
}

fn kernel_cost(explained: &Explained) -> f64 {
    // As the cost itself is made.
    f64::from(super::scale(explained.proposed.static_cost, explained.kernel_factor))
}

/// What a pool can carry, where no member is more of it than it may be.
fn sum(members: &[Capacity]) -> Capacity {
    let own = members.iter().map(|member| member.kernel).sum();
    let mut whole = members.iter().map(|member| member.governor).sum();
    let mut over = 0;
    loop {
        let (mut within, mut cut, mut count) = (0.0, 0.0, 0);
        for member in members {
            let most = member.most(own);
            if member.governor > most * whole {
                cut += most;
                count += 1;
            } else {
                within += member.governor;
            }
        }
        // Those that are cut are fixed parts of the whole, and the others what is left.
        if count <= over || cut >= 1.0 {
            return Capacity { kernel: own, governor: whole };
        }
        (over, whole) = (count, within / (1.0 - cut));
    }
}

/// What the kernel counts at a backend.
struct Flows {
    at_work: f64,
    failed: f64,
}

/// `proposed`, but with no less load than the bound for a backend that costs `kernel` by the kernel's picture.
fn held(proposed: Output, kernel: f64, flows: &Flows) -> Output {
    let least = (kernel / LIFT).ceil().clamp(1.0, f64::from(COST_MAX));
    // In range, as it was clamped.
    let cost = proposed.cost.max(least as u32);
    let Flows { at_work, failed } = flows;
    let load = (at_work / LIFT + failed + TO_COME) * kernel.min(f64::from(COST_MAX));
    let correction = in_flow_units(load / f64::from(cost) - at_work - TO_COME);
    Output { cost, correction: proposed.correction.max(correction), ..proposed }
}

#[cfg(test)]
#[path = "trust_tests.rs"]
mod tests;

//! What a usual request is: so that requests which wait count by their size, and all of them together as before.
//!
//! A server works through a prompt before it answers, and one of a hundred kilobytes keeps others waiting for as long as
//! many small ones do. The measure is what waits on the whole pool, so a pool of long prompts is no different from one of
//! short ones, and no size is set by hand.

use std::time::Duration;

use lb_common::{
    pick::PROMPT,
    slot::{self, Gauge},
};

use super::terms::Input;

/// Time constant in seconds: several hundred requests where it matters.
const SMOOTH_SECONDS: f64 = 10.0;

/// A usual request is of the largest size at most, and of the smallest at least.
const LEAST: u32 = PROMPT / slot::PROMPTS_MOST;
const MOST: u32 = PROMPT / slot::PROMPTS_LEAST;

/// What waits at a VIP's backends.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Prompts {
    /// Flow-seconds and prompt-seconds of those that await, of late.
    flows: f64,
    prompts: f64,
}

impl Prompts {
    /// Takes in a tick that is `step` after the last.
    pub(super) fn tick(&mut self, step: Duration, inputs: &[Input]) {
        let seconds = step.as_secs_f64();
        let keep = (-seconds / SMOOTH_SECONDS).exp();
        let sum = |gauge| inputs.iter().map(|input| f64::from(input.gauge(gauge))).sum::<f64>() * seconds;
        self.flows = self.flows * keep + sum(Gauge::Awaiting);
        self.prompts = self.prompts * keep + sum(Gauge::Prompts);
    }

    /// The part of a usual request that one of [`Gauge::Prompts`] is, in [`PROMPT`]ths.
    pub(super) fn part(&self) -> u32 {
        if self.prompts <= f64::MIN_POSITIVE {
            return MOST;
        }
        // Saturating, and finite: both are sums of products of finite numbers.
        ((self.flows / self.prompts * f64::from(PROMPT)).round() as u32).clamp(LEAST, MOST)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lb_common::{
        pick::PROMPT,
        slot::{GAUGES, Gauge},
    };

    use super::{Input, LEAST, MOST, Prompts};
    use crate::governor::testing::input;

    fn after(gauges: &[[u32; GAUGES]]) -> u32 {
        let inputs: Vec<_> = gauges.iter().map(|&gauges| Input { gauges, ..input([0; 4]) }).collect();
        let mut prompts = Prompts::default();
        (0..1000).for_each(|_| prompts.tick(Duration::from_millis(5), &inputs));
        prompts.part()
    }

    #[test]
    fn all_that_waits_counts_as_much_by_size_as_by_number() {
        let pools: [&[[u32; GAUGES]]; 3] = [
            &[[0, 2, 1, 1, 10]],
            &[[0, 2, 1, 1, 16], [0, 8, 0, 0, 64]],
            &[[0, 3, 0, 0, 300], [0, 1, 0, 0, 5]],
        ];
        for pool in pools {
            let sum = |gauge: Gauge| pool.iter().map(|gauges| gauges[gauge as usize]).sum::<u32>();
            let counted = f64::from(sum(Gauge::Prompts) * after(pool)) / f64::from(PROMPT);
            let flows = f64::from(sum(Gauge::Awaiting));
            assert!((counted / flows - 1.0).abs() < 0.01, "{pool:?}: {counted} instead of {flows}");
        }
    }

    #[test]
    fn where_nothing_waits_or_numbers_are_odd_a_part_is_a_part() {
        assert_eq!(after(&[[0, 0, 4, 1, 0]]), MOST);
        assert_eq!(after(&[[0, 9, 0, 0, 0]]), MOST, "no request is smaller");
        assert_eq!(after(&[[0, 0, 0, 0, 900]]), LEAST);
        assert_eq!(after(&[[u32::MAX; GAUGES]]), MOST);
    }
}

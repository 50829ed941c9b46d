//! How much of a server's slowness becomes its cost: `cost = slowness ^ emphasis`.
//!
//! A step of an engine takes a fixed time and some more for each sequence in it, so a slow server with few sequences
//! is not as slow for each as one with many; and memory is full sooner where flows are in proportion to speed. By
//! simulation (conversation trace, mixed cluster, load 0.85), the p99 time to first token of 0.5, 0.6, 0.7 and 1 is
//! 0.59, 0.63, 0.78 and 1.12 s, and of latency 35.1, 34.7, 34.4 and 33.6 s. Where requests queue, it is different:
//! what waits is worked off in proportion to speed, and 1 is right.

use std::time::Duration;

use lb_common::slot::Gauge;

use super::terms::Input;

/// The emphasis where nothing queues, and where much does.
const BATCHED: f64 = 0.6;
const QUEUED: f64 = 1.0;

/// Parts of the requests at work that await their first progress: below the first nothing queues to speak of, from
/// the second on queues rule.
const SHORT: f64 = 0.05;
const LONG: f64 = 0.25;

/// Time constant in seconds.
const SMOOTH_SECONDS: f64 = 1.0;

/// The emphasis of a VIP.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Emphasis {
    awaiting: f64,
    at_work: f64,
}

impl Emphasis {
    /// Takes in a tick that is `step` after the last.
    pub(super) fn tick(&mut self, step: Duration, inputs: &[Input]) {
        let gain = -(-step.as_secs_f64() / SMOOTH_SECONDS).exp_m1();
        let sum = |of: fn(&Input) -> u32| inputs.iter().map(|input| f64::from(of(input))).sum::<f64>();
        self.awaiting += (sum(|input| input.gauge(Gauge::Awaiting)) - self.awaiting) * gain;
        self.at_work += (sum(Input::at_work) - self.at_work) * gain;
    }

    /// The exponent that holds now.
    pub(super) fn exponent(&self) -> f64 {
        let part = if self.at_work > f64::MIN_POSITIVE { self.awaiting / self.at_work } else { 0.0 };
        BATCHED + (QUEUED - BATCHED) * ((part - SHORT) / (LONG - SHORT)).clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{BATCHED, Emphasis, QUEUED};
    use crate::governor::testing::input;

    #[test]
    fn slowness_counts_in_full_where_requests_queue() {
        let mut emphasis = Emphasis::default();
        assert_eq!(emphasis.exponent(), BATCHED, "nothing is known");
        let mut run = |gauges| {
            (0..2000).for_each(|_| emphasis.tick(Duration::from_millis(5), &[input(gauges); 3]));
            emphasis.exponent()
        };
        assert_eq!(run([0, 1, 99, 0]), BATCHED);
        assert_eq!(run([0, 50, 50, 0]), QUEUED);
        assert!((run([0, 15, 85, 0]) - 0.8).abs() < 0.01);
    }
}

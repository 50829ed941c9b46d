//! How a cost factor moves: saturation and slow start that raise it, the deadband and the slew that hold it.
//!
//! Capacity goes down fast and comes back slowly: what is wrongly avoided costs little, what is wrongly trusted
//! queues.

use std::time::Duration;

use super::terms::{Damping, Reported};

/// Deadband: smaller changes of a factor are not worth a change of order.
const DEADBAND: f64 = 0.05;

/// A factor at most doubles in this many seconds,
const DOUBLING: f64 = 0.1;

/// and at most halves in this many.
const HALVING: f64 = 2.0;

/// KV caches fuller than this are close to preempting.
const KV_HIGH: f64 = 0.9;

/// The factor of a full cache: a preempted request is computed again. Not more: where all are near it, a strong
/// factor chases flows round, and where fast servers fill first it sends them to slow ones. With 2 instead, the p99
/// time to first token of equal servers was 7 % higher in simulation.
const KV_FULL: f64 = 1.4;

/// A backend that has just come back costs this much more,
const SLOW_START: f64 = 4.0;

/// fading in this time: caches are cold and the first requests tell how it does.
pub(super) const SLOW_START_TIME: Duration = Duration::from_secs(10);

/// The factor for what a server says of its own pressure, from 1, as far as it is believed. The most pressing signal
/// counts, not a mean.
pub(super) fn saturation(report: Option<&Reported>, trust: f64) -> f64 {
    let Some(report) = report.map(Reported::sane) else { return 1.0 };
    // Queues are counted already, as flows or as correction; memory is what counts do not show.
    let pressures = [report.kv_usage.map(|usage| (usage - KV_HIGH) / (1.0 - KV_HIGH))];
    let pressure = pressures.into_iter().flatten().fold(0.0, f64::max).clamp(0.0, 1.0);
    KV_FULL.powf(pressure * trust)
}

/// The factor for a backend that came back at `since`, from 1.
pub(super) fn slow_start(now: Duration, since: Option<Duration>) -> f64 {
    let Some(since) = since else { return 1.0 };
    let passed = now.saturating_sub(since).as_secs_f64() / SLOW_START_TIME.as_secs_f64();
    SLOW_START.powf((1.0 - passed).max(0.0))
}

/// A factor on its way to its target, as a logarithm; at first nominal.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slew {
    log: f64,
}

impl Slew {
    /// A factor that starts where it is wanted.
    pub(super) fn at(factor: f64) -> Self {
        Self { log: factor.ln() }
    }

    /// Moves towards `target`, above 0, for `step`. Where what raised it `fades`, it falls as fast as it rises: nobody
    /// says that the server has become better, but nobody knows any more that it is worse.
    pub(super) fn tick(&mut self, step: Duration, target: f64, fades: bool) -> Damping {
        let wanted = target.ln();
        let distance = wanted - self.log;
        if distance == 0.0 {
            return Damping::None;
        }
        // The nominal factor is exact: what is not slow must not look it.
        if distance.abs() < DEADBAND.ln_1p() && wanted != 0.0 && !fades {
            return Damping::Deadband;
        }
        let seconds = step.as_secs_f64() * std::f64::consts::LN_2;
        let halving = if fades { DOUBLING } else { HALVING };
        let moved = distance.clamp(-seconds / halving, seconds / DOUBLING);
        self.log = if moved == distance { wanted } else { self.log + moved };
        if moved == distance { Damping::None } else { Damping::Slew }
    }

    /// The factor that holds now.
    pub(super) fn factor(&self) -> f64 {
        self.log.exp()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Slew, saturation, slow_start};
    use crate::governor::{
        terms::{Damping, Reported},
        testing::reported,
    };

    #[test]
    fn costs_rise_fast_and_fall_slowly() {
        let mut slew = Slew::default();
        assert_eq!(slew.tick(Duration::from_millis(100), 8.0, false), Damping::Slew);
        assert!((slew.factor() - 2.0).abs() < 1e-9, "{}", slew.factor());
        slew.tick(Duration::from_secs(1), 8.0, false);
        assert!((slew.factor() - 8.0).abs() < 1e-9);
        slew.tick(Duration::from_secs(2), 1.0, false);
        assert!((slew.factor() - 4.0).abs() < 1e-9);
        assert_eq!(slew.tick(Duration::from_secs(60), 1.0, false), Damping::None);
        assert_eq!(slew.factor(), 1.0, "exactly");
    }

    #[test]
    fn what_nobody_vouches_for_any_more_falls_as_fast_as_it_rose() {
        let mut slew = Slew::at(8.0);
        assert_eq!(slew.tick(Duration::from_millis(100), 1.0, true), Damping::Slew);
        assert!((slew.factor() - 4.0).abs() < 1e-9, "{}", slew.factor());
    }

    #[test]
    fn small_changes_are_held_except_back_to_nominal() {
        let mut slew = Slew::default();
        assert_eq!(slew.tick(Duration::from_secs(1), 1.04, false), Damping::Deadband);
        assert_eq!(slew.factor(), 1.0);
        slew.tick(Duration::from_secs(1), 1.06, false);
        slew.tick(Duration::from_secs(1), 1.03, false);
        assert!((slew.factor() - 1.06).abs() < 1e-9);
        slew.tick(Duration::from_secs(9), 1.0, false);
        assert_eq!(slew.factor(), 1.0);
    }

    #[test]
    fn a_full_cache_costs_more_while_the_report_is_fresh() {
        let factor = |usage, trust| {
            let report = Reported { kv_usage: Some(usage), ..reported(1.0, 0.0, Duration::ZERO) };
            saturation(Some(&report), trust)
        };
        assert_eq!(factor(0.9, 1.0), 1.0);
        assert!((factor(0.95, 1.0) - 1.4_f64.sqrt()).abs() < 1e-9);
        assert!((factor(1.0, 1.0) - 1.4).abs() < 1e-9);
        assert!((factor(1.7, 1.0) - 1.4).abs() < 1e-9, "no more than full");
        assert!(factor(1.0, 0.5) < 1.4);
        assert_eq!(factor(1.0, 0.0), 1.0);
        assert_eq!(factor(f64::NAN, 1.0), 1.0);
        assert_eq!(saturation(None, 1.0), 1.0);
    }

    #[test]
    fn a_backend_that_came_back_is_spared_for_ten_seconds() {
        let since = Duration::from_secs(5);
        assert_eq!(slow_start(since, None), 1.0);
        assert!((slow_start(since, Some(since)) - 4.0).abs() < 1e-9);
        assert!((slow_start(Duration::from_secs(10), Some(since)) - 2.0).abs() < 1e-9);
        assert_eq!(slow_start(Duration::from_secs(15), Some(since)), 1.0);
    }
}

//! Spacing of periodic network work, so that probes and scrapes of many backends do not march in step.

use std::time::Duration;

use rand::Rng as _;

/// Periods vary by this share in both directions: enough to break up lock-step within a few
/// rounds, small enough that a period still means what its configuration says.
const SPREAD: f64 = 0.1;

/// `period`, lengthened or shortened at random by at most a tenth.
pub(crate) fn jittered(period: Duration) -> Duration {
    period.mul_f64(rand::rng().random_range(1.0 - SPREAD..=1.0 + SPREAD))
}

/// A random delay before the first round, up to a tenth of `period`: a fleet that is added at once
/// is not asked at once, and yet everything is known soon.
pub(crate) fn first_delay(period: Duration) -> Duration {
    period.mul_f64(rand::rng().random_range(0.0..=SPREAD))
}

/// Half of `pause` to all of it, at random: those who lost the same peer do not all come back at once.
pub(crate) fn scattered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::{Duration, first_delay, jittered};

    #[test]
    fn a_period_varies_by_at_most_a_tenth_and_does_vary() {
        let period = Duration::from_millis(1000);
        let drawn: Vec<Duration> = (0..200).map(|_| jittered(period)).collect();
        for d in &drawn {
            assert!((900..=1100).contains(&d.as_millis()), "{d:?} is more than a tenth off {period:?}");
        }
        assert!(drawn.iter().any(|d| d != &drawn[0]), "200 draws are all {:?}", drawn[0]);
    }

    #[test]
    fn the_first_round_starts_within_a_tenth_of_the_period() {
        for _ in 0..200 {
            assert!(first_delay(Duration::from_secs(1)) <= Duration::from_millis(100));
        }
    }
}

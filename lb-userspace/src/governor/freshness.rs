//! How far a source is believed by the age of what it said last.
//!
//! In full for half of its life and then less and less, so that one that is silent says nothing at the end of it:
//! whatever it said, costs are then what the kernel's own signals make them. Sources that speak rarely live longer.

use std::time::Duration;

/// The life of what was said: the kernel's own patience with a silent governor.
pub(super) const LIFE: Duration = Duration::from_secs(2);

/// The same in intervals between two words of a source.
const LIFE_INTERVALS: u32 = 4;

/// Longest interval that counts.
const LONGEST_INTERVAL: Duration = Duration::from_secs(5);

/// When a source was heard.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Freshness {
    last: Option<Heard>,
    /// The last two intervals. The shorter counts: a pause is no habit.
    intervals: [Duration; 2],
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    /// When it was said, by its own date.
    said: Duration,
    /// The same, but no later than it came.
    at: Duration,
}

impl Freshness {
    /// Something was said at `said` that is known at `now`. Says whether it is news; a source that has been silent for
    /// its life may date anew.
    pub(super) fn note(&mut self, now: Duration, said: Duration) -> bool {
        let heard = Heard { said, at: said.min(now) };
        let Some(last) = self.last else {
            self.last = Some(heard);
            return true;
        };
        let news = said > last.said || self.trust(now) == 0.0 && said != last.said;
        if news {
            let interval = heard.at.saturating_sub(last.at).min(LONGEST_INTERVAL);
            *self = Self { last: Some(heard), intervals: [self.intervals[1], interval] };
        }
        news
    }

    /// How far it is believed at `now`, 0 to 1.
    pub(super) fn trust(&self, now: Duration) -> f64 {
        let Some(last) = self.last else { return 0.0 };
        let left = self.life().saturating_sub(now.saturating_sub(last.at));
        (left.as_secs_f64() * 2.0 / self.life().as_secs_f64()).min(1.0)
    }

    fn life(&self) -> Duration {
        let [before, last] = self.intervals;
        LIFE.max(before.min(last) * LIFE_INTERVALS)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Freshness;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn heard(said: &[u64]) -> Freshness {
        let mut freshness = Freshness::default();
        for said in said {
            assert!(freshness.note(ms(*said), ms(*said)), "{said} ms is news");
        }
        freshness
    }

    #[test]
    fn a_source_is_believed_for_a_second_and_forgotten_after_two() {
        assert_eq!(Freshness::default().trust(ms(0)), 0.0);
        let freshness = heard(&[9500, 9750, 10_000]);
        for (age, trust) in [(0, 1.0), (1000, 1.0), (1500, 0.5), (2000, 0.0), (3_600_000, 0.0)] {
            assert_eq!(freshness.trust(ms(10_000 + age)), trust, "{age} ms old");
        }
    }

    #[test]
    fn one_that_speaks_rarely_lives_longer_and_one_that_paused_once_does_not() {
        assert_eq!(heard(&[2000, 4000, 6000]).trust(ms(10_000)), 1.0);
        assert_eq!(heard(&[4500, 4750, 6500]).trust(ms(8500)), 0.0);
    }

    #[test]
    fn no_date_makes_what_was_said_younger_than_it_came() {
        let mut freshness = heard(&[1000]);
        assert!(freshness.note(ms(1250), ms(90_000)));
        assert!(!freshness.note(ms(1500), ms(90_000)));
        assert_eq!(freshness.trust(ms(3250)), 0.0);
        assert!(freshness.note(ms(4000), ms(4000)));
        assert_eq!(freshness.trust(ms(4000)), 1.0, "a clock that was set right");
    }
}

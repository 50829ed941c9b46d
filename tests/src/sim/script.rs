//! Scripts of slow-downs: at which moment a simulated GPU changes to which part of its rate.

use std::{str::FromStr, time::Duration};

/// One line of a script: from `at` on, the server runs at `rate` times its speed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    /// Time since the server's start.
    pub at: Duration,
    /// Rate factor, above 0; 1 is full speed.
    pub rate: f64,
}

/// Why a change cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("slow-down {0:?} is not SECONDS:RATE with seconds from 0 and a rate above 0, as in 10:0.28")]
pub struct BadChange(String);

impl FromStr for Change {
    type Err = BadChange;

    fn from_str(text: &str) -> Result<Self, BadChange> {
        let bad = || BadChange(text.to_owned());
        let (at, rate) = text.split_once(':').ok_or_else(bad)?;
        let seconds: f64 = at.parse().ok().ok_or_else(bad)?;
        let rate: f64 =
            rate.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0).ok_or_else(bad)?;
        let at = Duration::try_from_secs_f64(seconds).ok().ok_or_else(bad)?;
        Ok(Self { at, rate })
    }
}

/// A whole script, in order of time.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Script {
    changes: Vec<Change>,
}

impl Script {
    /// The script of these changes, in any order; of two at the same time the later in the list holds.
    pub fn new(mut changes: Vec<Change>) -> Self {
        changes.sort_by_key(|change| change.at);
        Self { changes }
    }

    /// The rate factor at a time since the server's start; 1 before the first change.
    pub fn rate_at(&self, elapsed: Duration) -> f64 {
        let past = self.changes.partition_point(|change| change.at <= elapsed);
        past.checked_sub(1).map_or(1.0, |last| self.changes[last].rate)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Change, Script};

    #[test]
    fn the_last_change_at_or_before_a_moment_holds() {
        let script = Script::new(vec!["10:1.0".parse().unwrap(), "2:0.28".parse().unwrap()]);
        for (seconds, rate) in [(0.0, 1.0), (1.9, 1.0), (2.0, 0.28), (9.9, 0.28), (10.0, 1.0), (1e6, 1.0)] {
            assert_eq!(script.rate_at(Duration::from_secs_f64(seconds)), rate, "at {seconds} s");
        }
        assert_eq!(Script::default().rate_at(Duration::ZERO), 1.0);
    }

    #[test]
    fn text_that_is_no_change_is_refused() {
        for text in
            ["", "5", "5:", ":0.5", "5:0", "5:-1", "-1:0.5", "5:inf", "5:NaN", "inf:1", "x:1", "1:2:3"]
        {
            let error = text.parse::<Change>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }
}

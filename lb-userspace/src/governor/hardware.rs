//! What a server's GPUs say of its speed, as a factor of its cost.
//!
//! It acts as change: what slowness was learned while a GPU was throttled holds the throttling already. So the factor
//! is that of now over that of the time when slowness was learned, and as slowness is learned anew, by measurement,
//! the claim of the hardware fades. What it gains again gives back what was learned of slowness and no more: no
//! reading makes a backend cheaper than it was measured to be, however it lies.
//!
//! Work of others on the GPUs is either count or cost: where a server reports its queue, the correction sees the
//! requests of others there, and their share of the GPU's time is left out here.

use std::time::Duration;

use super::{
    freshness::LIFE,
    terms::{Hardware as Reading, HardwareTerm},
    theta::CHANGE_SECONDS,
};

/// Readings fade to nothing between this age, in seconds, and the end of their life. They come once a second, and live
/// no longer where they come more rarely: what a clock was says nothing of what it is.
const GOOD: f64 = 1.5;

/// A GPU that gives less than this part of its work counts as one that gives this part; no factor is larger.
const LEAST: f64 = 0.125;

/// Slowness is learned of the last seconds, in blocks of up to two: about this is the middle of one.
const RECENT_SECONDS: f64 = 1.0;

/// A silence of slowness longer than this is no stretch that it was learned over.
const LONGEST_STRETCH: f64 = 2.0;

/// The factor of the clocks and that of work of others, as logarithms.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Factors {
    clocks: f64,
    others: f64,
}

impl Factors {
    fn of(reading: &Reading) -> Option<Self> {
        let sane = |part: Option<f64>| part.filter(|part| (0.0..=1.0).contains(part));
        let (speed, foreign) = (sane(reading.speed), sane(reading.foreign));
        if (speed, foreign) == (None, None) {
            return None;
        }
        let factor = |part: f64| -part.max(LEAST).ln();
        Some(Self { clocks: factor(speed.unwrap_or(1.0)), others: factor(1.0 - foreign.unwrap_or(0.0)) })
    }

    /// On the way to `target`, after some seconds of a time constant.
    fn toward(self, target: Self, seconds: f64, constant: f64) -> Self {
        let gain = -(-seconds / constant).exp_m1();
        Self {
            clocks: self.clocks + (target.clocks - self.clocks) * gain,
            others: self.others + (target.others - self.others) * gain,
        }
    }

    /// Both, or the clocks alone where the requests of others are counted.
    fn sum(self, queued: bool) -> f64 {
        self.clocks + if queued { 0.0 } else { self.others }
    }
}

/// One backend's hardware.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Hardware {
    now: Option<Now>,
    /// What is known of slowness holds these.
    learned: Factors,
    /// Slowness was learned while nothing was known of the hardware.
    unseen: bool,
    /// Seconds since slowness was last learned.
    stretch: f64,
}

#[derive(Clone, Copy, Debug)]
struct Now {
    factors: Factors,
    recent: Factors,
    trust: f64,
    age: Duration,
    queued: bool,
}

impl Hardware {
    /// Moves on by `step` to `now`. `queued` says that requests of others are seen in the server's queue, `learned`
    /// that its slowness was measured anew.
    pub(super) fn tick(
        &mut self,
        now: Duration,
        step: Duration,
        reading: Option<&Reading>,
        queued: bool,
        learned: bool,
    ) {
        let seconds = step.as_secs_f64();
        self.stretch += seconds;
        let before = self.now.map(|before| before.recent);
        self.now = reading.and_then(|reading| Now::of(now, reading, queued));
        match &mut self.now {
            Some(current) => {
                if std::mem::take(&mut self.unseen) {
                    self.learned = current.factors;
                }
                let before = before.unwrap_or(current.factors);
                current.recent = before.toward(current.factors, seconds, RECENT_SECONDS);
                if learned {
                    let stretch = self.stretch.min(LONGEST_STRETCH);
                    self.learned = self.learned.toward(current.recent, stretch, CHANGE_SECONDS);
                }
            }
            None => self.unseen |= learned,
        }
        if learned {
            self.stretch = 0.0;
        }
    }

    /// The logarithm of the factor of the cost, beside a slowness of `slowness` (a logarithm, too), of which the part
    /// `kept` still holds what it did when it was learned.
    pub(super) fn log(&self, slowness: f64, kept: f64) -> f64 {
        let Some(current) = self.now else { return 0.0 };
        let change = current.factors.sum(current.queued) - self.learned.sum(current.queued) * kept;
        // A gain gives back no more than what was learned of slowness.
        (change * current.trust).clamp(-slowness.max(0.0), -LEAST.ln())
    }

    /// How far the reading is believed, 0 to 1.
    pub(super) fn trust(&self) -> f64 {
        self.now.map_or(0.0, |current| current.trust)
    }

    pub(super) fn explain(&self, applied: f64) -> HardwareTerm {
        let queued = self.now.is_some_and(|current| current.queued);
        HardwareTerm {
            applied: applied.exp(),
            now: self.now.map(|current| current.factors.sum(queued).exp()),
            learned: self.learned.sum(queued).exp(),
            foreign_counted: !queued,
            age: self.now.map(|current| current.age),
        }
    }
}

impl Now {
    fn of(now: Duration, reading: &Reading, queued: bool) -> Option<Self> {
        let age = now.saturating_sub(reading.taken_start.min(reading.taken_end));
        let left = LIFE.as_secs_f64() - age.as_secs_f64();
        let trust = (left / (LIFE.as_secs_f64() - GOOD)).clamp(0.0, 1.0);
        let factors = Factors::of(reading).filter(|_| trust > 0.0)?;
        Some(Self { factors, recent: factors, trust, age, queued })
    }
}

#[cfg(test)]
#[path = "hardware_tests.rs"]
mod tests;

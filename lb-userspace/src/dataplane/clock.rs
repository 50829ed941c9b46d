//! The kernel's tick: its rate, and how to tell it from the daemon's own clock.
//!
//! Slots are stamped with jiffies, and nothing outside the kernel can read those, so the object's `clock`
//! program is test-run: it writes jiffies and `CLOCK_MONOTONIC` of one moment.

use std::{sync::Mutex, time::Duration};

use aya::{TestRun as _, TestRunOptions, programs::Xdp};
use lb_common::layout;
use nix::time::{ClockId, clock_gettime};

use super::{error::Error, mapping::Elements};

/// Rates that kernels are built with.
const RATES: [u32; 4] = [100, 250, 300, 1000];

/// How long to watch the tick to tell its rate.
const WATCH: Duration = Duration::from_millis(100);

/// Any frame that the kernel accepts for a test run.
const FRAME: [u8; 64] = [0; 64];

/// Jiffies as of any moment.
pub struct Clock {
    map: Elements<layout::Clock>,
    /// Jiffies a second.
    hz: u32,
    anchor: Mutex<layout::Clock>,
}

impl Clock {
    /// A clock of a known rate; `sample` test-runs the `clock` program that writes `map`.
    ///
    /// # Errors
    ///
    /// When the program cannot be run.
    pub fn anchored(
        hz: u32,
        sample: impl FnOnce() -> Result<(), Error>,
        map: Elements<layout::Clock>,
    ) -> Result<Self, Error> {
        sample()?;
        let anchor = Mutex::new(map.read(0));
        Ok(Self { map, hz, anchor })
    }

    /// Jiffies now, reckoned from the last anchor.
    pub fn jiffies(&self) -> u64 {
        let anchor = *self.anchor.lock().expect("no thread panics with the clock");
        let since = monotonic_ns().saturating_sub(anchor.nanoseconds);
        anchor.jiffies + (u128::from(since) * u128::from(self.hz) / 1_000_000_000) as u64
    }

    /// Takes a new anchor, so that what is reckoned does not drift.
    ///
    /// # Errors
    ///
    /// When the program cannot be run.
    pub fn anchor(&self, sample: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
        sample()?;
        *self.anchor.lock().expect("no thread panics with the clock") = self.map.read(0);
        Ok(())
    }
}

/// Learns the tick rate by watching the tick for a moment.
///
/// # Errors
///
/// When the program cannot be run, or the rate is none that kernels are built with.
pub fn learn(program: &Xdp, map: &Elements<layout::Clock>) -> Result<u32, Error> {
    run(program)?;
    let start = map.read(0);
    std::thread::sleep(WATCH);
    run(program)?;
    let end = map.read(0);
    let ticks = (end.jiffies - start.jiffies) as f64;
    let seconds = (end.nanoseconds - start.nanoseconds) as f64 / 1e9;
    nearest(ticks / seconds)
        .ok_or_else(|| Error::Clock(format!("{ticks} ticks in {seconds} s fit none of {RATES:?} a second")))
}

/// Test-runs the `clock` program.
///
/// # Errors
///
/// When the kernel refuses.
pub fn run(program: &Xdp) -> Result<(), Error> {
    program
        .test_run(TestRunOptions { data_in: Some(&FRAME), ..TestRunOptions::default() })
        .map(drop)
        .map_err(|error| Error::Clock(error.to_string()))
}

/// `CLOCK_MONOTONIC` in nanoseconds, the clock of `bpf_ktime_get_ns`.
pub fn monotonic_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map(|time| Duration::from(time).as_nanos() as u64)
        .expect("every Linux has a monotonic clock")
}

/// The rate closest to a measured one, if it is close at all.
fn nearest(measured: f64) -> Option<u32> {
    /// Between the rates there is a fifth at least; a busy machine may skew a measurement by less.
    const TOLERANCE: f64 = 0.12;
    let closest = RATES.into_iter().min_by(|a, b| {
        let off = |rate: u32| (measured / f64::from(rate)).ln().abs();
        off(*a).total_cmp(&off(*b))
    })?;
    ((measured / f64::from(closest) - 1.0).abs() < TOLERANCE).then_some(closest)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_measured_rate_is_one_that_kernels_are_built_with() {
        for (measured, expected) in [
            (99.0, Some(100)),
            (251.3, Some(250)),
            (297.0, Some(300)),
            (1004.0, Some(1000)),
            (600.0, None),
            (0.0, None),
        ] {
            assert_eq!(nearest(measured), expected, "{measured} a second");
        }
    }
}

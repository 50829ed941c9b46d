//! What is printed and written, and what of it must hold.

use std::{fmt, time::Duration};

use serde::Serialize;

/// Times of all rounds, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Times {
    /// How many there are.
    pub rounds: usize,
    /// The median.
    pub p50: f64,
    /// Nine of ten are no longer.
    pub p90: f64,
    /// 99 of 100 are no longer.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

impl Times {
    /// Of some times.
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        // Nearest rank: as many are no longer as the part says, at least.
        let at = |part: f64| {
            let rank = (part * times.len() as f64).ceil() as usize;
            times.get(rank.saturating_sub(1)).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
        };
        Self { rounds: times.len(), p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1.0) }
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, p50, p90, p99, max } = self;
        write!(f, "p50 {p50:.2}, p90 {p90:.2}, p99 {p99:.2}, max {max:.2} ms in {rounds} rounds")
    }
}

/// Everything that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Period of the governor.
    pub tick_ms: f64,
    /// The longest p99 that is promised: two ticks and a millisecond.
    pub bound_ms: f64,
    /// The stand-in tells its events up to this late; it is part of the times.
    pub glance_ms: f64,
    /// Connections a second: times are longer than what was waited for by up to the gap between two.
    pub rate: u32,
    /// From an XID to the first connection after the last that still went to the backend.
    pub xid: Times,
    /// From a throttled clock to the first pick that weighs it: the backend's cost in the kernel's map has changed.
    pub throttle: Times,
    /// The same until the cost differs by more than loads that count as equal.
    pub throttle_beyond_ties: Times,
    /// From a drain command to the first connection after the last that still went to the backend.
    pub drain: Times,
}

impl Report {
    /// What does not hold, each in words.
    pub fn failures(&self) -> Vec<String> {
        let promised = [("xid", self.xid), ("throttle", self.throttle), ("drain", self.drain)];
        let bound = self.bound_ms;
        promised
            .iter()
            .filter(|(_, times)| times.p99 > bound)
            .map(|(what, times)| format!("{what}: p99 {:.2} ms is above {bound} ms", times.p99))
            .collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tick_ms, bound_ms, glance_ms, rate, .. } = self;
        writeln!(
            f,
            "to the first new connection steered by it, with {rate} connections a second and ticks of {tick_ms} ms; \
             bound of p99: 2 ticks + 1 ms = {bound_ms} ms; the stand-in for the driver tells an event up to \
             {glance_ms} ms late"
        )?;
        writeln!(f, "xid       {}", self.xid)?;
        writeln!(f, "throttle  {}", self.throttle)?;
        writeln!(f, "  by more than a tie: {}", self.throttle_beyond_ties)?;
        write!(f, "drain     {}", self.drain)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Times;

    #[test]
    fn quantiles_are_of_the_nearest_rank() {
        let times = Times::of((1..=200).rev().map(Duration::from_millis).collect());
        assert_eq!((times.p50, times.p90, times.p99, times.max), (100.0, 180.0, 198.0, 200.0));
        assert_eq!(Times::of(vec![Duration::from_millis(7)]).p99, 7.0);
        assert_eq!(Times::of(Vec::new()).max, 0.0);
    }
}

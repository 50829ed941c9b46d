//! What a VIP's connections as a whole say: how many half-open ones to believe, and how busy open ones are.

use std::time::Duration;

use lb_common::{pick::FLOW, slot::Gauge};

use super::terms::Input;

/// The time constant of the rates of SYNs and requests: a flood must be seen within the second in which its
/// flows count.
const RATE_SECONDS: f64 = 0.5;

/// The time constant of the duty cycle: several requests of a kept-open connection.
const DUTY_SECONDS: f64 = 10.0;

/// A flood begins when fewer than this part of the SYNs are followed by a request, and ends above the other.
const FLOOD_BEGINS: f64 = 0.4;
const FLOOD_ENDS: f64 = 0.7;

/// Below this many SYNs a second a backend there is nothing to defend against.
const QUIET: f64 = 20.0;

/// How long an honest client takes from SYN to request, generously: a round trip round the world.
const HANDSHAKE_SECONDS: f64 = 0.25;

/// Counters of a VIP in one tick, and what is learned from them.
#[derive(Clone, Debug)]
pub(super) struct Flood {
    opened: f64,
    requests: f64,
    busy: f64,
    open: f64,
    reused: f64,
    requested: f64,
    flooded: bool,
    opening_cap: u32,
}

impl Default for Flood {
    fn default() -> Self {
        Self {
            opened: 0.0,
            requests: 0.0,
            busy: 0.0,
            open: 0.0,
            reused: 0.0,
            requested: 0.0,
            flooded: false,
            opening_cap: u32::MAX,
        }
    }
}

impl Flood {
    /// Moves on by `step`, in which `opened` flows were opened and `requests` seen.
    pub(super) fn tick(&mut self, step: Duration, inputs: &[Input], opened: u64, requests: u64) {
        let seconds = step.as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        let (opened, requests) = (opened as f64, requests as f64);
        let keep = (-seconds / RATE_SECONDS).exp();
        // Events decay one by one, so a rate is right for any length of step.
        self.opened = self.opened * keep + opened / RATE_SECONDS;
        self.requests = self.requests * keep + requests / RATE_SECONDS;
        self.judge(inputs.len().max(1) as f64);

        let keep = (-seconds / DUTY_SECONDS).exp();
        let idle: f64 = inputs.iter().map(|input| f64::from(input.gauge(Gauge::Idle))).sum();
        let busy: f64 = inputs.iter().map(|input| f64::from(input.at_work())).sum();
        self.busy = self.busy * keep + busy * (1.0 - keep);
        self.open = self.open * keep + (busy + idle) * (1.0 - keep);
        self.reused = self.reused * keep + (requests - opened).max(0.0);
        self.requested = self.requested * keep + requests;
    }

    fn judge(&mut self, backends: f64) {
        let honest = if self.opened > 0.0 { self.requests / self.opened } else { 1.0 };
        if self.opened / backends < QUIET || honest > FLOOD_ENDS {
            self.flooded = false;
        } else if honest < FLOOD_BEGINS {
            self.flooded = true;
        }
        // Saturating: rates are finite and not negative.
        let expected = (self.requests / backends * HANDSHAKE_SECONDS).ceil() as u32;
        self.opening_cap = if self.flooded { expected.max(1) } else { u32::MAX };
    }

    /// Half-open flows of a backend count up to this many.
    pub(super) fn opening_cap(&self) -> u32 {
        self.opening_cap
    }

    /// The part of its time that an idle connection will ask for something, in 256ths: the part of open
    /// connections that are busy, as far as connections are used again at all.
    pub(super) fn duty(&self) -> u32 {
        let busy = ratio(self.busy, self.open);
        let reused = ratio(self.reused, self.requested);
        (busy * reused * f64::from(FLOW)).round() as u32
    }
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > f64::MIN_POSITIVE { (part / whole).clamp(0.0, 1.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Flood;
    use crate::governor::testing::input;

    const TICK: Duration = Duration::from_millis(5);

    fn run(flood: &mut Flood, ticks: u32, gauges: [u32; 4], opened: u64, requests: u64) {
        for _ in 0..ticks {
            flood.tick(TICK, &[input(gauges); 4], opened, requests);
        }
    }

    #[test]
    fn a_flood_of_syns_lowers_the_cap_at_once_and_its_end_lifts_it() {
        let mut flood = Flood::default();
        run(&mut flood, 400, [1, 2, 3, 0], 5, 5);
        assert_eq!(flood.opening_cap(), u32::MAX, "every SYN brings a request");
        run(&mut flood, 40, [200, 2, 3, 0], 500, 5);
        // 1,000 requests a second over four backends, each half-open for a quarter of a second at most.
        assert!((50..=70).contains(&flood.opening_cap()), "{}", flood.opening_cap());
        run(&mut flood, 1000, [1, 2, 3, 0], 5, 5);
        assert_eq!(flood.opening_cap(), u32::MAX);
    }

    #[test]
    fn a_flood_without_any_request_counts_one_flow_a_backend() {
        let mut flood = Flood::default();
        run(&mut flood, 100, [500, 0, 0, 0], 100, 0);
        assert_eq!(flood.opening_cap(), 1);
    }

    #[test]
    fn idle_connections_count_for_their_busy_part_if_they_are_used_again() {
        let mut flood = Flood::default();
        run(&mut flood, 10_000, [0, 5, 20, 75], 0, 3);
        assert_eq!(flood.duty(), 64);
        let mut flood = Flood::default();
        run(&mut flood, 10_000, [0, 5, 20, 75], 3, 3);
        assert_eq!(flood.duty(), 0, "a connection a request");
        assert_eq!(Flood::default().duty(), 0);
    }
}

//! What is on a server beyond our own flows: other balancers' requests, jobs that go round us.
//!
//! A report is compared with our own flows *at the time of the report*, taken from a ring of the past, never
//! with the flows of now. The difference is low-passed the longer the older it is: raw reports 100 ms old made
//! ten balancers herd (p99 3.7 s against 0.5). It never replaces the live count, it only adds to it.

use std::{collections::VecDeque, time::Duration};

use lb_common::{pick::FLOW, slot::Gauge};

use super::{
    freshness::Freshness,
    terms::{CorrectionTerm, Input, Reported},
};

/// How finely the past is kept, and how much of it: a scrape's longest bracket and the server's own cadence.
const BUCKET: Duration = Duration::from_millis(20);
const BUCKETS: usize = 160;

/// The low pass is at least this many times slower than the report is old.
const SLOWER_THAN_AGE: f64 = 50.0;

/// The fastest low pass, in seconds.
const FASTEST: f64 = 1.0;

/// Corrections below this many flows are noise.
const NOISE: f64 = 0.5;

/// What a server has beyond the mean of its pool is believed from this many standard deviations of single reports
/// on: other balancers' flows come and go within the low pass, and steering by what they were would undo what our
/// own counts, which are right, have balanced.
const BAND: f64 = 2.5;

/// How slowly the spread of reports is learned: so many of them.
const SPREAD_REPORTS: f64 = 32.0;

/// Corrections are at most this many flows, so that they fit their field.
const LARGEST: f64 = (i32::MAX / FLOW as i32) as f64;

#[derive(Clone, Copy, Debug)]
struct Bucket {
    start: Duration,
    low: u32,
    high: u32,
}

/// Our own flows in the recent past: the range they took in each bucket of time. The last one is at hand for every
/// tick, and the others are looked at when a report comes.
#[derive(Clone, Debug, Default)]
struct Ring {
    past: VecDeque<Bucket>,
    last: Option<Bucket>,
}

impl Ring {
    fn note(&mut self, now: Duration, low: u32, high: u32) {
        match &mut self.last {
            Some(bucket) if now < bucket.start + BUCKET => {
                bucket.low = bucket.low.min(low);
                bucket.high = bucket.high.max(high);
            }
            last => {
                if let Some(bucket) = last.replace(Bucket { start: now, low, high }) {
                    if self.past.len() == BUCKETS {
                        self.past.pop_front();
                    }
                    self.past.push_back(bucket);
                }
            }
        }
    }

    /// The range between two moments; none when the ring does not reach back to the first.
    fn range(&self, from: Duration, to: Duration) -> Option<(u32, u32)> {
        let count = self.past.partition_point(|bucket| bucket.start <= from);
        let last = self.last.filter(|bucket| bucket.start <= to);
        let first = match count.checked_sub(1) {
            _ if last.is_some_and(|bucket| bucket.start <= from) => self.past.len(),
            Some(first) => first,
            None => return None,
        };
        let within = self.past.iter().skip(first).take_while(|bucket| bucket.start <= to);
        within
            .chain(&last)
            .map(|bucket| (bucket.low, bucket.high))
            .reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
    }
}

/// One backend's correction.
#[derive(Clone, Debug, Default)]
pub(super) struct Correction {
    own: Ring,
    /// The newest report that could be used: when it was complete, and its difference in flows.
    report: Option<(Duration, f64)>,
    heard: Freshness,
    filtered: f64,
    /// Mean squared distance of reports from the low pass.
    variance: f64,
}

impl Correction {
    /// Moves on by `step` to `now`. `cadence` is how often the server renews its numbers.
    pub(super) fn tick(
        &mut self,
        now: Duration,
        step: Duration,
        input: &Input,
        opening_cap: u32,
        cadence: Duration,
    ) {
        // Half-open flows may or may not have their request at the server: that is what makes it a range.
        let low = input.at_work();
        self.own.note(now, low, low.saturating_add(input.gauge(Gauge::Opening).min(opening_cap)));
        if let Some(report) = &input.reported {
            self.take(now, &report.sane(), cadence);
        }
        let Some((taken, raw)) = self.report else { return };
        let trust = self.heard.trust(now);
        if trust == 0.0 {
            (self.report, self.filtered) = (None, 0.0);
        } else if trust == 1.0 {
            let age = now.saturating_sub(taken);
            let constant = (age.saturating_add(cadence).as_secs_f64() * SLOWER_THAN_AGE).max(FASTEST);
            self.filtered += (raw - self.filtered) * -(-step.as_secs_f64() / constant).exp_m1();
        }
    }

    fn take(&mut self, now: Duration, report: &Reported, cadence: Duration) {
        let newest = self.report.map(|(taken, _)| taken);
        if newest.is_some_and(|newest| report.taken_end <= newest) {
            return;
        }
        let Some(running) = report.running else { return };
        let reported = running + report.waiting.unwrap_or(0.0);
        let from = report.taken_start.saturating_sub(cadence);
        let Some((low, high)) = self.own.range(from, report.taken_end) else { return };
        // Zero within the range; beyond it the distance, so that nothing jumps at its edge.
        let (low, high) = (f64::from(low), f64::from(high));
        let raw = (reported - reported.clamp(low, high)).clamp(-LARGEST, LARGEST);
        if self.report.is_some() {
            self.variance += ((raw - self.filtered).powi(2) - self.variance) / SPREAD_REPORTS;
        }
        self.report = Some((report.taken_end, raw));
        self.heard.note(now, report.taken_end);
    }

    /// Whether the server's queue is known: requests of others show there.
    pub(super) fn sees_queue(&self) -> bool {
        self.report.is_some()
    }

    /// What is on the server beyond our own flows, in flows.
    pub(super) fn flows(&self, now: Duration) -> f64 {
        let faded = self.filtered * self.heard.trust(now);
        if faded.abs() < NOISE { 0.0 } else { faded }
    }

    /// The same as the kernel takes it, with what is no more than noise beyond the pool's `mean` left out; not even the
    /// mean is said of a server that is not heard.
    pub(super) fn output(&self, now: Duration, mean: f64) -> i32 {
        let flows = mean + beyond(self.filtered - mean, BAND * self.variance.sqrt());
        let flows = flows * self.heard.trust(now);
        let flows = if flows.abs() < NOISE { 0.0 } else { flows };
        (flows * f64::from(FLOW)).round() as i32
    }

    pub(super) fn explain(&self, now: Duration) -> CorrectionTerm {
        CorrectionTerm {
            raw: self.report.map(|(_, raw)| raw),
            filtered: self.flows(now),
            age: self.report.map(|(taken, _)| now.saturating_sub(taken)),
        }
    }
}

/// Zero within the band, close to `value` far outside it, and continuous (the garrote of Breiman 1995).
pub(super) fn beyond(value: f64, band: f64) -> f64 {
    if value.abs() <= band { 0.0 } else { value - band * band / value }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Correction;
    use crate::governor::{
        terms::{Input, Reported},
        testing::{input, reported},
    };

    const TICK: Duration = Duration::from_millis(5);
    const CADENCE: Duration = Duration::from_millis(20);

    fn run(correction: &mut Correction, from: Duration, to: Duration, at: impl Fn(Duration) -> Input) {
        let mut now = from;
        while now < to {
            correction.tick(now, TICK, &at(now), u32::MAX, CADENCE);
            now += TICK;
        }
    }

    /// A report every 250 ms that is 10 ms old when it comes.
    fn report_at(now: Duration, flows: f64) -> Option<Reported> {
        let taken = Duration::from_millis((now.as_millis() as u64).saturating_sub(10) / 250 * 250);
        (taken > Duration::ZERO).then(|| reported(flows, 0.0, taken))
    }

    #[test]
    fn foreign_requests_are_found_with_their_sign_and_fade_when_reports_end() {
        for (on_server, expected) in [(26.0, 16.0), (4.0, -6.0), (10.0, 0.0)] {
            let mut correction = Correction::default();
            let own = |now| Input { reported: report_at(now, on_server), ..input([0, 2, 8, 3]) };
            let end = Duration::from_secs(60);
            run(&mut correction, Duration::ZERO, end, own);
            let held = correction.flows(end);
            assert!((held - expected).abs() < 0.1, "{held} for {expected}");
            let silent = |_| Input { reported: report_at(end, on_server), ..input([0, 2, 8, 3]) };
            run(&mut correction, end, end + Duration::from_millis(1600), silent);
            let fading = correction.flows(end + Duration::from_millis(1600));
            assert!(fading.abs() <= held.abs() / 2.0, "{fading} of {held} after 1.6 s of silence");
            run(&mut correction, end + Duration::from_millis(1600), end + Duration::from_secs(3), silent);
            assert_eq!(correction.flows(end + Duration::from_secs(3)), 0.0);
        }
    }

    #[test]
    fn a_report_is_compared_with_the_flows_of_its_own_time() {
        let mut correction = Correction::default();
        let change = Duration::from_millis(500);
        // 40 flows until the change, none after it; the report was taken before and comes 200 ms later.
        let at = |now: Duration| Input {
            reported: (now > change + Duration::from_millis(200))
                .then(|| reported(40.0, 0.0, change - Duration::from_millis(50))),
            ..input([0, 0, if now < change { 40 } else { 0 }, 0])
        };
        run(&mut correction, Duration::ZERO, Duration::from_secs(1), at);
        assert_eq!(correction.explain(Duration::from_secs(1)).raw, Some(0.0));
    }

    #[test]
    fn one_report_moves_the_correction_by_little() {
        let mut correction = Correction::default();
        let at = |now: Duration| Input { reported: report_at(now, 100.0), ..input([0, 0, 0, 0]) };
        run(&mut correction, Duration::ZERO, Duration::from_millis(500), at);
        let moved = correction.flows(Duration::from_millis(500));
        assert!(moved > 0.0 && moved < 15.0, "{moved}");
    }

    #[test]
    fn half_open_flows_are_neither_ours_nor_foreign() {
        let mut correction = Correction::default();
        for on_server in [10.0, 14.0] {
            let at = |now| Input { reported: report_at(now, on_server), ..input([4, 2, 8, 0]) };
            run(&mut correction, Duration::ZERO, Duration::from_secs(2), at);
            assert_eq!(correction.output(Duration::from_secs(2), 0.0), 0, "{on_server}");
        }
    }
}

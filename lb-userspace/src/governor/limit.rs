//! How many requests a server works on at once: configured, or learned from its queue.
//!
//! A server that keeps a queue shows its batch size: `running` while `waiting` is above zero. One report may
//! have caught requests between two steps of the engine, so it takes two in a row that agree.

use std::time::Duration;

use super::terms::{Input, LimitOrigin, LimitTerm, Reported};

/// Reports agree when their batches differ by no more than this part, or by one.
const AGREEMENT: f64 = 0.05;

/// A limit that was not confirmed for this long is raised when the batch is at it, to see whether it still
/// holds, and then again at each interval.
const PATIENCE: Duration = Duration::from_secs(30);
const RAISE_INTERVAL: Duration = Duration::from_secs(10);

/// By how much it is raised: one part in this many, at least one.
const RAISE: u32 = 16;

/// At the limit means: at least this part of it.
const BINDING: f64 = 0.9;

/// Confirmed batches are forgotten after one to two of these: the largest of them is the limit, since a batch
/// that memory bounds varies with the length of its contexts.
const PERIOD: Duration = Duration::from_secs(30);

/// No server batches more.
const LARGEST: f64 = 1e6;

#[derive(Clone, Copy, Debug)]
struct Learned {
    flows: u32,
    /// When it was last confirmed, or raised.
    touched: Duration,
    confirmed: Duration,
    /// Largest confirmed batches of this period and of the one before.
    largest: [u32; 2],
    period: Duration,
}

/// One backend's limit.
#[derive(Clone, Debug, Default)]
pub(super) struct Limit {
    learned: Option<Learned>,
    /// The last report: when it was complete, its batch and its queue.
    last: Option<(Duration, f64, f64)>,
}

impl Limit {
    /// Takes a report if it is a new one. `per_cadence` is how many requests may have come since the engine last
    /// looked at its queue: so many waiting mean nothing.
    pub(super) fn tick(&mut self, now: Duration, input: &Input, per_cadence: f64) {
        let Some(report) = input.reported.as_ref().map(Reported::sane) else { return };
        if self.last.is_some_and(|(taken, ..)| report.taken_end <= taken) {
            return;
        }
        let (Some(running), Some(waiting)) = (report.running, report.waiting) else { return };
        let running = running.min(LARGEST);
        let before = self.last.replace((report.taken_end, running, waiting));
        let Some((_, last_running, last_waiting)) = before else { return };
        let agree = (running - last_running).abs() <= (running * AGREEMENT).max(1.0);
        let queued = waiting.min(last_waiting) > 0.0 && waiting.min(last_waiting) >= per_cadence;
        if queued && agree && running >= 1.0 {
            self.confirm(now, running.max(last_running).round() as u32);
        } else if let Some(learned) = &mut self.learned {
            // More than the limit, or as much and no queue in sight: it is not the limit.
            if running > f64::from(learned.flows) && agree {
                learned.flows = running.max(last_running).round() as u32;
                learned.touched = now;
            } else if waiting == 0.0 && running >= f64::from(learned.flows) * BINDING {
                learned.raise(now);
            }
        }
    }

    fn confirm(&mut self, now: Duration, batch: u32) {
        let learned = self.learned.get_or_insert(Learned {
            flows: batch,
            touched: now,
            confirmed: now,
            largest: [batch, 0],
            period: now,
        });
        if now.saturating_sub(learned.period) >= PERIOD {
            learned.largest = [0, learned.largest[0]];
            learned.period = now;
        }
        learned.largest[0] = learned.largest[0].max(batch);
        learned.flows = learned.largest[0].max(learned.largest[1]);
        (learned.touched, learned.confirmed) = (now, now);
    }

    /// The limit in flows, if there is one.
    pub(super) fn explain(&self, configured: Option<u32>) -> LimitTerm {
        match (configured.filter(|limit| *limit > 0), self.learned) {
            (Some(flows), _) => {
                LimitTerm { flows: Some(flows), origin: LimitOrigin::Configured, since: None }
            }
            (None, Some(learned)) => LimitTerm {
                flows: Some(learned.flows),
                origin: LimitOrigin::Learned,
                since: Some(learned.confirmed),
            },
            (None, None) => LimitTerm::default(),
        }
    }
}

impl Learned {
    fn raise(&mut self, now: Duration) {
        let untouched = now.saturating_sub(self.touched);
        let unconfirmed = now.saturating_sub(self.confirmed);
        if unconfirmed >= PATIENCE && untouched >= RAISE_INTERVAL {
            self.flows = self.flows.saturating_add((self.flows / RAISE).max(1));
            self.touched = now;
            // What was seen before is in doubt now; a new confirmation starts afresh.
            self.largest = [0, 0];
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Limit;
    use crate::governor::{
        terms::Input,
        testing::{input, reported},
    };

    /// Feeds reports of (running, waiting), one each 250 ms from `first` on.
    fn feed(limit: &mut Limit, first: u32, reports: impl IntoIterator<Item = (f64, f64)>) -> u32 {
        let mut number = first;
        for (running, waiting) in reports {
            number += 1;
            let taken = Duration::from_millis(250) * number;
            let input = Input { reported: Some(reported(running, waiting, taken)), ..input([0; 4]) };
            limit.tick(taken, &input, 0.0);
        }
        number
    }

    fn flows(limit: &Limit) -> Option<u32> {
        limit.explain(None).flows
    }

    #[test]
    fn two_reports_with_a_queue_make_a_limit() {
        let mut limit = Limit::default();
        let next = feed(&mut limit, 0, [(20.0, 0.0), (32.0, 4.0), (30.0, 0.0)]);
        assert_eq!(flows(&limit), None, "one report confirms nothing");
        feed(&mut limit, next, [(32.0, 4.0), (32.0, 9.0)]);
        assert_eq!(flows(&limit), Some(32));
        assert_eq!(limit.explain(Some(8)).flows, Some(8), "configuration comes first");
    }

    #[test]
    fn a_queue_no_longer_than_one_step_gathers_is_no_queue() {
        let mut limit = Limit::default();
        for number in 1..100 {
            let taken = Duration::from_millis(250) * number;
            let input = Input { reported: Some(reported(10.0, 1.0, taken)), ..input([0; 4]) };
            limit.tick(taken, &input, 2.0);
        }
        assert_eq!(flows(&limit), None);
    }

    #[test]
    fn a_larger_batch_lifts_the_limit_and_a_smaller_one_waits() {
        let mut limit = Limit::default();
        let next = feed(&mut limit, 0, [(32.0, 4.0), (32.0, 4.0), (48.0, 0.0), (48.0, 0.0)]);
        assert_eq!(flows(&limit), Some(48));
        let next = feed(&mut limit, next, [(64.0, 1.0), (64.0, 1.0)]);
        assert_eq!(flows(&limit), Some(64));
        let next = feed(&mut limit, next, [(16.0, 3.0); 2]);
        assert_eq!(flows(&limit), Some(64), "the largest of the last half minute");
        feed(&mut limit, next, [(16.0, 3.0); 300]);
        assert_eq!(flows(&limit), Some(16), "after a minute of smaller batches");
    }

    #[test]
    fn an_unconfirmed_limit_is_probed_upwards_only_where_it_binds() {
        let mut limit = Limit::default();
        let next = feed(&mut limit, 0, [(32.0, 4.0); 2]);
        let next = feed(&mut limit, next, [(20.0, 0.0); 1000]);
        assert_eq!(flows(&limit), Some(32), "it does not bind");
        let next = feed(&mut limit, next, [(32.0, 0.0)]);
        assert_eq!(flows(&limit), Some(34));
        feed(&mut limit, next, [(32.0, 2.0); 2]);
        assert_eq!(flows(&limit), Some(32), "it was right");
    }

    #[test]
    fn reports_without_numbers_teach_nothing() {
        let mut limit = Limit::default();
        feed(&mut limit, 0, [(f64::NAN, 4.0), (32.0, f64::INFINITY), (-1.0, 3.0), (0.0, 5.0), (0.0, 5.0)]);
        assert_eq!(flows(&limit), None);
    }
}

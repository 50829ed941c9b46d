//! How many requests a server works on at once: configured, or told by the server, or learned from its queue.
//!
//! What a server tells is the most that it will ever batch; memory may hold it below that, which only its queue shows.
//! A server that keeps a queue shows its batch size: `running` while `waiting` is above zero. But requests also
//! wait for a moment between two steps of the engine, for prefills before them, or for memory, and a limit that is too
//! low keeps a good server empty. So it takes many reports in a row, of a batch that stands still although there
//! are requests to add, and that is as large as it has lately been.
//!
//! What reports made ends with them: a limit that is too low keeps away the very flows that would show it.

use std::{collections::VecDeque, time::Duration};

use lb_common::slot::Gauge;

use super::{
    freshness::Freshness,
    terms::{Input, LimitOrigin, LimitTerm, Reported},
};

/// Reports in a row, each with a queue, that can make a limit: three seconds of the usual ones.
const CONFIRMATIONS: usize = 12;

/// The largest batch among them makes a limit if at least so many of them have it exactly. A batch that is held by
/// its slots is full whenever it is not just refilled; one that is held by prefills (their tokens fill each step) or
/// by memory varies, and keeping flows from it made bursts of long prompts worse by a half in simulation.
const AGREEMENT: usize = 6;

/// A server whose KV cache is fuller than this is bound by memory: its batch varies with its contexts, and holding
/// flows back from it did worse in simulation than letting them queue.
const MEMORY_BOUND: f64 = 0.9;

/// A batch below this part of the largest one lately seen is not at its limit; from this part of the limit on,
/// the limit is what holds it.
const BINDING: f64 = 0.95;

/// A limit that holds the batch without a queue in sight is tried upwards after this time: it may be too low.
/// Each trial that finds it right doubles the time to the next.
const FIRST_TRIAL: Duration = Duration::from_secs(4);
const RAREST_TRIAL: Duration = Duration::from_secs(256);

/// By how much it is raised: one part in this many, at least one.
const RAISE: u32 = 16;

/// The largest batch is remembered for one to two of these: one that memory bounds varies with its contexts.
const PERIOD: Duration = Duration::from_secs(30);

/// A server that is not heard is judged by our own flows, looked at this often.
const GLANCE: Duration = Duration::from_millis(250);

/// So many of our own flows that await an answer may be in the batch, in prefill; and fewer that stream than the
/// other are no batch to judge by.
const PREFILLS: u32 = 1;
const SMALLEST: u32 = 4;

/// No server batches more.
const LARGEST: f64 = 1e6;

/// The largest value of the last one to two periods.
#[derive(Clone, Copy, Debug, Default)]
struct Peak {
    largest: [f64; 2],
    since: Duration,
}

impl Peak {
    fn see(&mut self, now: Duration, value: f64) -> f64 {
        if now.saturating_sub(self.since) >= PERIOD {
            *self = Self { largest: [0.0, self.largest[0]], since: now };
        }
        self.largest[0] = self.largest[0].max(value);
        self.largest[0].max(self.largest[1])
    }
}

#[derive(Clone, Copy, Debug)]
struct Learned {
    flows: u32,
    confirmed: Duration,
    /// By reports, not by our own flows.
    reported: bool,
    /// When the next trial may be, and how long the one after it will wait.
    trial: Duration,
    patience: Duration,
    /// What the limit was before the trial under way.
    before_trial: Option<u32>,
}

/// One backend's limit.
#[derive(Clone, Debug, Default)]
pub(super) struct Limit {
    learned: Option<Learned>,
    /// The server's own setting.
    told: Option<u32>,
    reports: Freshness,
    /// Reports are believed, so that our own flows are not looked at.
    heard: bool,
    /// When our own flows were looked at last.
    glanced: Duration,
    peak: Peak,
    /// Batch and queue of the last reports or looks, the newest last.
    recent: VecDeque<(f64, f64)>,
}

impl Limit {
    /// Takes what there is to see at a server, if it is new.
    pub(super) fn tick(&mut self, now: Duration, input: &Input) {
        let report = input.reported.as_ref().map(Reported::sane);
        let news = report.filter(|report| self.reports.note(now, report.taken_end));
        self.hear(self.reports.trust(now) > 0.0);
        let report = report.filter(|_| self.heard);
        self.told = report.and_then(|report| report.max_num_seqs);
        let Some((running, waiting)) = self.look(now, news.as_ref(), input) else { return };
        let running = running.min(LARGEST);
        let memory = report.and_then(|report| report.kv_usage);
        if memory.is_some_and(|usage| usage > MEMORY_BOUND) {
            self.recent.clear();
            return;
        }
        let peak = self.peak.see(now, running);
        if self.recent.len() == CONFIRMATIONS {
            self.recent.pop_front();
        }
        self.recent.push_back((running, waiting));
        if let Some(batch) = self.standstill().filter(|batch| *batch >= peak * BINDING) {
            self.confirm(now, batch.max(peak).round() as u32);
        } else if let Some(learned) = &mut self.learned {
            learned.doubt(now, running, waiting);
        }
    }

    /// Reports are believed from now on, or no longer.
    fn hear(&mut self, heard: bool) {
        if self.heard != heard {
            self.heard = heard;
            self.recent.clear();
        }
        self.learned = self.learned.filter(|learned| heard || !learned.reported);
    }

    /// Batch and queue, if they are new: the server's word, or without one our own flows, as if streaming ones were its
    /// batch.
    fn look(&mut self, now: Duration, news: Option<&Reported>, input: &Input) -> Option<(f64, f64)> {
        if self.heard {
            return news.and_then(|report| report.running.zip(report.waiting));
        }
        if now < self.glanced + GLANCE {
            return None;
        }
        self.glanced = now;
        let batch = input.gauge(Gauge::Streaming);
        let queue = input.gauge(Gauge::Awaiting).saturating_sub(PREFILLS);
        (batch >= SMALLEST).then_some((f64::from(batch), f64::from(queue)))
    }

    /// The size of a batch that stands still although requests wait.
    fn standstill(&self) -> Option<f64> {
        let largest = self.recent.iter().map(|(running, _)| *running).fold(0.0, f64::max);
        let held = self.recent.iter().filter(|(running, _)| *running == largest).count();
        let queued = self.recent.iter().all(|(_, waiting)| *waiting >= 1.0);
        let full = self.recent.len() == CONFIRMATIONS && queued && held >= AGREEMENT && largest >= 1.0;
        full.then_some(largest)
    }

    fn confirm(&mut self, now: Duration, batch: u32) {
        let fresh = Learned {
            flows: batch,
            confirmed: now,
            reported: self.heard,
            trial: now + FIRST_TRIAL,
            patience: FIRST_TRIAL,
            before_trial: None,
        };
        let learned = self.learned.get_or_insert(fresh);
        match learned.before_trial.take() {
            Some(before) if batch <= before => {
                learned.patience = (learned.patience * 2).min(RAREST_TRIAL);
            }
            Some(_) => learned.patience = FIRST_TRIAL,
            None => {}
        }
        (learned.flows, learned.confirmed, learned.reported) = (batch, now, self.heard);
        learned.trial = now + learned.patience;
    }

    /// The limit in flows, if there is one.
    pub(super) fn explain(&self, configured: Option<u32>) -> LimitTerm {
        let set = |flows, origin| LimitTerm { flows: Some(flows), origin, since: None };
        if let Some(flows) = configured.filter(|limit| *limit > 0) {
            return set(flows, LimitOrigin::Configured);
        }
        match (self.told, self.learned) {
            (Some(told), Some(learned)) if told <= learned.flows => set(told, LimitOrigin::Reported),
            (Some(told), None) => set(told, LimitOrigin::Reported),
            (_, Some(learned)) => {
                LimitTerm { since: Some(learned.confirmed), ..set(learned.flows, LimitOrigin::Learned) }
            }
            (None, None) => LimitTerm::default(),
        }
    }
}

impl Learned {
    /// A report that does not confirm the limit.
    fn doubt(&mut self, now: Duration, running: f64, waiting: f64) {
        if running > f64::from(self.flows) {
            self.flows = running.round() as u32;
            (self.before_trial, self.patience) = (None, FIRST_TRIAL);
            self.trial = now + self.patience;
        } else if let Some(before) = self.before_trial.filter(|before| running <= f64::from(*before)) {
            // The first one that waits ends the trial: it would have gone elsewhere.
            if waiting >= 1.0 {
                (self.flows, self.before_trial) = (before, None);
                self.patience = (self.patience * 2).min(RAREST_TRIAL);
                self.trial = now + self.patience;
            }
        } else if waiting == 0.0 && now >= self.trial && running >= f64::from(self.flows) * BINDING {
            self.before_trial.get_or_insert(self.flows);
            self.flows = self.flows.saturating_add((self.flows / RAISE).max(1));
            self.trial = now + FIRST_TRIAL;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{CONFIRMATIONS, Limit};
    use crate::governor::{
        terms::{Input, LimitOrigin, Reported},
        testing::{input, reported},
    };

    /// Feeds reports of (running, waiting), one each 250 ms from `first` on.
    fn feed(limit: &mut Limit, first: u32, reports: impl IntoIterator<Item = (f64, f64)>) -> u32 {
        let mut number = first;
        for (running, waiting) in reports {
            number += 1;
            let taken = Duration::from_millis(250) * number;
            limit.tick(taken, &Input { reported: Some(reported(running, waiting, taken)), ..input([0; 4]) });
        }
        number
    }

    fn flows(limit: &Limit) -> Option<u32> {
        limit.explain(None).flows
    }

    /// As many reports of a full batch with a queue as make a limit.
    fn full(running: f64) -> impl Iterator<Item = (f64, f64)> {
        (0..CONFIRMATIONS).map(move |number| (running - f64::from(u8::from(number % 3 == 1)), 4.0))
    }

    #[test]
    fn a_batch_that_stands_still_before_a_queue_is_the_limit() {
        let mut limit = Limit::default();
        let next = feed(&mut limit, 0, [(20.0, 0.0)].into_iter().chain(full(32.0).skip(1)));
        assert_eq!(flows(&limit), None, "one report too few confirms nothing");
        feed(&mut limit, next, [(32.0, 1.0)]);
        assert_eq!(flows(&limit), Some(32));
        assert_eq!(limit.explain(Some(8)).flows, Some(8), "configuration comes first");
    }

    #[test]
    fn requests_that_wait_for_a_step_or_a_prefill_make_no_limit() {
        type Report = fn(u32) -> (f64, f64);
        let cases: [(&str, Report); 3] = [
            ("the batch moves", |number| (f64::from(10 + number * 7 % 5), 3.0)),
            ("the queue empties", |number| (10.0, f64::from(number % 6))),
            ("it was larger before", |number| if number == 0 { (20.0, 0.0) } else { (10.0, 6.0) }),
        ];
        for (why, report) in cases {
            let mut limit = Limit::default();
            feed(&mut limit, 0, (0..100).map(report));
            assert_eq!(flows(&limit), None, "{why}");
        }
    }

    #[test]
    fn a_batch_bound_by_memory_makes_no_limit() {
        let mut limit = Limit::default();
        for number in 1..100 {
            let taken = Duration::from_millis(250) * number;
            let report = Reported { kv_usage: Some(0.97), ..reported(99.0, 40.0, taken) };
            limit.tick(taken, &Input { reported: Some(report), ..input([0; 4]) });
        }
        assert_eq!(flows(&limit), None);
    }

    #[test]
    fn a_larger_batch_lifts_the_limit_and_a_smaller_one_waits() {
        let mut limit = Limit::default();
        let next = feed(&mut limit, 0, full(32.0).chain([(48.0, 0.0)]));
        assert_eq!(flows(&limit), Some(48));
        let next = feed(&mut limit, next, [(16.0, 3.0); 14]);
        assert_eq!(flows(&limit), Some(48), "it was larger a moment ago");
        feed(&mut limit, next, [(16.0, 3.0); 300]);
        assert_eq!(flows(&limit), Some(16), "after a minute of smaller batches");
    }

    #[test]
    fn a_limit_is_tried_upwards_only_where_it_binds_and_ever_more_rarely() {
        let mut limit = Limit::default();
        let mut next = feed(&mut limit, 0, full(32.0));
        next = feed(&mut limit, next, [(20.0, 0.0); 100]);
        assert_eq!(flows(&limit), Some(32), "it does not bind");
        let mut waited = Vec::new();
        for _ in 0..4 {
            let start = next;
            while flows(&limit) == Some(32) {
                next = feed(&mut limit, next, [(32.0, 0.0)]);
            }
            assert_eq!(flows(&limit), Some(34));
            waited.push((next - start) / 4);
            next = feed(&mut limit, next, full(32.0));
            assert_eq!(flows(&limit), Some(32), "it was right");
        }
        assert_eq!(waited, [0, 8, 16, 32], "seconds");
    }

    #[test]
    fn without_reports_our_own_flows_tell() {
        let mut limit = Limit::default();
        for tick in 0..1000_u32 {
            // Streaming varies a little: a slot that is free goes to the prefill of the next.
            let streaming = 32 - u32::from(tick % 7 == 0);
            limit.tick(Duration::from_millis(5) * tick, &input([0, 12, streaming, 0]));
        }
        assert_eq!(flows(&limit), Some(32));
    }

    #[test]
    fn what_the_server_tells_holds_unless_its_queue_or_the_configuration_says_less() {
        type Case = (Option<u32>, Option<f64>, Option<u32>, Option<u32>, LimitOrigin);
        let cases: [Case; 7] = [
            (None, None, None, None, LimitOrigin::Unknown),
            (Some(0), None, None, None, LimitOrigin::Unknown),
            (Some(256), None, None, Some(256), LimitOrigin::Reported),
            (Some(256), Some(32.0), None, Some(32), LimitOrigin::Learned),
            (Some(16), Some(32.0), None, Some(16), LimitOrigin::Reported),
            (Some(256), None, Some(512), Some(512), LimitOrigin::Configured),
            (Some(256), Some(32.0), Some(8), Some(8), LimitOrigin::Configured),
        ];
        for (told, batch, configured, flows, origin) in cases {
            let mut limit = Limit::default();
            let next = batch.map_or(0, |batch| feed(&mut limit, 0, full(batch)));
            let taken = Duration::from_millis(250) * (next + 1);
            let report = Reported { max_num_seqs: told, ..reported(1.0, 0.0, taken) };
            limit.tick(taken, &Input { reported: Some(report), ..input([0; 4]) });
            let term = limit.explain(configured);
            assert_eq!(
                (term.flows, term.origin),
                (flows, origin),
                "told {told:?}, learned {batch:?}, configured {configured:?}"
            );
        }
    }

    #[test]
    fn reports_without_numbers_teach_nothing() {
        let mut limit = Limit::default();
        feed(&mut limit, 0, [(f64::NAN, 4.0), (32.0, f64::INFINITY), (-1.0, 3.0), (0.0, 5.0), (0.0, 5.0)]);
        assert_eq!(flows(&limit), None);
    }
}

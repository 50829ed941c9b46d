//! Figures of a study: medians over seeds, as a table, JSON and a picture.

use std::{fmt::Write as _, time::Duration};

use serde::Serialize;

use super::{
    Policy, Times,
    spectrum::{self, Line},
    svg,
};

/// One run of one policy.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) first_token: Times,
    pub(super) latency: Times,
    pub(super) tokens_per_second: f64,
    pub(super) unfinished: usize,
    pub(super) learned: Vec<Option<Duration>>,
    pub(super) spectrum: Vec<Line>,
}

/// How long a governor took to follow changes of speed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LearningTime {
    /// Changes, over all seeds.
    pub changes: usize,
    /// Those that were followed before the next change or the end.
    pub followed: usize,
    /// Half of those took no longer, in seconds.
    pub p50: f64,
    /// Nine tenths of them took no longer.
    pub p90: f64,
}

/// One policy's medians over the seeds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PolicyReport {
    /// Its name.
    pub name: &'static str,
    /// From opening the connection to the first token, in seconds.
    pub ttft_seconds: Times,
    /// From opening the connection to the last token, in seconds.
    pub latency_seconds: Times,
    /// Tokens that clients got, a second.
    pub output_tokens_per_second: f64,
    /// Requests that were not answered within an hour.
    pub unfinished: f64,
    /// Time to follow changes of speed, where a governor ran and there were any.
    pub learning_seconds: Option<LearningTime>,
    /// Power of the servers' load at the period of reports, over the median of the power around it: 1 is no swing.
    pub swing: Option<f64>,
    /// The spectrum of the servers' load against the mean of all, as a mean over seeds.
    pub spectrum: Vec<Line>,
}

/// All policies of a study.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// One a policy, in the order asked for.
    pub policies: Vec<PolicyReport>,
    /// Virtual seconds of a run, without the time to answer what is left.
    pub span_seconds: f64,
    /// The period of reports and of what is told of them, in seconds.
    pub report_seconds: f64,
}

impl Report {
    pub(super) fn of(
        policies: &[Policy],
        runs: impl Iterator<Item = (usize, Run)>,
        span: Duration,
        interval: Duration,
    ) -> Self {
        let mut by_policy: Vec<Vec<Run>> = vec![Vec::new(); policies.len()];
        for (policy, run) in runs {
            by_policy[policy].push(run);
        }
        let hertz = 1.0 / interval.as_secs_f64();
        let report = |(policy, runs): (&Policy, &Vec<Run>)| PolicyReport::of(*policy, runs, hertz);
        Self {
            policies: policies.iter().zip(&by_policy).map(report).collect(),
            span_seconds: span.as_secs_f64(),
            report_seconds: interval.as_secs_f64(),
        }
    }

    /// The report of a policy, if it was asked for.
    pub fn policy(&self, policy: Policy) -> Option<&PolicyReport> {
        self.policies.iter().find(|report| report.name == policy.name())
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<20} {:>8} {:>8} {:>8}  {:>8} {:>8} {:>8}  {:>9} {:>10} {:>6}\n",
            "POLICY", "TTFT", "P50", "P99", "LATENCY", "P50", "P99", "TOKENS/S", "UNFINISHED", "SWING"
        );
        for report in &self.policies {
            let (first, whole) = (report.ttft_seconds, report.latency_seconds);
            let swing = report.swing.map_or("-".to_owned(), |swing| format!("{swing:.1}"));
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{:<20} {:>8.4} {:>8.4} {:>8.4}  {:>8.3} {:>8.3} {:>8.3}  {:>9.0} {:>10} {swing:>6}",
                report.name,
                first.mean,
                first.p50,
                first.p99,
                whole.mean,
                whole.p50,
                whole.p99,
                report.output_tokens_per_second,
                report.unfinished,
            );
        }
        for report in &self.policies {
            if let Some(learning) = report.learning_seconds {
                let _ = writeln!(
                    text,
                    "{}: {} of {} changes of speed were followed, half of them within {:.1} s, nine tenths within {:.1} s",
                    report.name, learning.followed, learning.changes, learning.p50, learning.p90
                );
            }
        }
        text
    }

    /// A picture: bars of times, and spectra.
    pub fn svg(&self, title: &str) -> String {
        svg::draw(self, title)
    }
}

impl PolicyReport {
    fn of(policy: Policy, runs: &[Run], hertz: f64) -> Self {
        let spectrum = mean_spectrum(runs);
        Self {
            name: policy.name(),
            ttft_seconds: medians(runs, |run| run.first_token),
            latency_seconds: medians(runs, |run| run.latency),
            output_tokens_per_second: median(runs.iter().map(|run| run.tokens_per_second).collect()),
            unfinished: median(runs.iter().map(|run| run.unfinished as f64).collect()),
            learning_seconds: LearningTime::of(runs),
            swing: spectrum::peak(&spectrum, hertz),
            spectrum,
        }
    }
}

impl LearningTime {
    fn of(runs: &[Run]) -> Option<Self> {
        let all = || runs.iter().flat_map(|run| &run.learned);
        let times = Times::of(all().flatten().map(Duration::as_secs_f64).collect());
        let (changes, followed) = (all().count(), all().flatten().count());
        (changes > 0).then_some(Self { changes, followed, p50: times.p50, p90: times.p90 })
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let half = values.len() / 2;
    match (values.get(half), values.len() % 2) {
        (None, _) => 0.0,
        (Some(upper), 1) => *upper,
        (Some(upper), _) => (upper + values[half - 1]) / 2.0,
    }
}

fn medians(runs: &[Run], of: impl Fn(&Run) -> Times) -> Times {
    let one = |pick: fn(Times) -> f64| median(runs.iter().map(|run| pick(of(run))).collect());
    Times { mean: one(|t| t.mean), p50: one(|t| t.p50), p90: one(|t| t.p90), p99: one(|t| t.p99) }
}

fn mean_spectrum(runs: &[Run]) -> Vec<Line> {
    let Some(first) = runs.first() else { return Vec::new() };
    let mean = |(number, line): (usize, &Line)| {
        let powers = runs.iter().filter_map(|run| run.spectrum.get(number)).map(|line| line.power);
        Line { hertz: line.hertz, power: powers.sum::<f64>() / runs.len() as f64 }
    };
    first.spectrum.iter().enumerate().map(mean).collect()
}

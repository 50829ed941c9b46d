//! The figures of all runs: the table, the ratios in words, and the JSON.

use std::fmt;

use guidevane_tests::load::Quantiles;
use serde::{Serialize, Serializer, ser::SerializeStruct as _};

use crate::contest::{Contestant, Run};

/// Width of the first column and of each run's.
const LABEL: usize = 28;
const COLUMN: usize = 19;

/// The report that the demo's set-up follows, and what it measured on real GPUs.
const TOLLY: [&str; 2] = [
    "  The Tolly Group's report 226104 (March 2026) gives +40 %, -61 % and -34 % for F5's load-aware balancer on a DPU",
    "  against HAProxy's round robin, with a 70B model on real GPUs of which half were loaded from outside.",
];

/// All runs, in the order of [`Contestant::ALL`].
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// The runs.
    pub runs: Vec<Run>,
}

impl Serialize for Run {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let report = &self.report;
        let mut run = serializer.serialize_struct("Run", 10)?;
        run.serialize_field("balancer", &self.balancer.to_string())?;
        run.serialize_field("requests", &report.requests)?;
        run.serialize_field("failed", &report.failed)?;
        run.serialize_field("output_tokens_per_second", &report.output_tokens_per_second)?;
        run.serialize_field("ttft_seconds", &report.ttft_seconds)?;
        run.serialize_field("latency_seconds", &report.latency_seconds)?;
        run.serialize_field("inter_token_seconds", &report.inter_token_seconds)?;
        run.serialize_field("unfinished", &report.unfinished)?;
        run.serialize_field("seconds", &report.seconds)?;
        run.serialize_field("server_lag_seconds", &self.lag_seconds)?;
        run.end()
    }
}

impl Comparison {
    /// Requests that failed, over all runs.
    pub fn failed(&self) -> u64 {
        self.runs.iter().map(|run| run.report.failed).sum()
    }

    fn of(&self, contestant: Contestant) -> Option<&Run> {
        self.runs.iter().find(|run| run.balancer == contestant)
    }

    fn row(&self, label: &str, cell: impl Fn(&Run) -> String) -> String {
        let mut line = format!("{label:<LABEL$}");
        for run in &self.runs {
            line += &format!("{:>COLUMN$}", cell(run));
        }
        line + "\n"
    }

    fn times(&self, label: &str, times: impl Fn(&Run) -> Option<Quantiles>) -> String {
        const FIGURES: [&str; 4] = ["mean", "p50", "p90", "p99"];
        let row = |(index, name): (usize, &str)| {
            let figure = |Quantiles { mean, p50, p90, p99 }: Quantiles| [mean, p50, p90, p99][index];
            let cell =
                |run: &Run| times(run).map_or("none".to_owned(), |times| format!("{:.3}", figure(times)));
            self.row(&format!("{label}, {name}"), cell)
        };
        FIGURES.into_iter().enumerate().map(row).collect()
    }

    /// How the first run differs from another, in words.
    fn against(&self, other: Contestant, name: &str) -> Option<String> {
        let (own, other) = (self.of(Contestant::Guidevane)?, self.of(other)?);
        let change = |figure: fn(&Run) -> Option<f64>| Some(percent(figure(own)?, figure(other)?));
        let tokens = change(tokens_per_second)?;
        let first_token = change(mean_first_token)?;
        let latency = change(mean_latency)?;
        Some(format!(
            "Guidevane against {name}: {tokens} output tokens/s, {first_token} mean time to first token, \
             {latency} mean latency.\n"
        ))
    }
}

/// Output tokens a second.
pub fn tokens_per_second(run: &Run) -> Option<f64> {
    Some(run.report.output_tokens_per_second)
}

/// Mean time to first token in seconds.
pub fn mean_first_token(run: &Run) -> Option<f64> {
    run.report.ttft_seconds.map(|times| times.mean)
}

/// Mean latency in seconds.
pub fn mean_latency(run: &Run) -> Option<f64> {
    run.report.latency_seconds.map(|times| times.mean)
}

fn percent(value: f64, reference: f64) -> String {
    let change = ((value / reference - 1.0) * 100.0).round();
    // Adding zero makes of a negative zero a positive one.
    format!("{:+.0} %", change + 0.0)
}

impl fmt::Display for Comparison {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("\n")?;
        out.write_str(&self.row("", |run| run.balancer.to_string()))?;
        out.write_str(
            &self.row("output tokens/s", |run| format!("{:.0}", run.report.output_tokens_per_second)),
        )?;
        out.write_str(&self.times("time to first token s", |run| run.report.ttft_seconds))?;
        out.write_str(&self.times("latency s", |run| run.report.latency_seconds))?;
        out.write_str(&self.row("requests", |run| run.report.requests.to_string()))?;
        out.write_str(&self.row("failed", |run| run.report.failed.to_string()))?;
        out.write_str("\n")?;
        let against = |contestant, name| self.against(contestant, name).unwrap_or_default();
        out.write_str(&against(Contestant::RoundRobin, "round robin"))?;
        writeln!(out, "{}", TOLLY.join("\n"))?;
        out.write_str(&against(Contestant::LeastConnections, "least connections"))
    }
}

#[cfg(test)]
pub mod tests {
    use std::collections::BTreeMap;

    use guidevane_tests::load::{Quantiles, Report};
    use serde_json::json;

    use super::Comparison;
    use crate::contest::{Contestant, Run};

    /// A comparison in which Guidevane gives 140 % of the others' tokens in a third and two thirds of their times.
    pub fn comparison() -> Comparison {
        let run = |balancer, tokens, first, latency| {
            let times = |mean| Some(Quantiles { mean, p50: mean, p90: 2.0 * mean, p99: 4.0 * mean });
            let report = Report {
                requests: 100,
                failed: 0,
                output_tokens_per_second: tokens,
                ttft_seconds: times(first),
                latency_seconds: times(latency),
                inter_token_seconds: times(0.01),
                unfinished: 3,
                failures: BTreeMap::new(),
                seconds: 10.0,
            };
            Run { balancer, report, lag_seconds: 0.0 }
        };
        Comparison {
            runs: vec![
                run(Contestant::Guidevane, 1400.0, 0.5, 2.0),
                run(Contestant::RoundRobin, 1000.0, 1.5, 3.0),
                run(Contestant::LeastConnections, 1400.0, 0.4, 2.0),
            ],
        }
    }

    #[test]
    fn the_json_has_its_published_shape() {
        let json = serde_json::to_value(comparison()).unwrap();
        let names: Vec<_> = json["runs"].as_array().unwrap().iter().map(|run| &run["balancer"]).collect();
        assert_eq!(names, ["guidevane", "round-robin", "least-connections"]);
        let run = &json["runs"][1];
        assert_eq!((&run["requests"], &run["failed"]), (&json!(100), &json!(0)));
        assert_eq!(run["output_tokens_per_second"], json!(1000.0));
        assert_eq!(run["ttft_seconds"], json!({"mean": 1.5, "p50": 1.5, "p90": 3.0, "p99": 6.0}));
        assert_eq!(run["latency_seconds"], json!({"mean": 3.0, "p50": 3.0, "p90": 6.0, "p99": 12.0}));
    }

    #[test]
    fn the_table_has_a_column_a_run_and_the_ratios_in_words() {
        let text = comparison().to_string();
        let row = |label: &str| -> Vec<String> {
            let line = text.lines().find(|line| line.starts_with(label));
            let line = line.unwrap_or_else(|| panic!("no {label} in {text}"));
            line[label.len()..].split_whitespace().map(str::to_owned).collect()
        };
        assert_eq!(row("output tokens/s"), ["1400", "1000", "1400"]);
        assert_eq!(row("time to first token s, p90"), ["1.000", "3.000", "0.800"]);
        assert_eq!(row("failed"), ["0", "0", "0"]);
        let expected =
            "round robin: +40 % output tokens/s, -67 % mean time to first token, -33 % mean latency.";
        assert!(text.contains(expected), "{text}");
        let expected =
            "connections: +0 % output tokens/s, +25 % mean time to first token, +0 % mean latency.";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn a_figure_that_was_not_measured_is_not_shown_as_a_number() {
        let mut comparison = comparison();
        comparison.runs[1].report.ttft_seconds = None;
        let text = comparison.to_string();
        assert!(text.contains("none") && !text.contains("NaN") && !text.contains("inf"), "{text}");
        assert!(!text.contains("against round robin:"), "{text}");
    }
}

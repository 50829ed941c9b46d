//! What a simulated server measures about itself, and its text in vLLM's names and shapes (vLLM 0.32).

use std::fmt::Write as _;

use crate::sim::engine::{BLOCK_TOKENS, Counters};

/// Upper bounds in seconds, as vLLM's, without the last, infinite one.
const FIRST_TOKEN_BOUNDS: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0, 2560.0,
];
const INTER_TOKEN_BOUNDS: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];
const REQUEST_BOUNDS: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0,
    960.0, 1920.0, 7680.0,
];

/// A histogram as Prometheus has them.
#[derive(Debug, Clone)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One more than bounds: the last counts what is above all of them.
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    /// Counts one observation, in seconds.
    pub fn observe(&mut self, seconds: f64) {
        self.counts[self.bounds.partition_point(|bound| *bound < seconds)] += 1;
        self.sum += seconds;
    }

    /// The mean of all observations, in seconds; none before the first.
    pub fn mean(&self) -> Option<f64> {
        let count: u64 = self.counts.iter().sum();
        (count > 0).then(|| self.sum / count as f64)
    }

    fn render(&self, text: &mut String, name: &str, help: &str, labels: &str) {
        header(text, name, help, "histogram");
        let mut total = 0;
        let bounds = self.bounds.iter().map(|bound| format!("{bound:?}")).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(&self.counts) {
            total += count;
            let _ = writeln!(text, "vllm:{name}_bucket{{engine=\"0\",le=\"{bound}\",{labels}}} {total}.0");
        }
        let _ = writeln!(text, "vllm:{name}_count{{engine=\"0\",{labels}}} {total}.0");
        let _ = writeln!(text, "vllm:{name}_sum{{engine=\"0\",{labels}}} {:?}", self.sum);
    }
}

/// The latest state of a server, as its metrics and its owner see it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Stats {
    /// Sequences in the batch, foreign ones included.
    pub running: u32,
    /// Requests in the queue.
    pub waiting: u32,
    /// Foreign sequences asked for.
    pub foreign: u32,
    /// The part of the KV cache in use, from 0 to 1.
    pub kv_usage: f64,
    /// The rate factor of the latest step, speed included.
    pub rate: f64,
    /// Totals of the engine.
    pub counters: Counters,
    /// Seconds by which the server fell behind its own model because the machine was too busy.
    pub lag_seconds: f64,
}

/// Everything that `/metrics` shows.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Gauges and totals.
    pub stats: Stats,
    /// Arrival to first token.
    pub first_token: Histogram,
    /// Gaps between tokens.
    pub inter_token: Histogram,
    /// Arrival to batch slot.
    pub queue: Histogram,
    /// Arrival to last token.
    pub request: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            stats: Stats::default(),
            first_token: Histogram::new(FIRST_TOKEN_BOUNDS),
            inter_token: Histogram::new(INTER_TOKEN_BOUNDS),
            queue: Histogram::new(REQUEST_BOUNDS),
            request: Histogram::new(REQUEST_BOUNDS),
        }
    }
}

impl Metrics {
    /// The text of `/metrics` for a server of `model` with `kv_blocks` blocks of KV cache.
    pub fn render(&self, model: &str, kv_blocks: u32) -> String {
        let model = format!("model_name=\"{}\"", escape(model));
        let mut text = String::with_capacity(12 * 1024);
        self.render_gauges(&mut text, &model);
        self.render_counters(&mut text, &model);
        let histograms = [
            (
                "time_to_first_token_seconds",
                "Histogram of time to first token in seconds.",
                &self.first_token,
            ),
            (
                "inter_token_latency_seconds",
                "Histogram of inter-token latency in seconds.",
                &self.inter_token,
            ),
            (
                "request_queue_time_seconds",
                "Histogram of time spent in WAITING phase for request.",
                &self.queue,
            ),
            ("e2e_request_latency_seconds", "Histogram of e2e request latency in seconds.", &self.request),
        ];
        for (name, help, histogram) in histograms {
            histogram.render(&mut text, name, help, &model);
        }
        header(&mut text, "cache_config_info", "Information of the LLMEngine CacheConfig", "gauge");
        let _ = writeln!(
            text,
            "vllm:cache_config_info{{block_size=\"{BLOCK_TOKENS}\",cache_dtype=\"auto\",\
             enable_prefix_caching=\"False\",engine=\"0\",gpu_memory_utilization=\"0.9\",\
             kv_cache_size_tokens=\"{}\",num_gpu_blocks=\"{kv_blocks}\"}} 1.0",
            u64::from(kv_blocks) * u64::from(BLOCK_TOKENS)
        );
        text
    }

    fn render_gauges(&self, text: &mut String, model: &str) {
        let Stats { running, waiting, kv_usage, .. } = self.stats;
        let gauges = [
            ("num_requests_running", "Number of requests in model execution batches.", f64::from(running)),
            ("num_requests_waiting", "Number of requests waiting to be processed.", f64::from(waiting)),
            ("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", kv_usage),
        ];
        for (name, help, value) in gauges {
            header(text, name, help, "gauge");
            let _ = writeln!(text, "vllm:{name}{{engine=\"0\",{model}}} {value:?}");
        }
    }

    fn render_counters(&self, text: &mut String, model: &str) {
        let totals = &self.stats.counters;
        let counters = [
            ("num_preemptions_total", "Cumulative number of preemption from the engine.", totals.preemptions),
            ("prompt_tokens_total", "Number of prefill tokens processed.", totals.prompt_tokens),
            ("generation_tokens_total", "Number of generation tokens processed.", totals.generation_tokens),
        ];
        for (name, help, value) in counters {
            header(text, name, help, "counter");
            let _ = writeln!(text, "vllm:{name}{{engine=\"0\",{model}}} {value}.0");
        }
        header(text, "request_success_total", "Count of successfully processed requests.", "counter");
        for (reason, value) in
            [("stop", 0), ("length", totals.finished), ("abort", totals.aborted), ("error", 0)]
        {
            let labels = format!("engine=\"0\",finished_reason=\"{reason}\",{model}");
            let _ = writeln!(text, "vllm:request_success_total{{{labels}}} {value}.0");
        }
    }
}

fn header(text: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(text, "# HELP vllm:{name} {help}\n# TYPE vllm:{name} {kind}");
}

/// Escapes a label value as the text format asks.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::Metrics;

    #[test]
    fn buckets_are_cumulative_and_bounds_inclusive() {
        let mut metrics = Metrics::default();
        for seconds in [0.01, 0.011, 3000.0] {
            metrics.first_token.observe(seconds);
        }
        let text = metrics.render("tiny", 100);
        for line in [
            r#"vllm:time_to_first_token_seconds_bucket{engine="0",le="0.005",model_name="tiny"} 0.0"#,
            r#"vllm:time_to_first_token_seconds_bucket{engine="0",le="0.01",model_name="tiny"} 1.0"#,
            r#"vllm:time_to_first_token_seconds_bucket{engine="0",le="2560.0",model_name="tiny"} 2.0"#,
            r#"vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf",model_name="tiny"} 3.0"#,
            r#"vllm:time_to_first_token_seconds_count{engine="0",model_name="tiny"} 3.0"#,
            r#"vllm:num_requests_running{engine="0",model_name="tiny"} 0.0"#,
        ] {
            assert!(text.lines().any(|have| have == line), "no line {line} in\n{text}");
        }
    }

    #[test]
    fn a_model_name_with_quotes_cannot_break_a_label() {
        assert!(Metrics::default().render("a\"b\\", 1).contains(r#"model_name="a\"b\\"}"#));
    }
}

//! vLLM's metrics, by the names it uses now and the one it used before.
//!
//! Gauges come once per engine (data-parallel rank) and model: counts are summed, the KV cache is
//! as full as its fullest. They are set at every engine step.

use std::time::Instant;

use futures::future::BoxFuture;

use super::{MetricsUrl, Observation, Source, SourceError, Totals, exposition::samples, http::HttpClient};

/// Far above what a server of many engines exposes (about 50 KB an engine).
const BODY_LIMIT_BYTES: usize = 4 << 20;

/// A vLLM server's metrics endpoint.
#[derive(Debug)]
pub struct Vllm {
    client: HttpClient,
}

impl Vllm {
    /// Connects at the first question.
    pub fn new(url: MetricsUrl) -> Self {
        Self { client: HttpClient::new(url, BODY_LIMIT_BYTES) }
    }
}

impl Source for Vllm {
    fn observe(&mut self) -> BoxFuture<'_, Result<Observation, SourceError>> {
        Box::pin(async {
            let taken_start = Instant::now();
            let body = self.client.get().await?;
            let taken_end = Instant::now();
            let readings = Readings::from_text(&body);
            if readings.running.is_none() && readings.waiting.is_none() {
                return Err(SourceError::Content("the answer holds no vllm queue metrics"));
            }
            Ok(readings.into_observation(taken_start, taken_end))
        })
    }
}

#[derive(Debug, Default)]
struct Readings {
    running: Option<f64>,
    waiting: Option<f64>,
    kv_usage: Option<f64>,
    generation_tokens: Option<f64>,
    prompt_tokens: Option<f64>,
    ttft_sum: Option<f64>,
    ttft_count: Option<f64>,
}

impl Readings {
    fn from_text(text: &[u8]) -> Self {
        let mut readings = Self::default();
        for sample in samples(text).flatten() {
            let (slot, combine): (_, fn(f64, f64) -> f64) = match sample.name {
                "vllm:num_requests_running" => (&mut readings.running, sum),
                "vllm:num_requests_waiting" => (&mut readings.waiting, sum),
                // The second name is that of older servers.
                "vllm:kv_cache_usage_perc" | "vllm:gpu_cache_usage_perc" => {
                    (&mut readings.kv_usage, f64::max)
                }
                "vllm:generation_tokens_total" => (&mut readings.generation_tokens, sum),
                "vllm:prompt_tokens_total" => (&mut readings.prompt_tokens, sum),
                "vllm:time_to_first_token_seconds_sum" => (&mut readings.ttft_sum, sum),
                "vllm:time_to_first_token_seconds_count" => (&mut readings.ttft_count, sum),
                _ => continue,
            };
            if sample.value.is_finite() && sample.value >= 0.0 {
                *slot = Some(slot.map_or(sample.value, |so_far| combine(so_far, sample.value)));
            }
        }
        readings
    }

    fn into_observation(self, taken_start: Instant, taken_end: Instant) -> Observation {
        Observation {
            running: self.running,
            waiting: self.waiting,
            kv_usage: self.kv_usage.map(|share| share.min(1.0)),
            generation_tokens: self.generation_tokens,
            prompt_tokens: self.prompt_tokens,
            ttft: self.ttft_sum.zip(self.ttft_count).map(|(sum, count)| Totals { sum, count }),
            max_num_seqs: None,
            taken_start,
            taken_end,
        }
    }
}

fn sum(a: f64, b: f64) -> f64 {
    a + b
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::{Observation, Readings, Totals};

    fn read(text: &str) -> Observation {
        let now = Instant::now();
        Readings::from_text(text.as_bytes()).into_observation(now, now)
    }

    #[test]
    fn engines_are_summed_and_the_fullest_kv_cache_counts() {
        let observation = read(
            "# HELP vllm:num_requests_running Number of requests in model execution batches.\n\
             # TYPE vllm:num_requests_running gauge\n\
             vllm:num_requests_running{engine=\"0\",model_name=\"m\"} 7.0\n\
             vllm:num_requests_running{engine=\"1\",model_name=\"m\"} 5.0\n\
             vllm:num_requests_waiting{engine=\"0\",model_name=\"m\"} 0.0\n\
             vllm:num_requests_waiting{engine=\"1\",model_name=\"m\"} 8.0\n\
             vllm:num_requests_waiting_by_reason{engine=\"1\",model_name=\"m\",reason=\"capacity\"} 8.0\n\
             vllm:kv_cache_usage_perc{engine=\"0\",model_name=\"m\"} 0.25\n\
             vllm:kv_cache_usage_perc{engine=\"1\",model_name=\"m\"} 0.75\n\
             vllm:prompt_tokens_total{engine=\"0\",model_name=\"m\"} 9129.0\n\
             vllm:generation_tokens_total{engine=\"0\",model_name=\"m\"} 1.422e+04\n\
             vllm:generation_tokens_total{engine=\"1\",model_name=\"m\"} 80.0\n\
             vllm:generation_tokens_created{engine=\"1\",model_name=\"m\"} 1.79e+09\n\
             vllm:time_to_first_token_seconds_bucket{engine=\"0\",le=\"0.1\",model_name=\"m\"} 200.0\n\
             vllm:time_to_first_token_seconds_sum{engine=\"0\",model_name=\"m\"} 40.5\n\
             vllm:time_to_first_token_seconds_count{engine=\"0\",model_name=\"m\"} 298.0\n",
        );
        assert_eq!((observation.running, observation.waiting), (Some(12.0), Some(8.0)));
        assert_eq!(observation.kv_usage, Some(0.75));
        assert_eq!(observation.generation_tokens, Some(14_300.0));
        assert_eq!(observation.prompt_tokens, Some(9129.0));
        assert_eq!(observation.ttft, Some(Totals { sum: 40.5, count: 298.0 }));
    }

    #[test]
    fn the_old_name_of_the_kv_cache_is_understood() {
        assert_eq!(read("vllm:gpu_cache_usage_perc{model_name=\"m\"} 0.5\n").kv_usage, Some(0.5));
    }

    #[test]
    fn values_that_cannot_be_are_ignored() {
        for value in ["NaN", "+Inf", "-Inf", "-1.0"] {
            let observation = read(&format!(
                "vllm:num_requests_running{{engine=\"0\"}} {value}\n\
                 vllm:num_requests_running{{engine=\"1\"}} 3\n\
                 vllm:num_requests_waiting {value}\n\
                 vllm:kv_cache_usage_perc {value}\n\
                 vllm:time_to_first_token_seconds_sum {value}\n\
                 vllm:time_to_first_token_seconds_count 1\n"
            ));
            assert_eq!(observation.running, Some(3.0), "{value}");
            let others = (observation.waiting, observation.kv_usage, observation.ttft);
            assert_eq!(others, (None, None, None), "{value}");
        }
        assert_eq!(read("vllm:kv_cache_usage_perc 1.0000001\n").kv_usage, Some(1.0));
    }
}

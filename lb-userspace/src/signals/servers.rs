//! What inference servers call the things they tell: one table, a row a metric.
//!
//! A server is known by the names it exposes, never by what it says it is. Everything that differs from server
//! to server is in this table; nothing else in the project knows a metric's name.

use std::{fmt, sync::LazyLock, time::Duration};

/// An inference server that can be read, in the order in which an answer that fits several is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServerKind {
    /// vLLM, alone or under Triton or a NIM.
    Vllm,
    /// SGLang.
    Sglang,
    /// TensorRT-LLM's own server.
    TrtllmServe,
    /// Triton with the TensorRT-LLM backend.
    TritonTrtllm,
    /// Triton with any other backend.
    Triton,
    /// Hugging Face's Text Generation Inference.
    Tgi,
    /// llama.cpp's server.
    LlamaCpp,
    /// LMDeploy.
    Lmdeploy,
    /// NVIDIA NIM for language models.
    Nim,
}

impl ServerKind {
    /// The server that configuration and status call so.
    pub fn from_name(name: &str) -> Option<Self> {
        SERVERS.iter().find(|server| server.name == name).map(|server| server.kind)
    }

    /// What configuration and status call all servers.
    pub fn names() -> impl Iterator<Item = &'static str> {
        SERVERS.iter().map(|server| server.name)
    }

    /// Its row of the table, which is in the order of the kinds.
    pub(super) fn server(self) -> &'static Server {
        &SERVERS[self as usize]
    }
}

impl fmt::Display for ServerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.server().name)
    }
}

/// What a metric is to the balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Running,
    Waiting,
    /// A share.
    KvUsage,
    /// Two counts, of servers that tell no share.
    KvUsed,
    KvTotal,
    GenerationTokens,
    PromptTokens,
    Requests,
    FirstTokenSum,
    FirstTokenCount,
    TokenTimeSum,
    TokenTimeCount,
    MaxBatch,
}

/// How many fields there are.
pub(super) const FIELDS: usize = Field::MaxBatch as usize + 1;

impl Field {
    /// What two series of a server, one an engine or rank, come to: requests add up, and the fullest KV cache is
    /// the one that preempts.
    pub(super) fn combine(self, one: f64, other: f64) -> f64 {
        match self {
            Self::KvUsage => one.max(other),
            _ => one + other,
        }
    }
}

/// One series that is wanted.
#[derive(Debug)]
pub(super) struct Metric {
    name: &'static str,
    /// Only where this label has this value.
    pub label: Option<(&'static str, &'static str)>,
    pub field: Field,
    /// To the field's unit.
    pub scale: f64,
}

/// Series that say again what others of the same name say: those whose `label` is there and not `"0"`, unless a
/// label `unless` tells them apart.
#[derive(Debug)]
pub(super) struct Repeats {
    pub label: &'static str,
    pub unless: Option<&'static str>,
}

/// An answer that costs the server less than its metrics.
#[derive(Debug)]
pub(super) struct Light {
    pub path: &'static str,
    pub cadence: Duration,
    pub form: LightForm,
}

/// What such an answer looks like.
#[derive(Clone, Copy, Debug)]
pub(super) enum LightForm {
    /// `{"server_load": n}`, n being requests in the server, queued ones included.
    VllmLoad,
    /// `{"loads": [..]}`, one an engine.
    SglangLoads,
}

/// One server's part of the table.
#[derive(Debug)]
pub(super) struct Server {
    pub kind: ServerKind,
    pub name: &'static str,
    /// Where the metrics are unless the URL says otherwise.
    pub path: &'static str,
    /// How old a gauge may be when it is asked for.
    pub cadence: Duration,
    pub light: Option<Light>,
    pub repeats: &'static [Repeats],
    metrics: &'static [Metric],
}

const fn metric(name: &'static str, field: Field) -> Metric {
    Metric { name, label: None, field, scale: 1.0 }
}

impl Metric {
    const fn with(self, label: &'static str, value: &'static str) -> Self {
        Self { label: Some((label, value)), ..self }
    }

    const fn scaled(self, scale: f64) -> Self {
        Self { scale, ..self }
    }
}

/// A step of a large batch with some prefill on a slow GPU: how often engines renew gauges that they set at each step.
const STEP: Duration = Duration::from_millis(50);

const MILLISECONDS: f64 = 1e-3;

/// All servers, by [`ServerKind`]. Where an answer fits several, the first counts, so wrappers stand behind what they wrap: a Triton or
/// NIM that runs vLLM shows vLLM's names too, and those are fresher.
pub(super) static SERVERS: [Server; ServerKind::Nim as usize + 1] = [
    // Gauges are set at each engine step, a series an engine (data-parallel rank) and model.
    Server {
        kind: ServerKind::Vllm,
        name: "vllm",
        path: "/metrics",
        cadence: STEP,
        light: Some(Light { path: "/load", cadence: Duration::ZERO, form: LightForm::VllmLoad }),
        repeats: &[],
        metrics: &[
            metric("vllm:num_requests_running", Field::Running),
            metric("vllm:num_requests_waiting", Field::Waiting),
            // V0 engines move requests out of the batch when the KV cache is full.
            metric("vllm:num_requests_swapped", Field::Waiting),
            metric("vllm:kv_cache_usage_perc", Field::KvUsage),
            // Of older servers.
            metric("vllm:gpu_cache_usage_perc", Field::KvUsage),
            metric("vllm:generation_tokens_total", Field::GenerationTokens),
            metric("vllm:prompt_tokens_total", Field::PromptTokens),
            metric("vllm:request_success_total", Field::Requests),
            metric("vllm:time_to_first_token_seconds_sum", Field::FirstTokenSum),
            metric("vllm:time_to_first_token_seconds_count", Field::FirstTokenCount),
            metric("vllm:inter_token_latency_seconds_sum", Field::TokenTimeSum),
            metric("vllm:inter_token_latency_seconds_count", Field::TokenTimeCount),
            // Of older servers; should one show both, the mean of the two is the mean of either.
            metric("vllm:time_per_output_token_seconds_sum", Field::TokenTimeSum),
            metric("vllm:time_per_output_token_seconds_count", Field::TokenTimeCount),
            // A NIM adds this to vLLM's own.
            metric("num_request_max", Field::MaxBatch),
        ],
    },
    // Gauges are set every 40 decode steps (`--decode-log-interval`) and at each prefill. Pipeline stages repeat each
    // other; tensor-parallel ranks do too (under `--enable-metrics-for-all-schedulers`), unless they are data-parallel.
    // `sglang:utilization` is always 0, and `sglang:gen_throughput` is no counter.
    Server {
        kind: ServerKind::Sglang,
        name: "sglang",
        path: "/metrics",
        cadence: Duration::from_millis(1200),
        // Published every 15 steps, at each prefill and when idle.
        light: Some(Light {
            path: "/v1/loads",
            cadence: Duration::from_millis(450),
            form: LightForm::SglangLoads,
        }),
        repeats: &[
            Repeats { label: "pp_rank", unless: None },
            Repeats { label: "tp_rank", unless: Some("dp_rank") },
        ],
        metrics: &[
            metric("sglang:num_running_reqs", Field::Running),
            metric("sglang:num_queue_reqs", Field::Waiting),
            metric("sglang:num_grammar_queue_reqs", Field::Waiting),
            metric("sglang:num_prefill_bootstrap_queue_reqs", Field::Waiting),
            metric("sglang:num_prefill_inflight_queue_reqs", Field::Waiting),
            metric("sglang:num_decode_prealloc_queue_reqs", Field::Waiting),
            metric("sglang:num_decode_transfer_queue_reqs", Field::Waiting),
            metric("sglang:token_usage", Field::KvUsage),
            metric("sglang:generation_tokens_total", Field::GenerationTokens),
            metric("sglang:prompt_tokens_total", Field::PromptTokens),
            metric("sglang:num_requests_total", Field::Requests),
            metric("sglang:time_to_first_token_seconds_sum", Field::FirstTokenSum),
            metric("sglang:time_to_first_token_seconds_count", Field::FirstTokenCount),
            metric("sglang:inter_token_latency_seconds_sum", Field::TokenTimeSum),
            metric("sglang:inter_token_latency_seconds_count", Field::TokenTimeCount),
            // Of older servers.
            metric("sglang:time_per_output_token_seconds_sum", Field::TokenTimeSum),
            metric("sglang:time_per_output_token_seconds_count", Field::TokenTimeCount),
        ],
    },
    // `/metrics` is JSON, and reading it empties a queue of statistics.
    Server {
        kind: ServerKind::TrtllmServe,
        name: "trtllm-serve",
        path: "/prometheus/metrics",
        cadence: STEP,
        light: None,
        repeats: &[],
        metrics: &[
            metric("trtllm_num_requests_running", Field::Running),
            metric("trtllm_num_requests_waiting", Field::Waiting),
            metric("trtllm_kv_cache_utilization", Field::KvUsage),
            metric("trtllm_kv_cache_used_blocks", Field::KvUsed),
            metric("trtllm_kv_cache_max_blocks", Field::KvTotal),
            metric("trtllm_generation_tokens_total", Field::GenerationTokens),
            metric("trtllm_prompt_tokens_total", Field::PromptTokens),
            metric("trtllm_request_success_total", Field::Requests),
            metric("trtllm_time_to_first_token_seconds_sum", Field::FirstTokenSum),
            metric("trtllm_time_to_first_token_seconds_count", Field::FirstTokenCount),
            metric("trtllm_time_per_output_token_seconds_sum", Field::TokenTimeSum),
            metric("trtllm_time_per_output_token_seconds_count", Field::TokenTimeCount),
            metric("trtllm_max_num_active_requests", Field::MaxBatch),
        ],
    },
    // The backend passes its statistics on every 100 ms (`stats_check_period_ms`).
    Server {
        kind: ServerKind::TritonTrtllm,
        name: "triton-trtllm",
        path: "/metrics",
        cadence: Duration::from_millis(100),
        light: None,
        repeats: &[],
        metrics: &[
            metric("nv_trt_llm_request_metrics", Field::Running).with("request_type", "scheduled"),
            metric("nv_trt_llm_request_metrics", Field::Waiting).with("request_type", "waiting"),
            metric("nv_trt_llm_request_metrics", Field::MaxBatch).with("request_type", "max"),
            metric("nv_trt_llm_kv_cache_block_metrics", Field::KvUsage)
                .with("kv_cache_block_type", "fraction"),
            metric("nv_trt_llm_kv_cache_block_metrics", Field::KvUsed).with("kv_cache_block_type", "used"),
            metric("nv_trt_llm_kv_cache_block_metrics", Field::KvTotal).with("kv_cache_block_type", "max"),
            metric("nv_inference_first_response_histogram_ms_sum", Field::FirstTokenSum).scaled(MILLISECONDS),
            metric("nv_inference_first_response_histogram_ms_count", Field::FirstTokenCount),
        ],
    },
    // The pending count is exact at any moment. `nv_inference_exec_count`, which some take for running requests, is a
    // counter of executions: what runs is not told.
    Server {
        kind: ServerKind::Triton,
        name: "triton",
        path: "/metrics",
        cadence: Duration::ZERO,
        light: None,
        repeats: &[],
        metrics: &[
            metric("nv_inference_pending_request_count", Field::Waiting),
            metric("nv_inference_request_success", Field::Requests),
            metric("nv_inference_first_response_histogram_ms_sum", Field::FirstTokenSum).scaled(MILLISECONDS),
            metric("nv_inference_first_response_histogram_ms_count", Field::FirstTokenCount),
        ],
    },
    // Its counters carry no `_total`; tokens are counted when a request ends.
    Server {
        kind: ServerKind::Tgi,
        name: "tgi",
        path: "/metrics",
        cadence: STEP,
        light: None,
        repeats: &[],
        metrics: &[
            metric("tgi_batch_current_size", Field::Running),
            metric("tgi_queue_size", Field::Waiting),
            metric("tgi_request_generated_tokens_sum", Field::GenerationTokens),
            metric("tgi_request_input_length_sum", Field::PromptTokens),
            metric("tgi_request_success", Field::Requests),
            metric("tgi_request_mean_time_per_token_duration_sum", Field::TokenTimeSum),
            metric("tgi_request_mean_time_per_token_duration_count", Field::TokenTimeCount),
        ],
    },
    // The engine's loop answers by itself, between two decodes: late, but fresh. `llamacpp:predicted_tokens_seconds` is
    // a mean over the server's life; tokens are counted when a request ends.
    Server {
        kind: ServerKind::LlamaCpp,
        name: "llama.cpp",
        path: "/metrics",
        cadence: Duration::ZERO,
        light: None,
        repeats: &[],
        metrics: &[
            metric("llamacpp:requests_processing", Field::Running),
            metric("llamacpp:requests_deferred", Field::Waiting),
            // Of older builds.
            metric("llamacpp:kv_cache_usage_ratio", Field::KvUsage),
            metric("llamacpp:tokens_predicted_total", Field::GenerationTokens),
            metric("llamacpp:prompt_tokens_total", Field::PromptTokens),
            metric("llamacpp:tokens_predicted_seconds_total", Field::TokenTimeSum),
            metric("llamacpp:tokens_predicted_total", Field::TokenTimeCount),
        ],
    },
    // Requests wait at the API server for a free engine, and in the engine for a place in the batch.
    Server {
        kind: ServerKind::Lmdeploy,
        name: "lmdeploy",
        path: "/metrics",
        cadence: STEP,
        light: None,
        repeats: &[],
        metrics: &[
            metric("lmdeploy:num_requests_running", Field::Running),
            metric("lmdeploy:num_requests_waiting", Field::Waiting),
            metric("lmdeploy:num_api_requests_waiting", Field::Waiting),
            metric("lmdeploy:gpu_cache_usage_perc", Field::KvUsage),
            metric("lmdeploy:generation_tokens_total", Field::GenerationTokens),
            metric("lmdeploy:prompt_tokens_total", Field::PromptTokens),
            metric("lmdeploy:request_success_total", Field::Requests),
            metric("lmdeploy:time_to_first_token_seconds_sum", Field::FirstTokenSum),
            metric("lmdeploy:time_to_first_token_seconds_count", Field::FirstTokenCount),
            metric("lmdeploy:time_per_output_token_seconds_sum", Field::TokenTimeSum),
            metric("lmdeploy:time_per_output_token_seconds_count", Field::TokenTimeCount),
        ],
    },
    // vLLM's names without the prefix, whatever engine is inside. So common a name is the last to be believed.
    Server {
        kind: ServerKind::Nim,
        name: "nim",
        path: "/v1/metrics",
        cadence: STEP,
        light: None,
        repeats: &[],
        metrics: &[
            metric("num_requests_running", Field::Running),
            metric("num_requests_waiting", Field::Waiting),
            metric("gpu_cache_usage_perc", Field::KvUsage),
            metric("generation_tokens_total", Field::GenerationTokens),
            metric("prompt_tokens_total", Field::PromptTokens),
            metric("request_success_total", Field::Requests),
            metric("time_to_first_token_seconds_sum", Field::FirstTokenSum),
            metric("time_to_first_token_seconds_count", Field::FirstTokenCount),
            metric("time_per_output_token_seconds_sum", Field::TokenTimeSum),
            metric("time_per_output_token_seconds_count", Field::TokenTimeCount),
            metric("num_request_max", Field::MaxBatch),
        ],
    },
];

/// A row of the table, and the position of its server.
pub(super) type Wanted = (usize, &'static Metric);

/// All rows by name.
static BY_NAME: LazyLock<Vec<Wanted>> = LazyLock::new(|| {
    let servers = SERVERS.iter().enumerate();
    let mut rows: Vec<Wanted> =
        servers.flat_map(|(at, server)| server.metrics.iter().map(move |metric| (at, metric))).collect();
    rows.sort_by_key(|(_, metric)| metric.name);
    rows
});

/// What a series of this name is to whom; mostly nothing to anybody.
pub(super) fn wanted(name: &str) -> &'static [Wanted] {
    let rows: &'static [Wanted] = &BY_NAME;
    let from = rows.partition_point(|(_, metric)| metric.name < name);
    let count = rows[from..].iter().take_while(|(_, metric)| metric.name == name).count();
    &rows[from..from + count]
}

#[cfg(test)]
mod tests {
    use super::{SERVERS, ServerKind, wanted};

    #[test]
    fn every_server_has_one_name_and_is_found_by_it() {
        for (at, server) in SERVERS.iter().enumerate() {
            assert_eq!(server.kind as usize, at, "{} is out of order", server.name);
            assert_eq!(ServerKind::from_name(server.name), Some(server.kind));
            assert_eq!(server.kind.to_string(), server.name);
            assert!(server.path.starts_with('/'), "{}", server.name);
        }
        assert_eq!(ServerKind::from_name("ollama"), None);
    }

    #[test]
    fn a_name_leads_to_all_its_rows() {
        for (name, expected) in [
            ("vllm:num_requests_running", 1),
            ("nv_trt_llm_request_metrics", 3),
            ("llamacpp:tokens_predicted_total", 2),
            ("num_request_max", 2),
            ("vllm:num_requests", 0),
            ("vllm:num_requests_running_", 0),
            ("", 0),
            ("~", 0),
        ] {
            assert_eq!(wanted(name).len(), expected, "{name}");
        }
        for server in &SERVERS {
            for metric in server.metrics {
                let found = wanted(metric.name).iter().any(|(_, found)| std::ptr::eq(*found, metric));
                assert!(found, "{}", metric.name);
            }
        }
    }
}

//! The small answers that some servers give to "how much are you at?", between two scrapes of their metrics.

use serde::Deserialize;

use super::servers::LightForm;

/// What a server's queue is at, as far as a balancer cares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Queue {
    pub running: f64,
    pub waiting: f64,
    pub kv_usage: Option<f64>,
}

#[derive(Deserialize)]
struct VllmLoad {
    server_load: f64,
}

#[derive(Deserialize)]
struct SglangLoads {
    loads: Vec<SglangLoad>,
}

#[derive(Deserialize)]
struct SglangLoad {
    num_running_reqs: f64,
    num_waiting_reqs: f64,
    token_usage: Option<f64>,
}

/// Reads an answer; `known` is what the metrics said last. None if it is not to be believed.
pub(super) fn read(form: LightForm, body: &[u8], known: Queue) -> Option<Queue> {
    match form {
        LightForm::VllmLoad => {
            let VllmLoad { server_load } = serde_json::from_slice(body).ok()?;
            counts(server_load, known).then(|| split(server_load, known))
        }
        LightForm::SglangLoads => {
            let SglangLoads { loads } = serde_json::from_slice(body).ok()?;
            let sum = |of: fn(&SglangLoad) -> f64| loads.iter().map(of).sum::<f64>();
            let queue = Queue {
                running: sum(|load| load.num_running_reqs),
                waiting: sum(|load| load.num_waiting_reqs),
                kv_usage: loads.iter().filter_map(|load| load.token_usage).reduce(f64::max),
            };
            let sane = queue.running >= 0.0 && queue.waiting >= 0.0;
            (sane && !loads.is_empty()).then_some(queue)
        }
    }
}

/// Whether vLLM counts at all: it says 0 unless it was started with `--enable-server-load-tracking`, and with several
/// API servers each counts its own part.
fn counts(load: f64, known: Queue) -> bool {
    load > 0.0 && 2.0 * load >= known.running + known.waiting
}

/// A batch that had a queue stays as large as it was, and the rest waits; without a queue all run.
fn split(load: f64, known: Queue) -> Queue {
    let running = if known.waiting > 0.0 { load.min(known.running) } else { load };
    Queue { running, waiting: load - running, kv_usage: None }
}

#[cfg(test)]
mod tests {
    use super::{LightForm, Queue, read};

    fn queue(running: f64, waiting: f64, kv_usage: Option<f64>) -> Queue {
        Queue { running, waiting, kv_usage }
    }

    #[test]
    fn vllm_is_believed_only_where_it_counts() {
        let vllm = |known, body: &str| read(LightForm::VllmLoad, body.as_bytes(), known);
        let (free, full) = (queue(5.0, 0.0, None), queue(8.0, 4.0, Some(0.5)));
        for (known, body, expected) in [
            (free, r#"{"server_load":7}"#, Some(queue(7.0, 0.0, None))),
            (free, r#"{"server_load":3}"#, Some(queue(3.0, 0.0, None))),
            (full, r#"{"server_load":15}"#, Some(queue(8.0, 7.0, None))),
            (full, r#"{"server_load":7}"#, Some(queue(7.0, 0.0, None))),
            (free, r#"{"server_load":0}"#, None),
            (free, r#"{"server_load":2}"#, None),
            (free, r#"{"server_load":-7}"#, None),
            (free, r#"{"server_load":null}"#, None),
            (free, r#"{"detail":"Not Found"}"#, None),
            (free, "<html>", None),
        ] {
            assert_eq!(vllm(known, body), expected, "{body} after {known:?}");
        }
    }

    #[test]
    fn sglangs_engines_are_summed_and_the_fullest_kv_cache_counts() {
        let sglang = |body: &str| read(LightForm::SglangLoads, body.as_bytes(), queue(0.0, 0.0, None));
        let two = r#"{"timestamp":"x","loads":[
            {"dp_rank":0,"num_running_reqs":2,"num_waiting_reqs":1,"token_usage":0.5},
            {"dp_rank":1,"num_running_reqs":1,"num_waiting_reqs":0,"token_usage":0.75}]}"#;
        assert_eq!(sglang(two), Some(queue(3.0, 1.0, Some(0.75))));
        let bare = r#"{"loads":[{"num_running_reqs":2,"num_waiting_reqs":0}]}"#;
        assert_eq!(sglang(bare), Some(queue(2.0, 0.0, None)));
        let negative = r#"{"loads":[{"num_running_reqs":-2,"num_waiting_reqs":0}]}"#;
        for body in [negative, r#"{"loads":[]}"#, r#"{"loads":[{}]}"#, "[]", ""] {
            assert_eq!(sglang(body), None, "{body}");
        }
    }
}

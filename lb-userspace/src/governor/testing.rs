//! Inputs for the tests of this module.

use std::time::Duration;

use lb_common::slot::PROMPTS_LEAST;

use super::terms::{Input, Reported};

/// A usable backend of nominal weight with flows by state; requests that wait are of the smallest size.
pub(super) fn input([opening, awaiting, streaming, idle]: [u32; 4]) -> Input {
    Input {
        gauges: [opening, awaiting, streaming, idle, awaiting.wrapping_mul(PROMPTS_LEAST)],
        opened: 0,
        requests: 0,
        progressed: 0,
        progress_count: 0,
        progress_sum_ns: 0,
        weight: 100,
        configured_limit: None,
        usable: true,
        reported: None,
        hardware: None,
    }
}

/// A report that was taken in no time.
pub(super) fn reported(running: f64, waiting: f64, taken: Duration) -> Reported {
    Reported {
        running: Some(running),
        waiting: Some(waiting),
        kv_usage: None,
        generation_tokens: None,
        cadence: None,
        prompt_tokens: None,
        max_num_seqs: None,
        taken_start: taken,
        taken_end: taken,
    }
}

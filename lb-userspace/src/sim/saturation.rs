//! What an engine can do at most: the load that counts as 1.

use std::time::Duration;

use super::engine::{Engine, EngineConfig, Event, Request};

/// Requests in flight that are tried: from a handful to more than any cache holds.
const BATCHES: [u32; 7] = [8, 16, 32, 64, 128, 256, 512];

/// Requests that are answered for a measurement, after as many as are in flight.
const MEASURED: usize = 1500;

/// Requests a second that an engine answers with a closed loop of the best size; lengths are (prompt, output) and are
/// taken in order, over and over.
///
/// # Panics
/// If a length does not fit the engine, or there is none.
pub fn requests_per_second(config: &EngineConfig, lengths: &[(u32, u32)]) -> f64 {
    let largest = BATCHES.iter().filter(|batch| **batch <= config.max_num_seqs);
    let rates = largest.map(|batch| closed_loop(config, lengths, *batch));
    rates.fold(0.0, f64::max)
}

fn closed_loop(config: &EngineConfig, lengths: &[(u32, u32)], clients: u32) -> f64 {
    let mut engine = Engine::new(*config);
    let mut next = 0;
    let mut ask = |engine: &mut Engine| {
        let (prompt_tokens, output_tokens) = lengths[next % lengths.len()];
        let request = Request { id: next as u64, prompt_tokens, output_tokens };
        engine.submit(request).expect("the trace's requests fit the engine");
        next += 1;
    };
    (0..clients).for_each(|_| ask(&mut engine));
    let warm = clients as usize;
    let (mut answered, mut since) = (0, Duration::ZERO);
    while answered < warm + MEASURED {
        engine.begin_step().expect("a closed loop is never idle");
        let events = engine.finish_step();
        let done = events.iter().filter(|event| matches!(event, Event::Token { last: true, .. })).count();
        let now = engine.now();
        for _ in 0..done {
            answered += 1;
            if answered == warm {
                since = now;
            }
            ask(&mut engine);
        }
    }
    (answered - warm) as f64 / (engine.now() - since).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::{
        super::profile::{H100_8B, L40S_8B},
        requests_per_second,
    };

    #[test]
    fn faster_engines_and_shorter_requests_saturate_later() {
        let rate = |profile: &super::super::profile::Profile, output| {
            requests_per_second(&profile.engine_config(), &[(500, output), (900, output)])
        };
        let (fast, slow, short) = (rate(&H100_8B, 100), rate(&L40S_8B, 100), rate(&H100_8B, 10));
        assert!(fast > 2.0 * slow && short > 1.2 * fast, "{fast} {slow} {short}");
    }
}

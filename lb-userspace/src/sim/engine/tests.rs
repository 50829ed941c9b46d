use std::{collections::HashMap, time::Duration};

use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, proptest};

use super::{
    BLOCK_TOKENS, Engine, EngineConfig, Event, FOREIGN_OUTPUT, Refusal, Request, RequestId, StepCosts,
};
use crate::sim::profile::{A100_8B, H100_8B, H100X2_70B_FP8, H100X8_70B, L40S_8B, Profile};

/// More steps than any small case needs; reaching it means that the engine makes no progress.
const STEP_LIMIT: usize = 200_000;

const COSTS: StepCosts = StepCosts {
    floor: 10e-3,
    per_sequence: 0.1e-3,
    per_kv_token: 0.1e-6,
    prefill_base: 2e-3,
    per_prefill_token: 0.1e-3,
    per_prefill_pair: 0.0,
};

fn config(kv_blocks: u32, max_num_seqs: u32, token_budget: u32) -> EngineConfig {
    EngineConfig { costs: COSTS, kv_blocks, max_num_seqs, token_budget }
}

fn request(id: RequestId, prompt_tokens: u32, output_tokens: u32) -> Request {
    Request { id, prompt_tokens, output_tokens }
}

/// Runs to the end and returns every event with the time at which its step ended.
fn drain(engine: &mut Engine) -> Vec<(Duration, Event)> {
    let mut events = Vec::new();
    for _ in 0..STEP_LIMIT {
        if engine.begin_step().is_none() {
            return events;
        }
        let step = engine.finish_step().to_vec();
        events.extend(step.into_iter().map(|event| (engine.now(), event)));
    }
    panic!("the engine makes no progress: {engine:?}");
}

/// A small engine and requests that fit it one by one but rarely together, each with the step at which it arrives.
fn small_case() -> impl Strategy<Value = (EngineConfig, Vec<(usize, Request)>)> {
    (4_u32..40, 1_u32..8, 1_u32..64).prop_flat_map(|(kv_blocks, slots, budget)| {
        let tokens = kv_blocks * BLOCK_TOKENS;
        let sizes = (1..tokens).prop_flat_map(move |prompt| (Just(prompt), 1..=(tokens - prompt).min(60)));
        let arrivals = proptest::collection::vec((0_usize..200, sizes), 1..24);
        arrivals.prop_map(move |mut arrivals| {
            arrivals.sort_by_key(|(step, _)| *step);
            let numbered = (0..).zip(arrivals);
            let requests = numbered.map(|(id, (step, (prompt, output)))| (step, request(id, prompt, output)));
            (config(kv_blocks, slots, budget), requests.collect())
        })
    })
}

fn assert_limits_hold(engine: &Engine) {
    let config = engine.config;
    let used: u32 = engine.running.iter().map(|sequence| sequence.blocks).sum();
    assert_eq!(used + engine.free_blocks, config.kv_blocks, "blocks are lost or made");
    assert!(engine.running() <= config.max_num_seqs, "{} of {} slots", engine.running(), config.max_num_seqs);
    for sequence in &engine.running {
        assert!(sequence.computed <= sequence.blocks * BLOCK_TOKENS, "tokens without blocks: {sequence:?}");
    }
    assert!(engine.waiting.iter().all(|sequence| sequence.blocks == 0), "blocks held in the queue");
}

proptest! {
    #[test]
    fn every_request_gets_its_tokens_in_order_and_limits_hold((config, arrivals) in small_case()) {
        let mut engine = Engine::new(config);
        let mut arrivals = arrivals.into_iter().peekable();
        let mut asked = HashMap::new();
        let mut got: HashMap<RequestId, u32> = HashMap::new();
        let mut finished = 0;
        let mut started = Vec::new();
        let mut before = engine.now();
        for step in 0..STEP_LIMIT {
            while let Some((_, request)) = arrivals.next_if(|(at, _)| *at <= step) {
                asked.insert(request.id, request.output_tokens);
                engine.submit(request).unwrap();
            }
            if engine.begin_step().is_none() {
                if arrivals.peek().is_none() { break }
                continue;
            }
            assert_limits_hold(&engine);
            for event in engine.finish_step() {
                match *event {
                    Event::Started(id) => started.push(id),
                    Event::Token { id, number, last } => {
                        let count = got.entry(id).or_default();
                        *count += 1;
                        prop_assert_eq!(number, *count, "token numbers of request {} skip", id);
                        prop_assert_eq!(last, number == asked[&id], "request {} ends at the wrong token", id);
                        finished += usize::from(last);
                    }
                }
            }
            prop_assert!(engine.now() > before, "time stands still");
            before = engine.now();
        }
        prop_assert_eq!(finished, asked.len(), "requests that never end");
        let in_order: Vec<RequestId> = (0..).take(asked.len()).collect();
        prop_assert_eq!(started, in_order, "requests start out of order");
        prop_assert_eq!(engine.free_blocks, config.kv_blocks);
        let counters = engine.counters();
        prop_assert_eq!(counters.generation_tokens, asked.values().map(|tokens| u64::from(*tokens)).sum::<u64>());
        prop_assert_eq!(counters.finished, asked.len() as u64);
    }

    #[test]
    fn aborts_at_any_moment_lose_no_block_and_no_other_request(
        (config, arrivals) in small_case(),
        aborts in proptest::collection::vec((0_usize..100, any::<proptest::sample::Index>(), any::<bool>()), 0..12),
    ) {
        let mut engine = Engine::new(config);
        let requests: Vec<Request> = arrivals.into_iter().map(|(_, request)| request).collect();
        for request in &requests {
            engine.submit(*request).unwrap();
        }
        let mut aborted = 0;
        for step in 0..STEP_LIMIT {
            for mid_step in [false, true] {
                if mid_step && engine.begin_step().is_none() { break }
                for (_, victim, _) in aborts.iter().filter(|(at, _, when)| *at == step && *when == mid_step) {
                    aborted += u64::from(engine.abort(victim.get(&requests).id));
                }
                assert_limits_hold(&engine);
            }
            if engine.step_end.is_none() { break }
            engine.finish_step();
        }
        prop_assert_eq!(engine.free_blocks, config.kv_blocks);
        prop_assert_eq!(engine.counters().aborted, aborted);
        prop_assert_eq!(engine.counters().finished + aborted, requests.len() as u64);
    }

    #[test]
    fn foreign_load_never_leaves_and_never_locks_others_out((config, arrivals) in small_case(), foreign in 1_u32..4) {
        // Room for the foreign sequences on top of what the case was made for.
        let room = foreign * (super::FOREIGN_PROMPT + FOREIGN_OUTPUT) / BLOCK_TOKENS;
        let config = EngineConfig {
            kv_blocks: config.kv_blocks + room,
            max_num_seqs: config.max_num_seqs + foreign,
            token_budget: config.token_budget + foreign,
            ..config
        };
        let mut engine = Engine::new(config);
        engine.set_foreign(foreign).unwrap();
        for (_, request) in &arrivals {
            engine.submit(*request).unwrap();
        }
        let wanted = arrivals.len() as u64;
        for _ in 0..STEP_LIMIT {
            if engine.counters().finished == wanted { break }
            engine.begin_step().expect("foreign load keeps the engine busy");
            assert_limits_hold(&engine);
            engine.finish_step();
            prop_assert_eq!((0..foreign).filter(|i| engine.holds(super::FOREIGN_IDS + u64::from(*i))).count(), foreign as usize);
        }
        prop_assert_eq!(engine.counters().finished, wanted);
        engine.set_foreign(0).unwrap();
        prop_assert!(engine.begin_step().is_none());
        prop_assert_eq!(engine.free_blocks, config.kv_blocks);
    }
}

#[test]
fn decode_speed_matches_the_published_figures() {
    // Milliseconds per output token with about 1,024 tokens of context, by batch size.
    let published: [(Profile, &[(u32, f64)]); 4] = [
        (H100_8B, &[(1, 6.182), (8, 6.604), (32, 8.344), (64, 10.384), (128, 12.913), (256, 19.719)]),
        (A100_8B, &[(1, 11.865), (8, 12.651), (32, 15.634), (64, 17.909), (128, 24.907), (256, 43.993)]),
        (L40S_8B, &[(1, 21.978), (8, 23.467), (32, 31.548), (64, 38.469), (128, 53.660), (256, 79.119)]),
        (H100X8_70B, &[(1, 10.122), (32, 11.050), (128, 14.598), (256, 20.067)]),
    ];
    for (profile, points) in published {
        for &(batch, milliseconds) in points {
            // The published batches ignore memory: 256 sequences would not fit an L40S. All prefill in one step.
            let config =
                EngineConfig { kv_blocks: 1 << 20, token_budget: 1 << 20, ..profile.engine_config() };
            let mut engine = Engine::new(config);
            for id in 0..u64::from(batch) {
                engine.submit(request(id, 1014, 21)).unwrap();
            }
            engine.begin_step();
            engine.finish_step();
            let prefilled = engine.now();
            drain(&mut engine);
            let mean = (engine.now() - prefilled).as_secs_f64() * 1e3 / 20.0;
            let error = mean / milliseconds - 1.0;
            assert!(
                error.abs() < 0.06,
                "{} at {batch}: {mean:.2} ms, published {milliseconds}",
                profile.name
            );
        }
    }
}

#[test]
fn a_lone_prefill_takes_the_published_time() {
    let published: [(Profile, &[(u32, f64)]); 4] = [
        (H100_8B, &[(256, 8.733), (1024, 22.109), (4096, 90.066), (8192, 199.719)]),
        (A100_8B, &[(256, 22.563), (1024, 64.726), (4096, 258.702), (8192, 556.955)]),
        (L40S_8B, &[(256, 30.097), (1024, 70.333), (4096, 311.346), (8192, 699.831)]),
        (H100X8_70B, &[(1024, 46.242), (4096, 169.604)]),
    ];
    for (profile, points) in published {
        for &(prompt, milliseconds) in points {
            let mut engine = Engine::new(profile.engine_config());
            engine.submit(request(0, prompt, 1)).unwrap();
            drain(&mut engine);
            let first = engine.now().as_secs_f64() * 1e3;
            // A prompt above the budget pays the base of a step for each of its chunks.
            let error = first / milliseconds - 1.0;
            assert!(
                error.abs() < 0.1,
                "{} at {prompt}: {first:.1} ms, published {milliseconds}",
                profile.name
            );
        }
    }
}

/// Mean time to first token and mean time per output token, in ms, of a closed loop.
fn closed_loop(profile: &Profile, clients: u32, prompt: u32, output: u32, rounds: u32) -> (f64, f64) {
    let mut engine = Engine::new(profile.engine_config());
    let mut sent = HashMap::new();
    let mut first = HashMap::new();
    for id in 0..u64::from(clients) {
        // First requests of unequal length spread the clients over the round, as they are in the long run.
        engine.submit(request(id, prompt, (output * (id as u32 + 1) / clients).max(2))).unwrap();
    }
    let (mut to_first, mut per_token) = (Vec::new(), Vec::new());
    let mut next = RequestId::from(clients);
    while next < u64::from(clients * rounds) {
        engine.begin_step().expect("a closed loop is never idle");
        let step = engine.finish_step().to_vec();
        let now = engine.now().as_secs_f64() * 1e3;
        for event in step {
            let Event::Token { id, number, last } = event else { continue };
            if number == 1 {
                first.insert(id, now);
                to_first.extend(sent.get(&id).map(|sent| now - sent));
            }
            if last {
                if sent.contains_key(&id) {
                    per_token.push((now - first[&id]) / f64::from(output - 1));
                }
                engine.submit(request(next, prompt, output)).unwrap();
                sent.insert(next, now);
                next += 1;
            }
        }
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    (mean(&to_first), mean(&per_token))
}

#[test]
fn closed_loops_on_two_h100_decode_as_measured() {
    let measured = [
        (1024, 1024, 4, 17.41),
        (1024, 1024, 8, 18.22),
        (1024, 1024, 16, 19.74),
        (1024, 1024, 32, 23.54),
        (1024, 1024, 64, 28.77),
        (8192, 1024, 4, 20.62),
        (8192, 1024, 8, 25.01),
        (8192, 1024, 16, 34.63),
        (1024, 8192, 4, 17.97),
        (1024, 8192, 16, 22.13),
    ];
    for (prompt, output, clients, milliseconds) in measured {
        let (_, per_token) = closed_loop(&H100X2_70B_FP8, clients, prompt, output, 4);
        let error = per_token / milliseconds - 1.0;
        assert!(
            error.abs() < 0.06,
            "{prompt}/{output}, {clients} clients: {per_token:.2} ms, measured {milliseconds}"
        );
    }
}

#[test]
fn a_full_kv_cache_is_a_cliff_in_time_to_first_token_and_flat_in_decode_speed() {
    let [below, above, far_above] =
        [16, 32, 64].map(|clients| closed_loop(&H100X2_70B_FP8, clients, 8192, 1024, 4));
    println!("time to first token and per output token, ms: {below:?} {above:?} {far_above:?}");
    // Measured: 1.3, 6.5 and 59.2 s to the first token; 34.6, 52.4 and 52.4 ms per output token.
    assert!(below.0 < 3_000.0, "{below:?}");
    assert!(above.0 > 4.0 * below.0, "{below:?} {above:?}");
    assert!(far_above.0 > 20.0 * below.0, "{below:?} {far_above:?}");
    assert!((far_above.1 / above.1 - 1.0).abs() < 0.1, "{above:?} {far_above:?}");
}

#[test]
fn a_full_cache_preempts_the_newest_and_recomputes_it_first() {
    // Six blocks: two sequences of 2 blocks each grow until they need four blocks each.
    let mut engine = Engine::new(config(6, 4, 64));
    engine.submit(request(0, 31, 32)).unwrap();
    engine.submit(request(1, 31, 32)).unwrap();
    engine.submit(request(2, 60, 1)).unwrap();
    let events = drain(&mut engine);
    let ends: Vec<RequestId> = events
        .iter()
        .filter_map(|(_, event)| match event {
            Event::Token { id, last: true, .. } => Some(*id),
            _ => None,
        })
        .collect();
    assert_eq!(ends, [0, 1, 2], "the oldest is spared and the preempted one goes before later arrivals");
    assert!(engine.counters().preemptions > 0);
    assert_eq!(engine.counters().prompt_tokens, 31 + 31 + 60, "a recomputed prompt counts once");
}

#[test]
fn the_time_to_finish_is_what_it_takes() {
    let mut engine = Engine::new(H100_8B.engine_config());
    for id in 0..20 {
        engine.submit(request(id, 100 + 40 * id as u32, 5 + 17 * id as u32)).unwrap();
    }
    assert_eq!(engine.time_to_finish(12), None, "it waits");
    for _prompts_that_fill_two_steps in 0..2 {
        engine.begin_step();
        engine.finish_step();
    }
    let foretold = engine.now() + engine.time_to_finish(12).unwrap();
    let events = drain(&mut engine);
    let ends = |event: &Event| matches!(event, Event::Token { id: 12, last: true, .. });
    let (at, _) = events.iter().find(|(_, event)| ends(event)).unwrap();
    assert!(at.abs_diff(foretold) < Duration::from_micros(1), "{at:?} {foretold:?}");
}

#[test]
fn a_long_prompt_is_prefilled_in_chunks_while_others_decode() {
    let mut engine = Engine::new(config(100, 4, 64));
    engine.submit(request(0, 8, 100)).unwrap();
    engine.begin_step().unwrap();
    engine.finish_step();
    engine.submit(request(1, 630, 1)).unwrap();
    for step in 1..=10 {
        engine.begin_step().unwrap();
        let events = engine.finish_step().to_vec();
        let tokens = events.iter().filter(|event| matches!(event, Event::Token { .. })).count();
        // 63 tokens a step are left beside the decode: ten steps for 630.
        assert_eq!(tokens, if step == 10 { 2 } else { 1 }, "step {step}");
    }
}

#[test]
fn rate_stretches_steps_in_proportion() {
    let mut engine = Engine::new(config(100, 4, 64));
    engine.submit(request(0, 8, 100)).unwrap();
    let full = engine.begin_step().unwrap().as_secs_f64();
    engine.finish_step();
    engine.abort(0);
    engine.submit(request(1, 8, 100)).unwrap();
    engine.set_rate(0.25);
    let slow = engine.begin_step().unwrap().as_secs_f64();
    assert!((slow / full - 4.0).abs() < 1e-6, "{full} {slow}");
}

#[test]
fn requests_that_can_never_run_are_refused() {
    let mut engine = Engine::new(config(4, 2, 64));
    let cases = [
        (0, 1, Err(Refusal::Empty)),
        (1, 0, Err(Refusal::Empty)),
        (64, 1, Err(Refusal::TooLong { tokens: 65, capacity: 64 })),
        (u32::MAX, u32::MAX, Err(Refusal::TooLong { tokens: 2 * u64::from(u32::MAX), capacity: 64 })),
        (63, 1, Ok(())),
    ];
    for (prompt, output, verdict) in cases {
        assert_eq!(engine.submit(request(0, prompt, output)), verdict, "{prompt}+{output}");
    }
    assert_eq!(engine.set_foreign(2), Err(Refusal::NoSlotLeft { foreign: 2, slots: 2 }));
    assert!(matches!(engine.set_foreign(1), Err(Refusal::TooLong { .. })));
    assert_eq!(engine.foreign(), 0);
}

#[test]
fn an_idle_engine_has_nothing_to_do_and_moves_only_forward() {
    let mut engine = Engine::new(config(4, 2, 64));
    assert_eq!(engine.begin_step(), None);
    engine.advance_to(Duration::from_secs(3));
    engine.advance_to(Duration::from_secs(2));
    assert_eq!(engine.now(), Duration::from_secs(3));
    assert!(!engine.abort(7));
}

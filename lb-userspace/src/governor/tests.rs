use std::time::Duration;

use lb_common::{
    pick::{COST_MAX, COST_ONE},
    slot::GAUGES,
};
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::{
    Governor, HardwareReading, Input, Mode, Options, Output, Reported,
    testing::{input, reported},
};

const TICK: Duration = Duration::from_millis(5);

fn governor(mode: Mode) -> Governor {
    Governor::new(Options { mode, ..Options::default() })
}

/// Ticks from `from` to `to` and gives the last outputs.
fn run(
    governor: &mut Governor,
    from: Duration,
    to: Duration,
    inputs: impl Fn(Duration) -> Vec<Input>,
) -> Vec<Output> {
    let mut outputs = Vec::new();
    let mut now = from;
    while now <= to {
        governor.tick(now, &inputs(now), &mut outputs);
        now += TICK;
    }
    outputs
}

/// Four servers, the last one at a fifth of the speed and with eight foreign requests.
fn uneven(now: Duration) -> Vec<Input> {
    let mut inputs = vec![input([0, 1, 9, 0]); 4];
    let taken = Duration::from_millis(now.as_millis() as u64 / 250 * 250);
    for (number, input) in inputs.iter_mut().enumerate() {
        let (speed, running) = if number == 3 { (12.0, 18.0) } else { (60.0, 10.0) };
        input.reported = Some(Reported {
            generation_tokens: Some(speed * running * taken.as_secs_f64()),
            ..reported(running, 0.0, taken)
        });
    }
    inputs
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn modes_write_what_they_promise() {
    let nominal = Output { cost: COST_ONE, correction: 0, limit: 0, static_cost: COST_ONE, share: 1 << 14 };
    for mode in [Mode::Observe, Mode::Static] {
        let mut governor = governor(mode);
        assert_eq!(run(&mut governor, secs(0), secs(30), uneven), [nominal; 4], "{mode:?}");
        let explained = governor.explain(3).unwrap();
        assert!(explained.proposed.cost > COST_ONE * 3 / 2, "{explained:?}");
        assert_eq!(explained.written, nominal);
    }
    let mut governor = governor(Mode::On);
    let on = run(&mut governor, secs(0), secs(30), uneven);
    assert!(on[3].cost > COST_ONE * 3 / 2 && on[3].correction > 6 * 256, "{on:?}");
    assert_eq!(on[..3], [nominal; 3]);
    governor.set_mode(Mode::Freeze);
    let still = |_| vec![input([0; 4]); 5];
    let frozen = run(&mut governor, secs(31), secs(90), still);
    assert_eq!(frozen[3].cost, on[3].cost);
    assert_eq!(frozen[3].correction, on[3].correction);
    assert_eq!(frozen[4].cost, COST_ONE, "a new one is static");
}

#[test]
fn a_backend_that_comes_back_starts_slowly_and_a_fresh_pool_does_not() {
    let mut governor = governor(Mode::On);
    let with = |last: bool| {
        move |_| {
            let mut inputs = vec![input([0; 4]); 3];
            inputs[2].usable = last;
            inputs
        }
    };
    let first = run(&mut governor, secs(0), secs(0), with(true));
    assert_eq!(first[2].cost, COST_ONE);
    assert_eq!(run(&mut governor, secs(1), secs(20), with(false))[2].share, 0);
    let back = run(&mut governor, secs(21), secs(21), with(true));
    assert_eq!(back.iter().map(|o| o.cost).collect::<Vec<_>>(), [COST_ONE, COST_ONE, 4 * COST_ONE]);
    assert_eq!(run(&mut governor, secs(21), secs(33), with(true))[2].cost, COST_ONE);
}

#[test]
fn what_is_known_moves_with_its_backend() {
    let mut governor = governor(Mode::On);
    let before = run(&mut governor, secs(0), secs(30), uneven);
    governor.reset_membership(&[Some(3), None, Some(0)]);
    let mut outputs = Vec::new();
    let inputs = uneven(secs(30));
    governor.tick(secs(30) + TICK, &[inputs[3], inputs[1], inputs[0]], &mut outputs);
    assert!(outputs[0].cost.abs_diff(before[3].cost) <= before[3].cost / 20, "{outputs:?}");
    assert_eq!(outputs[2].cost, COST_ONE);
    assert_eq!(outputs[1].cost, 4 * COST_ONE, "a new one starts slowly");
    governor.reset_membership(&[Some(7), Some(0), Some(0)]);
    governor.tick(secs(31), &inputs[..3], &mut outputs);
    assert_eq!(outputs.len(), 3, "positions that were not there, or twice, are new backends");
}

#[test]
fn a_throttled_gpu_costs_more_within_a_second_and_no_more_than_it_is_heard_of() {
    let silence = secs(10);
    let inputs = |now: Duration| {
        let taken = secs(now.min(silence).as_secs());
        let reading =
            HardwareReading { speed: Some(0.25), foreign: Some(0.5), taken_start: taken, taken_end: taken };
        let mut inputs = vec![input([0; 4]); 3];
        inputs[1].hardware = Some(HardwareReading { speed: Some(1.0), foreign: Some(0.0), ..reading });
        inputs[2].hardware = Some(reading);
        inputs
    };
    let mut governor = governor(Mode::On);
    let soon = run(&mut governor, secs(0), secs(1), inputs);
    assert_eq!((soon[0].cost, soon[1].cost), (COST_ONE, COST_ONE));
    // Within the deadband.
    assert!((7 * COST_ONE..=8 * COST_ONE).contains(&soon[2].cost), "{soon:?}");
    let term = governor.explain(2).unwrap().hardware;
    assert!((term.applied - 8.0).abs() < 0.01 && term.foreign_counted, "{term:?}");
    assert_eq!(governor.explain(0).unwrap().hardware.now, None);
    run(&mut governor, secs(1), silence + secs(2), inputs);
    let explained = governor.explain(2).unwrap();
    assert_eq!((explained.hardware.applied, explained.target), (1.0, 1.0), "2 s of silence: {explained:?}");
    assert_eq!(run(&mut governor, silence + secs(2), secs(25), inputs)[2].cost, COST_ONE);
}

#[test]
fn shares_follow_the_weights_of_usable_backends() {
    let weights = |weights: &[(u32, bool)]| {
        let inputs: Vec<_> =
            weights.iter().map(|&(weight, usable)| Input { weight, usable, ..input([0; 4]) }).collect();
        let mut outputs = Vec::new();
        governor(Mode::On).tick(secs(0), &inputs, &mut outputs);
        outputs.iter().map(|output| output.share).collect::<Vec<_>>()
    };
    assert_eq!(weights(&[(100, true), (300, true), (100, false)]), [1 << 14, 3 << 14, 0]);
    assert_eq!(weights(&[(0, true), (100, false)]), [0, 0]);
}

#[test]
fn a_server_that_renews_its_numbers_rarely_is_compared_with_a_longer_past() {
    // Forty flows end; half a second later the server is asked, and still says forty.
    let (change, asked) = (Duration::from_secs(2), Duration::from_millis(2500));
    for (cadence, foreign) in [(None, 40.0), (Some(Duration::from_millis(1200)), 0.0)] {
        let mut governor = governor(Mode::On);
        let said = Reported { cadence, ..reported(40.0, 0.0, asked) };
        run(&mut governor, secs(0), secs(3), |now| {
            let flows = if now < change { 40 } else { 0 };
            vec![Input { reported: (now >= asked).then_some(said), ..input([0, 0, flows, 0]) }]
        });
        let raw = governor.explain(0).and_then(|explained| explained.correction.raw);
        assert_eq!(raw, Some(foreign), "renewed every {cadence:?}");
    }
}

fn number() -> impl Strategy<Value = Option<f64>> {
    prop_oneof![
        Just(None),
        Just(Some(f64::NAN)),
        Just(Some(f64::INFINITY)),
        Just(Some(f64::MAX)),
        Just(Some(-1.0)),
        (0.0..2000.0).prop_map(Some),
        any::<f64>().prop_map(Some),
    ]
}

fn counter() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(u64::MAX), 0..10_000_u64, any::<u64>()]
}

fn report() -> impl Strategy<Value = Option<Reported>> {
    let cadence = prop_oneof![Just(None), Just(Some(Duration::MAX)), (0..9_u64).prop_map(|s| Some(secs(s)))];
    let times = (cadence, 0..200_000_u64, 0..200_000_u64);
    let batch = proptest::option::of(any::<u32>());
    let fields = (number(), number(), number(), number(), number(), batch, times);
    let report = fields.prop_map(|fields| {
        let (running, waiting, kv_usage, generation_tokens, prompt_tokens, max_num_seqs, times) = fields;
        let (cadence, start, end) = times;
        Reported {
            running,
            waiting,
            kv_usage,
            generation_tokens,
            cadence,
            prompt_tokens,
            max_num_seqs,
            taken_start: Duration::from_millis(start),
            taken_end: Duration::from_millis(end),
        }
    });
    proptest::option::of(report)
}

fn hardware() -> impl Strategy<Value = Option<HardwareReading>> {
    let reading = (number(), number(), 0..200_000_u64, 0..200_000_u64);
    let reading = reading.prop_map(|(speed, foreign, start, end)| HardwareReading {
        speed,
        foreign,
        taken_start: Duration::from_millis(start),
        taken_end: Duration::from_millis(end),
    });
    proptest::option::of(reading)
}

fn any_input() -> impl Strategy<Value = Input> {
    let counters = (counter(), counter(), counter(), counter(), counter());
    let rest =
        (any::<[u32; GAUGES]>(), 0..=1000_u32, any::<Option<u32>>(), any::<bool>(), report(), hardware());
    (counters, rest).prop_map(|(counters, rest)| {
        let (opened, requests, progressed, progress_count, progress_sum_ns) = counters;
        let (gauges, weight, configured_limit, usable, reported, hardware) = rest;
        Input {
            gauges,
            opened,
            requests,
            progressed,
            progress_count,
            progress_sum_ns,
            weight,
            configured_limit,
            usable,
            reported,
            hardware,
        }
    })
}

proptest! {
    #[test]
    fn outputs_are_in_range_whatever_comes(
        ticks in proptest::collection::vec(
            (0..200_000_u64, proptest::collection::vec(any_input(), 0..5)),
            1..60,
        ),
    ) {
        let mut governor = governor(Mode::On);
        let mut outputs = Vec::new();
        for (millis, inputs) in ticks {
            governor.tick(Duration::from_millis(millis), &inputs, &mut outputs);
            prop_assert_eq!(outputs.len(), inputs.len());
            for (position, (output, input)) in outputs.iter().zip(&inputs).enumerate() {
                prop_assert!((1..=COST_MAX).contains(&output.cost), "{:?}", output);
                prop_assert!((1..=COST_MAX).contains(&output.static_cost));
                prop_assert!(output.share <= 1 << 16);
                prop_assert!(input.configured_limit.is_none_or(|limit| limit == 0 || limit == output.limit));
                let explained = governor.explain(position).unwrap();
                prop_assert!((0.124..=8.01).contains(&explained.theta.applied), "{:?}", explained);
                prop_assert!((0.124..=8.01).contains(&explained.hardware.applied), "{:?}", explained);
                prop_assert!(explained.factor.is_finite() && explained.correction.filtered.is_finite());
            }
            let shares: u64 = outputs.iter().map(|output| u64::from(output.share)).sum();
            prop_assert!(shares <= 1 << 16);
            prop_assert!(governor.opening_cap() >= 1 && governor.duty() <= 256);
        }
    }

    #[test]
    fn flows_that_neither_move_nor_queue_leave_everything_nominal(
        steps in proptest::collection::vec(0..5_000_u64, 1..60),
        (opening, awaiting, streaming, idle) in (any::<u32>(), 0..2_u32, any::<u32>(), any::<u32>()),
    ) {
        let gauges = [opening, awaiting, streaming, idle];
        let mut governor = governor(Mode::On);
        let mut outputs = Vec::new();
        let mut now = Duration::ZERO;
        for step in steps {
            now += Duration::from_millis(step);
            governor.tick(now, &[input(gauges); 3], &mut outputs);
            for output in &outputs {
                prop_assert_eq!((output.cost, output.correction, output.limit), (COST_ONE, 0, 0));
            }
        }
    }
}

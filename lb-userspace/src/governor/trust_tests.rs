//! Lies against real picks: the same traffic steered by them and by the kernel's own picture.

use std::time::Duration;

use lb_common::{
    branchless::Hide,
    pick::{COST_ONE, Candidate, Context, FLOW, Policy, Pool, Rule, Steer, pick},
    slot::{GAUGES, Gauge, PROMPTS_LEAST},
};
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_assert, prop_oneof, proptest};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

use super::{Capacity, Flows, TO_COME, held, sum};
use crate::governor::{
    AWAITING_WEIGHT, Explained, Governor, Options, Output, Reported,
    testing::{input, reported},
};

const TICK: Duration = Duration::from_millis(5);
/// From a request to its first token.
const AWAITING: Duration = Duration::from_millis(40);
/// What a flow takes on a server of speed 1, as a mean.
const WORK: Duration = Duration::from_millis(250);
/// When picks begin to count, and when a case ends.
const SETTLED: Duration = Duration::from_secs(15);
const END: Duration = Duration::from_secs(25);
/// Flows for each server from which on shares follow costs; below, they follow who is first of several idle ones.
const BUSY: f64 = 6.0;
/// Between two reports of a server.
const REPORTS: Duration = Duration::from_millis(100);
/// Bytes a second of one stream on a server of speed 1.
const BYTES: f64 = 4000.0;
/// Tokens a second of the same.
const TOKENS: f64 = 50.0;

/// What the liar says of itself, instead of the truth.
#[derive(Clone, Copy, Debug)]
struct Lie {
    /// Its tokens come so many times as fast.
    tokens: f64,
    /// Its requests are so many times as many, and so many more.
    running: (f64, f64),
    /// Each number is nonsense so often.
    nonsense: f64,
    /// Its counters go back so often.
    backwards: f64,
    /// Its reports are so much younger than they are.
    younger: Duration,
}

/// A pool, and what its servers say.
#[derive(Clone, Debug)]
struct Case {
    seed: u64,
    speeds: Vec<f64>,
    /// Flows at once, on average.
    flows: f64,
    lie: Lie,
    /// The others tell the truth, or nothing.
    others_report: bool,
}

struct View<'a> {
    gauges: &'a [[u32; GAUGES]],
    outputs: &'a [Output],
}

impl Hide for View<'_> {}

impl Pool for View<'_> {
    fn table(&self, slot: u32) -> u16 {
        (slot as usize % self.outputs.len()) as u16
    }

    fn member(&self, position: u32) -> u16 {
        position as u16
    }

    fn look(&self, backend: u16) -> Option<Candidate> {
        let output = self.outputs.get(usize::from(backend))?;
        Some(Candidate {
            lacks: 0,
            gauges: self.gauges[usize::from(backend)],
            steer: Steer { cost: output.cost, correction: output.correction },
            limit: output.limit,
            static_cost: output.static_cost,
            share: output.share,
        })
    }

    fn turn(&self) -> u32 {
        0
    }
}

struct Flow {
    backend: usize,
    streams: Duration,
    ends: Duration,
}

/// One way to steer the traffic, and what comes of it.
#[derive(Default)]
struct Steering {
    flows: Vec<Flow>,
    gauges: Vec<[u32; GAUGES]>,
    outputs: Vec<Output>,
    /// New flows of each server since all has settled.
    picked: Vec<u32>,
}

impl Steering {
    fn new(count: usize) -> Self {
        Self { gauges: vec![[0; GAUGES]; count], picked: vec![0; count], ..Self::default() }
    }

    fn count(&mut self, now: Duration) {
        self.flows.retain(|flow| flow.ends > now);
        self.gauges.fill([0; GAUGES]);
        for flow in &self.flows {
            let state = if flow.streams > now { Gauge::Awaiting } else { Gauge::Streaming };
            self.gauges[flow.backend][state as usize] += 1;
            self.gauges[flow.backend][Gauge::Prompts as usize] +=
                PROMPTS_LEAST * u32::from(state == Gauge::Awaiting);
        }
    }

    /// Opens a flow with so much work, and says where.
    fn open(&mut self, now: Duration, context: &Context, work: Duration, speeds: &[f64]) -> usize {
        let choice = pick(context, &View { gauges: &self.gauges, outputs: &self.outputs });
        let backend = usize::from(choice.expect("all can take flows").backend);
        self.gauges[backend][Gauge::Awaiting as usize] += 1;
        self.gauges[backend][Gauge::Prompts as usize] += PROMPTS_LEAST;
        self.flows.push(Flow {
            backend,
            streams: now + AWAITING,
            ends: now + work.mul_f64(1.0 / speeds[backend]),
        });
        self.picked[backend] += u32::from(now >= SETTLED);
        backend
    }

    /// The part of new flows that the liar gets.
    fn share(&self) -> f64 {
        f64::from(self.picked[0]) / f64::from(self.picked.iter().sum::<u32>())
    }
}

/// Runs a case in which the first server lies: steered by the governor, and beside it the same traffic steered by what
/// the governor knows from the kernel alone.
fn run(case: &Case) -> [Steering; 2] {
    let mut traffic = SmallRng::seed_from_u64(case.seed);
    let mut whims = SmallRng::seed_from_u64(!case.seed);
    let count = case.speeds.len();
    let mut governor = Governor::new(Options::default());
    let (mut real, mut kernel) = (Steering::new(count), Steering::new(count));
    let mut inputs = vec![input([0; 4]); count];
    let (mut bytes, mut tokens) = (vec![0.0; count], vec![0.0; count]);
    let speed: f64 = case.speeds.iter().sum::<f64>() / count as f64;
    let arrivals = case.flows * speed / WORK.as_secs_f64() * TICK.as_secs_f64();
    let (mut due, mut next_report, mut now) = (0.0, Duration::ZERO, Duration::ZERO);
    while now < END {
        real.count(now);
        kernel.count(now);
        for (backend, input) in inputs.iter_mut().enumerate() {
            input.gauges = real.gauges[backend];
            let streaming = f64::from(input.gauge(Gauge::Streaming));
            let moved = streaming * case.speeds[backend] * TICK.as_secs_f64();
            bytes[backend] += moved * BYTES;
            tokens[backend] += moved * TOKENS;
            input.progressed = bytes[backend] as u64;
            if now >= next_report && (backend == 0 || case.others_report) {
                let truth = Reported {
                    generation_tokens: Some(tokens[backend]),
                    ..reported(f64::from(input.at_work()), 0.0, now)
                };
                input.reported = Some(if backend == 0 { case.lie.told(&truth, &mut whims) } else { truth });
            }
        }
        if now >= next_report {
            next_report += REPORTS;
        }
        governor.tick(now, &inputs, &mut real.outputs);
        kernel.outputs = (0..count).map(|position| by_kernel(&governor.explain(position).unwrap())).collect();
        due += arrivals * traffic.random_range(0.0..2.0);
        while due >= 1.0 {
            due -= 1.0;
            let context = context(&mut traffic, &governor, count);
            let work = WORK.mul_f64(traffic.random_range(0.5..1.5));
            inputs[real.open(now, &context, work, &case.speeds)].opened += 1;
            kernel.open(now, &context, work, &case.speeds);
        }
        now += TICK;
    }
    [real, kernel]
}

fn by_kernel(explained: &Explained) -> Output {
    let written = explained.written;
    let cost = crate::governor::scale(written.static_cost, explained.kernel_factor);
    let correction = crate::governor::in_flow_units(explained.fail_fast.flows);
    Output { cost, correction, limit: 0, ..written }
}

fn context(traffic: &mut SmallRng, governor: &Governor, count: usize) -> Context {
    Context {
        rule: Rule { policy: Policy::Least as u8, awaiting_weight: AWAITING_WEIGHT, epsilon: 0 },
        hash: traffic.random(),
        flow_hash: traffic.random(),
        table_size: count as u32,
        members: count as u32,
        opening_cap: governor.opening_cap(),
        duty: governor.duty(),
        prompt: governor.prompt(),
        total: 0,
        silence: 0,
        patience: 1,
    }
}

impl Lie {
    fn told(&self, truth: &Reported, whims: &mut SmallRng) -> Reported {
        let mut number = |value: f64| {
            const NONSENSE: [f64; 6] = [f64::NAN, f64::INFINITY, -1.0, 1e9, 0.0, f64::MAX];
            let nonsense = whims.random_bool(self.nonsense);
            Some(if nonsense { NONSENSE[whims.random_range(0..NONSENSE.len())] } else { value })
        };
        let tokens = truth.generation_tokens.unwrap_or(0.0) * self.tokens;
        let running = truth.running.unwrap_or(0.0) * self.running.0 + self.running.1;
        let told = Reported { generation_tokens: number(tokens), running: number(running), ..*truth };
        if whims.random_bool(self.backwards) {
            return Reported { generation_tokens: Some(0.0), ..told };
        }
        let taken_end = told.taken_end + self.younger;
        Reported { taken_start: taken_end, taken_end, ..told }
    }
}

fn lie() -> impl Strategy<Value = Lie> {
    let tokens = prop_oneof![Just(1.0), Just(64.0), Just(0.0), 0.01..100.0_f64];
    let running = prop_oneof![Just((0.0, 0.0)), Just((1.0, 0.0)), (0.0..3.0_f64, 0.0..50.0_f64)];
    let often = || prop_oneof![3 => Just(0.0), 1 => 0.0..1.0_f64];
    let younger = prop_oneof![Just(0), Just(1000), 0..100_000_u64].prop_map(Duration::from_millis);
    (tokens, running, often(), often(), younger).prop_map(
        |(tokens, running, nonsense, backwards, younger)| Lie {
            tokens,
            running,
            nonsense,
            backwards,
            younger,
        },
    )
}

fn case() -> impl Strategy<Value = Case> {
    let speeds = prop_oneof![
        (2..9_usize).prop_map(|count| vec![1.0; count]),
        proptest::collection::vec(prop_oneof![Just(1.0), Just(0.25), Just(0.5)], 3..9),
    ];
    (any::<u64>(), speeds, BUSY..25.0_f64, lie(), any::<bool>()).prop_map(
        |(seed, speeds, flows, lie, others_report)| {
            let flows = flows * speeds.len() as f64;
            Case { seed, speeds, flows, lie, others_report }
        },
    )
}

/// Each case is five thousand ticks: a fraction of what others have.
fn cases() -> u32 {
    (ProptestConfig::default().cases / 16).min(100)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn no_lie_lifts_a_backend_above_twice_its_share(case in case()) {
        let [real, kernel] = run(&case);
        let [lied, fair] = [&real, &kernel].map(|steering| f64::from(steering.picked[0]));
        let all = f64::from(real.picked.iter().sum::<u32>());
        // Counts scatter, and one flow in 128 looks at nothing.
        let most = 2.0 * fair * 1.05 + 2.0 * (2.0 * fair + 1.0).sqrt() + all * 0.03;
        prop_assert!(lied <= most, "{lied} of {all} flows instead of {fair}");
    }
}

#[test]
fn the_boldest_lies_get_twice_the_share_and_the_truth_what_it_deserves() {
    let base =
        Lie { tokens: 1.0, running: (1.0, 0.0), nonsense: 0.0, backwards: 0.0, younger: Duration::ZERO };
    let fast = Lie { tokens: 64.0, ..base };
    let empty = Lie { running: (0.0, 0.0), ..base };
    let both = Lie { tokens: 64.0, running: (0.5, 0.0), ..base };
    let shares = |lie, flows| {
        let case = Case { seed: 7, speeds: vec![1.0; 8], flows, lie, others_report: true };
        let [real, kernel] = run(&case);
        (real.share(), kernel.share())
    };
    for (what, lie, least) in [("fast", fast, 1.4), ("empty", empty, 1.1), ("both", both, 1.4)] {
        let (lied, kernel) = shares(lie, 60.0);
        let lifted = lied / kernel;
        assert!((least..2.1).contains(&lifted), "{what}: lifted {lifted:.2} times");
    }
    // With next to nothing to do, an idle server is an idle server.
    let (lied, kernel) = shares(both, 1.0);
    assert!(lied <= kernel * 1.2, "{lied:.3} instead of {kernel:.3}");
    let (told, kernel) = shares(base, 60.0);
    assert!((told - kernel).abs() < 0.02, "{told:.3} instead of {kernel:.3}");
}

#[test]
fn a_slow_liars_flows_are_bounded_as_its_load_is() {
    let lie =
        Lie { tokens: 64.0, running: (1.0, 0.0), nonsense: 0.0, backwards: 0.0, younger: Duration::ZERO };
    let case = Case { seed: 0, speeds: vec![0.25, 1.0, 1.0], flows: 70.0, lie, others_report: true };
    let [real, kernel] = run(&case);
    let (lied, fair) = (real.share(), kernel.share());
    assert!(lied <= 2.1 * fair, "{lied:.3} instead of {fair:.3}");
}

fn proposed(cost: u32, correction: i32) -> Output {
    Output { cost, correction, limit: 0, static_cost: COST_ONE, share: 1 << 13 }
}

fn load(output: &Output, flows: u32) -> f64 {
    (f64::from(flows) + f64::from(output.correction) / f64::from(FLOW) + TO_COME) * f64::from(output.cost)
}

proptest! {
    #[test]
    fn the_load_stays_above_the_bound_at_every_count_from_the_present_one_on(
        (cost, correction) in (1..=64 * COST_ONE, any::<i32>()),
        kernel in 1.0..200_000.0_f64,
        (at_work, more, failed) in (0..100_000_u32, 0..100_000_u32, prop_oneof![Just(0.0), 0.0..1000.0_f64]),
    ) {
        let flows = Flows { at_work: f64::from(at_work), failed };
        let bounded = held(proposed(cost, correction), kernel, &flows);
        let kernel = kernel.min(f64::from(64 * COST_ONE));
        for flows in [at_work, at_work + more] {
            let bound = (f64::from(flows) / 2.0 + failed + TO_COME) * kernel;
            // Corrections are in 256ths of a flow.
            let rounding = f64::from(bounded.cost) / f64::from(FLOW);
            prop_assert!(load(&bounded, flows) >= bound * 0.999_999 - rounding, "{bounded:?} at {flows}");
        }
        // What looks worse than the kernel's picture is left alone.
        if f64::from(cost) >= kernel && f64::from(correction) >= failed * f64::from(FLOW) {
            prop_assert!(bounded == proposed(cost, correction), "{bounded:?}");
        }
    }

    #[test]
    fn nobody_has_more_than_twice_of_the_kernels_against_the_others(
        costs in proptest::collection::vec((1.0..65_536.0_f64, 1..65_536_u32), 2..40),
    ) {
        let members: Vec<Capacity> =
            costs.iter().map(|&(kernel, governor)| Capacity::of(kernel, governor)).collect();
        let pool = sum(&members);
        let scales: Vec<f64> = members.iter().map(|member| member.scale(&pool)).collect();
        let bounded: Vec<f64> = costs
            .iter()
            .zip(&scales)
            .map(|(&(kernel, governor), scale)| 1.0 / f64::from(governor).max(kernel * scale / 2.0))
            .collect();
        let whole: f64 = bounded.iter().sum();
        prop_assert!((whole / pool.governor - 1.0).abs() < 1e-6, "{whole} and {}", pool.governor);
        for (capacity, member) in bounded.iter().zip(&members) {
            let (has, fair) = (capacity / (whole - capacity), member.kernel / (pool.kernel - member.kernel));
            prop_assert!(has <= 2.0 * fair * 1.000_001, "{has} above twice {fair}");
        }
    }
}

#[test]
fn without_reports_nothing_is_bounded() {
    let mut governor = Governor::new(Options::default());
    let mut outputs = Vec::new();
    let mut rng = SmallRng::seed_from_u64(3);
    let mut inputs = vec![input([0, 1, 4, 2]); 5];
    let mut now = Duration::ZERO;
    for _ in 0..8000 {
        for (number, input) in inputs.iter_mut().enumerate() {
            let speed = if number == 0 { 5 } else { 20 };
            input.progressed += rng.random_range(0..2 * speed);
            // One goes and comes back.
            input.usable = number != 1 || !(Duration::from_secs(20)..Duration::from_secs(22)).contains(&now);
        }
        governor.tick(now, &inputs, &mut outputs);
        for position in 0..inputs.len() {
            let explained = governor.explain(position).unwrap();
            assert!(!explained.bounded, "{position} at {now:?}: {explained:?}");
        }
        now += TICK;
    }
    assert!(outputs[0].cost > 2 * COST_ONE, "the slow one was found: {outputs:?}");
}

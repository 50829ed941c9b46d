//! Picks by load against a naive reference, in exact arithmetic.

use std::collections::HashSet;

use lb_common::{
    pick::{
        CANDIDATES, COST_MAX, COST_ONE, Candidate, Choice, Context, FLOW, Nominal, PROMPT, Policy, Rule,
        Steer, Why, load, pick, score,
    },
    slot::GAUGES,
};
use proptest::{
    collection::vec,
    prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_assume, prop_oneof, proptest},
    sample::select,
};
use rand::Rng as _;

use crate::{
    model::{FREE, Model},
    support::{Plain, assert_uniform, seeded},
};

/// What a candidate is to a pick, best first: under its limit, at its limit, unfit; and the load in 64ths.
type Standing = (u8, i128);

/// The load of section 4 of the design, in numbers that cannot overflow.
fn standing(context: &Context, c: &Candidate) -> Standing {
    let by_weight = context.rule.policy == Policy::LeastConnections as u8;
    let flow = i128::from(FLOW);
    let [opening, awaiting, streaming, idle, prompts] = c.gauges.map(i128::from);
    let live = if by_weight {
        (opening + awaiting + streaming + idle) * flow
    } else {
        (opening.min(context.opening_cap.into()) + awaiting + streaming) * flow
            + idle * i128::from(context.duty)
    };
    let informed = !by_weight && context.silence < context.patience;
    let occupied = live + if informed { i128::from(c.steer.correction) } else { 0 };
    let wait = if by_weight { 0 } else { i128::from(context.rule.awaiting_weight) * flow };
    let cost = i128::from(if by_weight { c.static_cost } else { c.steer.cost });
    let waiting = prompts * (wait * i128::from(context.prompt) / i128::from(PROMPT));
    let load = (((occupied + waiting).max(0) + flow + wait) * cost) / 256;
    let full = !by_weight && c.limit > 0 && occupied + flow > i128::from(c.limit) * flow;
    // A load saturates where its 30 bits end.
    (if c.lacks != 0 { 2 } else { full.into() }, load.min((1 << 30) - 1))
}

/// The pick among `weighed`: the best class, in it the smallest load, ties within a 64th by score.
fn naive_least(model: &Model, context: &Context) -> Option<Choice> {
    let mut fit: Vec<(Standing, u16)> = model
        .weighed(context)
        .into_iter()
        .map(|id| (standing(context, &model.candidates[usize::from(id)]), id))
        .filter(|((class, _), _)| *class < 2)
        .collect();
    fit.sort();
    let &((class, smallest), _) = fit.first()?;
    let backend = fit
        .iter()
        .filter(|((c, load), _)| *c == class && *load <= smallest + smallest / 64)
        .map(|&(_, id)| id)
        .min_by_key(|&id| (score(context.hash, id), id))?;
    Some(Choice { backend, why: if class == 1 { Why::AllFull } else { Why::Least } })
}

fn explores(model: &Model, hash: u64) -> bool {
    pick(&model.context(Policy::Least, hash), model).is_some_and(|choice| choice.why == Why::Explored)
}

fn gauges() -> impl Strategy<Value = [u32; GAUGES]> {
    let gauge = || prop_oneof![0..4u32, 0..200u32, 0..1_000_000u32];
    [gauge(), gauge(), gauge(), gauge(), gauge()]
}

fn candidates() -> impl Strategy<Value = Candidate> {
    let lacks = prop_oneof![4 => Just(0u32), 1 => 1..16u32, 1 => any::<u32>()];
    let cost = || prop_oneof![Just(COST_ONE), 128..8 * COST_ONE, 1..=COST_MAX];
    let correction = prop_oneof![Just(0), -10_000..10_000i32, any::<i32>()];
    let limit = prop_oneof![Just(0u32), 1..300u32, any::<u32>()];
    (lacks, gauges(), cost(), correction, limit, cost()).prop_map(
        |(lacks, gauges, cost, correction, limit, static_cost)| Candidate {
            lacks,
            gauges,
            steer: Steer { cost, correction },
            limit,
            static_cost,
            share: 0,
        },
    )
}

/// Whether the smallest load is so large that 5 % above it is no load of its class.
fn saturates(model: &Model, context: &Context) -> bool {
    let best =
        model.weighed(context).iter().map(|&id| standing(context, &model.candidates[usize::from(id)])).min();
    best.is_some_and(|(_, load)| load + load / 20 >= 1 << 30)
}

fn check_least(candidates: Vec<Candidate>, context: &Context, saturated: bool) {
    let model = Model::new(candidates);
    let context =
        Context { table_size: model.table.len() as u32, members: model.candidates.len() as u32, ..*context };
    if saturates(&model, &context) != saturated {
        return;
    }
    let choice = pick(&context, &model);
    match choice.map(|choice| choice.why) {
        Some(Why::Explored) => return,
        // The last resort is for when none of those weighed can take the flow.
        Some(Why::NextMember) => return assert_eq!(naive_least(&model, &context), None),
        _ => {}
    }
    assert_eq!(choice, naive_least(&model, &context));
}

fn contexts(policies: &'static [Policy]) -> impl Strategy<Value = Context> {
    let rule = (select(policies), 0..=16u8, any::<u16>());
    let rule = rule.prop_map(|(policy, awaiting_weight, epsilon)| Rule {
        policy: policy as u8,
        awaiting_weight,
        epsilon,
    });
    (rule, any::<u64>(), 0..100u32, (0..=FLOW, 0..=PROMPT), select(&[0, 499, 500, (1u64 << 63) - 1][..]))
        .prop_map(|(rule, hash, opening_cap, (duty, prompt), silence)| Context {
            rule,
            hash,
            flow_hash: hash,
            table_size: 0,
            members: 0,
            opening_cap,
            duty,
            prompt,
            total: 0,
            silence,
            patience: 500,
        })
}

const BY_LOAD: &[Policy] = &[Policy::Least, Policy::LeastConnections];

proptest! {
    #[test]
    fn a_pick_by_load_is_the_naive_one(backends in vec(candidates(), 1..40), context in contexts(BY_LOAD)) {
        check_least(backends, &context, false);
    }

    #[test]
    fn a_pick_among_near_equals_is_the_naive_one(
        streaming in vec(95..125u32, 1..=CANDIDATES), context in contexts(BY_LOAD),
    ) {
        let backends = streaming.into_iter().map(|flows| Candidate { gauges: [0, 0, flows, 0, 0], ..FREE });
        check_least(backends.collect(), &context, false);
    }

    #[test]
    fn a_load_is_the_designs_formula(candidate in candidates(), context in contexts(BY_LOAD)) {
        let load = load::<Plain>(&context, &candidate);
        let (class, expected) = standing(&context, &candidate);
        prop_assert_eq!(i128::from(load & ((1 << 30) - 1)), expected);
        prop_assert_eq!(load >= 1 << 31, class == 2, "unfit");
        if class < 2 {
            prop_assert_eq!(load >= 1 << 30, class == 1, "full");
        }
    }

    #[test]
    fn saturated_loads_keep_their_class(backends in vec(saturated(), 1..=CANDIDATES), context in contexts(&[Policy::Least])) {
        check_least(backends, &Context { silence: 0, ..context }, true);
    }

    #[test]
    fn who_lacks_something_gets_nothing(
        backends in vec(candidates(), 1..40), context in contexts(&[
            Policy::Least, Policy::Bounded, Policy::Hash, Policy::RoundRobin, Policy::LeastConnections,
        ]),
    ) {
        let model = Model::new(backends);
        let context = Context { table_size: model.table.len() as u32, members: model.candidates.len() as u32, ..context };
        prop_assume!(!saturates(&model, &context));
        match pick(&context, &model) {
            Some(choice) => prop_assert_eq!(model.candidates[usize::from(choice.backend)].lacks, 0, "{:?}", choice.why),
            None if model.candidates.len() <= CANDIDATES => prop_assert!(model.candidates.iter().all(|c| c.lacks != 0)),
            None => prop_assert!(model.drawn(&context).iter().all(|&id| model.candidates[usize::from(id)].lacks != 0)),
        }
    }

    #[test]
    fn a_correction_never_makes_a_load_negative(mut candidate in candidates(), context in contexts(&[Policy::Least])) {
        let context = Context { silence: 0, ..context };
        candidate.steer.correction = i32::MIN;
        candidate.lacks = 0;
        candidate.limit = 0;
        let drained = Candidate { gauges: [0; GAUGES], ..candidate };
        prop_assert!(load::<Plain>(&context, &candidate) >= load::<Plain>(&context, &drained));
        let to_come = u64::from(FLOW) * (1 + u64::from(context.rule.awaiting_weight));
        let load_to_come = (to_come * u64::from(candidate.steer.cost)) >> 8;
        prop_assert_eq!(load::<Plain>(&context, &drained), load_to_come.min((1 << 30) - 1));
    }

    #[test]
    fn a_silent_governor_loses_its_corrections_and_keeps_its_costs(candidate in candidates(), context in contexts(&[Policy::Least])) {
        let stale = Context { silence: context.patience, ..context };
        let uncorrected = Candidate { steer: Steer { correction: 0, ..candidate.steer }, ..candidate };
        prop_assert_eq!(load::<Plain>(&stale, &candidate), load::<Plain>(&stale, &uncorrected));
        let fresh = Context { silence: context.patience - 1, ..context };
        prop_assert_eq!(load::<Plain>(&stale, &uncorrected), load::<Plain>(&fresh, &uncorrected));
    }

    #[test]
    fn least_connections_sees_neither_cost_nor_correction_nor_limit(candidate in candidates(), context in contexts(&[Policy::LeastConnections])) {
        let plain = Candidate { steer: FREE.steer, limit: 0, ..candidate };
        let other = Context { silence: 0, opening_cap: 0, duty: 0, prompt: 0, ..context };
        prop_assert_eq!(load::<Plain>(&context, &candidate), load::<Plain>(&other, &plain));
    }

    #[test]
    fn a_higher_gauge_or_cost_never_lowers_a_load(candidate in candidates(), context in contexts(BY_LOAD), at in 0..GAUGES, more in 1..1000u32) {
        let mut busier = candidate;
        busier.gauges[at] += more;
        prop_assert!(load::<Plain>(&context, &candidate) <= load::<Plain>(&context, &busier));
        let dearer = Candidate {
            steer: Steer { cost: (candidate.steer.cost + more).min(COST_MAX), ..candidate.steer },
            static_cost: candidate.static_cost + more,
            ..candidate
        };
        prop_assert!(load::<Plain>(&context, &candidate) <= load::<Plain>(&context, &dearer));
    }

    #[test]
    fn cost_and_correction_share_a_word(cost: u32, correction: i32) {
        let steer = Steer { cost, correction };
        prop_assert_eq!(Steer::from_word(steer.to_word()), steer);
    }

    #[test]
    fn what_the_weight_gives_shares_a_word(static_cost in 1..=COST_MAX, share in 1..=65_536u32) {
        let nominal = Nominal { static_cost, share };
        prop_assert_eq!(Nominal::from_word(nominal.to_word()), nominal);
        let none = Nominal { static_cost: 0, share: 0 };
        prop_assert_eq!(Nominal::from_word(none.to_word()), Nominal { static_cost: 1, share: 1 });
    }
}

/// Backends whose loads end at or near the top of their class: some at their limit, some unfit.
fn saturated() -> impl Strategy<Value = Candidate> {
    (0..=1u32, prop_oneof![Just(i32::MAX), Just(0)], prop_oneof![Just(0u32), Just(1)]).prop_map(
        |(lacks, correction, limit)| Candidate {
            lacks,
            steer: Steer { cost: 4 * COST_ONE, correction },
            gauges: [0, 1, 1, 0, 1],
            limit,
            ..FREE
        },
    )
}

#[test]
fn a_saturated_backend_at_its_limit_is_better_than_one_that_is_down() {
    let steer = Steer { cost: 4 * COST_ONE, correction: i32::MAX };
    let full = Candidate { steer, limit: 1, ..FREE };
    let model = Model::new(vec![full, Candidate { lacks: 1, ..FREE }]);
    for hash in 0..100 {
        let choice = pick(&model.context(Policy::LeastConnections, hash), &model);
        assert_eq!(choice, Some(Choice { backend: 0, why: Why::Least }), "by connections");
        let choice = pick(&model.context(Policy::Bounded, hash), &model);
        assert_eq!(choice, Some(Choice { backend: 0, why: Why::AllFull }), "by load");
    }
}

#[test]
fn policy_numbers_round_trip_and_unknown_ones_read_as_least() {
    for policy in [Policy::Least, Policy::Bounded, Policy::Hash, Policy::RoundRobin, Policy::LeastConnections]
    {
        assert_eq!(Policy::from_number(policy as u8), policy);
    }
    for number in 5..=u8::MAX {
        assert_eq!(Policy::from_number(number), Policy::Least);
    }
}

#[test]
fn a_backend_is_full_when_one_more_flow_would_pass_its_limit() {
    let context = Model::new(vec![FREE]).context(Policy::Least, 1);
    for (streaming, correction, limit, full) in [
        (0, 0, 1, false),
        (1, 0, 1, true),
        (3, 0, 4, false),
        (4, 0, 4, true),
        (3, 1, 4, true),
        (4, -1, 4, true),
        (4, -(FLOW as i32), 4, false),
        (0, -9_999, 1, false),
        (1_000_000, i32::MAX, 0, false),
    ] {
        let steer = Steer { correction, ..FREE.steer };
        let candidate = Candidate { gauges: [0, 0, streaming, 0, 0], steer, limit, ..FREE };
        let found = load::<Plain>(&context, &candidate) >= 1 << 30;
        assert_eq!(found, full, "{streaming} flows and {correction} of {limit}");
        let stale = Context { silence: context.patience, ..context };
        let by_flows_alone = limit > 0 && streaming >= limit;
        assert_eq!(
            load::<Plain>(&stale, &candidate) >= 1 << 30,
            by_flows_alone,
            "governor silent, {streaming} of {limit}"
        );
    }
}

#[test]
fn an_awaiting_flow_counts_for_its_weight_more_by_the_size_of_its_request() {
    let model = Model::new(vec![FREE]);
    for (usual, prompts, streaming) in [(1, 1, 5), (8, 8, 5), (8, 16, 9), (8, 2, 2)] {
        let context = Context { prompt: PROMPT / usual, ..model.context(Policy::Least, 1) };
        let awaits = Candidate { gauges: [0, 1, 0, 0, prompts], ..FREE };
        let streams = Candidate { gauges: [0, 0, streaming, 0, 0], ..FREE };
        let loads = [&awaits, &streams].map(|candidate| load::<Plain>(&context, candidate));
        assert_eq!(loads[0], loads[1], "{prompts} of usually {usual}");
    }
}

#[test]
fn a_gauge_that_has_dipped_below_zero_counts_as_none() {
    let model = Model::new(vec![FREE]);
    for at in 0..GAUGES {
        let mut dipped = FREE;
        dipped.gauges[at] = u32::MAX;
        assert_eq!(
            load::<Plain>(&model.context(Policy::Least, 1), &dipped),
            load::<Plain>(&model.context(Policy::Least, 1), &FREE),
            "gauge {at}"
        );
    }
}

#[test]
fn about_one_flow_in_128_explores_and_it_reaches_everyone_alike() {
    const FLOWS: u64 = 1 << 18;
    for members in [4, 16, 64] {
        let model = Model::new(vec![FREE; members]);
        let mut random = seeded(members as u64);
        let mut reached = vec![0; members];
        for _ in 0..FLOWS {
            let hash = random.random();
            if explores(&model, hash) {
                let choice = pick(&model.context(Policy::Least, hash), &model).unwrap();
                assert_eq!(choice.backend, model.drawn(&model.context(Policy::Least, hash))[0]);
                reached[usize::from(choice.backend)] += 1;
            }
        }
        let explored: u64 = reached.iter().sum();
        println!("{members} backends: one flow in {:.1} explores", FLOWS as f64 / explored as f64);
        // Five standard deviations around 2,048.
        assert!((1820..=2276).contains(&explored), "{explored} of {FLOWS} flows explored");
        assert_uniform(&reached, "explored backends");
    }
}

#[test]
fn a_flow_that_explores_passes_over_who_cannot_take_it() {
    let mut model = Model::new(vec![Candidate { gauges: [0, 9, 9, 9, 9], limit: 1, ..FREE }; 8]);
    let mut random = seeded(3);
    let hashes: Vec<u64> =
        (0..20_000).map(|_| random.random()).filter(|&hash| explores(&model, hash)).collect();
    assert!(hashes.len() > 50);
    model.candidates[3].lacks = 1;
    for hash in hashes {
        let context = model.context(Policy::Least, hash);
        let expected = model.drawn(&context).into_iter().find(|&id| id != 3).unwrap();
        assert_eq!(pick(&context, &model), Some(Choice { backend: expected, why: Why::Explored }), "{hash}");
    }
}

#[test]
fn an_idle_pool_is_shared_evenly() {
    for members in [2, 8, 16, 40] {
        let model = Model::new(vec![FREE; members]);
        let mut random = seeded(9);
        let mut picked = vec![0; members];
        for _ in 0..20_000 {
            picked[usize::from(
                pick(&model.context(Policy::Least, random.random()), &model).unwrap().backend,
            )] += 1;
        }
        assert_uniform(&picked, &format!("picks among {members} idle backends"));
    }
}

#[test]
fn a_score_orders_backends_evenly_and_keeps_its_order_when_one_leaves() {
    let mut random = seeded(4);
    let mut first = [0; 16];
    for _ in 0..8_000 {
        let hash: u64 = random.random();
        let mut order: Vec<u16> = (0..16).collect();
        order.sort_by_key(|&id| score(hash, id));
        first[usize::from(order[0])] += 1;
        let scores: HashSet<u32> = order.iter().map(|&id| score(hash, id)).collect();
        assert_eq!(scores.len(), 16, "equal scores under {hash}");
    }
    assert_uniform(&first, "first by score");
}

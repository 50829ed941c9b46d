//! Bounded loads: the bound itself, and arrivals and departures under it.

use lb_common::pick::{Candidate, Context, FLOW, Policy, Rule, Why, pick, within_bound};
use proptest::prelude::{prop_assert_eq, proptest};
use rand::Rng as _;

use crate::{
    model::{FREE, Model},
    support::{Plain, seeded},
};

/// The margin, 0.25, in 1,024ths.
const EPSILON: u16 = 256;

/// `ceil((1 + epsilon) * (total + 1) * share - lost)`, in exact arithmetic; `lost` in 256ths of a flow.
fn bound(total: u32, share: u32, epsilon: u16, lost: u128) -> u64 {
    const ONE: u128 = 1024 << 16;
    let product = (1024 + u128::from(epsilon)) * (u128::from(total) + 1) * u128::from(share);
    product.saturating_sub(lost * ONE / u128::from(FLOW)).div_ceil(ONE) as u64
}

proptest! {
    #[test]
    fn a_flow_is_within_bounds_up_to_the_ceiling(
        live in 0..5000u32, total in 0..200_000u32, share in 0..=65_536u32, epsilon in 0..=4096u16, opening in 0..20u32,
    ) {
        let context = Context {
            rule: Rule { policy: Policy::Bounded as u8, awaiting_weight: 4, epsilon },
            total: u64::from(total) * u64::from(FLOW),
            opening_cap: 4,
            ..Model::new(vec![FREE]).context(Policy::Bounded, 0)
        };
        let candidate = Candidate { gauges: [opening, live / 2, live - live / 2, 0, live / 2], share, ..FREE };
        let flows = u64::from(live + opening.min(4)) + 1;
        let exact = bound(total, share, epsilon, 0);
        // Two roundings down lose less than three 256ths, the first of them times the margin.
        let lower = bound(total, share, epsilon, 6);
        let within = within_bound::<Plain>(&context, &candidate);
        if flows <= lower {
            prop_assert_eq!(within, true, "{} flows, bound {}", flows, exact);
        }
        if flows > exact {
            prop_assert_eq!(within, false, "{} flows, bound {}", flows, exact);
        }
    }
}

/// What a simulation of arrivals and departures saw.
#[derive(Debug, Default)]
struct Seen {
    placed: u32,
    first_choice: u32,
    over_bound: u32,
    out_of_bounds_everywhere: u32,
}

/// Keys return again and again to a VIP of equal backends that holds `load` of what its backends may: each
/// arrival is a flow of a random key, and each departure is of a random live flow, so the number of flows
/// stays at `load * backends * limit`.
fn simulate(backends: usize, limit: u32, load: f64, seed: u64) -> Seen {
    let share = 65_536 / backends as u32;
    let mut model = Model::new(vec![Candidate { limit, share, ..FREE }; backends]);
    let target = (load * f64::from(limit) * backends as f64) as usize;
    let mut random = seeded(seed);
    let keys: Vec<u64> = (0..4 * target).map(|_| random.random()).collect();
    let (mut flows, mut seen) = (Vec::<u16>::new(), Seen::default());
    for arrival in 0..target + 20_000 {
        if flows.len() >= target {
            let gone = flows.swap_remove(random.random_range(0..flows.len()));
            model.candidates[usize::from(gone)].gauges[2] -= 1;
        }
        let total = flows.len() as u32;
        let hash = keys[random.random_range(0..keys.len())];
        let context =
            Context { total: u64::from(total) * u64::from(FLOW), ..model.context(Policy::Bounded, hash) };
        let choice = pick(&context, &model).unwrap();
        let flows_then = |id: u16| u64::from(model.candidates[usize::from(id)].gauges[2]) + 1;
        let ceiling = bound(total, share, EPSILON, 0);
        let drawn = model.drawn(&context);
        if flows_then(choice.backend) > ceiling {
            seen.over_bound += 1;
            assert!(drawn.iter().all(|&id| flows_then(id) > ceiling), "a drawn backend was within bounds");
        }
        if choice.why == Why::WithinBound {
            let first = drawn.iter().find(|&&id| flows_then(id) <= ceiling);
            assert_eq!(Some(&choice.backend), first, "not the first within bounds");
        } else {
            seen.out_of_bounds_everywhere += 1;
        }
        if arrival >= target {
            seen.placed += 1;
            seen.first_choice += u32::from(choice.backend == drawn[0]);
        }
        model.candidates[usize::from(choice.backend)].gauges[2] += 1;
        flows.push(choice.backend);
    }
    seen
}

#[test]
fn bounds_hold_and_returning_keys_go_to_their_first_choice() {
    for backends in [16, 64] {
        let seen = simulate(backends, 64, 0.6, backends as u64);
        let kept = f64::from(seen.first_choice) / f64::from(seen.placed);
        println!(
            "{backends} backends of 64 flows, load 0.6: {:.1} % to their first choice, {seen:?}",
            kept * 100.0
        );
        // Only where all draws are over their bounds: the simulation itself refuses anything else.
        assert!(f64::from(seen.over_bound) < 1e-3 * f64::from(seen.placed), "{seen:?}");
        assert!(kept >= 0.9, "only {:.1} % of flows went to their first choice", kept * 100.0);
    }
}

//! Picks in order: plain hashing, the round robin, and the last resort.

use lb_common::{
    maglev::NOBODY,
    pick::{CANDIDATES, Candidate, Choice, Context, Policy, Why, pick},
};
use rand::Rng as _;

use crate::{
    model::{FREE, Model},
    support::{assert_uniform, seeded},
};

const DOWN: Candidate = Candidate { lacks: 1, ..FREE };

const ALL: [Policy; 5] =
    [Policy::Least, Policy::Bounded, Policy::Hash, Policy::RoundRobin, Policy::LeastConnections];

/// A VIP in which only `up` can take flows.
fn only(members: usize, up: &[usize]) -> Model {
    let mut model = Model::new(vec![DOWN; members]);
    for &id in up {
        model.candidates[id] = FREE;
    }
    model
}

fn picks(model: &Model, policy: Policy, seed: u64, count: usize) -> Vec<Option<Choice>> {
    let mut random = seeded(seed);
    (0..count).map(|_| pick(&model.context(policy, random.random()), model)).collect()
}

#[test]
fn plain_hashing_takes_the_first_draw_whatever_its_load() {
    let busy = Candidate { gauges: [9; 5], limit: 1, ..FREE };
    let model = Model::new(vec![busy; 40]);
    let mut random = seeded(1);
    for _ in 0..500 {
        let context = model.context(Policy::Hash, random.random());
        let expected = Choice { backend: model.drawn(&context)[0], why: Why::First };
        assert_eq!(pick(&context, &model), Some(expected));
    }
}

#[test]
fn when_a_backend_is_down_only_its_own_keys_go_elsewhere_and_evenly() {
    let mut model = Model::new(vec![FREE; 32]);
    let before = picks(&model, Policy::Hash, 2, 60_000);
    model.candidates[5] = DOWN;
    let after = picks(&model, Policy::Hash, 2, 60_000);
    let mut taken = [0; 32];
    for (before, after) in before.into_iter().zip(after) {
        let (before, after) = (before.unwrap(), after.unwrap());
        if before.backend == 5 {
            taken[usize::from(after.backend)] += 1;
        } else {
            assert_eq!(before, after);
        }
    }
    assert_eq!(taken[5], 0);
    let others: Vec<u64> = taken.iter().enumerate().filter(|&(id, _)| id != 5).map(|(_, &n)| n).collect();
    assert_uniform(&others, "who takes a lost backend's keys");
}

#[test]
fn plain_hashing_follows_the_tables_weights() {
    let model = Model::weighted(vec![FREE; 3], &[1, 2, 0]);
    let mut counts = [0u32; 3];
    for choice in picks(&model, Policy::Hash, 3, 30_000) {
        counts[usize::from(choice.unwrap().backend)] += 1;
    }
    assert_eq!(counts[2], 0, "weight zero");
    assert!((9_600..10_400).contains(&counts[0]), "{counts:?}");
}

#[test]
fn the_round_robin_takes_exact_turns() {
    for members in [1, 2, 7, 16, 40] {
        let model = Model::new(vec![Candidate { gauges: [7; 5], limit: 1, ..FREE }; members]);
        for (turn, choice) in picks(&model, Policy::RoundRobin, 4, 3 * members).into_iter().enumerate() {
            let backend = (turn % members) as u16;
            assert_eq!(choice, Some(Choice { backend, why: Why::NextMember }), "turn {turn} of {members}");
        }
    }
}

#[test]
fn the_round_robins_cursor_may_wrap() {
    let model = Model::new(vec![FREE; 4]);
    model.turn.set(u32::MAX - 1);
    let turns: Vec<u16> =
        picks(&model, Policy::RoundRobin, 5, 4).into_iter().map(|c| c.unwrap().backend).collect();
    assert_eq!(turns, [2, 3, 0, 1]);
}

#[test]
fn the_round_robin_passes_over_who_is_down() {
    let mut model = Model::new(vec![FREE; 5]);
    model.candidates[1] = DOWN;
    model.candidates[2] = DOWN;
    let turns: Vec<u16> =
        picks(&model, Policy::RoundRobin, 6, 5).into_iter().map(|c| c.unwrap().backend).collect();
    assert_eq!(turns, [0, 3, 3, 3, 4]);
}

#[test]
fn only_the_round_robin_takes_turns() {
    for policy in ALL {
        let model = Model::new(vec![FREE; 20]);
        picks(&model, policy, 7, 50);
        let expected = if policy == Policy::RoundRobin { 50 } else { 0 };
        assert_eq!(model.turn.get(), expected, "{policy:?}");
    }
}

#[test]
fn the_last_one_up_of_a_small_vip_is_always_found() {
    for members in 1..=CANDIDATES {
        for up in 0..members {
            let model = only(members, &[up]);
            for policy in ALL {
                for choice in picks(&model, policy, up as u64, 20) {
                    assert_eq!(
                        choice.map(|c| usize::from(c.backend)),
                        Some(up),
                        "{policy:?}, {up} of {members}"
                    );
                }
            }
        }
    }
}

#[test]
fn draws_that_all_miss_fall_back_to_the_next_member() {
    let model = only(40, &[0, 10, 20, 30]);
    for policy in ALL {
        let choices = picks(&model, policy, 8, 2_000);
        let fallen = choices.iter().flatten().filter(|choice| choice.why == Why::NextMember).count();
        assert!(fallen > 0, "{policy:?} never fell back");
        assert!(choices.iter().all(Option::is_some), "{policy:?} gave up");
    }
}

#[test]
fn a_large_vip_serves_while_anyone_is_up() {
    let model = only(64, &(16..64).collect::<Vec<_>>());
    for policy in ALL {
        let refused = picks(&model, policy, 9, 6_400).iter().filter(|choice| choice.is_none()).count();
        assert_eq!(refused, 0, "{policy:?} refused flows of 6400 with 48 of 64 up");
    }
}

#[test]
fn nobody_is_picked_when_all_are_down_or_there_is_no_one() {
    for members in [1, 16, 17, 64] {
        let model = only(members, &[]);
        for policy in ALL {
            assert!(picks(&model, policy, 10, 50).iter().all(Option::is_none), "{policy:?} of {members}");
        }
    }
    let model = Model::new(vec![FREE; 3]);
    for policy in ALL {
        let context = model.context(policy, 1);
        assert_eq!(pick(&Context { members: 0, ..context }, &model), None);
        assert_eq!(pick(&Context { table_size: 0, ..context }, &model), None);
    }
}

#[test]
fn a_table_of_nobody_ends_the_pick() {
    let mut model = Model::new(vec![FREE; 20]);
    model.table.fill(NOBODY);
    for policy in [Policy::Least, Policy::Bounded, Policy::Hash, Policy::LeastConnections] {
        assert!(picks(&model, policy, 11, 50).iter().all(Option::is_none), "{policy:?}");
    }
}

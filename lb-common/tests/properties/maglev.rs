//! Maglev tables: shares, order, and what moves when a backend comes or goes.

use lb_common::maglev::{Member, NOBODY, SIZES, Scratch, build, draw, size_for};
use proptest::{
    collection::vec,
    prelude::{Just, prop_assert, prop_assert_eq, prop_oneof, proptest},
};
use rand::{Rng as _, seq::SliceRandom as _};

use crate::support::{assert_uniform, seeded};

fn table_of(members: &[Member], size: u32) -> Vec<u16> {
    let mut members = members.to_vec();
    members.sort_by_key(|member| member.identity);
    let mut table = vec![0; size as usize];
    build(&members, &mut table, &mut vec![Scratch::default(); members.len()]);
    table
}

fn members_of(weights: &[u32], seed: u64) -> Vec<Member> {
    let mut random = seeded(seed);
    let member = |(id, &weight)| Member { backend: id as u16, identity: random.random(), weight };
    weights.iter().enumerate().map(member).collect()
}

fn slots_of(table: &[u16], backends: usize) -> Vec<u32> {
    let mut slots = vec![0; backends];
    for &backend in table {
        slots[usize::from(backend)] += 1;
    }
    slots
}

/// How far the worst backend is from its share, in slots and as a part of the share.
fn worst_deviation(weights: &[u32], size: u32, seed: u64) -> (f64, f64) {
    let slots = slots_of(&table_of(&members_of(weights, seed), size), weights.len());
    let all: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
    weights.iter().zip(slots).fold((0.0, 0.0), |(slots_off, part_off): (f64, f64), (&weight, slots)| {
        let share = f64::from(size) * f64::from(weight) / all;
        let off = (f64::from(slots) - share).abs();
        (slots_off.max(off), part_off.max(if share >= 100.0 { off / share } else { 0.0 }))
    })
}

#[test]
fn sizes_are_primes_in_rising_order() {
    for size in SIZES {
        assert!(
            (2..size).take_while(|d| d * d <= size).all(|d| !size.is_multiple_of(d)),
            "{size} is no prime"
        );
    }
    assert!(SIZES.is_sorted());
}

#[test]
fn the_smallest_table_with_a_hundred_slots_each_is_taken() {
    for (backends, size) in [
        (0, 4093),
        (1, 4093),
        (40, 4093),
        (41, 16_381),
        (163, 16_381),
        (164, 65_537),
        (655, 65_537),
        (4096, 65_537),
    ] {
        assert_eq!(size_for(backends), size, "{backends} backends");
    }
}

proptest! {
    #[test]
    fn every_slot_is_taken_by_a_member_with_weight(
        weights in vec(prop_oneof![Just(0), 1..20u32, 1..=u32::MAX / 64], 1..24), seed: u64,
    ) {
        let table = table_of(&members_of(&weights, seed), 1009);
        let weighted = weights.iter().any(|&weight| weight > 0);
        for backend in table {
            prop_assert_eq!(backend != NOBODY, weighted);
            prop_assert!(backend == NOBODY || weights[usize::from(backend)] > 0, "{} weighs nothing", backend);
        }
    }

    #[test]
    fn equal_weights_differ_by_one_slot_at_most(count in 1..200usize, weight in 1..=u32::MAX, seed: u64) {
        let slots = slots_of(&table_of(&members_of(&vec![weight; count], seed), 1009), count);
        prop_assert!(slots.iter().max().unwrap() - slots.iter().min().unwrap() <= 1);
    }

    #[test]
    fn a_table_depends_on_the_members_alone(weights in vec(0..5u32, 1..12), seed: u64) {
        let members = members_of(&weights, seed);
        let mut shuffled = members.clone();
        shuffled.shuffle(&mut seeded(seed));
        prop_assert_eq!(table_of(&members, 503), table_of(&shuffled, 503));
        let scaled: Vec<_> = members.iter().map(|m| Member { weight: m.weight * 1000, ..*m }).collect();
        prop_assert_eq!(table_of(&members, 503), table_of(&scaled, 503), "only relations of weights count");
    }

    #[test]
    fn a_draw_is_within_the_table(hash: u64, number: u32, size in 1..=u32::MAX) {
        prop_assert!(draw(hash, number, size) < size);
    }
}

#[test]
fn old_contents_and_used_scratch_leave_no_trace() {
    let mut members = members_of(&[3, 1, 2], 1);
    members.sort_by_key(|member| member.identity);
    let (mut table, mut scratch) = (vec![7; 4093], vec![Scratch::default(); 5]);
    build(&members, &mut table, &mut scratch);
    let first = table.clone();
    build(&members, &mut table, &mut scratch);
    assert_eq!(first, table);
}

#[test]
fn a_single_member_has_the_whole_table() {
    let member = Member { backend: 9, identity: 0, weight: 1 };
    assert!(table_of(&[member], 4093).iter().all(|&backend| backend == 9));
}

#[test]
fn without_weight_or_members_a_table_holds_nobody() {
    for members in [members_of(&[], 1), members_of(&[0], 1), members_of(&[0, 0, 0], 1)] {
        assert!(table_of(&members, 4093).iter().all(|&backend| backend == NOBODY));
    }
}

#[test]
fn shares_follow_weights_within_one_per_cent() {
    let mixed: Vec<u32> = (0..40).map(|n| 1 + n % 4).collect();
    for weights in [&[1, 1][..], &[1, 2, 3], &[100, 200, 300], &[1, 100], &[7; 40], &mixed] {
        for seed in 0..4 {
            let (slots, part) = worst_deviation(weights, 4093, seed);
            assert!(part <= 0.01, "{weights:?}: a share is off by {slots:.1} slots, {:.1} %", part * 100.0);
        }
    }
}

#[test]
fn shares_are_exact_to_one_slot_at_any_scale_of_weights() {
    let one_heavy: Vec<u32> = std::iter::once(1000).chain([1; 100]).collect();
    let uneven: Vec<u32> = (1..=40).map(|n| n * n).collect();
    for weights in [&[1, 3][..], &one_heavy, &uneven] {
        for seed in 0..4 {
            let (slots, part) = worst_deviation(weights, 4093, seed);
            assert!(slots <= 1.0, "{weights:?}: a share is off by {slots:.1} slots, {:.2} %", part * 100.0);
        }
    }
}

/// The part of the keys of backends other than `gone` that are elsewhere in `after`.
fn moved(before: &[u16], after: &[u16], gone: u16) -> f64 {
    let kept: Vec<_> = before.iter().zip(after).filter(|&(&backend, _)| backend != gone).collect();
    kept.iter().filter(|(before, after)| before != after).count() as f64 / kept.len() as f64
}

#[test]
fn one_of_64_backends_comes_or_goes_and_few_other_keys_move() {
    let mut worst = (0.0f64, 0.0f64);
    for seed in 0..6 {
        let members = members_of(&[1; 64], seed);
        let gone = (seed * 11) as u16 % 64;
        let rest: Vec<_> = members.iter().copied().filter(|member| member.backend != gone).collect();
        let (with, without) = (table_of(&members, 16_381), table_of(&rest, 16_381));
        worst.0 = worst.0.max(moved(&with, &without, gone));
        // The other way round, a key moves if it goes to any but the new one.
        let stay = without.iter().zip(&with).filter(|&(_, &after)| after != gone);
        let elsewhere = stay.filter(|(before, after)| before != after).count();
        worst.1 = worst.1.max(elsewhere as f64 / 16_381.0);
    }
    println!(
        "other keys moved at worst: {:.2} % by leaving, {:.2} % by joining",
        worst.0 * 100.0,
        worst.1 * 100.0
    );
    assert!(worst.0 <= 0.025 && worst.1 <= 0.025, "{worst:?}");
}

#[test]
fn draws_are_uniform_and_independent() {
    const SIZE: u32 = 61;
    let mut random = seeded(5);
    let mut single = vec![vec![0u64; SIZE as usize]; 8];
    let mut pairs = vec![0u64; (SIZE * SIZE) as usize];
    for _ in 0..60_000 {
        let hash = random.random();
        let drawn: Vec<u32> = (0..8).map(|number| draw(hash, number, SIZE)).collect();
        for (counts, &slot) in single.iter_mut().zip(&drawn) {
            counts[slot as usize] += 1;
        }
        pairs[(drawn[0] * SIZE + drawn[1]) as usize] += 1;
    }
    for (number, counts) in single.iter().enumerate() {
        assert_uniform(counts, &format!("draw {number}"));
    }
    assert_uniform(&pairs, "draws 0 and 1 together");
}

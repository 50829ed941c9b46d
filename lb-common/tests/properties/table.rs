//! Finding a flow and placing one, against searches that take the long way.

use lb_common::{
    slot::{AGE_MASK, Slot, State, tag},
    table::{Found, Place, SPARE, WAYS, find, first_set, other_set, place, settle},
    track::{Event, Track, Verdict},
};
use proptest::{
    array::uniform8,
    prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_assert_ne, prop_oneof, proptest},
    sample::select,
};
use rand::{Rng as _, seq::IndexedRandom as _};

use crate::{
    slot::states,
    support::{seeded, set_of},
};

/// A hash of one of few fingerprints, so that sets hold duplicates and near misses.
fn hashes() -> impl Strategy<Value = u64> {
    prop_oneof![
        (0..4u64, 0..1u64 << 29).prop_map(|(tag, low)| tag << 29 | low),
        (0..4u64).prop_map(|tag| tag << 62),
        any::<u64>(),
    ]
}

fn flows() -> impl Strategy<Value = u64> {
    let flow = (hashes(), 0..8u16, select(&State::ALL[1..]), 0..=AGE_MASK);
    flow.prop_map(|(hash, backend, state, age)| Slot::new(hash, backend, state, age).0)
}

/// Sets with room, and full ones, in which closed flows are all there is to give up.
fn sets() -> impl Strategy<Value = [u64; WAYS]> {
    prop_oneof![uniform8(prop_oneof![Just(0), flows()]), uniform8(flows())]
}

proptest! {
    #[test]
    fn a_scan_finds_what_a_linear_search_finds(words in sets(), hash in hashes()) {
        let position = words.iter().position(|&word| word != 0 && word >> 29 == tag(hash) >> 29);
        let nothing = Found { position: 0, slot: Slot::EMPTY };
        let expected = position.map_or(nothing, |position| Found { position, slot: Slot(words[position]) });
        prop_assert_eq!(find(&set_of(words), tag(hash)), expected);
    }

    #[test]
    fn of_two_with_one_tag_the_first_is_found(hash: u64, at in 0..WAYS, later in 0..WAYS) {
        let mut words = [0; WAYS];
        words[at.max(later)] = Slot::new(hash, 2, State::Idle, 0).0;
        words[at.min(later)] = Slot::new(hash, 1, State::Awaiting, 9).0;
        let found = find(&set_of(words), tag(hash));
        prop_assert_eq!((found.position, found.slot.backend()), (at.min(later), 1));
    }

    #[test]
    fn empty_sets_hold_no_flow(hash: u64) {
        prop_assert_eq!(find(&set_of([0; WAYS]), tag(hash)).slot, Slot::EMPTY);
    }

    #[test]
    fn the_other_sets_other_set_is_the_first(hash: u64, bits in 1..=28u32) {
        let mask = (1 << bits) - 1;
        let first = first_set(hash, mask);
        let other = other_set(first, tag(hash), mask);
        prop_assert!(first <= mask && other <= mask);
        prop_assert_ne!(first, other);
        prop_assert_eq!(other_set(other, tag(hash), mask), first);
    }

    #[test]
    fn a_table_of_one_set_has_no_other(hash: u64) {
        prop_assert_eq!((first_set(hash, 0), other_set(0, tag(hash), 0)), (0, 0));
    }

    #[test]
    fn a_new_flow_goes_where_the_model_says(first in sets(), second in sets(), now in 0..=AGE_MASK) {
        prop_assert_eq!(place(&set_of(first), &set_of(second), now, SPARE), place_by_model([&first, &second], now));
    }

    #[test]
    fn nobody_is_pushed_out_while_a_slot_is_spare(first in sets(), second in sets(), now: u32) {
        let place = place(&set_of(first), &set_of(second), now, SPARE);
        let taken = Slot([first, second][usize::from(place.second)][place.position]).state();
        let least = first.iter().chain(&second).map(|&word| Slot(word).state()).min().unwrap();
        prop_assert!(taken == least || taken <= State::Closed, "{taken:?} taken, {least:?} was there");
    }

    #[test]
    fn settling_keeps_flow_and_backend(word: u64, state in states(), now: u32) {
        let slot = Slot(word);
        let settled = settle(slot, &Verdict { state, track: Track::default(), event: Event::None }, now);
        prop_assert_eq!((settled.tag(), settled.backend()), (slot.tag(), slot.backend()));
        prop_assert_eq!((settled.state(), settled.age()), (state, now & AGE_MASK));
    }
}

/// The place by the rules in words: where both sets have a spare slot (empty or closed), or neither has but both
/// have a closing one, that of the set with fewer flows alive, the first if they are even; else the slot least
/// worth keeping.
fn place_by_model(sets: [&[u64; WAYS]; 2], now: u32) -> Place {
    // Every empty slot is alike, whatever the clock says.
    let loss = |word: u64| match word {
        0 => (State::Empty, 0),
        word => (Slot(word).state(), Slot(word).worth(now)),
    };
    let least = sets.map(|set| (0..WAYS).min_by_key(|&way| (loss(set[way]), way)).unwrap());
    let losses = [loss(sets[0][least[0]]), loss(sets[1][least[1]])];
    let alive = sets.map(|set| set.iter().filter(|&&word| Slot(word).state() > State::Closing).count());
    let second = match losses.map(|(state, _)| state.clamp(State::Closed, State::Stale)) {
        [a, b] if a == b && a < State::Stale => alive[1] < alive[0],
        _ => losses[1] < losses[0],
    };
    let position = least[usize::from(second)];
    let worth = Slot(sets[usize::from(second)][position]).worth(now);
    Place { second, position, worth }
}

/// A table in which every flow is live, and how many flows were pushed out while it was `fill` full.
fn evictions_per_open(fill: f64, opens: usize, seed: u64) -> f64 {
    const SETS: usize = 1 << 10;
    let mut random = seeded(seed);
    let mut sets: Vec<_> = (0..SETS).map(|_| set_of([0; WAYS])).collect();
    let mask = SETS as u32 - 1;
    let target = (fill * (SETS * WAYS) as f64) as usize;
    let (mut flows, mut evicted) = (Vec::with_capacity(target + 1), 0);
    for open in 0..target + opens {
        if flows.len() >= target {
            let (set, position): (usize, usize) = flows.swap_remove(random.random_range(0..flows.len()));
            *sets[set][position].0.get_mut() = 0;
        }
        let hash: u64 = random.random();
        let pair = [first_set(hash, mask), other_set(first_set(hash, mask), tag(hash), mask)];
        let place = place(&sets[pair[0] as usize], &sets[pair[1] as usize], 0, SPARE);
        let set = pair[usize::from(place.second)] as usize;
        let word = sets[set][place.position].0.get_mut();
        if *word == 0 {
            flows.push((set, place.position));
        } else {
            evicted += usize::from(open >= target);
        }
        *word = Slot::new(hash, 0, *[State::Idle, State::Streaming].choose(&mut random).unwrap(), 0).0;
    }
    evicted as f64 / opens as f64
}

#[test]
fn at_60_per_cent_fill_fewer_than_one_open_in_10_000_pushes_a_flow_out() {
    let rated = evictions_per_open(0.6, 200_000, 1);
    let beyond = evictions_per_open(0.8, 50_000, 2);
    println!("evictions per open: {rated:.6} at 60 % fill, {beyond:.4} at 80 %");
    assert!(rated < 1e-4, "{rated} evictions per open at 60 % fill");
    assert!((0.0..0.05).contains(&beyond) && beyond > rated, "{beyond} evictions per open at 80 % fill");
}

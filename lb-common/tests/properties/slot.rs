//! The eight bytes of a flow.

use lb_common::slot::{AGE_MASK, MAX_BACKENDS, PROMPTS_MOST, SIZES, Slot, State, age_shift, tag};
use proptest::{
    prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_assert_ne, proptest},
    sample::select,
};

/// Where the documented layout puts the fields.
const FINGERPRINT: u64 = !0 << 29;
const BACKEND: u64 = 0xfff << 17;
const STATE: u64 = 15 << 13;
const AGE: u64 = 0x1fff;

pub fn states() -> impl Strategy<Value = State> {
    select(&State::ALL[..])
}

proptest! {
    #[test]
    fn fields_come_back_as_they_went_in(hash: u64, backend in 0..MAX_BACKENDS as u16, state in states(), age in 0..=AGE_MASK) {
        let slot = Slot::new(hash, backend, state, age);
        prop_assert_eq!((slot.backend(), slot.state(), slot.age()), (backend, state, age));
        prop_assert_eq!(slot.tag(), tag(hash));
        prop_assert_eq!(slot.0 & BACKEND, u64::from(backend) << 17);
        prop_assert_eq!(slot.0 & STATE, (state as u64) << 13);
        prop_assert_eq!(slot.0 & AGE, u64::from(age));
    }

    #[test]
    fn changing_one_field_leaves_its_neighbours_alone(word: u64, backend: u16, state in states(), age: u32) {
        let slot = Slot(word);
        let same = slot.with(slot.backend(), slot.state(), slot.age()).asking(slot.size());
        prop_assert_eq!(same, slot);
        prop_assert_eq!((slot.with(backend, slot.state(), slot.age()).asking(slot.size()).0 ^ word) & !BACKEND, 0);
        prop_assert_eq!((slot.with(slot.backend(), state, slot.age()).0 ^ word) & !STATE, 0);
        prop_assert_eq!((slot.with(slot.backend(), slot.state(), age).asking(slot.size()).0 ^ word) & !AGE, 0);
        prop_assert_eq!(slot.with(backend, state, age).tag(), word & FINGERPRINT);
    }

    #[test]
    fn the_tag_is_the_top_35_bits_and_never_zero(hash: u64, low in 0..1u64 << 29) {
        prop_assert_eq!(tag(hash | 1 << 63), (hash | 1 << 63) & FINGERPRINT);
        prop_assert_eq!(tag(low), 1 << 29, "a zero fingerprint is replaced by the smallest");
        prop_assert_ne!(tag(hash), Slot::EMPTY.tag());
        prop_assert_ne!(Slot::new(low, 0, State::Empty, 0), Slot::EMPTY);
    }

    #[test]
    fn the_size_of_a_request_is_kept_while_it_awaits_its_answer(hash: u64, state in states(), size in 0..SIZES, age in 0..=AGE_MASK) {
        let slot = Slot::new(hash, 1, state, age);
        let asking = slot.asking(size);
        prop_assert_eq!((asking.tag(), asking.backend(), asking.state(), asking.age()), (slot.tag(), 1, state, age));
        if state == State::Awaiting {
            prop_assert_eq!(asking.size(), size);
            prop_assert!(asking.prompts() > 1 << size && asking.prompts() <= PROMPTS_MOST);
            prop_assert!(asking.worth(age) >= slot.worth(age), "no less than one that asked little");
        } else {
            prop_assert_eq!((asking, asking.size(), asking.prompts()), (slot, 0, 0));
        }
    }

    #[test]
    fn silence_is_counted_over_the_wrap(hash: u64, heard: u32, silent in 0..AGE_MASK - 64) {
        let slot = Slot::new(hash, 1, State::Idle, heard);
        prop_assert_eq!(slot.silent_for(heard.wrapping_add(silent)), silent);
        prop_assert_eq!(slot.silent_for(heard.wrapping_add(silent) & AGE_MASK), silent);
    }

    #[test]
    fn worth_is_by_state_and_then_by_how_recently_it_was_heard_of(
        hashes: [u64; 2], states in [states(), states()], now: u32, silent in [0..AGE_MASK - 64, 0..AGE_MASK - 64],
    ) {
        let [a, b] = [0, 1].map(|n| Slot::new(hashes[n], n as u16, states[n], now.wrapping_sub(silent[n])));
        let order = states[0].cmp(&states[1]).then(silent[1].cmp(&silent[0]));
        prop_assert_eq!(a.worth(now).cmp(&b.worth(now)), order);
        prop_assert!(a.worth(now) <= Slot::most_worth(states[0], 0), "no more than the most of its state");
        prop_assert!(a.worth(now) <= Slot::most_worth(states[0], silent[0]), "after this silence");
    }

    #[test]
    fn an_empty_slot_is_worth_less_than_any_flow(hash: u64, state in select(&State::ALL[1..]), age: u32, now: u32) {
        prop_assert!(Slot::EMPTY.worth(now) < Slot::new(hash, 0, state, age).worth(now));
        prop_assert!(Slot::EMPTY.worth(now) <= Slot::most_worth(State::Empty, 0));
    }

    #[test]
    fn a_stamp_from_just_after_now_is_no_silence(hash: u64, now: u32, ahead in 1..3u32, silent in 1..100u32) {
        let fresh = Slot::new(hash, 1, State::Idle, now.wrapping_add(ahead));
        let older = Slot::new(hash, 1, State::Idle, now.wrapping_sub(silent));
        prop_assert_eq!(fresh.silent_for(now), 0);
        prop_assert!(fresh.worth(now) > older.worth(now));
    }

    #[test]
    fn the_top_backend_id_survives(hash in any::<u64>()) {
        prop_assert_eq!(Slot::new(hash, MAX_BACKENDS as u16 - 1, State::Awaiting, AGE_MASK).tag(), tag(hash));
    }
}

#[test]
fn the_empty_slot_is_all_zero_and_reads_as_nothing() {
    assert_eq!((Slot::EMPTY.0, Slot::EMPTY.state(), Slot::EMPTY.tag()), (0, State::Empty, 0));
    assert_eq!(Slot::default(), Slot::EMPTY);
}

#[test]
fn states_are_ordered_by_worth_and_numbered_in_that_order() {
    for (number, state) in State::ALL.into_iter().enumerate() {
        assert_eq!(state as usize, number);
    }
    assert!(State::ALL.is_sorted());
    assert!(State::Closed < State::Stale && State::Stale < State::Opening && State::Opening < State::Idle);
    assert!(State::Idle < State::Streaming && State::Streaming < State::Awaiting);
}

#[test]
fn a_tick_is_close_to_a_second_at_every_kernels_rate() {
    for (hz, shift, milliseconds) in [(100, 7, 1280), (250, 8, 1024), (300, 8, 853), (1000, 10, 1024)] {
        assert_eq!(age_shift(hz), shift, "{hz} Hz");
        assert_eq!((1000 << shift) / hz, milliseconds, "{hz} Hz");
    }
}

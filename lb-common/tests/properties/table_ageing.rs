//! What silence does to a flow: every state, below and at every limit.

use lb_common::{
    slot::{AGE_MASK, Slot, State},
    table::{Limits, age_out},
};
use proptest::prelude::{any, prop_assert, prop_assert_eq, prop_oneof, proptest};

use crate::slot::states;

const LIMITS: Limits = Limits { idle_after: 3, idle_timeout: 7000, half_open: 63, closing: 60, linger: 10 };

/// What should become of a flow.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Stays,
    Becomes(State),
    Freed,
}

fn fate(state: State, silent: u32, finished: bool, now: u32) -> Fate {
    let slot = Slot::new(0xfeed_f00d_dead_beef, 77, state, now.wrapping_sub(silent));
    match age_out(slot, now, &LIMITS, finished) {
        None => Fate::Stays,
        Some(Slot::EMPTY) => Fate::Freed,
        Some(next) => {
            assert_eq!(next, slot.with(77, next.state(), slot.age()), "more than the state changed");
            Fate::Becomes(next.state())
        }
    }
}

#[test]
fn silence_does_what_the_table_says() {
    use Fate::{Becomes, Freed, Stays};
    use State::{Awaiting, Closed, Closing, Empty, Idle, Opening, Stale, Streaming};
    // State; whether the client has sent FIN; and the fates from a silence on.
    type Case<'a> = (State, Option<bool>, &'a [(u32, Fate)]);
    let cases: [Case<'_>; 12] = [
        (Empty, None, &[(0, Stays)]),
        (Closed, None, &[(0, Stays), (10, Freed)]),
        (Closing, None, &[(0, Stays), (60, Freed)]),
        (Stale, None, &[(0, Stays), (63, Freed)]),
        (Opening, None, &[(0, Stays), (2, Becomes(Stale))]),
        (Idle, None, &[(0, Stays), (7000, Freed)]),
        (Streaming, Some(false), &[(0, Stays), (3, Becomes(Idle))]),
        (Streaming, Some(true), &[(0, Stays), (3, Becomes(Closing))]),
        (Awaiting, Some(false), &[(0, Stays), (7000, Freed)]),
        (Awaiting, Some(true), &[(0, Stays), (3, Becomes(Closing))]),
        (Idle, Some(true), &[(0, Stays), (7000, Freed)]),
        (Opening, Some(true), &[(0, Stays), (2, Becomes(Stale))]),
    ];
    for (state, finished, fates) in cases {
        for (index, &(from, expected)) in fates.iter().enumerate() {
            let until = fates.get(index + 1).map_or(AGE_MASK - 64, |&(next, _)| next);
            for silent in [from, (from + until) / 2, until - 1] {
                for finished in finished.map_or(vec![false, true], |one| vec![one]) {
                    for now in [0, 1, 5000, AGE_MASK, u32::MAX] {
                        let found = fate(state, silent, finished, now);
                        assert_eq!(
                            found, expected,
                            "{state:?} silent for {silent} at {now}, FIN: {finished}"
                        );
                    }
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn ageing_never_raises_what_a_flow_counts_for(state in states(), silent in 0..AGE_MASK, finished: bool, now: u32) {
        if let Fate::Becomes(next) = fate(state, silent, finished, now) {
            prop_assert!(next < state, "{state:?} became {next:?}");
        }
    }

    #[test]
    fn every_flow_is_freed_in_the_end(state in states(), now: u32) {
        let mut slot = Slot::new(1 << 40, 5, state, now);
        for _ in State::ALL {
            slot = age_out(slot, now.wrapping_add(7000), &LIMITS, false).unwrap_or(slot);
        }
        prop_assert!(slot == Slot::EMPTY || state == State::Empty, "{:?} is left", slot.state());
    }

    #[test]
    fn limits_are_clamped_to_what_an_age_can_tell_apart(ticks in prop_oneof![0..4u32, AGE_MASK - 70..AGE_MASK, any::<u32>()]) {
        let clamped = Limits::ticks(ticks);
        prop_assert_eq!(clamped, ticks.clamp(2, AGE_MASK - 64));
    }

    #[test]
    fn a_flow_heard_of_since_the_sweep_read_its_clock_is_left_alone(state in states(), now: u32, ahead in 1..3u32) {
        prop_assert_eq!(fate(state, ahead.wrapping_neg(), false, now), Fate::Stays);
    }
}

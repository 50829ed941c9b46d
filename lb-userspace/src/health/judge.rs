//! The state of one backend, from the results of its probes. Pure.

use std::fmt;

/// What is believed of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum State {
    /// No probe has ended yet.
    #[default]
    Unknown,
    /// It answers.
    Up,
    /// It does not.
    Down,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        })
    }
}

/// Turns results into a state: the first one decides at once, later ones need `rise` successes or
/// `fall` failures in a row against the present state.
#[derive(Debug)]
pub(super) struct Judge {
    rise: u32,
    fall: u32,
    state: State,
    against: u32,
}

impl Judge {
    pub(super) fn new(rise: u32, fall: u32) -> Self {
        Self { rise, fall, state: State::Unknown, against: 0 }
    }

    /// Takes a result in and returns the state that it leads to.
    pub(super) fn observe(&mut self, success: bool) -> State {
        let (wanted, threshold) = if success { (State::Up, self.rise) } else { (State::Down, self.fall) };
        if self.state == wanted {
            self.against = 0;
            return self.state;
        }
        self.against += 1;
        if self.state == State::Unknown || self.against >= threshold {
            self.state = wanted;
            self.against = 0;
        }
        self.state
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert_eq, proptest};

    use super::{Judge, State};

    /// `results` and `states` side by side: `+` success, `-` failure; `u` up, `d` down.
    fn check(rise: u32, fall: u32, results: &str, states: &str) {
        let mut judge = Judge::new(rise, fall);
        let found: String = results
            .chars()
            .map(|result| match judge.observe(result == '+') {
                State::Up => 'u',
                State::Down => 'd',
                State::Unknown => '?',
            })
            .collect();
        assert_eq!(found, states, "rise {rise}, fall {fall}, results {results}");
    }

    #[test]
    fn the_first_result_decides_and_later_ones_need_a_run() {
        check(2, 3, "+", "u");
        check(2, 3, "-", "d");
        check(2, 3, "+---", "uuud");
        check(2, 3, "-++", "ddu");
        check(2, 3, "+--+--+---", "uuuuuuuuud");
        check(2, 3, "-+-+-++", "ddddddu");
        check(1, 1, "+-+-", "udud");
        check(3, 1, "+-++-+++", "uddddddu");
    }

    #[test]
    fn a_threshold_of_zero_means_one() {
        check(0, 0, "+-+-", "udud");
    }

    proptest! {
        #[test]
        fn a_state_changes_exactly_after_a_full_run_against_it(
            rise in 1u32..5,
            fall in 1u32..5,
            results in prop::collection::vec(any::<bool>(), 1..60),
        ) {
            let mut judge = Judge::new(rise, fall);
            let mut expected = judge.observe(results[0]);
            prop_assert_eq!(expected == State::Up, results[0]);
            let mut run = 0;
            for &success in &results[1..] {
                let agrees = success == (expected == State::Up);
                run = if agrees { 0 } else { run + 1 };
                if !agrees && run == if success { rise } else { fall } {
                    expected = if success { State::Up } else { State::Down };
                    run = 0;
                }
                prop_assert_eq!(judge.observe(success), expected);
            }
        }
    }
}

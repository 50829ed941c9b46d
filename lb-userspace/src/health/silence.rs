//! Whether a backend's silence towards its clients says something about it. Pure.

use std::collections::HashMap;

/// A backend's counters, all of them from the load of the kernel program on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Clients that sent their SYN a third time.
    pub unanswered: u64,
    /// Requests that went out to it.
    pub requests: u64,
    /// Bytes of its answers that clients acknowledged.
    pub progressed: u64,
}

/// The counters of all backends, by id, when they were last looked at.
#[derive(Debug, Default)]
pub struct Silence {
    seen: HashMap<u16, Seen>,
}

impl Silence {
    /// Looks at the counters again and gives the backends that answered nobody since, although they were asked.
    ///
    /// Whoever makes any progress is no such backend: a crowd of SYNs that one host forges goes unanswered
    /// everywhere, and must not take servers down that serve.
    pub fn note(&mut self, now: HashMap<u16, Seen>) -> Vec<u16> {
        let silent = |id: &u16, now: &Seen| {
            self.seen.get(id).is_some_and(|before| {
                now.unanswered > before.unanswered
                    && (now.requests, now.progressed) == (before.requests, before.progressed)
            })
        };
        let ids = now.iter().filter(|(id, seen)| silent(id, seen)).map(|(id, _)| *id).collect();
        self.seen = now;
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::{Seen, Silence};

    #[test]
    fn only_unanswered_syns_without_any_progress_speak_against_a_backend() {
        let before = Seen { unanswered: 3, requests: 10, progressed: 1000 };
        for (what, now, silent) in [
            ("nothing happened", before, false),
            ("asked in vain", Seen { unanswered: 4, ..before }, true),
            ("a request went out", Seen { unanswered: 4, requests: 11, ..before }, false),
            ("an answer moved", Seen { unanswered: 4, progressed: 1001, ..before }, false),
            ("the id has a new owner", Seen { unanswered: 4, requests: 0, progressed: 0 }, false),
        ] {
            let mut silence = Silence::default();
            let first = silence.note([(7, before)].into());
            assert!(first.is_empty(), "{what}: at first there is nothing to compare with");
            assert_eq!(silence.note([(7, now)].into()) == [7], silent, "{what}");
            assert!(silence.note([(7, now)].into()).is_empty(), "{what}: once is enough");
        }
    }

    #[test]
    fn a_backend_that_comes_back_starts_over() {
        let mut silence = Silence::default();
        silence.note([(7, Seen::default())].into());
        silence.note([].into());
        let back = Seen { unanswered: 9, ..Seen::default() };
        assert!(silence.note([(7, back)].into()).is_empty());
    }
}

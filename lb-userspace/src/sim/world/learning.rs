//! How long a governor takes to follow a change of a server's speed.

use std::time::Duration;

use crate::governor::Governor;

/// A change is learned when no more than this part of it, as a logarithm, is missing.
const MISSING: f64 = 0.2;

#[derive(Debug)]
struct Change {
    at: Duration,
    server: usize,
    /// The logarithm of slowness that it leads to, and of the change.
    target: f64,
    size: f64,
}

/// Changes under way, and what came of earlier ones.
#[derive(Debug, Default)]
pub(super) struct Learning {
    open: Vec<Change>,
    learned: Vec<Option<Duration>>,
}

impl Learning {
    /// A server of slowness `theta`, as known, becomes `slower` times as slow.
    pub(super) fn change(&mut self, now: Duration, server: usize, theta: f64, slower: f64) {
        let before = self.open.len();
        self.open.retain(|change| change.server != server);
        self.learned.extend((self.open.len()..before).map(|_| None));
        let size = slower.ln();
        if size != 0.0 {
            self.open.push(Change { at: now, server, target: theta.ln() + size, size: size.abs() });
        }
    }

    pub(super) fn tick(&mut self, now: Duration, governor: &Governor) {
        let learned = &mut self.learned;
        self.open.retain(|change| {
            let Some(explained) = governor.explain(change.server) else { return true };
            let known = explained.theta.applied.ln();
            let missing = (change.target - known).abs() > MISSING * change.size;
            if !missing {
                learned.push(Some(now - change.at));
            }
            missing
        });
    }

    pub(super) fn end(mut self) -> Vec<Option<Duration>> {
        self.learned.extend(self.open.iter().map(|_| None));
        self.learned
    }
}

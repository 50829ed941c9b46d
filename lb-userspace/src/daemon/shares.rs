//! Shares of new flows over the last ten seconds.

use std::collections::{HashMap, VecDeque};

/// Samples kept, one a second: the window is the time between the oldest and the newest.
const WINDOW: usize = 11;

/// Flows opened by backend id, once a second.
#[derive(Debug, Default)]
pub struct Shares {
    samples: VecDeque<HashMap<u16, u64>>,
}

impl Shares {
    /// Notes how many flows each backend has opened so far.
    pub fn note(&mut self, opened: HashMap<u16, u64>) {
        self.samples.push_back(opened);
        if self.samples.len() > WINDOW {
            self.samples.pop_front();
        }
    }

    /// The share of each of a VIP's backends; none for all when no flow was opened in the window.
    pub fn of(&self, backends: &[u16], opened_now: impl Fn(u16) -> u64) -> Vec<Option<f64>> {
        let since: Vec<u64> = backends
            .iter()
            .map(|&id| {
                let before = self.samples.front().and_then(|oldest| oldest.get(&id)).copied().unwrap_or(0);
                opened_now(id).saturating_sub(before)
            })
            .collect();
        let total: u64 = since.iter().sum();
        since.iter().map(|&count| (total > 0).then(|| count as f64 / total as f64)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Shares, WINDOW};

    #[test]
    fn shares_cover_the_window_alone() {
        let mut shares = Shares::default();
        assert_eq!(shares.of(&[1, 2], |_| 0), [None, None], "nothing was opened");
        for second in 0..WINDOW as u64 * 2 {
            // Backend 1 opened a thousand long ago and none since; backend 2 one a second.
            shares.note([(1, 1000), (2, second)].into());
        }
        let now = |id| if id == 1 { 1000 } else { WINDOW as u64 * 2 };
        assert_eq!(shares.of(&[1, 2], now), [Some(0.0), Some(1.0)]);
    }
}

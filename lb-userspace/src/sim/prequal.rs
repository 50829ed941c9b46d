//! Prequal's replica selection: Wydrowski and others, "Load is not what you should balance" (NSDI 2024).
//!
//! A pool of at most 16 probe answers (requests in flight, latency); three probes a request to random replicas; an
//! answer is used once and lives a second. A replica is hot when its requests in flight are above the 0.84
//! quantile of the pool. The hot-cold lexicographic rule takes the cold one with the lowest latency, else the hot
//! one with the fewest requests. A replica's latency is the median of its last times to first token: those of whole
//! answers say more about their lengths than about the replica.

use std::{collections::VecDeque, time::Duration};

use lb_common::flow::{mix, reduce};

const POOL: usize = 16;
const PROBES: u64 = 3;
const LIFE: Duration = Duration::from_secs(1);
const HOT: f64 = 0.84;

/// Answers that a replica's latency is the median of.
const REMEMBERED: usize = 9;

#[derive(Clone, Copy, Debug)]
struct Answer {
    at: Duration,
    server: usize,
    in_flight: u32,
    latency: f64,
}

/// What one balancer knows from probes.
#[derive(Clone, Debug, Default)]
pub(super) struct Prequal {
    pool: VecDeque<Answer>,
}

/// The latency that a server estimates for itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Latency(VecDeque<f64>);

impl Latency {
    pub(super) fn note(&mut self, seconds: f64) {
        if self.0.len() == REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(seconds);
    }

    fn estimate(&self) -> f64 {
        let mut seconds: Vec<f64> = self.0.iter().copied().collect();
        seconds.sort_unstable_by(f64::total_cmp);
        seconds.get(seconds.len() / 2).copied().unwrap_or(0.0)
    }
}

impl Prequal {
    /// Chooses for a request with this hash; `probe` answers with requests in flight and latency.
    ///
    /// Probes are asynchronous: those that this request causes serve later ones.
    pub(super) fn choose<'a>(
        &mut self,
        now: Duration,
        hash: u64,
        servers: usize,
        probe: impl Fn(usize) -> (u32, &'a Latency),
    ) -> usize {
        let draw =
            |number: u64| reduce((mix(hash.wrapping_add(number)) >> 32) as u32, servers as u32) as usize;
        self.pool.retain(|answer| now.saturating_sub(answer.at) < LIFE);
        let chosen = self.best().map_or_else(
            || draw(PROBES),
            |best| self.pool.remove(best).expect("the best is one of them").server,
        );
        for number in 0..PROBES {
            let server = draw(number);
            let (in_flight, latency) = probe(server);
            if self.pool.len() == POOL {
                self.pool.pop_front();
            }
            self.pool.push_back(Answer { at: now, server, in_flight, latency: latency.estimate() });
        }
        chosen
    }

    fn best(&self) -> Option<usize> {
        let mut flights: Vec<u32> = self.pool.iter().map(|answer| answer.in_flight).collect();
        flights.sort_unstable();
        let edge = *flights.get((flights.len() as f64 * HOT) as usize)?;
        let cold = self.pool.iter().enumerate().filter(|(_, answer)| answer.in_flight < edge);
        let fastest = cold.min_by(|a, b| a.1.latency.total_cmp(&b.1.latency));
        let fewest = || self.pool.iter().enumerate().min_by_key(|(_, answer)| answer.in_flight);
        fastest.or_else(fewest).map(|(position, _)| position)
    }
}

//! Which requests are sent and when: a pure function of the options and the seed.

use std::{sync::Arc, time::Duration};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use crate::load::{lengths::Lengths, trace::Arrival};

/// When requests are sent.
#[derive(Debug, Clone)]
pub enum Traffic {
    /// This many clients, each sending its next request when its last one ended.
    Closed {
        /// Clients, at least 1.
        clients: usize,
    },
    /// Independent arrivals at this mean rate, whatever the servers do.
    Poisson {
        /// Requests per second, above 0.
        rate: f64,
    },
    /// The arrivals and lengths of a trace.
    Trace(Arc<[Arrival]>),
}

/// The size of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Prompt tokens.
    pub prompt_tokens: u32,
    /// Output tokens.
    pub output_tokens: u32,
}

/// Draws the requests of a run. Request `n` is the same in every run with the same seed, whoever sends it.
#[derive(Debug, Clone)]
pub struct Sizes {
    /// Prompt lengths.
    pub prompt: Lengths,
    /// Output lengths.
    pub output: Lengths,
    /// The seed of the run.
    pub seed: u64,
}

impl Sizes {
    /// The size of request number `index`.
    pub fn of(&self, index: u64) -> Size {
        let mut random = StdRng::seed_from_u64(mix(self.seed, index));
        Size { prompt_tokens: self.prompt.draw(&mut random), output_tokens: self.output.draw(&mut random) }
    }
}

/// The gaps between arrivals of a Poisson process of `rate` per second.
pub fn poisson_gaps(rate: f64, seed: u64) -> impl Iterator<Item = Duration> {
    let mut random = StdRng::seed_from_u64(mix(seed, u64::MAX));
    std::iter::repeat_with(move || {
        let uniform: f64 = random.random();
        Duration::from_secs_f64(-(1.0 - uniform).ln() / rate)
    })
}

/// Spreads seed and index over 64 bits (the finalizer of SplitMix64), so that neighbours share no stream.
fn mix(seed: u64, index: u64) -> u64 {
    let mut bits = seed ^ index.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::{Sizes, poisson_gaps};
    use crate::load::lengths::Lengths;

    #[test]
    fn a_seed_gives_the_same_requests_and_another_seed_others() {
        let prompt = Lengths::LogNormal { median: 500.0, sigma: 1.0 };
        let sizes = |seed| {
            let sizes = Sizes { prompt, output: Lengths::Geometric(100.0), seed };
            (0..100).map(|index| sizes.of(index)).collect::<Vec<_>>()
        };
        assert_eq!(sizes(1), sizes(1));
        assert_ne!(sizes(1), sizes(2));
    }

    #[test]
    fn poisson_gaps_have_the_mean_and_the_spread_of_an_exponential() {
        let gaps: Vec<f64> = poisson_gaps(50.0, 3).take(20_000).map(|gap| gap.as_secs_f64()).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean * 50.0 - 1.0).abs() < 0.05, "{mean}");
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.05, "{variance}");
    }
}

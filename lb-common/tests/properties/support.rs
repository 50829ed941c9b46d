//! What several files need: memory for slots, seeds and a uniformity test.

use std::sync::atomic::{AtomicU64, Ordering};

use lb_common::{
    branchless::Hide,
    table::{WAYS, Word},
};
use rand::{SeedableRng as _, rngs::SmallRng};

/// Hides nothing: what the daemon uses.
pub struct Plain;

impl Hide for Plain {}

/// A word of a set in ordinary memory.
#[derive(Debug, Default)]
pub struct Memory(pub AtomicU64);

impl Hide for Memory {}

impl Word for Memory {
    fn load(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn compare_exchange(&self, old: u64, new: u64) -> u64 {
        match self.0.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(found) | Err(found) => found,
        }
    }
}

/// A set that holds `words`.
pub fn set_of(words: [u64; WAYS]) -> [Memory; WAYS] {
    words.map(|word| Memory(AtomicU64::new(word)))
}

/// A generator of the same numbers on every run.
pub fn seeded(seed: u64) -> SmallRng {
    SmallRng::seed_from_u64(seed)
}

/// Panics unless `counts` look like draws from equally likely cells: Pearson's chi-square, taken as normal
/// with its mean and variance, must lie within five standard deviations.
#[track_caller]
pub fn assert_uniform(counts: &[u64], what: &str) {
    let expected = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
    assert!(expected >= 5.0, "{what}: too few draws for a chi-square test");
    let chi: f64 = counts.iter().map(|&n| (n as f64 - expected).powi(2) / expected).sum();
    let freedom = (counts.len() - 1) as f64;
    let deviation = (chi - freedom) / (2.0 * freedom).sqrt();
    assert!(deviation.abs() < 5.0, "{what}: chi-square is {deviation:.1} standard deviations off");
}

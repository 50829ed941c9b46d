//! Building an endpoint index: a seed, and buckets that hold every endpoint.

use std::sync::atomic::{AtomicU64, Ordering};

use lb_common::{
    address::Endpoint,
    index::{Active, BUCKETS, HANDLES, Handle, bucket},
};

use super::{error::Error, mapping::Elements};

/// Seeds to try: at 4,096 endpoints one in ten thousand overflows a bucket.
const SEEDS: u32 = 1 << 12;

/// The buckets of one generation.
struct Built {
    /// The seed they are built under.
    seed: u32,
    /// One word a bucket.
    buckets: Vec<u64>,
}

/// Finds a seed, from `first` on, under which no bucket overflows.
fn build(entries: &[(Endpoint, Handle)], first: u32) -> Option<Built> {
    (0..SEEDS).map(|n| first.wrapping_add(n)).find_map(|seed| {
        let mut buckets = vec![0u64; BUCKETS as usize];
        let fits = entries
            .iter()
            .all(|(endpoint, handle)| insert(&mut buckets[bucket(seed, endpoint) as usize], *handle));
        fits.then_some(Built { seed, buckets })
    })
}

/// Puts a handle into the first free place of a bucket.
fn insert(word: &mut u64, handle: Handle) -> bool {
    let free = (0..HANDLES).find(|&position| !Handle::of(*word, position).is_some());
    if let Some(position) = free {
        *word |= u64::from(handle.0) << (16 * position);
    }
    free.is_some()
}

/// Builds an index of `entries` in the spare half of its map and makes it live by flipping `live`.
///
/// # Errors
///
/// When no seed fits; nothing has changed then.
pub fn flip(
    map: &Elements<u64>,
    live: &AtomicU64,
    entries: &[(Endpoint, Handle)],
    name: &'static str,
) -> Result<(), Error> {
    let active = Active(live.load(Ordering::SeqCst));
    // Seed zero is never used: a word of all zeros says that there is no index at all.
    if entries.is_empty() && active.0 == 0 {
        return Ok(());
    }
    let built =
        build(entries, active.seed().max(1)).ok_or(Error::Index { index: name, endpoints: entries.len() })?;
    let next = Active::new(active.generation() ^ 1, built.seed);
    let first = (next.generation() * BUCKETS) as usize;
    for (number, bucket) in built.buckets.iter().enumerate() {
        map.word(first + number, 0).store(*bucket, Ordering::Relaxed);
    }
    live.store(next.0, Ordering::SeqCst);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::build;
    use lb_common::{
        address::{Address, Endpoint},
        index::{HANDLES, Handle, bucket},
    };

    fn endpoints(count: u16) -> Vec<(Endpoint, Handle)> {
        (0..count)
            .map(|n| {
                let [high, low] = n.to_be_bytes();
                (Endpoint::new(Address::from_v4([10, 1, high, low]), 8000, 6), Handle::new(n, 0))
            })
            .collect()
    }

    #[test]
    fn every_one_of_4096_endpoints_is_found_in_its_bucket() {
        let entries = endpoints(4096);
        let built = build(&entries, 1).expect("a seed fits");
        for (endpoint, handle) in &entries {
            let word = built.buckets[bucket(built.seed, endpoint) as usize];
            assert!((0..HANDLES).any(|p| Handle::of(word, p) == *handle), "{endpoint:?} is missing");
        }
    }
}

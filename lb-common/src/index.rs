//! The endpoint indexes: from an address, port and protocol to the id of a VIP or backend.
//!
//! An index is an array of buckets, one 64-bit word each, of four 16-bit handles. The daemon picks a seed
//! under which no bucket overflows, so a look-up is one word. Only configured endpoints are ever stored;
//! what a packet can do is look up a bucket, so the hash need not be secret.

use crate::address::Endpoint;

/// Buckets in one generation of an index: at 4,096 backends the mean bucket holds a quarter of an entry.
pub const BUCKETS: u32 = 1 << 14;

/// Handles in a bucket.
pub const HANDLES: usize = 4;

/// The bucket of an endpoint under a seed, `0..BUCKETS`.
#[inline(always)]
pub const fn bucket(seed: u32, endpoint: &Endpoint) -> u32 {
    let [high, low] = endpoint.address.halves();
    let tail = endpoint.port_be as u64 | (endpoint.protocol as u64) << 16 | (seed as u64) << 32;
    // Odd multipliers with well mixed bits: the fractional parts of the golden ratio and of sqrt(3).
    let x = (low ^ tail).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 32) ^ high).wrapping_mul(0xbb67_ae85_84ca_a73b);
    (x >> 50) as u32
}

/// An index's generation and seed in one word, so that a reader never pairs one's seed with the other's
/// buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Active(pub u64);

impl Active {
    /// `generation` is 0 or 1.
    pub const fn new(generation: u32, seed: u32) -> Self {
        Self((seed as u64) << 32 | (generation & 1) as u64)
    }

    /// Which half of the array is live, 0 or 1.
    #[inline(always)]
    pub const fn generation(self) -> u32 {
        self.0 as u32 & 1
    }

    /// The seed of that half.
    #[inline(always)]
    pub const fn seed(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The array element of an endpoint's bucket, `0..2 * BUCKETS`.
    #[inline(always)]
    pub const fn element(self, endpoint: &Endpoint) -> u32 {
        self.generation() * BUCKETS + bucket(self.seed(), endpoint)
    }
}

/// A 16-bit reference from a bucket: an id and which of its two rows is live; zero is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle(pub u16);

impl Handle {
    /// The handle that refers to nothing.
    pub const NONE: Self = Self(0);

    /// Refers to row `row` (0 or 1) of `id` (below 2^15 - 1).
    pub const fn new(id: u16, row: u16) -> Self {
        Self((id + 1) << 1 | (row & 1))
    }

    /// Whether it refers to anything.
    #[inline(always)]
    pub const fn is_some(self) -> bool {
        self.0 > 1
    }

    /// The id; meaningless for [`Handle::NONE`].
    #[inline(always)]
    pub const fn id(self) -> u16 {
        (self.0 >> 1).wrapping_sub(1)
    }

    /// The element of a map that holds two rows for every id.
    #[inline(always)]
    pub const fn element(self) -> u32 {
        self.0 as u32 - 2
    }

    /// Handle number `position` (0 to 3) of a bucket.
    #[inline(always)]
    pub const fn of(bucket: u64, position: usize) -> Self {
        Self((bucket >> (16 * (position & 3))) as u16)
    }
}

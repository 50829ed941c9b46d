//! Fragments: where the later ones of a packet go, remembered from its first, which alone has ports.
//!
//! A set holds eight entries of one word each; an entry says all there is to know, so that it changes whole.

use crate::{
    address::Address,
    branchless::smaller,
    siphash::{self, Key},
    slot::AHEAD,
    table::{WAYS, Word},
};

/// What the fragments of one packet have in common (RFC 791 section 3.2, RFC 8200 section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentKey {
    /// The packet's source.
    pub source: Address,
    /// Its destination.
    pub destination: Address,
    /// Its identification.
    pub id: u32,
    /// The protocol of what is in it.
    pub protocol: u8,
}

impl FragmentKey {
    /// The keyed hash: an entry's tag is its top bits, its set the low ones.
    #[inline(always)]
    pub fn hash(&self, key: Key) -> u64 {
        let tail = self.id as u64 | (self.protocol as u64) << 32;
        if self.source.is_v4() {
            let ends = self.source.0[3] as u64 | (self.destination.0[3] as u64) << 32;
            return siphash::hash(key, [ends], tail, 5);
        }
        let ([a, b], [c, d]) = (self.source.halves(), self.destination.halves());
        siphash::hash(key, [a, b, c, d], tail, 5)
    }
}

/// Ticks of the age clock that a first fragment is remembered: at least two seconds' worth of them pass
/// before it is forgotten. Fragments of one packet are sent back to back.
pub const LIFE: u32 = 2;

/// Where a packet's first fragment went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Way {
    /// To a backend, by its id, without a flow in the table.
    Backend = 1,
    /// To the backend of a flow, by the flow's number.
    Flow = 2,
    /// Back to the client of a flow (`nat`), by the flow's number.
    Client = 3,
}

/// An entry: 24 bits of the hash, two of [`Way`], 28 of a number, ten of an age stamp. Zero is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry(pub u64);

const TAG_SHIFT: u32 = 40;
const WAY_SHIFT: u32 = 38;
const NUMBER_SHIFT: u32 = 10;
const NUMBER_MASK: u64 = (1 << 28) - 1;
const AGE_MASK: u32 = (1 << NUMBER_SHIFT) - 1;

impl Entry {
    /// The first fragment of the packet with this hash went that way at `now`.
    #[inline(always)]
    pub const fn new(hash: u64, way: Way, number: u32, now: u32) -> Self {
        Self(
            hash >> TAG_SHIFT << TAG_SHIFT
                | (way as u64) << WAY_SHIFT
                | (number as u64 & NUMBER_MASK) << NUMBER_SHIFT
                | (now & AGE_MASK) as u64,
        )
    }

    /// Which way it went; none for an empty entry.
    #[inline(always)]
    pub const fn way(self) -> Option<Way> {
        match self.0 >> WAY_SHIFT & 3 {
            1 => Some(Way::Backend),
            2 => Some(Way::Flow),
            3 => Some(Way::Client),
            _ => None,
        }
    }

    /// The backend's id or the flow's number.
    #[inline(always)]
    pub const fn number(self) -> u32 {
        (self.0 >> NUMBER_SHIFT & NUMBER_MASK) as u32
    }

    /// Ticks since it was written; stamps from just after `now`, by another CPU, are fresh.
    #[inline(always)]
    const fn since(self, now: u32) -> u32 {
        now.wrapping_sub(self.0 as u32).wrapping_add(AHEAD) & AGE_MASK
    }

    /// Whether it is about the packet with this hash, and not forgotten.
    #[inline(always)]
    pub const fn is_for(self, hash: u64, now: u32) -> bool {
        self.0 != 0 && (self.0 ^ hash) >> TAG_SHIFT == 0 && self.since(now) <= LIFE + AHEAD
    }
}

/// The set of a packet with this hash; `sets` is a power of two.
#[inline(always)]
pub const fn set(hash: u64, sets: u32) -> u32 {
    hash as u32 & (sets - 1)
}

/// The position of the entry to overwrite: an empty one, or else the oldest. Without a branch: see
/// [`crate::table`].
#[inline(always)]
pub fn place<W: Word>(set: &[W; WAYS], now: u32) -> usize {
    let mut rank = u64::from(u32::MAX);
    for (way, word) in set.iter().enumerate() {
        let entry = Entry(word.load());
        let used = (entry.0 >> WAY_SHIFT | entry.0 >> (WAY_SHIFT + 1)) & 1;
        let worth = used << NUMBER_SHIFT | u64::from(AGE_MASK - entry.since(now));
        rank = smaller::<W>(rank, worth << 3 | way as u64);
    }
    rank as usize & (WAYS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: u64 = 0xfeed_beef_0123_4567;

    #[test]
    fn an_entry_says_what_was_put_into_it() {
        for (way, number) in [(Way::Backend, 4095), (Way::Flow, (1 << 28) - 1), (Way::Client, 0)] {
            let entry = Entry::new(HASH, way, number, 77);
            assert_eq!((entry.way(), entry.number()), (Some(way), number));
            assert!(entry.is_for(HASH, 77), "{entry:x?}");
            assert!(!entry.is_for(HASH ^ 1 << 63, 77), "{entry:x?} of another packet");
        }
        assert_eq!(Entry::default().way(), None);
        assert!(!Entry::default().is_for(0, 0), "an empty entry is nobody's");
    }

    #[test]
    fn an_entry_is_forgotten_after_its_life_even_where_the_stamp_wraps() {
        for written in [0, 1, 500, AGE_MASK, AGE_MASK + 7] {
            let entry = Entry::new(HASH, Way::Backend, 1, written);
            assert!(entry.is_for(HASH, written.wrapping_sub(1)), "a stamp from another CPU's next tick");
            assert!(entry.is_for(HASH, written + LIFE), "at {written}");
            assert!(!entry.is_for(HASH, written + LIFE + 1), "at {written}");
        }
    }
}

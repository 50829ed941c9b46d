//! Consistent hashing: Maglev tables, weighted, and the order in which a hash meets backends.
//!
//! Eisenbud and others, "Maglev: A Fast and Reliable Software Network Load Balancer" (NSDI 2016), section
//! 3.4. Weights by credit: in a turn every backend earns its weight and spends the largest weight a slot,
//! so shares are exact to within one slot at any scale of weights.

use crate::flow::{mix, reduce};

/// Table sizes, primes: the smallest with a hundred slots a backend keeps the imbalance below one per cent
/// (section 5.3 of the paper). Above 655 backends the largest has fewer, and the imbalance grows to six per
/// cent at 4,096.
pub const SIZES: [u32; 3] = [4093, 16381, 65537];

/// What an empty table slot holds: no backend has this id.
pub const NOBODY: u16 = u16::MAX;

/// The table size for a number of backends.
pub const fn size_for(backends: usize) -> u32 {
    const SLOTS_EACH: usize = 100;
    let mut i = 0;
    while i + 1 < SIZES.len() {
        if SIZES[i] as usize >= backends * SLOTS_EACH {
            return SIZES[i];
        }
        i += 1;
    }
    SIZES[i]
}

/// A backend on its way into a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The id that the table will hold.
    pub backend: u16,
    /// What the backend is across restarts and machines: a hash of its name and address.
    pub identity: u64,
    /// Its share relative to the others; 0 leaves it out.
    pub weight: u32,
}

/// Room for one member's place in its permutation while a table is built.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scratch {
    position: u32,
    skip: u32,
    slots: u32,
    credit: u32,
}

/// Fills `table`, whose length must be one of [`SIZES`] or another prime, from `members` sorted by
/// identity; `scratch` holds at least as many elements. Without a member of weight above zero, every slot
/// becomes [`NOBODY`].
pub fn build(members: &[Member], table: &mut [u16], scratch: &mut [Scratch]) {
    table.fill(NOBODY);
    let size = table.len() as u32;
    let total: u64 = members.iter().map(|m| u64::from(m.weight)).sum();
    if total == 0 {
        return;
    }
    // Slots by running total, so that roundings cancel out: within one slot of the exact share.
    let border = |reach: u64| (u128::from(size) * u128::from(reach) / u128::from(total)) as u32;
    let mut reach = 0;
    for (member, place) in members.iter().zip(scratch.iter_mut()) {
        let first = border(reach);
        reach += u64::from(member.weight);
        *place = start(member.identity, size, border(reach) - first);
    }
    let Some(largest) = scratch.iter().take(members.len()).map(|place| place.slots).max() else { return };
    for place in scratch.iter_mut() {
        // The first turn is everyone's: who is one slot short of the largest misses the last.
        place.credit = largest - 1;
    }
    let mut left = size;
    loop {
        for (member, place) in members.iter().zip(scratch.iter_mut()) {
            place.credit += place.slots;
            if place.credit < largest {
                continue;
            }
            place.credit -= largest;
            claim(member.backend, place, table);
            left -= 1;
            if left == 0 {
                return;
            }
        }
    }
}

fn start(identity: u64, size: u32, slots: u32) -> Scratch {
    let (offset, skip) = (mix(identity), mix(identity ^ 0x9e37_79b9_7f4a_7c15));
    Scratch {
        position: (offset % u64::from(size)) as u32,
        skip: (skip % u64::from(size - 1)) as u32 + 1,
        slots,
        credit: 0,
    }
}

/// Takes the next free slot of a member's permutation. There is one: the caller counts.
fn claim(backend: u16, place: &mut Scratch, table: &mut [u16]) {
    let size = table.len() as u32;
    while table[place.position as usize] != NOBODY {
        place.position = (place.position + place.skip) % size;
    }
    table[place.position as usize] = backend;
}

/// What makes the next draw of one: a hash is random already, so that the top bits of a multiplicative generator
/// modulo 2^64 will do (Steele and Vigna, "Computationally easy, spectrally good multipliers", 2021, table 5).
const STEP: u64 = 0xd134_2543_de82_ef95;

/// The table slots that a hash looks at, one after the other.
///
/// The first is the flow's place in plain consistent hashing; the rest are independent of it.
#[derive(Clone, Copy, Debug)]
pub struct Draws {
    at: u64,
    size: u32,
}

impl Draws {
    /// Of a hash, from a table of `size` slots.
    #[inline(always)]
    pub const fn of(hash: u64, size: u32) -> Self {
        Self { at: hash, size }
    }

    /// The next slot, `0..size`.
    #[inline(always)]
    pub const fn next(&mut self) -> u32 {
        self.at = self.at.wrapping_mul(STEP);
        reduce((self.at >> 32) as u32, self.size)
    }
}

/// The slot of draw number `draw` alone, without those before it.
pub const fn draw(hash: u64, draw: u32, size: u32) -> u32 {
    Draws::of(hash.wrapping_mul(STEP.wrapping_pow(draw)), size).next()
}

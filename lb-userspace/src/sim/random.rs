//! Random numbers that depend on what they are for alone, so that every policy sees the same world.

use lb_common::flow::mix;
use rand::{SeedableRng as _, rngs::StdRng};

/// What a number is drawn for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Use {
    Flow = 1,
    Request,
    Phase,
    Loss,
    Rotation,
    Policy,
    Reuse,
}

/// 64 random bits for `number` of a use under a seed.
pub(super) fn bits(seed: u64, of: Use, number: u64) -> u64 {
    mix(mix(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ of as u64).wrapping_add(mix(number)))
}

/// A number from 0 to 1, 1 excluded.
pub(super) fn unit(seed: u64, of: Use, number: u64) -> f64 {
    const MANTISSA: u32 = f64::MANTISSA_DIGITS;
    (bits(seed, of, number) >> (u64::BITS - MANTISSA)) as f64 / (1_u64 << MANTISSA) as f64
}

/// A generator of its own.
pub(super) fn generator(seed: u64, of: Use, number: u64) -> StdRng {
    StdRng::seed_from_u64(bits(seed, of, number))
}

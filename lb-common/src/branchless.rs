//! Comparisons without branches, for what the verifier walks.
//!
//! Every branch in an unrolled loop doubles the paths the verifier may have to follow, and a compiler that
//! recognises a comparison turns it back into a branch: BPF has no conditional move.

/// Hides a value from the compiler, where that is needed.
pub trait Hide {
    /// Gives `x` back; in the kernel's implementation in a way the compiler cannot see through.
    #[inline(always)]
    fn hide(x: u64) -> u64 {
        x
    }
}

/// One when `x` is zero, else zero.
#[inline(always)]
pub fn is_zero<H: Hide>(x: u64) -> u64 {
    1 ^ (H::hide(x | x.wrapping_neg()) >> 63)
}

/// All ones when `a` is below `b`, else zero. Both are below 2^63.
#[inline(always)]
pub fn below<H: Hide>(a: u64, b: u64) -> u64 {
    (H::hide(a.wrapping_sub(b)) >> 63).wrapping_neg()
}

/// The smaller of two numbers below 2^63.
#[inline(always)]
pub fn smaller<H: Hide>(a: u64, b: u64) -> u64 {
    select(below::<H>(a, b), a, b)
}

/// `a` where `mask` is all ones, `b` where it is zero.
#[inline(always)]
pub const fn select(mask: u64, a: u64, b: u64) -> u64 {
    b ^ ((a ^ b) & mask)
}

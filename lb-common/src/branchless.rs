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

/// One when `x` is negative in two's complement, else zero.
///
/// Hidden is `x`: a compiler that knows what was compared makes a branch of it.
#[inline(always)]
pub fn negative<H: Hide>(x: u64) -> u64 {
    H::hide(x) >> 63
}

/// One when `x` is zero, else zero.
#[inline(always)]
pub fn zero<H: Hide>(x: u64) -> u64 {
    negative::<H>(x | x.wrapping_neg()) ^ 1
}

/// One when `a` is below `b`, else zero. Both are in two's complement, and their difference is, too.
#[inline(always)]
pub fn below<H: Hide>(a: u64, b: u64) -> u64 {
    negative::<H>(a.wrapping_sub(b))
}

/// The smaller of two numbers, as in [`below`].
#[inline(always)]
pub fn smaller<H: Hide>(a: u64, b: u64) -> u64 {
    let difference = a.wrapping_sub(b);
    b.wrapping_add(difference & mask::<H>(negative::<H>(difference)))
}

/// A number in two's complement, or zero where it is below.
#[inline(always)]
pub fn positive<H: Hide>(x: u64) -> u64 {
    x & !mask::<H>(negative::<H>(x))
}

/// All ones for one, zero for zero.
///
/// Hidden is `bit`: a compiler that knows where a mask came from makes a branch of it. So does the verifier, of any
/// mask that meets a constant: multiply constants by the bit instead.
#[inline(always)]
pub fn mask<H: Hide>(bit: u64) -> u64 {
    H::hide(bit).wrapping_neg()
}

/// `a` where `mask` is all ones, `b` where it is zero.
#[inline(always)]
pub const fn select(mask: u64, a: u64, b: u64) -> u64 {
    b ^ ((a ^ b) & mask)
}

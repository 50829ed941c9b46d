//! A checked stretch of the packet, read and written a word at a time.
//!
//! Headers lie at offsets that are no multiple of their words' size. Rust would read such words byte by
//! byte; the machines this runs on read them whole, and the verifier allows it there, so the loads and
//! stores are written as the one instruction they are.

use core::{arch::asm, mem::offset_of};

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use lb_common::{branchless::Hide as _, reason::Reason};

use crate::word::Opaque;

/// A field of the context that holds a pointer into the packet.
///
/// The kernel puts a whole pointer into the register. To the compiler the field has 32 bits, and where it copies the
/// register as such, older verifiers take the copy for a number.
#[inline(always)]
fn pointer<const OFFSET: usize>(ctx: &XdpContext) -> usize {
    let pointer: u64;
    // SAFETY: the context is the kernel's own; the field is there, and nothing but the kernel writes it.
    unsafe {
        asm!("{0} = *(u32 *)({1} + {2})", out(reg) pointer, in(reg) ctx.ctx, const OFFSET, options(pure, readonly, nostack));
    }
    pointer as usize
}

/// Where the packet starts.
#[inline(always)]
fn start(ctx: &XdpContext) -> usize {
    pointer::<{ offset_of!(xdp_md, data) }>(ctx)
}

/// Where what can be read of the packet ends.
#[inline(always)]
fn end(ctx: &XdpContext) -> usize {
    pointer::<{ offset_of!(xdp_md, data_end) }>(ctx)
}

/// How many bytes of the packet can be read.
#[inline(always)]
pub fn readable(ctx: &XdpContext) -> usize {
    // Hidden, or the compiler takes the difference of the lower halves, which is no business with pointers.
    Opaque::hide((end(ctx) - start(ctx)) as u64) as usize
}

/// `LENGTH` bytes of the packet that are known to be there.
#[derive(Clone, Copy)]
pub struct Bytes<const LENGTH: usize>(*mut u8);

macro_rules! access {
    ($read:ident, $write:ident, $word:ty, $load:literal, $store:literal) => {
        /// The word at `OFFSET`, in memory order.
        #[inline(always)]
        pub fn $read<const OFFSET: usize>(self) -> $word {
            const { assert!(OFFSET + size_of::<$word>() <= LENGTH) };
            let word: u64;
            // SAFETY: `at` has checked that the bytes are there.
            unsafe { asm!($load, out(reg) word, in(reg) self.0, const OFFSET, options(readonly, nostack)) };
            word as $word
        }

        /// Writes the word at `OFFSET`, in memory order.
        #[inline(always)]
        pub fn $write<const OFFSET: usize>(self, word: $word) {
            const { assert!(OFFSET + size_of::<$word>() <= LENGTH) };
            let word = u64::from(word);
            // SAFETY: `at` has checked that the bytes are there.
            unsafe { asm!($store, in(reg) self.0, in(reg) word, const OFFSET, options(nostack)) };
        }
    };
}

impl<const LENGTH: usize> Bytes<LENGTH> {
    access!(u8, set_u8, u8, "{0} = *(u8 *)({1} + {2})", "*(u8 *)({0} + {2}) = {1}");
    access!(u16, set_u16, u16, "{0} = *(u16 *)({1} + {2})", "*(u16 *)({0} + {2}) = {1}");
    access!(u32, set_u32, u32, "{0} = *(u32 *)({1} + {2})", "*(u32 *)({0} + {2}) = {1}");
    access!(u64, set_u64, u64, "{0} = *(u64 *)({1} + {2})", "*(u64 *)({0} + {2}) = {1}");

    /// The bytes at `offset` of the packet, if it reaches that far.
    #[inline(always)]
    pub fn at(ctx: &XdpContext, offset: usize) -> Result<Self, Reason> {
        // Hidden, so that the very pointer that is checked is used: the compiler knows that an earlier check
        // covers this one, but the verifier does not follow a check from one variable offset to another.
        let place = Opaque::hide((start(ctx) + offset) as u64) as usize;
        if place + LENGTH > end(ctx) {
            return Err(Reason::Truncated);
        }
        Ok(Self(place as *mut u8))
    }

    /// `PART` of these bytes, from `OFFSET` on.
    #[inline(always)]
    pub fn part<const OFFSET: usize, const PART: usize>(self) -> Bytes<PART> {
        const { assert!(OFFSET + PART <= LENGTH) };
        // SAFETY: the bytes are there, so the pointer stays inside the packet.
        Bytes(unsafe { self.0.add(OFFSET) })
    }
}

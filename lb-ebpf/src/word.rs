//! Atomics on map memory.
//!
//! `AtomicU64`'s methods do not compile for BPF; the intrinsics beneath them do, with `target-cpu=v3`.
//!
//! Kernels got compare-exchange and adds that tell the old value late: with Linux 5.12 on x86-64 and 5.18 on arm64.
//! For those before, the feature `legacy` makes do with plain loads and stores and with the add that tells nothing.
//! Two CPUs that change one slot at the same moment can then both believe that they won; the daemon's recount
//! corrects the gauges that drift by it.

#[cfg(not(feature = "legacy"))]
use core::intrinsics::atomic_cxchg;
use core::{
    arch::asm,
    cell::UnsafeCell,
    intrinsics::{AtomicOrdering, atomic_xadd},
};

use lb_common::{branchless::Hide, table::Word};

#[cfg(not(feature = "legacy"))]
const ORDER: AtomicOrdering = AtomicOrdering::SeqCst;
/// The order of adds whose result is not used: any stronger one makes the compiler choose an add that tells the old
/// value, which costs more and is not there everywhere.
const UNORDERED: AtomicOrdering = AtomicOrdering::Relaxed;

/// A 64-bit word of a map, shared with other CPUs and with the daemon.
#[repr(transparent)]
pub struct MapWord(UnsafeCell<u64>);

impl Word for MapWord {
    #[inline(always)]
    fn load(&self) -> u64 {
        // SAFETY: the word lies in a map's memory, aligned; a load of 64 bits is one instruction.
        unsafe { self.0.get().read_volatile() }
    }

    #[cfg(not(feature = "legacy"))]
    #[inline(always)]
    fn compare_exchange(&self, old: u64, new: u64) -> u64 {
        // SAFETY: as above; the compare-exchange is the kernel's own atomic.
        unsafe { atomic_cxchg::<u64, ORDER, ORDER>(self.0.get(), old, new).0 }
    }

    #[cfg(feature = "legacy")]
    #[inline(always)]
    fn compare_exchange(&self, old: u64, new: u64) -> u64 {
        let found = self.load();
        if found == old {
            // SAFETY: as above; a store of 64 bits is one instruction.
            unsafe { self.0.get().write_volatile(new) };
        }
        found
    }
}

/// Moves a register to itself: what the compiler cannot see through.
pub struct Opaque;

impl Hide for Opaque {
    #[inline(always)]
    fn hide(mut x: u64) -> u64 {
        // SAFETY: moves a register to itself. An empty template would leave two lines of debug information on
        // one instruction, which the kernel refuses.
        unsafe { asm!("{0} = {0}", inout(reg) x, options(nomem, nostack, preserves_flags)) };
        x
    }
}

impl Hide for MapWord {
    #[inline(always)]
    fn hide(x: u64) -> u64 {
        Opaque::hide(x)
    }
}

/// Adds to a counter that others add to as well, and gives what was there before; in `legacy`, about what was.
///
/// # Safety
///
/// `counter` must point into a map's memory, aligned.
#[cfg(not(feature = "legacy"))]
#[inline(always)]
pub unsafe fn fetch_add_u32(counter: *mut u32, by: u32) -> u32 {
    // SAFETY: by this function's contract.
    unsafe { atomic_xadd::<u32, u32, ORDER>(counter, by) }
}

/// As above, with a load of its own, which the compiler leaves out where the value is not used.
///
/// # Safety
///
/// As above.
#[cfg(feature = "legacy")]
#[inline(always)]
pub unsafe fn fetch_add_u32(counter: *mut u32, by: u32) -> u32 {
    // SAFETY: by this function's contract.
    let before = unsafe { counter.read() };
    // SAFETY: as above.
    unsafe { atomic_xadd::<u32, u32, UNORDERED>(counter, by) };
    before
}

/// Adds to a counter that others add to as well.
///
/// # Safety
///
/// `counter` must point into a map's memory, aligned.
#[inline(always)]
pub unsafe fn add_u64(counter: *mut u64, by: u64) {
    // SAFETY: by this function's contract.
    unsafe { atomic_xadd::<u64, u64, UNORDERED>(counter, by) };
}

//! The maps. What an element means is said in `lb_common::decap`; user space fills the first two.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    btf_maps::{HashMap, LpmTrie, PerCpuArray, PerCpuHashMap, lpm_trie::Key},
    macros::btf_map,
};
use lb_common::decap::{Count, Host, MAX_VIPS, REASONS as ELEMENTS, Reason};

/// Most outer destinations; an interface has a few.
const MAX_LOCALS: usize = 1024;
/// Most prefixes of outer sources.
const MAX_SOURCES: usize = 1024;

/// Outer destinations that are this end's.
#[btf_map]
pub static LOCALS: HashMap<Host, u32, MAX_LOCALS> = HashMap::new();
/// Prefixes of outer sources that are accepted.
#[btf_map]
pub static SOURCES: LpmTrie<Host, u32, MAX_SOURCES> = LpmTrie::new();
/// Packets by what became of them.
#[btf_map]
pub static REASONS: PerCpuArray<u64, ELEMENTS> = PerCpuArray::new();
/// Inner packets by their destination, with an entry for those without one of their own.
#[btf_map]
pub static VIPS: PerCpuHashMap<Host, Count, { MAX_VIPS + 1 }> = PerCpuHashMap::new();

/// Whether an outer destination is this end's.
#[inline(always)]
pub fn is_local(host: &Host) -> bool {
    LOCALS.get_ptr(host).is_some()
}

/// Whether an outer source is accepted.
#[inline(always)]
pub fn is_accepted(host: &Host) -> bool {
    SOURCES.get(&Key::new(Host::BITS, *host)).is_some()
}

/// Counts a packet by what becomes of it.
#[inline(always)]
pub fn count_reason(reason: Reason) {
    if let Some(seen) = REASONS.get_ptr_mut(reason as u32) {
        // SAFETY: this CPU's own element of the map.
        unsafe { *seen += 1 };
    }
}

/// Counts an inner packet by its destination.
#[inline(always)]
pub fn count_inner(vip: &Host, bytes: u32) {
    let mut place = VIPS.get_ptr_mut(vip);
    if place.is_none() {
        // Refused when another CPU was first, which is as good, or when the map is full.
        let _ = VIPS.insert(vip, Count::default(), u64::from(BPF_NOEXIST));
        place = VIPS.get_ptr_mut(vip);
    }
    if place.is_none() {
        place = VIPS.get_ptr_mut(&Host::OTHERS);
    }
    if let Some(count) = place {
        // SAFETY: this CPU's own element of the map, which no one removes.
        let count = unsafe { &mut *count };
        count.packets += 1;
        count.bytes += u64::from(bytes);
    }
}

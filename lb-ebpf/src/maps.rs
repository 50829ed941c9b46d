//! The maps. What an element means is said in `lb_common::layout`; sizes are the loader's to override.

use aya_ebpf::{
    Global,
    bindings::BPF_F_MMAPABLE,
    btf_maps::{Array, PerCpuArray, RingBuf},
    macros::btf_map,
};
use lb_common::{
    address::Address,
    event::{Event, RING_BYTES},
    index,
    layout::{
        Backend, Clock, Control, FLOW_SETS, FRAGMENT_SETS, FlowInfo, Histogram, Load, MAX_SOURCES, Meta,
        REASON_ELEMENTS, TABLE_LINE, TABLE_LINES, Total, Traffic, VIP_IDS, Vip,
    },
    pick::Entries,
    slot::MAX_BACKENDS,
    table::WAYS,
};

use crate::{packet::Packet, word::MapWord};

const SHARED: usize = BPF_F_MMAPABLE as usize;

/// First half of the flow hash's secret.
#[unsafe(no_mangle)]
pub static KEY0: Global<u64> = Global::new(0);
/// Second half.
#[unsafe(no_mangle)]
pub static KEY1: Global<u64> = Global::new(0);
/// Sets in `FLOWS`, less one.
#[unsafe(no_mangle)]
pub static SET_MASK: Global<u32> = Global::new(FLOW_SETS as u32 - 1);
/// Shift from jiffies to the age clock.
#[unsafe(no_mangle)]
pub static AGE_SHIFT: Global<u32> = Global::new(8);
/// Jiffies without a heartbeat after which corrections are dropped.
#[unsafe(no_mangle)]
pub static STALE_AFTER: Global<u32> = Global::new(500);

#[btf_map]
pub static META: Array<Meta, 1, SHARED> = Array::new();
#[btf_map]
pub static CONTROL: Array<Control, 1, SHARED> = Array::new();
#[btf_map]
pub static CLOCK: Array<Clock, 1, SHARED> = Array::new();
#[btf_map]
pub static VIP_INDEX: Array<u64, { 2 * index::BUCKETS as usize }, SHARED> = Array::new();
#[btf_map]
pub static REAL_INDEX: Array<u64, { 2 * index::BUCKETS as usize }, SHARED> = Array::new();
#[btf_map]
pub static VIPS: Array<Vip, { 2 * VIP_IDS }, SHARED> = Array::new();
#[btf_map]
pub static BACKENDS: Array<Backend, MAX_BACKENDS, SHARED> = Array::new();
#[btf_map]
pub static LOADS: Array<Load, MAX_BACKENDS, SHARED> = Array::new();
#[btf_map]
pub static TOTALS: Array<Total, VIP_IDS, SHARED> = Array::new();
#[btf_map]
pub static PROGRESS: Array<Histogram, MAX_BACKENDS, SHARED> = Array::new();
#[btf_map]
pub static TABLE: Array<[u16; TABLE_LINE], TABLE_LINES, SHARED> = Array::new();
#[btf_map]
pub static FLOWS: Array<[u64; WAYS], FLOW_SETS, SHARED> = Array::new();
#[btf_map]
pub static FLOW_INFO: Array<FlowInfo, { FLOW_SETS * WAYS }, SHARED> = Array::new();
#[btf_map]
pub static SOURCES: Array<Address, MAX_SOURCES, SHARED> = Array::new();
#[btf_map]
pub static FRAGMENTS: Array<[u64; WAYS], FRAGMENT_SETS> = Array::new();
#[btf_map]
pub static PACKET: PerCpuArray<Packet, 2> = PerCpuArray::new();
#[btf_map]
pub static TRAFFIC: PerCpuArray<Traffic, MAX_BACKENDS> = PerCpuArray::new();
#[btf_map]
pub static REASONS_SEEN: PerCpuArray<u64, REASON_ELEMENTS> = PerCpuArray::new();
/// What a CPU's pick weighs.
#[btf_map]
pub static WEIGHED: PerCpuArray<Entries, 1> = PerCpuArray::new();
/// Of [`Event`]s; libbpf refuses a declared type that has a size.
#[btf_map]
pub static EVENTS: RingBuf<(), RING_BYTES> = RingBuf::new();
#[btf_map]
pub static EVENTS_LOST: PerCpuArray<u64, 1> = PerCpuArray::new();
/// The event that a CPU is about to report.
#[btf_map]
pub static TRACED: PerCpuArray<Event, 1> = PerCpuArray::new();

/// A set of the flow table.
#[inline(always)]
pub fn flow_set(number: u32) -> Option<&'static [MapWord; WAYS]> {
    FLOWS.get_ptr(number).map(words)
}

/// The word of the flow table's slot with this number.
#[inline(always)]
pub fn flow_word(number: u32) -> Option<&'static MapWord> {
    let set = flow_set(number / WAYS as u32)?;
    Some(&set[number as usize & (WAYS - 1)])
}

/// A set of remembered fragments.
#[inline(always)]
pub fn fragment_set(number: u32) -> Option<&'static [MapWord; WAYS]> {
    FRAGMENTS.get_ptr(number).map(words)
}

#[inline(always)]
fn words(set: *const [u64; WAYS]) -> &'static [MapWord; WAYS] {
    // SAFETY: an element is eight aligned words that live as long as the program; `MapWord` is one word.
    unsafe { &*set.cast::<[MapWord; WAYS]>() }
}

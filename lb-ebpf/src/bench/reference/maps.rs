//! The reference's maps.

use aya_ebpf::{
    btf_maps::{Array, ArrayOfMaps, HashMap, LruHashMap, PerCpuArray},
    macros::btf_map,
    programs::XdpContext,
};
use lb_common::address::Endpoint;

use crate::bench::layout::{
    Entry, REFERENCE_BACKENDS, REFERENCE_CPUS, REFERENCE_TEMPLATE, REFERENCE_VIPS, RING, ReferenceBackend,
    ReferenceReal, ReferenceVip, Seen, Tuple,
};

/// The flow table of one CPU.
type Flows = LruHashMap<Tuple, Entry, REFERENCE_TEMPLATE>;

#[btf_map]
pub static BENCH_FLOWS: ArrayOfMaps<Flows, REFERENCE_CPUS> = ArrayOfMaps::new();
#[btf_map]
pub static BENCH_VIPS: HashMap<Endpoint, ReferenceVip, REFERENCE_VIPS> = HashMap::new();
#[btf_map]
pub static BENCH_RINGS: Array<u32, { REFERENCE_VIPS * RING as usize }> = Array::new();
#[btf_map]
pub static BENCH_BACKENDS: Array<ReferenceBackend, REFERENCE_BACKENDS> = Array::new();
#[btf_map]
pub static BENCH_REALS: HashMap<Endpoint, ReferenceReal, REFERENCE_BACKENDS> = HashMap::new();
#[btf_map]
pub static BENCH_VIP_TRAFFIC: PerCpuArray<[u64; 2], REFERENCE_VIPS> = PerCpuArray::new();
#[btf_map]
pub static BENCH_TRAFFIC: PerCpuArray<[u64; 2], REFERENCE_BACKENDS> = PerCpuArray::new();
#[btf_map]
pub static BENCH_SEEN: PerCpuArray<u64, { Seen::ALL.len() }> = PerCpuArray::new();

/// Counts a packet by what became of it.
#[inline(always)]
pub fn count(seen: Seen) {
    if let Some(counter) = BENCH_SEEN.get_ptr_mut(seen as u32) {
        // SAFETY: this CPU's own element of the map.
        unsafe { *counter += 1 };
    }
}

/// Counts a packet and its bytes for its VIP and its backend.
#[inline(always)]
pub fn count_traffic(ctx: &XdpContext, vip: u32, backend: u32) {
    let length = (ctx.data_end() - ctx.data()) as u64;
    if let Some(traffic) = BENCH_VIP_TRAFFIC.get_ptr_mut(vip) {
        // SAFETY: this CPU's own element of the map.
        let [packets, bytes] = unsafe { &mut *traffic };
        *packets += 1;
        *bytes += length;
    }
    if let Some(traffic) = BENCH_TRAFFIC.get_ptr_mut(backend) {
        // SAFETY: this CPU's own element of the map.
        let [packets, bytes] = unsafe { &mut *traffic };
        *packets += 1;
        *bytes += length;
    }
}

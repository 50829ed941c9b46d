//! The reference's maps: filled from the same services, and its counters read.

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{Array, ArrayOfMaps, HashMap, Map, MapData, PerCpuArray},
};
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_LRU_HASH;
use lb_common::{
    address::Endpoint,
    checksum::sum_endpoint,
    flow::mix,
    maglev::{self, Member, Scratch},
};

use super::{
    layout::{Entry, RING, ReferenceBackend, ReferenceReal, ReferenceVip, Run, Seen, Tuple},
    services::{INNER_MAC, OWN_MAC, ROUTER_MAC, Service},
};

/// `Endpoint` as a map's key.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Key(Endpoint);

// SAFETY: `repr(C)` integers without padding; every bit pattern is valid.
unsafe impl aya::Pod for Key {}
// SAFETY: as above.
unsafe impl aya::Pod for Run {}
// SAFETY: as above.
unsafe impl aya::Pod for ReferenceVip {}
// SAFETY: `repr(C)` integers, whose sizes `layout` asserts; every bit pattern is valid.
unsafe impl aya::Pod for ReferenceBackend {}
// SAFETY: as above.
unsafe impl aya::Pod for ReferenceReal {}

/// The reference, as far as user space has to do with it.
pub struct Reference {
    flows: ArrayOfMaps<MapData>,
    seen: PerCpuArray<MapData, u64>,
    entries: u32,
}

impl Reference {
    /// Fills the maps for `services`; a flow table has `entries`.
    ///
    /// # Errors
    /// The object is built without the feature `bench`, or the kernel refuses.
    pub fn new(ebpf: &mut Ebpf, services: &[Service], entries: u32) -> Result<Self> {
        let mut vips: HashMap<MapData, Key, ReferenceVip> = take(ebpf, "BENCH_VIPS")?;
        let mut reals: HashMap<MapData, Key, ReferenceReal> = take(ebpf, "BENCH_REALS")?;
        let mut backends: Array<MapData, ReferenceBackend> = take(ebpf, "BENCH_BACKENDS")?;
        let mut rings: Array<MapData, u32> = take(ebpf, "BENCH_RINGS")?;
        let mut first = 0;
        for (number, service) in (0u32..).zip(services) {
            let vip = service.endpoint(service.vip());
            vips.insert(Key(vip), reference_vip(service, number), 0)?;
            for place in 0..service.backends {
                let backend = first + place as u32;
                let row = reference_backend(service, place);
                backends.set(backend, row, 0)?;
                reals.insert(Key(row.endpoint), real(service, number, backend, &row), 0)?;
            }
            for (slot, member) in (0u32..).zip(ring(service.backends)) {
                rings.set(number * RING + slot, first + u32::from(member), 0)?;
            }
            first += service.backends as u32;
        }
        Ok(Self { flows: take(ebpf, "BENCH_FLOWS")?, seen: take(ebpf, "BENCH_SEEN")?, entries })
    }

    /// Gives a CPU an empty flow table.
    ///
    /// # Errors
    /// The kernel has no room for it.
    pub fn empty(&mut self, cpu: u32) -> Result<()> {
        let (key, value) = (size_of::<Tuple>() as u32, size_of::<Entry>() as u32);
        let kind = BPF_MAP_TYPE_LRU_HASH as u32;
        let table = aya_obj::Map::new_from_params(kind, key, value, self.entries, 0);
        let table = MapData::create(table, "bench_flows", None).context("a flow table of the reference")?;
        self.flows.set(cpu, &table, 0).context("BENCH_FLOWS")
    }

    /// Packets by what became of them, over all CPUs.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn seen(&self) -> Result<[u64; Seen::ALL.len()]> {
        let mut seen = [0; Seen::ALL.len()];
        for kind in Seen::ALL {
            seen[kind as usize] = self.seen.get(&(kind as u32), 0)?.iter().sum();
        }
        Ok(seen)
    }
}

/// Takes a map out of the object.
///
/// # Errors
/// The object is built without the feature `bench`, or with another layout.
pub fn take<T>(ebpf: &mut Ebpf, name: &str) -> Result<T>
where
    T: TryFrom<Map, Error = aya::maps::MapError>,
{
    let map = ebpf.take_map(name).with_context(|| {
        format!("the kernel object has no map {name}: `cargo xtask bench packet` builds one that has")
    })?;
    T::try_from(map).with_context(|| format!("map {name}"))
}

/// A Maglev ring: the places of a VIP's backends.
fn ring(backends: usize) -> Vec<u16> {
    let member = |place: u16| Member { backend: place, identity: mix(place.into()), weight: 1 };
    let members: Vec<_> = (0..backends as u16).map(member).collect();
    let mut table = vec![0; RING as usize];
    maglev::build(&members, &mut table, &mut vec![Scratch::default(); backends]);
    table
}

fn sum(endpoint: &Endpoint) -> u32 {
    sum_endpoint(&endpoint.address, endpoint.port_be).into()
}

fn reference_vip(service: &Service, number: u32) -> ReferenceVip {
    let vip = service.endpoint(service.vip());
    ReferenceVip { number, mode: service.mode as u32, checksum: sum(&vip) }
}

fn reference_backend(service: &Service, place: usize) -> ReferenceBackend {
    let endpoint = service.endpoint(service.backend(place));
    ReferenceBackend {
        endpoint,
        checksum: sum(&endpoint),
        mac: service.mac(place).into(),
        source_mac: INNER_MAC.into(),
    }
}

fn real(service: &Service, number: u32, backend: u32, row: &ReferenceBackend) -> ReferenceReal {
    let vip = service.endpoint(service.vip());
    ReferenceReal {
        vip,
        vip_checksum: sum(&vip),
        backend,
        checksum: row.checksum,
        number,
        mac: ROUTER_MAC.into(),
        source_mac: OWN_MAC.into(),
    }
}

//! Maps in plain memory, for tests of what is written into them: no kernel program reads these.

use std::{os::fd::AsFd as _, sync::Arc};

use lb_common::{
    address::{Address, Endpoint},
    index::{Active, BUCKETS, HANDLES, Handle},
    layout::{LAYOUT, MAX_SOURCES, Meta, PORT_SETS, VIP_IDS, Vip},
    siphash::Key,
    slot::MAX_BACKENDS,
    table::WAYS,
};

use super::{
    adoption::sets,
    loader::Maps,
    mapping::{Element, Elements},
};

/// Sets that any flow may be in.
pub const FLOW_SETS: u32 = 64;

/// Empty maps with ports for so many source addresses.
pub fn maps(nat_sources: u32) -> Arc<Maps> {
    let meta = Meta {
        layout: LAYOUT,
        key: Key { k0: 1, k1: 2 },
        flow_sets: FLOW_SETS,
        table_lines: 4096,
        hz: 250,
        age_shift: 8,
        port_sets: nat_sources * PORT_SETS,
        reserved: [0; 5],
    };
    let sets = sets(&meta) as usize;
    let maps = Maps {
        meta: elements(1),
        control: elements(1),
        vip_index: elements(2 * BUCKETS as usize),
        real_index: elements(2 * BUCKETS as usize),
        vips: elements(2 * VIP_IDS),
        backends: elements(MAX_BACKENDS),
        loads: elements(MAX_BACKENDS),
        totals: elements(VIP_IDS),
        progress: elements(MAX_BACKENDS),
        table: elements(meta.table_lines as usize),
        flows: elements(sets),
        flow_info: elements(sets * WAYS),
        sources: elements(MAX_SOURCES),
    };
    maps.meta.write(0, &meta);
    Arc::new(maps)
}

fn elements<T: Element>(count: usize) -> Elements<T> {
    let file = tempfile::tempfile().expect("a temporary file");
    // The mapping takes whole pages, whatever their size.
    let bytes = (count * size_of::<T>()).next_multiple_of(1 << 16);
    file.set_len(bytes as u64).expect("room for the elements");
    Elements::map(file.as_fd(), count).expect("a mapping of the file")
}

/// What an index, of VIPs or backends, leads an endpoint to: as many candidates as its bucket holds.
fn candidates(index: &Elements<u64>, active: u64, endpoint: &Endpoint) -> Vec<Handle> {
    let word = index.read(Active(active).element(endpoint) as usize);
    (0..HANDLES).map(|position| Handle::of(word, position)).filter(|handle| handle.is_some()).collect()
}

/// The row that packets to an endpoint find.
pub fn row(maps: &Maps, endpoint: &Endpoint) -> Option<Vip> {
    let handles = candidates(&maps.vip_index, maps.control.read(0).vip_index, endpoint);
    let rows = handles.into_iter().map(|handle| maps.vips.read(handle.element() as usize));
    rows.into_iter().find(|row| row.endpoint == *endpoint)
}

/// The ids of backends that an endpoint may stand for.
pub fn reals(maps: &Maps, endpoint: &Endpoint) -> Vec<u16> {
    let active = maps.control.read(0).real_index;
    candidates(&maps.real_index, active, endpoint).into_iter().map(Handle::id).collect()
}

/// A TCP or UDP endpoint.
pub fn endpoint(text: &str, protocol: u8) -> Endpoint {
    let address: std::net::SocketAddr = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
    Endpoint::new(address.ip().into(), address.port(), protocol)
}

/// An address.
pub fn address(text: &str) -> Address {
    text.parse::<std::net::IpAddr>().unwrap_or_else(|e| panic!("{text}: {e}")).into()
}

//! Whether what is pinned can be adopted, and what it was made for.
//!
//! It trusts `META` and the maps' own information alone. What does not match is refused, and nothing of it
//! is touched.

use std::{collections::HashMap, os::fd::AsFd as _, path::Path};

use aya::maps::{MapData, MapInfo, MapType};
use lb_common::{
    address::{Address, Endpoint},
    index::{Active, BUCKETS, HANDLES, Handle},
    layout::{self, Control, LAYOUT, MAX_SOURCES, Meta, PORT_SETS, VIP_IDS, Vip, vip_flags},
    slot::MAX_BACKENDS,
    table::WAYS,
};

use super::{
    error::Error,
    mapping::{Element, Elements},
};

/// The flag that maps which are mapped must carry.
const MMAPABLE: u32 = 1 << 10;

/// Sets of `FLOWS`: those that any flow may be in, and those whose slots are ports.
pub const fn sets(meta: &Meta) -> u32 {
    meta.flow_sets + meta.port_sets
}

/// The first set of a source address of one-armed `nat`, by its number.
pub const fn first_port_set(meta: &Meta, source: usize) -> u32 {
    meta.flow_sets + source as u32 * PORT_SETS
}

/// The live rows of `VIPS` by what they answer to.
pub fn rows(
    control: &Elements<Control>,
    index: &Elements<u64>,
    vips: &Elements<Vip>,
) -> HashMap<Endpoint, (Handle, Vip)> {
    let active = Active(control.read(0).vip_index);
    if active.0 == 0 {
        return HashMap::new();
    }
    let first = (active.generation() * BUCKETS) as usize;
    (first..first + BUCKETS as usize)
        .flat_map(|bucket| {
            let word = index.read(bucket);
            (0..HANDLES).map(move |position| Handle::of(word, position))
        })
        .filter(|handle| handle.is_some())
        .map(|handle| {
            let row = vips.read(handle.element() as usize);
            (row.endpoint, (handle, row))
        })
        .collect()
}

/// Every map by name: the size of its elements, how many there are, and whether it is mapped.
pub fn shapes(meta: &Meta) -> [(&'static str, usize, usize, bool); 16] {
    let sets = sets(meta) as usize;
    [
        ("META", size_of::<Meta>(), 1, true),
        ("CONTROL", size_of::<Control>(), 1, true),
        ("CLOCK", size_of::<layout::Clock>(), 1, true),
        ("VIP_INDEX", size_of::<u64>(), 2 * BUCKETS as usize, true),
        ("REAL_INDEX", size_of::<u64>(), 2 * BUCKETS as usize, true),
        ("VIPS", size_of::<Vip>(), 2 * VIP_IDS, true),
        ("BACKENDS", size_of::<layout::Backend>(), MAX_BACKENDS, true),
        ("LOADS", size_of::<layout::Load>(), MAX_BACKENDS, true),
        ("TOTALS", size_of::<layout::Total>(), VIP_IDS, true),
        ("PROGRESS", size_of::<layout::Histogram>(), MAX_BACKENDS, true),
        ("TABLE", layout::TABLE_LINE * 2, meta.table_lines as usize, true),
        ("FLOWS", WAYS * 8, sets, true),
        ("FLOW_INFO", size_of::<layout::FlowInfo>(), sets * WAYS, true),
        ("SOURCES", size_of::<Address>(), MAX_SOURCES, true),
        ("TRAFFIC", size_of::<layout::Traffic>(), MAX_BACKENDS, false),
        ("REASONS_SEEN", size_of::<u64>(), layout::REASON_ELEMENTS, false),
    ]
}

/// What the pins in a directory were made for; none when there are none. Flows hold ports of the source addresses of
/// one-armed `nat`, so these must be `sources`, in this order.
pub fn adoptable(directory: &Path, sources: &[Address]) -> Result<Option<Meta>, Error> {
    let refuse = |reason: String| Error::Adopt { path: directory.to_path_buf(), reason };
    let path = directory.join("META");
    if !path.try_exists().map_err(|error| refuse(error.to_string()))? {
        return Ok(None);
    }
    check(directory, "META", size_of::<Meta>(), 1, true)?;
    let meta = pinned::<Meta>(directory, "META", 1)?.read(0);
    if meta.layout != LAYOUT {
        return Err(refuse(format!("they have layout {:#x}, this version has {LAYOUT:#x}", meta.layout)));
    }
    let whole = meta.port_sets.is_multiple_of(PORT_SETS) && meta.port_sets <= MAX_SOURCES as u32 * PORT_SETS;
    if !meta.flow_sets.is_power_of_two() || !whole || meta.hz == 0 {
        return Err(refuse("META says nothing sensible".into()));
    }
    for (name, size, count, mapped) in shapes(&meta) {
        check(directory, name, size, count, mapped)?;
    }
    same_sources(directory, &meta, sources)?;
    Ok(Some(meta))
}

/// Refuses pins whose flows come from other source addresses than the configuration's.
fn same_sources(directory: &Path, meta: &Meta, wanted: &[Address]) -> Result<(), Error> {
    let refuse = |reason: String| Err(Error::Adopt { path: directory.to_path_buf(), reason });
    let count = (meta.port_sets / PORT_SETS) as usize;
    if count != wanted.len() {
        return refuse(format!(
            "they have ports for {count} source addresses, and `sources` of [nat] has {}",
            wanted.len()
        ));
    }
    let control = pinned::<Control>(directory, "CONTROL", 1)?;
    let index = pinned::<u64>(directory, "VIP_INDEX", 2 * BUCKETS as usize)?;
    let rows = rows(&control, &index, &pinned::<Vip>(directory, "VIPS", 2 * VIP_IDS)?);
    let sources = rows.values().filter(|(_, row)| row.flags & vip_flags::SOURCE_ADDRESS != 0);
    for (_, row) in sources {
        let number = wanted.iter().position(|address| *address == row.endpoint.address);
        if number.map(|number| first_port_set(meta, number)) != Some(row.ports) {
            let address = std::net::IpAddr::from(row.endpoint.address);
            return refuse(format!(
                "flows have ports of {address}, which `sources` of [nat] does not have in the same place"
            ));
        }
    }
    Ok(())
}

/// The elements of a pinned map whose shape is known to be right.
fn pinned<T: Element>(directory: &Path, name: &str, count: usize) -> Result<Elements<T>, Error> {
    let refuse =
        |reason: String| Error::Adopt { path: directory.to_path_buf(), reason: format!("{name}: {reason}") };
    let data = MapData::from_pin(directory.join(name)).map_err(|error| refuse(error.to_string()))?;
    Elements::map(data.fd().as_fd(), count).map_err(|error| refuse(error.to_string()))
}

/// Refuses a pinned map that is not what its name says: aya checks neither type, size nor flags.
fn check(directory: &Path, name: &str, size: usize, count: usize, mapped: bool) -> Result<(), Error> {
    let refuse =
        |reason: String| Error::Adopt { path: directory.to_path_buf(), reason: format!("{name}: {reason}") };
    let info = MapInfo::from_pin(directory.join(name)).map_err(|error| refuse(error.to_string()))?;
    let kind = if mapped { MapType::Array } else { MapType::PerCpuArray };
    let flags = if mapped { MMAPABLE } else { 0 };
    let found =
        (info.map_type().ok(), info.value_size() as usize, info.max_entries() as usize, info.map_flags());
    if found != (Some(kind), size, count, flags) {
        return Err(refuse(format!("it is {found:?}, not {:?}", (Some(kind), size, count, flags))));
    }
    Ok(())
}

//! Whether what is pinned can be adopted, and what it was made for.
//!
//! It trusts `META` and the maps' own information alone. What does not match is refused, and nothing of it
//! is touched.

use std::{os::fd::AsFd as _, path::Path};

use aya::maps::{MapData, MapInfo, MapType};
use lb_common::{
    index::BUCKETS,
    layout::{self, LAYOUT, Meta, VIP_IDS},
    slot::MAX_BACKENDS,
    table::WAYS,
};

use super::{error::Error, mapping::Elements};

/// The flag that maps which are mapped must carry.
const MMAPABLE: u32 = 1 << 10;

/// Every map by name: the size of its elements, how many there are, and whether it is mapped.
pub fn shapes(meta: &Meta) -> [(&'static str, usize, usize, bool); 15] {
    let sets = meta.flow_sets as usize;
    [
        ("META", size_of::<Meta>(), 1, true),
        ("CONTROL", size_of::<layout::Control>(), 1, true),
        ("CLOCK", size_of::<layout::Clock>(), 1, true),
        ("VIP_INDEX", size_of::<u64>(), 2 * BUCKETS as usize, true),
        ("REAL_INDEX", size_of::<u64>(), 2 * BUCKETS as usize, true),
        ("VIPS", size_of::<layout::Vip>(), 2 * VIP_IDS, true),
        ("BACKENDS", size_of::<layout::Backend>(), MAX_BACKENDS, true),
        ("LOADS", size_of::<layout::Load>(), MAX_BACKENDS, true),
        ("TOTALS", size_of::<layout::Total>(), VIP_IDS, true),
        ("PROGRESS", size_of::<layout::Histogram>(), MAX_BACKENDS, true),
        ("TABLE", layout::TABLE_LINE * 2, meta.table_lines as usize, true),
        ("FLOWS", WAYS * 8, sets, true),
        ("FLOW_INFO", size_of::<layout::FlowInfo>(), sets * WAYS, true),
        ("TRAFFIC", size_of::<layout::Traffic>(), MAX_BACKENDS, false),
        ("REASONS_SEEN", size_of::<u64>(), layout::REASON_ELEMENTS, false),
    ]
}

/// What the pins in a directory were made for; none when there are none.
pub fn adoptable(directory: &Path) -> Result<Option<Meta>, Error> {
    let refuse = |reason: String| Error::Adopt { path: directory.to_path_buf(), reason };
    let path = directory.join("META");
    if !path.try_exists().map_err(|error| refuse(error.to_string()))? {
        return Ok(None);
    }
    check(directory, "META", size_of::<Meta>(), 1, true)?;
    let data = MapData::from_pin(&path).map_err(|error| refuse(error.to_string()))?;
    let meta =
        Elements::<Meta>::map(data.fd().as_fd(), 1).map_err(|error| refuse(error.to_string()))?.read(0);
    if meta.layout != LAYOUT {
        return Err(refuse(format!("they have layout {:#x}, this version has {LAYOUT:#x}", meta.layout)));
    }
    if !meta.flow_sets.is_power_of_two() || meta.hz == 0 {
        return Err(refuse("META says nothing sensible".into()));
    }
    for (name, size, count, mapped) in shapes(&meta) {
        check(directory, name, size, count, mapped)?;
    }
    Ok(Some(meta))
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

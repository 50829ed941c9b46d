//! The driver's events.

use std::{collections::HashMap, time::Duration};

use nvml_wrapper::{Device, EventSet, bitmasks::event::EventTypes, enums::event::XidError, error::NvmlError};

use super::Library;
use crate::gpu::driver::{DriverError, Event, Events};

/// Changes of clocks and of the performance state, which throttling brings. `nvml.h` has the first for Kepler alone: of
/// a GPU that tells neither, clocks are known once a second.
const CLOCKS: EventTypes = EventTypes::CLOCK_CHANGE.union(EventTypes::PSTATE_CHANGE);

/// The [`Events`] of all GPUs.
#[derive(Debug)]
pub struct GpuEvents<'a> {
    set: EventSet<'a>,
    library: &'a Library,
    /// UUIDs by handle: a GPU that is lost no longer tells its own.
    uuids: HashMap<usize, String>,
}

impl<'a> GpuEvents<'a> {
    pub(super) fn of(library: &'a Library) -> Result<Self, DriverError> {
        let wanted = EventTypes::CRITICAL_XID_ERROR
            | EventTypes::DOUBLE_BIT_ECC_ERROR
            | EventTypes::MIG_CONFIG_CHANGE
            | CLOCKS;
        let mut uuids = HashMap::new();
        let mut refused: Vec<u32> = Vec::new();
        // A set is freed when a GPU refuses to be part of it: then it is made again without that one.
        'anew: loop {
            let mut set = library.call(|| library.nvml.create_event_set())?;
            uuids.clear();
            for (index, device) in library.whole_gpus()? {
                let Ok(device) = device else { continue };
                let supported = library.call(|| device.supported_event_types()).map(|types| types & wanted);
                let Ok(types) = supported else { continue };
                if types.is_empty() || refused.contains(&index) {
                    continue;
                }
                if let Ok(uuid) = library.call(|| device.uuid()) {
                    uuids.insert(handle(&device), uuid);
                }
                set = match library.cost.of(|| device.register_events(types, set)) {
                    Ok(set) => set,
                    Err(_) => {
                        refused.push(index);
                        continue 'anew;
                    }
                };
            }
            if uuids.is_empty() {
                return Err(DriverError::Unsupported);
            }
            return Ok(Self { set, library, uuids });
        }
    }
}

/// A device by which it is found again.
fn handle(device: &Device<'_>) -> usize {
    // SAFETY: the handle is not used as one.
    unsafe { device.handle() }.addr()
}

impl Events for GpuEvents<'_> {
    fn next(&mut self, patience: Duration) -> Result<Option<Event>, DriverError> {
        let patience = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX);
        // Waiting is no load on the driver and no cost.
        let data = match self.set.wait(patience) {
            Ok(data) => data,
            Err(NvmlError::Timeout) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if data.event_type.contains(EventTypes::MIG_CONFIG_CHANGE) {
            return Ok(Some(Event::Divided));
        }
        let uuid = match self.uuids.get(&handle(&data.device)) {
            Some(uuid) => uuid.clone(),
            None => self.library.call(|| data.device.uuid())?,
        };
        if data.event_type.intersects(CLOCKS) {
            return Ok(Some(Event::Clocks { uuid }));
        }
        Ok(match data.event_data {
            Some(XidError::Value(number)) => {
                u32::try_from(number).ok().map(|number| Event::Xid { uuid, number })
            }
            Some(XidError::Unknown) => None,
            None => data.event_type.contains(EventTypes::DOUBLE_BIT_ECC_ERROR).then_some(Event::Ecc { uuid }),
        })
    }
}

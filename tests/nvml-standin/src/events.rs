//! Events: whatever a GPU's list in the script has more than when the set was made.

use std::{
    collections::HashMap,
    ffi::{c_uint, c_ulonglong},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlEventData_t, nvmlEventMigConfigChange as DIVIDED, nvmlEventSet_t,
    nvmlEventTypeClock as CLOCK, nvmlEventTypeDoubleBitEccError as ECC, nvmlEventTypeXidCriticalError as XID,
    nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST as LOST, nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT as INVALID,
    nvmlReturn_enum_NVML_ERROR_TIMEOUT as TIMEOUT, nvmlReturn_t,
};

use crate::{
    script::{Event, Script},
    world::{Failure, Place, code, device, enter, put, whole},
};

/// How often the script is looked at: an event is told within this time.
const GLANCE: Duration = Duration::from_millis(1);

/// By GPU, how many of its events have been told.
type Set = Mutex<HashMap<usize, usize>>;

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlEventSetCreate(set: *mut nvmlEventSet_t) -> nvmlReturn_t {
    code(enter("nvmlEventSetCreate").and_then(|_| {
        let empty: Box<Set> = Box::default();
        // SAFETY: the caller gives a handle to write to.
        unsafe { put(set, Box::into_raw(empty).cast()) }
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlEventSetFree(set: nvmlEventSet_t) -> nvmlReturn_t {
    if !set.is_null() {
        // SAFETY: it was made by `nvmlEventSetCreate`, and its owner gives it up.
        drop(unsafe { Box::from_raw(set.cast::<Set>()) });
    }
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetSupportedEventTypes(
    handle: nvmlDevice_t,
    types: *mut c_ulonglong,
) -> nvmlReturn_t {
    code(whole("nvmlDeviceGetSupportedEventTypes", handle).and_then(|_| {
        // SAFETY: the caller gives a number to write to.
        unsafe { put(types, (XID | ECC | DIVIDED | CLOCK).into()) }
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceRegisterEvents(
    handle: nvmlDevice_t,
    _types: c_ulonglong,
    set: nvmlEventSet_t,
) -> nvmlReturn_t {
    code(device("nvmlDeviceRegisterEvents", handle).and_then(|(gpu, _, place)| {
        // SAFETY: the caller gives a set of its own.
        let set = unsafe { set.cast::<Set>().as_ref() }.ok_or(INVALID)?;
        set.lock().unwrap_or_else(PoisonError::into_inner).insert(place.gpu, gpu.events.len());
        Ok(())
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlEventSetWait_v2(
    set: nvmlEventSet_t,
    data: *mut nvmlEventData_t,
    timeout_ms: c_uint,
) -> nvmlReturn_t {
    let until = Instant::now() + Duration::from_millis(timeout_ms.into());
    // SAFETY: the caller gives a set of its own.
    let Some(set) = (unsafe { set.cast::<Set>().as_ref() }) else { return INVALID };
    loop {
        let mut told = set.lock().unwrap_or_else(PoisonError::into_inner);
        match enter("nvmlEventSetWait_v2").and_then(|script| next(&script, &mut told)) {
            Ok(Some((gpu, event))) => {
                // SAFETY: the caller gives a struct to write to.
                return code(unsafe { put(data, event_data(gpu, event)) });
            }
            Ok(None) => {}
            Err(failure) => return failure,
        }
        drop(told);
        if Instant::now() >= until {
            return TIMEOUT;
        }
        std::thread::sleep(GLANCE);
    }
}

/// The next event that was not told, before the news that a GPU is lost.
fn next(script: &Script, told: &mut HashMap<usize, usize>) -> Result<Option<(usize, Event)>, Failure> {
    for (&number, told) in told.iter_mut() {
        let Some(gpu) = script.gpus.get(number) else { continue };
        if let Some(event) = gpu.events.get(*told) {
            *told += 1;
            return Ok(Some((number, *event)));
        }
    }
    let lost = told.keys().any(|number| script.gpus.get(*number).is_some_and(|gpu| gpu.lost));
    if lost { Err(LOST) } else { Ok(None) }
}

fn event_data(gpu: usize, event: Event) -> nvmlEventData_t {
    let (kind, number) = match event {
        Event::Xid(number) => (XID, number),
        Event::Ecc => (ECC, 0),
        Event::Divided => (DIVIDED, 0),
        Event::Clocks => (CLOCK, 0),
    };
    nvmlEventData_t {
        device: Place { gpu, instance: None }.handle(),
        eventType: kind.into(),
        eventData: number,
        gpuInstanceId: u32::MAX,
        computeInstanceId: u32::MAX,
    }
}

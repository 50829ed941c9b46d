//! Starting, listing, and everything that is asked of a device but its performance monitor.

use std::ffi::{c_char, c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings::{
    nvmlClockType_enum_NVML_CLOCK_MEM as CLOCK_MEMORY, nvmlClockType_t, nvmlDevice_t, nvmlEccCounterType_t,
    nvmlMemory_v2_t, nvmlMemoryErrorType_t, nvmlProcessInfo_t, nvmlProcessUtilizationSample_t,
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT as INVALID,
    nvmlReturn_enum_NVML_ERROR_NOT_FOUND as NOT_FOUND,
    nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED as UNSUPPORTED, nvmlReturn_t, nvmlSample_t, nvmlSamplingType_t,
    nvmlTemperatureSensors_t, nvmlUtilization_t, nvmlValue_t,
    nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_INT as UNSIGNED, nvmlValueType_t,
};

use crate::{
    script::Process,
    world::{self, Place, code, device, enter, put, put_list, put_text, whole},
};

/// What the driver gives for an instance that there is none of.
const NO_INSTANCE: c_uint = u32::MAX;

/// Clock of the memory, in MHz: the script has nothing to say about it.
const MEMORY_CLOCK: c_uint = 2619;

/// Watts that a GPU may draw, times a thousand.
const POWER_LIMIT: c_uint = 700_000;

/// The driver samples utilization this often, in microseconds.
const SAMPLE_US: u64 = 100_000;

/// Samples that it keeps.
const SAMPLES: u64 = 20;

#[unsafe(no_mangle)]
extern "C" fn nvmlInit_v2() -> nvmlReturn_t {
    let result = world::script().init;
    world::set_started(result == 0);
    result
}

#[unsafe(no_mangle)]
extern "C" fn nvmlShutdown() -> nvmlReturn_t {
    world::set_started(false);
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlSystemGetDriverVersion(version: *mut c_char, length: c_uint) -> nvmlReturn_t {
    code(enter("nvmlSystemGetDriverVersion").and_then(|_| {
        // SAFETY: the caller gives `length` bytes.
        unsafe { put_text(version, length, "580.95.05") }
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlSystemGetNVMLVersion(version: *mut c_char, length: c_uint) -> nvmlReturn_t {
    code(enter("nvmlSystemGetNVMLVersion").and_then(|_| {
        // SAFETY: the caller gives `length` bytes.
        unsafe { put_text(version, length, "13.580.95.05") }
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> nvmlReturn_t {
    code(enter("nvmlDeviceGetCount_v2").and_then(|script| {
        // SAFETY: the caller gives a number to write to.
        unsafe { put(count, script.gpus.len() as c_uint) }
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, handle: *mut nvmlDevice_t) -> nvmlReturn_t {
    let place = Place { gpu: index as usize, instance: None };
    let found = device("nvmlDeviceGetHandleByIndex_v2", place.handle());
    code(found.and_then(|_| {
        // SAFETY: the caller gives a handle to write to.
        unsafe { put(handle, place.handle()) }
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetUUID(
    handle: nvmlDevice_t,
    uuid: *mut c_char,
    length: c_uint,
) -> nvmlReturn_t {
    code(device("nvmlDeviceGetUUID", handle).and_then(|(_, instance, place)| {
        let own = instance.map(|instance| instance.uuid);
        let text = own.or_else(|| world::script().uuid(place.gpu)).ok_or(INVALID)?;
        // SAFETY: the caller gives `length` bytes.
        unsafe { put_text(uuid, length, &text) }
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetName(
    handle: nvmlDevice_t,
    name: *mut c_char,
    length: c_uint,
) -> nvmlReturn_t {
    code(device("nvmlDeviceGetName", handle).and_then(|(_, instance, _)| {
        let text = if instance.is_some() { "Stand-in MIG 1g.10gb" } else { "Stand-in 80GB" };
        // SAFETY: the caller gives `length` bytes.
        unsafe { put_text(name, length, text) }
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetUtilizationRates(
    handle: nvmlDevice_t,
    rates: *mut nvmlUtilization_t,
) -> nvmlReturn_t {
    code(whole("nvmlDeviceGetUtilizationRates", handle).and_then(|gpu| {
        // SAFETY: the caller gives a struct to write to.
        unsafe { put(rates, nvmlUtilization_t { gpu: gpu.utilization, memory: 0 }) }
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetSamples(
    handle: nvmlDevice_t,
    _kind: nvmlSamplingType_t,
    last_seen: c_ulonglong,
    value_type: *mut nvmlValueType_t,
    count: *mut c_uint,
    samples: *mut nvmlSample_t,
) -> nvmlReturn_t {
    code(whole("nvmlDeviceGetSamples", handle).and_then(|gpu| {
        let newest = world::now_us() / SAMPLE_US;
        let times = (newest.saturating_sub(SAMPLES)..=newest).map(|number| number * SAMPLE_US);
        let list: Vec<nvmlSample_t> = times
            .filter(|time| *time > last_seen)
            .map(|time| nvmlSample_t { timeStamp: time, sampleValue: nvmlValue_t { uiVal: gpu.utilization } })
            .collect();
        if list.is_empty() {
            return Err(NOT_FOUND);
        }
        // SAFETY: the caller gives a number to write to.
        unsafe { put(value_type, UNSIGNED) }?;
        // SAFETY: the caller gives a count, and no place or as many as it says.
        unsafe { put_list(count, samples, &list) }
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetCurrentClocksThrottleReasons(
    handle: nvmlDevice_t,
    reasons: *mut c_ulonglong,
) -> nvmlReturn_t {
    code(whole("nvmlDeviceGetCurrentClocksThrottleReasons", handle).and_then(|gpu| {
        // SAFETY: the caller gives a number to write to.
        unsafe { put(reasons, gpu.reasons) }
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetClockInfo(
    handle: nvmlDevice_t,
    kind: nvmlClockType_t,
    clock: *mut c_uint,
) -> nvmlReturn_t {
    code(whole("nvmlDeviceGetClockInfo", handle).and_then(|gpu| {
        // SAFETY: the caller gives a number to write to.
        unsafe { put(clock, if kind == CLOCK_MEMORY { MEMORY_CLOCK } else { gpu.clock }) }
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMaxClockInfo(
    handle: nvmlDevice_t,
    kind: nvmlClockType_t,
    clock: *mut c_uint,
) -> nvmlReturn_t {
    code(whole("nvmlDeviceGetMaxClockInfo", handle).and_then(|gpu| {
        // SAFETY: the caller gives a number to write to.
        unsafe { put(clock, if kind == CLOCK_MEMORY { MEMORY_CLOCK } else { gpu.max_clock }) }
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetProcessUtilization(
    handle: nvmlDevice_t,
    samples: *mut nvmlProcessUtilizationSample_t,
    count: *mut c_uint,
    _last_seen: c_ulonglong,
) -> nvmlReturn_t {
    code(whole("nvmlDeviceGetProcessUtilization", handle).and_then(|gpu| {
        let sample = |process: &Process| nvmlProcessUtilizationSample_t {
            pid: process.pid,
            timeStamp: world::now_us(),
            smUtil: process.time,
            memUtil: 0,
            encUtil: 0,
            decUtil: 0,
        };
        let list: Vec<_> = gpu.processes.iter().filter(|process| process.time > 0).map(sample).collect();
        if list.is_empty() {
            return Err(NOT_FOUND);
        }
        // SAFETY: the caller gives a count, and no place or as many as it says.
        unsafe { put_list(count, samples, &list) }
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetTotalEccErrors(
    handle: nvmlDevice_t,
    _kind: nvmlMemoryErrorType_t,
    _counter: nvmlEccCounterType_t,
    errors: *mut c_ulonglong,
) -> nvmlReturn_t {
    code(whole("nvmlDeviceGetTotalEccErrors", handle).and_then(|gpu| {
        // SAFETY: the caller gives a number to write to.
        unsafe { put(errors, gpu.ecc) }
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(
    handle: nvmlDevice_t,
    memory: *mut nvmlMemory_v2_t,
) -> nvmlReturn_t {
    const MEGABYTE: u64 = 1 << 20;
    /// `NVML_STRUCT_VERSION(Memory, 2)`.
    const VERSION: u32 = size_of::<nvmlMemory_v2_t>() as u32 | 2 << 24;
    code(device("nvmlDeviceGetMemoryInfo_v2", handle).and_then(|(gpu, instance, _)| {
        let own =
            instance.map_or((gpu.memory_used, gpu.memory_total), |own| (own.memory_used, own.memory_total));
        let (used, total) = (own.0 * MEGABYTE, own.1 * MEGABYTE);
        let filled = nvmlMemory_v2_t { version: VERSION, total, reserved: 0, free: total - used, used };
        // SAFETY: the caller gives a struct to write to.
        unsafe { put(memory, filled) }
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetPowerUsage(handle: nvmlDevice_t, power: *mut c_uint) -> nvmlReturn_t {
    code(whole("nvmlDeviceGetPowerUsage", handle).and_then(|gpu| {
        // SAFETY: the caller gives a number to write to.
        unsafe { put(power, gpu.power) }
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetEnforcedPowerLimit(
    handle: nvmlDevice_t,
    limit: *mut c_uint,
) -> nvmlReturn_t {
    code(whole("nvmlDeviceGetEnforcedPowerLimit", handle).and_then(|_| {
        // SAFETY: the caller gives a number to write to.
        unsafe { put(limit, POWER_LIMIT) }
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetTemperature(
    handle: nvmlDevice_t,
    _sensor: nvmlTemperatureSensors_t,
    degrees: *mut c_uint,
) -> nvmlReturn_t {
    code(whole("nvmlDeviceGetTemperature", handle).and_then(|gpu| {
        // SAFETY: the caller gives a number to write to.
        unsafe { put(degrees, gpu.temperature) }
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    handle: nvmlDevice_t,
    count: *mut c_uint,
    processes: *mut nvmlProcessInfo_t,
) -> nvmlReturn_t {
    code(device("nvmlDeviceGetComputeRunningProcesses_v3", handle).and_then(|(gpu, instance, _)| {
        let list: Vec<nvmlProcessInfo_t> = match &instance {
            Some(own) => own.processes.iter().map(|process| running(process, own.gpu_instance)).collect(),
            None => {
                let divided = gpu.instances.iter().flat_map(|instance| {
                    instance.processes.iter().map(|process| running(process, instance.gpu_instance))
                });
                gpu.processes.iter().map(|process| running(process, NO_INSTANCE)).chain(divided).collect()
            }
        };
        // SAFETY: the caller gives a count, and no place or as many as it says.
        unsafe { put_list(count, processes, &list) }
    }))
}

fn running(process: &Process, instance: c_uint) -> nvmlProcessInfo_t {
    nvmlProcessInfo_t {
        pid: process.pid,
        usedGpuMemory: 1 << 30,
        gpuInstanceId: instance,
        computeInstanceId: if instance == NO_INSTANCE { NO_INSTANCE } else { 0 },
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMigMode(
    handle: nvmlDevice_t,
    current: *mut c_uint,
    pending: *mut c_uint,
) -> nvmlReturn_t {
    code(whole("nvmlDeviceGetMigMode", handle).and_then(|gpu| {
        let mode = u32::from(!gpu.instances.is_empty());
        // SAFETY: the caller gives a number to write to.
        unsafe { put(current, mode) }?;
        // SAFETY: as above.
        unsafe { put(pending, mode) }
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMaxMigDeviceCount(
    handle: nvmlDevice_t,
    count: *mut c_uint,
) -> nvmlReturn_t {
    /// As on the products that can be divided.
    const MOST: c_uint = 7;
    code(whole("nvmlDeviceGetMaxMigDeviceCount", handle).and_then(|_| {
        // SAFETY: the caller gives a number to write to.
        unsafe { put(count, MOST) }
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMigDeviceHandleByIndex(
    handle: nvmlDevice_t,
    index: c_uint,
    found: *mut nvmlDevice_t,
) -> nvmlReturn_t {
    code(device("nvmlDeviceGetMigDeviceHandleByIndex", handle).and_then(|(gpu, _, place)| {
        let number = index as usize;
        gpu.instances.get(number).ok_or(NOT_FOUND)?;
        // SAFETY: the caller gives a handle to write to.
        unsafe { put(found, Place { instance: Some(number), ..place }.handle()) }
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetDeviceHandleFromMigDeviceHandle(
    handle: nvmlDevice_t,
    parent: *mut nvmlDevice_t,
) -> nvmlReturn_t {
    code(device("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", handle).and_then(|(_, instance, place)| {
        instance.ok_or(UNSUPPORTED)?;
        // SAFETY: the caller gives a handle to write to.
        unsafe { put(parent, Place { instance: None, ..place }.handle()) }
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetGpuInstanceId(handle: nvmlDevice_t, id: *mut c_uint) -> nvmlReturn_t {
    let found = device("nvmlDeviceGetGpuInstanceId", handle);
    code(found.and_then(|(_, instance, _)| {
        let own = instance.ok_or(UNSUPPORTED)?;
        // SAFETY: the caller gives a number to write to.
        unsafe { put(id, own.gpu_instance) }
    }))
}

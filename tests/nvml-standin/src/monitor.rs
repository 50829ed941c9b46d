//! The performance monitor: what it shows between two samples.

use std::{
    ffi::c_uint,
    time::{Duration, Instant},
};

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlGpmMetricsGet_t, nvmlGpmSample_t, nvmlGpmSupport_t,
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT as INVALID,
    nvmlReturn_enum_NVML_ERROR_NOT_FOUND as NOT_FOUND,
    nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED as UNSUPPORTED, nvmlReturn_t,
};

use crate::world::{Failure, code, device, enter, put, whole};

/// Two samples that lie closer together show nothing.
const SPACING: Duration = Duration::from_millis(100);

/// What is behind a sample: when it was taken, and what the monitor showed.
type Sample = Option<(Instant, u32)>;

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlGpmQueryDeviceSupport(
    handle: nvmlDevice_t,
    support: *mut nvmlGpmSupport_t,
) -> nvmlReturn_t {
    code(device("nvmlGpmQueryDeviceSupport", handle).and_then(|(gpu, instance, _)| {
        let has = gpu.gpm.or(instance.and_then(|own| own.gpm)).is_some();
        // SAFETY: the caller gives a struct to write to.
        unsafe { put(support, nvmlGpmSupport_t { version: 1, isSupportedDevice: has.into() }) }
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlGpmSampleAlloc(sample: *mut nvmlGpmSample_t) -> nvmlReturn_t {
    code(enter("nvmlGpmSampleAlloc").and_then(|_| {
        let empty: Box<Sample> = Box::default();
        // SAFETY: the caller gives a handle to write to.
        unsafe { put(sample, Box::into_raw(empty).cast()) }
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlGpmSampleFree(sample: nvmlGpmSample_t) -> nvmlReturn_t {
    if !sample.is_null() {
        // SAFETY: it was made by `nvmlGpmSampleAlloc`, and its owner gives it up.
        drop(unsafe { Box::from_raw(sample.cast::<Sample>()) });
    }
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlGpmSampleGet(handle: nvmlDevice_t, sample: nvmlGpmSample_t) -> nvmlReturn_t {
    code(whole("nvmlGpmSampleGet", handle).and_then(|gpu| {
        // SAFETY: the caller gives a sample of its own.
        unsafe { fill(sample, gpu.gpm) }
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlGpmMigSampleGet(
    handle: nvmlDevice_t,
    gpu_instance: c_uint,
    sample: nvmlGpmSample_t,
) -> nvmlReturn_t {
    code(whole("nvmlGpmMigSampleGet", handle).and_then(|gpu| {
        let own = gpu.instances.iter().find(|own| own.gpu_instance == gpu_instance).ok_or(NOT_FOUND)?;
        // SAFETY: the caller gives a sample of its own.
        unsafe { fill(sample, own.gpm) }
    }))
}

/// Takes a sample.
///
/// # Safety
/// It is null or was made by `nvmlGpmSampleAlloc`, and nobody else uses it.
unsafe fn fill(sample: nvmlGpmSample_t, shown: Option<u32>) -> Result<(), Failure> {
    let shown = shown.ok_or(UNSUPPORTED)?;
    // SAFETY: the caller says so.
    unsafe { put(sample.cast::<Sample>(), Some((Instant::now(), shown))) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlGpmMetricsGet(request: *mut nvmlGpmMetricsGet_t) -> nvmlReturn_t {
    code(enter("nvmlGpmMetricsGet").and_then(|_| {
        // SAFETY: the caller gives a request of its own.
        let request = unsafe { request.as_mut() }.ok_or(INVALID)?;
        // SAFETY: the caller gives two samples of its own.
        let first = unsafe { request.sample1.cast::<Sample>().as_ref() };
        // SAFETY: as above.
        let second = unsafe { request.sample2.cast::<Sample>().as_ref() };
        let (Some(Some((before, _))), Some(Some((after, shown)))) = (first, second) else {
            return Err(INVALID);
        };
        if after.saturating_duration_since(*before) < SPACING {
            return Err(INVALID);
        }
        for metric in request.metrics.iter_mut().take(request.numMetrics as usize) {
            (metric.nvmlReturn, metric.value) = (0, f64::from(*shown));
        }
        Ok(())
    }))
}

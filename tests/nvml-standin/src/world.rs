//! The script as it is now, handles, and what every function does first.

use std::{
    env,
    ffi::{c_char, c_uint},
    fs,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST as LOST,
    nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE as TOO_SMALL,
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT as INVALID,
    nvmlReturn_enum_NVML_ERROR_NO_PERMISSION as DENIED, nvmlReturn_enum_NVML_ERROR_NOT_FOUND as NOT_FOUND,
    nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED as UNSUPPORTED,
    nvmlReturn_enum_NVML_ERROR_UNINITIALIZED as UNINITIALIZED, nvmlReturn_enum_NVML_SUCCESS as SUCCESS,
    nvmlReturn_t,
};

use crate::script::{BESIDE_EXTENSION, Gpu, Instance, Script, VARIABLE};

/// A failure, as the driver's number for it.
pub type Failure = nvmlReturn_t;

/// A GPU or instance, as handles name it: one more than index * `STRIDE` + number of the instance + 1.
const STRIDE: usize = 64;

/// What is behind a handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub gpu: usize,
    pub instance: Option<usize>,
}

impl Place {
    pub fn handle(self) -> nvmlDevice_t {
        std::ptr::without_provenance_mut(1 + self.gpu * STRIDE + self.instance.map_or(0, |number| number + 1))
    }

    pub fn of(handle: nvmlDevice_t) -> Result<Self, Failure> {
        let number = handle.addr().checked_sub(1).ok_or(INVALID)?;
        Ok(Self { gpu: number / STRIDE, instance: (number % STRIDE).checked_sub(1) })
    }
}

/// The script as it was last read.
#[derive(Debug, Default)]
struct Current {
    script: Script,
    /// What the file looked like: when it was written, its inode and size.
    stamp: Option<(i64, i64, u64, u64)>,
    started: bool,
}

static CURRENT: Mutex<Option<Current>> = Mutex::new(None);

fn current() -> MutexGuard<'static, Option<Current>> {
    CURRENT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where the script is.
fn path() -> Option<PathBuf> {
    static BESIDE: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| Some(own_path()?.with_extension(BESIDE_EXTENSION)));
    env::var_os(VARIABLE).map(PathBuf::from).or_else(|| BESIDE.clone())
}

/// Where this very library was loaded from.
fn own_path() -> Option<PathBuf> {
    let here = (own_path as fn() -> Option<PathBuf>) as usize;
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| {
        let ends = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
        let ends =
            ends.map(|(start, end)| [start, end].map(|end| usize::from_str_radix(end, 16).unwrap_or(0)));
        ends.is_some_and(|[start, end]| (start..end).contains(&here))
    })?;
    Some(PathBuf::from(&line[line.find('/')?..]))
}

/// The script as the file says now. What cannot be read is as it was.
pub fn script() -> Script {
    let mut guard = current();
    let current = guard.get_or_insert_default();
    if let Some(path) = path() {
        let stamp =
            fs::metadata(&path).ok().map(|data| (data.mtime(), data.mtime_nsec(), data.ino(), data.size()));
        if stamp != current.stamp
            && let Ok(script) = Script::read(&path)
        {
            (current.script, current.stamp) = (script, stamp);
        }
    }
    current.script.clone()
}

pub fn set_started(started: bool) {
    current().get_or_insert_default().started = started;
}

/// What every function but `nvmlInit` does first.
pub fn enter(function: &str) -> Result<Script, Failure> {
    let script = script();
    if script.delay_us > 0 {
        std::thread::sleep(Duration::from_micros(script.delay_us));
    }
    if !current().as_ref().is_some_and(|current| current.started) || script.init != SUCCESS {
        return Err(UNINITIALIZED);
    }
    let named = |list: &[String]| list.iter().any(|name| name == function);
    if named(&script.denied) {
        return Err(DENIED);
    }
    if named(&script.unsupported) {
        return Err(UNSUPPORTED);
    }
    Ok(script)
}

/// The same for functions of a device: the whole GPU, and the instance if it is one.
pub fn device(function: &str, handle: nvmlDevice_t) -> Result<(Gpu, Option<Instance>, Place), Failure> {
    let script = enter(function)?;
    let place = Place::of(handle)?;
    let gpu = script.gpus.get(place.gpu).cloned().ok_or(INVALID)?;
    if gpu.lost {
        return Err(LOST);
    }
    let instance = match place.instance {
        Some(number) => Some(gpu.instances.get(number).cloned().ok_or(NOT_FOUND)?),
        None => None,
    };
    Ok((gpu, instance, place))
}

/// The same for what a whole GPU has alone.
pub fn whole(function: &str, handle: nvmlDevice_t) -> Result<Gpu, Failure> {
    match device(function, handle)? {
        (gpu, None, _) => Ok(gpu),
        (_, Some(_), _) => Err(UNSUPPORTED),
    }
}

/// Success, or the number of the failure.
pub fn code(result: Result<(), Failure>) -> nvmlReturn_t {
    result.err().unwrap_or(SUCCESS)
}

/// Writes where the caller wants it.
///
/// # Safety
/// `place` is null or can be written.
pub unsafe fn put<T>(place: *mut T, value: T) -> Result<(), Failure> {
    if place.is_null() {
        return Err(INVALID);
    }
    // SAFETY: it is not null, and the caller says that it can be written.
    unsafe { place.write(value) };
    Ok(())
}

/// Writes a text with its closing zero.
///
/// # Safety
/// `place` is null or has `length` bytes.
pub unsafe fn put_text(place: *mut c_char, length: c_uint, text: &str) -> Result<(), Failure> {
    let bytes = text.bytes().chain([0]);
    if text.len() >= length as usize {
        return Err(TOO_SMALL);
    }
    for (at, byte) in bytes.enumerate() {
        // SAFETY: `at` is below `length`, and the caller says that so many bytes are there.
        let here = unsafe { place.add(at) };
        // SAFETY: as above.
        unsafe { put(here, byte.cast_signed()) }?;
    }
    Ok(())
}

/// Writes a list as the driver gives lists: without a place, or with too small a one, it says how long it is.
///
/// # Safety
/// `count` is null or can be read and written; `place` is null or has room for as many as `count` says.
pub unsafe fn put_list<T: Copy>(count: *mut c_uint, place: *mut T, list: &[T]) -> Result<(), Failure> {
    if count.is_null() {
        return Err(INVALID);
    }
    // SAFETY: it is not null, and the caller says that it can be read.
    let room = unsafe { count.read() } as usize;
    // SAFETY: as above.
    unsafe { put(count, list.len() as c_uint) }?;
    if list.is_empty() {
        return Ok(());
    }
    if place.is_null() || room < list.len() {
        return Err(TOO_SMALL);
    }
    for (at, item) in list.iter().enumerate() {
        // SAFETY: `at` is below `room`.
        let here = unsafe { place.add(at) };
        // SAFETY: as above.
        unsafe { put(here, *item) }?;
    }
    Ok(())
}

/// The driver's clock, in microseconds.
pub fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

//! The script: what the stand-in's GPUs are like. The library reads it, tests write it; both have this file.

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};

/// The environment variable that names the file.
pub const VARIABLE: &str = "GUIDEVANE_NVML_SCRIPT";

/// The extension of the file beside the library that is read where the environment names none.
pub const BESIDE_EXTENSION: &str = "toml";

/// A whole driver.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Script {
    /// What `nvmlInit_v2` returns: an `nvmlReturn_t`; 0 is success.
    pub init: u32,
    /// Every call takes this long.
    pub delay_us: u64,
    /// Functions that give these GPUs no answer.
    pub unsupported: Vec<String>,
    /// Functions that this user may not call.
    pub denied: Vec<String>,
    /// The GPUs, by index.
    pub gpus: Vec<Gpu>,
}

/// A GPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gpu {
    /// Without it one is made of the index.
    pub uuid: Option<String>,
    /// Off the bus: every call says so.
    pub lost: bool,
    /// Per cent.
    pub utilization: u32,
    /// Of the multiprocessors, in MHz.
    pub clock: u32,
    /// The highest.
    pub max_clock: u32,
    /// Bits of `nvmlClocksEventReasons`.
    pub reasons: u64,
    /// Megabytes.
    pub memory_used: u64,
    /// Megabytes.
    pub memory_total: u64,
    /// Milliwatts.
    pub power: u32,
    /// Degrees Celsius.
    pub temperature: u32,
    /// Uncorrected memory errors.
    pub ecc: u64,
    /// What runs on it.
    pub processes: Vec<Process>,
    /// What the performance monitor shows, in per cent; none where there is no monitor.
    pub gpm: Option<u32>,
    /// What has happened to it, in order; what is added is told as an event.
    pub events: Vec<Event>,
    /// Its instances, if it is divided.
    pub instances: Vec<Instance>,
}

/// A process on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Per cent of the GPU's time.
    pub time: u32,
}

/// Something that happens to a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// An error by its number.
    Xid(u64),
    /// A memory error that could not be corrected.
    Ecc,
    /// Instances have come or gone.
    Divided,
    /// Its clocks have changed.
    Clocks,
}

/// An instance of a GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    /// Its UUID.
    pub uuid: String,
    /// The number of its part of the GPU.
    pub gpu_instance: u32,
    /// Megabytes.
    pub memory_used: u64,
    /// Megabytes.
    pub memory_total: u64,
    /// What the performance monitor shows, in per cent.
    pub gpm: Option<u32>,
    /// What runs on it.
    pub processes: Vec<Process>,
}

/// An idle GPU at its full clock.
impl Default for Gpu {
    fn default() -> Self {
        Self {
            uuid: None,
            lost: false,
            utilization: 0,
            clock: 1980,
            max_clock: 1980,
            reasons: 0,
            memory_used: 1000,
            memory_total: 80_000,
            power: 70_000,
            temperature: 40,
            ecc: 0,
            processes: Vec::new(),
            gpm: None,
            events: Vec::new(),
            instances: Vec::new(),
        }
    }
}

impl Script {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read or is no script.
    pub fn read(path: &Path) -> io::Result<Self> {
        toml::from_str(&fs::read_to_string(path)?).map_err(io::Error::other)
    }

    /// The UUID of a GPU.
    pub fn uuid(&self, index: usize) -> Option<String> {
        let gpu = self.gpus.get(index)?;
        Some(gpu.uuid.clone().unwrap_or_else(|| format!("GPU-{index:08x}-0000-4000-8000-{index:012x}")))
    }
}

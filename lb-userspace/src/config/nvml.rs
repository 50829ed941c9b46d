//! From keys to meaning: `[nvml]` and the GPUs of backends.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;

use super::check::{duration, integer};
use super::error::Source;
use super::raw::{RawGpu, RawNvml};
use super::{ConfigError, GPU_INDEX, NVML_INTERVAL, Problem};

/// `[nvml]`: how the driver of NVIDIA GPUs on this host is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nvml {
    /// The driver's library: a path, or a name that the dynamic linker finds.
    pub library: PathBuf,
    /// Whether the GPUs of backends that name none are found by the process that listens on their port.
    pub discover: bool,
    /// Time from one reading of utilization to the next, 20 ms to 10 s; all else is read once a second.
    pub interval: Duration,
}

impl Nvml {
    /// What the driver's installers call its library.
    pub const LIBRARY: &str = "libnvidia-ml.so.1";
}

impl Default for Nvml {
    fn default() -> Self {
        Self { library: PathBuf::from(Self::LIBRARY), discover: false, interval: Duration::from_millis(100) }
    }
}

/// A GPU of this host, or an instance of one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum GpuId {
    /// By its number in the driver's order, as in `nvidia-smi -L`.
    Index(u32),
    /// By its UUID, beginning with `GPU-` or `MIG-`.
    Uuid(String),
}

impl fmt::Display for GpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(number) => write!(f, "GPU {number}"),
            Self::Uuid(uuid) => f.write_str(uuid),
        }
    }
}

pub(super) fn nvml(source: &Source<'_>, raw: RawNvml) -> Result<Nvml, ConfigError> {
    let default = Nvml::default();
    Ok(Nvml {
        library: raw.library.map_or(Ok(default.library), |path| library(source, path))?,
        discover: raw.discover.unwrap_or(default.discover),
        interval: raw
            .interval
            .map_or(Ok(default.interval), |value| duration(source, "interval", &value, NVML_INTERVAL))?,
    })
}

/// A plain name is looked up by the dynamic linker; a path must not depend on where the daemon was started.
fn library(source: &Source<'_>, path: Spanned<PathBuf>) -> Result<PathBuf, ConfigError> {
    let text = path.get_ref().display().to_string();
    if text.is_empty() || (text.contains('/') && !path.get_ref().is_absolute()) {
        return Err(source.invalid(&path, Problem::NvmlLibrary { path: text }));
    }
    Ok(path.into_inner())
}

/// The GPUs of a backend, none of them twice.
pub(super) fn gpus(
    source: &Source<'_>,
    raw: &[Spanned<RawGpu>],
    backend: &str,
) -> Result<Vec<GpuId>, ConfigError> {
    let mut gpus = Vec::with_capacity(raw.len());
    for value in raw {
        let gpu = match value.get_ref() {
            RawGpu::Index(number) => {
                let number = Spanned::new(value.span(), *number);
                GpuId::Index(integer(source, "index of a GPU", &number, GPU_INDEX)?)
            }
            RawGpu::Uuid(text) if is_uuid(text) => GpuId::Uuid(text.clone()),
            RawGpu::Uuid(text) => {
                return Err(source.invalid(value, Problem::GpuId { value: text.clone() }));
            }
        };
        if gpus.contains(&gpu) {
            return Err(source.invalid(value, Problem::SameGpu { name: backend.to_owned() }));
        }
        gpus.push(gpu);
    }
    Ok(gpus)
}

/// `GPU-` or `MIG-` and a UUID. Drivers before 470 wrote `MIG-GPU-<uuid>/<instance>/<instance>`, which is none.
fn is_uuid(text: &str) -> bool {
    const GROUPS: [usize; 5] = [8, 4, 4, 4, 12];
    let Some(uuid) = text.strip_prefix("GPU-").or_else(|| text.strip_prefix("MIG-")) else { return false };
    let groups: Vec<&str> = uuid.split('-').collect();
    let good = |(group, length): (&&str, usize)| {
        group.len() == length && group.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    groups.len() == GROUPS.len() && groups.iter().zip(GROUPS).all(good)
}

//! NVIDIA's own library as a [`Driver`](super::Driver). It is loaded at run time; hosts without it are none the worse.

mod events;
mod session;

use std::{path::Path, sync::Arc};

use nvml_wrapper::{Device, Nvml, error::NvmlError};

use super::driver::{Cost, DriverError};

pub use events::GpuEvents;
pub use session::{GPM_SPACING, Session};

/// A GPU, or why the driver does not give it.
type Found<'a> = Result<Device<'a>, DriverError>;

/// The loaded library.
#[derive(Debug)]
pub struct Library {
    nvml: Nvml,
    cost: Arc<Cost>,
}

impl Library {
    /// Loads and starts it; `cost` counts what calling it takes.
    ///
    /// # Errors
    ///
    /// When there is no such library, no driver, or no permission to use it.
    pub fn open(path: &Path, cost: Arc<Cost>) -> Result<Self, DriverError> {
        let nvml =
            cost.of(|| Nvml::builder().lib_path(path.as_os_str()).init()).map_err(|error| match error {
                NvmlError::LibloadingError(error) => DriverError::Gone(format!("no NVIDIA driver: {error}")),
                error => DriverError::from(error),
            })?;
        Ok(Self { nvml, cost })
    }

    /// The versions of the driver and of the library.
    pub fn versions(&self) -> (Option<String>, Option<String>) {
        (
            self.cost.of(|| self.nvml.sys_driver_version()).ok(),
            self.cost.of(|| self.nvml.sys_nvml_version()).ok(),
        )
    }

    /// The driver's side of one thread.
    pub fn session(&self) -> Session<'_> {
        Session::of(self)
    }

    /// The events of all its GPUs.
    ///
    /// # Errors
    ///
    /// When the driver has none.
    pub fn events(&self) -> Result<GpuEvents<'_>, DriverError> {
        GpuEvents::of(self)
    }

    fn call<T>(&self, call: impl FnOnce() -> Result<T, NvmlError>) -> Result<T, DriverError> {
        self.cost.of(call).map_err(DriverError::from)
    }

    fn whole_gpus(&self) -> Result<Vec<(u32, Found<'_>)>, DriverError> {
        let count = self.call(|| self.nvml.device_count())?;
        Ok((0..count).map(|index| (index, self.call(|| self.nvml.device_by_index(index)))).collect())
    }
}

impl From<NvmlError> for DriverError {
    fn from(error: NvmlError) -> Self {
        match error {
            NvmlError::NotSupported
            | NvmlError::FunctionNotFound
            | NvmlError::FailedToLoadSymbol(_)
            | NvmlError::VgpuEccNotSupported => Self::Unsupported,
            NvmlError::NoData | NvmlError::NotFound | NvmlError::Timeout => Self::NoData,
            NvmlError::NoPermission => Self::Denied,
            NvmlError::GpuLost | NvmlError::ResetRequired => Self::Lost,
            NvmlError::Uninitialized | NvmlError::DriverNotLoaded | NvmlError::LibRmVersionMismatch => {
                Self::Gone(error.to_string())
            }
            error => Self::Failed(error.to_string()),
        }
    }
}

//! What can be asked of a GPU driver.
//!
//! The only door to the driver: everything behind it may block on a lock, everything before it can be tested.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use serde::Serialize;

use super::readings::{Clocks, Gpm, Memory, Power, Process, ProcessTime};

/// A GPU, or an instance of one that is divided (MIG).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unit {
    /// The driver's name for it, unique in the world: `GPU-…` or `MIG-…`.
    pub uuid: String,
    /// The GPU's number on this host.
    pub index: u32,
    /// The product.
    pub name: String,
    /// What it is an instance of.
    pub instance: Option<Instance>,
}

/// An instance of a GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Instance {
    /// UUID of the whole GPU.
    pub parent: String,
    /// Its number within the GPU.
    pub number: u32,
    /// The driver's number of the part of the GPU that it has; `None` where the driver does not say.
    pub gpu_instance: Option<u32>,
}

/// GPUs and instances as the driver lists them.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Those that answer.
    pub units: Vec<Unit>,
    /// Numbers of GPUs that do not, and why.
    pub silent: Vec<(u32, DriverError)>,
}

/// Something to ask about a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// Part of the time in which any kernel ran.
    Utilization,
    /// Clocks, and what holds them down.
    Clocks,
    /// GPU time by process.
    ProcessTime,
    /// Memory errors that could not be corrected.
    Ecc,
    /// Memory in use.
    Memory,
    /// Power draw.
    Power,
    /// Temperature.
    Temperature,
    /// What the performance monitor counts (Hopper and later).
    Gpm,
    /// Processes that use it.
    Processes,
}

impl Question {
    /// All of them, those first that change what is steered.
    pub const ALL: [Self; 9] = [
        Self::Clocks,
        Self::ProcessTime,
        Self::Utilization,
        Self::Ecc,
        Self::Processes,
        Self::Memory,
        Self::Power,
        Self::Temperature,
        Self::Gpm,
    ];

    /// Whether an instance is asked itself. The rest belongs to the whole GPU: the driver has no utilization, clock
    /// or temperature of an instance.
    pub fn suits_instances(self) -> bool {
        matches!(self, Self::Memory | Self::Gpm | Self::Processes)
    }
}

/// The answer to the [`Question`] of the same name.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each variant is described by its question")]
pub enum Answer {
    /// 0 to 1.
    Utilization(f64),
    Clocks(Clocks),
    ProcessTime(Vec<ProcessTime>),
    /// Since the driver was loaded.
    Ecc(u64),
    Memory(Memory),
    Power(Power),
    /// Degrees Celsius.
    Temperature(u32),
    Gpm(Gpm),
    Processes(Vec<Process>),
}

/// Why the driver has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DriverError {
    /// It never has one for this GPU.
    #[error("not supported")]
    Unsupported,
    /// Not now; there may be one later.
    #[error("no data yet")]
    NoData,
    /// Not for this user.
    #[error("permission denied; run as a user who may read /dev/nvidia*")]
    Denied,
    /// The GPU has fallen off the bus, or hangs.
    #[error("the GPU is lost")]
    Lost,
    /// The driver itself is gone, or not there yet.
    #[error("{0}")]
    Gone(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// A driver with its GPUs. Calls may take milliseconds, and hang where a GPU does.
pub trait Driver {
    /// What there is.
    ///
    /// # Errors
    ///
    /// [`DriverError::Gone`], and what else keeps it from listing anything.
    fn list(&mut self) -> Result<Listing, DriverError>;

    /// Asks one thing of one unit by its UUID.
    ///
    /// # Errors
    ///
    /// Any [`DriverError`].
    fn ask(&mut self, uuid: &str, question: Question) -> Result<Answer, DriverError>;
}

/// What the driver says by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An error of a GPU by its number.
    Xid {
        /// The whole GPU.
        uuid: String,
        /// See NVIDIA's XID catalogue.
        number: u32,
    },
    /// A memory error of a GPU that could not be corrected.
    Ecc {
        /// The whole GPU.
        uuid: String,
    },
    /// Instances have come or gone.
    Divided,
    /// The clocks of a GPU are others now, and so may be what holds them down.
    Clocks {
        /// The whole GPU.
        uuid: String,
    },
}

/// The driver's events.
pub trait Events {
    /// Waits for the next event, or for `patience` to pass.
    ///
    /// # Errors
    ///
    /// [`DriverError::Lost`] says that some GPU is; the driver does not tell which.
    fn next(&mut self, patience: Duration) -> Result<Option<Event>, DriverError>;
}

/// What calling the driver has cost.
#[derive(Debug, Default)]
pub struct Cost {
    calls: AtomicU64,
    nanoseconds: AtomicU64,
    overruns: AtomicU64,
}

impl Cost {
    /// Makes a call and counts it.
    pub fn of<T>(&self, call: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let result = call();
        let nanoseconds = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
        result
    }

    /// Counts a pass that was cut short; true for the first.
    pub fn overrun(&self) -> bool {
        self.overruns.fetch_add(1, Ordering::Relaxed) == 0
    }

    /// Calls, the time in them, and passes cut short.
    pub fn so_far(&self) -> (u64, Duration, u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&self.calls), Duration::from_nanos(read(&self.nanoseconds)), read(&self.overruns))
    }
}

//! The NVIDIA GPUs of this host, read through the driver's library (NVML).
//!
//! | module | owns |
//! |---|---|
//! | [`driver`] | what can be asked of a driver, behind a small trait; [`nvml`] is the real one |
//! | [`readings`] | what is known of a GPU, each value with its time |
//! | [`fold`] | readings of some GPUs into one [`Hardware`](crate::signals::Hardware). Pure |
//! | [`known`] | one GPU and what is known of it |
//! | [`state`] | GPUs, backends, which belong together, and what was said already |
//! | [`owner`] | the process behind a backend's port |
//! | [`rounds`] | a pass over all questions within a budget of time |
//! | [`watcher`] | the threads |
//! | [`survey`] | everything at once, for people |
//!
//! NVML renews its values every 100 ms to 1 s and takes a lock that all users of the GPU share, so it is asked
//! little: utilization ten times a second, all else once, events as they come. A host without a driver is a normal
//! condition. Nothing here decides what a reading means for a cost.

pub mod driver;
mod fold;
mod known;
pub mod nvml;
mod owner;
pub mod readings;
mod rounds;
mod state;
pub mod survey;
mod watcher;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use crate::{
    config::GpuId,
    signals::{Board, Key},
};

pub use driver::{Cost, Driver, DriverError, Question, Unit};
pub use owner::Processes;
use watcher::Shared;

/// How the driver is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Its library: a path, or a name that the dynamic linker finds.
    pub library: PathBuf,
    /// Time from one reading of utilization to the next.
    pub interval: Duration,
}

/// A backend whose GPUs are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The backend.
    pub key: Key,
    /// Where its server may listen: its own address, and the VIP's where it holds that too. Port 0 is not looked for.
    pub addresses: Vec<SocketAddr>,
    /// Its GPUs; `None` has them found by its process.
    pub gpus: Option<Vec<GpuId>>,
}

/// What reading the driver has cost so far, and how it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    /// The driver's version, while it can be read.
    pub driver: Option<String>,
    /// Why it cannot be read.
    pub problem: Option<String>,
    /// Calls of the driver.
    pub calls: u64,
    /// Time in them.
    pub spent: Duration,
    /// Passes that ran out of their budget and went on later.
    pub overruns: u64,
}

/// The reading of the GPUs below a changing set of backends, into a [`Board`].
///
/// Dropped, it ends by itself within a second; a driver that hangs holds nobody up.
#[derive(Debug)]
pub struct Gpus(Arc<Shared>);

impl Gpus {
    /// Reads for nobody yet, and does not touch the driver before it does.
    pub fn new(options: Options, board: Arc<Board>) -> Self {
        Self(Arc::new(Shared::new(options, board, Processes::here())))
    }

    /// Replaces the set of backends.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub fn set_targets(&self, targets: Vec<Target>) -> std::io::Result<()> {
        let any = !targets.is_empty();
        self.0.set_targets(targets);
        if any { watcher::start(&self.0) } else { Ok(()) }
    }

    /// Forgets the faults of a backend's GPUs: an operator says that they are mended. One that is still lost is found
    /// so again.
    pub fn forgive(&self, key: &str) {
        self.0.forgive(key);
    }

    /// How the driver is, and what it has cost; `None` while nobody has wanted anything of it.
    pub fn standing(&self) -> Option<Standing> {
        self.0.standing()
    }
}

impl Drop for Gpus {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
        self.0.wake();
    }
}

//! The data plane: the only module that knows aya and mapped memory.
//!
//! | module | owns |
//! |---|---|
//! | [`loader`] | loading the object, or adopting what is pinned |
//! | [`build`] | the builds of the object |
//! | [`attach`] | the program on interfaces |
//! | [`steering`] | tables and indexes; `rows` what VIPs' rows say; `backends` the ids and rows of backends |
//! | [`sweep`] | ageing and recounting the flow table |
//! | [`clock`] | the kernel's tick |
//! | [`counters`] | what is read out |
//! | [`events`] | what is reported of single flows |
//! | [`pool`], [`flows`], [`foresight`] | reading as the kernel does: a pick's candidates, flows, what is next |
//!
//! It carries out what it is told and reads what there is; it must never decide what a backend costs.

mod adoption;
mod arena;
pub mod attach;
mod backends;
pub mod build;
pub mod clock;
pub mod counters;
pub mod error;
pub mod events;
pub mod flows;
pub mod foresight;
mod grace;
mod index;
pub mod loader;
pub mod mapping;
pub mod pool;
mod rows;
pub mod spec;
pub mod steering;
pub mod sweep;
mod table;
#[cfg(test)]
mod testing;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use lb_common::{
    layout::{NO_VIP, Traffic},
    reason::Reason,
};

use attach::{Attachment, Port};
pub use backends::static_cost;
use build::Build;
use clock::Clock;
pub use error::Error;
use events::{Events, Losses};
use loader::{Kernel, Maps, Options};
use steering::Steering;

/// The kernel side, loaded, with what it steers by.
pub struct Dataplane {
    /// What the kernel steers by.
    pub steering: Steering,
    kernel: Kernel,
    clock: Arc<Clock>,
    attached: Vec<(Port, Attachment)>,
    pin: Option<PathBuf>,
}

impl Dataplane {
    /// Loads the kernel object, or adopts what is pinned.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn open(options: &Options) -> Result<Self, Error> {
        let (kernel, clock) = Kernel::load(options)?;
        let steering = Steering::new(Arc::clone(&kernel.maps), options.nat_sources.clone())?;
        Ok(Self { steering, kernel, clock: Arc::new(clock), attached: Vec::new(), pin: options.pin.clone() })
    }

    /// Attaches the program to every port, and detaches an earlier daemon's from all others.
    ///
    /// # Errors
    ///
    /// For the first port that refuses.
    pub fn attach(&mut self, ports: &[Port]) -> Result<(), Error> {
        for port in ports {
            let attachment = attach::attach(self.kernel.program()?, port, self.pin.as_deref())?;
            self.attached.push((port.clone(), attachment));
        }
        match &self.pin {
            Some(directory) => attach::forget_others(directory, ports),
            None => Ok(()),
        }
    }

    /// The maps, for the threads that work in them.
    pub fn maps(&self) -> Arc<Maps> {
        Arc::clone(&self.kernel.maps)
    }

    /// The kernel's tick.
    pub fn clock(&self) -> Arc<Clock> {
        Arc::clone(&self.clock)
    }

    /// The kernel object and its programs.
    pub fn kernel(&mut self) -> &mut Kernel {
        &mut self.kernel
    }

    /// What steers and what runs, for whoever uses both at once.
    pub fn split(&mut self) -> (&mut Steering, &Kernel) {
        (&mut self.steering, &self.kernel)
    }

    /// Whether the maps were there before this daemon.
    pub fn adopted(&self) -> bool {
        self.kernel.adopted
    }

    /// Which build of the object the kernel took.
    pub fn build(&self) -> Build {
        self.kernel.build
    }

    /// SHA-256 of the loaded object, in hexadecimal.
    pub fn object_sha256(&self) -> &str {
        &self.kernel.sha256
    }

    /// Whether program and maps outlive the daemon.
    pub fn is_pinned(&self) -> bool {
        self.pin.is_some()
    }

    /// Keeps the reckoned tick close to the kernel's.
    ///
    /// # Errors
    ///
    /// When the `clock` program cannot be run.
    pub fn anchor_clock(&self) -> Result<(), Error> {
        self.clock.anchor(|| self.kernel.sample())
    }

    /// Packets of a VIP, by its id, or of [`NO_VIP`], by what became of them.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn reasons_of(&self, vip: u16) -> Result<BTreeMap<Reason, u64>, Error> {
        counters::reasons(&self.kernel.ebpf, vip)
    }

    /// Packets of all VIPs there are and of none, by what became of them.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn reasons(&self) -> Result<BTreeMap<Reason, u64>, Error> {
        let mut sum = self.reasons_of(NO_VIP)?;
        for vip in self.steering.vip_ids() {
            for (reason, count) in self.reasons_of(vip)? {
                *sum.entry(reason).or_default() += count;
            }
        }
        Ok(sum)
    }

    /// What was forwarded to a backend.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn traffic(&self, backend: u16) -> Result<Traffic, Error> {
        counters::traffic(&self.kernel.ebpf, backend)
    }

    /// The events of sampled flows, once.
    ///
    /// # Errors
    ///
    /// When the object has none, or they are taken already.
    pub fn take_events(&mut self) -> Result<(Events, Losses), Error> {
        events::take(&mut self.kernel.ebpf)
    }

    /// Removes every pin of a daemon that failed to start, so that it leaves nothing behind.
    ///
    /// # Errors
    ///
    /// When the directory cannot be removed.
    pub fn unpin(&mut self) -> Result<(), Error> {
        self.attached.clear();
        let Some(directory) = &self.pin else { return Ok(()) };
        attach::forget_others(directory, &[])?;
        loader::remove_pins(directory, &self.kernel.meta)
    }
}

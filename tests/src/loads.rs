//! What a running daemon and its kernel side say of backends, read where packets read it: from the pinned map.
//!
//! A status over the admin socket would take a lock that what is measured may need.

use std::{io, os::fd::AsFd as _, path::Path};

use aya::maps::MapData;
use guidevane::dataplane::mapping::Elements;
use lb_common::{
    layout::Load,
    pick::{COST_ONE, Steer},
    slot::MAX_BACKENDS,
};

/// The map `LOADS` of a daemon that pins its maps.
pub struct Loads(Elements<Load>);

impl Loads {
    /// Maps what is pinned in a folder.
    ///
    /// # Errors
    /// Nothing is pinned there.
    pub fn pinned(folder: &Path) -> io::Result<Self> {
        let map = MapData::from_pin(folder.join("LOADS")).map_err(io::Error::other)?;
        Ok(Self(Elements::map(map.fd().as_fd(), MAX_BACKENDS)?))
    }

    /// A backend by its id: the first daemon on fresh maps gives ids in the order of the configuration.
    pub fn read(&self, id: u16) -> Load {
        self.0.read(id.into())
    }

    /// A backend's cost, 1 when nominal.
    pub fn cost(&self, id: u16) -> f64 {
        f64::from(Steer::from_word(self.read(id).steer).cost) / f64::from(COST_ONE)
    }
}

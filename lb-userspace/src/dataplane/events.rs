//! Events of sampled flows, out of the kernel's ring buffer.
//!
//! Neither the ring buffer nor the count of what it had no room for is pinned: a daemon reads the events of
//! the program it loaded, and of no other.

use std::{
    mem::offset_of,
    os::fd::{AsRawFd, RawFd},
    sync::atomic::Ordering,
};

use aya::{
    Ebpf,
    maps::{MapData, PerCpuArray, RingBuf},
};
use lb_common::{event::Event, layout::Control};

use super::{error::Error, loader::Maps};

const RING: &str = "EVENTS";
const LOST: &str = "EVENTS_LOST";

/// The events themselves, for one reader.
pub struct Events(RingBuf<MapData>);

/// How many there was no room for.
pub struct Losses(PerCpuArray<MapData, u64>);

/// Takes the events out of a loaded object; it has them once.
pub(super) fn take(ebpf: &mut Ebpf) -> Result<(Events, Losses), Error> {
    let mut take = |name| ebpf.take_map(name).ok_or(Error::Missing(name));
    let ring = of(RING, RingBuf::try_from(take(RING)?))?;
    let lost = of(LOST, PerCpuArray::try_from(take(LOST)?))?;
    Ok((Events(ring), Losses(lost)))
}

fn of<T>(name: &'static str, result: Result<T, aya::maps::MapError>) -> Result<T, Error> {
    result.map_err(|source| Error::MapInfo { name, source })
}

/// Has one in `every` new flows reported, or none for 0.
pub fn set_sample(maps: &Maps, every: u32) {
    maps.control.half(0, offset_of!(Control, sample)).store(every, Ordering::Relaxed);
}

/// One in how many new flows is reported; 0 for none.
pub fn sample(maps: &Maps) -> u32 {
    maps.control.half(0, offset_of!(Control, sample)).load(Ordering::Relaxed)
}

impl Events {
    /// The next event, if there is one; the descriptor becomes readable when there is again.
    pub fn pop(&mut self) -> Option<Event> {
        loop {
            let record = self.0.next()?;
            match Event::from_bytes(&record) {
                Some(event) => return Some(event),
                None => {
                    tracing::warn!(
                        "the kernel reported an event that makes no sense: {} bytes",
                        record.len()
                    );
                }
            }
        }
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Losses {
    /// Events that there was no room for, on all CPUs, since the program was loaded.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn total(&self) -> Result<u64, Error> {
        Ok(of(LOST, self.0.get(&0, 0))?.iter().sum())
    }
}

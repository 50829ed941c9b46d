//! What can go wrong between the daemon and the kernel, with the object that failed named.

use std::{io, path::PathBuf};

/// An error of the data plane.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel object does not load.
    #[error("load the kernel object: {0}")]
    Load(#[from] aya::EbpfError),
    /// A program of the object does not load.
    #[error(
        "load program {name}: {source} (needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, and Linux 5.10 or later)"
    )]
    Program {
        /// The program.
        name: &'static str,
        /// Why.
        source: aya::programs::ProgramError,
    },
    /// The kernel takes neither build of the object.
    #[error(
        "the kernel takes no build of the kernel object; the modern one: {reason}; the legacy one: {legacy}"
    )]
    Refused {
        /// Why it refused the modern one.
        reason: String,
        /// What became of the legacy one.
        legacy: Box<Self>,
    },
    /// The object lacks what the daemon needs: it is not this version's.
    #[error("the kernel object has no {0}: rebuild it with `cargo xtask build-ebpf`")]
    Missing(&'static str),
    /// A map cannot be opened or mapped.
    #[error("map {name}: {source}")]
    Map {
        /// The map.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A map's descriptor or information cannot be had.
    #[error("map {name}: {source}")]
    MapInfo {
        /// The map.
        name: &'static str,
        /// Why.
        source: aya::maps::MapError,
    },
    /// The program cannot be attached.
    #[error("attach to {interface} in {mode} mode: {reason}")]
    Attach {
        /// The interface.
        interface: String,
        /// `native` or `generic`.
        mode: &'static str,
        /// What the kernel says, and the way out where one is known.
        reason: String,
    },
    /// Pinned state cannot be adopted.
    #[error("pinned state in {}: {reason}; stop what uses it and remove the directory, or choose another `pin`", path.display())]
    Adopt {
        /// The pin directory.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A pin cannot be made or removed.
    #[error("pin {}: {reason}; is a bpf file system mounted there?", path.display())]
    Pin {
        /// The pin.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The kernel's clock cannot be learned.
    #[error("learn the kernel's tick rate: {0}")]
    Clock(String),
    /// There is no id left for a VIP or backend.
    #[error("no free id for {what} {name}: ids of removed ones are reused once no flow holds them")]
    Exhausted {
        /// `VIP` or `backend`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The table arena has no room for a table.
    #[error("no room for the table of VIP {name}: the maps hold {lines} lines of {each} entries")]
    TableFull {
        /// The VIP.
        name: String,
        /// Lines in the arena.
        lines: u32,
        /// Entries a line.
        each: usize,
    },
    /// No seed was found under which an index holds every endpoint.
    #[error("no seed fits all {endpoints} endpoints in the {index}")]
    Index {
        /// Which index.
        index: &'static str,
        /// How many endpoints.
        endpoints: usize,
    },
    /// A system call failed.
    #[error("{call}: {source}")]
    System {
        /// The call.
        call: &'static str,
        /// Why.
        source: io::Error,
    },
}

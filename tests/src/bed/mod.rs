//! The test bed: network namespaces, veth topologies and a bpffs mount that exist for one test.
//!
//! Everything carries the name of the process that made it and goes when its owner is dropped, also while a
//! panic unwinds; what a killed process left is swept by the next one. Nothing here touches the machine's own
//! interfaces, routes or bpffs.

mod address;
mod background;
mod bpffs;
mod error;
mod namespace;
mod prefix;
mod tools;
mod topology;
pub mod xdp;

pub use address::Address;
pub use background::Background;
pub use bpffs::Bpffs;
pub use error::BedError;
pub use namespace::Namespace;
pub use prefix::{Prefix, sweep};
pub use topology::{Host, Interface, Topology};

//! A whole installation on one machine: simulated inference servers in the namespaces of a bed, and the real daemon
//! in front of them.
//!
//! It owns the servers' sockets and the daemon's process, and measures nothing. All of it ends when its owner is
//! dropped.

mod balancer;
mod error;
mod servers;

pub use balancer::{Balancer, Service, backend_name};
pub use error::FleetError;
pub use servers::Servers;

//! A load generator for OpenAI-compatible servers: closed loop, Poisson or a replayed trace, over real sockets.
//!
//! Traffic is a function of the seed alone ([`traffic`]), so that different balancers see the same requests;
//! [`client`] sends one request and watches its stream; [`stats`] turns what it saw into a [`Report`]. A failure is
//! always counted: nothing here may drop one.

pub mod client;
pub mod run;
pub mod stats;
mod stream;
pub mod tls;
pub mod traffic;

#[cfg(test)]
mod run_tests;

pub use client::{Connect, Direct};
pub use guidevane::sim::{lengths, trace};
pub use run::{LoadError, LoadOptions, run};
pub use stats::{Failure, Live, LiveSnapshot, Quantiles, Report};
pub use traffic::Traffic;

//! A simulated inference server: real sockets and a real HTTP API over a modelled GPU.
//!
//! [`engine`] decides in virtual time what a continuous-batching engine would do; [`driver`] runs it against the
//! clock; [`server`] speaks HTTP. Nothing here knows about the balancer.

pub mod driver;
pub mod exposition;
pub mod metrics;
mod openai;
pub mod script;
pub mod server;
pub mod tls;

pub use guidevane::sim::{engine, profile};

#[cfg(test)]
mod http_tests;

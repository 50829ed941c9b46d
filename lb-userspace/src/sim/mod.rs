//! Clusters of simulated inference servers in virtual time: engines, clients, the kernel's gauges, the governor
//! and the pick, in one thread.
//!
//! The pick is [`lb_common::pick`], the governor is the daemon's, the engines are those of the test bed's simulated
//! servers; modelled are the network, the clients and the states that the kernel gives to flows. Nothing here may
//! read a clock: the same scenario and seed give the same figures to the last digit.

mod cluster;
pub mod engine;
pub mod lengths;
mod oracle;
mod outcome;
mod policy;
mod prequal;
pub mod profile;
mod random;
pub mod replay;
mod report;
mod saturation;
mod scenario;
mod spectrum;
mod study;
mod svg;
pub mod trace;
pub(crate) mod view;
mod world;

pub use cluster::{Cluster, ClusterError, PreLoad};
pub use outcome::{Outcome, Times};
pub use policy::{Policy, UnknownPolicy};
pub use report::{PolicyReport, Report};
pub use saturation::requests_per_second;
pub use scenario::{Reports, Scenario, Server, Sizes, Traffic};
pub use study::{Study, StudyError};
pub use world::{run, run_watched};

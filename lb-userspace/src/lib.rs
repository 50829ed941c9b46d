//! Guidevane's user space: the daemon, the agent and the command line.

pub mod health;
pub mod net;
pub mod signals;

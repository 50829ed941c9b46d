//! GPUs, read through the real path of the wrapper from a stand-in for the driver's library.

mod agent;
mod command;
mod driver;
mod watch;

//! A stand-in for `libnvidia-ml.so`, the library of NVIDIA's driver: the C functions that `nvml-wrapper` calls, over
//! GPUs that a file describes (see [`script`]), read again whenever it changes: the one that the environment names, or
//! the one beside the library, so that tests of one process may have a copy each.
//!
//! It answers as `nvml.h` says the real one does, traps included: nothing where no sample is newer than the last one
//! seen, no utilization of an instance, at least 100 ms between two samples of the performance monitor.

mod events;
mod monitor;
mod questions;
mod script;
mod world;

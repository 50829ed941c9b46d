//! The data plane: the only module that knows aya and mapped memory.

mod arena;
pub mod attach;
mod backends;
pub mod clock;
pub mod counters;
pub mod error;
mod grace;
mod index;
pub mod loader;
pub mod mapping;
pub mod spec;
pub mod steering;
pub mod sweep;

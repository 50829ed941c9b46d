//! The test bed itself: what other tests take for granted about it.

mod forwarder;
mod lifetime;
mod network;

use std::time::Duration;

/// Where servers listen.
const PORT: u16 = 8000;
/// Far above what a busy machine needs; a connection that fails does so by this.
const PATIENCE: Duration = Duration::from_secs(10);

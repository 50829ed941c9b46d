//! What is known of the GPUs below a backend, whoever read it: the local driver or an agent on their host.
//!
//! Plain data with its age; what it means for a cost is decided in [`crate::governor`].

use std::{fmt, time::Instant};

/// One reading of all GPUs of a backend together; `None` where the driver does not say.
#[derive(Clone, Debug, PartialEq)]
pub struct Hardware {
    /// Part of its full clock at which the slowest GPU may run now, 0 to 1: throttling and power caps.
    pub speed: Option<f64>,
    /// Part of the busiest GPU's time that goes to processes other than the server's, 0 to 1.
    pub foreign: Option<f64>,
    /// Part of the time in which the busiest GPU did anything, 0 to 1.
    pub utilization: Option<f64>,
    /// Part of the memory in use on the fullest GPU, 0 to 1.
    pub memory: Option<f64>,
    /// Why no new flow may go there.
    pub fault: Option<Fault>,
    /// Before the first value was read.
    pub taken_start: Instant,
    /// After the last one was.
    pub taken_end: Instant,
}

/// A GPU that does not work any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The driver reported this error by number; see NVIDIA's XID catalogue.
    Xid(u32),
    /// Memory errors that could not be corrected.
    Ecc,
    /// The GPU is gone from the bus, or hangs.
    Lost,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Xid(number) => write!(f, "xid {number}"),
            Self::Ecc => f.write_str("uncorrectable memory errors"),
            Self::Lost => f.write_str("gpu lost"),
        }
    }
}

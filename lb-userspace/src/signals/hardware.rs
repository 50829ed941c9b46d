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

/// Errors after which a GPU gives wrong answers, none, or has to be reset: NVIDIA's XID catalogue
/// (<https://docs.nvidia.com/deploy/xid-errors/>). 48: double-bit memory error; 74: NVLink; 79: fallen off the bus;
/// 94 and 95: memory error, contained and not; 119 and 120: the GPU's system processor does not answer.
///
/// All others are of applications (13, 31, 43, 45, 68, 109 and many more) or mend themselves: NVIDIA's Kubernetes
/// device plugin takes no GPU out for them either.
const CRITICAL: [u32; 7] = [48, 74, 79, 94, 95, 119, 120];

impl Fault {
    /// What an error by its number means; most are no fault of the GPU.
    pub fn of_xid(number: u32) -> Option<Self> {
        CRITICAL.contains(&number).then_some(Self::Xid(number))
    }
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

#[cfg(test)]
mod tests {
    use super::Fault;

    #[test]
    fn errors_of_applications_are_no_faults_of_the_gpu() {
        for number in [48, 74, 79, 94, 95, 119, 120] {
            assert_eq!(Fault::of_xid(number), Some(Fault::Xid(number)));
        }
        for number in [0, 13, 31, 43, 45, 63, 68, 92, 109, 999] {
            assert_eq!(Fault::of_xid(number), None, "xid {number}");
        }
    }
}

//! Which of the driver's events say that a GPU must not be used.

use crate::signals::Fault;

/// Errors after which a GPU gives wrong answers, none, or has to be reset: NVIDIA's XID catalogue
/// (<https://docs.nvidia.com/deploy/xid-errors/>). 48: double-bit memory error; 74: NVLink; 79: fallen off the bus;
/// 94 and 95: memory error, contained and not; 119 and 120: the GPU's system processor does not answer.
///
/// All others are of applications (13, 31, 43, 45, 68, 109 and many more) or mend themselves: NVIDIA's Kubernetes
/// device plugin takes no GPU out for them either.
const CRITICAL: [u32; 7] = [48, 74, 79, 94, 95, 119, 120];

/// What an error by its number means.
pub fn of_xid(number: u32) -> Option<Fault> {
    CRITICAL.contains(&number).then_some(Fault::Xid(number))
}

#[cfg(test)]
mod tests {
    use super::of_xid;
    use crate::signals::Fault;

    #[test]
    fn errors_of_applications_are_no_faults_of_the_gpu() {
        for number in [48, 74, 79, 94, 95, 119, 120] {
            assert_eq!(of_xid(number), Some(Fault::Xid(number)));
        }
        for number in [0, 13, 31, 43, 45, 63, 68, 92, 109, 999] {
            assert_eq!(of_xid(number), None, "xid {number}");
        }
    }
}

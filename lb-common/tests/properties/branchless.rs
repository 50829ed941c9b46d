//! Comparisons without branches against those with.

use lb_common::branchless::{below, is_zero, select, smaller};
use proptest::prelude::{prop_assert_eq, proptest};

use crate::support::Plain;

/// The largest number that `below` and `smaller` take.
const LARGEST: u64 = u64::MAX >> 1;

fn check(a: u64, b: u64) {
    assert_eq!(is_zero::<Plain>(a), u64::from(a == 0), "is_zero({a})");
    assert_eq!(select(u64::MAX, a, b), a);
    assert_eq!(select(0, a, b), b);
    let (a, b) = (a & LARGEST, b & LARGEST);
    assert_eq!(below::<Plain>(a, b), if a < b { u64::MAX } else { 0 }, "below({a}, {b})");
    assert_eq!(smaller::<Plain>(a, b), a.min(b), "smaller({a}, {b})");
}

#[test]
fn comparisons_hold_at_every_edge() {
    let edges =
        [0, 1, 2, u64::from(u32::MAX), 1 << 32, LARGEST - 1, LARGEST, 1 << 63, u64::MAX - 1, u64::MAX];
    for a in edges {
        for b in edges {
            check(a, b);
        }
    }
}

proptest! {
    #[test]
    fn comparisons_hold_everywhere(a: u64, b: u64) {
        check(a, b);
        check(a, a);
        prop_assert_eq!(is_zero::<Plain>(a & b), u64::from(a & b == 0));
    }
}

//! Comparisons without branches against those with.

use lb_common::branchless::{below, mask, negative, positive, select, smaller, zero};
use proptest::prelude::{prop_assert_eq, proptest};

use crate::support::Plain;

/// The largest number that `below` and `smaller` take.
const LARGEST: u64 = u64::MAX >> 1;

fn check(a: u64, b: u64) {
    assert_eq!(zero::<Plain>(a), u64::from(a == 0), "zero({a})");
    assert_eq!(negative::<Plain>(a), u64::from((a as i64) < 0), "negative({a})");
    assert_eq!(positive::<Plain>(a), (a as i64).max(0) as u64, "positive({a})");
    assert_eq!(select(u64::MAX, a, b), a);
    assert_eq!(select(0, a, b), b);
    let (a, b) = (a & LARGEST, b & LARGEST);
    assert_eq!(below::<Plain>(a, b), u64::from(a < b), "below({a}, {b})");
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
        prop_assert_eq!(mask::<Plain>(zero::<Plain>(a & b)), if a & b == 0 { u64::MAX } else { 0 });
    }
}

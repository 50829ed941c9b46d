//! The reference's hash: unkeyed, of the lookup3 family (Bob Jenkins 2006, public domain), like the kernel's.

use crate::bench::layout::Tuple;

/// lookup3's start value for a key of three words.
const START: u32 = 0xdead_beef + 12;

/// Mixes three words; the last carries the whole.
#[inline(always)]
fn mix([mut a, mut b, mut c]: [u32; 3]) -> u32 {
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}

/// The hash of a flow: its client's address, then its ports.
#[inline(always)]
pub fn hash(tuple: &Tuple) -> u32 {
    let [a, b, c, d] = tuple.client.0;
    let ports = u32::from(tuple.ports[0]) | u32::from(tuple.ports[1]) << 16;
    let address = mix([START ^ a, START ^ b, START.wrapping_add(c) ^ d]);
    mix([START ^ address, START ^ ports, START])
}

//! Internet checksums that follow a rewrite without reading the packet again (RFC 1624, equation 3).
//!
//! Sums are kept unfolded in 32 bits and in memory order, so nothing is byte-swapped. A sum of up to
//! 65,535 halfwords fits, and folding is two additions.

use crate::address::Address;

/// Folds a ones' complement sum to 16 bits.
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The folded sum of an address's halfwords.
///
/// A v4-mapped address sums as its four IPv4 bytes: that is what a pseudo-header holds.
#[inline(always)]
pub const fn sum_address(address: &Address) -> u16 {
    if address.is_v4() {
        let word = address.0[3];
        return fold((word & 0xffff) + (word >> 16));
    }
    let mut sum = 0u32;
    let mut i = 0;
    while i < 4 {
        sum += (address.0[i] & 0xffff) + (address.0[i] >> 16);
        i += 1;
    }
    fold(sum)
}

/// The folded sum of an address and a port in network byte order: one end of a rewrite.
#[inline(always)]
pub const fn sum_endpoint(address: &Address, port_be: u16) -> u16 {
    fold(sum_address(address) as u32 + port_be as u32)
}

/// The checksum after halfwords summing to `old` were replaced by halfwords summing to `new`.
#[inline(always)]
pub const fn replace(checksum: u16, old: u16, new: u16) -> u16 {
    !fold((!checksum) as u32 + (!old) as u32 + new as u32)
}

/// The IPv4 header checksum after the TTL went down by one.
///
/// The TTL is the first byte of its halfword, so in memory order the halfword falls by one in its low
/// byte on little-endian machines (RFC 1141 section 2 on the wire order).
#[inline(always)]
pub const fn decrement_ttl(checksum: u16) -> u16 {
    replace(checksum, u16::from_ne_bytes([1, 0]), 0)
}

/// UDP sends a computed zero as all ones, since zero says "no checksum" (RFC 768).
#[inline(always)]
pub const fn udp(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

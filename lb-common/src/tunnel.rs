//! Tunnels: what goes around a packet.

/// Bytes of an IPv4 header without options.
pub const IPV4_BYTES: u32 = 20;
/// Bytes of an IPv6 header.
pub const IPV6_BYTES: u32 = 40;
/// Bytes of a UDP header, which is all that GUE's variant 1 adds.
pub const UDP_BYTES: u32 = 8;

/// Protocol number of IPv4 in IP (RFC 2003).
pub const IPV4_INSIDE: u8 = 4;
/// Protocol number of IPv6 in IP (RFC 2473, RFC 4213).
pub const IPV6_INSIDE: u8 = 41;

/// TTL or hop limit of the outer header (RFC 1700).
pub const OUTER_TTL: u8 = 64;

/// First of the source ports of GUE: the dynamic range (RFC 6335), of which the flow fills the low bits.
pub const FIRST_PORT: u16 = 0xc000;

/// Bytes that a tunnel adds to a packet.
#[inline(always)]
pub const fn overhead(outer_v4: bool, gue: bool) -> u32 {
    (if outer_v4 { IPV4_BYTES } else { IPV6_BYTES }) + if gue { UDP_BYTES } else { 0 }
}

/// Bits by which the outer headers of a flow differ from others', so that the receiver's queues all get their
/// part: those of the flow's hash that say nothing about its first set.
#[inline(always)]
pub const fn entropy(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// A source in the prefix that `base` starts, in memory order like the prefix's free bits `spread`.
#[inline(always)]
pub const fn outer_source(base: u32, spread: u32, entropy: u32) -> u32 {
    base | entropy & spread
}

/// The source port of GUE, host byte order.
#[inline(always)]
pub const fn source_port(entropy: u32) -> u16 {
    FIRST_PORT | (entropy >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::mix;

    #[test]
    fn flows_spread_over_the_whole_prefix_and_stay_in_it() {
        let (base, spread) = (u32::from_ne_bytes([172, 16, 0, 0]), u32::from_ne_bytes([0, 0, 0, 0xff]));
        let mut seen = std::collections::HashSet::new();
        for flow in 0..8192u64 {
            let [a, b, c, d] = outer_source(base, spread, entropy(mix(flow))).to_ne_bytes();
            assert_eq!([a, b, c], [172, 16, 0], "flow {flow}");
            seen.insert(d);
        }
        assert_eq!(seen.len(), 256, "addresses in use");
    }

    #[test]
    fn ports_of_gue_are_dynamic_ones() {
        for entropy in [0, 1, 0x1234_5678, u32::MAX] {
            assert!(source_port(entropy) >= 49152, "{entropy:x}");
        }
    }
}

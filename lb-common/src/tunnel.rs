//! Tunnels: what goes around a packet.

use crate::{address::Address, flow::mix};

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

/// Bits by which the outer headers of a client's flow differ from others', so that the receiver's queues all
/// get their part.
///
/// They need not be secret, only spread, and the same for all of a flow's packets.
#[inline(always)]
pub const fn entropy(client: &Address, client_port_be: u16) -> u32 {
    let [high, low] = client.halves();
    (mix(high ^ low.rotate_left(16) ^ client_port_be as u64) >> 32) as u32
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

    #[test]
    fn flows_of_one_client_spread_over_the_whole_prefix() {
        let client = Address::from_v4([10, 0, 0, 1]);
        let spread = u32::from_ne_bytes([0, 0, 0, 0xff]);
        let mut seen = std::collections::HashSet::new();
        for port in 1024u16..9216 {
            let source =
                outer_source(u32::from_ne_bytes([172, 16, 0, 0]), spread, entropy(&client, port.to_be()));
            let [a, b, c, d] = source.to_ne_bytes();
            assert_eq!([a, b, c], [172, 16, 0], "port {port}");
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

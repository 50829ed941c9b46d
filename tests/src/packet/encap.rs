//! What the balancer makes of a packet for a backend behind a tunnel.

use std::net::IpAddr;

use super::{ETHERNET, Mac, checksum::internet};

/// GUE's registered port (IANA).
pub const GUE_PORT: u16 = 6080;

const TTL: u8 = 64;
const UDP: u8 = 17;
const UDP_HEADER: usize = 8;
const IPV6_HEADER: usize = 40;
/// IPv4 in any, and IPv6 in any.
const IPIP: u8 = 4;
const IPV6: u8 = 41;

/// An outer header: IP in IP (RFC 2003, RFC 2473, RFC 4213), or GUE variant 1 (the inner packet straight
/// behind a UDP header).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    /// Frame source and destination.
    pub macs: (Mac, Mac),
    /// Outer source.
    pub source: IpAddr,
    /// Outer destination, of the source's family.
    pub destination: IpAddr,
    /// GUE's source port; IP in IP without.
    pub gue: Option<u16>,
}

impl Outer {
    /// Bytes that it adds.
    pub const fn overhead(&self) -> usize {
        let header = if self.destination.is_ipv4() { 20 } else { IPV6_HEADER };
        header + if self.gue.is_some() { UDP_HEADER } else { 0 }
    }

    /// The frame around the packet of a frame without tags; padding stays behind.
    ///
    /// # Panics
    /// Source and destination are not of one family.
    pub fn around(&self, frame: &[u8]) -> Vec<u8> {
        let inner = &frame[ETHERNET..];
        let v6 = inner[0] >> 4 == 6;
        let word = |at: usize| usize::from(u16::from_be_bytes([inner[at], inner[at + 1]]));
        let (length, class) = match v6 {
            true => (IPV6_HEADER + word(4), (word(0) >> 4) as u8),
            false => (word(2), inner[1]),
        };
        let udp = self.gue.map(|port| {
            let length = u16::try_from(UDP_HEADER + length).expect("a packet is not that long");
            [port, GUE_PORT, length, 0].map(u16::to_be_bytes).concat()
        });
        let protocol = match (&udp, v6) {
            (Some(_), _) => UDP,
            (None, true) => IPV6,
            (None, false) => IPIP,
        };
        let udp = udp.unwrap_or_default();
        let (header, ether_type) = self.header(class, protocol, udp.len() + length);
        [&self.macs.1[..], &self.macs.0, &ether_type, &header, &udp, inner].concat()
    }

    fn header(&self, class: u8, protocol: u8, length: usize) -> (Vec<u8>, [u8; 2]) {
        const DONT_FRAGMENT: [u8; 2] = [0x40, 0];
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let total = u16::try_from(20 + length).expect("a packet is not that long").to_be_bytes();
                let (source, destination) = (source.octets(), destination.octets());
                let start = [&[0x45, class], &total[..], &[0, 0], &DONT_FRAGMENT, &[TTL, protocol]].concat();
                let checksum = internet(&[&start, &source, &destination]);
                ([&start[..], &checksum, &source, &destination].concat(), [8, 0])
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let length = u16::try_from(length).expect("a packet is not that long").to_be_bytes();
                let version = [0x60 | class >> 4, class << 4, 0, 0];
                let start = [&version[..], &length, &[protocol, TTL]].concat();
                ([&start[..], &source.octets(), &destination.octets()].concat(), [0x86, 0xdd])
            }
            mixed => panic!("{mixed:?} are of two families"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};

    use super::Outer;
    use crate::packet::{ETHERNET, Packet, assert_right};

    #[test]
    fn the_inner_packet_is_found_in_every_tunnel() {
        for inner in [["192.0.2.1:1", "192.0.2.2:2"], ["[2001:db8::1]:1", "[2001:db8::2]:2"]] {
            let [from, to] = inner.map(|at| at.parse::<SocketAddr>().expect("an address"));
            let frame = Packet::udp(from, to).traffic_class(0x8e).payload(b"question").build();
            for outer in [["172.16.0.1", "10.0.0.1"], ["100::1", "fc00::1"]] {
                let [source, destination] = outer.map(|at| at.parse().expect("an address"));
                for gue in [None, Some(0xc001)] {
                    let outer = Outer { macs: ([1; 6], [2; 6]), source, destination, gue };
                    let around = outer.around(&frame);
                    assert_eq!(around.len(), frame.len() + outer.overhead());
                    assert_eq!(around[ETHERNET + outer.overhead()..], frame[ETHERNET..]);
                    let sliced = LaxSlicedPacket::from_ethernet(&around).expect("a frame");
                    assert!(sliced.stop_err.is_none(), "{sliced:?}");
                    match (&sliced.net, &sliced.transport) {
                        (Some(LaxNetSlice::Ipv4(_)), None) if gue.is_none() => {
                            assert_right(&around, "the outer header");
                        }
                        (Some(LaxNetSlice::Ipv6(_)), None) if gue.is_none() => {}
                        (Some(_), Some(TransportSlice::Udp(udp))) if gue.is_some() => {
                            assert_eq!((udp.destination_port(), udp.checksum()), (6080, 0));
                            assert_eq!(udp.payload(), &frame[ETHERNET..]);
                        }
                        other => panic!("{other:?}"),
                    }
                }
            }
        }
    }
}

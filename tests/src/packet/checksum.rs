//! The Internet checksum (RFC 1071), by `etherparse`.

use etherparse::{
    IpNumber, Ipv4HeaderSlice, Ipv6HeaderSlice, LaxNetSlice, LaxSlicedPacket, TransportSlice,
    checksum::Sum16BitWords,
};

/// The checksum of all parts together, as it goes into a header; every part but the last is even in length.
pub fn internet(parts: &[&[u8]]) -> [u8; 2] {
    let sum = parts.iter().fold(Sum16BitWords::new(), |sum, part| sum.add_slice(part));
    sum.ones_complement().to_ne_bytes()
}

/// Addresses, length and protocol, as transport checksums over IPv6 and ICMPv6 cover them (RFC 8200 section 8.1).
pub(super) fn pseudo_v6(source: [u8; 16], destination: [u8; 16], length: usize, protocol: u8) -> Vec<u8> {
    let length = u32::try_from(length).expect("a packet is not that long").to_be_bytes();
    [&source[..], &destination, &length, &[0, 0, 0, protocol]].concat()
}

/// Fails unless every checksum of a whole IPv4 or IPv6 frame is right; a UDP checksum of zero over IPv4 is.
///
/// # Panics
/// One is wrong, or the frame is neither.
pub fn assert_right(frame: &[u8], what: &str) {
    let sliced = LaxSlicedPacket::from_ethernet(frame).unwrap_or_else(|error| panic!("{what}: {error}"));
    let (pseudo, payload) = match &sliced.net {
        Some(LaxNetSlice::Ipv4(ip)) => {
            assert_eq!(internet(&[ip.header().slice()]), [0, 0], "{what}: checksum of the IPv4 header");
            (pseudo_v4(&ip.header(), ip.payload().payload.len(), ip.payload().ip_number), ip.payload())
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            let header: Ipv6HeaderSlice<'_> = ip.header();
            let (length, protocol) = (ip.payload().payload.len(), ip.payload().ip_number.0);
            (pseudo_v6(header.source(), header.destination(), length, protocol), ip.payload())
        }
        other => panic!("{what}: {other:?} has no checksum"),
    };
    if payload.fragmented {
        return;
    }
    let right = match &sliced.transport {
        Some(TransportSlice::Udp(udp)) if udp.checksum() == 0 => {
            assert!(matches!(sliced.net, Some(LaxNetSlice::Ipv4(_))), "{what}: no UDP checksum over IPv6");
            return;
        }
        Some(TransportSlice::Icmpv4(icmp)) => internet(&[icmp.slice()]),
        Some(TransportSlice::Tcp(_) | TransportSlice::Udp(_) | TransportSlice::Icmpv6(_)) => {
            internet(&[&pseudo, payload.payload])
        }
        _ => return,
    };
    assert_eq!(right, [0, 0], "{what}: checksum of {:?}", payload.ip_number);
}

fn pseudo_v4(header: &Ipv4HeaderSlice<'_>, length: usize, protocol: IpNumber) -> Vec<u8> {
    let length = u16::try_from(length).expect("IPv4 packets are at most 65,535 bytes").to_be_bytes();
    [&header.source()[..], &header.destination(), &[0, protocol.0], &length].concat()
}

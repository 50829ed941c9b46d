//! Checksums that follow a rewrite against checksums computed anew over the whole packet.

use std::net::IpAddr;

use lb_common::{address::Address, checksum};
use proptest::{
    collection::vec,
    prelude::{Strategy, any, prop_assert_eq, prop_oneof, proptest},
    sample::select,
};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// One end of a packet.
type End = (IpAddr, u16);

/// The ones' complement sum of big-endian halfwords (RFC 1071), odd lengths padded with zero.
fn full_sum(bytes: &[u8]) -> u16 {
    let mut sum: u64 =
        bytes.chunks(2).map(|p| u64::from(p[0]) << 8 | p.get(1).map_or(0, |&b| b.into())).sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn address_bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The checksum of a segment or datagram with its pseudo-header, in the order of memory.
fn full(protocol: u8, source: End, destination: End, rest: &[u8]) -> u16 {
    let length = (4 + rest.len()) as u32;
    let bytes = [
        &address_bytes(source.0)[..],
        &address_bytes(destination.0),
        &[0, protocol],
        &length.to_be_bytes(),
        &source.1.to_be_bytes(),
        &destination.1.to_be_bytes(),
        rest,
    ]
    .concat();
    let sum = (!full_sum(&bytes)).to_be();
    if protocol == UDP && sum == 0 { 0xffff } else { sum }
}

fn follow(protocol: u8, before: u16, old: End, new: End) -> u16 {
    let [old, new] = [old, new].map(|(ip, port)| checksum::sum_endpoint(&ip.into(), port.to_be()));
    let after = checksum::replace(before, old, new);
    if protocol == UDP { checksum::udp(after) } else { after }
}

/// Bytes near the ends of their range: they make carries.
fn edgy() -> impl Strategy<Value = u8> {
    prop_oneof![any::<u8>(), select(&[0x00, 0x01, 0x7f, 0x80, 0xfe, 0xff][..])]
}

/// Two ends of one family, and a third to rewrite one of them to.
fn ends() -> impl Strategy<Value = [End; 3]> {
    let v4 = [edgy(), edgy(), edgy(), edgy()].prop_map(IpAddr::from);
    let v6 = vec(edgy(), 16).prop_map(|o| IpAddr::from(<[u8; 16]>::try_from(o).unwrap()));
    let port = || (edgy(), edgy()).prop_map(|(a, b)| u16::from_be_bytes([a, b]));
    let one = move |ip: proptest::strategy::BoxedStrategy<IpAddr>| {
        [(ip.clone(), port()), (ip.clone(), port()), (ip, port())]
    };
    prop_oneof![one(v4.boxed()), one(v6.boxed())]
}

proptest! {
    #[test]
    fn a_rewritten_end_gives_the_checksum_of_the_new_packet(
        [source, destination, new] in ends(),
        rest in vec(edgy(), 4..80),
        protocol in select(&[TCP, UDP][..]),
    ) {
        let before = full(protocol, source, destination, &rest);
        let forward = follow(protocol, before, destination, new);
        prop_assert_eq!(forward, full(protocol, source, new, &rest), "destination");
        let back = follow(protocol, before, source, new);
        prop_assert_eq!(back, full(protocol, new, destination, &rest), "source");
        prop_assert_eq!(follow(protocol, forward, new, destination), before, "there and back");
    }

    #[test]
    fn an_ipv4_header_follows_its_addresses_and_ttl(header: [u8; 20], new: [u8; 4], at in select(&[12usize, 16][..])) {
        let mut header = header;
        header[0] = 0x45;
        header[8] = header[8].max(1);
        let old: [u8; 4] = header[at..at + 4].try_into().unwrap();
        let before = header_checksum(&header);
        header[at..at + 4].copy_from_slice(&new);
        let [old, new] = [old, new].map(|octets| checksum::sum_address(&Address::from_v4(octets)));
        let moved = checksum::replace(before, old, new);
        prop_assert_eq!(moved, header_checksum(&header));
        header[8] -= 1;
        prop_assert_eq!(checksum::decrement_ttl(moved), header_checksum(&header));
    }

    #[test]
    fn fold_keeps_the_sum_modulo_65535(sum: u32) {
        prop_assert_eq!(u32::from(checksum::fold(sum)) % 0xffff, sum % 0xffff);
        prop_assert_eq!(checksum::fold(sum) == 0, sum == 0);
    }
}

/// The checksum of an IPv4 header, whatever stands in its field, in the order of memory.
fn header_checksum(header: &[u8; 20]) -> u16 {
    let mut header = *header;
    header[10..12].fill(0);
    (!full_sum(&header)).to_be()
}

#[test]
fn every_header_checksum_survives_a_ttl_decrement() {
    let mut seen = vec![false; 1 << 16];
    for id in 0..=u16::MAX {
        let [high, low] = id.to_be_bytes();
        let mut header = [0x45, 0, 0, 60, high, low, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        let before = header_checksum(&header);
        seen[usize::from(before)] = true;
        header[8] -= 1;
        assert_eq!(checksum::decrement_ttl(before), header_checksum(&header), "checksum {before:#06x}");
    }
    // Both carry edges are among them; 0xffff is no sum's complement but the empty header's.
    assert_eq!(seen.iter().filter(|&&seen| !seen).count(), 1);
    assert!(seen[0] && !seen[0xffff]);
}

#[test]
fn every_ttl_can_be_decremented() {
    for ttl in 1..=u8::MAX {
        for protocol in 0..=u8::MAX {
            let mut header = [0x45, 0, 0, 60, 0, 0, 0x40, 0, ttl, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
            let before = header_checksum(&header);
            header[8] -= 1;
            assert_eq!(checksum::decrement_ttl(before), header_checksum(&header), "ttl {ttl}, {protocol}");
        }
    }
}

#[test]
fn a_udp_checksum_that_comes_out_as_zero_is_sent_as_all_ones() {
    let (source, old) = ((IpAddr::from([192, 0, 2, 1]), 4000), (IpAddr::from([192, 0, 2, 2]), 53));
    let before = full(UDP, source, old, &[0, 12, 0, 0]);
    // Each port of a /16's worth gives another sum: one of them gives the edge.
    let edge =
        (0..=u16::MAX).find(|&port| full(UDP, source, (old.0, port), &[0, 12, 0, 0]) == 0xffff).unwrap();
    assert_eq!(follow(UDP, before, old, (old.0, edge)), 0xffff);
    assert_eq!(follow(UDP, 0xffff, (old.0, edge), old), before, "and all ones is read as zero");
    assert_eq!(follow(TCP, before, old, (old.0, edge)), 0, "TCP has no such rule");
    for (computed, sent) in [(0, 0xffff), (1, 1), (0xfffe, 0xfffe), (0xffff, 0xffff)] {
        assert_eq!(checksum::udp(computed), sent);
    }
}

#[test]
fn replacing_a_sum_with_itself_changes_nothing() {
    for sum in [0, 1, 0x00ff, 0xff00, 0xfffe, 0xffff] {
        // 0xffff is the one value that no packet with a sum above zero carries.
        for before in [0, 1, 0x00ff, 0x8000, 0xff00, 0xfffe] {
            assert_eq!(checksum::replace(before, sum, sum), before, "{before:#06x} by {sum:#06x}");
        }
    }
}

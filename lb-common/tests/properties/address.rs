//! Addresses, endpoints and Ethernet addresses: what goes in comes out, in network order.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::address::{Address, Endpoint, Mac};
use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

proptest! {
    #[test]
    fn an_address_survives_the_round_trip(ip: IpAddr) {
        let address = Address::from(ip);
        prop_assert_eq!(IpAddr::from(address), ip.to_canonical());
        prop_assert_eq!(address.is_v4(), ip.to_canonical().is_ipv4());
        prop_assert_eq!(Address::from_v6(address.octets()), address);
        prop_assert_eq!(Address::from_halves(address.halves()), address);
    }

    #[test]
    fn an_ipv4_address_is_its_mapped_form(octets: [u8; 4]) {
        let address = Address::from_v4(octets);
        prop_assert!(address.is_v4());
        prop_assert_eq!(address.octets(), Ipv4Addr::from(octets).to_ipv6_mapped().octets());
        prop_assert_eq!(address, Address::from(IpAddr::V6(Ipv4Addr::from(octets).to_ipv6_mapped())));
        prop_assert_eq!(address, Address::from_v4_word(u32::from_ne_bytes(octets)));
    }

    #[test]
    fn words_and_halves_lie_as_the_bytes_do(octets: [u8; 16]) {
        let address = Address::from_v6(octets);
        let words: Vec<u8> = address.0.iter().flat_map(|word| word.to_ne_bytes()).collect();
        prop_assert_eq!(&words[..], &octets[..]);
        let halves = [&octets[..8], &octets[8..]].map(|half| u64::from_le_bytes(half.try_into().unwrap()));
        prop_assert_eq!(address.halves(), halves.map(u64::to_le));
    }

    #[test]
    fn a_mac_address_survives_the_round_trip(bytes: [u8; 6]) {
        prop_assert_eq!(<[u8; 6]>::from(Mac::from(bytes)), bytes);
    }

    #[test]
    fn an_endpoint_keeps_its_port_in_network_order(ip: IpAddr, port: u16, protocol: u8) {
        let endpoint = Endpoint::new(ip.into(), port, protocol);
        prop_assert_eq!(endpoint.port(), port);
        prop_assert_eq!(endpoint.port_be.to_ne_bytes(), port.to_be_bytes());
        prop_assert_eq!((endpoint.protocol, endpoint.reserved), (protocol, 0));
    }
}

#[test]
fn only_the_mapped_prefix_is_ipv4() {
    for (text, v4) in [
        ("::ffff:192.0.2.1", true),
        ("::ffff:0.0.0.0", true),
        ("::192.0.2.1", false),
        ("::fffe:192.0.2.1", false),
        ("::1:ffff:192.0.2.1", false),
        ("1::ffff:192.0.2.1", false),
        ("64:ff9b::192.0.2.1", false),
        ("::", false),
    ] {
        let address = Address::from(IpAddr::V6(text.parse::<Ipv6Addr>().unwrap()));
        assert_eq!(address.is_v4(), v4, "{text}");
    }
}

#[test]
fn an_address_alone_has_neither_port_nor_protocol() {
    let address = Address::from_v4([192, 0, 2, 1]);
    assert_eq!(Endpoint::address_only(address), Endpoint::new(address, 0, 0));
}

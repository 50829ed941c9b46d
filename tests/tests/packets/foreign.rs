//! What is not ours passes as it came.

use std::net::{Ipv4Addr, Ipv6Addr};

use guidevane::dataplane::spec::VipSpec;
use guidevane_tests::packet::{ArpRequest, Packet, Solicitation, flags};
use lb_common::{layout::Mode, reason::Reason};

use crate::plane::{CLIENT_MAC, OWN_MAC, Plane, TCP, UDP, Verdict, arriving, at, service};

const VIP: &str = "10.200.1.1:80";
const VIP_V6: &str = "[fc00:1::1]:80";
const CLIENT: &str = "192.168.1.7:31337";
const CLIENT_V6: &str = "[2001:db8::7]:31337";

fn specs() -> Vec<VipSpec> {
    vec![
        service(VIP, TCP, Mode::L2, &["10.0.0.1:80"]),
        service("10.200.1.2:80", UDP, Mode::Nat, &["10.0.0.2:80"]),
        service(VIP_V6, TCP, Mode::L2, &["[fc00::1]:80"]),
    ]
}

fn syn(from: &str, to: &str) -> Packet {
    arriving(Packet::tcp(at(from), at(to))).segment(flags::SYN, 1000, 0)
}

/// An Ethernet frame of any type and content.
fn ethernet(ether_type: u16, content: &[u8]) -> Vec<u8> {
    let mut frame = [&OWN_MAC[..], &CLIENT_MAC, &ether_type.to_be_bytes(), content].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

/// The frame of a segment with another protocol number in its network header.
fn of_protocol(packet: &Packet, protocol: u8) -> Vec<u8> {
    const V4: usize = 14 + 9;
    const V6: usize = 14 + 6;
    let mut frame = packet.build();
    frame[if packet.source.is_ipv4() { V4 } else { V6 }] = protocol;
    frame
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn it_passes_byte_for_byte() {
    const ICMP: u8 = 1;
    const FRAGMENT_HEADER: u8 = 44;
    const SCTP: u8 = 132;
    const ICMPV6: u8 = 58;
    let ours = |packet: &Packet, protocol| (of_protocol(packet, protocol), Reason::OtherProtocol);
    let arp = |target| ArpRequest { mac: CLIENT_MAC, sender: Ipv4Addr::new(192, 168, 1, 7), target };
    let (v4, v6) = (syn(CLIENT, VIP), syn(CLIENT_V6, VIP_V6));
    let foreign = |packet: Packet| (packet.build(), Reason::NotOurs);
    let cases = [
        ("another address", foreign(syn(CLIENT, "10.200.1.9:80"))),
        ("another port", foreign(syn(CLIENT, "10.200.1.1:81"))),
        ("port zero", foreign(syn(CLIENT, "10.200.1.1:0"))),
        ("the port of another VIP's protocol", foreign(syn(CLIENT, "10.200.1.2:80"))),
        ("a datagram to a TCP VIP", foreign(arriving(Packet::udp(at(CLIENT), at(VIP))))),
        ("from the VIP", foreign(syn(VIP, CLIENT))),
        ("from a backend", foreign(syn("10.0.0.1:80", CLIENT))),
        ("from a backend of a nat VIP", foreign(arriving(Packet::udp(at("10.0.0.2:80"), at(CLIENT))))),
        ("to a backend", foreign(syn(CLIENT, "10.0.0.1:80"))),
        ("another address, IPv6", foreign(syn(CLIENT_V6, "[fc00:1::2]:80"))),
        ("another port, IPv6", foreign(syn(CLIENT_V6, "[fc00:1::1]:81"))),
        ("IPv6 with the VIP's address mapped", foreign(syn(CLIENT_V6, "[::ffff:10.200.1.9]:80"))),
        ("a fragment to another address", foreign(syn(CLIENT, "10.200.1.9:80").fragment(0, true))),
        ("a fragment in the middle", foreign(syn(CLIENT, "10.200.1.9:80").fragment(100, true))),
        (
            "an IPv6 fragment",
            (of_protocol(&syn(CLIENT_V6, "[fc00:1::2]:80"), FRAGMENT_HEADER), Reason::NotOurs),
        ),
        ("a TTL of one to another address", foreign(syn(CLIENT, "10.200.1.9:80").ttl(1))),
        ("ICMP to another address", (of_protocol(&syn(CLIENT, "10.200.1.9:80"), ICMP), Reason::NotOurs)),
        ("ICMP to a VIP", ours(&v4, ICMP)),
        ("SCTP to a VIP", ours(&v4, SCTP)),
        ("SCTP to a VIP, IPv6", ours(&v6, SCTP)),
        ("ICMPv6 to a VIP", (of_protocol(&v6, ICMPV6), Reason::OtherProtocol)),
        ("ARP for another address", (arp(Ipv4Addr::new(10, 200, 1, 9)).build(), Reason::NotOurs)),
        (
            "a solicitation for another address",
            (
                Solicitation::new(CLIENT_MAC, Ipv6Addr::LOCALHOST, "fc00:1::2".parse().expect("an address"))
                    .build(),
                Reason::NotOurs,
            ),
        ),
        ("LLDP", (ethernet(0x88cc, b"\x02\x07\x04"), Reason::NotOurs)),
        ("a VLAN tag", (ethernet(0x8100, &[0, 7, 8, 0, 0x45]), Reason::Unreadable)),
        ("IEEE 802.3 with a length", (ethernet(38, b"\x42\x42\x03"), Reason::NotOurs)),
    ];
    let mut plane = Plane::new(&specs());
    for (what, (frame, reason)) in cases {
        let outcome = plane.send(&frame);
        assert_eq!((outcome.verdict, outcome.reason), (Verdict::Pass, reason), "{what}");
        assert_eq!(outcome.frame, frame, "{what} is changed");
    }
    assert!(plane.slots().is_empty(), "nothing was entered");
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn without_any_vip_everything_passes() {
    let mut plane = Plane::new(&[]);
    for packet in [
        syn(CLIENT, VIP),
        syn(CLIENT_V6, VIP_V6),
        syn("0.0.0.0:0", "0.0.0.0:0"),
        syn("[::]:0", "[::]:0"),
        syn(CLIENT, VIP).fragment(0, true),
        arriving(Packet::udp(at("10.0.0.2:80"), at(CLIENT))),
    ] {
        let frame = packet.build();
        let outcome = plane.send(&frame);
        assert_eq!((outcome.verdict, outcome.reason), (Verdict::Pass, Reason::NotOurs), "{packet:?}");
        assert_eq!(outcome.frame, frame);
    }
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn a_vip_that_is_removed_is_ours_no_more() {
    let mut plane = Plane::new(&specs());
    assert_eq!(plane.reason(&syn(CLIENT, VIP)), Reason::NewFlow);
    plane.apply(&specs()[1..]);
    assert_eq!(plane.reason(&syn(CLIENT, VIP)), Reason::NotOurs);
    assert_eq!(plane.reason(&syn(CLIENT_V6, VIP_V6)), Reason::NewFlow);
    plane.apply(&[]);
    assert_eq!(plane.reason(&syn(CLIENT_V6, VIP_V6)), Reason::NotOurs);
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn later_fragments_without_their_first_are_dropped() {
    let mut plane = Plane::new(&specs());
    for (offset, more) in [(1, true), (0x1fff, false), (100, false)] {
        let packet = syn(CLIENT, VIP).fragment(offset, more);
        let outcome = plane.send(&packet.build());
        assert_eq!((outcome.verdict, outcome.reason), (Verdict::Drop, Reason::FragmentUnknown), "{packet:?}");
    }
    assert_eq!(plane.reason(&syn(CLIENT, VIP).fragment(0, false)), Reason::NewFlow, "it is whole");
}

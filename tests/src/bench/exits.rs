//! Packets that are not steered: each is one frame, again and again.

use std::net::SocketAddr;

use lb_common::layout::Mode;

use super::{
    cases::{Case, LEFT, Packets, REFUSED},
    services::{Family, OWN_MAC, Protocol, ROUTER_MAC, Service},
};
use crate::packet::Packet;

const ETHERNET: usize = 14;
const PAYLOAD: [u8; 64] = [0; 64];

/// The cases, named as the kernel's own benchmark names them, with what it leaves out.
pub fn all(services: &[Service]) -> Vec<Case> {
    let (v4, v6) = (a_vip(services, Family::V4), a_vip(services, Family::V6));
    let case = |name: &str, kernel_name, frame, (ours, reference)| Case {
        name: name.to_owned(),
        kernel_name,
        packets: Packets::Frame(frame),
        ours,
        reference,
        event: None,
    };
    vec![
        case("not-our-vip-v4", Some("pass-v4-no-vip"), tcp(at("192.0.2.7:443")).build(), LEFT),
        case("not-our-vip-v6", Some("pass-v6-no-vip"), tcp(at("[2001:db8:7::7]:443")).build(), LEFT),
        case("not-our-icmp", Some("pass-v4-icmp"), echo(), LEFT),
        case("not-ip", Some("pass-non-ip"), not_ip(), LEFT),
        case("fragment-v4", Some("drop-v4-frag"), fragment_v4(v4), REFUSED),
        case("fragment-v6", Some("drop-v6-frag"), fragment_v6(v6), REFUSED),
    ]
}

fn a_vip(services: &[Service], family: Family) -> SocketAddr {
    let fits = |service: &&Service| {
        service.family == family && service.protocol == Protocol::Tcp && service.mode == Mode::L2
    };
    services.iter().find(fits).expect("each mode has a VIP of each family").vip()
}

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address and a port")
}

fn client(to: SocketAddr) -> SocketAddr {
    match to {
        SocketAddr::V4(_) => at("10.255.0.1:40000"),
        SocketAddr::V6(_) => at("[2001:db8:c:ffff::1]:40000"),
    }
}

fn tcp(to: SocketAddr) -> Packet {
    Packet::tcp(client(to), to).macs(ROUTER_MAC, OWN_MAC).payload(&PAYLOAD)
}

/// An echo request to nobody's address.
fn echo() -> Vec<u8> {
    const ICMP: u8 = 1;
    const PROTOCOL: usize = ETHERNET + 9;
    let mut frame = tcp(at("192.0.2.7:443")).build();
    frame[PROTOCOL] = ICMP;
    frame
}

/// An EtherType for local experiments (IEEE 802).
fn not_ip() -> Vec<u8> {
    let mut frame = tcp(at("192.0.2.7:443")).build();
    frame[ETHERNET - 2..ETHERNET].copy_from_slice(&[0x88, 0xb5]);
    frame
}

/// A later fragment, whose first was never seen.
fn fragment_v4(vip: SocketAddr) -> Vec<u8> {
    Packet::udp(client(vip), vip).macs(ROUTER_MAC, OWN_MAC).payload(&PAYLOAD).fragment(100, true).build()
}

/// Likewise: a fragment header in the place of TCP's.
fn fragment_v6(vip: SocketAddr) -> Vec<u8> {
    const NEXT_HEADER: usize = ETHERNET + 6;
    const HEADER: usize = ETHERNET + 40;
    const FRAGMENT: u8 = 44;
    let mut frame = tcp(vip).build();
    frame[NEXT_HEADER] = FRAGMENT;
    // TCP follows; offset 100 units, more fragments.
    frame[HEADER..HEADER + 8].copy_from_slice(&[6, 0, 3, 0x21, 0, 0, 0, 1]);
    frame
}

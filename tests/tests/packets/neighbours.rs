//! ARP and neighbour discovery for VIPs that the program announces.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use guidevane::dataplane::spec::VipSpec;
use guidevane_tests::packet::{ArpRequest, Solicitation, advertisement, arp_reply};
use lb_common::{layout::Mode, reason::Reason};

use crate::plane::{CLIENT_MAC, ELSEWHERE, HERE, OWN_MAC, Outcome, Plane, TCP, Verdict, at, service};

const ANNOUNCED: [&str; 2] = ["10.200.1.1:80", "[fc00:1::1]:80"];
const ON_ANOTHER_INTERFACE: [&str; 2] = ["10.200.1.2:80", "[fc00:1::2]:80"];
const NOT_ANNOUNCED: [&str; 2] = ["10.200.1.3:80", "[fc00:1::3]:80"];
const ASKER_V4: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 9);
const ASKER_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9);

fn plane() -> Plane {
    let on = |vip: &&str, interface: Option<u32>| VipSpec {
        answers: interface.map(|interface| (interface, OWN_MAC.into())),
        ..service(vip, TCP, Mode::L2, &[])
    };
    let specs = (ANNOUNCED.iter().map(|vip| on(vip, Some(HERE))))
        .chain(ON_ANOTHER_INTERFACE.iter().map(|vip| on(vip, Some(ELSEWHERE))))
        .chain(NOT_ANNOUNCED.iter().map(|vip| on(vip, None)));
    Plane::new(&specs.collect::<Vec<_>>())
}

fn v4(vip: &str) -> Ipv4Addr {
    let IpAddr::V4(address) = at(vip).ip() else { panic!("{vip} is not IPv4") };
    address
}

fn v6(vip: &str) -> Ipv6Addr {
    let IpAddr::V6(address) = at(vip).ip() else { panic!("{vip} is not IPv6") };
    address
}

/// The frame as network cards pad it.
fn padded(mut frame: Vec<u8>) -> Vec<u8> {
    frame.resize(frame.len().max(60), 0);
    frame
}

fn passes(plane: &mut Plane, frame: Vec<u8>, what: &str) {
    let outcome = plane.send(&frame);
    assert_eq!((outcome.verdict, outcome.reason), (Verdict::Pass, Reason::NotOurs), "{what}");
    assert_eq!(outcome.frame, frame, "{what} is changed");
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn arp_is_answered_for_an_announced_address_on_its_interface() {
    let mut plane = plane();
    let request = |target| ArpRequest { mac: CLIENT_MAC, sender: ASKER_V4, target };
    for sender in [ASKER_V4, Ipv4Addr::UNSPECIFIED] {
        let asked = ArpRequest { sender, ..request(v4(ANNOUNCED[0])) };
        for shape in [|frame| frame, padded as fn(Vec<u8>) -> Vec<u8>] {
            let answer = shape(arp_reply(&asked, OWN_MAC));
            let outcome = plane.send(&shape(asked.build()));
            let wanted = Outcome { verdict: Verdict::Transmit, reason: Reason::Arp, frame: answer };
            assert_eq!(outcome, wanted, "asked by {sender}");
        }
    }
    passes(&mut plane, request(v4(ON_ANOTHER_INTERFACE[0])).build(), "another interface's address");
    passes(&mut plane, request(v4(NOT_ANNOUNCED[0])).build(), "an address that is not announced");
    passes(&mut plane, request(ASKER_V4).build(), "another host's address");
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn arp_that_is_no_request_passes() {
    let mut plane = plane();
    let asked = ArpRequest { mac: CLIENT_MAC, sender: ASKER_V4, target: v4(ANNOUNCED[0]) };
    passes(&mut plane, arp_reply(&asked, OWN_MAC), "a reply");
    let reply_to_us = ArpRequest { sender: v4(ANNOUNCED[0]), target: ASKER_V4, ..asked };
    passes(&mut plane, arp_reply(&reply_to_us, CLIENT_MAC), "a reply about the VIP");
    for (what, place, byte) in [
        ("another hardware", 15, 6),
        ("another protocol", 16, 0x86),
        ("long hardware addresses", 18, 8),
        ("long protocol addresses", 19, 16),
        ("another operation", 21, 3),
    ] {
        let mut frame = asked.build();
        frame[place] = byte;
        passes(&mut plane, frame, what);
    }
    let frame = asked.build();
    for length in 14..frame.len() {
        let outcome = plane.send(&frame[..length]);
        assert_eq!((outcome.verdict, outcome.reason), (Verdict::Pass, Reason::Unreadable), "{length} bytes");
        assert_eq!(outcome.frame, frame[..length], "{length} bytes");
    }
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn a_solicitation_is_answered_for_an_announced_address_on_its_interface() {
    let mut plane = plane();
    let asked = Solicitation::new(CLIENT_MAC, ASKER_V6, v6(ANNOUNCED[1]));
    for source in [ASKER_V6, "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff".parse().expect("an address")] {
        let asked = Solicitation { source, ..asked };
        let outcome = plane.send(&asked.build());
        let frame = advertisement(&asked, OWN_MAC);
        let wanted = Outcome { verdict: Verdict::Transmit, reason: Reason::Neighbour, frame };
        assert_eq!(outcome, wanted, "asked by {source}");
    }
    let of = |target| Solicitation { target, ..asked }.build();
    passes(&mut plane, of(v6(ON_ANOTHER_INTERFACE[1])), "another interface's address");
    passes(&mut plane, of(v6(NOT_ANNOUNCED[1])), "an address that is not announced");
    passes(&mut plane, of(ASKER_V6), "another host's address");
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn solicitations_that_need_the_stack_pass() {
    let mut plane = plane();
    let asked = Solicitation::new(CLIENT_MAC, ASKER_V6, v6(ANNOUNCED[1]));
    let without = Solicitation { option: false, ..asked };
    let probe = Solicitation { source: Ipv6Addr::UNSPECIFIED, ..without };
    passes(&mut plane, probe.build(), "a probe for a duplicate address");
    passes(&mut plane, Solicitation { option: true, ..probe }.build(), "a probe with an option");
    passes(&mut plane, without.build(), "no option");
    passes(&mut plane, Solicitation { hop_limit: 254, ..asked }.build(), "from beyond a router");
    passes(&mut plane, advertisement(&asked, OWN_MAC), "an advertisement");
    let frame = asked.build();
    for (what, place) in [("another code", 55), ("another option", 78), ("a longer option", 79)] {
        let mut frame = frame.clone();
        frame[place] += 1;
        passes(&mut plane, frame, what);
    }
    for length in 14..frame.len() {
        let outcome = plane.send(&frame[..length]);
        assert_eq!(outcome.verdict, Verdict::Pass, "{length} bytes: {:?}", outcome.reason);
        assert_eq!(outcome.frame, frame[..length], "{length} bytes");
    }
}

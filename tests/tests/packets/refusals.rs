//! What is for a VIP and cannot be sent on.

use std::net::SocketAddr;

use guidevane::dataplane::spec::{Standing, VipSpec};
use guidevane_tests::packet::{Packet, flags};
use lb_common::{layout::Mode, reason::Reason};

use crate::plane::{Plane, TCP, UDP, arriving, at, service, up};

const VIPS: [(&str, u8, Mode); 4] = [
    ("10.200.1.1:80", TCP, Mode::L2),
    ("10.200.1.2:80", TCP, Mode::Nat),
    ("10.200.1.3:53", UDP, Mode::L2),
    ("[fc00:1::1]:80", TCP, Mode::L2),
];

fn specs() -> Vec<VipSpec> {
    let spec = |(number, (vip, protocol, mode)): (usize, (&str, u8, Mode))| {
        let backends = match at(vip).is_ipv4() {
            true => [format!("10.0.{number}.1:80"), format!("10.0.{number}.2:80")],
            false => [format!("[fc00::{number}:1]:80"), format!("[fc00::{number}:2]:80")],
        };
        service(vip, protocol, mode, &backends.each_ref().map(String::as_str))
    };
    VIPS.into_iter().enumerate().map(spec).collect()
}

fn opening((vip, protocol, _): (&str, u8, Mode), port: u16) -> Packet {
    let vip = at(vip);
    let address = if vip.is_ipv4() { "192.168.1.7" } else { "2001:db8::7" };
    let client = SocketAddr::new(address.parse().expect("an address"), port);
    arriving(match protocol {
        TCP => Packet::tcp(client, vip).segment(flags::SYN, 1000, 0),
        _ => Packet::udp(client, vip),
    })
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn a_drop_is_counted_for_its_vip() {
    let mut empty = specs();
    empty[1].backends.clear();
    let mut plane = Plane::new(&empty);
    assert_eq!(plane.reason(&opening(VIPS[1], 1000)), Reason::NoBackend);
    assert_eq!(plane.reason(&opening(VIPS[0], 1000)), Reason::NewFlow);
    let counts = |position| {
        let seen = plane.dataplane.reasons_of(plane.vip_id(position)).expect("counters are readable");
        [Reason::NewFlow, Reason::NoBackend].map(|reason| seen.get(&reason).copied().unwrap_or(0))
    };
    assert_eq!([counts(0), counts(1), counts(2)], [[1, 0], [0, 1], [0, 0]]);
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn without_a_backend_that_can_take_it_a_flow_is_dropped() {
    let mut empty = specs();
    empty.iter_mut().for_each(|spec| spec.backends.clear());
    let mut plane = Plane::new(&empty);
    for vip in VIPS {
        assert_eq!(plane.reason(&opening(vip, 1000)), Reason::NoBackend, "{}: no backends", vip.0);
    }
    assert_eq!(plane.reason(&arriving(Packet::tcp(at("192.168.1.7:1"), at(VIPS[0].0)))), Reason::NoBackend);
    plane.apply(&specs());
    for (position, vip) in VIPS.into_iter().enumerate() {
        let ids: Vec<u16> = plane.backends()[2 * position..2 * position + 2].to_vec();
        for (what, change) in [
            ("down", (|s| Standing { healthy: false, ..s }) as fn(Standing) -> Standing),
            ("draining", |s| Standing { active: false, ..s }),
            ("without a next hop", |s| Standing { hop: None, ..s }),
        ] {
            let standing = |plane: &Plane, id| change(up(plane.address_of(id)));
            plane.stand(ids[0], standing(&plane, ids[0]));
            for port in 1000..1050 {
                assert_eq!(plane.forward(&opening(vip, port)), ids[1], "{}: one of two is {what}", vip.0);
            }
            plane.stand(ids[1], standing(&plane, ids[1]));
            assert_eq!(plane.reason(&opening(vip, 2000)), Reason::NoBackend, "{}: both {what}", vip.0);
            for &id in &ids {
                let backend = plane.address_of(id);
                plane.stand(id, up(backend));
            }
            assert_eq!(plane.reason(&opening(vip, 2000)), Reason::NewFlow, "{}: both are up again", vip.0);
            plane = Plane::new(&specs());
        }
    }
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn a_flow_whose_backend_lost_its_next_hop_is_dropped_until_it_is_found_again() {
    let mut plane = Plane::new(&specs());
    for vip in VIPS {
        let first = plane.forward(&opening(vip, 1000));
        let next = match vip.1 {
            TCP => opening(vip, 1000).segment(flags::ACK, 1001, 501),
            _ => opening(vip, 1000),
        };
        let backend = plane.address_of(first);
        plane.stand(first, Standing { hop: None, ..up(backend) });
        assert_eq!(plane.reason(&next), Reason::NoNextHop, "{}", vip.0);
        for port in 1001..1050 {
            assert_ne!(plane.forward(&opening(vip, port)), first, "{}: a new flow", vip.0);
        }
        plane.stand(first, up(backend));
        assert_eq!(plane.forward(&next), first, "{}: the flow was kept", vip.0);
    }
    plane.check_gauges("at the end");
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn a_packet_whose_ttl_ran_out_is_dropped() {
    for vip in VIPS {
        let mut plane = Plane::new(&specs());
        assert_eq!(plane.reason(&opening(vip, 1001).ttl(1)), Reason::TtlExpired, "{}", vip.0);
        assert!(plane.slots().is_empty(), "{}: a packet that goes nowhere opens no flow", vip.0);
        plane.forward(&opening(vip, 1000));
        for (ttl, expected) in [(0, Reason::TtlExpired), (1, Reason::TtlExpired), (2, Reason::Established)] {
            assert_eq!(plane.reason(&opening(vip, 1000).ttl(ttl)), expected, "{}: TTL {ttl}", vip.0);
        }
    }
}

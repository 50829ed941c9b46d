//! What leaves for a backend, byte for byte.

use std::net::SocketAddr;

use guidevane::dataplane::spec::VipSpec;
use guidevane_tests::packet::{Packet, checksum_place, flags};
use lb_common::{
    layout::{FlowInfo, Mode},
    reason::Reason,
    slot::State,
};

use crate::plane::{
    CLIENT_MAC, ELSEWHERE, HERE, OWN_MAC, Plane, TCP, UDP, Verdict, arriving, at, delivered, service, up_over,
};

/// Each VIP with a client of its family.
const CASES: [(&str, u8, Mode, &str); 8] = [
    ("10.200.1.1:80", TCP, Mode::L2, CLIENT_V4),
    ("10.200.1.2:80", TCP, Mode::Nat, CLIENT_V4),
    ("10.200.1.3:53", UDP, Mode::L2, CLIENT_V4),
    ("10.200.1.4:53", UDP, Mode::Nat, CLIENT_V4),
    ("[fc00:1::1]:80", TCP, Mode::L2, CLIENT_V6),
    ("[fc00:1::2]:80", TCP, Mode::Nat, CLIENT_V6),
    ("[fc00:1::3]:53", UDP, Mode::L2, CLIENT_V6),
    ("[fc00:1::4]:53", UDP, Mode::Nat, CLIENT_V6),
];
const CLIENT_V4: &str = "192.168.1.7:31337";
const CLIENT_V6: &str = "[2001:db8::7]:31337";

/// Three backends for each, at addresses and ports of their own.
fn specs() -> Vec<VipSpec> {
    let spec = |(number, (vip, protocol, mode, _)): (usize, (&str, u8, Mode, &str))| {
        let backend = |host: usize| match at(vip).is_ipv4() {
            true => format!("10.0.{number}.{host}:{}", 7999 + host),
            false => format!("[fc00::{number}:{host}]:{}", 65536 - host),
        };
        let backends = [backend(1), backend(2), backend(3)];
        service(vip, protocol, mode, &backends.each_ref().map(String::as_str))
    };
    CASES.into_iter().enumerate().map(spec).collect()
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

fn fresh(client: SocketAddr, vip: SocketAddr, protocol: u8) -> Packet {
    let packet = match protocol {
        TCP => Packet::tcp(client, vip).segment(flags::SYN, 1000, 0),
        _ => Packet::udp(client, vip).payload(b"question"),
    };
    arriving(packet)
}

/// What the backend should get.
fn expected(packet: &Packet, backend: SocketAddr, mode: Mode) -> Vec<u8> {
    let packet = delivered(packet, backend);
    match mode {
        Mode::L2 | Mode::Tunnel => packet.build(),
        Mode::Nat => packet.to(backend).build(),
    }
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn a_new_flow_and_what_follows_reach_one_backend_rewritten_to_the_byte() {
    let mut plane = Plane::new(&specs());
    for (position, (vip, protocol, mode, client)) in CASES.into_iter().enumerate() {
        let (vip, client) = (at(vip), at(client));
        let first = fresh(client, vip, protocol);
        let outcome = plane.send(&first.build());
        assert_eq!((outcome.verdict, outcome.reason), (Verdict::Transmit, Reason::NewFlow), "{vip}");
        let id = plane.backend_by_mac(&outcome.frame);
        let backend = plane.address_of(id);
        assert_eq!(outcome.frame, expected(&first, backend, mode), "the first frame to {vip}");

        let (slot, line) = plane.flow(client, plane.vip_id(position)).expect("the flow is in the table");
        assert_eq!((slot.backend(), slot.state()), (id, State::Opening), "{vip}");
        if mode == Mode::Nat {
            assert!(line.is_of(&client.ip().into(), client.port().to_be(), plane.vip_id(position)), "{vip}");
            assert_eq!((line.client_mac, line.own_mac), (CLIENT_MAC.into(), OWN_MAC.into()), "{vip}");
            assert_eq!(line.interface, HERE, "{vip}");
            assert!(line.opened_at > 0 && line.request_at == 0, "{vip}: {line:?}");
        } else {
            assert_eq!(line, FlowInfo::default(), "{vip}: the line waits for more than the first packet");
        }

        let next = match protocol {
            TCP => first.clone().segment(flags::ACK, 1001, 501).payload(REQUEST),
            _ => first.clone().payload(b"another"),
        };
        let outcome = plane.send(&next.build());
        assert_eq!((outcome.verdict, outcome.reason), (Verdict::Transmit, Reason::Established), "{vip}");
        assert_eq!(outcome.frame, expected(&next, backend, mode), "the second frame to {vip}");
        if protocol == TCP {
            let (_, line) = plane.flow(client, plane.vip_id(position)).expect("the flow is in the table");
            assert_eq!(line.track.high_sequence, 1001 + REQUEST.len() as u32, "{vip}: payload seen");
        }
        plane.check_gauges("after two packets of every flow");
    }
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn odd_lengths_and_options_are_rewritten_to_the_byte() {
    let mut plane = Plane::new(&specs());
    for (vip, protocol, mode, client) in CASES {
        let (vip, client) = (at(vip), at(client));
        for ttl in [2, 3, 64, 128, 255] {
            for length in [0, 1, 2, 3, 100, 1400] {
                let payload: Vec<u8> = (0..length).map(|n| (n * 37 + usize::from(ttl)) as u8).collect();
                let packet = fresh(client, vip, protocol).ttl(ttl).payload(&payload);
                check(&mut plane, &packet, mode);
                if vip.is_ipv4() {
                    check(&mut plane, &packet.clone().ip_options(&[0x94, 4, 0, 0]), mode);
                    check(&mut plane, &packet.clone().ip_options(&[1; 40]), mode);
                }
                match protocol {
                    TCP => check(&mut plane, &packet.clone().tcp_options(&[1; 40]), mode),
                    _ if vip.is_ipv4() => check(&mut plane, &packet.without_checksum(), mode),
                    _ => {}
                }
            }
        }
    }
}

fn check(plane: &mut Plane, packet: &Packet, mode: Mode) {
    let outcome = plane.send(&packet.build());
    assert_eq!(outcome.verdict, Verdict::Transmit, "{packet:?}: {:?}", outcome.reason);
    let backend = plane.address_of(plane.backend_by_mac(&outcome.frame));
    assert_eq!(outcome.frame, expected(packet, backend, mode), "{packet:?} to {backend}");
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn a_udp_checksum_that_is_not_there_stays_away_and_a_computed_zero_is_sent_as_ones() {
    let mut plane = Plane::new(&specs());
    for (vip, protocol, mode, client) in CASES.into_iter().filter(|case| case.1 == UDP) {
        let packet = fresh(at(client), at(vip), protocol);
        let sent = plane.send(&packet.build());
        let backend = plane.address_of(plane.backend_by_mac(&sent.frame));
        // The checksum over a payload of zeros, as payload: the sum is all ones, and the checksum zero.
        let zeros = packet.clone().payload(&[0; 2]);
        let out = expected(&zeros, backend, mode);
        let place = checksum_place(&out);
        let packet = zeros.payload(&out[place..place + 2]);
        let outcome = plane.send(&packet.build());
        assert_eq!(outcome.frame[place..place + 2], [0xff; 2], "{vip}: a computed zero");
        assert_eq!(outcome.frame, expected(&packet, backend, mode), "{vip}");
        if at(vip).is_ipv4() {
            let outcome = plane.send(&packet.clone().without_checksum().build());
            assert_eq!(outcome.frame[place..place + 2], [0; 2], "{vip}: no checksum");
            assert_eq!(outcome.frame, expected(&packet.without_checksum(), backend, mode), "{vip}");
        }
    }
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn padding_of_short_frames_is_carried_along_and_is_no_payload() {
    let mut plane = Plane::new(&specs());
    for (position, (vip, protocol, mode, client)) in CASES.into_iter().enumerate() {
        let (vip, client) = (at(vip), at(client));
        if protocol != TCP {
            continue;
        }
        let open = fresh(client, vip, protocol).padded();
        let outcome = plane.send(&open.build());
        let backend = plane.address_of(plane.backend_by_mac(&outcome.frame));
        assert_eq!(outcome.frame, expected(&open, backend, mode), "{vip}: a padded SYN");
        let ack = open.segment(flags::ACK, 1001, 501).padded();
        let outcome = plane.send(&ack.build());
        assert_eq!(outcome.frame, expected(&ack, backend, mode), "{vip}: a padded ACK");
        assert_eq!(
            plane.state(client, plane.vip_id(position)),
            State::Opening,
            "{vip}: padding is no request"
        );
    }
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn a_backend_behind_another_interface_is_reached_by_redirect() {
    let mut plane = Plane::new(&specs());
    for id in plane.backends() {
        let backend = plane.address_of(id);
        plane.stand(id, up_over(backend, ELSEWHERE));
    }
    for (vip, protocol, mode, client) in CASES {
        let packet = fresh(at(client), at(vip), protocol);
        let outcome = plane.send(&packet.build());
        assert_eq!((outcome.verdict, outcome.reason), (Verdict::Redirect, Reason::NewFlow), "{vip}");
        let backend = plane.address_of(plane.backend_by_mac(&outcome.frame));
        assert_eq!(outcome.frame, expected(&packet, backend, mode), "{vip}");
    }
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn packets_and_bytes_are_counted_for_the_backend_that_gets_them() {
    let mut plane = Plane::new(&specs()[..1]);
    let (vip, client) = (at(CASES[0].0), at(CLIENT_V4));
    let packet = fresh(client, vip, TCP);
    let id = plane.forward(&packet);
    let mut bytes = packet.build().len();
    // Padding is no part of what a client sends.
    for length in [0, 10, 1000] {
        let packet = packet.clone().segment(flags::ACK, 1001, 1).payload(&vec![b'x'; length]);
        bytes += packet.build().len();
        assert_eq!(plane.forward(&packet.padded()), id, "a flow keeps its backend");
    }
    let traffic = plane.dataplane.traffic(id).expect("counters are readable");
    assert_eq!((traffic.packets, traffic.bytes), (4, bytes as u64));
    assert_eq!((traffic.returned_packets, traffic.evicted), (0, 0));
}

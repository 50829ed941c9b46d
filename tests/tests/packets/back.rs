//! The way back through a `nat` VIP.

use std::net::SocketAddr;

use guidevane::dataplane::spec::{Standing, VipSpec};
use guidevane_tests::packet::{Mac, Packet, flags};
use lb_common::{layout::Mode, reason::Reason, slot::State};

use crate::plane::{
    CLIENT_MAC, ELSEWHERE, HERE, INNER_MAC, OWN_MAC, Outcome, Plane, TCP, UDP, Verdict, arriving, at, mac_of,
    service, up,
};

/// A VIP, its backends, a client, and another client.
struct Case {
    vip: &'static str,
    backends: [&'static str; 2],
    client: &'static str,
    other: &'static str,
}

const V4: Case = Case {
    vip: "10.200.1.1:80",
    backends: ["10.0.0.1:8000", "10.0.0.2:8001"],
    client: "192.168.1.7:31337",
    other: "192.168.1.8:31337",
};
const V6: Case = Case {
    vip: "[fc00:1::1]:80",
    backends: ["[fc00::1]:8000", "[fc00::2]:8001"],
    client: "[2001:db8::7]:31337",
    other: "[2001:db8::8]:31337",
};
const CASES: [(Case, u8); 4] = [(V4, TCP), (V4, UDP), (V6, TCP), (V6, UDP)];

fn specs() -> Vec<VipSpec> {
    CASES.iter().map(|(case, protocol)| service(case.vip, *protocol, Mode::Nat, &case.backends)).collect()
}

fn opening(case: &Case, protocol: u8) -> Packet {
    let (client, vip) = (at(case.client), at(case.vip));
    arriving(match protocol {
        TCP => Packet::tcp(client, vip).segment(flags::SYN, 1000, 0),
        _ => Packet::udp(client, vip).payload(b"question"),
    })
}

/// A packet of a server as it comes in.
fn answering(packet: Packet) -> Packet {
    let from: Mac = mac_of(packet.source);
    packet.macs(from, INNER_MAC)
}

/// The same as the client should get it.
fn returned(packet: &Packet, vip: SocketAddr) -> Vec<u8> {
    let ttl = packet.ttl - 1;
    packet.clone().from(vip).macs(OWN_MAC, CLIENT_MAC).ttl(ttl).build()
}

/// The id and address of the backend that a packet opens a flow with.
fn open(plane: &mut Plane, position: usize, packet: &Packet) -> (u16, SocketAddr) {
    assert_eq!(plane.reason(packet), Reason::NewFlow);
    let (slot, _) = plane.flow(packet.source, plane.vip_id(position)).expect("the flow is in the table");
    (slot.backend(), plane.address_of(slot.backend()))
}

/// Bytes of a frame by the network header's own account.
fn without_padding(frame: &[u8]) -> usize {
    let halfword = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
    if frame[14] >> 4 == 4 { 14 + halfword(16) } else { 54 + halfword(18) }
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn an_answer_goes_back_as_the_vips_to_the_byte() {
    let mut plane = Plane::new(&specs());
    for (position, (case, protocol)) in CASES.iter().enumerate() {
        let (id, backend) = open(&mut plane, position, &opening(case, *protocol));
        let (client, vip) = (at(case.client), at(case.vip));
        let answers = match *protocol {
            TCP => vec![
                Packet::tcp(backend, client).segment(flags::SYN | flags::ACK, 500, 1001),
                Packet::tcp(backend, client).segment(flags::ACK, 501, 1001).padded(),
                Packet::tcp(backend, client)
                    .segment(flags::ACK | flags::PSH, 501, 1001)
                    .payload(b"HTTP/1.1 200"),
                Packet::tcp(backend, client).segment(flags::ACK, 513, 1001).payload(&[7; 1401]),
                Packet::tcp(backend, client).segment(flags::ACK | flags::FIN, 1914, 1001).padded(),
                Packet::tcp(backend, client).segment(flags::ACK, 513, 1001).tcp_options(&[1; 12]),
            ],
            _ => vec![
                Packet::udp(backend, client).payload(b"answer"),
                Packet::udp(backend, client),
                Packet::udp(backend, client).payload(&[7; 1401]),
            ],
        };
        let mut bytes = 0;
        for answer in &answers {
            let answer = answering(answer.clone());
            let (frame, wanted) = (answer.build(), returned(&answer, vip));
            bytes += without_padding(&frame);
            let outcome = Outcome { verdict: Verdict::Transmit, reason: Reason::Returned, frame: wanted };
            assert_eq!(plane.send(&frame), outcome, "{answer:?}");
        }
        let traffic = plane.dataplane.traffic(id).expect("counters are readable");
        assert_eq!((traffic.returned_packets, traffic.returned_bytes), (answers.len() as u64, bytes as u64));
        plane.check_gauges(case.vip);
    }
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn an_answer_without_a_udp_checksum_keeps_none() {
    let mut plane = Plane::new(&specs());
    let (_, backend) = open(&mut plane, 1, &opening(&V4, UDP));
    let answer = answering(Packet::udp(backend, at(V4.client)).payload(b"answer").without_checksum());
    assert_eq!(plane.send(&answer.build()).frame, returned(&answer, at(V4.vip)));
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn an_answer_leaves_by_the_interface_and_to_the_router_that_the_client_came_from() {
    let mut plane = Plane::new(&specs());
    let opened = opening(&V4, TCP);
    let (_, backend) = open(&mut plane, 0, &opened);
    let maps = plane.maps();
    let number = (0..maps.flow_info.len())
        .find(|&n| maps.flow_info.read(n).client == opened.source.ip().into())
        .expect("the flow has a cold line");
    let mut line = maps.flow_info.read(number);
    assert_eq!((line.interface, line.client_mac), (HERE, CLIENT_MAC.into()));
    let router: Mac = [2, 9, 9, 9, 9, 9];
    (line.interface, line.client_mac) = (ELSEWHERE, router.into());
    maps.flow_info.write(number, &line);
    let answer = answering(Packet::tcp(backend, opened.source).segment(flags::ACK, 501, 1001).payload(b"x"));
    let outcome = plane.send(&answer.build());
    assert_eq!((outcome.verdict, outcome.reason), (Verdict::Redirect, Reason::Returned));
    assert_eq!(outcome.frame[..6], router);
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn what_belongs_to_no_flow_of_the_backend_passes_untouched() {
    let mut plane = Plane::new(&specs());
    for (position, (case, protocol)) in CASES.iter().enumerate() {
        let (id, backend) = open(&mut plane, position, &opening(case, *protocol));
        let wrong =
            plane.backends()[2 * position..2 * position + 2].iter().copied().find(|&other| other != id);
        let wrong = plane.address_of(wrong.expect("there are two backends"));
        let (client, other) = (at(case.client), at(case.other));
        let packet = |from: SocketAddr, to: SocketAddr| match *protocol {
            TCP => Packet::tcp(from, to).segment(flags::ACK, 501, 1001).payload(b"answer"),
            _ => Packet::udp(from, to).payload(b"answer"),
        };
        let next_port = |at: SocketAddr| SocketAddr::new(at.ip(), at.port() + 1);
        for (what, packet) in [
            ("a scrape's answer", packet(backend, other)),
            ("another port of the client", packet(backend, next_port(client))),
            ("another port of the backend", packet(next_port(backend), client)),
            ("the wrong backend's answer", packet(wrong, client)),
            (
                "a probe's reset",
                match *protocol {
                    TCP => Packet::tcp(backend, other).segment(flags::RST, 501, 0),
                    _ => Packet::udp(backend, other),
                },
            ),
            ("an answer with an expiring TTL", packet(backend, other).ttl(1)),
        ] {
            let frame = answering(packet).build();
            let outcome = plane.send(&frame);
            assert_eq!((outcome.verdict, outcome.reason), (Verdict::Pass, Reason::NotOurs), "{what}");
            assert_eq!(outcome.frame, frame, "{what} is changed");
        }
        assert_eq!(plane.state(client, plane.vip_id(position)), State::Opening, "{}", case.vip);
        let expired = answering(packet(backend, client)).ttl(1);
        assert_eq!(plane.reason(&expired), Reason::TtlExpired);
    }
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn the_servers_packets_move_the_flow_too() {
    let mut plane = Plane::new(&[VipSpec { skip_bytes: 100, ..specs().remove(0) }]);
    let (client, vip, opened) = (at(V4.client), plane.vip_id(0), opening(&V4, TCP));
    let (id, backend) = open(&mut plane, 0, &opened);
    let from_client =
        |bits, seq, ack, payload: &[u8]| opened.clone().segment(bits, seq, ack).payload(payload);
    let from_server = |bits, seq, payload: &[u8]| {
        answering(Packet::tcp(backend, client)).segment(bits, seq, 1001).payload(payload)
    };
    use flags::{ACK, RST, SYN};
    for (what, packet, state) in [
        ("an ACK before any SYN-ACK", from_client(ACK, 1001, 501, b""), State::Opening),
        ("the SYN-ACK", from_server(SYN | ACK, 500, b""), State::Opening),
        ("the SYN-ACK again", from_server(SYN | ACK, 500, b""), State::Opening),
        ("an ACK of another number", from_client(ACK, 1001, 9999, b""), State::Opening),
        ("the ACK of the SYN-ACK", from_client(ACK, 1001, 501, b""), State::Idle),
        ("a SYN-ACK that comes late", from_server(SYN | ACK, 500, b""), State::Idle),
        ("a request", from_client(ACK, 1001, 501, &[b'q'; 50]), State::Awaiting),
        ("the server's bare ACK", from_server(ACK, 501, b""), State::Awaiting),
        ("headers, not yet more than skipped", from_server(ACK, 501, &[b'h'; 100]), State::Awaiting),
        ("the first token", from_server(ACK, 601, b"t"), State::Streaming),
        ("the next request", from_client(ACK, 1051, 602, &[b'q'; 50]), State::Awaiting),
        ("an old answer once more", from_server(ACK, 501, &[b'h'; 100]), State::Awaiting),
        ("the server's reset", from_server(RST, 602, b""), State::Closed),
        ("a bare ACK after it", from_client(ACK, 1101, 602, b""), State::Closed),
        ("data after it: the reset was forged", from_client(ACK, 1101, 602, b"more"), State::Awaiting),
    ] {
        let outcome = plane.send(&packet.build());
        assert_eq!(outcome.verdict, Verdict::Transmit, "{what}: {:?}", outcome.reason);
        assert_eq!(plane.state(client, vip), state, "after {what}");
        plane.check_gauges(what);
    }
    assert_eq!(plane.load(id).requests, 3);
    assert_eq!(plane.maps().progress.read(usize::from(id)).count, 1, "one answer has begun");
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn a_change_of_what_is_skipped_holds_for_answers_too() {
    let spec = |skip_bytes| VipSpec { skip_bytes, ..specs().remove(0) };
    let mut plane = Plane::new(&[spec(0)]);
    let (client, vip, opened) = (at(V4.client), plane.vip_id(0), opening(&V4, TCP));
    let (_, backend) = open(&mut plane, 0, &opened);
    let accepted = Packet::tcp(backend, client).segment(flags::SYN | flags::ACK, 500, 1001);
    assert_eq!(plane.reason(&answering(accepted)), Reason::Returned);
    let (mut asked, mut answered) = (1001, 501);
    for skip in [100, 10, 200, 0, 50] {
        plane.apply(&[spec(skip)]);
        plane.forward(&opened.clone().segment(flags::ACK, asked, answered).payload(b"question"));
        asked += 8;
        for (length, state) in [(u32::from(skip), State::Awaiting), (1, State::Streaming)] {
            let payload = vec![b'a'; length as usize];
            let answer = Packet::tcp(backend, client).segment(flags::ACK, answered, asked).payload(&payload);
            assert_eq!(plane.reason(&answering(answer)), Reason::Returned);
            answered += length;
            assert_eq!(plane.state(client, vip), state, "{length} bytes, {skip} are skipped");
        }
    }
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn answers_of_a_backend_that_drains_is_down_or_has_left_still_go_back() {
    let mut plane = Plane::new(&specs());
    let opened = opening(&V4, TCP);
    let (id, backend) = open(&mut plane, 0, &opened);
    let answer = answering(Packet::tcp(backend, at(V4.client)).segment(flags::ACK, 501, 1001).payload(b"x"));
    for (what, standing) in [
        ("draining", Standing { active: false, ..up(backend) }),
        ("down", Standing { healthy: false, ..up(backend) }),
        ("without a next hop", Standing { hop: None, ..up(backend) }),
    ] {
        plane.stand(id, standing);
        assert_eq!(plane.send(&answer.build()).frame, returned(&answer, at(V4.vip)), "{what}");
    }
    let mut fewer = specs();
    fewer[0].backends.retain(|spec| spec.endpoint.address != backend.ip().into());
    plane.apply(&fewer);
    assert_eq!(plane.send(&answer.build()).frame, returned(&answer, at(V4.vip)), "no longer configured");
}

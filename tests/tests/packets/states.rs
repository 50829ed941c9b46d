//! What a client's packets do to its flow, seen from outside: state, gauges and counts after each.

use std::net::SocketAddr;

use guidevane::dataplane::spec::{Standing, VipSpec};
use guidevane_tests::packet::{
    Packet,
    flags::{ACK, FIN, PSH, RST, SYN},
};
use lb_common::{
    layout::Mode,
    pick::{COST_MAX, COST_ONE},
    reason::Reason,
    slot::{self, GAUGES, Gauge, State},
};

use crate::{
    mirror::ordinary_clients,
    plane::{Plane, TCP, UDP, arriving, at, gauge, service, up},
};

const VIP: &str = "10.200.1.1:443";
const BACKENDS: [&str; 3] = ["10.0.0.1:443", "10.0.0.2:443", "10.0.0.3:443"];
const CLIENT: &str = "192.168.1.7:31337";
const SKIP: u16 = 100;

fn spec() -> VipSpec {
    VipSpec { skip_bytes: SKIP, ..service(VIP, TCP, Mode::L2, &BACKENDS) }
}

/// What a packet must lead to.
struct Step {
    what: &'static str,
    bits: u8,
    sequence: u32,
    acknowledged: u32,
    payload: &'static [u8],
    state: State,
    /// Requests so far.
    requests: u64,
    /// First progresses so far.
    answers: u64,
}

const fn step(
    what: &'static str,
    (bits, sequence, acknowledged, payload): (u8, u32, u32, &'static [u8]),
    state: State,
    (requests, answers): (u64, u64),
) -> Step {
    Step { what, bits, sequence, acknowledged, payload, state, requests, answers }
}

/// Plays the steps of one client, and checks everything that can be seen after each of them.
fn play(plane: &mut Plane, client: SocketAddr, steps: &[Step]) {
    let vip = plane.vip_id(0);
    let mut backend = None;
    for step in steps {
        let what = step.what;
        let packet = arriving(Packet::tcp(client, at(VIP)))
            .segment(step.bits, step.sequence, step.acknowledged)
            .payload(step.payload)
            .padded();
        let id = plane.forward(&packet);
        assert_eq!(*backend.get_or_insert(id), id, "{what}: the flow keeps its backend");
        let (slot, line) = plane.flow(client, vip).unwrap_or_else(|| panic!("{what}: no flow"));
        assert_eq!((slot.state(), slot.backend()), (step.state, id), "after {what}: {line:?}");
        let load = plane.load(id);
        assert_eq!(load.requests, step.requests, "requests after {what}");
        let histogram = plane.maps().progress.read(usize::from(id));
        assert_eq!(histogram.count, step.answers, "first progresses after {what}");
        assert_eq!(u64::from(histogram.counts.iter().sum::<u32>()), step.answers, "buckets after {what}");
        assert_eq!(line.request_at != 0, step.requests > 0, "the time of the request after {what}");
        assert_eq!(slot::flows(&load.gauges), u32::from(step.state.gauge().is_some()), "{what}");
        plane.check_gauges(what);
    }
}

const REQUEST: &[u8; 50] = &[b'q'; 50];

#[test]
#[ignore = "needs root: loads the kernel program"]
fn a_connection_with_keep_alive_waits_and_streams_request_by_request() {
    use State::{Awaiting, Closing, Opening, Streaming};
    play(
        &mut Plane::new(&[spec()]),
        at(CLIENT),
        &[
            step("SYN", (SYN, 1000, 0, b""), Opening, (0, 0)),
            step("SYN again", (SYN, 1000, 0, b""), Opening, (0, 0)),
            step("ACK of the handshake", (ACK, 1001, 501, b""), Opening, (0, 0)),
            step("request", (ACK | PSH, 1001, 501, REQUEST), Awaiting, (1, 0)),
            step("request again", (ACK | PSH, 1001, 501, REQUEST), Awaiting, (1, 0)),
            step("a part of it again", (ACK, 1001, 501, &[b'q'; 20]), Awaiting, (1, 0)),
            step("a second segment of it", (ACK | PSH, 1051, 501, REQUEST), Awaiting, (1, 0)),
            step("ACK without progress", (ACK, 1101, 501, b""), Awaiting, (1, 0)),
            step("keep-alive probe", (ACK, 1100, 501, b""), Awaiting, (1, 0)),
            step("ACK of headers", (ACK, 1101, 601, b""), Awaiting, (1, 0)),
            step("ACK of the first token", (ACK, 1101, 602, b""), Streaming, (1, 1)),
            step("ACK of the second", (ACK, 1101, 640, b""), Streaming, (1, 1)),
            step("an old ACK", (ACK, 1101, 501, b""), Streaming, (1, 1)),
            step("request again, late", (ACK | PSH, 1001, 501, REQUEST), Streaming, (1, 1)),
            step("keep-alive probe with a byte", (ACK, 1100, 640, b"\0"), Streaming, (1, 1)),
            step("next request", (ACK | PSH, 1101, 700, REQUEST), Awaiting, (2, 1)),
            step("ACK of its headers", (ACK, 1151, 800, b""), Awaiting, (2, 1)),
            step(
                "the third request, acknowledging the second's answer",
                (ACK, 1151, 900, REQUEST),
                Awaiting,
                (3, 1),
            ),
            step("ACK of its answer", (ACK, 1201, 1100, b""), Streaming, (3, 2)),
            step("FIN", (ACK | FIN, 1201, 1100, b""), Closing, (3, 2)),
            step("FIN again", (ACK | FIN, 1201, 1100, b""), Closing, (3, 2)),
            step("ACK of the server's FIN", (ACK, 1202, 1101, b""), Closing, (3, 2)),
        ],
    );
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn numbers_wrap_without_a_request_lost_or_made_up() {
    use State::{Awaiting, Opening, Streaming};
    const LAST: u32 = u32::MAX;
    play(
        &mut Plane::new(&[spec()]),
        at(CLIENT),
        &[
            step("SYN", (SYN, LAST - 10, 0, b""), Opening, (0, 0)),
            step("request across the wrap", (ACK, LAST - 9, LAST - 20, REQUEST), Awaiting, (1, 0)),
            step("it again", (ACK, LAST - 9, LAST - 20, REQUEST), Awaiting, (1, 0)),
            step("ACK of headers", (ACK, 40, 79, b""), Awaiting, (1, 0)),
            step("ACK of the first token", (ACK, 40, 80, b""), Streaming, (1, 1)),
            step("it again, late", (ACK, LAST - 9, LAST - 20, REQUEST), Streaming, (1, 1)),
            step("next request", (ACK, 40, 80, REQUEST), Awaiting, (2, 1)),
        ],
    );
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn a_tls_handshake_is_no_request() {
    use State::{Awaiting, Idle, Opening, Streaming};
    const HELLO: &[u8; 9] = b"\x16\x03\x01\0\x04\x01\0\0\0";
    const CHANGE: &[u8; 8] = b"\x14\x03\x03\0\x01\x01\x17\x03";
    const DATA: &[u8; 9] = b"\x17\x03\x03\0\x04\x01\0\0\0";
    play(
        &mut Plane::new(&[spec()]),
        at(CLIENT),
        &[
            step("SYN", (SYN, 1000, 0, b""), Opening, (0, 0)),
            step("client hello", (ACK | PSH, 1001, 501, HELLO), Idle, (0, 0)),
            step("client hello again", (ACK | PSH, 1001, 501, HELLO), Idle, (0, 0)),
            step("ACK of certificates", (ACK, 1010, 4501, b""), Streaming, (0, 0)),
            step("change of cipher and finish", (ACK | PSH, 1010, 4501, CHANGE), Streaming, (0, 0)),
            step("application data", (ACK | PSH, 1018, 4501, DATA), Awaiting, (1, 0)),
            step("ACK of session tickets and headers", (ACK, 1027, 5520, b""), Awaiting, (1, 0)),
            step("ACK of more at once than they can be", (ACK, 1027, 5522, b""), Streaming, (1, 1)),
            step("more application data", (ACK | PSH, 1027, 5522, DATA), Awaiting, (2, 1)),
            step("ACK of its headers: there are no tickets now", (ACK, 1036, 5622, b""), Awaiting, (2, 1)),
            step("ACK of its first token", (ACK, 1036, 5623, b""), Streaming, (2, 2)),
        ],
    );
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn a_finished_client_still_waits_for_its_answer() {
    use State::{Awaiting, Closing, Opening, Streaming};
    play(
        &mut Plane::new(&[spec()]),
        at(CLIENT),
        &[
            step("SYN", (SYN, 1000, 0, b""), Opening, (0, 0)),
            step("request with FIN", (ACK | FIN, 1001, 501, REQUEST), Awaiting, (1, 0)),
            step("ACK of headers", (ACK, 1052, 560, b""), Awaiting, (1, 0)),
            step("ACK of the first token", (ACK, 1052, 700, b""), Streaming, (1, 1)),
            step("FIN once more", (ACK | FIN, 1051, 700, b""), Closing, (1, 1)),
            step("ACK of a trailer", (ACK, 1052, 764, b""), Closing, (1, 1)),
            step("ACK of more: the answer goes on", (ACK, 1052, 900, b""), Streaming, (1, 1)),
        ],
    );
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn a_forged_reset_changes_nothing_for_long() {
    use State::{Awaiting, Closed, Opening, Streaming};
    play(
        &mut Plane::new(&[spec()]),
        at(CLIENT),
        &[
            step("SYN", (SYN, 1000, 0, b""), Opening, (0, 0)),
            step("request", (ACK, 1001, 501, REQUEST), Awaiting, (1, 0)),
            step("ACK of the first token", (ACK, 1051, 700, b""), Streaming, (1, 1)),
            step("RST", (RST, 1051, 0, b""), Closed, (1, 1)),
            step("RST again", (RST | ACK, 1051, 700, b""), Closed, (1, 1)),
            step("ACK without progress", (ACK, 1051, 700, b""), Closed, (1, 1)),
            step("ACK with progress", (ACK, 1051, 750, b""), Streaming, (1, 1)),
            step("RST", (RST, 1051, 0, b""), Closed, (1, 1)),
            step("data", (ACK, 1051, 750, REQUEST), Awaiting, (2, 1)),
        ],
    );
}

fn segment(client: SocketAddr, bits: u8) -> Packet {
    arriving(Packet::tcp(client, at(VIP))).segment(bits, 1000, 500)
}

/// Makes every backend but one expensive.
fn prefer(plane: &Plane, favourite: u16) {
    for id in plane.backends() {
        plane.set_cost(id, if id == favourite { COST_ONE } else { COST_MAX });
    }
}

fn other_than(plane: &Plane, id: u16) -> u16 {
    plane.backends().into_iter().find(|&other| other != id).expect("there are several backends")
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn a_syn_keeps_its_pick_unless_the_flow_is_closed() {
    let mut plane = Plane::new(&[spec()]);
    let vip = plane.vip_id(0);
    for client in ordinary_clients(&plane, 0, "192.168.1.7").into_iter().take(20) {
        let first = plane.forward(&segment(client, SYN));
        let favourite = other_than(&plane, first);
        prefer(&plane, favourite);
        assert_eq!(plane.forward(&segment(client, SYN)), first, "a SYN again, after costs have changed");
        assert_eq!(plane.forward(&segment(client, SYN | FIN)), first, "a SYN with FIN");
        assert_eq!(plane.load(first).gauges[Gauge::Opening as usize], 1, "it is one flow still");

        plane.forward(&segment(client, ACK | FIN));
        assert_eq!(plane.state(client, vip), State::Closing);
        assert_eq!(plane.forward(&segment(client, SYN)), first, "a port used again at once");
        assert_eq!(plane.state(client, vip), State::Opening);

        plane.forward(&segment(client, RST));
        assert_eq!(plane.state(client, vip), State::Opening, "a reset before any payload could be anyone's");
        plane.forward(&segment(client, ACK).payload(REQUEST));
        plane.forward(&segment(client, RST));
        assert_eq!(plane.state(client, vip), State::Closed);
        let outcome = plane.send(&segment(client, SYN).build());
        assert_eq!(outcome.reason, Reason::NewFlow, "a SYN on a closed flow");
        assert_eq!(plane.backend_by_mac(&outcome.frame), favourite, "it is picked anew");
        plane.check_gauges("after a flow was picked anew");
        plane.forward(&segment(client, ACK).payload(REQUEST));
        plane.forward(&segment(client, RST));
    }
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn flows_stay_with_a_draining_backend_and_new_ones_avoid_it() {
    let mut plane = Plane::new(&[spec()]);
    let client = at(CLIENT);
    let id = plane.forward(&segment(client, SYN));
    plane.forward(&segment(client, ACK).segment(ACK, 1001, 501).payload(REQUEST));
    let backend = plane.address_of(id);
    plane.stand(id, Standing { active: false, ..up(backend) });
    for bits in [ACK, SYN, ACK | PSH] {
        let outcome = plane.send(&segment(client, bits).build());
        assert_eq!(outcome.reason, Reason::Established, "flags {bits:#x}");
        assert_eq!(plane.backend_by_mac(&outcome.frame), id);
    }
    for port in 1..200 {
        assert_ne!(plane.forward(&segment(SocketAddr::new(client.ip(), port), SYN)), id, "port {port}");
    }
    // Behind a FIN comes another connection, and new ones are not welcome.
    plane.forward(&segment(client, ACK | FIN).segment(ACK | FIN, 1001 + REQUEST.len() as u32, 501));
    plane.forward(&segment(client, ACK).segment(ACK, 1001 + REQUEST.len() as u32, 5_000));
    plane.forward(&segment(client, ACK | FIN).segment(ACK | FIN, 1001 + REQUEST.len() as u32, 5_000));
    assert_eq!(plane.state(client, plane.vip_id(0)), State::Closing);
    assert_ne!(plane.forward(&segment(client, SYN)), id, "the port is used again");
    plane.check_gauges("after draining");
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn what_waits_counts_by_the_size_of_its_request_however_many_segments_it_comes_in() {
    let mut plane = Plane::new(&[spec()]);
    let client = at(CLIENT);
    let id = plane.forward(&segment(client, SYN));
    let mut end = 1001;
    let mut send = |plane: &mut Plane, payload: usize, acknowledged: u32| {
        let packet = segment(client, ACK).segment(ACK, end, acknowledged).payload(&vec![b'q'; payload]);
        plane.forward(&packet);
        end += payload as u32;
        plane.check_gauges("as its request grows");
        gauge(&plane.load(id).gauges, Gauge::Prompts)
    };
    let small = send(&mut plane, 300, 501);
    assert!(small > 0, "any request is something");
    let mut sizes = vec![small];
    for _ in 0..30 {
        sizes.push(send(&mut plane, 1400, 501));
    }
    assert!(sizes.is_sorted() && sizes[30] > 5 * small, "42 KB in 31 segments: {sizes:?}");
    assert_eq!(send(&mut plane, 0, 501), sizes[30], "an acknowledgement without progress changes nothing");
    assert_eq!(send(&mut plane, 0, 5_000), 0, "its answer has begun");
    assert_eq!(send(&mut plane, 200, 9_000), small, "the next one is small again");
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn a_syn_leaves_a_backend_that_is_down_and_an_established_flow_does_not() {
    let mut plane = Plane::new(&[spec()]);
    let client = at(CLIENT);
    let id = plane.forward(&segment(client, SYN));
    plane.forward(&segment(client, ACK).segment(ACK, 1001, 501).payload(REQUEST));
    let backend = plane.address_of(id);
    plane.stand(id, Standing { healthy: false, ..up(backend) });
    assert_eq!(plane.forward(&segment(client, ACK)), id, "nobody else knows the connection");
    let outcome = plane.send(&segment(client, SYN).build());
    assert_eq!(outcome.reason, Reason::NewFlow);
    let next = plane.backend_by_mac(&outcome.frame);
    assert_ne!(next, id, "a SYN to a backend that is down");
    plane.check_gauges("after the flow has moved");
    assert_eq!((plane.load(id).gauges, gauge(&plane.load(next).gauges, Gauge::Opening)), ([0; GAUGES], 1));
    let (_, line) = plane.flow(client, plane.vip_id(0)).expect("the flow is in the table");
    assert_eq!((line.request_at, line.track.high_sequence), (0, 1001), "its numbers start anew");
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn datagrams_are_half_open_until_the_second_and_leave_a_backend_that_is_down() {
    let mut plane = Plane::new(&[service(VIP, UDP, Mode::L2, &BACKENDS)]);
    let (client, vip) = (at(CLIENT), plane.vip_id(0));
    let datagram = arriving(Packet::udp(client, at(VIP))).payload(b"x");
    let first = plane.forward(&datagram);
    assert_eq!(plane.state(client, vip), State::Opening);
    for number in 0..3 {
        assert_eq!(plane.forward(&datagram), first, "datagram {number}");
        assert_eq!(plane.state(client, vip), State::Streaming);
        plane.check_gauges("after a datagram");
    }
    let backend = plane.address_of(first);
    plane.stand(first, Standing { healthy: false, ..up(backend) });
    let outcome = plane.send(&datagram.build());
    assert_eq!(outcome.reason, Reason::NewFlow);
    assert_ne!(plane.backend_by_mac(&outcome.frame), first);
    plane.check_gauges("after it has moved");
}

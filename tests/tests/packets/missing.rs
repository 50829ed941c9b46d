//! TCP segments that open nothing and belong to no flow that is known.

use std::net::SocketAddr;

use guidevane::dataplane::spec::{Standing, VipSpec};
use guidevane_tests::packet::{
    Packet,
    flags::{ACK, FIN, RST, SYN},
};
use lb_common::{
    flow::FlowKey,
    layout::Mode,
    maglev,
    pick::{Policy, Pool as _, Rule},
    reason::Reason,
    slot::State,
};

use crate::{
    mirror::mirror,
    plane::{Plane, TCP, Verdict, arriving, at, service, up},
};

const VIP: &str = "10.200.1.1:443";
const BACKENDS: [&str; 3] = ["10.0.0.1:443", "10.0.0.2:443", "10.0.0.3:443"];
/// What is no SYN, or not only.
const FLAGS: [u8; 6] = [ACK, ACK | FIN, RST, RST | ACK, SYN | ACK, SYN | RST];

fn clients() -> impl Iterator<Item = SocketAddr> {
    (0..200u16).map(|n| SocketAddr::new([192, 168, 1, (n % 50) as u8].into(), 1024 + n))
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn under_l2_it_goes_where_the_table_says_and_enters_nothing() {
    for policy in [Policy::Least, Policy::RoundRobin, Policy::Hash] {
        let rule = Rule { policy: policy as u8, ..Rule::default() };
        let mut plane = Plane::new(&[VipSpec { rule, ..service(VIP, TCP, Mode::L2, &BACKENDS) }]);
        let (vip, mirror) = (plane.vip_id(0), mirror(&plane, 0));
        for (client, bits) in clients().zip(FLAGS.into_iter().cycle()) {
            let packet = arriving(Packet::tcp(client, at(VIP))).segment(bits, 7, 7).payload(b"data");
            let outcome = plane.send(&packet.build());
            assert_eq!(outcome.reason, Reason::Unknown, "flags {bits:#x}");
            let expected = mirror.table(maglev::draw(plane.hash(client, vip), 0, mirror.size()));
            assert_eq!(plane.backend_by_mac(&outcome.frame), expected, "{client} under {policy:?}");
            assert_eq!(plane.state(client, vip), State::Empty, "{client} under {policy:?}");
        }
        assert!(plane.slots().is_empty());
        plane.check_gauges("after unknown flows");
    }
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn the_table_follows_the_client_where_affinity_does_and_has_no_backend_that_is_down() {
    let spec = VipSpec { client_affinity: true, ..service(VIP, TCP, Mode::L2, &BACKENDS) };
    let mut plane = Plane::new(&[spec]);
    let down = plane.backends()[0];
    let backend = plane.address_of(down);
    plane.stand(down, Standing { healthy: false, ..up(backend) });
    let mirror = mirror(&plane, 0);
    let key = plane.maps().meta.read(0).key;
    for client in clients() {
        let id = plane.forward(&arriving(Packet::tcp(client, at(VIP))));
        let flow = FlowKey { client: client.ip().into(), client_port_be: 0, vip: plane.vip_id(0) };
        assert_eq!(id, mirror.table(maglev::draw(flow.client_hash(key), 0, mirror.size())), "{client}");
        assert_ne!(id, down, "{client}");
    }
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn under_nat_it_is_dropped_since_nothing_could_translate_the_answer() {
    let mut plane = Plane::new(&[service(VIP, TCP, Mode::Nat, &BACKENDS)]);
    for (client, bits) in clients().zip(FLAGS.into_iter().cycle()) {
        let packet = arriving(Packet::tcp(client, at(VIP))).segment(bits, 7, 7);
        let outcome = plane.send(&packet.build());
        assert_eq!((outcome.verdict, outcome.reason), (Verdict::Drop, Reason::UnknownNat), "flags {bits:#x}");
    }
    assert!(plane.slots().is_empty());
}

//! The model against frames whose outcome is built, not computed.

use std::net::SocketAddr;

use super::{Act, Backend, Config, Mode, Model, Prefix, Vip};
use crate::packet::{Icmp, Outer, Packet, Problem, assert_right, flags, fragments, quote};

const OWN: [u8; 6] = [2, 0, 0, 0, 0, 0xb];
const CLIENT: [u8; 6] = [2, 0, 0, 0, 0, 0xc];
const SERVER: [u8; 6] = [2, 0, 0, 0, 0, 0xd];
const INNER: [u8; 6] = [2, 0, 0, 0, 0, 0xa];

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address and a port")
}

fn model(mode: Mode) -> Model {
    let (vip, server) = (at("10.200.1.1:80"), at("10.0.0.1:8000"));
    let backend = Backend {
        address: server.ip(),
        port: server.port(),
        mac: SERVER,
        own_mac: INNER,
        mtu: 1500,
        eligible: true,
        server_id: None,
    };
    let vip = Vip {
        address: vip.ip(),
        port: vip.port(),
        protocol: 6,
        mode,
        quic: None,
        answers: None,
        backends: vec![backend],
    };
    let prefix = |base: &str, free| Prefix { base: base.parse().expect("an address"), free };
    let outer = [prefix("172.16.0.0", 16), prefix("100::", 32)];
    Model::new(Config { vips: vec![vip], sources: vec!["10.0.9.9".parse().expect("an address")], outer })
}

fn syn() -> Packet {
    let packet = Packet::tcp(at("192.168.1.7:31337"), at("10.200.1.1:80"));
    packet.macs(CLIENT, OWN).segment(flags::SYN, 1000, 0)
}

#[test]
fn a_flow_goes_out_as_built_in_every_mode() {
    let on = syn().ttl(63).macs(INNER, SERVER);
    let outer = Outer {
        macs: (INNER, SERVER),
        source: "172.16.0.0".parse().expect("an address"),
        destination: "10.0.0.1".parse().expect("an address"),
        gue: None,
    };
    for (mode, wanted) in [
        (Mode::L2, on.build()),
        (Mode::Nat, on.clone().to(at("10.0.0.1:8000")).build()),
        (Mode::OneArmedNat, on.clone().to(at("10.0.0.1:8000")).from(at("10.0.9.9:1024")).build()),
        (Mode::Tunnel { gue: false }, outer.around(&on.build())),
        (Mode::Tunnel { gue: true }, Outer { gue: Some(0xc000), ..outer }.around(&on.build())),
    ] {
        let mut model = model(mode);
        let first = model.decide(&syn().build(), None);
        assert_eq!((first.act, first.reason), (Act::Forward, "new_flow"), "{mode:?}");
        assert_eq!(first.frame, wanted, "{mode:?}");
        assert_eq!(model.decide(&syn().build(), None).reason, "established", "{mode:?}");
    }
}

#[test]
fn an_error_about_a_translated_flow_is_translated_with_what_it_quotes() {
    let (router, answer) = ("192.168.1.1".parse().expect("an address"), "10.200.1.1:80");
    let mut model = model(Mode::Nat);
    model.decide(&syn().build(), None);
    for limit in [8, usize::MAX] {
        let quoting = |from: &str| {
            let packet = Packet::tcp(at(from), syn().source).payload(b"answer").build();
            quote(&packet, limit)
        };
        let error = Icmp::error(router, at(answer).ip(), Problem::TooBig(1400), quoting(answer));
        let decision = model.decide(&error.macs(CLIENT, OWN).build(), None);
        assert_eq!(decision.reason, "icmp_error");
        assert_right(&decision.frame, "the error");
        let to = at("10.0.0.1:8000");
        let mut quoted = quoting("10.0.0.1:8000");
        if limit == usize::MAX {
            // The quoted transport's checksum is left as the client saw it.
            let original = quoting(answer);
            quoted[36..38].copy_from_slice(&original[36..38]);
        }
        let wanted = Icmp::error(router, to.ip(), Problem::TooBig(1400), quoted);
        assert_eq!(decision.frame, wanted.ttl(63).macs(INNER, SERVER).build());
    }
}

#[test]
fn fragments_of_a_translated_packet_are_those_of_its_translation() {
    let mut model = model(Mode::Nat);
    let packet = syn().payload(&[7; 100]);
    let translated = packet.clone().ttl(63).macs(INNER, SERVER).to(at("10.0.0.1:8000"));
    let pairs = fragments(&packet.build(), 40, 9).into_iter().zip(fragments(&translated.build(), 40, 9));
    for (number, (part, wanted)) in pairs.enumerate() {
        let decision = model.decide(&part, None);
        assert_eq!(decision.reason, if number == 0 { "new_flow" } else { "fragment" });
        assert_eq!(decision.frame, wanted, "fragment {number}");
    }
}

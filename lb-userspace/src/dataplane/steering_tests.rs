use std::sync::Arc;

use lb_common::{
    address::Endpoint,
    layout::{Mode, NO_SERVER_ID, PORT_SETS, Vip, server_endpoint, vip_flags},
    pick::{Policy, Rule},
};

use super::{
    super::{
        loader::Maps,
        spec::{BackendSpec, NextHop, ServerIds, Sources, Standing, TunnelSource, VipSpec},
        testing::{FLOW_SETS, address, endpoint, maps, reals, row},
    },
    Steering,
};

const TCP: u8 = 6;
const UDP: u8 = 17;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

fn steering(sources: &[&str]) -> (Steering, Arc<Maps>) {
    let maps = maps(sources.len() as u32);
    let sources = sources.iter().map(|source| address(source)).collect();
    (Steering::new(Arc::clone(&maps), sources).expect("nothing to adopt"), maps)
}

fn service(vip: &str, protocol: u8, mode: Mode, backends: &[(&str, Option<u64>)]) -> VipSpec {
    let backends = backends.iter().map(|(at, server_id)| BackendSpec {
        name: (*at).to_owned(),
        endpoint: endpoint(at, protocol),
        weight: 100,
        server_id: *server_id,
    });
    VipSpec {
        name: vip.to_owned(),
        endpoint: endpoint(vip, protocol),
        mode,
        gue: false,
        source_nat: false,
        quic: None,
        rule: Rule { policy: Policy::Least as u8, awaiting_weight: 4, epsilon: 0 },
        client_affinity: false,
        skip_bytes: 0,
        answers: None,
        backends: backends.collect(),
    }
}

fn found(maps: &Maps, endpoint: &Endpoint) -> Vip {
    row(maps, endpoint).unwrap_or_else(|| panic!("nothing answers to {endpoint:?}"))
}

#[test]
fn tunnel_sources_are_written_as_addresses_lie_in_memory() {
    let (mut steering, maps) = steering(&[]);
    let low16 = 0xffff_u32.to_be();
    let sources = Sources {
        tunnel_v4: Some(TunnelSource { address: address("172.16.0.0"), spread: low16 }),
        tunnel_v6: Some(TunnelSource { address: address("fd00:1::"), spread: u32::MAX }),
        answers: None,
    };
    steering.set_sources(&sources);
    let control = maps.control.read(0);
    assert_eq!(control.source_v4.to_ne_bytes(), [172, 16, 0, 0]);
    assert_eq!((control.source_v4 | control.spread_v4).to_ne_bytes(), [172, 16, 255, 255]);
    assert_eq!((control.source_v6, control.spread_v6), (address("fd00:1::"), u32::MAX));
    // One that is gone stays for what is on its way.
    steering.set_sources(&Sources { tunnel_v6: None, ..sources });
    assert_eq!(maps.control.read(0).source_v6, address("fd00:1::"));
}

#[test]
fn rows_say_how_each_mode_forwards() {
    let (mut steering, maps) = steering(&["10.0.0.200"]);
    let gue = VipSpec { gue: true, ..service("10.1.0.1:0", TCP, Mode::Tunnel, &[("[fd00::1]:0", None)]) };
    let one_armed =
        VipSpec { source_nat: true, ..service("10.1.0.2:80", TCP, Mode::Nat, &[("10.2.0.1:80", None)]) };
    let quic = VipSpec {
        quic: Some(ServerIds { config: 5, length: 3 }),
        ..service("10.1.0.3:443", UDP, Mode::L2, &[("10.2.0.2:443", Some(0xabc))])
    };
    steering.apply(&[gue.clone(), one_armed.clone(), quic.clone()], 0).expect("room for all");
    let row = found(&maps, &gue.endpoint);
    assert_eq!((row.mode, row.flags, row.sources), (Mode::Tunnel as u8, vip_flags::GUE, 0));
    let row = found(&maps, &one_armed.endpoint);
    assert_eq!((row.mode, row.flags), (Mode::Nat as u8, vip_flags::SOURCE_NAT));
    assert_eq!((row.ports, row.sources), (FLOW_SETS, 1));
    assert_eq!(found(&maps, &quic.endpoint).quic, 0x53);
}

#[test]
fn an_address_says_whether_some_vip_of_it_is_for_every_port() {
    let (mut steering, maps) = steering(&[]);
    let answers = Some((3, MAC.into()));
    let any = VipSpec { answers, ..service("10.1.0.1:0", TCP, Mode::L2, &[("10.2.0.1:0", None)]) };
    let one = VipSpec { answers, ..service("10.1.0.1:80", TCP, Mode::L2, &[("10.2.0.1:80", None)]) };
    for (vips, expected) in [
        (vec![any.clone(), one.clone()], vip_flags::ANY_PORT | vip_flags::ANSWER_NEIGHBOURS),
        (vec![one.clone(), any], vip_flags::ANY_PORT | vip_flags::ANSWER_NEIGHBOURS),
        (vec![one], vip_flags::ANSWER_NEIGHBOURS),
    ] {
        steering.apply(&vips, 0).expect("room for all");
        let row = found(&maps, &Endpoint::address_only(address("10.1.0.1")));
        assert_eq!((row.flags, row.interface), (expected, 3));
    }
}

#[test]
fn source_addresses_have_rows_and_their_vips_the_first_set_of_their_family() {
    let addresses = ["10.0.0.200", "10.0.0.201", "fd00::200"];
    let (mut steering, maps) = steering(&addresses);
    let one_armed = |vip, real| VipSpec { source_nat: true, ..service(vip, TCP, Mode::Nat, &[(real, None)]) };
    let vips = [one_armed("10.1.0.1:80", "10.2.0.1:80"), one_armed("[fd01::1]:80", "[fd02::1]:80")];
    let answering = Sources { answers: Some((3, MAC.into())), ..Sources::default() };
    for (number, source) in addresses.into_iter().enumerate() {
        assert_eq!(maps.sources.read(number), address(source), "its place");
    }
    for (sources, flags, interface) in [
        (Sources::default(), vip_flags::SOURCE_ADDRESS, 0),
        (answering, vip_flags::SOURCE_ADDRESS | vip_flags::ANSWER_NEIGHBOURS, 3),
    ] {
        steering.set_sources(&sources);
        steering.apply(&vips, 0).expect("room for all");
        for (number, source) in (0..).zip(addresses) {
            let row = found(&maps, &Endpoint::address_only(address(source)));
            assert_eq!((row.flags, row.interface), (flags, interface), "{source}");
            assert_eq!((row.ports, row.sources), (FLOW_SETS + number * PORT_SETS, 1), "{source}");
        }
        let ports = |vip: &VipSpec| {
            let row = found(&maps, &vip.endpoint);
            (row.ports, row.sources)
        };
        assert_eq!(ports(&vips[0]), (FLOW_SETS, 2));
        assert_eq!(ports(&vips[1]), (FLOW_SETS + 2 * PORT_SETS, 1));
    }
}

#[test]
fn only_answers_that_nothing_else_tells_are_looked_up_by_their_server() {
    let (mut steering, maps) = steering(&["10.0.0.200"]);
    let two_armed = service("10.1.0.1:80", TCP, Mode::Nat, &[("10.2.0.1:80", None)]);
    let one_armed =
        VipSpec { source_nat: true, ..service("10.1.0.2:80", TCP, Mode::Nat, &[("10.2.0.2:80", None)]) };
    let tunnel = service("10.1.0.3:80", TCP, Mode::Tunnel, &[("10.2.0.3:80", None)]);
    steering.apply(&[two_armed, one_armed, tunnel], 0).expect("room for all");
    let ids: Vec<u16> = steering.services().iter().map(|service| service.backends[0]).collect();
    assert_eq!(reals(&maps, &endpoint("10.2.0.1:80", TCP)), [ids[0]]);
    for other in ["10.2.0.2:80", "10.2.0.3:80"] {
        assert!(!reals(&maps, &endpoint(other, TCP)).iter().any(|id| ids[1..].contains(id)), "{other}");
    }
}

#[test]
fn server_ids_lead_to_their_backends_through_every_change() {
    let (mut steering, maps) = steering(&[]);
    let vip = |backends: &[(&str, Option<u64>)]| {
        [VipSpec {
            quic: Some(ServerIds { config: 0, length: 2 }),
            ..service("10.1.0.1:443", UDP, Mode::L2, backends)
        }]
    };
    steering.apply(&vip(&[("10.2.0.1:443", Some(1)), ("10.2.0.2:443", None)]), 0).expect("room");
    let service = &steering.services()[0];
    let (vip_id, a, b) = (service.id, service.backends[0], service.backends[1]);
    let named = |maps: &Maps, server| reals(maps, &server_endpoint(vip_id, server));
    let written = |id: u16| maps.backends.read(usize::from(id)).hops[0].server_id;
    assert_eq!(named(&maps, 1), [a]);
    assert_eq!((written(a), written(b)), (1, NO_SERVER_ID));

    // The same while packets follow the row, and now the other backend has that name.
    let hop = NextHop { mac: MAC.into(), source_mac: MAC.into(), interface: 3, mtu: 1400 };
    let standing = Standing { healthy: true, active: true, hop: Some(hop) };
    steering.stand([(a, standing), (b, standing)]).expect("a grace period");
    steering.apply(&vip(&[("10.2.0.1:443", Some(2)), ("10.2.0.2:443", Some(1))]), 0).expect("room");
    assert_eq!((named(&maps, 1), named(&maps, 2)), (vec![b], vec![a]));
    assert_eq!((written(a), written(b)), (2, 1));
    assert_eq!(maps.backends.read(usize::from(a)).hops[0].mtu, 1400);

    // A backend that leaves keeps its name for the flows it has, until another takes it.
    steering.apply(&vip(&[("10.2.0.2:443", Some(1))]), 0).expect("room");
    assert_eq!(named(&maps, 2), [a]);
    steering.apply(&vip(&[("10.2.0.2:443", Some(2))]), 0).expect("room");
    assert_eq!((named(&maps, 1), named(&maps, 2)), (vec![], vec![b]));
}

#[test]
fn a_way_that_takes_other_packets_is_another_way() {
    let (mut steering, maps) = steering(&[]);
    steering.apply(&[service("10.1.0.1:80", TCP, Mode::Tunnel, &[("10.2.0.1:80", None)])], 0).expect("room");
    let id = steering.services()[0].backends[0];
    for mtu in [1500, 1400, 9000] {
        let hop = NextHop { mac: MAC.into(), source_mac: MAC.into(), interface: 3, mtu };
        steering.stand([(id, Standing { healthy: true, active: true, hop: Some(hop) })]).expect("grace");
        assert_eq!(maps.backends.read(usize::from(id)).hops[0].mtu, mtu);
    }
}

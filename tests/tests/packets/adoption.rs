//! A daemon that starts again finds what it left.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use guidevane::dataplane::{
    Dataplane, Error,
    loader::Options,
    spec::{NextHop, Standing, VipSpec},
};
use guidevane_tests::{
    bed::{Bpffs, Prefix},
    packet::{Packet, flags},
};
use lb_common::{
    layout::{Hop, LAYOUT, Meta, Mode, PORT_SETS, backend_bits},
    reason::Reason,
    slot::State,
    table::WAYS,
};

use crate::plane::{HERE, INNER_MAC, Plane, SLOTS, TCP, arriving, at, mac_of, service, up};

const VIP: &str = "10.200.1.1:80";
const NAT_VIP: &str = "10.200.1.2:80";

fn specs() -> Vec<VipSpec> {
    vec![
        service(VIP, TCP, Mode::L2, &["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]),
        service(NAT_VIP, TCP, Mode::Nat, &["10.0.1.1:80", "10.0.1.2:80", "10.0.1.3:80"]),
    ]
}

fn syn(n: u16) -> Packet {
    let client = SocketAddr::new([192, 168, 1, 7].into(), 1000 + n);
    let vip = at(if n.is_multiple_of(2) { VIP } else { NAT_VIP });
    arriving(Packet::tcp(client, vip)).segment(flags::SYN, 1000, 0)
}

fn data(n: u16) -> Packet {
    syn(n).segment(flags::ACK, 1001, 501).payload(b"request")
}

fn options(directory: &Path) -> Options {
    Options { pin: Some(directory.to_path_buf()), flow_slots: SLOTS, nat_sources: Vec::new() }
}

fn pins(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).expect("the pins are there");
    entries.map(|entry| entry.expect("a pin").file_name().to_string_lossy().into_owned()).collect()
}

#[test]
#[ignore = "needs root: loads the kernel program and mounts a bpffs"]
fn flows_seed_and_ids_are_adopted() {
    const FLOWS: u16 = 200;
    let bpffs = Bpffs::in_bed(&Prefix::new()).expect("a private bpffs");
    let directory = bpffs.path().join("guidevane");
    let mut before = Plane::open(&options(&directory));
    assert!(!before.dataplane.adopted());
    before.apply(&specs());
    let went: Vec<u16> = (0..FLOWS)
        .map(|n| {
            before.forward(&syn(n));
            before.forward(&data(n))
        })
        .collect();
    let (meta, ids) = (before.maps().meta.read(0), before.backends());
    let vips = [before.vip_id(0), before.vip_id(1)];
    let loads: Vec<_> = ids.iter().map(|&id| before.load(id)).collect();
    drop(before);

    // Another size is asked for; what is there counts.
    let mut after = Plane::open(&Options { flow_slots: 2 * SLOTS, ..options(&directory) });
    assert!(after.dataplane.adopted());
    assert_eq!(after.maps().meta.read(0), meta, "seed and sizes");
    assert_eq!(after.slots().len(), usize::from(FLOWS));
    assert_eq!(
        after.send(&data(0).build()).reason,
        Reason::Established,
        "packets are steered before the first configuration"
    );
    after.apply(&specs());
    assert_eq!(([after.vip_id(0), after.vip_id(1)], after.backends()), (vips, ids.clone()), "ids");
    for (n, &id) in (0..).zip(&went) {
        let outcome = after.send(&data(n).build());
        assert_eq!(outcome.reason, Reason::Established, "flow {n}");
        assert_eq!(after.backend_by_mac(&outcome.frame), id, "flow {n}");
    }
    assert_eq!(ids.iter().map(|&id| after.load(id)).collect::<Vec<_>>(), loads, "loads");
    after.check_gauges("after adoption");

    let fewer = vec![VipSpec { backends: specs()[0].backends[1..].to_vec(), ..specs().remove(0) }];
    drop(after);
    let mut last = Plane::open(&options(&directory));
    last.apply(&fewer);
    let left = ids[0];
    for (n, &id) in (0..).zip(&went).filter(|(n, _): &(u16, _)| n.is_multiple_of(2)) {
        let outcome = last.send(&data(n).build());
        assert_eq!(outcome.reason, Reason::Established, "flow {n} of a backend that may have left");
        let (slot, _) = last.flow(data(n).source, vips[0]).expect("the flow is in the table");
        assert_eq!((slot.backend(), slot.state()), (id, State::Awaiting), "flow {n}");
    }
    for n in (FLOWS..2 * FLOWS).filter(|n| n.is_multiple_of(2)) {
        assert_ne!(last.forward(&syn(n)), left, "a new flow avoids the backend that has left");
    }
}

#[test]
#[ignore = "needs root: loads the kernel program and mounts a bpffs"]
fn pins_of_another_layout_are_refused_and_left_alone() {
    let bpffs = Bpffs::in_bed(&Prefix::new()).expect("a private bpffs");
    let directory = bpffs.path().join("guidevane");
    let mut before = Plane::open(&options(&directory));
    before.apply(&specs());
    before.forward(&syn(0));
    let maps = before.maps();
    drop(before);
    let (meta, flows) = (maps.meta.read(0), (0..maps.flows.len()).map(|n| maps.flows.read(n)));
    let (flows, names): (Vec<_>, _) = (flows.collect(), pins(&directory));
    for (what, wrong, words) in [
        ("another layout", Meta { layout: LAYOUT ^ 1, ..meta }, "layout"),
        ("a size that is no power of two", Meta { flow_sets: 3, ..meta }, "META"),
        ("no sets", Meta { flow_sets: 0, ..meta }, "META"),
        ("another size than the maps have", Meta { flow_sets: meta.flow_sets * 2, ..meta }, "FLOWS"),
        ("ports of no whole address", Meta { port_sets: 7, ..meta }, "META"),
        ("ports of a source address", Meta { port_sets: PORT_SETS, ..meta }, "FLOWS"),
        ("another size of the tables", Meta { table_lines: 7, ..meta }, "TABLE"),
        ("no tick rate", Meta { hz: 0, ..meta }, "META"),
    ] {
        maps.meta.write(0, &wrong);
        let Err(error) = Dataplane::open(&options(&directory)) else { panic!("{what} was adopted") };
        assert!(matches!(error, Error::Adopt { .. }), "{what}: {error}");
        let message = error.to_string();
        for part in [words, directory.to_str().expect("plain"), "remove the directory"] {
            assert!(message.contains(part), "{what}: {message:?} does not say {part:?}");
        }
        assert_eq!(maps.meta.read(0), wrong, "{what}");
    }
    assert_eq!((0..maps.flows.len()).map(|n| maps.flows.read(n)).collect::<Vec<_>>(), flows);
    assert_eq!(pins(&directory), names);
    maps.meta.write(0, &meta);
    assert!(Dataplane::open(&options(&directory)).expect("it is as it was").adopted());
}

#[test]
#[ignore = "needs root: loads the kernel program and mounts a bpffs"]
fn pins_with_flows_from_other_source_addresses_are_refused_and_left_alone() {
    let bpffs = Bpffs::in_bed(&Prefix::new()).expect("a private bpffs");
    let directory = bpffs.path().join("guidevane");
    let from = |sources: &[&str]| {
        let addresses = sources.iter().map(|source| source.parse::<IpAddr>().expect("an address").into());
        Options { nat_sources: addresses.collect(), ..options(&directory) }
    };
    let one_armed =
        |vip: &str| VipSpec { source_nat: true, ..service(vip, TCP, Mode::Nat, &["10.0.0.1:80"]) };
    let before = ["10.0.9.1", "10.0.9.2"];
    let mut plane = Plane::open(&from(&before));
    plane.apply(&[one_armed(NAT_VIP)]);
    drop(plane);
    for (other, words) in [
        (&[][..], "ports for 2 source addresses"),
        (&["10.0.9.1"], "ports for 2 source addresses, and `sources` of [nat] has 1"),
        (&["10.0.9.1", "10.0.9.3"], "ports of 10.0.9.2"),
        (&["10.0.9.2", "10.0.9.1"], "in the same place"),
    ] {
        let Err(error) = Dataplane::open(&from(other)) else { panic!("{other:?} was adopted") };
        let message = error.to_string();
        for part in [words, "remove the directory"] {
            assert!(message.contains(part), "{other:?}: {message:?} does not say {part:?}");
        }
    }
    let after = Plane::open(&from(&before));
    assert!(after.dataplane.adopted());
    assert_eq!(after.maps().flows.len() as u32, SLOTS / WAYS as u32 + 2 * PORT_SETS);
}

#[test]
#[ignore = "needs root: loads the kernel program and mounts a bpffs"]
fn a_next_hop_that_was_being_changed_is_adopted_as_packets_used_it() {
    let bpffs = Bpffs::in_bed(&Prefix::new()).expect("a private bpffs");
    let directory = bpffs.path().join("guidevane");
    let mut before = Plane::open(&options(&directory));
    let one = [VipSpec { backends: specs()[0].backends[..1].to_vec(), ..specs().remove(0) }];
    before.apply(&one);
    before.forward(&syn(0));
    // What a daemon leaves that is killed between the two steps of a change of next hop.
    let (id, maps) = (before.backends()[0], before.maps());
    let mut backend = maps.backends.read(usize::from(id));
    let moved =
        NextHop { mac: [2, 7, 7, 7, 7, 7].into(), source_mac: INNER_MAC.into(), interface: HERE, mtu: 1500 };
    backend.hops[1] = Hop { mac: moved.mac, ..backend.hops[0] };
    backend.control |= backend_bits::ROW;
    maps.backends.write(usize::from(id), &backend);
    drop(before);

    let mut after = Plane::open(&options(&directory));
    after.dataplane.steering.apply(&one, 1).expect("the same configuration");
    let to = |plane: &mut Plane| plane.send(&data(0).build()).frame[..6].to_vec();
    assert_eq!(to(&mut after), [2, 7, 7, 7, 7, 7], "after adoption");
    after.stand(id, Standing { healthy: true, active: true, hop: Some(moved) });
    assert_eq!(to(&mut after), [2, 7, 7, 7, 7, 7], "after the standing was confirmed");
    let backend = after.address_of(id);
    after.stand(id, up(backend));
    assert_eq!(to(&mut after), mac_of(backend), "after another change");
}

#[test]
#[ignore = "needs root: loads the kernel program and mounts a bpffs"]
fn the_room_of_adopted_tables_is_used_again() {
    // Two generations of so many tables fit, three do not.
    const VIPS: usize = 400;
    let bpffs = Bpffs::in_bed(&Prefix::new()).expect("a private bpffs");
    let directory = bpffs.path().join("guidevane");
    let vip = |n: usize| format!("10.201.{}.{}:80", n / 250, n % 250 + 1);
    let specs: Vec<VipSpec> =
        (0..VIPS).map(|n| service(&vip(n), TCP, Mode::L2, &["10.0.0.1:80", "10.0.0.2:80"])).collect();
    let mut before = Plane::open(&options(&directory));
    let stand = |plane: &mut Plane, healthy: bool| {
        let (even, all) = (plane.backends().into_iter().step_by(2), plane.backends());
        let mut standings: BTreeMap<u16, Standing> =
            all.into_iter().map(|id| (id, up(plane.address_of(id)))).collect();
        for id in even {
            standings.insert(id, Standing { healthy, ..standings[&id] });
        }
        plane.dataplane.steering.stand(standings)
    };
    before.dataplane.steering.apply(&specs, 1).expect("room for all");
    stand(&mut before, true).expect("room for all");
    drop(before);
    let mut after = Plane::open(&options(&directory));
    after.dataplane.steering.apply(&specs, 1).expect("room for a second generation");
    for change in 0..3 {
        stand(&mut after, change % 2 == 1).unwrap_or_else(|error| panic!("change {change}: {error}"));
    }
    let packet = arriving(Packet::tcp(at("192.168.1.7:1"), at(&vip(VIPS - 1)))).segment(flags::SYN, 1, 0);
    assert_eq!(after.reason(&packet), Reason::NewFlow);
}

use std::{net::IpAddr, time::Duration};

use tokio::time::timeout;

use super::{Neighbours, NextHop, Reason, Resolution, Table};
use crate::net::testbed::Pair;

/// Longer than the kernel takes to give a silent neighbour up (three solicitations, a second apart).
const PATIENCE: Duration = Duration::from_secs(20);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// Waits until the resolution of `target` satisfies `accept`.
async fn until(neighbours: &Neighbours, target: &str, accept: impl Fn(&Resolution) -> bool) -> Resolution {
    let mut table = neighbours.subscribe();
    let target = ip(target);
    let satisfied = |table: &Table| table.get(&target).is_some_and(&accept);
    match timeout(PATIENCE, table.wait_for(satisfied)).await {
        Ok(Ok(table)) => return table[&target].clone(),
        Ok(Err(e)) => panic!("the watching task ended: {e}"),
        Err(_) => {}
    }
    panic!("{target} stays {:?}", neighbours.subscribe().borrow().get(&target));
}

fn resolved(resolution: &Resolution) -> bool {
    matches!(resolution, Resolution::Resolved(_))
}

fn refused(text: &'static str) -> impl Fn(&Resolution) -> bool {
    move |resolution| matches!(resolution, Resolution::Unresolved(reason) if reason.to_string() == text)
}

#[test]
#[ignore = "needs root: network namespace"]
fn on_link_targets_of_both_families_resolve_to_the_neighbours_address() {
    let pair = Pair::new();
    pair.host.block_on(async {
        let neighbours = Neighbours::start([ip("10.77.0.2"), ip("fd77::2")]).expect("start");
        for target in ["10.77.0.2", "fd77::2"] {
            let Resolution::Resolved(hop) = until(&neighbours, target, resolved).await else {
                panic!("{target} is not resolved")
            };
            assert_eq!((hop.source_mac, hop.mac), (Pair::NEAR_MAC, Pair::FAR_MAC), "{target}");
            assert!(hop.ifindex > 1, "{target} leads to interface {}", hop.ifindex);
        }
    });
}

#[test]
#[ignore = "needs root: network namespace"]
fn a_target_behind_a_gateway_resolves_to_the_gateway_and_follows_the_route() {
    let pair = Pair::new();
    pair.host.ip("route add 192.0.2.0/24 via 10.77.0.9");
    pair.host.ip("route add 2001:db8::/64 via fd77::2");
    pair.host.ip("neigh add 10.77.0.9 lladdr 02:00:00:77:00:09 dev near nud permanent");
    let is_via = |mac: [u8; 6]| move |r: &Resolution| matches!(r, Resolution::Resolved(NextHop { mac: found, .. }) if *found == mac);
    pair.host.block_on(async {
        let neighbours = Neighbours::start([ip("192.0.2.1"), ip("2001:db8::1")]).expect("start");
        until(&neighbours, "192.0.2.1", is_via([2, 0, 0, 0x77, 0, 9])).await;
        until(&neighbours, "2001:db8::1", is_via(Pair::FAR_MAC)).await;

        pair.host.ip("route replace 192.0.2.0/24 via 10.77.0.2");
        until(&neighbours, "192.0.2.1", is_via(Pair::FAR_MAC)).await;

        pair.host.ip("route del 192.0.2.0/24");
        until(&neighbours, "192.0.2.1", refused("no route (network unreachable)")).await;
    });
}

#[test]
#[ignore = "needs root: network namespace"]
fn what_cannot_be_reached_says_why() {
    let pair = Pair::new();
    pair.host.ip("route add blackhole 198.51.100.0/24");
    pair.host.ip("route add prohibit 203.0.113.0/24");
    pair.host.block_on(async {
        let cases = [
            ("10.77.0.1", "it is an address of this host"),
            ("127.0.0.1", "it is an address of this host"),
            ("fd77::1", "it is an address of this host"),
            ("192.0.2.1", "no route (network unreachable)"),
            ("2001:db8::1", "no route (network unreachable)"),
            ("198.51.100.1", "no route (blackhole route)"),
            ("203.0.113.1", "no route (prohibit route)"),
            ("10.77.0.66", "neighbour 10.77.0.66 on near does not answer"),
            ("fd77::66", "neighbour fd77::66 on near does not answer"),
        ];
        let neighbours = Neighbours::start(cases.map(|(target, _)| ip(target))).expect("start");
        for (target, reason) in cases {
            until(&neighbours, target, refused(reason)).await;
        }
    });
}

#[test]
#[ignore = "needs root: network namespace"]
fn a_link_that_goes_down_and_up_is_noticed() {
    let pair = Pair::new();
    pair.host.block_on(async {
        let neighbours = Neighbours::start([ip("10.77.0.2")]).expect("start");
        until(&neighbours, "10.77.0.2", resolved).await;
        pair.peer.ip("link set far down");
        until(&neighbours, "10.77.0.2", |r| {
            matches!(r, Resolution::Unresolved(Reason::LinkDown { .. } | Reason::NoRoute { .. }))
        })
        .await;
        pair.peer.ip("link set far up");
        until(&neighbours, "10.77.0.2", resolved).await;
    });
}

#[test]
#[ignore = "needs root: network namespace"]
fn a_stale_neighbour_stays_resolved_and_is_probed_until_it_is_confirmed() {
    let pair = Pair::new();
    // A second until the kernel probes a stale neighbour in use, instead of five.
    pair.host.ip("ntable change name arp_cache dev near delay_probe 100");
    pair.host.ip("neigh add 10.77.0.2 lladdr 02:00:00:77:00:02 dev near nud stale");
    pair.host.block_on(async {
        let neighbours = Neighbours::start([ip("10.77.0.2")]).expect("start");
        until(&neighbours, "10.77.0.2", resolved).await;
        let confirmed = async {
            while !pair.host.ip("neigh show 10.77.0.2").contains("REACHABLE") {
                let table = neighbours.subscribe().borrow().clone();
                assert!(resolved(&table[&ip("10.77.0.2")]), "lost while probing: {table:?}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, confirmed).await.expect("the stale neighbour is never confirmed");
    });
}

#[test]
#[ignore = "needs root: network namespace"]
fn a_neighbour_that_moves_is_followed() {
    let pair = Pair::new();
    pair.host.block_on(async {
        let neighbours = Neighbours::start([ip("10.77.0.2")]).expect("start");
        until(&neighbours, "10.77.0.2", resolved).await;
        pair.host.ip("neigh replace 10.77.0.2 lladdr 02:00:00:77:00:03 dev near nud reachable");
        until(
            &neighbours,
            "10.77.0.2",
            |r| matches!(r, Resolution::Resolved(hop) if hop.mac == [2, 0, 0, 0x77, 0, 3]),
        )
        .await;
    });
}

#[test]
#[ignore = "needs root: network namespace"]
fn targets_come_and_go_while_running() {
    let pair = Pair::new();
    pair.host.block_on(async {
        let neighbours = Neighbours::start([]).expect("start");
        assert!(neighbours.subscribe().borrow().is_empty());

        neighbours.set_targets([ip("10.77.0.2"), ip("fd77::2")]);
        until(&neighbours, "10.77.0.2", resolved).await;
        until(&neighbours, "fd77::2", resolved).await;

        neighbours.set_targets([ip("fd77::2")]);
        let mut table = neighbours.subscribe();
        let left = timeout(PATIENCE, table.wait_for(|table| table.len() == 1)).await;
        let left = left.expect("the removed target stays").expect("the task runs").clone();
        assert!(resolved(&left[&ip("fd77::2")]), "{left:?}");
    });
}

#[test]
#[ignore = "needs root: network namespace"]
fn the_largest_packet_follows_interface_and_route() {
    let pair = Pair::new();
    let takes = |mtu: u16| move |r: &Resolution| matches!(r, Resolution::Resolved(hop) if hop.mtu == mtu);
    pair.host.ip("route add 192.0.2.0/24 via 10.77.0.2 mtu 1400");
    pair.host.ip("route add 2001:db8::/64 via fd77::2 mtu 1350");
    pair.host.block_on(async {
        let targets = ["10.77.0.2", "192.0.2.1", "2001:db8::1"];
        let neighbours = Neighbours::start(targets.map(ip)).expect("start");
        for (target, mtu) in [("10.77.0.2", 1500), ("192.0.2.1", 1400), ("2001:db8::1", 1350)] {
            until(&neighbours, target, takes(mtu)).await;
        }
        pair.host.ip("route replace 192.0.2.0/24 via 10.77.0.2 mtu 1450");
        until(&neighbours, "192.0.2.1", takes(1450)).await;

        pair.host.ip("link set near mtu 1420");
        until(&neighbours, "10.77.0.2", takes(1420)).await;
        until(&neighbours, "192.0.2.1", takes(1420)).await;
    });
}

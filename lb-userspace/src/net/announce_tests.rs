use std::{cell::RefCell, io, net::IpAddr};

use super::{AnnounceError, PacketSocket, Transmit, VipAddresses, announce};
use crate::net::{
    Netlink,
    interface::{Interface, lookup},
    testbed::{Namespace, Pair},
};

const V4: &str = "10.77.0.100";
const V6: &str = "fd77::100";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn has_address(namespace: &Namespace, vip: &str) -> bool {
    namespace.ip("-brief address show dev near").contains(&format!("{vip}/"))
}

#[derive(Default)]
struct Recorder {
    frames: RefCell<Vec<(u32, Vec<u8>)>>,
}

impl Transmit for Recorder {
    fn transmit(&self, ifindex: u32, frame: &[u8]) -> io::Result<()> {
        self.frames.borrow_mut().push((ifindex, frame.to_vec()));
        Ok(())
    }
}

fn interface(mac: Option<[u8; 6]>) -> Interface {
    Interface {
        index: 7,
        name: "eth0".into(),
        mac,
        mtu: 1500,
        kind: None,
        peer: None,
        driver: None,
        running: true,
        oper_state: "UP".into(),
        loopback: false,
    }
}

#[test]
fn ipv4_takes_both_forms_of_arp_and_ipv6_one_advertisement() {
    for (vip, ethertypes) in [(V4, vec![[0x08, 0x06], [0x08, 0x06]]), (V6, vec![[0x86, 0xdd]])] {
        let wire = Recorder::default();
        announce(&wire, &interface(Some([2, 0, 0, 0, 0, 1])), ip(vip)).expect("announced");
        let frames = wire.frames.into_inner();
        let sent: Vec<[u8; 2]> = frames.iter().map(|(_, frame)| [frame[12], frame[13]]).collect();
        assert_eq!(sent, ethertypes, "{vip}");
        assert!(frames.iter().all(|(index, _)| *index == 7), "{vip} went out of another interface");
    }
}

#[test]
fn an_interface_without_an_ethernet_address_cannot_announce() {
    match announce(&Recorder::default(), &interface(None), ip(V4)) {
        Err(e @ AnnounceError::NotEthernet { .. }) => assert_eq!(
            e.to_string(),
            "cannot announce 10.77.0.100 on eth0: it does not carry ethernet addresses"
        ),
        other => panic!("{other:?}"),
    }
}

#[test]
#[ignore = "needs root: network namespace"]
fn an_address_is_added_once_and_only_what_was_added_is_removed() {
    let pair = Pair::new();
    pair.host.block_on(async {
        let netlink = Netlink::open().expect("netlink");
        let near = lookup(&netlink, "near").await.expect("near");
        for vip in [V4, V6] {
            let mut addresses = VipAddresses::new(netlink.clone());
            assert!(addresses.add(&near, ip(vip)).await.expect("add"), "{vip} was there before");
            assert!(has_address(&pair.host, vip), "{vip} is not there after adding it");
            assert!(!addresses.add(&near, ip(vip)).await.expect("add again"), "{vip} was added twice");

            let mut other = VipAddresses::new(netlink.clone());
            assert!(!other.add(&near, ip(vip)).await.expect("add by another"), "{vip}");
            assert!(!other.remove(&near, ip(vip)).await.expect("remove by another"), "{vip}");
            assert!(has_address(&pair.host, vip), "{vip} was removed by who had not added it");

            assert!(addresses.remove(&near, ip(vip)).await.expect("remove"), "{vip} was not removed");
            assert!(!has_address(&pair.host, vip), "{vip} is there after removing it");
            assert!(!addresses.remove(&near, ip(vip)).await.expect("remove again"), "{vip}");
        }
    });
}

#[test]
#[ignore = "needs root: network namespace"]
fn removing_everything_survives_an_address_that_somebody_else_took_away() {
    let pair = Pair::new();
    pair.host.block_on(async {
        let netlink = Netlink::open().expect("netlink");
        let near = lookup(&netlink, "near").await.expect("near");
        let mut addresses = VipAddresses::new(netlink);
        for vip in [V4, V6] {
            addresses.add(&near, ip(vip)).await.expect("add");
        }
        pair.host.ip("address del 10.77.0.100/32 dev near");
        addresses.remove_all().await.expect("remove all");
        assert!(!has_address(&pair.host, V4) && !has_address(&pair.host, V6));
    });
}

#[test]
#[ignore = "needs root: network namespace"]
fn an_ipv6_vip_answers_at_once_and_is_never_picked_as_a_source() {
    let pair = Pair::new();
    pair.host.block_on(async {
        let netlink = Netlink::open().expect("netlink");
        let near = lookup(&netlink, "near").await.expect("near");
        VipAddresses::new(netlink).add(&near, ip(V6)).await.expect("add");
    });
    let shown = pair.host.ip("-6 address show dev near to fd77::100");
    assert!(shown.contains("nodad") && shown.contains("deprecated"), "{shown}");
    assert!(!shown.contains("tentative"), "{shown}");
    // The nearest match to fd77::101 would be the VIP, if it were a candidate.
    let route = pair.host.ip("route get fd77::101");
    assert!(route.contains("src fd77::1 "), "{route}");
}

#[test]
#[ignore = "needs root: network namespace"]
fn an_announcement_replaces_what_the_neighbours_cache_holds() {
    let pair = Pair::new();
    for vip in [V4, V6] {
        pair.peer.ip(&format!("neigh add {vip} lladdr 02:00:00:77:00:99 dev far nud stale"));
    }
    let say = |vip: &str| {
        pair.host.block_on(async {
            let netlink = Netlink::open().expect("netlink");
            let near = lookup(&netlink, "near").await.expect("near");
            let wire = PacketSocket::open().expect("packet socket");
            announce(&wire, &near, ip(vip)).expect("announced");
        });
    };
    // A veth hands frames over in a softirq of the sender, and drops them while a link has only just come up: give
    // it a moment, but no fixed time.
    for vip in [V4, V6] {
        let learned = || pair.peer.ip(&format!("neigh show {vip}")).contains("02:00:00:77:00:01");
        let tries = std::iter::repeat_with(|| {
            say(vip);
            std::thread::sleep(std::time::Duration::from_millis(20));
            learned()
        });
        assert!(tries.take(250).any(|learned| learned), "{vip}: {}", pair.peer.ip("neigh show"));
    }
}

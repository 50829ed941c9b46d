//! Bad input: a clear error that names the place, and what was running goes on untouched.

use std::net::{IpAddr, SocketAddr};

use guidevane_tests::{bed::Topology, daemon::Daemon};

use crate::support::{Mode, PORT, Plan, Server, curl, quick};

#[test]
#[ignore = "needs root: network namespaces and XDP"]
fn a_start_on_bad_input_says_where_and_leaves_the_running_daemon_alone() {
    let bed = Topology::one_arm(2).expect("make the test bed");
    let _servers = Server::everywhere(&bed, &quick());
    let mut plan = Plan::new(&bed, Mode::L2);
    plan.vips = vec![IpAddr::V4(bed.vip.v4)];
    let good = plan.toml();
    let mut running = Daemon::start(&bed.balancer.namespace, &good);
    running.wait_until_up();
    let v6 = bed.servers[0].address().v6.to_string();
    let v4 = bed.servers[0].address().v4.to_string();
    let cases = [
        ("a truncated file", good[..good.len() - 3].to_owned(), "guidevane.toml:"),
        ("an oversized file", format!("{good}\n# {}", "x".repeat(1 << 20)), "oversized"),
        ("an unknown key", good.replace("[health]", "[health]\ncolour = 1"), "guidevane.toml:4:1"),
        ("an interface that is not there", good.replace("\"eth0\"", "\"eth7\""), "guidevane.toml:7:8"),
        (
            "an address of the wrong family",
            good.replace(&format!("address = \"{v4}\""), &format!("address = \"{v6}\"")),
            "give the backend its IPv4 address",
        ),
        (
            "a port translation in l2",
            good.replace(&format!("address = \"{v4}\""), &format!("address = \"{v4}\"\nport = 9")),
            "nat",
        ),
        (
            "two VIPs alike",
            format!("{good}{}", good[good.find("[[vip]]").expect("a VIP")..].replace("\"v4", "\"again")),
            "guidevane.toml:",
        ),
        ("the interface is taken", good.clone(), "ip link set dev eth0 xdp off"),
    ];
    for (what, configuration, expected) in cases {
        let mut second = Daemon::start(&bed.balancer.namespace, &configuration);
        let status = second.wait();
        let log = second.log();
        assert!(!status.success(), "{what} was accepted");
        assert!(log.contains(expected), "{what}: the error should say {expected:?}: {log}");
        assert!(log.starts_with("error: ") || log.contains("\nerror: "), "{what}: {log}");
        assert!(curl(&bed, plan.vips[0], 2).contains("data: [DONE]"), "{what}: the first daemon steers on");
    }
}

#[test]
#[ignore = "needs root: network namespaces and XDP"]
fn a_reload_of_bad_input_changes_nothing() {
    let bed = Topology::one_arm(2).expect("make the test bed");
    let _servers = Server::everywhere(&bed, &quick());
    let mut plan = Plan::new(&bed, Mode::L2);
    plan.vips = vec![IpAddr::V4(bed.vip.v4)];
    let good = plan.toml();
    let mut daemon = Daemon::start(&bed.balancer.namespace, &good);
    let before = daemon.wait_until_up();
    daemon.reload(&good.replace("policy = \"least\"", "policy = \"lest\""));
    let log = loop {
        let log = daemon.log();
        if log.contains("stays as it was") {
            break log;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    assert!(log.contains("guidevane.toml:"), "the place is named: {log}");
    let after = daemon.status().expect("the daemon answers");
    let names = |snapshot: &guidevane::api::Snapshot| -> Vec<String> {
        snapshot.vips.iter().flat_map(|vip| &vip.backends).map(|backend| backend.name.clone()).collect()
    };
    assert_eq!(names(&before), names(&after), "the configuration is as before");
    assert!(curl(&bed, plan.vips[0], 2).contains("data: [DONE]"), "it steers on");
}

#[test]
#[ignore = "needs root: network namespaces and XDP"]
fn a_vip_without_a_live_backend_drops_and_says_so() {
    let bed = Topology::one_arm(1).expect("make the test bed");
    let mut plan = Plan::new(&bed, Mode::L2);
    plan.vips = vec![IpAddr::V4(bed.vip.v4)];
    let mut daemon = Daemon::start(&bed.balancer.namespace, &plan.toml());
    daemon.wait_for("backend that is down", |snapshot| {
        let health = &snapshot.vips[0].backends[0].health;
        health.reason.as_deref().is_some_and(|reason| reason.contains("refused"))
    });
    let target = SocketAddr::new(plan.vips[0], PORT);
    let refused = bed.client.namespace.run(|| {
        std::net::TcpStream::connect_timeout(&target, std::time::Duration::from_millis(1500)).is_err()
    });
    assert!(refused, "nobody is there to answer");
    let snapshot = daemon.status().expect("the daemon answers");
    assert!(snapshot.drops.get("no_backend").is_some_and(|&drops| drops > 0), "{:?}", snapshot.drops);
    // The server comes up, and with it the VIP.
    let _server = Server::start(&bed, 0, quick());
    daemon.wait_until_up();
    assert!(curl(&bed, plan.vips[0], 2).contains("data: [DONE]"), "it steers once the server is there");
}

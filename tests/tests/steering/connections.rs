//! Real TCP connections by the thousand, while the daemon's configuration changes under them; and what the
//! balancer must leave alone.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use guidevane::api::{AdminState, Client};
use guidevane_tests::{
    bed::{Background, Topology},
    daemon::Daemon,
    load::{
        client::Direct,
        lengths::Lengths,
        run::{LoadOptions, run},
        stats::{Live, Report},
        traffic::{Sizes, Traffic},
    },
};

use crate::support::{Mode, PORT, Plan, Server, checksum_errors, curl, quick, server_address};

/// Clients that open a connection for every request.
const CLIENTS: usize = 32;

/// Starts short requests to a VIP from the client's namespace.
fn load(bed: &Topology, vip: IpAddr, seconds: u64) -> Background<Report> {
    let url = format!("http://{}/v1/completions", SocketAddr::new(vip, PORT));
    let mut options = LoadOptions::new(url, Traffic::Closed { clients: CLIENTS });
    options.sizes = Sizes { prompt: Lengths::Fixed(16), output: Lengths::Fixed(4), seed: 7 };
    options.duration = Some(Duration::from_secs(seconds));
    options.timeout = Duration::from_secs(20);
    bed.client.namespace.spawn_runtime(move || async move {
        run(options, Direct::default(), Live::default()).await.expect("the options are sound")
    })
}

/// Waits until no flow is live, and checks that no gauge says otherwise.
fn rests(daemon: &mut Daemon) {
    daemon.wait_for("rest", |snapshot| {
        let backends = snapshot.vips.iter().flat_map(|vip| &vip.backends);
        backends.into_iter().all(|b| (b.opening, b.awaiting, b.streaming, b.idle) == (0, 0, 0, 0))
    });
    assert!(!daemon.log().contains("corrected"), "the sweep found a gauge that was off:\n{}", daemon.log());
}

#[test]
#[ignore = "needs root: network namespaces and XDP"]
fn no_request_fails_while_backends_join_leave_and_drain() {
    const SECONDS: u64 = 6;
    let bed = Topology::one_arm(4).expect("make the test bed");
    let _servers = Server::everywhere(&bed, &quick());
    let vip = IpAddr::V4(bed.vip.v4);
    let with = |servers: &[usize]| {
        let mut plan = Plan::new(&bed, Mode::L2);
        plan.vips = vec![vip];
        plan.servers = servers.to_vec();
        plan.toml().replace("[daemon]", "[daemon]\ntick = \"1ms\"")
    };
    let mut daemon = Daemon::start(&bed.balancer.namespace, &with(&[0, 1, 2, 3]));
    daemon.wait_until_up();
    let running = load(&bed, vip, SECONDS);
    let end = Instant::now() + Duration::from_secs(SECONDS);
    let mut changes = 0;
    while Instant::now() < end {
        daemon.reload(&with(&[0, 1, 2]));
        std::thread::sleep(Duration::from_millis(150));
        daemon.reload(&with(&[0, 1, 2, 3]));
        let mut client = Client::connect(&daemon.socket()).expect("reach the daemon");
        let change = client.drain("v4-1").expect("drain a backend");
        assert_eq!((change.before, change.after), (AdminState::Active, AdminState::Draining));
        std::thread::sleep(Duration::from_millis(150));
        client.resume("v4-1").expect("resume it");
        changes += 1;
    }
    let report = running.join();
    println!("{} requests during {changes} rounds of changes", report.requests);
    assert_eq!(report.failed, 0, "{:?}\n{}", report.failures, daemon.log());
    assert!(report.requests > 100, "only {} requests", report.requests);
    rests(&mut daemon);
    assert!(daemon.terminate().success(), "{}", daemon.log());
}

#[test]
#[ignore = "needs root: network namespaces and XDP"]
fn scrapes_and_direct_access_to_the_same_port_work_while_nat_runs() {
    let bed = Topology::two_arm(2).expect("make the test bed");
    let _servers = Server::everywhere(&bed, &quick());
    let mut daemon = Daemon::start(&bed.balancer.namespace, &Plan::new(&bed, Mode::Nat).toml());
    daemon.wait_until_up();
    let vip = IpAddr::V4(bed.vip.v4);
    let running = load(&bed, vip, 3);
    for _ in 0..10 {
        for number in 0..2 {
            let direct = server_address(&bed, number, vip);
            assert!(curl(&bed, direct, 4).contains("data: [DONE]"), "direct access to {direct}");
        }
    }
    let snapshot = daemon.wait_for("reports of every server", |snapshot| {
        snapshot
            .vips
            .iter()
            .flat_map(|vip| &vip.backends)
            .all(|backend| backend.reported.as_ref().is_some_and(|reported| reported.age_seconds < 2.0))
    });
    let report = running.join();
    assert_eq!(report.failed, 0, "{:?}\n{}", report.failures, daemon.log());
    assert!(snapshot.vips[0].new_flows > 0, "the VIP was used meanwhile");
    assert_eq!(checksum_errors(&bed), 0, "no receiver saw a wrong checksum");
    rests(&mut daemon);
}

#[test]
#[ignore = "needs root: network namespaces and XDP"]
fn the_daemon_answers_arp_and_neighbour_discovery_for_its_vips() {
    let bed = Topology::one_arm(2).expect("make the test bed");
    let _servers = Server::everywhere(&bed, &quick());
    let mut plan = Plan::new(&bed, Mode::L2);
    plan.vips = vec![IpAddr::V4(bed.announced.v4), IpAddr::V6(bed.announced.v6)];
    plan.extra = "announce = \"arp\"";
    let mut daemon = Daemon::start(&bed.balancer.namespace, &plan.toml());
    daemon.wait_until_up();
    for vip in &plan.vips {
        assert!(curl(&bed, *vip, 4).contains("data: [DONE]"), "{vip} is on the client's own segment");
    }
}

#[test]
#[ignore = "needs root: network namespaces and XDP"]
fn pinned_state_steers_on_without_the_daemon_and_is_taken_over_by_the_next() {
    let bed = Topology::one_arm(3).expect("make the test bed");
    let _servers = Server::everywhere(&bed, &quick());
    let vip = IpAddr::V4(bed.vip.v4);
    let mut plan = Plan::new(&bed, Mode::L2);
    plan.vips = vec![vip];
    let pin = format!("[daemon]\npin = \"{}\"", bed.bpffs.path().join("guidevane").display());
    let configuration = plan.toml().replace("[daemon]", &pin);
    let mut first = Daemon::start(&bed.balancer.namespace, &configuration);
    first.wait_until_up();
    let running = load(&bed, vip, 4);
    std::thread::sleep(Duration::from_millis(500));
    assert!(first.terminate().success(), "{}", first.log());
    // Between the two daemons the kernel steers alone.
    assert!(curl(&bed, vip, 4).contains("data: [DONE]"), "the kernel steers without a daemon");
    let mut second = Daemon::start(&bed.balancer.namespace, &configuration);
    let snapshot = second.wait_until_up();
    assert!(snapshot.vips[0].new_flows > 0, "the second daemon goes on with the first one's counters");
    let report = running.join();
    assert_eq!(report.failed, 0, "{:?}\n{}", report.failures, second.log());
    rests(&mut second);
}

//! What a reload changes, what a restart keeps, and what a stop leaves.

use std::net::{IpAddr, SocketAddr};

use guidevane::{
    api::{AdminState, Client, GovernorRequest},
    config::GovernorMode,
};
use guidevane_tests::{bed::Topology, daemon::Daemon};

use crate::support::{Mode, Plan, Server, curl, quick};

fn plan(bed: &Topology) -> Plan<'_> {
    let mut plan = Plan::new(bed, Mode::L2);
    plan.vips = vec![IpAddr::V4(bed.vip.v4)];
    plan
}

fn pinned(configuration: &str, bed: &Topology) -> String {
    let pin = bed.bpffs.path().join("guidevane");
    configuration.replace("[daemon]", &format!("[daemon]\npin = \"{}\"", pin.display()))
}

/// Requests to a VIP that a backend has seen.
fn requests(daemon: &Daemon, backend: usize) -> u64 {
    daemon.status().expect("the daemon answers").vips[0].backends[backend].requests
}

#[test]
#[ignore = "needs root: network namespaces and XDP"]
fn a_weight_that_rises_from_zero_brings_new_flows() {
    let bed = Topology::one_arm(2).expect("make the test bed");
    let _servers = Server::everywhere(&bed, &quick());
    let plan = plan(&bed);
    let closed = plan.toml().replacen("name = \"v4-0\"", "name = \"v4-0\"\nweight = 0", 1);
    let mut daemon = Daemon::start(&bed.balancer.namespace, &closed);
    daemon.wait_until_up();
    let ask = || (0..20).for_each(|_| assert!(curl(&bed, plan.vips[0], 2).contains("[DONE]"), "a request"));
    ask();
    assert_eq!(requests(&daemon, 0), 0, "weight zero takes no new flows");
    daemon.reload(&plan.toml());
    daemon.wait_for("the new weight", |snapshot| snapshot.vips[0].backends[0].weight == 100);
    ask();
    assert!(requests(&daemon, 0) > 0, "weight 100 takes some");
}

#[test]
#[ignore = "needs root: network namespaces and XDP"]
fn a_backend_that_moves_is_another_server() {
    let bed = Topology::one_arm(2).expect("make the test bed");
    let _first = Server::start(&bed, 0, quick());
    let mut plan = plan(&bed);
    plan.servers = vec![0];
    let mut daemon = Daemon::start(&bed.balancer.namespace, &plan.toml());
    daemon.wait_until_up();
    // The same name at an address where nobody listens: what was known of the old one is worth nothing.
    let (old, new) = (bed.servers[0].address().v4.to_string(), bed.servers[1].address().v4.to_string());
    daemon.reload(&plan.toml().replace(&format!("\"{old}\""), &format!("\"{new}\"")));
    daemon.wait_for("a backend that is down", |snapshot| {
        let backend = &snapshot.vips[0].backends[0];
        backend.address.to_string() == new && backend.health.reason.is_some()
    });
    let target = SocketAddr::new(plan.vips[0], crate::support::PORT);
    let patience = std::time::Duration::from_millis(800);
    let connected =
        bed.client.namespace.run(|| std::net::TcpStream::connect_timeout(&target, patience).is_ok());
    assert!(!connected, "nobody is there to answer");
}

#[test]
#[ignore = "needs root: network namespaces and XDP"]
fn the_governor_does_what_it_is_told_until_a_reload_and_explains_itself() {
    let bed = Topology::one_arm(2).expect("make the test bed");
    let _servers = Server::everywhere(&bed, &quick());
    let plan = plan(&bed);
    let mut daemon = Daemon::start(&bed.balancer.namespace, &plan.toml());
    daemon.wait_until_up();
    let client = || Client::connect(&daemon.socket()).expect("reach the daemon");
    let asked = GovernorRequest { mode: Some(GovernorMode::Observe), vip: None };
    let changes = client().governor(&asked).expect("change the mode");
    assert_eq!((changes[0].before, changes[0].after), (GovernorMode::On, GovernorMode::Observe));
    assert!(curl(&bed, plan.vips[0], 2).contains("[DONE]"), "a request under plain least connections");
    let explanation = client().explain("v4-1").expect("the governor answers");
    assert_eq!((explanation.governor, explanation.written.cost), (GovernorMode::Observe, 1.0));
    let unknown = GovernorRequest { vip: Some("nobody".to_owned()), ..asked };
    let refused = client().governor(&unknown).expect_err("there is no such VIP").to_string();
    assert!(refused.contains("no VIP is named `nobody`"), "{refused}");
    daemon.reload(&plan.toml());
    daemon.wait_for("the mode of the file", |snapshot| snapshot.vips[0].governor == GovernorMode::On);
}

#[test]
#[ignore = "needs root: network namespaces and XDP"]
fn a_drain_survives_a_restart_over_pinned_state() {
    let bed = Topology::one_arm(2).expect("make the test bed");
    let _servers = Server::everywhere(&bed, &quick());
    let configuration = pinned(&plan(&bed).toml(), &bed);
    let mut first = Daemon::start(&bed.balancer.namespace, &configuration);
    first.wait_until_up();
    Client::connect(&first.socket()).expect("reach the daemon").drain("v4-1").expect("drain a backend");
    assert!(first.terminate().success(), "{}", first.log());
    let mut second = Daemon::start(&bed.balancer.namespace, &configuration);
    let snapshot = second.wait_until_up();
    let admin: Vec<AdminState> = snapshot.vips[0].backends.iter().map(|backend| backend.admin).collect();
    assert_eq!(admin, [AdminState::Active, AdminState::Draining]);
}

#[test]
#[ignore = "needs root: network namespaces and XDP"]
fn pins_have_one_daemon_and_others_files_stay() {
    let bed = Topology::one_arm(1).expect("make the test bed");
    let _servers = Server::everywhere(&bed, &quick());
    let configuration = pinned(&plan(&bed).toml(), &bed);
    let mut first = Daemon::start(&bed.balancer.namespace, &configuration);
    first.wait_until_up();
    let mut second = Daemon::start(&bed.balancer.namespace, &configuration);
    assert!(!second.wait().success(), "two daemons on the same pins");
    assert!(second.log().contains("another guidevane works on it"), "{}", second.log());
    assert!(first.terminate().success(), "{}", first.log());

    // A start that fails removes what it pinned itself, and nothing else.
    let other = bed.bpffs.path().join("other");
    std::fs::create_dir_all(other.join("somebody-elses")).expect("make a directory");
    let taken = configuration.replace("/guidevane\"", "/other\"");
    let mut third = Daemon::start(&bed.balancer.namespace, &taken);
    assert!(!third.wait().success(), "the interface is taken by the pinned link");
    let left: Vec<_> = std::fs::read_dir(&other).expect("it is still there").flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
#[ignore = "needs root: network namespaces and XDP"]
fn an_announced_address_goes_with_the_daemon_or_stays_with_the_pins() {
    let bed = Topology::one_arm(1).expect("make the test bed");
    let _servers = Server::everywhere(&bed, &quick());
    let vip = IpAddr::V4(bed.announced.v4);
    let mut plan = plan(&bed);
    plan.vips = vec![vip];
    plan.extra = "announce = \"address\"";
    let held = || {
        let output = bed.balancer.namespace.command("ip").args(["address", "show"]).output().expect("run ip");
        String::from_utf8_lossy(&output.stdout).contains(&format!("{vip}/32"))
    };
    let mut daemon = Daemon::start(&bed.balancer.namespace, &plan.toml());
    daemon.wait_until_up();
    assert!(held() && curl(&bed, vip, 2).contains("[DONE]"), "the VIP is on the interface and is steered");
    let mut without = Plan { extra: "", ..plan };
    daemon.reload(&without.toml());
    daemon.wait_for("the address to go", |_| !held());
    without.extra = "announce = \"address\"";
    daemon.reload(&without.toml());
    daemon.wait_for("the address to come", |_| held());
    assert!(daemon.terminate().success(), "{}", daemon.log());
    assert!(!held(), "nothing is left behind");
    let mut daemon = Daemon::start(&bed.balancer.namespace, &pinned(&without.toml(), &bed));
    daemon.wait_until_up();
    assert!(daemon.terminate().success(), "{}", daemon.log());
    assert!(held() && curl(&bed, vip, 2).contains("[DONE]"), "the kernel steers on and is found");
}

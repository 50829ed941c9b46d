//! A curl that streams through XDP, in every mode and family.

use std::net::IpAddr;

use guidevane_tests::{bed::Topology, daemon::Daemon};

use crate::support::{Mode, Plan, Server, checksum_errors, curl, quick};

/// Requests a VIP: enough for every backend to get some.
const REQUESTS: usize = 12;

/// Tokens a request.
const TOKENS: u32 = 16;

fn streams_through(mode: Mode) {
    let bed = mode.topology(3);
    let servers = Server::everywhere(&bed, &quick());
    let plan = Plan::new(&bed, mode);
    let mut daemon = Daemon::start(&bed.balancer.namespace, &plan.toml());
    daemon.wait_until_up();
    for vip in [IpAddr::V4(bed.vip.v4), IpAddr::V6(bed.vip.v6)] {
        for _ in 0..REQUESTS {
            let answer = curl(&bed, vip, TOKENS);
            let chunks = answer.lines().filter(|line| line.starts_with("data: {")).count();
            assert!(chunks >= TOKENS as usize, "{vip}: {chunks} chunks of {TOKENS} tokens:\n{answer}");
            assert!(answer.contains("data: [DONE]"), "{vip}: the stream was cut:\n{answer}");
        }
    }
    let snapshot = daemon.status().expect("the daemon answers");
    for vip in &snapshot.vips {
        assert_eq!(vip.new_flows, REQUESTS as u64, "{}: each request is a connection", vip.name);
        let requests: u64 = vip.backends.iter().map(|backend| backend.requests).sum();
        assert_eq!(requests, REQUESTS as u64, "{}: the kernel saw each request once", vip.name);
    }
    assert_eq!(checksum_errors(&bed), 0, "no receiver saw a wrong checksum");
    assert_eq!(attached(&bed), bed.balancer.interfaces.len(), "the program is on every interface");
    assert!(daemon.terminate().success(), "{}", daemon.log());
    assert_eq!(attached(&bed), 0, "nothing is left behind");
    let finished: u64 = servers.into_iter().map(|server| server.stop().counters.finished).sum();
    assert_eq!(finished, 2 * REQUESTS as u64, "the servers finished what the client asked");
}

/// Interfaces of the balancer with an XDP program.
fn attached(bed: &Topology) -> usize {
    let output = bed.balancer.namespace.command("ip").args(["link", "show"]).output().expect("run ip");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().filter(|line| line.contains("prog/xdp")).count()
}

#[test]
#[ignore = "needs root: network namespaces and XDP"]
fn curl_streams_through_l2_over_ipv4_and_ipv6() {
    streams_through(Mode::L2);
}

#[test]
#[ignore = "needs root: network namespaces and XDP"]
fn curl_streams_through_nat_over_ipv4_and_ipv6() {
    streams_through(Mode::Nat);
}

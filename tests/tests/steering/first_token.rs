//! The kernel's time to first token beside the server's own, which knows it exactly.
//!
//! Means are compared with the server's, which are exact, and medians with the client's.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use guidevane_tests::{
    daemon::Daemon,
    fleet::Servers,
    load::{Direct, Live, LoadOptions, Traffic, lengths::Lengths, run, tls::insecure, traffic::Sizes},
    sim::{
        profile::A100_8B,
        server::{Headers, ServerOptions},
        tls::self_signed,
    },
};

use crate::support::{Mode, PORT, Plan};

/// Two clients wait for one another, so that some requests queue.
const CLIENTS: usize = 2;
/// A quarter of a second to prefill: what a busy machine adds is little beside it.
const SIZES: Sizes = Sizes { prompt: Lengths::Fixed(4096), output: Lengths::Fixed(4), seed: 6 };
const DURATION: Duration = Duration::from_secs(4);

/// How far the two may be apart.
const TOLERANCE: f64 = 0.1;

/// Where answers bypass the balancer, it is the client's acknowledgement that tells of one, and Linux may hold back
/// that of a single segment by this, in seconds (`TCP_DELACK_MIN`), on kept connections and after a TLS handshake.
const DELAYED_ACK: f64 = 0.04;

struct Case {
    headers: Headers,
    tls: bool,
    keep_alive: bool,
}

fn agrees(mode: Mode, case: &Case) {
    let Case { headers, tls, keep_alive } = *case;
    let what = format!("{}, headers {headers:?}, TLS {tls}, connections kept {keep_alive}", mode.name());
    let bed = mode.topology(1);
    let mut options = ServerOptions { headers, ..ServerOptions::new(&A100_8B) };
    if tls {
        let (config, _) = self_signed(&["server".to_owned()]).expect("make a certificate");
        options.tls = Some(config);
    }
    let servers = Servers::start(&bed, PORT, vec![options]).expect("start the server");
    let vip = IpAddr::V4(bed.vip.v4);
    let plan = Plan { vips: vec![vip], metrics: false, ..Plan::new(&bed, mode) };
    let mut daemon = Daemon::start(&bed.balancer.namespace, &plan.toml());
    daemon.wait_until_up();
    let scheme = if tls { "https" } else { "http" };
    let url = format!("{scheme}://{}", SocketAddr::new(vip, PORT));
    let mut load = LoadOptions::new(url, Traffic::Closed { clients: CLIENTS });
    (load.sizes, load.duration, load.keep_alive) = (SIZES, Some(DURATION), keep_alive);
    load.tls = Some(insecure().expect("TLS is built in"));
    let work = move || async move { run(load, Direct::default(), Live::default()).await };
    let report = bed.client.namespace.spawn_runtime(work).join().expect("the options are sound");
    assert_eq!(report.failed, 0, "{what}: {report:?}");
    let snapshot = daemon.status().expect("the daemon answers");
    let backend = &snapshot.vips[0].backends[0];
    let ours = backend.ttft_mean_seconds.expect("the kernel saw answers");
    let own = servers.all()[0].mean_first_token().expect("the server answered");
    let client = report.ttft_seconds.expect("the client saw answers");
    let milliseconds = |seconds: f64| (seconds * 1e4).round() / 10.0;
    println!(
        "{what}: mean time to first token in ms: kernel {}, server {}, client {}; p50: kernel {}, client {}; {} requests",
        milliseconds(ours),
        milliseconds(own),
        milliseconds(client.mean),
        milliseconds(backend.ttft_p50_seconds.unwrap_or_default()),
        milliseconds(client.p50),
        backend.requests,
    );
    let slack = if mode == Mode::L2 { DELAYED_ACK } else { 0.0 };
    let median = backend.ttft_p50_seconds.expect("the kernel saw answers");
    for (what_of, kernel, other) in [("mean", ours, own), ("median", median, client.p50)] {
        let agreed = other * (1.0 - TOLERANCE)..other * (1.0 + TOLERANCE) + slack;
        assert!(agreed.contains(&kernel), "{what}: {what_of} of {kernel} s in the kernel, {other} s outside");
    }
}

fn agrees_in_every_case(mode: Mode) {
    for headers in [Headers::AtOnce, Headers::FirstToken] {
        for tls in [false, true] {
            for keep_alive in [false, true] {
                agrees(mode, &Case { headers, tls, keep_alive });
            }
        }
    }
}

#[test]
#[ignore = "needs root: network namespaces and XDP"]
fn the_kernels_time_to_first_token_is_the_servers_where_answers_bypass_it() {
    agrees_in_every_case(Mode::L2);
}

#[test]
#[ignore = "needs root: network namespaces and XDP"]
fn the_kernels_time_to_first_token_is_the_servers_where_answers_pass_it() {
    agrees_in_every_case(Mode::Nat);
}

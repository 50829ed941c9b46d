//! Real llama.cpp servers behind the balancer, one some twenty times as fast as the other.
//!
//! `cargo xtask setup --peers` installs what it takes; without that nothing is tested here.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use guidevane::api::Backend;
use guidevane_tests::{
    bed::{Background, Topology},
    daemon::Daemon,
    llama::{self, Llama},
    load::{Direct, Live, LoadOptions, Report, Traffic, run, trace::Arrival, traffic::poisson_gaps},
};

use crate::support::{Mode, PORT, Plan};

const FAST: usize = 0;
const SLOW: usize = 1;

/// Requests a second: a quarter of what the fast one can do, and ten times what the slow one can.
const RATE: f64 = 15.0;
const SEED: u64 = 7;
const PROMPT: u32 = 32;
const OUTPUT: u32 = 32;

/// Requests in all: some eight seconds to learn, and twelve to count in.
const REQUESTS: usize = 300;
const LEARNING: Duration = Duration::from_secs(8);

/// How often the fast one must be picked for each pick of the slow one; by their rates it is more.
const RATIO: f64 = 3.0;

/// How far the kernel and the client, who also waits for its connection, may be apart in the time to first token.
const TOLERANCE: f64 = 0.1;

fn load(bed: &Topology) -> Background<Report> {
    let url = format!("http://{}", SocketAddr::new(bed.vip.v4.into(), PORT));
    let mut at = Duration::ZERO;
    let arrivals = poisson_gaps(RATE, SEED).take(REQUESTS).map(|gap| {
        at += gap;
        Arrival { at, prompt_tokens: PROMPT, output_tokens: OUTPUT }
    });
    // It ends with its last request.
    let mut options = LoadOptions::new(url, Traffic::Trace(arrivals.collect()));
    options.duration = None;
    bed.client.namespace.spawn_runtime(move || async move {
        run(options, Direct::default(), Live::default()).await.expect("the options are sound")
    })
}

#[test]
#[ignore = "needs root: network namespaces and XDP"]
fn real_servers_get_requests_by_their_speed() {
    let Some(folder) = llama::installed() else {
        println!("skipped: there is no llama.cpp server; `cargo xtask setup --peers` installs it");
        return;
    };
    let bed = Topology::one_arm(2).expect("make the test bed");
    let _servers = [(FAST, llama::FAST), (SLOW, llama::SLOW)].map(|(number, model)| {
        Llama::start(&bed.servers[number].namespace, &folder, model, PORT).expect("start llama-server")
    });
    let plan = Plan { vips: vec![IpAddr::V4(bed.vip.v4)], ..Plan::new(&bed, Mode::L2) };
    let mut daemon = Daemon::start(&bed.balancer.namespace, &plan.toml());
    daemon.wait_for("a report of each server", |snapshot| {
        snapshot.vips[0].backends.iter().all(|backend| backend.reported.is_some())
    });
    daemon.wait_until_up();
    let running = load(&bed);
    std::thread::sleep(LEARNING);
    let before = backends(&daemon);
    let report = running.join();
    let after = backends(&daemon);
    let of = |what: fn(&Backend) -> u64| [FAST, SLOW].map(|one| what(&after[one]) - what(&before[one]));
    let [fast, slow] = of(|backend| backend.requests);
    let ours = mean_first_token(&after);
    let client = report.ttft_seconds.expect("the client saw answers").mean;
    println!(
        "requests while learning {:?}, after {:?}; costs {:.2?}; first token: kernel {:.4?} s, all {ours:.4}, client {client:.4}",
        [before[FAST].requests, before[SLOW].requests],
        [fast, slow],
        [after[FAST].cost, after[SLOW].cost],
        [after[FAST].ttft_mean_seconds, after[SLOW].ttft_mean_seconds],
    );
    assert_eq!((report.requests, report.failed), (REQUESTS as u64, 0), "{report:?}\n{}", daemon.log());
    assert!(fast as f64 >= RATIO * slow as f64, "{fast} requests to the fast one, {slow} to the slow one");
    assert!((ours / client - 1.0).abs() < TOLERANCE, "the kernel has {ours} s, the client {client} s");
}

/// The mean time to first token over both servers, in seconds.
fn mean_first_token(backends: &[Backend]) -> f64 {
    let requests: u64 = backends.iter().map(|one| one.requests).sum();
    let sum: f64 = backends.iter().filter_map(|one| Some(one.ttft_mean_seconds? * one.requests as f64)).sum();
    sum / requests as f64
}

fn backends(daemon: &Daemon) -> Vec<Backend> {
    daemon.status().expect("the daemon answers").vips.remove(0).backends
}

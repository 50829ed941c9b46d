//! The governor in whole clusters, in virtual time, beside the balancers it has to beat.
//!
//! `cargo test -p guidevane-tests --test governor -- --nocapture` prints the figures.

use std::{collections::HashMap, time::Duration};

use guidevane_tests::{
    cluster::{Balancer, Outcome, Scenario, Server, Traffic, run},
    load::lengths::Lengths,
    sim::profile::{A100_8B, H100_8B, H100X2_70B_FP8, L40S_8B, Profile},
};

/// Batch slots of a server in the tests of a closed loop.
const SLOTS: u32 = 32;

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Conversations: half of the prompts are below 500 tokens, answers are 150 tokens on average.
fn scenario(servers: Vec<Server>, traffic: Traffic) -> Scenario {
    Scenario {
        servers,
        traffic,
        prompt: Lengths::LogNormal { median: 500.0, sigma: 0.7 },
        output: Lengths::Geometric(150.0),
        warm_up: secs(15),
        end: secs(60),
        reports_end: None,
        seed: 11,
    }
}

/// Runs all balancers and prints what came of it.
fn compare(title: &str, scenario: &Scenario) -> HashMap<&'static str, Outcome> {
    println!("\n{title}");
    println!(
        "{:<18} {:>8} {:>9} {:>27} {:>27}",
        "", "requests", "tokens/s", "first token: mean p50 p99", "latency: mean p50 p99"
    );
    let named = Balancer::ALL.map(|balancer| {
        let name = match balancer {
            Balancer::RoundRobin => "round-robin",
            Balancer::LeastConnections => "least-connections",
            Balancer::Hash => "hash",
            Balancer::Static => "least (static)",
            Balancer::Governor => "least (governor)",
        };
        let outcome = run(scenario, balancer);
        let (first, latency) = (outcome.first_token, outcome.latency);
        println!(
            "{name:<18} {:>8} {:>9.0} {:>9.3} {:>8.3} {:>8.3} {:>9.3} {:>8.3} {:>8.3}  {:?}",
            outcome.requests,
            outcome.tokens_per_second,
            first.mean,
            first.p50,
            first.p99,
            latency.mean,
            latency.p50,
            latency.p99,
            outcome.served,
        );
        (name, outcome)
    });
    for explained in &named[4].1.explained {
        println!(
            "  theta {:.2} (sample {:.2}, band {:.2}) correction {:.1} (raw {:.1}) limit {:?} factor {:.2}",
            explained.theta.applied,
            explained.theta.sample.unwrap_or(f64::NAN),
            explained.theta.band,
            explained.correction.filtered,
            explained.correction.raw.unwrap_or(f64::NAN),
            explained.limit.flows,
            explained.factor,
        );
    }
    named.into_iter().collect()
}

fn half_loaded(profile: &Profile, load: impl Fn(Server) -> Server) -> Vec<Server> {
    let server = |number: u32| {
        let server = Server::new(profile, SLOTS);
        if number % 2 == 1 { load(server) } else { server }
    };
    (0..8).map(server).collect()
}

#[test]
fn with_half_of_the_servers_slowed_it_leaves_round_robin_behind() {
    for profile in [&H100X2_70B_FP8, &H100_8B] {
        let servers = half_loaded(profile, |server| server.at_rate(0.28));
        let outcomes = compare(
            &format!("closed loop, 8 {}, 4 of them at 0.28", profile.name),
            &scenario(servers, Traffic::Closed(8 * SLOTS)),
        );
    }
}

#[test]
fn foreign() {
    let servers = half_loaded(&H100X2_70B_FP8, |server| server.with_foreign(20));
    compare("closed loop, foreign 20 of 32", &scenario(servers, Traffic::Closed(8 * SLOTS - 4 * 20)));
}

fn capacity(server: &Server) -> f64 {
    let slots = server.engine.max_num_seqs;
    let mut scenario = scenario(vec![server.clone()], Traffic::Closed(slots));
    scenario.end = secs(45);
    let outcome = run(&scenario, Balancer::RoundRobin);
    outcome.requests as f64 / 30.0
}

fn mixed() -> Vec<Server> {
    let profiles = [&H100_8B, &H100_8B, &A100_8B, &A100_8B, &A100_8B, &L40S_8B, &L40S_8B, &L40S_8B];
    profiles.map(|profile| Server::new(profile, 64)).to_vec()
}

#[test]
fn mixed_gpus() {
    let servers = mixed();
    let total: f64 = servers.iter().map(capacity).sum();
    println!("capacity {total:.1} requests/s");
    compare("Poisson 0.85, mixed", &scenario(servers, Traffic::Poisson(0.85 * total)));
}

#[test]
fn straggler() {
    let mut servers = vec![Server::new(&A100_8B, 64); 8];
    let total = 8.0 * capacity(&servers[0]);
    servers[3].changes = vec![(secs(20), 0.4), (secs(45), 1.0)];
    compare("straggler 0.7", &scenario(servers.clone(), Traffic::Poisson(0.7 * total)));
    compare("straggler 0.8", &scenario(servers, Traffic::Poisson(0.8 * total)));
}

#[test]
fn balanced() {
    let servers = vec![Server::new(&A100_8B, 64); 8];
    let total = 8.0 * capacity(&servers[0]);
    compare("balanced 0.85", &scenario(servers, Traffic::Poisson(0.85 * total)));
}

#[test]
fn cut() {
    let servers = mixed();
    let total: f64 = servers.iter().map(capacity).sum();
    let mut scenario = scenario(servers, Traffic::Poisson(0.85 * total));
    scenario.reports_end = Some(secs(25));
    compare("telemetry cut, mixed", &scenario);
}

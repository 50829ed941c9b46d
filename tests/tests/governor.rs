//! The governor in whole clusters, in virtual time, beside the balancers it has to beat.
//!
//! `cargo test -p guidevane-tests --test governor -- --nocapture` prints the figures. They are the same at every
//! run, so margins are there for changes of the models, not for noise.

use std::time::Duration;

use guidevane::sim::{
    Outcome, Policy, Scenario, Server, Sizes, Traffic,
    lengths::Lengths,
    profile::{A100_8B, H100_8B, H100X2_70B_FP8, L40S_8B, Profile},
    run,
};

/// Batch slots of a server in a closed loop, and in an open one.
const SLOTS: u32 = 32;
const OPEN_SLOTS: u32 = 64;

/// What half of the servers of the Tolly Group's test keep of their speed.
const LOADED_RATE: f64 = 0.28;

const WARM_UP: Duration = Duration::from_secs(15);
const END: Duration = Duration::from_secs(60);

/// Conversations: half of the prompts are below 500 tokens, answers are 150 tokens on average.
const SIZES: Sizes =
    Sizes { prompt: Lengths::LogNormal { median: 500.0, sigma: 0.7 }, output: Lengths::Geometric(150.0) };

fn scenario(servers: Vec<Server>, traffic: Traffic) -> Scenario {
    Scenario { warm_up: WARM_UP, seed: 11, ..Scenario::new(servers, traffic, END) }
}

fn closed(clients: u32) -> Traffic {
    Traffic::Closed(clients, SIZES)
}

struct Results {
    round_robin: Outcome,
    least_connections: Outcome,
    governor: Outcome,
}

/// Runs all balancers on the same requests and prints what came of it.
fn compare(title: &str, scenario: &Scenario) -> Results {
    let policies =
        [Policy::RoundRobin, Policy::LeastConnections, Policy::Hash, Policy::LiveCounts, Policy::Guidevane];
    let [round_robin, least_connections, hash, fixed, governor] =
        policies.map(|policy| run(scenario, policy));
    let rows = [
        ("round-robin", &round_robin),
        ("least-connections", &least_connections),
        ("hash", &hash),
        ("least (static)", &fixed),
        ("least (governor)", &governor),
    ];
    // One string, so that tests that run side by side do not mix their lines.
    let mut table = format!(
        "\n{title}\n{:<18} {:>8} {:>9} | first token, s: mean, p50, p99 | latency, s: mean, p50, p99 | requests by server\n",
        "", "requests", "tokens/s"
    );
    for (name, outcome) in rows {
        let (first, latency) = (outcome.first_token, outcome.latency);
        table += &format!(
            "{name:<18} {:>8} {:>9.0} | {:>12.3} {:>8.3} {:>8.3} | {:>9.3} {:>8.3} {:>8.3} | {:?}\n",
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
    }
    for (server, explained) in governor.explained.iter().enumerate() {
        table += &format!(
            "  server {server}: factor {:.2}, theta {:.2} (measured {:.2}, noise to {:.2}), correction {:.1}, limit {:?}\n",
            explained.factor,
            explained.theta.applied,
            explained.theta.sample.unwrap_or(1.0),
            explained.theta.band,
            explained.correction.filtered,
            explained.limit.flows,
        );
    }
    print!("{table}");
    Results { round_robin, least_connections, governor }
}

#[track_caller]
fn assert_at_most(what: &str, value: f64, factor: f64, of: f64) {
    assert!(value <= factor * of, "{what}: {value:.4} is more than {factor} of {of:.4}");
}

#[track_caller]
fn assert_at_least(what: &str, value: f64, factor: f64, of: f64) {
    assert!(value >= factor * of, "{what}: {value:.4} is less than {factor} of {of:.4}");
}

/// A closed loop with a client for each slot leaves no choice: the free slot is the place to go, and least
/// connections finds it without knowing. Ours weighs what waits, and its first tokens come later by up to this
/// in their mean, by a few that wait long: medians are alike.
const FULL_LOOP: f64 = 1.3;

/// No figure is worse than the other's by more than this factor.
#[track_caller]
fn assert_no_worse(outcome: &Outcome, other: &Outcome, factor: f64) {
    assert_at_least("tokens/s", outcome.tokens_per_second, 1.0 / factor, other.tokens_per_second);
    assert_at_most("mean time to first token", outcome.first_token.mean, factor, other.first_token.mean);
    assert_at_most("mean latency", outcome.latency.mean, factor, other.latency.mean);
}

/// The figures that the project promises against round robin.
#[track_caller]
fn assert_promise(results: &Results) {
    let (ours, theirs) = (&results.governor, &results.round_robin);
    assert_at_least("tokens/s", ours.tokens_per_second, 1.4, theirs.tokens_per_second);
    assert_at_most("mean time to first token", ours.first_token.mean, 0.39, theirs.first_token.mean);
    assert_at_most("mean latency", ours.latency.mean, 0.66, theirs.latency.mean);
}

/// Eight servers, every second one with a load of its own.
fn half_loaded(profile: &Profile, load: impl Fn(Server) -> Server) -> Vec<Server> {
    let server = |number| {
        let server = Server::new(profile, SLOTS);
        if number % 2 == 1 { load(server) } else { server }
    };
    (0..8).map(server).collect()
}

/// Requests a second that a server answers with its batch always full.
fn capacity(server: &Server) -> f64 {
    let full = scenario(vec![server.clone()], closed(server.engine.max_num_seqs));
    run(&full, Policy::RoundRobin).requests as f64 / (END - WARM_UP).as_secs_f64()
}

/// Poisson traffic at a part of the capacity that the servers have together.
fn open_loop(servers: Vec<Server>, load: f64) -> Scenario {
    let mut known: Vec<(Server, f64)> = Vec::new();
    let mut total = 0.0;
    for server in &servers {
        let alike = known.iter().find(|(other, _)| other.engine == server.engine);
        let each = alike.map_or_else(|| capacity(server), |(_, each)| *each);
        known.push((server.clone(), each));
        total += each;
    }
    scenario(servers, Traffic::Poisson(load * total, SIZES))
}

fn mixed_gpus() -> Vec<Server> {
    let profiles = [&H100_8B, &H100_8B, &A100_8B, &A100_8B, &A100_8B, &L40S_8B, &L40S_8B, &L40S_8B];
    profiles.map(|profile| Server::new(profile, OPEN_SLOTS)).to_vec()
}

#[test]
fn with_half_of_the_servers_slowed_round_robin_is_left_behind() {
    for profile in [&H100X2_70B_FP8, &H100_8B] {
        let servers = half_loaded(profile, |server| server.at_rate(LOADED_RATE));
        let title = format!("closed loop, 8 {}, 4 of them at {LOADED_RATE}", profile.name);
        let results = compare(&title, &scenario(servers, closed(8 * SLOTS)));
        assert_promise(&results);
        let (ours, theirs) = (&results.governor, &results.least_connections);
        assert_at_least("tokens/s", ours.tokens_per_second, 0.98, theirs.tokens_per_second);
        assert_at_most("mean latency", ours.latency.mean, 1.03, theirs.latency.mean);
        assert_at_most("mean time to first token", ours.first_token.mean, FULL_LOOP, theirs.first_token.mean);
    }
}

#[test]
fn without_any_report_the_kernels_own_counts_do() {
    let servers = half_loaded(&H100_8B, |server| server.at_rate(LOADED_RATE));
    let mut blind = scenario(servers, closed(8 * SLOTS));
    blind.reports.end = Some(Duration::ZERO);
    let results = compare("closed loop, half of the servers slowed, nothing scraped", &blind);
    assert_promise(&results);
    assert_no_worse(&results.governor, &results.least_connections, FULL_LOOP);
}

#[test]
fn foreign_requests_in_half_of_the_batches_are_worked_round() {
    const FOREIGN: u32 = 20;
    let servers = half_loaded(&H100X2_70B_FP8, |server| server.with_foreign(FOREIGN));
    let clients = 8 * SLOTS - 4 * FOREIGN;
    let results = compare(
        "closed loop, 20 foreign requests in the batches of 4 of 8 servers",
        &scenario(servers, closed(clients)),
    );
    assert_promise(&results);
    let (ours, theirs) = (&results.governor, &results.least_connections);
    assert_at_least("tokens/s", ours.tokens_per_second, 1.05, theirs.tokens_per_second);
    assert_at_most("mean time to first token", ours.first_token.mean, 0.5, theirs.first_token.mean);
    for (server, explained) in ours.explained.iter().enumerate() {
        let foreign = if server % 2 == 1 { f64::from(FOREIGN) } else { 0.0 };
        let found = explained.correction.filtered;
        assert!((found - foreign).abs() < 2.0, "{found} of {foreign} foreign requests at server {server}");
    }
}

#[test]
fn mixed_gpus_need_no_weights() {
    let results = compare("Poisson at load 0.85, H100, A100 and L40S", &open_loop(mixed_gpus(), 0.85));
    assert_no_worse(&results.governor, &results.least_connections, 1.01);
    assert_at_most(
        "mean latency",
        results.governor.latency.mean,
        0.95,
        results.least_connections.latency.mean,
    );
}

#[test]
fn a_server_that_slows_down_for_a_while_does_not_make_the_tail() {
    let mut servers = vec![Server::new(&A100_8B, OPEN_SLOTS); 8];
    servers[3].changes = vec![(Duration::from_secs(20), 0.4), (Duration::from_secs(45), 1.0)];
    let results =
        compare("Poisson at load 0.75, one of 8 servers at 0.4 for a while", &open_loop(servers, 0.75));
    let (ours, theirs) = (&results.governor, &results.least_connections);
    assert_at_most("p99 time to first token", ours.first_token.p99, 1.0, theirs.first_token.p99);
    assert_no_worse(ours, theirs, 1.03);
}

#[test]
fn a_change_of_speed_is_learned_within_seconds() {
    const PATIENCE: Duration = Duration::from_secs(5);
    let mut servers = vec![Server::new(&A100_8B, OPEN_SLOTS); 8];
    servers[3].changes = vec![(Duration::from_secs(20), 0.4), (Duration::from_secs(40), 1.0)];
    for load in [0.5, 0.8] {
        let learned = run(&open_loop(servers.clone(), load), Policy::Guidevane).learned;
        println!("load {load}: changes of speed are learned after {learned:?}");
        assert_eq!(learned.len(), 2);
        assert!(learned.iter().all(|time| time.is_some_and(|time| time < PATIENCE)), "{learned:?}");
    }
}

#[test]
fn ten_balancers_that_do_not_talk_do_not_herd() {
    let mut one = open_loop(vec![Server::new(&H100_8B, 256); 16], 0.7);
    (one.warm_up, one.end) = (Duration::from_secs(10), Duration::from_secs(30));
    let mut ten = Scenario { balancers: 10, ..one.clone() };
    ten.reports.delay = Duration::from_millis(100);
    let p99 = |scenario, policy| run(scenario, policy).first_token.p99;
    let (alone, counts) = (p99(&one, Policy::LeastConnections), p99(&ten, Policy::LiveCounts));
    let ours = p99(&ten, Policy::Guidevane);
    println!(
        "p99 first token: one least connections {alone:.3}, ten on their own counts {counts:.3}, ours {ours:.3}"
    );
    assert_at_most("p99 time to first token beside own counts", ours, 1.1, counts);
    assert_at_most("p99 time to first token beside one balancer", ours, 1.25, alone);
}

#[test]
fn connections_that_stay_open_are_steered_too() {
    let mut kept = open_loop(vec![Server::new(&A100_8B, OPEN_SLOTS); 8], 0.6);
    kept.requests_per_connection = 4.0;
    let [theirs, ours] = [Policy::LeastConnections, Policy::Guidevane].map(|policy| run(&kept, policy));
    assert_no_worse(&ours, &theirs, 1.05);
}

#[test]
fn among_equal_servers_it_does_no_harm() {
    let servers = vec![Server::new(&A100_8B, OPEN_SLOTS); 8];
    let results = compare("Poisson at load 0.85, 8 equal servers", &open_loop(servers, 0.85));
    assert_no_worse(&results.governor, &results.least_connections, 1.03);
    for explained in &results.governor.explained {
        assert!((0.8..1.25).contains(&explained.factor), "{explained:?}");
    }
}

#[test]
fn when_reports_end_it_is_still_no_worse() {
    let mut cut = open_loop(mixed_gpus(), 0.85);
    cut.reports.end = Some(Duration::from_secs(25));
    let results = compare("Poisson at load 0.85, mixed GPUs, reports end after 25 s", &cut);
    assert_no_worse(&results.governor, &results.least_connections, 1.1);
}

#[test]
fn the_same_scenario_gives_the_same_figures() {
    let mut brief = scenario(vec![Server::new(&H100_8B, SLOTS); 3], Traffic::Poisson(20.0, SIZES));
    (brief.warm_up, brief.end) = (Duration::from_secs(1), Duration::from_secs(6));
    let [first, second] = [(); 2].map(|()| run(&brief, Policy::Guidevane));
    assert!(first.requests > 50, "{first:?}");
    assert_eq!(first.latency, second.latency);
    assert_eq!(first.explained, second.explained);
}

//! Reports that flow, stop and flow again.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{Agent, Metrics, Pki, age, observed, remote, until};

#[tokio::test]
async fn reports_flow_every_five_milliseconds_and_carry_what_the_server_says() {
    let (pki, metrics) = (Pki::new(), Metrics::start(7).await);
    let agent = Agent::start(
        pki.room.path(),
        &pki.agent("127.0.0.1", &["gpu-0"]),
        &[("gpu-0", Some(metrics.address))],
    );
    let asked = Instant::now();
    let remote = remote(agent.address, "gpu-0", pki.terms());
    let first = observed(&remote, "the first observation", |_| true).await;
    assert_eq!((first.running, first.waiting, first.kv_usage), (Some(7.0), Some(2.0), Some(0.5)));
    assert_eq!(first.generation_tokens, Some(1000.0));
    assert_eq!(first.ttft.map(|totals| (totals.sum, totals.count)), Some((40.5, 298.0)));
    assert!(first.taken_start <= first.taken_end && first.taken_end <= Instant::now());
    metrics.set(9);
    let set = Instant::now();
    let second = observed(&remote, "the change", |observation| observation.running == Some(9.0)).await;
    assert!(second.taken_start > first.taken_start);
    assert!(second.taken_end >= set, "what was set later is not dated earlier");
    // At the standard's usual interval this would take longer than the test may.
    until(&remote, "hundreds of reports", |scrape| scrape.successes >= 400).await;
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?} for 400 reports", asked.elapsed());
    assert!(remote.hardware.borrow().is_none(), "nothing is known of GPUs");
    assert_eq!(remote.scrape.borrow().failures.total(), 0);
}

#[tokio::test]
async fn an_agent_speaks_for_each_of_its_backends_on_a_stream_of_its_own() {
    let (pki, first, second) = (Pki::new(), Metrics::start(1).await, Metrics::start(2).await);
    let backends = [("gpu-0", Some(first.address)), ("gpu-1", Some(second.address)), ("gpu-2", None)];
    let identity = pki.agent("127.0.0.1", &["gpu-0", "gpu-1", "gpu-2", "gpu-3"]);
    let agent = Agent::start(pki.room.path(), &identity, &backends);
    for (name, running) in [("gpu-0", 1.0), ("gpu-1", 2.0)] {
        let remote = remote(agent.address, name, pki.terms());
        observed(&remote, name, |observation| observation.running == Some(running)).await;
    }
    let silent = remote(agent.address, "gpu-2", pki.terms());
    let scrape = until(&silent, "reports without a server", |scrape| scrape.successes > 3).await;
    assert_eq!(scrape.last, None);
    let unknown = remote(agent.address, "gpu-3", pki.terms());
    let scrape = until(&unknown, "a refusal", |scrape| scrape.failures.status > 0).await;
    let error = scrape.last_error.unwrap();
    assert!(error.contains("this agent speaks for gpu-0, gpu-1, gpu-2, not for \"gpu-3\""), "{error}");
}

#[tokio::test]
async fn a_killed_agent_lets_the_observation_age_and_is_found_again() {
    let (pki, metrics) = (Pki::new(), Metrics::start(7).await);
    let identity = pki.agent("127.0.0.1", &["gpu-0"]);
    let backends = [("gpu-0", Some(metrics.address))];
    let agent = Agent::start(pki.room.path(), &identity, &backends);
    let address = agent.address;
    let remote = remote(address, "gpu-0", pki.terms());
    observed(&remote, "the first observation", |_| true).await;
    drop(agent);
    until(&remote, "the loss", |scrape| scrape.failures.http > 0).await;
    let scrape = until(&remote, "refused connections", |scrape| scrape.failures.connect > 1).await;
    let last = scrape.last.unwrap();
    assert_eq!(last.running, Some(7.0), "the last observation stays");
    let old = age(&remote);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(age(&remote) >= old + Duration::from_millis(50));
    metrics.set(8);
    let again = Agent::start_at(pki.room.path(), &identity, &backends, address);
    assert_eq!(again.address, address);
    let news = observed(&remote, "news", |observation| observation.running == Some(8.0)).await;
    assert!(news.taken_start > last.taken_end);
    assert_eq!(remote.scrape.borrow().consecutive_failures, 0);
}

#[tokio::test]
async fn a_stalled_agent_lets_the_observation_age_until_it_goes_on() {
    let (pki, metrics) = (Pki::new(), Metrics::start(7).await);
    let agent = Agent::start(
        pki.room.path(),
        &pki.agent("127.0.0.1", &["gpu-0"]),
        &[("gpu-0", Some(metrics.address))],
    );
    let remote = remote(agent.address, "gpu-0", pki.terms());
    observed(&remote, "the first observation", |_| true).await;
    agent.signal(Signal::SIGSTOP);
    let scrape = until(&remote, "the end of patience", |scrape| scrape.failures.timeout > 0).await;
    assert!(age(&remote) >= Duration::from_secs(2), "{:?}", age(&remote));
    assert!(scrape.last_error.is_some_and(|error| error.contains("no report for 2s")));
    metrics.set(8);
    agent.signal(Signal::SIGCONT);
    observed(&remote, "news", |observation| observation.running == Some(8.0)).await;
}

#[tokio::test]
async fn a_server_that_stops_answering_ages_although_its_agent_reports() {
    let (pki, metrics) = (Pki::new(), Metrics::start(7).await);
    let agent = Agent::start(
        pki.room.path(),
        &pki.agent("127.0.0.1", &["gpu-0"]),
        &[("gpu-0", Some(metrics.address))],
    );
    let remote = remote(agent.address, "gpu-0", pki.terms());
    observed(&remote, "the first observation", |_| true).await;
    metrics.break_off();
    // A scrape under way when it broke may still have been good.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = remote.scrape.borrow().clone();
    let after = until(&remote, "reports", |scrape| scrape.successes >= before.successes + 100).await;
    assert_eq!(after.last, before.last, "the same reading is not taken for a new one");
    assert!(age(&remote) >= Duration::from_millis(100));
}

#[tokio::test]
async fn nobody_listening_ends_the_subscription() {
    let (pki, metrics) = (Pki::new(), Metrics::start(7).await);
    let agent = Agent::start(
        pki.room.path(),
        &pki.agent("127.0.0.1", &["gpu-0"]),
        &[("gpu-0", Some(metrics.address))],
    );
    let remote = remote(agent.address, "gpu-0", pki.terms());
    observed(&remote, "the first observation", |_| true).await;
    let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = alive();
    drop(remote);
    let deadline = Instant::now() + Duration::from_secs(30);
    // The subscription's task and its connection's.
    while alive() + 2 > before {
        assert!(Instant::now() < deadline, "{} tasks of {before} still run", alive());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

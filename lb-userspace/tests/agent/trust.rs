//! Who is believed: certificates that do and do not fit, and what is made of lies.

use std::{net::Ipv4Addr, time::Instant};

use guidevane::{
    agent::{
        enroll::Subject,
        server::{Served, serve},
        subscriber::Terms,
    },
    config::Identity,
    signals::{Fault, Hardware, Observation, Scrape, Totals},
};
use tokio::{net::TcpListener, sync::watch};

use crate::support::{Agent, INTERVAL, Pki, Remote, failed, observed, remote, remote_at, terms, until};

/// An agent in this process that says what it is told to.
async fn puppet(
    identity: &Identity,
    name: &str,
) -> (u16, watch::Sender<Scrape>, watch::Sender<Option<Hardware>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (says, scrape) = watch::channel(Scrape::default());
    let (shows, hardware) = watch::channel(None);
    let served = Served { name: name.into(), scrape, hardware };
    tokio::spawn(serve(listener, identity.server().unwrap(), vec![served]));
    (port, says, shows)
}

fn at(host: &str, port: u16, backend: &str, terms: Terms) -> Remote {
    remote_at(&format!("https://{host}:{port}"), backend, terms)
}

#[tokio::test]
async fn certificates_that_do_not_fit_are_refused_with_the_remedy() {
    let (pki, other) = (Pki::new(), Pki::new());
    let balancer = pki.balancer();
    let expired = pki.agent_for("127.0.0.1", &["gpu-0"], 0);
    // Ends are in whole seconds.
    tokio::time::sleep(std::time::Duration::from_millis(2100)).await;
    let foreign = Identity { ca: pki.balancer().ca, ..other.agent("127.0.0.1", &["gpu-0"]) };
    let client = Identity { ..pki.balancer() };
    let cases = [
        ("unknown authority", foreign, &["UnknownIssuer", "does not come from the ca of [agents]"][..]),
        ("expired", expired, &["expired", "enroll it again with --force"]),
        ("a client's", client, &["invalid peer certificate"]),
    ];
    for (what, identity, words) in cases {
        let (port, _says, _shows) = puppet(&identity, "gpu-0").await;
        let remote = at("127.0.0.1", port, "gpu-0", terms(&balancer));
        let error = failed(&remote).await;
        for word in words {
            assert!(error.contains(word), "{what}: `{word}` is not in: {error}");
        }
        assert_eq!(remote.scrape.borrow().successes, 0, "{what}");
    }
    let good = pki.agent("127.0.0.1", &["gpu-0", "gpu-1"]);
    let (port, _says, _shows) = puppet(&good, "gpu-0").await;
    let elsewhere = failed(&at("localhost", port, "gpu-0", pki.terms())).await;
    assert!(elsewhere.contains("is for another host; enroll it with --host"), "{elsewhere}");
    let none = failed(&at("127.0.0.1", port, "gpu-0", Terms { tls: None, interval: INTERVAL })).await;
    assert!(none.contains("no ca, cert and key in [agents]"), "{none}");
    until(&at("127.0.0.1", port, "gpu-0", pki.terms()), "the right one", |scrape| scrape.successes > 0).await;
}

#[tokio::test]
async fn an_agent_speaks_for_the_backends_of_its_certificate_alone() {
    let pki = Pki::new();
    // It claims to be gpu-1, and has a certificate for gpu-0 and names that only look like it.
    let identity = pki.agent("127.0.0.1", &["gpu-0", "gpu-11", "gpu"]);
    let (port, says, _shows) = puppet(&identity, "gpu-1").await;
    says.send_modify(|scrape| scrape.last = Some(observation(1.0, Instant::now())));
    let remote = at("127.0.0.1", port, "gpu-1", pki.terms());
    let scrape = until(&remote, "refusals", |scrape| scrape.failures.content > 1).await;
    assert_eq!((scrape.successes, scrape.last), (0, None));
    let error = scrape.last_error.unwrap();
    assert!(error.contains("does not name backend gpu-1 (it names gpu-0, gpu-11, gpu)"), "{error}");
    // And asked about gpu-0 it must not answer for another.
    let error = failed(&at("127.0.0.1", port, "gpu-0", pki.terms())).await;
    assert!(error.contains("speaks for gpu-1, not for \"gpu-0\""), "{error}");
}

#[tokio::test]
async fn an_agent_answers_to_balancers_of_its_authority_alone() {
    let (pki, other) = (Pki::new(), Pki::new());
    let identity = pki.agent("127.0.0.1", &["gpu-0"]);
    let agent = Agent::start(pki.room.path(), &identity, &[("gpu-0", None)]);
    let strangers = [
        ("another authority's", Identity { ca: pki.balancer().ca, ..other.balancer() }),
        ("another agent's", pki.agent("neighbour", &["gpu-1"])),
    ];
    for (whose, stranger) in strangers {
        let remote = remote(agent.address, "gpu-0", terms(&stranger));
        let error = failed(&remote).await;
        assert!(error.contains("it refuses the certificate of [agents]"), "{whose}: {error}");
        assert_eq!(remote.scrape.borrow().successes, 0, "{whose}");
    }
    pki.enroll(&Subject::Balancer, 1);
    let renewed = remote(agent.address, "gpu-0", pki.terms());
    until(&renewed, "a new certificate of the same authority", |scrape| scrape.successes > 0).await;
}

fn observation(running: f64, taken: Instant) -> Observation {
    Observation { running: Some(running), ..Observation::silent(taken, taken) }
}

#[tokio::test]
async fn lies_arrive_as_numbers_that_can_be() {
    let pki = Pki::new();
    let (port, says, shows) = puppet(&pki.agent("127.0.0.1", &["gpu-0"]), "gpu-0").await;
    let remote = at("127.0.0.1", port, "gpu-0", pki.terms());
    let say = |observation: Observation| says.send_modify(|scrape| scrape.last = Some(observation));
    // A queue that nobody has is a number all the same: what it may do is for the governor to bound.
    let tokens = |tokens| Observation { generation_tokens: Some(tokens), ..observation(1e9, Instant::now()) };
    say(tokens(5000.0));
    observed(&remote, "a queue of 10^9", |o| o.running == Some(1e9)).await;
    say(tokens(10.0));
    observed(&remote, "a counter that goes back", |o| o.generation_tokens == Some(10.0)).await;
    say(Observation {
        running: Some(f64::NAN),
        waiting: Some(f64::INFINITY),
        kv_usage: Some(-0.5),
        ttft: Some(Totals { sum: f64::NAN, count: 3.0 }),
        max_num_seqs: Some(4),
        ..observation(0.0, Instant::now())
    });
    let read = observed(&remote, "what is left of nonsense", |o| o.max_num_seqs == Some(4)).await;
    assert_eq!((read.running, read.waiting, read.kv_usage, read.ttft), (None, None, None, None));
    // From the future, it is as old as its arrival.
    let future = Instant::now() + std::time::Duration::from_secs(3600);
    say(observation(77.0, future));
    let read = observed(&remote, "a clock that is ahead", |o| o.running == Some(77.0)).await;
    assert!(read.taken_end <= Instant::now());
    let now = Instant::now();
    shows.send_replace(Some(Hardware {
        speed: Some(f64::INFINITY),
        foreign: Some(7.0),
        utilization: Some(f64::NAN),
        memory: None,
        fault: Some(Fault::Lost),
        taken_start: now,
        taken_end: now,
    }));
    let mut hardware = remote.hardware.clone();
    let read = hardware.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    assert_eq!((read.speed, read.foreign, read.utilization), (None, Some(1.0), None));
    assert_eq!(read.fault, Some(Fault::Lost));
}

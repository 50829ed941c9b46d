use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::{BoxFuture, pending};
use tokio::{net::TcpListener, time::timeout};

use super::{Health, Key, Status};
use crate::health::{HealthOptions, Probe, ProbeError, State, TcpProbe};

const PATIENCE: Duration = Duration::from_secs(20);

fn quick() -> HealthOptions {
    HealthOptions { interval: Duration::from_millis(10), timeout: Duration::from_secs(5), rise: 2, fall: 3 }
}

fn key(name: &str) -> Key {
    Key::from(name)
}

async fn until(health: &Health, name: &str, accept: impl Fn(&Status) -> bool) -> Status {
    let mut report = health.subscribe();
    let found = timeout(PATIENCE, report.wait_for(|report| report.get(name).is_some_and(&accept))).await;
    match found {
        Ok(report) => report.expect("the monitor lives")[name].clone(),
        Err(_) => panic!("{name} stays {:?}", health.subscribe().borrow().get(name)),
    }
}

async fn listen(address: SocketAddr) -> TcpListener {
    let socket =
        if address.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() };
    let socket = socket.expect("a socket");
    // The port of a closed listener must be free again at once.
    socket.set_reuseaddr(true).expect("reuse the address");
    socket.bind(address).unwrap_or_else(|e| panic!("bind {address}: {e}"));
    socket.listen(1024).expect("listen")
}

#[tokio::test]
async fn a_backend_goes_down_when_it_refuses_and_up_when_it_listens_again() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let listener = listen(address.parse().expect("address")).await;
        let address = listener.local_addr().expect("bound");
        let mut health = Health::new(quick());
        health.add(key("gpu-1"), TcpProbe { address });
        let up = until(&health, "gpu-1", |s| s.state == State::Up).await;
        assert_eq!(up.reason, None);

        drop(listener);
        let down = until(&health, "gpu-1", |s| s.state == State::Down).await;
        assert_eq!(down.reason.as_deref(), Some("connect: connection refused"));
        assert!(down.since > up.since, "{address}: the state of {down:?} began before {up:?}");

        let _listener = listen(address).await;
        until(&health, "gpu-1", |s| s.state == State::Up && s.reason.is_none()).await;
    }
}

#[tokio::test]
async fn the_first_refusal_is_enough() {
    let listener = listen("127.0.0.1:0".parse().expect("address")).await;
    let address = listener.local_addr().expect("bound");
    drop(listener);
    // Were the first result not to decide, it would take ten more.
    let mut health = Health::new(HealthOptions { fall: 10, interval: Duration::from_secs(10), ..quick() });
    health.add(key("gpu-1"), TcpProbe { address });
    until(&health, "gpu-1", |s| s.state == State::Down).await;
}

/// Counts its probes and answers as told.
#[derive(Clone, Default)]
struct Told {
    asked: Arc<AtomicUsize>,
    silent: Arc<AtomicBool>,
}

impl Probe for Told {
    fn probe(&self) -> BoxFuture<'_, Result<(), ProbeError>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.silent.load(Ordering::Relaxed) { Box::pin(pending()) } else { Box::pin(async { Ok(()) }) }
    }
}

#[tokio::test]
async fn silence_counts_as_failure_once_the_time_is_over() {
    let probe = Told::default();
    probe.silent.store(true, Ordering::Relaxed);
    let mut health = Health::new(HealthOptions { timeout: Duration::from_millis(50), ..quick() });
    health.add(key("gpu-1"), probe.clone());
    let down = until(&health, "gpu-1", |s| s.state == State::Down).await;
    assert_eq!(down.reason.as_deref(), Some("no answer within 50ms"));
    probe.silent.store(false, Ordering::Relaxed);
    until(&health, "gpu-1", |s| s.state == State::Up).await;
}

#[tokio::test]
async fn a_doubt_counts_as_a_failure_and_is_followed_by_a_probe_at_once() {
    // Were a doubt not to lead to a probe, the next one would come too late.
    let patient = HealthOptions {
        // The first probe comes within a tenth of it.
        interval: Duration::from_secs(30),
        timeout: Duration::from_millis(50),
        fall: 4,
        ..quick()
    };
    let probe = Told::default();
    let mut health = Health::new(patient);
    health.add(key("gpu-1"), probe.clone());
    until(&health, "gpu-1", |s| s.state == State::Up).await;

    health.doubt("gpu-1");
    let asked = async {
        while probe.asked.load(Ordering::Relaxed) < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, asked).await.expect("it is probed at once");
    until(&health, "gpu-1", |s| s.state == State::Up && s.reason.is_none()).await;

    // Each doubt and the failing probe that follows it are two failures of the four.
    probe.silent.store(true, Ordering::Relaxed);
    health.doubt("gpu-1");
    until(&health, "gpu-1", |s| s.reason.as_deref() == Some("no answer within 50ms")).await;
    assert_eq!(health.subscribe().borrow()["gpu-1"].state, State::Up);
    health.doubt("gpu-1");
    until(&health, "gpu-1", |s| s.state == State::Down).await;
    assert_eq!(probe.asked.load(Ordering::Relaxed), 4);
    health.doubt("nobody");
}

#[tokio::test]
async fn backends_come_and_go_while_running() {
    let mut health = Health::new(quick());
    let (stays, goes) = (Told::default(), Told::default());
    health.add(key("stays"), stays.clone());
    health.add(key("goes"), goes.clone());
    until(&health, "stays", |s| s.state == State::Up).await;
    until(&health, "goes", |s| s.state == State::Up).await;

    health.remove("goes");
    assert_eq!(health.subscribe().borrow().keys().map(|k| &**k).collect::<Vec<_>>(), ["stays"]);
    // The task owns the last other clone; when it is gone, nothing probes any more.
    let ended = async {
        while Arc::strong_count(&goes.asked) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, ended).await.expect("the removed backend is still probed");

    health.add(key("goes"), goes.clone());
    until(&health, "goes", |s| s.state == State::Up).await;
    drop(health);
    let ended = async {
        while Arc::strong_count(&stays.asked) + Arc::strong_count(&goes.asked) > 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, ended).await.expect("probes outlive the monitor");
}

#[tokio::test]
async fn a_backend_that_is_replaced_starts_over() {
    let mut health = Health::new(quick());
    health.add(key("gpu-1"), Told::default());
    until(&health, "gpu-1", |s| s.state == State::Up).await;
    let silent = Told::default();
    silent.silent.store(true, Ordering::Relaxed);
    health.add(key("gpu-1"), silent);
    assert_eq!(health.subscribe().borrow()["gpu-1"].state, State::Unknown);
}

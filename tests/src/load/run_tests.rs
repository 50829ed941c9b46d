//! The load generator end to end, against simulated servers and against broken ones.

use std::{
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    load::{
        Connect, Direct, Failure, Live, LoadError, LoadOptions, Report, Traffic, run, tls,
        trace::Arrival,
        traffic::{Sizes, poisson_gaps},
    },
    sim::{
        self,
        profile::H100_8B,
        server::{ServerOptions, SimServer},
    },
};

fn server(change: impl FnOnce(&mut ServerOptions)) -> SimServer {
    let mut options = ServerOptions::new(&H100_8B);
    options.driver.speed = 50.0;
    change(&mut options);
    SimServer::spawn(TcpListener::bind("127.0.0.1:0").unwrap(), options).unwrap()
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

/// A trace of `count` requests at once: a run of known size that ends by itself.
fn burst(url: String, count: usize, output_tokens: u32) -> LoadOptions {
    let arrival = Arrival { at: Duration::ZERO, prompt_tokens: 64, output_tokens };
    LoadOptions { duration: None, ..LoadOptions::new(url, Traffic::Trace(vec![arrival; count].into())) }
}

async fn report(options: LoadOptions) -> Report {
    run(options, Direct::default(), Live::default()).await.unwrap()
}

#[tokio::test]
async fn a_trace_is_served_to_its_last_token() {
    for path in ["", "/v1/chat/completions"] {
        // In real time: however busy the machine, a response then comes in several writes with gaps between them.
        let server = server(|options| options.driver.speed = 1.0);
        let live = Live::default();
        let options = burst(url(server.addr()) + path, 20, 30);
        let report = run(options, Direct::default(), live.clone()).await.unwrap();
        assert_eq!((report.requests, report.failed, report.unfinished), (20, 0, 0), "{report:?}");
        let tokens = report.output_tokens_per_second * report.seconds;
        assert!((tokens - 600.0).abs() < 1e-3, "{tokens}");
        assert_eq!(server.stats().counters.generation_tokens, 600);
        let (first, whole) = (report.ttft_seconds.unwrap(), report.latency_seconds.unwrap());
        assert!(0.0 < first.mean && first.mean < whole.mean && whole.p50 <= whole.p99, "{report:?}");
        assert!(report.inter_token_seconds.is_some());
        let snapshot = live.snapshot();
        assert_eq!((snapshot.finished, snapshot.tokens, snapshot.in_flight), (20, 600, 0));
    }
}

#[tokio::test]
async fn a_closed_loop_keeps_its_clients_busy_and_reports_those_under_way() {
    let server = server(|options| options.driver.engine.max_num_seqs = 4);
    let mut options = LoadOptions::new(url(server.addr()), Traffic::Closed { clients: 6 });
    options.duration = Some(Duration::from_millis(1500));
    options.warm_up = Duration::from_millis(100);
    let report = report(options).await;
    assert_eq!((report.failed, report.unfinished), (0, 6), "{report:?}");
    assert!(report.requests > 0 && report.output_tokens_per_second > 0.0, "{report:?}");
}

#[tokio::test]
async fn an_open_loop_sends_what_its_seed_says() {
    let server = server(|_| {});
    let mut options = LoadOptions::new(url(server.addr()), Traffic::Poisson { rate: 100.0 });
    options.sizes.output = "geometric:5".parse().unwrap();
    options.duration = Some(Duration::from_secs(1));
    let mut at = Duration::ZERO;
    let due = poisson_gaps(100.0, options.sizes.seed).take_while(|gap| {
        at += *gap;
        at < Duration::from_secs(1)
    });
    let due = due.count() as u64;
    let report = report(options).await;
    let sent = report.requests + report.unfinished;
    // A busy machine may be late with the last ones, but nothing is sent that is not due.
    assert!(report.failed == 0 && sent <= due && sent >= due / 2, "{sent} of {due}: {report:?}");
}

#[tokio::test]
async fn the_same_seed_asks_for_the_same_tokens() {
    let mut totals = Vec::new();
    for seed in [1, 1, 2] {
        let server = server(|_| {});
        let options = LoadOptions::new(url(server.addr()), Traffic::Closed { clients: 1 });
        let sizes = Sizes {
            prompt: "lognormal:200:1".parse().unwrap(),
            output: "geometric:9".parse().unwrap(),
            seed,
        };
        let arrivals: Vec<Arrival> = (0..10)
            .map(|index| sizes.of(index))
            .map(|size| Arrival {
                at: Duration::ZERO,
                prompt_tokens: size.prompt_tokens,
                output_tokens: size.output_tokens,
            })
            .collect();
        report(LoadOptions { traffic: Traffic::Trace(arrivals.into()), duration: None, ..options }).await;
        let counters = server.stats().counters;
        totals.push((counters.prompt_tokens, counters.generation_tokens));
    }
    assert_eq!(totals[0], totals[1]);
    assert_ne!(totals[0], totals[2]);
}

/// Counts connections on their way to [`Direct`].
#[derive(Default)]
struct Counting(Arc<AtomicUsize>);

impl Connect for Counting {
    async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Direct::default().connect(address).await
    }
}

#[tokio::test]
async fn connections_are_fresh_or_kept_as_asked() {
    let server = server(|_| {});
    for (keep_alive, most_per_client) in [(false, usize::MAX), (true, 1)] {
        let mut options = LoadOptions::new(url(server.addr()), Traffic::Closed { clients: 3 });
        options.duration = Some(Duration::from_millis(800));
        options.sizes.output = "3".parse().unwrap();
        options.keep_alive = keep_alive;
        let connections = Arc::new(AtomicUsize::new(0));
        let report = run(options, Counting(connections.clone()), Live::default()).await.unwrap();
        let connections = connections.load(Ordering::Relaxed);
        assert_eq!(report.failed, 0, "{report:?}");
        assert!(report.requests > 3, "{report:?}");
        if keep_alive {
            assert!(connections <= 3 * most_per_client, "{connections} connections");
        } else {
            assert!(
                connections as u64 >= report.requests,
                "{connections} connections for {}",
                report.requests
            );
        }
    }
}

#[tokio::test]
async fn a_server_that_closes_every_connection_fails_no_request() {
    let server = server(|options| options.close = true);
    let mut options = burst(url(server.addr()), 5, 3);
    options.keep_alive = true;
    let report = report(options).await;
    assert_eq!((report.requests, report.failed), (5, 0), "{report:?}");
}

#[tokio::test]
async fn load_over_tls_trusts_whom_it_is_told_to() {
    let (config, certificate) = sim::tls::self_signed(&["127.0.0.1".to_owned()]).unwrap();
    let server = server(|options| options.tls = Some(config));
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(certificate.as_bytes()).unwrap();
    let other = sim::tls::self_signed(&["127.0.0.1".to_owned()]).unwrap().1;
    let mut wrong = tempfile::NamedTempFile::new().unwrap();
    wrong.write_all(other.as_bytes()).unwrap();
    let cases = [
        (tls::trusting_file(file.path()).unwrap(), 0),
        (tls::insecure().unwrap(), 0),
        (tls::trusting_file(wrong.path()).unwrap(), 2),
    ];
    for (trust, failed) in cases {
        let mut options = burst(format!("https://{}", server.addr()), 2, 4);
        options.tls = Some(trust);
        let report = report(options).await;
        assert_eq!((report.requests, report.failed), (2, failed), "{report:?}");
        assert_eq!(report.failures.get(&Failure::Connect).copied().unwrap_or(0), failed);
    }
}

#[tokio::test]
async fn the_source_address_is_the_one_asked_for() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = url(listener.local_addr().unwrap());
    let source = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 77));
    let load = tokio::spawn(run(burst(target, 1, 1), Direct { bind: Some(source) }, Live::default()));
    let (_, peer) = listener.accept().await.unwrap();
    assert_eq!(peer.ip(), source);
    load.abort();
}

/// Answers every connection with the same bytes, whatever it asks, and closes it.
async fn canned(answer: &'static str) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = socket.read(&mut request).await;
            let _ = socket.write_all(answer.as_bytes()).await;
            let _ = socket.shutdown().await;
        }
    });
    address
}

#[tokio::test]
async fn every_way_to_fail_is_counted_by_its_kind() {
    let cases = [
        ("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", Failure::Status),
        ("", Failure::Protocol),
        ("SSH-2.0-OpenSSH\r\n", Failure::Protocol),
        ("HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\ndata: nope\n\n", Failure::Protocol),
        ("HTTP/1.1 200 OK\r\n\r\ndata: {\"error\":{\"message\":\"dead\"}}\n\n", Failure::Protocol),
        // Broken off within the body.
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\ndata: {\"choices\":[{\"text\":\"x\"}]}\n\n",
            Failure::Truncated,
        ),
        // Whole by HTTP, but without the end mark.
        ("HTTP/1.1 200 OK\r\n\r\ndata: {\"choices\":[{\"text\":\"x\"}]}\n\n", Failure::Truncated),
        // Marked as whole, with fewer tokens than asked for.
        (
            "HTTP/1.1 200 OK\r\n\r\ndata: {\"choices\":[{\"text\":\"x\"}]}\n\ndata: [DONE]\n\n",
            Failure::Truncated,
        ),
    ];
    for (answer, failure) in cases {
        let report = report(burst(url(canned(answer).await), 1, 2)).await;
        assert_eq!(report.failures.into_iter().collect::<Vec<_>>(), [(failure, 1)], "{answer:?}");
    }
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let report = report(burst(url(closed), 3, 2)).await;
    assert_eq!((report.requests, report.failed), (3, 3));
    assert_eq!(report.failures[&Failure::Connect], 3);
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_a_timeout_and_leaves_the_server() {
    let server = server(|options| options.driver.speed = 1.0);
    let mut options = burst(url(server.addr()), 2, 100_000);
    options.timeout = Duration::from_millis(300);
    let report = report(options).await;
    assert_eq!((report.requests, report.failed, report.failures[&Failure::Timeout]), (2, 2, 2), "{report:?}");
    let left = async {
        while server.stats().counters.aborted < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), left).await.expect("both requests leave the server");
}

#[tokio::test]
async fn a_run_without_end_is_refused() {
    let options = LoadOptions {
        duration: None,
        ..LoadOptions::new("http://127.0.0.1", Traffic::Poisson { rate: 1.0 })
    };
    assert!(matches!(run(options, Direct::default(), Live::default()).await, Err(LoadError::Endless)));
}

//! A server that fails at once, and one that refuses, must not look fast: the real daemon, real connections.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use guidevane_tests::{
    bed::{Background, Topology},
    daemon::Daemon,
    loads::Loads,
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Mode, PORT, Plan};

const SERVERS: usize = 8;
const FAILING: u16 = 2;
const REFUSING: u16 = 5;

/// Connections a second, and the mean time of an answer: eight at a server at once.
const RATE: f64 = 600.0;
const ANSWER: Duration = Duration::from_millis(100);
const ANSWER_BYTES: usize = 4000;

/// How long all is well, and how long shares are looked at after that.
const SETTLE: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_secs(11);

/// A second, and how often one begins.
const WINDOW: usize = 10;
const STEP: Duration = Duration::from_millis(100);

/// Answers until it is told to fail.
fn serve(bed: &Topology, number: usize, fails: &Arc<AtomicBool>) -> Background<()> {
    let fails = Arc::clone(fails);
    bed.servers[number].namespace.spawn_runtime(move || async move {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)).expect("listen");
        listener.set_nonblocking(true).expect("a socket of this test");
        let listener = tokio::net::TcpListener::from_std(listener).expect("a socket of this test");
        let mut random = StdRng::seed_from_u64(number as u64);
        loop {
            let Ok((socket, _)) = listener.accept().await else { continue };
            let wait = ANSWER.mul_f64(-(1.0 - random.random::<f64>()).ln());
            // A probe that goes away at once has no answer to take.
            let fails = fails.load(Ordering::Relaxed);
            tokio::spawn(async move { answer(socket, fails, wait).await.ok() });
        }
    })
}

async fn answer(mut socket: TcpStream, fails: bool, wait: Duration) -> std::io::Result<()> {
    let mut request = [0; 1024];
    if socket.read(&mut request).await? == 0 {
        return Ok(());
    }
    let (status, bytes, wait) = match fails {
        false => ("200 OK", ANSWER_BYTES, wait),
        true => ("500 Internal Server Error", 400, Duration::from_millis(1)),
    };
    tokio::time::sleep(wait).await;
    let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {bytes}\r\n\r\n");
    socket.write_all(head.as_bytes()).await?;
    socket.write_all(&vec![b'x'; bytes]).await
}

/// Connections at random times, whatever becomes of them.
fn connect(bed: &Topology) -> Background<()> {
    let vip = SocketAddr::new(bed.vip.v4.into(), PORT);
    bed.client.namespace.spawn_runtime(move || async move {
        let mut random = StdRng::seed_from_u64(1);
        let mut next = tokio::time::Instant::now();
        loop {
            next += Duration::from_secs_f64(-(1.0 - random.random::<f64>()).ln() / RATE);
            tokio::time::sleep_until(next).await;
            tokio::spawn(async move {
                let mut socket = TcpStream::connect(vip).await?;
                socket.write_all(b"GET / HTTP/1.1\r\nhost: vip\r\n\r\n").await?;
                socket.read_to_end(&mut Vec::new()).await
            });
        }
    })
}

/// New flows of every server so far, at every step.
fn counts(loads: &Loads) -> Vec<[u64; SERVERS]> {
    let begun = Instant::now();
    let mut counts = Vec::new();
    while begun.elapsed() < LOOK {
        counts.push(std::array::from_fn(|id| loads.read(id as u16).opened));
        std::thread::sleep(STEP);
    }
    counts
}

/// A server's part of the new flows between two counts, over its fair one.
fn share(id: u16, from: &[u64; SERVERS], to: &[u64; SERVERS]) -> f64 {
    let grown = |id: usize| (to[id] - from[id]) as f64;
    let all: f64 = (0..SERVERS).map(grown).sum();
    grown(id.into()) * SERVERS as f64 / all
}

#[test]
#[ignore = "needs root: network namespaces and XDP"]
fn a_server_that_fails_at_once_or_refuses_gets_no_more_than_its_share() {
    let bed = Topology::one_arm(SERVERS).expect("make the test bed");
    let (fail, sound) = (Arc::new(AtomicBool::new(false)), Arc::default());
    let habit = |number| if number == usize::from(FAILING) { &fail } else { &sound };
    let mut servers: Vec<Option<Background<()>>> =
        (0..SERVERS).map(|number| Some(serve(&bed, number, habit(number)))).collect();
    let pin = bed.bpffs.path().join("guidevane");
    let mut plan = Plan::new(&bed, Mode::L2);
    (plan.vips, plan.metrics) = (vec![IpAddr::V4(bed.vip.v4)], false);
    // The refusing one stays in: a probe would take it out, and its share would be none.
    let configuration = plan
        .toml()
        .replace("[daemon]", &format!("[daemon]\npin = \"{}\"", pin.display()))
        .replace("[health]", "[health]\nfall = 100");
    let mut daemon = Daemon::start(&bed.balancer.namespace, &configuration);
    daemon.wait_until_up();
    let loads = Loads::pinned(&pin).expect("the daemon's maps");
    let _clients = connect(&bed);
    std::thread::sleep(SETTLE);
    fail.store(true, Ordering::Relaxed);
    servers[usize::from(REFUSING)] = None;

    let counts = counts(&loads);
    let (outset, counts) = counts.split_at(WINDOW);
    let (first, last) = (counts.first().expect("a count"), counts.last().expect("a count"));
    for (what, id) in [("failing", FAILING), ("refusing", REFUSING)] {
        let (all, outset) = (share(id, first, last), share(id, &outset[0], first));
        let mut seconds: Vec<f64> =
            counts.windows(WINDOW + 1).map(|window| share(id, &window[0], &window[WINDOW])).collect();
        seconds.sort_unstable_by(f64::total_cmp);
        let (middle, most) = (seconds[seconds.len() / 2], seconds[seconds.len() - 1]);
        println!(
            "{what}: {outset:.2} of its fair share in the first second, then {all:.2}, {middle:.2} in the middle \
             second and {most:.2} in the most"
        );
        // The machine is others' too: one second in ten may be.
        let nearly_most = seconds[seconds.len() * 9 / 10];
        assert!(
            all <= 1.2 && nearly_most <= 1.2,
            "{what}: {all:.2}, {nearly_most:.2} in nine seconds of ten"
        );
        assert!(last[usize::from(id)] > first[usize::from(id)], "{what}: it got nothing");
    }
    let opened: Vec<u64> = first.iter().zip(last).map(|(first, last)| last - first).collect();
    println!("new flows by server: {opened:?}");
}

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::AbortHandle,
    time::{sleep, timeout},
};

use super::{Scrape, ScrapeOptions, scrape};
use crate::signals::{Endpoint, Key, MetricsUrl, Scrapers, ServerMetrics, Target};

const PATIENCE: Duration = Duration::from_secs(20);
const GOOD: &str = "vllm:num_requests_running{engine=\"0\"} 4\nvllm:num_requests_waiting{engine=\"0\"} 1\n";

/// How the server treats the next request.
#[derive(Clone, Copy, Debug)]
enum Manner {
    Good,
    /// Good, and the connection is closed after it without a word.
    GoodThenClose,
    /// Nothing ever comes.
    Silent,
    /// A header that promises more than comes, and then nothing.
    HalfAnAnswer,
    /// A good answer, a byte at a time.
    Drips,
    /// The connection is closed in the middle of the body.
    BreaksOff,
    NotHttp,
    Html,
    NaN,
    Unavailable,
    TenMegabytes,
    TenMegabytesInChunks,
}

/// A server on loopback that behaves as told, over real sockets.
struct Server {
    address: SocketAddr,
    manner: Arc<Mutex<Manner>>,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Server {
    async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind loopback");
        let address = listener.local_addr().expect("bound");
        let manner = Arc::new(Mutex::new(manner));
        let (connections, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (mood, opened, asked) = (Arc::clone(&manner), Arc::clone(&connections), Arc::clone(&requests));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                opened.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(stream, Arc::clone(&mood), Arc::clone(&asked)));
            }
        });
        Self { address, manner, connections, requests, task: task.abort_handle() }
    }

    fn url(&self) -> MetricsUrl {
        format!("http://{}/metrics", self.address).parse().expect("a url")
    }

    fn be(&self, manner: Manner) {
        *self.manner.lock().expect("no panic") = manner;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    mut stream: TcpStream,
    mood: Arc<Mutex<Manner>>,
    requests: Arc<AtomicUsize>,
) -> io::Result<()> {
    let mut received = Vec::new();
    loop {
        while !received.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut received).await? == 0 {
                return Ok(());
            }
        }
        let request = String::from_utf8_lossy(&received).into_owned();
        assert!(request.starts_with("GET /metrics HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("host: 127.0.0.1:"), "{request}");
        received.clear();
        requests.fetch_add(1, Ordering::Relaxed);

        let manner = *mood.lock().expect("no panic");
        let answer = |status: &str, body: &str| {
            format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        };
        match manner {
            Manner::Good => stream.write_all(answer("200 OK", GOOD).as_bytes()).await?,
            Manner::GoodThenClose => return stream.write_all(answer("200 OK", GOOD).as_bytes()).await,
            Manner::Silent => {}
            Manner::HalfAnAnswer => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\nvllm:num_req").await?;
            }
            Manner::Drips => {
                for byte in answer("200 OK", GOOD).as_bytes() {
                    stream.write_all(&[*byte]).await?;
                    sleep(Duration::from_millis(10)).await;
                }
            }
            Manner::BreaksOff => {
                return stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\nvllm:num_req").await;
            }
            Manner::NotHttp => stream.write_all(b"SSH-2.0-OpenSSH_9.7\r\n\r\n").await?,
            Manner::Html => stream.write_all(answer("200 OK", "<html>hello</html>\n").as_bytes()).await?,
            Manner::NaN => {
                let body = GOOD.replace(" 4", " NaN").replace(" 1", " +Inf");
                stream.write_all(answer("200 OK", &body).as_bytes()).await?;
            }
            Manner::Unavailable => stream.write_all(answer("503 Busy", "no\n").as_bytes()).await?,
            Manner::TenMegabytes => {
                let body = GOOD.repeat(10 * 1024 * 1024 / GOOD.len());
                stream.write_all(answer("200 OK", &body).as_bytes()).await?;
            }
            Manner::TenMegabytesInChunks => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
                let chunk = format!("100000\r\n{}\r\n", "#".repeat(1 << 20));
                for _ in 0..10 {
                    stream.write_all(chunk.as_bytes()).await?;
                }
                stream.write_all(b"0\r\n\r\n").await?;
            }
        }
    }
}

/// A time limit that only a server that never answers runs into.
fn patient() -> ScrapeOptions {
    ScrapeOptions { interval: Duration::from_millis(10), timeout: PATIENCE, ..ScrapeOptions::default() }
}

fn scraping(url: MetricsUrl, options: ScrapeOptions) -> watch::Receiver<Scrape> {
    scrape("metrics".to_owned(), ServerMetrics::new(Endpoint::plain(url), None), options)
}

fn target(url: MetricsUrl) -> Target {
    Target { endpoint: Endpoint::plain(url), server: None, options: patient() }
}

fn key(name: &str) -> Key {
    Key::from(name)
}

async fn until(scrapes: &mut watch::Receiver<Scrape>, accept: impl Fn(&Scrape) -> bool) -> Scrape {
    if let Ok(found) = timeout(PATIENCE, scrapes.wait_for(accept)).await {
        return found.expect("the scraper runs").clone();
    }
    panic!("it stays {:?}", scrapes.borrow());
}

#[tokio::test]
async fn a_good_server_is_read_over_one_connection() {
    let server = Server::start(Manner::Good).await;
    let mut scrapes = scraping(server.url(), patient());
    let scrape = until(&mut scrapes, |s| s.successes >= 5).await;
    let last = scrape.last.expect("an observation");
    assert_eq!((last.running, last.waiting), (Some(4.0), Some(1.0)));
    assert!(last.taken_start <= last.taken_end, "{last:?}");
    assert_eq!((scrape.failures.total(), scrape.last_error), (0, None));
    assert_eq!(server.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_connection_that_the_server_closes_is_opened_again_without_a_failure() {
    let server = Server::start(Manner::GoodThenClose).await;
    let mut scrapes = scraping(server.url(), patient());
    let scrape = until(&mut scrapes, |s| s.successes >= 5).await;
    assert_eq!(scrape.failures.total(), 0, "{:?}", scrape.last_error);
    assert!(server.connections.load(Ordering::Relaxed) >= 5);
}

#[tokio::test]
async fn each_failure_is_counted_by_kind_keeps_the_last_observation_and_ends() {
    type Counter = fn(&Scrape) -> u64;
    let cases: [(Manner, Counter, &str); 7] = [
        (Manner::BreaksOff, |s| s.failures.http, "http: "),
        (Manner::NotHttp, |s| s.failures.http, "http: "),
        (Manner::Html, |s| s.failures.content, "the answer holds no queue metrics of a server that is known"),
        (Manner::NaN, |s| s.failures.content, "the answer holds no queue metrics of a server that is known"),
        (Manner::Unavailable, |s| s.failures.status, "status 503"),
        (Manner::TenMegabytes, |s| s.failures.too_large, "the answer exceeds 4194304 bytes"),
        (Manner::TenMegabytesInChunks, |s| s.failures.too_large, "the answer exceeds 4194304 bytes"),
    ];
    for (manner, counter, text) in cases {
        let server = Server::start(Manner::Good).await;
        let mut scrapes = scraping(server.url(), patient());
        until(&mut scrapes, |s| s.successes >= 1).await;

        server.be(manner);
        let failing = until(&mut scrapes, |s| s.consecutive_failures >= 2).await;
        assert_eq!(counter(&failing), failing.failures.total(), "{manner:?}: {failing:?}");
        let error = failing.last_error.clone().unwrap_or_default();
        assert!(error.starts_with(text), "{manner:?}: {error}");
        let last = failing.last.expect("the last good observation stays");
        assert_eq!(last.running, Some(4.0), "{manner:?}");

        let still = until(&mut scrapes, |s| s.consecutive_failures >= 3).await;
        assert_eq!(still.last.map(|o| o.taken_end), Some(last.taken_end), "{manner:?}: it looks newer");

        server.be(Manner::Good);
        let healed = until(&mut scrapes, |s| s.successes > still.successes).await;
        assert_eq!(healed.consecutive_failures, 0, "{manner:?}");
        assert!(healed.last.expect("new").taken_start > last.taken_end, "{manner:?}");
    }
}

#[tokio::test]
async fn a_server_that_takes_too_long_is_left_and_asked_anew() {
    for manner in [Manner::Silent, Manner::HalfAnAnswer, Manner::Drips] {
        let server = Server::start(manner).await;
        let options = ScrapeOptions { timeout: Duration::from_millis(50), ..patient() };
        let mut scrapes = scraping(server.url(), options);
        let failing = until(&mut scrapes, |s| s.failures.timeout >= 2).await;
        assert_eq!(failing.last_error.as_deref(), Some("no answer within 50ms"), "{manner:?}");
        assert_eq!(failing.last, None, "{manner:?}");
        server.be(Manner::Good);
        until(&mut scrapes, |s| s.successes >= 1).await;
    }
}

/// A log that is stuck in every line until another thread has read what the scraper publishes.
#[derive(Clone, Default)]
struct StuckLog {
    scrapes: Arc<OnceLock<watch::Receiver<Scrape>>>,
    read: Arc<AtomicUsize>,
}

impl io::Write for StuckLog {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let scrapes = self.scrapes.get().expect("nothing is logged before").clone();
        let (done, read) = mpsc::channel();
        thread::spawn(move || {
            drop(scrapes.borrow());
            done.send(())
        });
        if read.recv_timeout(PATIENCE).is_ok() {
            self.read.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn what_was_scraped_can_be_read_while_the_log_is_stuck() {
    let log = StuckLog::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let server = Server::start(Manner::Unavailable).await;
    let mut scrapes = scraping(server.url(), patient());
    log.scrapes.set(scrapes.clone()).expect("set once");
    until(&mut scrapes, |s| s.failures.status >= 2).await;
    server.be(Manner::Good);
    until(&mut scrapes, |s| s.successes >= 2).await;
    assert_eq!(log.read.load(Ordering::Relaxed), 2, "it says that it fails and that it is back, each once");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_a_connection_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind loopback");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let url = format!("http://{address}/metrics").parse().expect("a url");
    let mut scrapes = scraping(url, patient());
    let failing = until(&mut scrapes, |s| s.failures.connect >= 2).await;
    let error = failing.last_error.unwrap_or_default();
    assert!(error.starts_with(&format!("connect to {address}: ")), "{error}");
}

#[tokio::test]
async fn targets_come_go_and_move_while_running() {
    let (first, second) = (Server::start(Manner::Good).await, Server::start(Manner::Good).await);
    let mut scrapers = Scrapers::new(Arc::default());
    scrapers.set_targets([(key("stays"), target(first.url())), (key("moves"), target(first.url()))]);
    let mut stays = scrapers.subscribe("stays").expect("a target");
    let mut moves = scrapers.subscribe("moves").expect("a target");
    until(&mut stays, |s| s.successes >= 1).await;
    until(&mut moves, |s| s.successes >= 1).await;
    drop(moves);

    scrapers.set_targets([(key("stays"), target(first.url())), (key("moves"), target(second.url()))]);
    assert!(scrapers.snapshot()["stays"].successes >= 1, "what stays was started over");
    let mut moved = scrapers.subscribe("moves").expect("a target");
    until(&mut moved, |s| s.successes >= 1).await;
    assert_eq!(second.connections.load(Ordering::Relaxed), 1);
    drop((moved, stays));

    scrapers.set_targets([]);
    assert!(scrapers.snapshot().is_empty());
    // Both tasks end; then nothing is asked any more.
    let asked = || first.requests.load(Ordering::Relaxed) + second.requests.load(Ordering::Relaxed);
    let quiet = async {
        let mut before = asked();
        loop {
            sleep(Duration::from_millis(100)).await;
            let now = asked();
            if now == before {
                return;
            }
            before = now;
        }
    };
    timeout(PATIENCE, quiet).await.expect("servers are asked after they left the set");
}

//! What the tests share: certificates, a server with metrics, an agent's process, and a subscription to it.

use std::{
    convert::Infallible,
    fs,
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use guidevane::{
    agent::{
        enroll::{Enrolled, Subject, enroll},
        subscriber::{Terms, subscribe},
    },
    config::Identity,
    signals::{Board, Hardware, Key, Observation, Scrape},
};
use http_body_util::Full;
use hyper::{body::Bytes, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{net::TcpListener, sync::watch};

/// As long as anything here may take on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(30);

/// A subscription's interval in tests.
pub const INTERVAL: Duration = Duration::from_millis(5);

/// An authority with a balancer's certificate, and room for agents' ones.
pub struct Pki {
    pub room: tempfile::TempDir,
}

impl Pki {
    pub fn new() -> Self {
        let pki = Self { room: tempfile::tempdir().unwrap() };
        pki.enroll(&Subject::Balancer, 1);
        pki
    }

    pub fn enroll(&self, subject: &Subject, days: u32) -> Enrolled {
        enroll(self.room.path(), subject, days, true).unwrap()
    }

    /// The files of an agent at `host` that speaks for `backends`.
    pub fn agent(&self, host: &str, backends: &[&str]) -> Identity {
        self.agent_for(host, backends, 1)
    }

    pub fn agent_for(&self, host: &str, backends: &[&str], days: u32) -> Identity {
        let backends = backends.iter().map(|&name| name.to_owned()).collect();
        let made = self.enroll(&Subject::Agent { hosts: vec![host.to_owned()], backends }, days);
        Identity { ca: made.ca, cert: made.made.cert, key: made.made.key }
    }

    pub fn balancer(&self) -> Identity {
        let file = |name| self.room.path().join(name);
        Identity { ca: file("ca.pem"), cert: file("balancer.pem"), key: file("balancer.key") }
    }

    pub fn terms(&self) -> Terms {
        terms(&self.balancer())
    }
}

pub fn terms(identity: &Identity) -> Terms {
    Terms { tls: Some(identity.client().unwrap()), interval: INTERVAL }
}

/// A server that has vLLM's metrics and nothing else.
pub struct Metrics {
    pub address: SocketAddr,
    text: Arc<Mutex<String>>,
}

impl Metrics {
    pub async fn start(running: u32) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let text = Arc::new(Mutex::new(String::new()));
        let metrics = Self { address, text: Arc::clone(&text) };
        metrics.set(running);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let text = Arc::clone(&text);
                let service = service_fn(move |_| {
                    let body = text.lock().unwrap().clone();
                    async { Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::from(body)))) }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        metrics
    }

    /// From now on it has no metrics.
    pub fn break_off(&self) {
        self.text.lock().unwrap().clear();
    }

    pub fn set(&self, running: u32) {
        *self.text.lock().unwrap() = format!(
            "vllm:num_requests_running{{engine=\"0\"}} {running}\n\
             vllm:num_requests_waiting{{engine=\"0\"}} 2\n\
             vllm:kv_cache_usage_perc{{engine=\"0\"}} 0.5\n\
             vllm:generation_tokens_total{{engine=\"0\"}} 1000\n\
             vllm:time_to_first_token_seconds_sum{{engine=\"0\"}} 40.5\n\
             vllm:time_to_first_token_seconds_count{{engine=\"0\"}} 298\n"
        );
    }
}

/// `guidevane agent`, killed when dropped.
pub struct Agent {
    child: Child,
    pub address: SocketAddr,
}

impl Agent {
    /// An agent for backends whose servers' metrics are at these addresses, on a free port of loopback.
    pub fn start(room: &Path, identity: &Identity, backends: &[(&str, Option<SocketAddr>)]) -> Self {
        Self::start_at(room, identity, backends, "127.0.0.1:0".parse().unwrap())
    }

    pub fn start_at(
        room: &Path,
        identity: &Identity,
        backends: &[(&str, Option<SocketAddr>)],
        listen: SocketAddr,
    ) -> Self {
        let file = config(room, identity, backends, listen);
        let mut child = Command::new(env!("CARGO_BIN_EXE_guidevane"))
            .args(["agent", "--config"])
            .arg(file)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let ready = lines.by_ref().map(|line| line.unwrap()).find(|line| line.contains("speaking for"));
        let ready = ready.unwrap_or_else(|| panic!("the agent did not start"));
        let address = ready.rsplit(' ').next().unwrap().parse().unwrap_or_else(|_| panic!("{ready}"));
        std::thread::spawn(move || lines.for_each(|line| eprintln!("agent: {}", line.unwrap_or_default())));
        Self { child, address }
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A configuration file of an agent.
pub fn config(
    room: &Path,
    identity: &Identity,
    backends: &[(&str, Option<SocketAddr>)],
    listen: SocketAddr,
) -> PathBuf {
    let Identity { ca, cert, key } = identity;
    let mut text = format!(
        "[agent]\nlisten = \"{listen}\"\nca = {ca:?}\ncert = {cert:?}\nkey = {key:?}\n[scrape]\ninterval = \"20ms\"\n"
    );
    for (name, metrics) in backends {
        text += &format!("[[backend]]\nname = \"{name}\"\n");
        if let Some(address) = metrics {
            text += &format!("metrics = \"http://{address}/metrics\"\n");
        }
    }
    let file = room.join("agent.toml");
    fs::write(&file, text).unwrap();
    file
}

/// What is known through an agent of one backend.
pub struct Remote {
    pub scrape: watch::Receiver<Scrape>,
    pub hardware: watch::Receiver<Option<Hardware>>,
    _board: Arc<Board>,
}

/// Subscribes as the daemon does.
pub fn remote(address: SocketAddr, backend: &str, terms: Terms) -> Remote {
    remote_at(&format!("https://{address}"), backend, terms)
}

pub fn remote_at(url: &str, backend: &str, terms: Terms) -> Remote {
    let (board, key) = (Arc::new(Board::default()), Key::from(backend));
    board.enter(&key);
    Remote {
        hardware: board.subscribe(backend).unwrap(),
        scrape: subscribe(key, url.parse().unwrap(), terms, Some(Arc::clone(&board))),
        _board: board,
    }
}

/// Waits until what is known satisfies `wanted`.
pub async fn until(remote: &Remote, what: &str, mut wanted: impl FnMut(&Scrape) -> bool) -> Scrape {
    let mut scrape = remote.scrape.clone();
    let found = tokio::time::timeout(PATIENCE, scrape.wait_for(|scrape| wanted(scrape))).await;
    match found {
        Ok(found) => found.unwrap_or_else(|_| panic!("{what}: the subscription ended")).clone(),
        Err(_) => panic!("{what}: not within {PATIENCE:?}: {:?}", remote.scrape.borrow()),
    }
}

/// Waits for an observation that satisfies `wanted`.
pub async fn observed(remote: &Remote, what: &str, wanted: impl Fn(&Observation) -> bool) -> Observation {
    let scrape = until(remote, what, |scrape| scrape.last.as_ref().is_some_and(&wanted)).await;
    scrape.last.unwrap()
}

/// Waits for a failure and gives its words.
pub async fn failed(remote: &Remote) -> String {
    until(remote, "a failure", |scrape| scrape.consecutive_failures > 0).await.last_error.unwrap()
}

/// How old the last observation is at least.
pub fn age(remote: &Remote) -> Duration {
    remote.scrape.borrow().last.as_ref().unwrap().age(Instant::now()).at_least
}

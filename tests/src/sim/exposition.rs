//! A server's metrics alone, that fail and lie when told to. It serves no completions: what depends on the metrics can be
//! tested while the traffic goes to servers that are well.

use std::{
    convert::Infallible,
    fmt::Write as _,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http_body_util::Full;
use hyper::{Response, body::Bytes, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use crate::{
    bed::{Background, Namespace},
    sim::metrics::{Metrics, Stats},
};

/// A queue that no server has.
const BOAST: u32 = 1_000_000_000;

/// Counters that go back start here, above all that the others reach in a test.
const FROM: u64 = 1 << 40;

/// How it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// With the numbers of its server.
    Sound,
    /// Not at all: nobody listens, and open connections are closed.
    Refuses,
    /// It takes the question and does not answer.
    Stalls,
    /// With bytes that are no metrics.
    Junk,
    /// With NaN for every number.
    NotANumber,
    /// With counters that leap ahead once and then go back.
    CountsBack,
    /// With a queue of a thousand million.
    Boasts,
}

/// What the numbers are at a time since the start.
pub type Numbers = fn(Duration) -> Stats;

/// Running metrics; gone when dropped.
#[derive(Debug)]
pub struct Exposition {
    manner: watch::Sender<Manner>,
    _running: Background<()>,
}

impl Exposition {
    /// Serves `numbers` on every path at an address of a namespace.
    pub fn start(namespace: &Namespace, listen: SocketAddr, numbers: Numbers) -> Self {
        let (manner, mut told) = watch::channel(Manner::Sound);
        let begun = Instant::now();
        let running = namespace.spawn_runtime(move || async move {
            loop {
                // Whoever tells it goes with the whole.
                let Ok(_) = told.wait_for(|manner| *manner != Manner::Refuses).await else { return };
                let mut refusal = told.clone();
                tokio::select! {
                    never = serve(listen, numbers, begun, &told) => match never {},
                    _ = refusal.wait_for(|manner| *manner == Manner::Refuses) => {}
                }
            }
        });
        Self { manner, _running: running }
    }

    /// Changes how it answers, from the next question on.
    pub fn set(&self, manner: Manner) {
        self.manner.send_replace(manner);
    }
}

async fn serve(
    listen: SocketAddr,
    numbers: Numbers,
    begun: Instant,
    told: &watch::Receiver<Manner>,
) -> Infallible {
    let listener = TcpListener::bind(listen).await.expect("a free address of the test bed");
    // Dropped, it closes them.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((socket, _)) = listener.accept() => {
                connections.spawn(answer(socket, numbers, begun, told.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(socket: TcpStream, numbers: Numbers, begun: Instant, told: watch::Receiver<Manner>) {
    let told = Arc::new(told);
    let service = service_fn(move |_request| {
        let manner = *told.borrow();
        async move {
            if manner == Manner::Stalls {
                std::future::pending::<()>().await;
            }
            let text = text(manner, numbers(begun.elapsed()));
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
        }
    });
    // A scraper that gives up closes the connection.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
}

fn text(manner: Manner, mut stats: Stats) -> String {
    let counters = &mut stats.counters;
    match manner {
        Manner::CountsBack => {
            counters.generation_tokens = FROM - counters.generation_tokens;
            counters.prompt_tokens = FROM - counters.prompt_tokens;
        }
        Manner::Boasts => stats.waiting = BOAST,
        Manner::Junk => return "\u{0}{{vllm:num_requests_running} }\n".repeat(100),
        Manner::Sound | Manner::Refuses | Manner::Stalls | Manner::NotANumber => {}
    }
    let text = Metrics { stats, ..Metrics::default() }.render("scripted", 1000);
    if manner == Manner::NotANumber { without_numbers(&text) } else { text }
}

fn without_numbers(text: &str) -> String {
    let mut changed = String::new();
    for line in text.lines() {
        let _ = match line.rsplit_once(' ') {
            Some((name, _)) if !line.starts_with('#') => writeln!(changed, "{name} NaN"),
            _ => writeln!(changed, "{line}"),
        };
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::{BOAST, Manner, text};
    use crate::sim::metrics::Stats;

    #[test]
    fn lies_are_lies_and_the_rest_is_true() {
        let stats = Stats { running: 7, kv_usage: 0.5, ..Stats::default() };
        let value = |manner, name: &str| {
            let text = text(manner, stats);
            let line = text.lines().find(|line| line.starts_with(&format!("vllm:{name}{{")));
            line.map(|line| line.rsplit_once(' ').expect("a value").1.to_owned())
        };
        for (manner, name, expected) in [
            (Manner::Sound, "num_requests_running", Some("7.0".to_owned())),
            (Manner::Sound, "num_requests_waiting", Some("0.0".to_owned())),
            (Manner::Boasts, "num_requests_waiting", Some(format!("{BOAST}.0"))),
            (Manner::Boasts, "kv_cache_usage_perc", Some("0.5".to_owned())),
            (Manner::NotANumber, "num_requests_running", Some("NaN".to_owned())),
            (Manner::Junk, "num_requests_running", None),
        ] {
            assert_eq!(value(manner, name), expected, "{manner:?}: {name}");
        }
    }
}

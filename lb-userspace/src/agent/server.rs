//! The agent's end of the wire: gRPC over HTTP/2 over mutual TLS, one report after the other.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures::{Stream, stream};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Response, Status, metadata::MetadataMap, server::ServerStreamingService};
use tonic_prost::ProstCodec;

use super::{
    BACKEND_HEADER, INTERVAL_HEADER, LONGEST_INTERVAL, SHORTEST_INTERVAL,
    fold::{self, Known},
    lobby::{Guest, Lobby},
    message::{Interval, METHOD, OrcaLoadReport, OrcaLoadReportRequest},
    vitals::{self, Vitals},
};
use crate::signals::{Hardware, Key, Scrape};

/// Time between reports for those who ask for none.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);

/// A handshake takes a round trip or two.
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);

/// How long a subscriber may be silent, and then has to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Subscriptions of one connection, one for each backend, and connections with a certificate at once: more than there are
/// balancers.
const STREAMS: u32 = 64;
const CONNECTIONS: usize = 256;

/// A request holds an interval and perhaps some names.
const REQUEST_BYTES: usize = 4096;

/// After the system had no resources for a connection.
const PAUSE: Duration = Duration::from_millis(100);

/// What an agent knows of one backend.
#[derive(Clone, Debug)]
pub struct Served {
    /// Its name in the balancers' configuration.
    pub name: Key,
    /// What the server reports.
    pub scrape: watch::Receiver<Scrape>,
    /// What its GPUs report.
    pub hardware: watch::Receiver<Option<Hardware>>,
}

struct Agent {
    connections: Semaphore,
    backends: Vec<Served>,
    vitals: watch::Receiver<Vitals>,
}

/// Serves reports on `backends`, of which the first is the one that is meant where none is named. Never returns.
pub async fn serve(listener: TcpListener, tls: Arc<ServerConfig>, backends: Vec<Served>) -> Infallible {
    let vitals = vitals::spawn(backends.iter().map(|served| served.scrape.clone()).collect());
    let agent = Arc::new(Agent { connections: Semaphore::new(CONNECTIONS), backends, vitals });
    let acceptor = TlsAcceptor::from(tls);
    let (lobby, mut connections) = (Lobby::new(), JoinSet::new());
    loop {
        while connections.try_join_next().is_some() {}
        let place = lobby.place().await;
        match listener.accept().await {
            Ok((stream, peer)) => {
                let Some(guest) = place.seat(peer.ip()) else {
                    tracing::debug!(
                        "connection from {peer}: others of its address have not shown a certificate"
                    );
                    continue;
                };
                let (acceptor, agent) = (acceptor.clone(), Arc::clone(&agent));
                connections.spawn(async move {
                    if let Err(error) = converse(stream, guest, &acceptor, agent).await {
                        tracing::warn!("connection from {peer}: {error:#}");
                    }
                });
            }
            Err(error) => {
                tracing::warn!("cannot take a connection: {error}");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn converse(
    stream: TcpStream,
    guest: Guest,
    acceptor: &TlsAcceptor,
    agent: Arc<Agent>,
) -> anyhow::Result<()> {
    // A report is one small segment and must not wait for the acknowledgement of the last one.
    stream.set_nodelay(true)?;
    let stream = timeout(HANDSHAKE_TIME, acceptor.accept(stream))
        .await
        .map_err(|_elapsed| anyhow::anyhow!("no TLS handshake within {HANDSHAKE_TIME:?}"))??;
    drop(guest);
    let _connection = agent.connections.try_acquire().context("no more connections are served")?;
    let agent = &agent;
    let service = service_fn(move |request| answer(Arc::clone(agent), request));
    let served = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .max_concurrent_streams(STREAMS)
        .serve_connection(TokioIo::new(stream), service);
    // However it ends, it is the subscriber's end.
    served.await.or_else(|error| {
        tracing::debug!("a connection ended: {error}");
        Ok(())
    })
}

async fn answer(
    agent: Arc<Agent>,
    request: http::Request<Incoming>,
) -> Result<http::Response<tonic::body::Body>, Infallible> {
    if request.uri().path() != METHOD {
        let refusal = Status::unimplemented(format!("this agent serves {METHOD} alone"));
        return Ok(refusal.into_http());
    }
    let codec = ProstCodec::<OrcaLoadReport, OrcaLoadReportRequest>::default();
    let mut grpc = tonic::server::Grpc::new(codec).max_decoding_message_size(REQUEST_BYTES);
    Ok(grpc.server_streaming(Subscribe(agent), request).await)
}

type Reports = Pin<Box<dyn Stream<Item = Result<OrcaLoadReport, Status>> + Send>>;

struct Subscribe(Arc<Agent>);

impl ServerStreamingService<OrcaLoadReportRequest> for Subscribe {
    type Response = OrcaLoadReport;
    type ResponseStream = Reports;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Reports>, Status>> + Send>>;

    fn call(&mut self, request: Request<OrcaLoadReportRequest>) -> Self::Future {
        let answer = subscribe(Arc::clone(&self.0), &request);
        Box::pin(async { answer })
    }
}

fn subscribe(
    agent: Arc<Agent>,
    request: &Request<OrcaLoadReportRequest>,
) -> Result<Response<Reports>, Status> {
    let number = agent.asked_for(request.metadata())?;
    let asked = request.get_ref().report_interval.map(Interval::duration);
    let interval = granted(asked);
    let name = agent.backends[number].name.parse();
    let name = name.map_err(|_invalid| Status::internal("the backend's name fits no header"))?;
    let mut response = Response::new(reports(agent, number, interval));
    response.metadata_mut().insert(BACKEND_HEADER, name);
    // Not above LONGEST_INTERVAL.
    response.metadata_mut().insert(INTERVAL_HEADER, (interval.as_millis() as u64).into());
    Ok(response)
}

/// The interval of reports for those who ask for one.
fn granted(asked: Option<Duration>) -> Duration {
    let asked = asked.filter(|asked| !asked.is_zero()).unwrap_or(DEFAULT_INTERVAL);
    asked.clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL)
}

/// Each report is made when the connection has room for it: one that cannot be sent is not piled up.
fn reports(agent: Arc<Agent>, number: usize, every: Duration) -> Reports {
    let begun = Instant::now();
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    Box::pin(stream::unfold((agent, ticks), move |(agent, mut ticks)| async move {
        ticks.tick().await;
        let report = fold::report(&agent.known(number), begun, Instant::now());
        Some((Ok(report), (agent, ticks)))
    }))
}

impl Agent {
    fn asked_for(&self, metadata: &MetadataMap) -> Result<usize, Status> {
        let Some(name) = metadata.get(BACKEND_HEADER) else { return Ok(0) };
        let known = self.backends.iter().position(|served| served.name.as_bytes() == name.as_bytes());
        known.ok_or_else(|| {
            let names: Vec<&str> = self.backends.iter().map(|served| &*served.name).collect();
            Status::not_found(format!("this agent speaks for {}, not for {name:?}", names.join(", ")))
        })
    }

    fn known(&self, number: usize) -> Known {
        let served = &self.backends[number];
        let vitals = self.vitals.borrow();
        Known {
            observation: served.scrape.borrow().newest().cloned(),
            hardware: served.hardware.borrow().clone(),
            cpu: vitals.cpu,
            memory: vitals.memory,
            rate: vitals.rates.get(number).copied().flatten(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::granted;

    #[test]
    fn the_interval_is_as_asked_within_what_can_be() {
        for (asked, expected) in [
            (None, Duration::from_secs(1)),
            (Some(Duration::ZERO), Duration::from_secs(1)),
            (Some(Duration::from_micros(1)), Duration::from_millis(5)),
            (Some(Duration::from_millis(5)), Duration::from_millis(5)),
            (Some(Duration::from_secs(7)), Duration::from_secs(7)),
            (Some(Duration::MAX), Duration::from_secs(3600)),
        ] {
            assert_eq!(granted(asked), expected, "{asked:?}");
        }
    }
}

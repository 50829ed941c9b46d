//! One subscription on the wire: from a URL to a stream of reports.

use std::{
    error::Error,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::uri::PathAndQuery;
use hyper::{
    body::Incoming,
    client::conn::http2::{Builder, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, BufReader},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tonic::{Request, Streaming, body::Body, client::GrpcService, metadata::MetadataMap};
use tonic_prost::ProstCodec;

use super::{
    AgentUrl, BACKEND_HEADER, INTERVAL_HEADER,
    clock::Transit,
    message::{METHOD, OrcaLoadReport, OrcaLoadReportRequest},
    tls,
};

/// From the first packet to the answer's headers: a few round trips.
const OPENING_TIME: Duration = Duration::from_secs(5);

/// How long a connection may be silent, and then has to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// TLS 1.3 is done for us before an agent has judged our certificate. One that refuses it says so then, and whoever
/// writes on meanwhile may get a broken pipe instead. Ours speaks first when it is content; others may not, and are
/// not waited for any longer.
const FIRST_WORDS: Duration = Duration::from_millis(200);

/// A connection that is gone ends its task at once.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// A report of ours has less than 1 KB.
const REPORT_BYTES: usize = 64 << 10;

/// Why a subscription failed or ended.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No connection.
    #[error("connect: {0}")]
    Connect(#[source] std::io::Error),
    /// No subscription in time.
    #[error("no answer to a subscription within {OPENING_TIME:?}")]
    Timeout,
    /// One of the two does not trust the other.
    #[error("tls: {source}{}", .remedy.map_or_else(String::new, |remedy| format!("; {remedy}")))]
    Tls {
        /// What TLS says.
        source: std::io::Error,
        /// What to do.
        remedy: Option<&'static str>,
    },
    /// There is no TLS without the files of `[agents]`.
    #[error("there is no ca, cert and key in [agents]")]
    NoIdentity,
    /// The certificate does not name the backend.
    #[error(
        "its certificate does not name backend {backend} ({named}); enroll it with --backend {backend} or correct the url"
    )]
    Unnamed {
        /// The backend asked about.
        backend: String,
        /// Those that it names.
        named: String,
    },
    /// It speaks of another backend than it was asked about.
    #[error("it answers for backend {answered} when asked about {backend}")]
    Other {
        /// The backend asked about.
        backend: String,
        /// The other one.
        answered: String,
    },
    /// Not HTTP/2, or broken off.
    #[error("http/2: {0}")]
    Http(String),
    /// A gRPC error.
    #[error("{code:?}: {message}")]
    Status {
        /// Its code.
        code: tonic::Code,
        /// Its words.
        message: String,
    },
    /// The stream ended in good order, which it has no reason to.
    #[error("it ended the subscription")]
    Ended,
    /// Reports stopped although the connection stands.
    #[error("no report for {0:?}")]
    Silent(Duration),
}

impl From<hyper::Error> for Failure {
    fn from(error: hyper::Error) -> Self {
        Self::Http(whole(&error))
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        match status.source() {
            // It did not come from the server.
            Some(error) => Self::Http(whole(error)),
            None => Self::Status { code: status.code(), message: status.message().to_owned() },
        }
    }
}

/// An error with all its sources.
fn whole(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let words = source.to_string();
        if !text.ends_with(&words) {
            text = format!("{text}: {words}");
        }
        next = source.source();
    }
    text
}

/// A running subscription. Dropping it closes the connection.
pub struct Subscription {
    /// The reports.
    pub reports: Streaming<OrcaLoadReport>,
    /// The way that they take.
    pub transit: Transit,
    /// Time between them, where the server says so.
    pub interval: Option<Duration>,
    connection: Connection,
}

impl Subscription {
    /// Why there is no next report.
    pub async fn failure(&mut self, status: tonic::Status) -> Failure {
        self.connection.failure(status.into()).await
    }
}

/// The task that keeps a connection going; dropping it ends both.
struct Connection(JoinSet<Result<(), hyper::Error>>);

impl Connection {
    /// Whoever uses a connection only learns that it is gone; its task knows why.
    async fn failure(&mut self, failure: Failure) -> Failure {
        if !matches!(failure, Failure::Http(_)) {
            return failure;
        }
        match timeout(LAST_WORDS, self.0.join_next()).await {
            Ok(Some(Ok(Err(error)))) => error.into(),
            _ => failure,
        }
    }
}

/// Subscribes to reports on `backend`, `interval` apart.
///
/// # Errors
///
/// When there is no such agent, or one of the two does not trust the other.
pub async fn open(
    url: &AgentUrl,
    tls: Option<&Arc<ClientConfig>>,
    backend: &str,
    interval: Duration,
) -> Result<Subscription, Failure> {
    timeout(OPENING_TIME, open_at_leisure(url, tls, backend, interval)).await.unwrap_or(Err(Failure::Timeout))
}

async fn open_at_leisure(
    url: &AgentUrl,
    tls: Option<&Arc<ClientConfig>>,
    backend: &str,
    interval: Duration,
) -> Result<Subscription, Failure> {
    let stream = TcpStream::connect((url.host.as_str(), url.port)).await.map_err(Failure::Connect)?;
    stream.set_nodelay(true).map_err(Failure::Connect)?;
    if !url.tls {
        return subscribe(url, stream, backend, interval).await;
    }
    let tls = TlsConnector::from(Arc::clone(tls.ok_or(Failure::NoIdentity)?));
    let name = ServerName::try_from(url.host.clone()).expect("checked when the url was parsed");
    let refused = |source| {
        let remedy = tls::remedy(&source);
        Failure::Tls { source, remedy }
    };
    let stream = tls.connect(name, stream).await.map_err(refused)?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[CertificateDer<'_>]>::first);
    let named = certificate.map(tls::backends_of).unwrap_or_default();
    if !named.iter().any(|name| name == backend) {
        let named = match named.as_slice() {
            [] => "it names none".to_owned(),
            names => format!("it names {}", names.join(", ")),
        };
        return Err(Failure::Unnamed { backend: backend.to_owned(), named });
    }
    let mut stream = BufReader::new(stream);
    if let Ok(Err(source)) = timeout(FIRST_WORDS, stream.fill_buf()).await {
        return Err(refused(source));
    }
    subscribe(url, stream, backend, interval).await
}

async fn subscribe<S>(
    url: &AgentUrl,
    stream: S,
    backend: &str,
    interval: Duration,
) -> Result<Subscription, Failure>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(stream))
        .await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    let mut connection = Connection(tasks);
    match ask(url, sender, backend, interval).await {
        Ok(Answer { reports, transit, interval }) => {
            Ok(Subscription { reports, transit, interval, connection })
        }
        Err(failure) => Err(connection.failure(failure).await),
    }
}

struct Answer {
    reports: Streaming<OrcaLoadReport>,
    transit: Transit,
    interval: Option<Duration>,
}

async fn ask(
    url: &AgentUrl,
    sender: SendRequest<Body>,
    backend: &str,
    interval: Duration,
) -> Result<Answer, Failure> {
    let request =
        OrcaLoadReportRequest { report_interval: Some(interval.into()), request_cost_names: Vec::new() };
    let mut request = Request::new(request);
    let name = backend.parse().map_err(|_invalid| Failure::Http(format!("\"{backend}\" fits no header")))?;
    request.metadata_mut().insert(BACKEND_HEADER, name);
    let mut grpc = tonic::client::Grpc::with_origin(Http2(sender), url.uri.clone())
        .max_decoding_message_size(REPORT_BYTES);
    grpc.ready().await?;
    let codec = ProstCodec::<OrcaLoadReportRequest, OrcaLoadReport>::default();
    let asked = Instant::now();
    let response = grpc.server_streaming(request, PathAndQuery::from_static(METHOD), codec).await?;
    let transit = Transit::new(asked, Instant::now());
    let interval = stated(response.metadata(), backend)?;
    Ok(Answer { reports: response.into_inner(), transit, interval })
}

/// What the answer's headers say: the interval, for the backend that was meant.
fn stated(metadata: &MetadataMap, backend: &str) -> Result<Option<Duration>, Failure> {
    if let Some(answered) = metadata.get(BACKEND_HEADER).filter(|name| name.as_bytes() != backend.as_bytes())
    {
        let answered = String::from_utf8_lossy(answered.as_bytes()).into_owned();
        return Err(Failure::Other { backend: backend.to_owned(), answered });
    }
    let millis = metadata.get(INTERVAL_HEADER).and_then(|value| value.to_str().ok()?.parse().ok());
    Ok(millis.map(Duration::from_millis))
}

/// hyper's connection as tonic wants it.
struct Http2(SendRequest<Body>);

impl GrpcService<Body> for Http2 {
    type ResponseBody = Incoming;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

//! A client for one server: it keeps the connection between requests and bounds the answers.

use std::{fmt, future::poll_fn, io, path::PathBuf, pin::pin, str::FromStr, sync::Arc, time::Instant};

use futures::future::BoxFuture;

use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request, Response, StatusCode, Uri,
    body::{Body as _, Bytes, Incoming},
    client::conn::http1::{SendRequest, handshake},
    header::{ACCEPT, AUTHORIZATION, HOST, HeaderValue, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::{SourceError, watched::Watched};

const HTTP_PORT: u16 = 80;
const HTTPS_PORT: u16 = 443;
const ACCEPTED: &str = "text/plain; version=0.0.4, application/json;q=0.5";
const AGENT: &str = concat!("guidevane/", env!("CARGO_PKG_VERSION"));

/// Longest answer: far above what a server of many engines exposes (about 50 KB an engine).
pub(super) const BODY_LIMIT_BYTES: usize = 4 << 20;

/// A buffer that an answer made larger than this is given back.
const KEPT_BYTES: usize = 1 << 20;

/// Where a server's metrics are: `http[s]://host[:port][/path]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsUrl {
    uri: Uri,
    host: String,
    port: u16,
    tls: bool,
}

/// Why a text is no metrics URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// No URL at all.
    #[error("{0}")]
    Invalid(String),
    /// Another scheme than `http` and `https`, or none.
    #[error("it does not begin with http:// or https://")]
    Scheme,
    /// Nowhere to connect to.
    #[error("it names no host")]
    NoHost,
    /// A query, but nothing that is asked.
    #[error("it has a query without a path; give the path too, as in /metrics?name=value")]
    QueryAlone,
    /// Credentials have a file of their own.
    #[error("it holds a user name or password")]
    Credentials,
}

impl FromStr for MetricsUrl {
    type Err = UrlError;

    fn from_str(url: &str) -> Result<Self, UrlError> {
        let uri: Uri = url.parse().map_err(|e: http::uri::InvalidUri| UrlError::Invalid(e.to_string()))?;
        let (tls, default) = match uri.scheme_str() {
            Some("http") => (false, HTTP_PORT),
            Some("https") => (true, HTTPS_PORT),
            _ => return Err(UrlError::Scheme),
        };
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(UrlError::Credentials);
        }
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(UrlError::NoHost);
        }
        if uri.path_and_query().is_some_and(|path| path.as_str().starts_with('?')) {
            return Err(UrlError::QueryAlone);
        }
        let port = uri.port_u16().unwrap_or(default);
        Ok(Self { uri, host, port, tls })
    }
}

impl MetricsUrl {
    /// Whether it asks for TLS.
    pub fn is_https(&self) -> bool {
        self.tls
    }

    /// Path and query, if it has any but the bare `/`.
    pub fn path(&self) -> Option<&str> {
        self.uri.path_and_query().map(http::uri::PathAndQuery::as_str).filter(|path| *path != "/")
    }

    /// Host and port, as something to connect to.
    pub fn host_and_port(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// Host and port as written.
    pub fn authority(&self) -> &str {
        self.uri.authority().map_or("", |authority| authority.as_str())
    }
}

impl fmt::Display for MetricsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uri.fmt(f)
    }
}

/// A server's address, and how it and the balancer prove to each other who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it is.
    pub url: MetricsUrl,
    /// PEM certificates, one of which the server's must lead to; needed for https.
    pub ca: Option<PathBuf>,
    /// Holds a bearer token for the server; read again when it changes.
    pub token_file: Option<PathBuf>,
}

impl Endpoint {
    /// A server that needs no proof and gives none.
    pub fn plain(url: MetricsUrl) -> Self {
        Self { url, ca: None, token_file: None }
    }
}

/// A connection, and the end that takes requests. Nobody works on it but whoever has something to ask: a task of its own
/// would cost a wake-up of another thread for every piece of an answer.
struct Link {
    sender: SendRequest<Empty<Bytes>>,
    connection: Option<BoxFuture<'static, hyper::Result<()>>>,
}

impl Link {
    async fn open(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Result<Self, SourceError> {
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(http_error)?;
        Ok(Self { sender, connection: Some(Box::pin(connection)) })
    }

    /// The answer's head, if the connection still lives; its body must be read with [`Link::read`].
    async fn ask(&mut self, request: Request<Empty<Bytes>>) -> hyper::Result<Response<Incoming>> {
        let Self { sender, connection } = self;
        let answer = async {
            sender.ready().await?;
            sender.send_request(request).await
        };
        alongside(connection, answer).await
    }

    async fn read(&mut self, incoming: Incoming, body: &mut Vec<u8>) -> Result<(), SourceError> {
        alongside(&mut self.connection, read_body(incoming, body)).await
    }
}

/// Works on a connection for as long as `work` is under way. What went wrong with it, `work` is told by itself.
async fn alongside<T>(
    connection: &mut Option<BoxFuture<'static, hyper::Result<()>>>,
    work: impl Future<Output = T>,
) -> T {
    let mut work = pin!(work);
    poll_fn(|context| {
        if let Some(running) = connection
            && running.as_mut().poll(context).is_ready()
        {
            *connection = None;
        }
        work.as_mut().poll(context)
    })
    .await
}

pub(super) struct HttpClient {
    url: MetricsUrl,
    token: Option<Watched<HeaderValue>>,
    trust: Option<Watched<TlsConnector>>,
    /// Taken while in use: a request that is dropped half-way takes its connection along.
    idle: Option<Link>,
}

impl HttpClient {
    /// Connects at the first question.
    pub(super) fn new(endpoint: Endpoint) -> Self {
        let Endpoint { url, ca, token_file } = endpoint;
        let token = token_file.map(|path| Watched::new(path, bearer));
        let trust = ca.map(|path| Watched::new(path, trusting));
        Self { url, token, trust, idle: None }
    }

    /// The URL that it was made for.
    pub(super) fn url(&self) -> &MetricsUrl {
        &self.url
    }

    /// Leaves in `body` the body of the answer to a GET of `path`, if its status is 200.
    pub(super) async fn get(&mut self, path: &str, body: &mut Vec<u8>) -> Result<(), SourceError> {
        if body.capacity() > KEPT_BYTES {
            *body = Vec::new();
        }
        body.clear();
        let (mut link, response) = match self.ask_on_idle_connection(path).await? {
            Some(answered) => answered,
            None => {
                let mut link = self.connect().await?;
                let response = link.ask(self.request(path)?).await.map_err(http_error)?;
                (link, response)
            }
        };
        if response.status() != StatusCode::OK {
            return Err(SourceError::Status(response.status().as_u16()));
        }
        link.read(response.into_body(), body).await?;
        self.idle = Some(link);
        Ok(())
    }

    /// `None` if there is no connection left or it turns out to be closed: a server may do so at any
    /// time, and it is no failure of the server.
    async fn ask_on_idle_connection(
        &mut self,
        path: &str,
    ) -> Result<Option<(Link, Response<Incoming>)>, SourceError> {
        let Some(mut link) = self.idle.take() else { return Ok(None) };
        let request = self.request(path)?;
        Ok(link.ask(request).await.ok().map(|response| (link, response)))
    }

    async fn connect(&mut self) -> Result<Link, SourceError> {
        let authority = || self.url.authority().to_owned();
        let host = self.url.host.as_str();
        let stream = TcpStream::connect((host, self.url.port)).await;
        let stream = stream.map_err(|source| SourceError::Connect { authority: authority(), source })?;
        if !self.url.tls {
            return Link::open(stream).await;
        }
        let failed = |source| SourceError::Tls { authority: authority(), source };
        let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(io::Error::other(error)))?;
        let Some(trust) = &mut self.trust else {
            return Err(failed(io::Error::other("no certificates to trust are configured")));
        };
        Link::open(trust.get(Instant::now())?.connect(name, stream).await.map_err(failed)?).await
    }

    fn request(&mut self, path: &str) -> Result<Request<Empty<Bytes>>, SourceError> {
        let token = self.token.as_mut().map(|token| token.get(Instant::now())).transpose()?;
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = Uri::from_str(path).expect("a part of a parsed url, or one of the table's");
        let headers = request.headers_mut();
        headers.insert(HOST, HeaderValue::from_str(self.url.authority()).expect("a part of a parsed url"));
        headers.insert(ACCEPT, HeaderValue::from_static(ACCEPTED));
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        if let Some(token) = token {
            headers.insert(AUTHORIZATION, token);
        }
        Ok(request)
    }
}

async fn read_body(mut incoming: Incoming, body: &mut Vec<u8>) -> Result<(), SourceError> {
    let too_large = SourceError::TooLarge { limit: BODY_LIMIT_BYTES };
    // A server that says so itself is spared the sending.
    if incoming.size_hint().lower() > BODY_LIMIT_BYTES as u64 {
        return Err(too_large);
    }
    while let Some(frame) = incoming.frame().await {
        let Ok(data) = frame.map_err(http_error)?.into_data() else { continue };
        if body.len() + data.len() > BODY_LIMIT_BYTES {
            return Err(too_large);
        }
        body.extend_from_slice(&data);
    }
    Ok(())
}

fn http_error(error: hyper::Error) -> SourceError {
    SourceError::Http(error.to_string())
}

/// The header for the token that a file holds.
fn bearer(token: &[u8]) -> io::Result<HeaderValue> {
    let token = token.trim_ascii();
    if token.is_empty() {
        return Err(io::Error::other("it holds no token"));
    }
    let mut header = HeaderValue::from_bytes(&[b"Bearer ", token].concat()).map_err(io::Error::other)?;
    header.set_sensitive(true);
    Ok(header)
}

/// What makes connections to servers whose certificate leads to one of these.
fn trusting(pem: &[u8]) -> io::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
    }
    if roots.is_empty() {
        return Err(io::Error::other("it holds no certificate in PEM form"));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = versions.map_err(io::Error::other)?.with_root_certificates(roots).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::{MetricsUrl, UrlError, bearer, trusting};

    #[test]
    fn a_url_gives_host_port_and_path() {
        for (url, host, port, path) in [
            ("http://gpu-1:8000/metrics", "gpu-1", 8000, Some("/metrics")),
            ("http://10.0.0.1/metrics", "10.0.0.1", 80, Some("/metrics")),
            ("http://[fd00::1]:8000/metrics?x=1", "fd00::1", 8000, Some("/metrics?x=1")),
            ("http://gpu-1", "gpu-1", 80, None),
            ("http://gpu-1/", "gpu-1", 80, None),
            ("http://gpu-1/?x=1", "gpu-1", 80, Some("/?x=1")),
            ("https://gpu-1", "gpu-1", 443, None),
            ("https://gpu-1:8443/v1/metrics", "gpu-1", 8443, Some("/v1/metrics")),
        ] {
            let parsed: MetricsUrl = url.parse().unwrap_or_else(|e| panic!("{url}: {e}"));
            assert_eq!((parsed.host.as_str(), parsed.port, parsed.path()), (host, port, path), "{url}");
            assert_eq!(parsed.is_https(), url.starts_with("https"), "{url}");
        }
    }

    #[test]
    fn what_is_no_metrics_url_is_refused_with_the_reason() {
        for (url, reason) in [
            ("ftp://gpu-1/metrics", UrlError::Scheme),
            ("gpu-1:8000", UrlError::Scheme),
            ("/metrics", UrlError::Scheme),
            ("http://gpu 1/", UrlError::Invalid("invalid uri character".into())),
            ("http://", UrlError::Invalid("empty string".into())),
            ("http://:80/", UrlError::NoHost),
            ("http://me:pw@gpu-1/", UrlError::Credentials),
            ("http://gpu-1:8000?x=1", UrlError::QueryAlone),
            ("https://[fd00::1]?", UrlError::QueryAlone),
        ] {
            match url.parse::<MetricsUrl>() {
                Err(UrlError::Invalid(_)) if matches!(reason, UrlError::Invalid(_)) => {}
                Err(e) => assert_eq!(e, reason, "{url}"),
                Ok(parsed) => panic!("{url} was accepted as {parsed:?}"),
            }
        }
    }

    #[test]
    fn a_token_becomes_a_header_that_no_log_shows() {
        let header = bearer(b" abc.def\n").expect("a token");
        assert_eq!(header.as_bytes(), b"Bearer abc.def");
        assert_eq!(format!("{header:?}"), "Sensitive");
        for bad in [&b""[..], b"\n", b"a\nb", b"\x01"] {
            assert!(bearer(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn certificates_that_are_none_are_refused() {
        for bad in [&b""[..], b"abc", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert!(trusting(bad).is_err(), "{bad:?}");
        }
    }
}

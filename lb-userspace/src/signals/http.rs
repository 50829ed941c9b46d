//! A client for one URL: it keeps the connection between requests and bounds the answer.

use std::{fmt, str::FromStr};

use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::{
    Request, Response, StatusCode, Uri,
    body::{Bytes, Incoming},
    client::conn::http1::{SendRequest, handshake},
    header::{ACCEPT, HOST, HeaderValue, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::SourceError;

const HTTP_PORT: u16 = 80;
const ACCEPTED: &str = "text/plain; version=0.0.4";
const AGENT: &str = concat!("guidevane/", env!("CARGO_PKG_VERSION"));

/// Where a server's metrics are: `http://host[:port]/path`. TLS is not spoken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsUrl {
    uri: Uri,
    host: String,
    port: u16,
}

/// Why a text is no metrics URL.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// No URL at all.
    #[error("\"{url}\" is not a url: {detail}")]
    Invalid {
        /// The text.
        url: String,
        /// What is wrong.
        detail: String,
    },
    /// Another scheme than `http`, or none.
    #[error("\"{url}\" does not start with http://, the only scheme for metrics")]
    Scheme {
        /// The text.
        url: String,
    },
}

impl FromStr for MetricsUrl {
    type Err = UrlError;

    fn from_str(url: &str) -> Result<Self, UrlError> {
        let invalid = |detail: &str| UrlError::Invalid { url: url.into(), detail: detail.into() };
        let uri: Uri = url.parse().map_err(|e: http::uri::InvalidUri| invalid(&e.to_string()))?;
        if uri.scheme_str() != Some("http") {
            return Err(UrlError::Scheme { url: url.into() });
        }
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(invalid("credentials are not supported"));
        }
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(invalid("no host"));
        }
        let port = uri.port_u16().unwrap_or(HTTP_PORT);
        Ok(Self { uri, host, port })
    }
}

impl fmt::Display for MetricsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uri.fmt(f)
    }
}

type Sender = SendRequest<Empty<Bytes>>;

#[derive(Debug)]
pub(super) struct HttpClient {
    url: MetricsUrl,
    limit: usize,
    /// Taken while in use: a request that is dropped half-way takes its connection along.
    idle: Option<Sender>,
}

impl HttpClient {
    /// Answers of more than `limit` bytes are refused.
    pub(super) fn new(url: MetricsUrl, limit: usize) -> Self {
        Self { url, limit, idle: None }
    }

    /// The body of the answer to a GET, if its status is 200.
    pub(super) async fn get(&mut self) -> Result<Bytes, SourceError> {
        let (sender, response) = match self.request_on_idle_connection().await {
            Some(answered) => answered,
            None => {
                let mut sender = self.connect().await?;
                let response = sender.send_request(self.request()).await.map_err(http_error)?;
                (sender, response)
            }
        };
        if response.status() != StatusCode::OK {
            return Err(SourceError::Status(response.status().as_u16()));
        }
        let body = Limited::new(response.into_body(), self.limit).collect().await;
        let body = body.map_err(|error| match error.downcast::<LengthLimitError>() {
            Ok(_) => SourceError::TooLarge { limit: self.limit },
            Err(other) => SourceError::Http(other.to_string()),
        })?;
        self.idle = Some(sender);
        Ok(body.to_bytes())
    }

    /// `None` if there is no connection left or it turns out to be closed: a server may do so at any
    /// time, and it is no failure of the server.
    async fn request_on_idle_connection(&mut self) -> Option<(Sender, Response<Incoming>)> {
        let mut sender = self.idle.take()?;
        sender.ready().await.ok()?;
        let response = sender.send_request(self.request()).await.ok()?;
        Some((sender, response))
    }

    async fn connect(&self) -> Result<Sender, SourceError> {
        let stream = TcpStream::connect((self.url.host.as_str(), self.url.port)).await;
        let stream = stream.map_err(|source| SourceError::Connect {
            authority: self.url.uri.authority().map_or_else(String::new, ToString::to_string),
            source,
        })?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(http_error)?;
        // Ends with the sender; its error reaches whoever waits for an answer.
        tokio::spawn(connection);
        Ok(sender)
    }

    fn request(&self) -> Request<Empty<Bytes>> {
        let target = self.url.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = Uri::from_str(target).expect("a part of a parsed url");
        let headers = request.headers_mut();
        let authority = self.url.uri.authority().map_or("", |authority| authority.as_str());
        headers.insert(HOST, HeaderValue::from_str(authority).expect("a part of a parsed url"));
        headers.insert(ACCEPT, HeaderValue::from_static(ACCEPTED));
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        request
    }
}

fn http_error(error: hyper::Error) -> SourceError {
    SourceError::Http(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::MetricsUrl;

    #[test]
    fn a_url_gives_host_and_port() {
        for (url, host, port) in [
            ("http://gpu-1:8000/metrics", "gpu-1", 8000),
            ("http://10.0.0.1/metrics", "10.0.0.1", 80),
            ("http://[fd00::1]:8000/metrics?x=1", "fd00::1", 8000),
            ("http://gpu-1", "gpu-1", 80),
        ] {
            let parsed: MetricsUrl = url.parse().unwrap_or_else(|e| panic!("{e}"));
            assert_eq!((parsed.host.as_str(), parsed.port), (host, port), "{url}");
        }
    }

    #[test]
    fn what_is_no_metrics_url_is_refused_with_the_reason() {
        for (url, reason) in [
            ("https://gpu-1/metrics", "does not start with http://"),
            ("gpu-1:8000", "does not start with http://"),
            ("/metrics", "does not start with http://"),
            ("http://gpu 1/", "is not a url"),
            ("http://", "is not a url"),
            ("http://me:pw@gpu-1/", "credentials are not supported"),
        ] {
            match url.parse::<MetricsUrl>() {
                Err(e) => assert!(e.to_string().contains(reason), "{url}: {e}"),
                Ok(parsed) => panic!("{url} was accepted as {parsed:?}"),
            }
        }
    }
}

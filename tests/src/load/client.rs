//! One request over a real connection, from before `connect` to the last byte of its stream.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, StatusCode, Uri,
    body::{Bytes, Incoming},
    client::conn::http1::{self, SendRequest},
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::TlsConnector;

use crate::load::{
    stats::{Failure, RequestWatch},
    stream::EventReader,
    traffic::Size,
};

/// One token of prompt text: four bytes, and a single token to the usual tokenizers.
const PROMPT_WORD: &str = " the";

/// Where requests go when the URL has no path.
const DEFAULT_PATH: &str = "/v1/completions";

/// Opens the TCP connections of a run.
///
/// A socket belongs to the network namespace of the thread that makes it. To send load from another namespace, run
/// the whole runtime on a thread that has entered it (`setns` first, then a current-thread runtime), or make the
/// sockets there in an implementation of this.
pub trait Connect: Send + Sync + 'static {
    /// Connects to an address.
    fn connect(&self, address: SocketAddr) -> impl Future<Output = io::Result<TcpStream>> + Send;
}

/// Connects from the namespace of the current thread.
#[derive(Debug, Clone, Copy, Default)]
pub struct Direct {
    /// The source address, if it matters.
    pub bind: Option<IpAddr>,
}

impl Connect for Direct {
    async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(source) = self.bind {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        socket.connect(address).await
    }
}

/// Why a URL cannot be a target.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// It is no URL of the two schemes.
    #[error("{0:?} is not a URL of the form http[s]://HOST[:PORT][/PATH]")]
    Url(String),
    /// Its host has no address.
    #[error("cannot resolve {host}: {source}")]
    Resolve {
        /// The host.
        host: String,
        /// Why not.
        source: io::Error,
    },
    /// TLS was asked for by the URL but not set up.
    #[error("{0} needs TLS: name the certificates to trust, or trust any")]
    NoTls(String),
}

/// Where requests go and in which form.
pub(crate) struct Target {
    address: SocketAddr,
    authority: String,
    path: String,
    model: Option<String>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Target {
    /// Resolves a URL, once for the whole run.
    pub(crate) async fn resolve(
        url: &str,
        model: Option<String>,
        tls: Option<Arc<rustls::ClientConfig>>,
    ) -> Result<Self, TargetError> {
        let bad = || TargetError::Url(url.to_owned());
        let uri: Uri = url.parse().ok().ok_or_else(bad)?;
        let authority = uri.authority().ok_or_else(bad)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let (secure, default_port) = match uri.scheme_str() {
            Some("http") => (false, 80),
            Some("https") => (true, 443),
            _ => return Err(bad()),
        };
        let port = authority.port_u16().unwrap_or(default_port);
        let tls = if secure {
            let config = tls.ok_or_else(|| TargetError::NoTls(url.to_owned()))?;
            let name = ServerName::try_from(host.clone()).ok().ok_or_else(bad)?;
            Some((TlsConnector::from(config), name))
        } else {
            None
        };
        let unresolved = |source| TargetError::Resolve { host: host.clone(), source };
        let address = tokio::net::lookup_host((host.as_str(), port))
            .await
            .map_err(unresolved)?
            .next()
            .ok_or_else(|| unresolved(io::Error::other("no address")))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let path = if path == "/" { DEFAULT_PATH } else { path }.to_owned();
        Ok(Self { address, authority: authority.as_str().to_owned(), path, model, tls })
    }

    fn request(&self, index: u64, size: Size) -> Result<Request<Full<Bytes>>, Failure> {
        let Size { prompt_tokens, output_tokens } = size;
        let prompt = prompt(index, prompt_tokens);
        let mut body = json!({
            "max_tokens": output_tokens,
            "stream": true,
            "stream_options": {"include_usage": true},
            "ignore_eos": true,
        });
        if self.path.contains("/chat/") {
            body["messages"] = json!([{"role": "user", "content": prompt}]);
        } else {
            body["prompt"] = prompt.into();
        }
        if let Some(model) = &self.model {
            body["model"] = model.as_str().into();
        }
        Request::post(&self.path)
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(body.to_string()))
            .map_err(|_invalid| Failure::Protocol)
    }

    async fn connect(&self, connector: &impl Connect) -> Result<Connection, Failure> {
        let socket = connector.connect(self.address).await.map_err(|_refused| Failure::Connect)?;
        socket.set_nodelay(true).map_err(|_closed| Failure::Connect)?;
        match &self.tls {
            None => Connection::open(socket).await,
            Some((tls, name)) => {
                let secured =
                    tls.connect(name.clone(), socket).await.map_err(|_handshake| Failure::Connect)?;
                Connection::open(secured).await
            }
        }
    }
}

/// Text of `tokens` tokens that begins with the request's number, so that no prefix cache answers for the server.
fn prompt(index: u64, tokens: u32) -> String {
    let mut text = format!("{:04x}", index & 0xffff);
    text.push_str(&PROMPT_WORD.repeat(tokens.saturating_sub(1) as usize));
    text
}

/// An open connection; dropped, it is closed.
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl Connection {
    async fn open(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Self, Failure> {
        let (sender, driver) =
            http1::handshake(TokioIo::new(io)).await.map_err(|_broken| Failure::Connect)?;
        let driver = tokio::spawn(async {
            // What breaks the connection also fails the request that is on it, which is counted there.
            let _ = driver.await;
        });
        Ok(Self { sender, driver })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Sends a request and follows its stream to the end. A connection in `kept` is used if it is still open, and the
/// connection is left there when the request ended well.
pub(crate) async fn exchange(
    target: &Target,
    connector: &impl Connect,
    kept: &mut Option<Connection>,
    (index, size): (u64, Size),
    watch: &mut RequestWatch,
) -> Result<(), Failure> {
    let request = target.request(index, size)?;
    let usable = match kept.take() {
        Some(mut connection) => connection.sender.ready().await.is_ok().then_some(connection),
        None => None,
    };
    let mut connection = match usable {
        Some(connection) => connection,
        None => target.connect(connector).await?,
    };
    let response = connection.sender.send_request(request).await.map_err(|_broken| Failure::Protocol)?;
    if response.status() != StatusCode::OK {
        return Err(Failure::Status);
    }
    follow(response.into_body(), size.output_tokens, watch).await?;
    *kept = Some(connection);
    Ok(())
}

async fn follow(mut body: Incoming, asked: u32, watch: &mut RequestWatch) -> Result<(), Failure> {
    let mut reader = EventReader::default();
    let mut done = false;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_broken| Failure::Truncated)?;
        let Some(bytes) = frame.data_ref() else { continue };
        let progress = reader.read(bytes).map_err(|_bad| Failure::Protocol)?;
        watch.receive(progress.tokens);
        done |= progress.done;
    }
    if let Some(total) = reader.reported_tokens() {
        watch.correct(total);
    }
    if done && watch.tokens() >= asked { Ok(()) } else { Err(Failure::Truncated) }
}

#[cfg(test)]
mod tests {
    use super::{Target, TargetError, prompt};

    #[test]
    fn a_prompt_has_four_bytes_a_token_and_is_the_requests_own() {
        for tokens in [1, 2, 1000] {
            assert_eq!(prompt(7, tokens).len(), tokens as usize * 4);
        }
        assert_ne!(prompt(1, 8), prompt(2, 8));
    }

    #[tokio::test]
    async fn urls_are_resolved_with_their_defaults() {
        let cases = [
            ("http://127.0.0.1", "127.0.0.1:80", "/v1/completions"),
            ("http://127.0.0.1:9000/", "127.0.0.1:9000", "/v1/completions"),
            ("http://[::1]:9000/v1/chat/completions", "[::1]:9000", "/v1/chat/completions"),
        ];
        for (url, address, path) in cases {
            let target =
                Target::resolve(url, None, None).await.unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!((target.address, target.path.as_str()), (address.parse().unwrap(), path), "{url}");
        }
    }

    #[tokio::test]
    async fn urls_that_are_no_target_are_refused() {
        for url in ["", "127.0.0.1:80", "ftp://127.0.0.1/", "http://", "/v1"] {
            let refused = Target::resolve(url, None, None).await.err();
            assert!(matches!(refused, Some(TargetError::Url(_))), "{url}: {refused:?}");
        }
        let refused = Target::resolve("https://127.0.0.1/", None, None).await.err();
        assert!(matches!(refused, Some(TargetError::NoTls(_))), "{refused:?}");
    }
}

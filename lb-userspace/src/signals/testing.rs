//! A server over real sockets that answers as a test says.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
    sync::watch,
    task::AbortHandle,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use super::Scrape;

/// Time after which a test has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Status and body for a request by its head; the path comes behind `GET `.
type Answer = Box<dyn Fn(&str) -> (u16, String) + Send + Sync>;

pub struct Site {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    task: AbortHandle,
}

impl Site {
    pub async fn start(answer: impl Fn(&str) -> (u16, String) + Send + Sync + 'static) -> Self {
        Self::start_with(None, Box::new(answer)).await
    }

    /// The same under TLS.
    pub async fn start_tls(
        config: Arc<ServerConfig>,
        answer: impl Fn(&str) -> (u16, String) + Send + Sync + 'static,
    ) -> Self {
        Self::start_with(Some(config.into()), Box::new(answer)).await
    }

    async fn start_with(tls: Option<TlsAcceptor>, answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind loopback");
        let address = listener.local_addr().expect("bound");
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (heads, answer) = (Arc::clone(&asked), Arc::new(answer));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, heads, answer) = (tls.clone(), Arc::clone(&heads), Arc::clone(&answer));
                tokio::spawn(async move {
                    match tls {
                        Some(tls) => serve(tls.accept(stream).await?, &heads, &answer).await,
                        None => serve(stream, &heads, &answer).await,
                    }
                });
            }
        });
        Self { address, asked, task: task.abort_handle() }
    }

    /// The heads of all requests so far.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no panic").clone()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    heads: &Mutex<Vec<String>>,
    answer: &Answer,
) -> io::Result<()> {
    let mut received = Vec::new();
    loop {
        while !received.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut received).await? == 0 {
                return Ok(());
            }
            if received[0] != b'G' {
                return stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
            }
        }
        let head = String::from_utf8_lossy(&received).into_owned();
        received.clear();
        let (status, body) = answer(&head);
        heads.lock().expect("no panic").push(head);
        let length = body.len();
        let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}");
        stream.write_all(answer.as_bytes()).await?;
        stream.flush().await?;
    }
}

/// Waits for a scrape that `accept` takes.
pub async fn until<R: Clone + std::fmt::Debug>(
    scrapes: &mut watch::Receiver<Scrape<R>>,
    accept: impl Fn(&Scrape<R>) -> bool,
) -> Scrape<R> {
    if let Ok(found) = timeout(PATIENCE, scrapes.wait_for(accept)).await {
        return found.expect("the scraper runs").clone();
    }
    panic!("it stays {:?}", scrapes.borrow());
}

/// A server's TLS with a new certificate for `name` that signs itself, and the certificate in PEM.
pub fn certificate(name: &str) -> (Arc<ServerConfig>, String) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("certificate and key match");
    (Arc::new(config), made.cert.pem())
}

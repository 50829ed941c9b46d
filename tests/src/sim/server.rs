//! The HTTP server in front of an engine: vLLM's routes over HTTP/1.1, with or without TLS.
//!
//! It owns sockets and nothing else; the listener is bound by the caller, who may have done so in another network
//! namespace.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use futures::stream;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Frame, Incoming},
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

use crate::sim::{
    driver::{self, DriverOptions, EngineHandle, TokenStream},
    engine::Refusal,
    metrics::Stats,
    openai::{self, ApiError, Chunks, Completion, Route},
    profile::Profile,
    script::Script,
};

/// The largest request body taken: a prompt of some four million tokens.
const MAX_BODY_BYTES: usize = 16 << 20;

/// How long a kept-open connection may be idle: vLLM's `VLLM_HTTP_TIMEOUT_KEEP_ALIVE`.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Rest after a failed accept, so that a lack of file descriptors does not spin a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// When response headers of a stream leave the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Headers {
    /// As soon as the request is read, as vLLM does.
    #[default]
    AtOnce,
    /// Together with the first token, as SGLang and llama.cpp do.
    FirstToken,
}

/// How a server is to behave.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// The engine and how it runs.
    pub driver: DriverOptions,
    /// The model's name in bodies and metrics.
    pub model: String,
    /// When headers leave.
    pub headers: Headers,
    /// Whether to close the connection after each response.
    pub close: bool,
    /// How long a connection may wait for its next request.
    pub idle_timeout: Duration,
    /// TLS, if any.
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

impl ServerOptions {
    /// A plain server of `profile` in real time.
    pub fn new(profile: &Profile) -> Self {
        Self {
            driver: DriverOptions {
                engine: profile.engine_config(),
                speed: 1.0,
                script: Script::default(),
                foreign: 0,
                stream_interval: 1,
            },
            model: profile.name.to_owned(),
            headers: Headers::default(),
            close: false,
            idle_timeout: IDLE_TIMEOUT,
            tls: None,
        }
    }
}

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The listener cannot be used.
    #[error("cannot use the listening socket: {0}")]
    Listener(#[from] io::Error),
    /// The foreign load does not fit.
    #[error("cannot take on the foreign load: {0}")]
    Foreign(#[from] Refusal),
}

/// A running server. Dropped, it stops as a killed process would: connections break off.
#[derive(Debug)]
pub struct SimServer {
    address: SocketAddr,
    engine: EngineHandle,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl SimServer {
    /// Starts a server on a bound listener, as tasks of the current runtime.
    ///
    /// # Errors
    /// [`ServerError`] when the listener or the options cannot be used.
    pub fn spawn(listener: std::net::TcpListener, options: ServerOptions) -> Result<Self, ServerError> {
        let address = listener.local_addr()?;
        let listener = into_tokio(listener)?;
        let (engine, drive) = driver::start(options.driver.clone())?;
        let (stop, stopped) = oneshot::channel::<()>();
        let app = Arc::new(App { engine: engine.clone(), options });
        let task = tokio::spawn(run(listener, app, drive, async {
            // A dropped sender is a dropped server: stop too.
            let _ = stopped.await;
        }));
        Ok(Self { address, engine, stop: Some(stop), task })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// Throttles it to a part of its rate; 1 is full speed.
    pub fn set_rate(&self, rate: f64) {
        self.engine.set_rate(rate);
    }

    /// Changes its foreign load.
    ///
    /// # Errors
    /// [`Refusal`] when that does not fit.
    pub fn set_foreign(&self, count: u32) -> Result<(), Refusal> {
        self.engine.set_foreign(count)
    }

    /// Its state after the latest step.
    pub fn stats(&self) -> Stats {
        self.engine.stats()
    }

    /// The mean time from a request's arrival to its first token, in seconds; none before the first.
    pub fn mean_first_token(&self) -> Option<f64> {
        self.engine.mean_first_token()
    }

    /// Stops it and waits until its sockets are closed.
    pub async fn stop(mut self) {
        self.stop.take();
        let _ = (&mut self.task).await;
    }
}

/// Serves until `shutdown` is ready, then breaks off all connections.
///
/// # Errors
/// [`ServerError`] when the listener or the options cannot be used.
pub async fn serve(
    listener: std::net::TcpListener,
    options: ServerOptions,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServerError> {
    let listener = into_tokio(listener)?;
    let (engine, drive) = driver::start(options.driver.clone())?;
    run(listener, Arc::new(App { engine, options }), drive, shutdown).await;
    Ok(())
}

fn into_tokio(listener: std::net::TcpListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

struct App {
    engine: EngineHandle,
    options: ServerOptions,
}

async fn run(
    listener: TcpListener,
    app: Arc<App>,
    drive: impl Future<Output = ()> + Send + 'static,
    shutdown: impl Future<Output = ()>,
) {
    let mut tasks = JoinSet::new();
    tasks.spawn(drive);
    let accept = async {
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((socket, _)) => drop(tasks.spawn(connection(socket, app.clone()))),
                    Err(error) => {
                        tracing::warn!("cannot accept a connection: {error}");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = tasks.join_next() => {}
            }
        }
    };
    tokio::select! {
        () = accept => {}
        () = shutdown => {}
    }
    tasks.shutdown().await;
}

async fn connection(socket: TcpStream, app: Arc<App>) {
    let result = async {
        socket.set_nodelay(true)?;
        match &app.options.tls {
            None => exchange(socket, &app).await,
            Some(tls) => exchange(TlsAcceptor::from(tls.clone()).accept(socket).await?, &app).await,
        }
    };
    if let Err(error) = result.await {
        tracing::debug!("connection ended: {error}");
    }
}

async fn exchange(io: impl AsyncRead + AsyncWrite + Unpin, app: &Arc<App>) -> io::Result<()> {
    let service = service_fn(|request| {
        let app = app.clone();
        async move { Ok::<_, Infallible>(app.respond(request).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(app.options.idle_timeout)
        .keep_alive(!app.options.close)
        .serve_connection(TokioIo::new(io), service)
        .await
        .map_err(io::Error::other)
}

type Body = UnsyncBoxBody<Bytes, io::Error>;

impl App {
    async fn respond(&self, request: Request<Incoming>) -> Response<Body> {
        let answer = match (request.method(), request.uri().path()) {
            (&Method::POST, "/v1/completions") => self.complete(Route::Completions, request).await,
            (&Method::POST, "/v1/chat/completions") => self.complete(Route::Chat, request).await,
            (&Method::GET, "/health" | "/ping") => Ok(plain(Bytes::new(), "text/plain; charset=utf-8")),
            (&Method::GET, "/v1/models") => Ok(plain(self.models(), "application/json")),
            (&Method::GET, "/metrics") => {
                let text = self.engine.render_metrics(&self.options.model);
                Ok(plain(text.into(), "text/plain; version=0.0.4; charset=utf-8"))
            }
            (
                _,
                "/v1/completions" | "/v1/chat/completions" | "/health" | "/ping" | "/v1/models" | "/metrics",
            ) => {
                let message = format!("Method {} Not Allowed", request.method());
                Err(ApiError { status: StatusCode::METHOD_NOT_ALLOWED, message })
            }
            _ => Err(ApiError { status: StatusCode::NOT_FOUND, message: "Not Found".to_owned() }),
        };
        answer.unwrap_or_else(|error| {
            let mut response = plain(error.body(), "application/json");
            *response.status_mut() = error.status;
            response
        })
    }

    fn models(&self) -> Bytes {
        openai::models(&self.options.model, self.options.driver.engine.context_tokens())
    }

    async fn complete(&self, route: Route, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
        let body = Limited::new(request.into_body(), MAX_BODY_BYTES).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                let message = format!("the request body is larger than {MAX_BODY_BYTES} bytes");
                ApiError { status: StatusCode::PAYLOAD_TOO_LARGE, message }
            } else {
                ApiError::bad_request(format!("cannot read the request body: {error}"))
            }
        })?;
        let completion = Completion::parse(route, &body.to_bytes(), &self.options.model)?;
        let tokens = self
            .engine
            .submit(completion.prompt_tokens, completion.max_tokens)
            .map_err(|refusal| ApiError::bad_request(refusal.to_string()))?;
        if completion.stream {
            self.stream(&completion, tokens).await
        } else {
            self.whole(&completion, tokens).await
        }
    }

    async fn whole(
        &self,
        completion: &Completion,
        mut tokens: TokenStream,
    ) -> Result<Response<Body>, ApiError> {
        while !tokens.is_finished() {
            tokens.next().await.ok_or_else(engine_gone)?;
        }
        Ok(plain(completion.whole(tokens.id(), &self.options.model), "application/json"))
    }

    async fn stream(
        &self,
        completion: &Completion,
        mut tokens: TokenStream,
    ) -> Result<Response<Body>, ApiError> {
        let chunks = Chunks::new(completion, tokens.id(), &self.options.model);
        let ready = match self.options.headers {
            Headers::AtOnce => None,
            Headers::FirstToken => Some(tokens.next().await.ok_or_else(engine_gone)?),
        };
        let events = stream::unfold(Events { tokens, chunks, ready, begun: false }, Events::next);
        let mut response = Response::new(StreamBody::new(events).boxed_unsync());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        Ok(response)
    }
}

fn engine_gone() -> ApiError {
    ApiError { status: StatusCode::INTERNAL_SERVER_ERROR, message: "the engine is gone".to_owned() }
}

/// A streamed response under way.
struct Events {
    tokens: TokenStream,
    chunks: Chunks,
    /// Tokens taken from the stream before the headers left.
    ready: Option<u32>,
    begun: bool,
}

impl Events {
    async fn next(mut self) -> Option<(io::Result<Frame<Bytes>>, Self)> {
        let count = match self.ready.take() {
            Some(count) => count,
            None if self.tokens.is_finished() => return None,
            None => match self.tokens.next().await {
                Some(count) => count,
                None => return Some((Err(io::Error::other("the engine is gone")), self)),
            },
        };
        let first = !std::mem::replace(&mut self.begun, true);
        let bytes = self.chunks.tokens(count, first, self.tokens.is_finished());
        Some((Ok(Frame::data(bytes)), self))
    }
}

fn plain(bytes: Bytes, content_type: &'static str) -> Response<Body> {
    let mut response = Response::new(Full::new(bytes).map_err(|never| match never {}).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

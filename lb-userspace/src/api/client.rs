//! The command line's end: blocking, one request at a time.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{
    Change, Explanation, FlowEvent, FlowPage, FlowsRequest, Foresight, ForesightRequest, GovernorRequest,
    ModeChange, RecordRequest, Request, Response, Snapshot, TableShares, TraceRequest, Traced,
};
use crate::recording::Line;

/// Longest wait for an answer; a daemon answers within milliseconds.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest response that is read, in bytes: ten times the state of the largest configuration.
const MAX_RESPONSE_BYTES: u64 = 64 << 20;

/// Why a request got no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing listens at the socket, or it is not for this user.
    #[error("cannot reach the daemon at {}: {reason}; {}", socket.display(), remedy(reason))]
    Unreachable {
        /// Path of the socket.
        socket: PathBuf,
        /// The system's reason.
        reason: io::Error,
    },
    /// The connection broke.
    #[error("the daemon at {} did not answer: {reason}; its log may say more", socket.display())]
    Silent {
        /// Path of the socket.
        socket: PathBuf,
        /// What happened.
        reason: String,
    },
    /// The answer makes no sense to this version.
    #[error("the answer from {} is not understood: {reason}; are daemon and command of one version?", socket.display())]
    Garbled {
        /// Path of the socket.
        socket: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The daemon refused the request.
    #[error("{message}")]
    Refused {
        /// The daemon's words.
        message: String,
    },
}

fn remedy(reason: &io::Error) -> &'static str {
    match reason.kind() {
        io::ErrorKind::PermissionDenied => "run as root or as a member of the socket's group",
        _ => "is `guidevane run` running?",
    }
}

/// A connection to a daemon.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    socket: PathBuf,
}

impl Client {
    /// Connects to the daemon that listens at `socket`.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`]
    pub fn connect(socket: &Path) -> Result<Self, ClientError> {
        let connect = || {
            let stream = UnixStream::connect(socket)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            Ok(stream)
        };
        match connect() {
            Ok(stream) => Ok(Self { stream: BufReader::new(stream), socket: socket.to_owned() }),
            Err(reason) => Err(ClientError::Unreachable { socket: socket.to_owned(), reason }),
        }
    }

    /// The daemon's state.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn status(&mut self) -> Result<Snapshot, ClientError> {
        match self.request(&Request::Status {})? {
            Response::Status(snapshot) => Ok(*snapshot),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Takes new flows away from a backend.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn drain(&mut self, backend: &str) -> Result<Change, ClientError> {
        self.command(&Request::Drain { backend: backend.to_owned() })
    }

    /// Gives new flows to a backend again.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn resume(&mut self, backend: &str) -> Result<Change, ClientError> {
        self.command(&Request::Resume { backend: backend.to_owned() })
    }

    /// Why a backend costs what it costs.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn explain(&mut self, backend: &str) -> Result<Explanation, ClientError> {
        match self.request(&Request::Explain { backend: backend.to_owned() })? {
            Response::Explanation(explanation) => Ok(*explanation),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Where a client's next connection would go.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn foresee(&mut self, request: &ForesightRequest) -> Result<Foresight, ClientError> {
        match self.request(&Request::Foresee(request.clone()))? {
            Response::Foresight(foresight) => Ok(*foresight),
            other => Err(self.unexpected(&other)),
        }
    }

    /// A part of the flow table.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn flows(&mut self, request: &FlowsRequest) -> Result<FlowPage, ClientError> {
        match self.request(&Request::Flows(request.clone()))? {
            Response::Flows(page) => Ok(page),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Which backends a VIP's Maglev table leads to.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn table(&mut self, vip: &str) -> Result<TableShares, ClientError> {
        match self.request(&Request::Table { vip: vip.to_owned() })? {
            Response::Table(shares) => Ok(shares),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Says what the governor does, and changes it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn governor(&mut self, request: &GovernorRequest) -> Result<Vec<ModeChange>, ClientError> {
        match self.request(&Request::Governor(request.clone()))? {
            Response::Governed(changes) => Ok(changes),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Begins a trace.
    ///
    /// # Errors
    /// See [`ClientError`]; a refusal comes with the first event.
    pub fn trace(mut self, request: &TraceRequest) -> Result<Tracer, ClientError> {
        self.begin(&Request::Trace(request.clone()))?;
        Ok(Tracer(self))
    }

    /// Begins a recording.
    ///
    /// # Errors
    /// See [`ClientError`]; a refusal comes with the first line.
    pub fn record(mut self, request: &RecordRequest) -> Result<Recorder, ClientError> {
        self.begin(&Request::Record(request.clone()))?;
        Ok(Recorder(self))
    }

    /// Asks for what comes when it comes.
    fn begin(&mut self, request: &Request) -> Result<(), ClientError> {
        let begin = |client: &mut Self| {
            client.stream.get_ref().set_read_timeout(None)?;
            client.send(request)
        };
        begin(self).map_err(|error| self.silent(error.to_string()))
    }

    /// What ends a stream from another thread: it then comes to its end.
    fn stopper(&self) -> Result<impl FnOnce() + Send + use<>, ClientError> {
        let stream = self.stream.get_ref().try_clone().map_err(|error| self.silent(error.to_string()))?;
        // A connection that is gone has ended the stream already.
        Ok(move || drop(stream.shutdown(Shutdown::Write)))
    }

    fn command(&mut self, request: &Request) -> Result<Change, ClientError> {
        match self.request(request)? {
            Response::Change(change) => Ok(change),
            other => Err(self.unexpected(&other)),
        }
    }

    fn request(&mut self, request: &Request) -> Result<Response, ClientError> {
        self.send(request).map_err(|error| self.silent(error.to_string()))?;
        self.receive()
    }

    fn receive(&mut self) -> Result<Response, ClientError> {
        let answer = self.read_line().map_err(|error| self.silent(error.to_string()))?;
        if answer.is_empty() {
            return Err(self.silent("it closed the connection".to_owned()));
        }
        match serde_json::from_slice(&answer) {
            Ok(Response::Error { message }) => Err(ClientError::Refused { message }),
            Ok(response) => Ok(response),
            Err(error) => Err(self.garbled(error.to_string())),
        }
    }

    fn send(&mut self, request: &Request) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(request)?;
        bytes.push(b'\n');
        self.stream.get_mut().write_all(&bytes)
    }

    fn read_line(&mut self) -> io::Result<Vec<u8>> {
        let mut answer = Vec::new();
        self.stream.by_ref().take(MAX_RESPONSE_BYTES).read_until(b'\n', &mut answer)?;
        Ok(answer)
    }

    fn silent(&self, reason: String) -> ClientError {
        ClientError::Silent { socket: self.socket.clone(), reason }
    }

    fn garbled(&self, reason: String) -> ClientError {
        ClientError::Garbled { socket: self.socket.clone(), reason }
    }

    fn unexpected(&self, response: &Response) -> ClientError {
        let kind = match response {
            Response::Status(_) => "a status",
            Response::Change(_) => "a change",
            Response::Explanation(_) => "an explanation",
            Response::Foresight(_) => "where a connection would go",
            Response::Flows(_) => "a page of flows",
            Response::Table(_) => "the shares of a table",
            Response::Governed(_) => "what the governor does",
            Response::Event(_) => "an event",
            Response::Traced(_) => "the end of a trace",
            Response::Recording(_) | Response::Sample(_) => "part of a recording",
            Response::Recorded(_) => "the end of a recording",
            Response::Error { .. } => "an error",
        };
        self.garbled(format!("it is {kind}, which was not asked for"))
    }
}

/// A trace under way.
#[derive(Debug)]
pub struct Tracer(Client);

impl Tracer {
    /// The next event, or how the trace ended; waits for as long as it takes.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn receive(&mut self) -> Result<Result<FlowEvent, Traced>, ClientError> {
        match self.0.receive()? {
            Response::Event(event) => Ok(Ok(*event)),
            Response::Traced(traced) => Ok(Err(traced)),
            other => Err(self.0.unexpected(&other)),
        }
    }

    /// What ends the trace from another thread: [`Tracer::receive`] then comes to its end.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn stopper(&self) -> Result<impl FnOnce() + Send + use<>, ClientError> {
        self.0.stopper()
    }
}

/// A recording under way.
#[derive(Debug)]
pub struct Recorder(Client);

impl Recorder {
    /// The next line; [`Line::Recorded`] is the last one. Waits for as long as it takes.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn receive(&mut self) -> Result<Line, ClientError> {
        match self.0.receive()? {
            Response::Recording(header) => Ok(Line::Recording(*header)),
            Response::Sample(sample) => Ok(Line::Sample(*sample)),
            Response::Recorded(end) => Ok(Line::Recorded(end)),
            other => Err(self.0.unexpected(&other)),
        }
    }

    /// What ends the recording from another thread: [`Recorder::receive`] then comes to its end.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn stopper(&self) -> Result<impl FnOnce() + Send + use<>, ClientError> {
        self.0.stopper()
    }
}

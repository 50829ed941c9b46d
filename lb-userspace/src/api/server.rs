//! The daemon's end: owns the socket's path while it lives, and never reads more of a request than it may.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{
    CommandError, Handler, MAX_REQUEST_BYTES, RecordRequest, Request, Response, Sampling as _, TraceRequest,
    Traced, Tracing as _,
};
use crate::recording::{End, Line as Recorded};

/// Owner and group may command the daemon, nobody else.
const SOCKET_MODE: u32 = 0o660;
const DIRECTORY_MODE: u32 = 0o750;
/// Connections served at once; more wait. Enough for people and scrapers, and a bound on memory.
const MAX_CONNECTIONS: usize = 64;
/// A connection that sends no whole request, or takes no response, for so long is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// A trace or recording whose client takes nothing for so long is closed: long enough to read what is on the screen.
const STREAM_TIMEOUT: Duration = Duration::from_secs(600);
/// Pause after a failed accept (out of file descriptors), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the admin socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another daemon lives there.
    #[error("another guidevane answers on {}; stop it first or choose another socket", path.display())]
    InUse {
        /// Path of the socket.
        path: PathBuf,
    },
    /// Something else is in the way.
    #[error("{} exists and is no socket; remove it or choose another socket", path.display())]
    NotASocket {
        /// Path of the socket.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot open the admin socket {}", path.display())]
    Io {
        /// Path of the socket.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// The listening admin socket. Dropping it, or the future of [`Server::serve`], ends its connections and removes
/// the socket's file.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the socket's file, to remove no other.
    identity: (u64, u64),
}

impl Server {
    /// Listens at `path`, which only owner and group may use. Creates its directory, and replaces the socket of a
    /// daemon that is gone. Needs a tokio runtime.
    ///
    /// # Errors
    /// See [`BindError`]; what is at `path` is then untouched.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let io_error = |source| BindError::Io { path: path.to_owned(), source };
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory).map_err(io_error)?;
        // Two daemons that start at once must not both find the socket stale and replace each other's.
        let directory = File::open(directory).map_err(io_error)?;
        directory.lock().map_err(io_error)?;
        remove_stale(path)?;
        let listener = UnixListener::bind(path).map_err(io_error)?;
        fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE)).map_err(io_error)?;
        let identity = identity(path).map_err(io_error)?;
        Ok(Self { listener, path: path.to_owned(), identity })
    }

    /// Answers requests through `handler` until dropped.
    pub async fn serve<H: Handler>(self, handler: Arc<H>) {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
            let Ok((stream, _)) = self.listener.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let handler = Arc::clone(&handler);
            connections.spawn(async move {
                let _permit = permit;
                // A client that goes away early has no one to tell.
                let _ = converse(stream, &*handler).await;
            });
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            // A file that cannot be removed is replaced as stale by the next daemon.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

fn remove_stale(path: &Path) -> Result<(), BindError> {
    let io_error = |source| BindError::Io { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(BindError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match BlockingStream::connect(path) {
        Ok(_) => Err(BindError::InUse { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(io_error)
        }
        Err(error) => Err(io_error(error)),
    }
}

async fn converse<H: Handler>(stream: UnixStream, handler: &H) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        let response = match tokio::time::timeout(IDLE_TIMEOUT, read_line(&mut reader, &mut line)).await?? {
            Line::Whole => match serde_json::from_slice(&line) {
                Ok(Request::Trace(request)) => trace(&request, &mut reader, &mut writer, handler).await?,
                Ok(Request::Record(request)) => record(&request, &mut reader, &mut writer, handler).await?,
                Ok(Request::Status {}) => answer(handler.status().await, |it| Response::Status(Box::new(it))),
                Ok(Request::Drain { backend }) => answer(handler.drain(&backend).await, Response::Change),
                Ok(Request::Resume { backend }) => answer(handler.resume(&backend).await, Response::Change),
                Ok(Request::Explain { backend }) => {
                    answer(handler.explain(&backend).await, |it| Response::Explanation(Box::new(it)))
                }
                Ok(Request::Foresee(request)) => {
                    answer(handler.foresee(&request).await, |it| Response::Foresight(Box::new(it)))
                }
                Ok(Request::Flows(request)) => answer(handler.flows(&request).await, Response::Flows),
                Ok(Request::Table { vip }) => answer(handler.table(&vip).await, Response::Table),
                Ok(Request::Governor(request)) => {
                    answer(handler.governor(&request).await, Response::Governed)
                }
                Err(error) => refusal(format!("not a request: {error}")),
            },
            Line::TooLong => refusal(format!("the request is longer than {MAX_REQUEST_BYTES} bytes")),
            Line::End => return Ok(()),
        };
        send(&mut writer, &response, IDLE_TIMEOUT).await?;
    }
}

async fn send(writer: &mut OwnedWriteHalf, response: &Response, patience: Duration) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(response)?;
    bytes.push(b'\n');
    tokio::time::timeout(patience, writer.write_all(&bytes)).await?
}

/// Sends events until there are as many as asked for or the client has something else to say, or nothing
/// more; gives what is to be said at the end.
async fn trace<H: Handler>(
    request: &TraceRequest,
    reader: &mut (impl AsyncBufRead + Unpin),
    writer: &mut OwnedWriteHalf,
    handler: &H,
) -> io::Result<Response> {
    let mut trace = match handler.trace(request).await {
        Ok(trace) => trace,
        Err(error) => return Ok(refusal(error.to_string())),
    };
    let mut events = 0;
    while request.count.is_none_or(|count| events < count) {
        let next = tokio::select! {
            next = trace.next() => next,
            said = reader.fill_buf() => said.map(|_| None)?,
        };
        let Some(event) = next else { break };
        send(writer, &Response::Event(Box::new(event)), STREAM_TIMEOUT).await?;
        events += 1;
    }
    Ok(Response::Traced(Traced { events, lost: trace.lost() }))
}

/// The same for a recording.
async fn record<H: Handler>(
    request: &RecordRequest,
    reader: &mut (impl AsyncBufRead + Unpin),
    writer: &mut OwnedWriteHalf,
    handler: &H,
) -> io::Result<Response> {
    let mut recording = match handler.record(request).await {
        Ok(recording) => recording,
        Err(error) => return Ok(refusal(error.to_string())),
    };
    let mut samples = 0;
    while request.count.is_none_or(|count| samples < count) {
        let next = tokio::select! {
            next = recording.next() => next,
            said = reader.fill_buf() => said.map(|_| None)?,
        };
        let response = match next {
            Some(Recorded::Recording(header)) => Response::Recording(Box::new(header)),
            Some(Recorded::Sample(sample)) => {
                samples += 1;
                Response::Sample(Box::new(sample))
            }
            Some(Recorded::Recorded(_)) | None => break,
        };
        send(writer, &response, STREAM_TIMEOUT).await?;
    }
    Ok(Response::Recorded(End { samples, lost: recording.lost() }))
}

enum Line {
    Whole,
    /// Skipped to its end.
    TooLong,
    /// The peer has sent all it will.
    End,
}

/// Reads the next line into `line`, without its line feed. The last one needs none.
async fn read_line(reader: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>) -> io::Result<Line> {
    line.clear();
    let mut too_long = false;
    let mut begun = false;
    loop {
        let available = reader.fill_buf().await?;
        let end = available.iter().position(|&byte| byte == b'\n');
        let part = &available[..end.unwrap_or(available.len())];
        let at_end = available.is_empty() || end.is_some();
        begun |= !available.is_empty();
        too_long |= line.len() + part.len() > MAX_REQUEST_BYTES;
        if !too_long {
            line.extend_from_slice(part);
        }
        let used = part.len() + usize::from(end.is_some());
        reader.consume(used);
        if at_end {
            return Ok(match (begun, too_long) {
                (false, _) => Line::End,
                (true, false) => Line::Whole,
                (true, true) => Line::TooLong,
            });
        }
    }
}

fn answer<T>(result: Result<T, CommandError>, response: impl FnOnce(T) -> Response) -> Response {
    result.map_or_else(|error| refusal(error.to_string()), response)
}

fn refusal(message: String) -> Response {
    Response::Error { message }
}

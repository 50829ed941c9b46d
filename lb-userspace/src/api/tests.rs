//! Both ends over real sockets, with a daemon that only remembers who drains.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use lb_common::reason::Reason;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::{
    AdminState, BindError, Change, Client, ClientError, CommandError, Daemon, Events, Explanation, FlowEvent,
    FlowPage, Flows, FlowsRequest, Foresight, ForesightRequest, GovernorRequest, Handler, Kernel, Lost,
    MAX_REQUEST_BYTES, ModeChange, Outcome, RecordRequest, Sampling, Server, Snapshot, TableShares,
    TraceRequest, Traced, Tracing, Why,
};
use crate::config::{GovernorMode, PolicyKind};
use crate::dataplane::build::Build;
use crate::recording::{End, Header, Line, Sample};

struct FakeDaemon {
    gpu_0: Mutex<AdminState>,
}

impl FakeDaemon {
    fn set(&self, backend: &str, after: AdminState) -> Result<Change, CommandError> {
        match backend {
            "gpu-0" => {
                let before = std::mem::replace(&mut *self.gpu_0.lock().unwrap(), after);
                Ok(Change { backend: backend.to_owned(), before, after })
            }
            "stuck" => {
                Err(CommandError::Failed { name: backend.to_owned(), reason: "the table is full".to_owned() })
            }
            _ => Err(CommandError::UnknownBackend { name: backend.to_owned() }),
        }
    }
}

/// Events that are there, and none after them until the trace is dropped.
struct FakeTrace(std::vec::IntoIter<FlowEvent>);

impl Tracing for FakeTrace {
    async fn next(&mut self) -> Option<FlowEvent> {
        match self.0.next() {
            Some(event) => Some(event),
            None => std::future::pending().await,
        }
    }

    fn lost(&self) -> Lost {
        Lost { kernel: 2, reader: 3 }
    }
}

/// A header, and samples without end.
struct FakeRecording(u64);

fn line(number: u64) -> Line {
    match number {
        0 => Line::Recording(Header::new(Vec::new())),
        at_us => Line::Sample(Sample { at_us, vips: Vec::new() }),
    }
}

impl Sampling for FakeRecording {
    async fn next(&mut self) -> Option<Line> {
        self.0 += 1;
        Some(line(self.0 - 1))
    }

    fn lost(&self) -> u64 {
        7
    }
}

fn event(cpu: u16) -> FlowEvent {
    FlowEvent {
        unix_seconds: 1.5,
        outcome: Outcome::Opened,
        reason: "new_flow".to_owned(),
        vip: "chat".to_owned(),
        client: "192.0.2.7:40000".parse().unwrap(),
        backend: Some("gpu-0".to_owned()),
        mtu: None,
        policy: PolicyKind::Least,
        why: Some(Why::Least),
        hash: "00".to_owned(),
        cpu,
        governor_silent: false,
        moved: false,
        candidates: Vec::new(),
    }
}

impl Handler for FakeDaemon {
    type Trace = FakeTrace;
    type Recording = FakeRecording;

    async fn record(&self, request: &RecordRequest) -> Result<FakeRecording, CommandError> {
        if request.every_ms == 0 { Err(CommandError::Silent) } else { Ok(FakeRecording(0)) }
    }

    async fn trace(&self, request: &TraceRequest) -> Result<FakeTrace, CommandError> {
        match &request.vip {
            Some(name) => Err(CommandError::UnknownVip { name: name.clone() }),
            None => Ok(FakeTrace((0..5).map(event).collect::<Vec<_>>().into_iter())),
        }
    }

    async fn status(&self) -> Result<Snapshot, CommandError> {
        Ok(Snapshot {
            daemon: Daemon {
                version: "0.1.0".to_owned(),
                uptime_seconds: 1.5,
                tick_seconds: 0.005,
                kernel: Kernel {
                    sha256: "00".to_owned(),
                    build: Build::Modern,
                    pinned: false,
                    interfaces: Vec::new(),
                },
                flows: Flows { slots: 4096, used: 7, evictions: 0 },
                nat_sources: Vec::new(),
                events: Events { sample: 0, lost: 0 },
                nvml: None,
            },
            vips: Vec::new(),
            drops: BTreeMap::from([("no-backend".to_owned(), 3)]),
            passes: BTreeMap::new(),
        })
    }

    async fn drain(&self, backend: &str) -> Result<Change, CommandError> {
        self.set(backend, AdminState::Draining)
    }

    async fn resume(&self, backend: &str) -> Result<Change, CommandError> {
        self.set(backend, AdminState::Active)
    }

    async fn explain(&self, _: &str) -> Result<Explanation, CommandError> {
        Err(CommandError::Silent)
    }

    async fn foresee(&self, request: &ForesightRequest) -> Result<Foresight, CommandError> {
        Err(CommandError::OtherFamily { client: request.client, vip: request.vip.clone() })
    }

    async fn flows(&self, request: &FlowsRequest) -> Result<FlowPage, CommandError> {
        match &request.page {
            Some(page) => Err(CommandError::UnknownPage { page: page.clone() }),
            None => Ok(FlowPage { flows: Vec::new(), next: Some(request.limit.to_string()) }),
        }
    }

    async fn table(&self, vip: &str) -> Result<TableShares, CommandError> {
        Err(CommandError::UnknownVip { name: vip.to_owned() })
    }

    async fn governor(&self, request: &GovernorRequest) -> Result<Vec<ModeChange>, CommandError> {
        let after = request.mode.unwrap_or_default();
        Ok(vec![ModeChange { vip: "chat".to_owned(), before: GovernorMode::On, after }])
    }
}

/// A server that runs until this is dropped, in a directory of its own.
struct Running {
    runtime: Runtime,
    _folder: tempfile::TempDir,
    socket: PathBuf,
}

impl Running {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("run/guidevane.sock");
        let runtime = Runtime::new().unwrap();
        let server = bind(&runtime, &socket).unwrap();
        let daemon = Arc::new(FakeDaemon { gpu_0: Mutex::new(AdminState::Active) });
        runtime.spawn(server.serve(daemon));
        Self { runtime, _folder: folder, socket }
    }

    fn client(&self) -> Client {
        Client::connect(&self.socket).unwrap()
    }

    fn raw(&self) -> Raw {
        Raw(BufReader::new(UnixStream::connect(&self.socket).unwrap()))
    }
}

fn bind(runtime: &Runtime, socket: &Path) -> Result<Server, BindError> {
    let _context = runtime.enter();
    Server::bind(socket)
}

/// A client that sends what it likes.
struct Raw(BufReader<UnixStream>);

impl Raw {
    fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    fn receive(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    fn refusal(&mut self) -> String {
        let answer = self.receive();
        answer["error"]["message"].as_str().unwrap_or_else(|| panic!("no refusal: {answer}")).to_owned()
    }
}

#[test]
fn status_arrives_as_it_was_sent() {
    let server = Running::start();
    let mut client = server.client();
    for _ in 0..2 {
        let snapshot = client.status().unwrap();
        assert_eq!(snapshot.daemon.flows.used, 7);
        assert_eq!(snapshot.drops["no-backend"], 3);
    }
}

#[test]
fn drain_and_resume_report_old_and_new_state() {
    let server = Running::start();
    let mut client = server.client();
    let drained = client.drain("gpu-0").unwrap();
    assert_eq!((drained.before, drained.after), (AdminState::Active, AdminState::Draining));
    let again = server.client().drain("gpu-0").unwrap();
    assert_eq!((again.before, again.after), (AdminState::Draining, AdminState::Draining));
    let resumed = client.resume("gpu-0").unwrap();
    assert_eq!((resumed.before, resumed.after), (AdminState::Draining, AdminState::Active));
}

#[test]
fn refusals_carry_the_daemons_words() {
    let server = Running::start();
    let mut client = server.client();
    let message = |result: Result<Change, ClientError>| match result {
        Err(ClientError::Refused { message }) => message,
        other => panic!("expected a refusal, got {other:?}"),
    };
    assert_eq!(message(client.drain("gpu-9")), "no backend is named `gpu-9`; `guidevane status` lists them");
    assert_eq!(message(client.resume("stuck")), "backend `stuck` is unchanged: the table is full");
}

#[test]
fn the_wire_format_is_one_json_object_a_line() {
    let server = Running::start();
    let mut raw = server.raw();
    raw.send(b"{\"drain\":{\"backend\":\"gpu-0\"}}\n{\"status\":{}}\n");
    let change = json!({"change": {"backend": "gpu-0", "before": "active", "after": "draining"}});
    assert_eq!(raw.receive(), change);
    assert_eq!(raw.receive()["status"]["daemon"]["tick_seconds"], json!(0.005));
}

#[test]
fn what_is_no_request_is_refused_and_the_connection_goes_on() {
    let server = Running::start();
    let mut raw = server.raw();
    let cases: &[(&[u8], &str)] = &[
        (b"{\"reboot\":{}}", "unknown variant `reboot`"),
        (b"{\"status\":{\"all\":true}}", "unknown field `all`"),
        (b"{\"drain\":{}}", "missing field `backend`"),
        (b"{\"drain\":{\"backend\":5}}", "expected a string"),
        (b"", "EOF"),
        (b"GET / HTTP/1.1", "expected value"),
        (b"{\"drain\":{\"backend\":\"\xff\"}}", "invalid unicode"),
    ];
    for (request, words) in cases {
        raw.send(request);
        raw.send(b"\n");
        let message = raw.refusal();
        let request = String::from_utf8_lossy(request);
        assert!(message.contains(words), "{request}: `{words}` is not in: {message}");
    }
    raw.send(b"{\"status\":{}}\n");
    assert!(raw.receive()["status"].is_object());
}

#[test]
fn an_oversized_line_is_refused_and_skipped() {
    let server = Running::start();
    let mut raw = server.raw();
    raw.send(&vec![b' '; 3 * MAX_REQUEST_BYTES]);
    raw.send(b"\n{\"status\":{}}\n");
    assert_eq!(raw.refusal(), "the request is longer than 65536 bytes");
    assert!(raw.receive()["status"].is_object());
}

#[test]
fn a_line_of_exactly_the_largest_size_is_read() {
    let server = Running::start();
    let mut raw = server.raw();
    let request = "{\"status\":{}}";
    let padded = format!("{request}{}", " ".repeat(MAX_REQUEST_BYTES - request.len()));
    raw.send(format!("{padded}\n{padded} \n").as_bytes());
    assert!(raw.receive()["status"].is_object());
    assert_eq!(raw.refusal(), "the request is longer than 65536 bytes");
}

#[test]
fn a_last_line_without_line_feed_is_answered() {
    let server = Running::start();
    let mut raw = server.raw();
    raw.send(b"{\"status\":{}}");
    raw.0.get_mut().shutdown(Shutdown::Write).unwrap();
    assert!(raw.receive()["status"].is_object());
    let mut rest = Vec::new();
    raw.0.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"");
}

#[test]
fn the_socket_is_for_owner_and_group_only() {
    let server = Running::start();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&server.socket), 0o660);
    assert_eq!(mode(server.socket.parent().unwrap()) & 0o007, 0);
}

#[test]
fn a_socket_that_answers_is_left_alone() {
    let server = Running::start();
    let error = bind(&server.runtime, &server.socket).unwrap_err();
    let expected = format!(
        "another guidevane answers on {}; stop it first or choose another socket",
        server.socket.display()
    );
    assert_eq!(error.to_string(), expected);
    server.client().status().unwrap();
}

#[test]
fn a_dead_daemons_socket_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("guidevane.sock");
    drop(UnixListener::bind(&socket).unwrap());
    assert!(socket.exists());
    let runtime = Runtime::new().unwrap();
    let server = bind(&runtime, &socket).unwrap();
    UnixStream::connect(&socket).unwrap();
    drop(server);
    assert!(!socket.exists(), "the socket outlives its server");
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    std::fs::write(&path, "keep").unwrap();
    let error = bind(&Runtime::new().unwrap(), &path).unwrap_err();
    assert!(matches!(error, BindError::NotASocket { .. }), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "keep");
}

#[test]
fn a_server_removes_no_socket_but_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("guidevane.sock");
    let runtime = Runtime::new().unwrap();
    let server = bind(&runtime, &socket).unwrap();
    let moved = folder.path().join("moved.sock");
    std::fs::rename(&socket, &moved).unwrap();
    let _other = UnixListener::bind(&socket).unwrap();
    drop(server);
    assert!(socket.exists());
}

#[test]
fn stopping_the_server_ends_its_connections_and_removes_the_socket() {
    let Running { runtime, _folder, socket } = Running::start();
    let mut client = Client::connect(&socket).unwrap();
    client.status().unwrap();
    drop(runtime);
    assert!(!socket.exists(), "the socket outlives its server");
    assert!(matches!(client.status(), Err(ClientError::Silent { .. })));
    let error = Client::connect(&socket).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot reach the daemon at {}: ", socket.display())), "{error}");
    assert!(error.ends_with("; is `guidevane run` running?"), "{error}");
}

#[test]
fn an_answer_of_another_version_is_called_so() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("guidevane.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let answer = |line: &'static str| {
        let listener = listener.try_clone().unwrap();
        let other = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut stream = BufReader::new(stream);
            stream.read_line(&mut String::new()).unwrap();
            stream.get_mut().write_all(line.as_bytes()).unwrap();
        });
        let result = Client::connect(&socket).unwrap().status();
        other.join().unwrap();
        result.unwrap_err()
    };
    let cases = [
        "hello\n",
        "{\"status\":{}}\n",
        "{\"change\":{\"backend\":\"a\",\"before\":\"active\",\"after\":\"active\"}}\n",
    ];
    for line in cases {
        let error = answer(line);
        assert!(matches!(error, ClientError::Garbled { .. }), "{line}: {error}");
    }
    let error = answer("");
    assert!(matches!(error, ClientError::Silent { .. }), "{error}");
}

/// A trace that ends after as many events as there are.
fn finite(count: u64) -> TraceRequest {
    TraceRequest { count: Some(count), ..TraceRequest::default() }
}

#[test]
fn a_trace_ends_after_its_count_and_says_what_was_lost() {
    let server = Running::start();
    let mut tracer = server.client().trace(&finite(3)).unwrap();
    for cpu in 0..3 {
        assert_eq!(tracer.receive().unwrap(), Ok(event(cpu)));
    }
    let lost = Lost { kernel: 2, reader: 3 };
    assert_eq!(tracer.receive().unwrap(), Err(Traced { events: 3, lost }));
}

#[test]
fn a_trace_without_a_count_ends_when_it_is_stopped() {
    let server = Running::start();
    let mut tracer = server.client().trace(&TraceRequest::default()).unwrap();
    let stop = tracer.stopper().unwrap();
    for cpu in 0..5 {
        assert_eq!(tracer.receive().unwrap(), Ok(event(cpu)));
    }
    stop();
    assert!(matches!(tracer.receive().unwrap(), Err(Traced { events: 5, .. })));
}

#[test]
fn another_request_ends_a_trace_and_is_answered() {
    let server = Running::start();
    let mut raw = server.raw();
    raw.send(b"{\"trace\":{\"every\":4}}\n");
    for cpu in 0..5 {
        assert_eq!(raw.receive()["event"]["cpu"], json!(cpu));
    }
    raw.send(b"{\"status\":{}}\n");
    let end = json!({"traced": {"events": 5, "lost": {"kernel": 2, "reader": 3}}});
    assert_eq!(raw.receive(), end);
    assert!(raw.receive()["status"].is_object());
}

#[test]
fn a_trace_of_what_there_is_not_is_refused() {
    let server = Running::start();
    let request = TraceRequest { vip: Some("nope".to_owned()), ..finite(1) };
    match server.client().trace(&request).unwrap().receive() {
        Err(ClientError::Refused { message }) => {
            assert_eq!(message, "no VIP is named `nope`; `guidevane status` lists them");
        }
        other => panic!("expected a refusal, got {other:?}"),
    }
    let mut raw = server.raw();
    for (request, words) in [
        (r#"{"trace":{"reason":"magic"}}"#, "no reason is named `magic`"),
        (r#"{"trace":{"client":"here"}}"#, "invalid IP address syntax"),
        (r#"{"trace":{"colour":"red"}}"#, "unknown field `colour`"),
    ] {
        raw.send(format!("{request}\n").as_bytes());
        let message = raw.refusal();
        assert!(message.contains(words), "{request}: `{words}` is not in: {message}");
    }
}

#[test]
fn a_request_for_a_trace_says_only_what_matters() {
    let plain = serde_json::to_value(TraceRequest::default()).unwrap();
    assert_eq!(plain, json!({"every": 1}));
    let request = TraceRequest {
        client: Some("192.0.2.0/24".parse().unwrap()),
        reason: Some(Reason::NoBackend),
        every: 8,
        ..TraceRequest::default()
    };
    let written = serde_json::to_value(&request).unwrap();
    assert_eq!(written, json!({"client": "192.0.2.0/24", "reason": "no_backend", "every": 8}));
    assert_eq!(serde_json::from_value::<TraceRequest>(written).unwrap(), request);
}

#[test]
fn a_recording_ends_after_its_count_or_when_it_is_stopped() {
    let server = Running::start();
    let mut recorder =
        server.client().record(&RecordRequest { count: Some(2), ..Default::default() }).unwrap();
    for number in 0..3 {
        assert_eq!(recorder.receive().unwrap(), line(number));
    }
    assert_eq!(recorder.receive().unwrap(), Line::Recorded(End { samples: 2, lost: 7 }));

    let mut recorder = server.client().record(&RecordRequest::default()).unwrap();
    assert_eq!(recorder.receive().unwrap(), line(0));
    recorder.stopper().unwrap()();
    let end = std::iter::repeat_with(|| recorder.receive().unwrap())
        .find(|line| matches!(line, Line::Recorded(_)))
        .expect("it has an end");
    assert!(matches!(end, Line::Recorded(End { lost: 7, .. })), "{end:?}");
}

#[test]
fn a_recording_that_is_refused_says_why() {
    let server = Running::start();
    let request = RecordRequest { every_ms: 0, count: None };
    let error = server.client().record(&request).unwrap().receive().unwrap_err();
    assert!(matches!(error, ClientError::Refused { .. }), "{error}");
}

#[test]
fn lines_of_a_recording_are_the_same_on_the_wire_and_in_a_file() {
    let server = Running::start();
    let mut raw = server.raw();
    raw.send(b"{\"record\":{\"count\":1}}\n");
    for number in 0..2 {
        assert_eq!(serde_json::from_value::<Line>(raw.receive()).unwrap(), line(number));
    }
    assert_eq!(raw.receive(), json!({"recorded": {"samples": 1, "lost": 7}}));
}

#[test]
fn flows_and_foresight_go_over_the_socket_and_refusals_name_the_remedy() {
    let running = Running::start();
    let mut client = Client::connect(&running.socket).unwrap();
    let page = client.flows(&FlowsRequest { limit: 7, ..FlowsRequest::default() }).unwrap();
    assert_eq!(page, FlowPage { flows: Vec::new(), next: Some("7".to_owned()) });
    let wrong = FlowsRequest { page: Some("x".to_owned()), ..FlowsRequest::default() };
    assert_eq!(
        client.flows(&wrong).unwrap_err().to_string(),
        "`x` is no page of flows; begin without one, or take the `next` of an earlier page"
    );
    let request = ForesightRequest { client: "192.0.2.7:4".parse().unwrap(), vip: "v6".to_owned() };
    assert_eq!(
        client.foresee(&request).unwrap_err().to_string(),
        "no packet of 192.0.2.7:4 can be for VIP `v6`: one is IPv4, the other IPv6; ask for the VIP of its family"
    );
}

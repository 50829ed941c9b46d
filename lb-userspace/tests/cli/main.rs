//! The command itself, as its users run it: output, messages and exit codes.

mod flows;
mod picture;
mod recording;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use guidevane::api::{
    AdminState, Candidate, Change, CommandError, Correction, Damping, Explanation, Failed, FlowEvent,
    FlowPage, FlowsRequest, Foresight, ForesightRequest, GovernorRequest, Handler, HardwareFactor, Limit,
    LimitOrigin, Lost, Measure, ModeChange, Outcome, RecordRequest, Server, Slowness, Snapshot, TableShares,
    Terms, TraceRequest, Tracing, Trust, Why,
};
use guidevane::config::{GovernorMode, PolicyKind};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use picture::{TABLE, WIDE, snapshot};
use tokio::runtime::Runtime;

const SUCCESS: Option<i32> = Some(0);
const FAILURE: Option<i32> = Some(1);
const USAGE: Option<i32> = Some(2);

fn explanation() -> Explanation {
    let written = Terms { cost: 1.0, correction: 0.0, limit: Some(32) };
    Explanation {
        backend: "gpu-0".to_owned(),
        vip: "chat".to_owned(),
        policy: PolicyKind::Least,
        governor: GovernorMode::Observe,
        written,
        proposed: Terms { cost: 1.875, correction: 3.25, limit: Some(32) },
        cost_by_weight: 1.0,
        target: 1.95,
        factor: 1.875,
        waits_for: Some(Damping::Slew),
        slowness: Slowness {
            factor: 1.5,
            measured: Some(1.5),
            band: 1.05,
            by: Some(Measure::Tokens),
            age_seconds: Some(0.43),
        },
        hardware: HardwareFactor { factor: 1.3, now: Some(1.3), learned: 1.0, age_seconds: Some(0.9) },
        saturation: 1.0,
        slow_start: 1.0,
        trust: Trust { kernel_factor: 1.1, bounded: false },
        correction: Correction { reported: Some(4.0), smoothed: 3.25, age_seconds: Some(0.2) },
        failed: Failed { part: 0.25, flows: 1.5, lifetime_seconds: Some(2.0) },
        limit: Limit { flows: Some(32), origin: LimitOrigin::Configured },
        first_progress_seconds: Some(0.1374),
    }
}

const EXPLAINED: &str = "\
gpu-0 of chat: policy least, governor observe

TERM         VALUE  WHY
cost          1.00  1.00 by weight; the factors below: 1.88 of 1.95, on its way
slowness      1.50  1.50 beside the others by tokens, 0.4 s ago; up to 1.05 is noise
hardware      1.30  GPUs say 1.30, 0.9 s ago; 1.00 when slowness was measured
saturation    1.00  KV cache and queue, from its reports
slow start    1.00  above 1 for a while after it comes back
correction    +0.0  +4.0 flows beyond ours reported 0.2 s ago; smoothed +3.2
failed        +1.5  25 % of its flows end at once; others live 2.00 s
trust         1.10  by the kernel's signals alone; reports agree, or make it look worse
limit           32  configured
ttfb           137  ms to first progress, lately

If the governor were on: cost 1.88, correction +3.2, limit 32
";

/// A daemon that shows the snapshot above and has one backend to drain.
struct FakeDaemon(Mutex<AdminState>);

impl FakeDaemon {
    fn set(&self, backend: &str, after: AdminState) -> Result<Change, CommandError> {
        if backend != "gpu-0" {
            return Err(CommandError::UnknownBackend { name: backend.to_owned() });
        }
        let before = std::mem::replace(&mut *self.0.lock().unwrap(), after);
        Ok(Change { backend: backend.to_owned(), before, after })
    }
}

/// Two flows, and no more.
struct FakeTrace(std::vec::IntoIter<FlowEvent>);

impl Tracing for FakeTrace {
    async fn next(&mut self) -> Option<FlowEvent> {
        match self.0.next() {
            Some(event) => Some(event),
            None => std::future::pending().await,
        }
    }

    fn lost(&self) -> Lost {
        Lost { kernel: 5, reader: 0 }
    }
}

fn events() -> Vec<FlowEvent> {
    let candidate = Candidate {
        backend: "gpu-0".to_owned(),
        picked: true,
        load: 1.0,
        opening: 0,
        awaiting: 0,
        prompts_kib: 0,
        streaming: 0,
        idle: 0,
        cost: 1.0,
        correction: 0.0,
        limit: None,
        at_limit: false,
        over_bound: false,
        lacks: Vec::new(),
    };
    let opened = FlowEvent {
        unix_seconds: 1_700_000_000.0,
        outcome: Outcome::Opened,
        reason: "new_flow".to_owned(),
        vip: "chat".to_owned(),
        client: "192.0.2.7:40000".parse().unwrap(),
        backend: Some("gpu-0".to_owned()),
        mtu: None,
        policy: PolicyKind::Least,
        why: Some(Why::Least),
        hash: "0123456789abcdef".to_owned(),
        cpu: 1,
        governor_silent: false,
        moved: false,
        candidates: vec![candidate],
    };
    let refused = FlowEvent {
        outcome: Outcome::Refused,
        reason: "no_backend".to_owned(),
        backend: None,
        why: None,
        candidates: Vec::new(),
        ..opened.clone()
    };
    vec![opened, refused]
}

const TRACE: &str = "\
2023-11-14T22:13:20.000000Z  192.0.2.7:40000 -> chat -> gpu-0  new_flow, least: the smallest load
    PICK  BACKEND  LOAD  OPENING  AWAITING  STREAMING  IDLE  COST  CORRECTION  LIMIT  BUT
    *     gpu-0    1.00        0         0          0     0  1.00        +0.0      -
2023-11-14T22:13:20.000000Z  192.0.2.7:40000 -> chat, dropped  no_backend, least
2 events, 5 lost in the kernel, 0 on the way here
";

impl Handler for FakeDaemon {
    type Trace = FakeTrace;
    type Recording = recording::FakeRecording;

    async fn record(&self, _: &RecordRequest) -> Result<recording::FakeRecording, CommandError> {
        Ok(recording::FakeRecording::begin())
    }

    async fn trace(&self, request: &TraceRequest) -> Result<FakeTrace, CommandError> {
        match &request.vip {
            Some(name) if name != "chat" => Err(CommandError::UnknownVip { name: name.clone() }),
            _ => Ok(FakeTrace(events().into_iter())),
        }
    }

    async fn status(&self) -> Result<Snapshot, CommandError> {
        Ok(snapshot())
    }

    async fn drain(&self, backend: &str) -> Result<Change, CommandError> {
        self.set(backend, AdminState::Draining)
    }

    async fn resume(&self, backend: &str) -> Result<Change, CommandError> {
        self.set(backend, AdminState::Active)
    }

    async fn explain(&self, backend: &str) -> Result<Explanation, CommandError> {
        match backend {
            "gpu-0" => Ok(explanation()),
            _ => Err(CommandError::UnknownBackend { name: backend.to_owned() }),
        }
    }

    async fn foresee(&self, request: &ForesightRequest) -> Result<Foresight, CommandError> {
        flows::foresight(request)
    }

    async fn flows(&self, request: &FlowsRequest) -> Result<FlowPage, CommandError> {
        flows::page(request)
    }

    async fn table(&self, vip: &str) -> Result<TableShares, CommandError> {
        flows::table(vip)
    }

    async fn governor(&self, request: &GovernorRequest) -> Result<Vec<ModeChange>, CommandError> {
        let before = GovernorMode::On;
        let after = request.mode.unwrap_or(before);
        let vips = ["chat", "code"].into_iter();
        let meant = vips.filter(|vip| request.vip.as_deref().is_none_or(|name| name == *vip));
        Ok(meant.map(|vip| ModeChange { vip: vip.to_owned(), before, after }).collect())
    }
}

struct Running {
    _runtime: Runtime,
    _folder: tempfile::TempDir,
    socket: PathBuf,
}

impl Running {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("guidevane.sock");
        let runtime = Runtime::new().unwrap();
        let server = {
            let _context = runtime.enter();
            Server::bind(&socket).unwrap()
        };
        runtime.spawn(server.serve(Arc::new(FakeDaemon(Mutex::new(AdminState::Active)))));
        Self { _runtime: runtime, _folder: folder, socket }
    }

    fn guidevane(&self, arguments: &[&str]) -> Output {
        guidevane().arg("--socket").arg(&self.socket).args(arguments).output().unwrap()
    }
}

fn guidevane() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_guidevane"));
    command.env_remove("GUIDEVANE_SOCKET").env_remove("NO_COLOR");
    command
}

#[track_caller]
fn assert_output(output: &Output, code: Option<i32>, stdout: &str, stderr: &str) {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| str::from_utf8(bytes).unwrap());
    assert_eq!(out, stdout, "standard output; standard error: {err}");
    assert_eq!(err, stderr, "standard error");
    assert_eq!(output.status.code(), code, "exit code");
}

#[test]
fn status_shows_the_columns_that_matter() {
    assert_output(&Running::start().guidevane(&["status"]), SUCCESS, TABLE, "");
}

#[test]
fn wide_status_shows_all_columns() {
    assert_output(&Running::start().guidevane(&["status", "-o", "wide"]), SUCCESS, WIDE, "");
}

#[test]
fn json_status_is_the_snapshot() {
    let output = Running::start().guidevane(&["status", "-o", "json"]);
    assert_eq!(serde_json::from_slice::<Snapshot>(&output.stdout).unwrap(), snapshot());
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let backend = &value["vips"][0]["backends"][1];
    assert_eq!(backend["health"], serde_json::json!({"state": "down", "reason": "connection refused"}));
    assert_eq!(backend["ttft_p50_seconds"], serde_json::Value::Null);
    assert_eq!(value["vips"][1]["policy"], "round-robin");
}

#[test]
fn watch_repeats_until_its_reader_goes_away() {
    let daemon = Running::start();
    let mut child = guidevane()
        .args(["status", "--watch", "-o", "json"])
        .env("GUIDEVANE_SOCKET", &daemon.socket)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let line = lines.next().unwrap().unwrap();
        assert_eq!(serde_json::from_str::<Snapshot>(&line).unwrap(), snapshot());
    }
    drop(lines);
    assert_eq!(child.wait().unwrap().code(), SUCCESS);
}

#[test]
fn a_trace_shows_flows_and_ends_with_what_was_lost() {
    let output = Running::start().guidevane(&["trace", "--vip", "chat", "--count", "2"]);
    assert_output(&output, SUCCESS, TRACE, "");
    let output = Running::start().guidevane(&["trace", "--vip", "nope"]);
    let message = "error: no VIP is named `nope`; `guidevane status` lists them\n";
    assert_output(&output, FAILURE, "", message);
}

#[test]
fn a_json_trace_that_is_interrupted_still_says_what_was_lost() {
    let daemon = Running::start();
    let mut child = guidevane()
        .args(["trace", "--json", "--client", "192.0.2.0/24", "--reason", "new_flow", "--every", "8"])
        .env("GUIDEVANE_SOCKET", &daemon.socket)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<serde_json::Value>(&lines.next().unwrap().unwrap()).unwrap();
    for event in events() {
        assert_eq!(serde_json::from_value::<FlowEvent>(next()["event"].take()).unwrap(), event);
    }
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    let end = serde_json::json!({"traced": {"events": 2, "lost": {"kernel": 5, "reader": 0}}});
    assert_eq!(next(), end);
    assert_eq!(child.wait().unwrap().code(), SUCCESS);
}

#[test]
fn drain_and_resume_print_old_and_new_state() {
    let daemon = Running::start();
    let backends = |verb| daemon.guidevane(&["backends", verb, "gpu-0"]);
    assert_output(&backends("drain"), SUCCESS, "gpu-0: active -> draining\n", "");
    assert_output(&backends("drain"), SUCCESS, "gpu-0: draining -> draining\n", "");
    assert_output(&backends("resume"), SUCCESS, "gpu-0: draining -> active\n", "");
}

#[test]
fn an_explanation_names_each_term_and_where_it_comes_from() {
    let running = Running::start();
    assert_output(&running.guidevane(&["backends", "explain", "gpu-0"]), SUCCESS, EXPLAINED, "");
    let json = running.guidevane(&["backends", "explain", "gpu-0", "-o", "json"]);
    assert_eq!(serde_json::from_slice::<Explanation>(&json.stdout).unwrap(), explanation());
    let unknown = running.guidevane(&["backends", "explain", "gpu-9"]);
    let refused = "error: no backend is named `gpu-9`; `guidevane status` lists them\n";
    assert_output(&unknown, FAILURE, "", refused);
}

#[test]
fn the_governors_mode_is_shown_changed_and_tried() {
    let running = Running::start();
    let shown = running.guidevane(&["governor"]);
    assert_output(&shown, SUCCESS, "chat: on\ncode: on\n", "");
    let changed = running.guidevane(&["governor", "freeze", "--vip", "code"]);
    assert_output(&changed, SUCCESS, "code: on -> freeze\n", "");
    let tried = running.guidevane(&["governor", "observe", "--dry-run"]);
    assert_output(&tried, SUCCESS, "chat: on -> observe (not done)\ncode: on -> observe (not done)\n", "");
}

#[test]
fn a_refused_command_fails_with_the_daemons_words() {
    let output = Running::start().guidevane(&["backends", "drain", "gpu-9"]);
    let message = "error: no backend is named `gpu-9`; `guidevane status` lists them\n";
    assert_output(&output, FAILURE, "", message);
}

#[test]
fn without_a_daemon_the_remedy_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("none.sock");
    for command in [&["status"][..], &["backends", "drain", "gpu-0"], &["backends", "resume", "gpu-0"]] {
        let output = guidevane().args(command).arg("--socket").arg(&socket).output().unwrap();
        let message = format!(
            "error: cannot reach the daemon at {}: No such file or directory (os error 2); \
             is `guidevane run` running?\n",
            socket.display()
        );
        assert_output(&output, FAILURE, "", &message);
    }
}

#[test]
fn config_check_counts_what_it_found() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/guidevane.toml");
    let output = guidevane().args(["config", "check"]).arg(&example).output().unwrap();
    let message = format!("{}: good: 1 interface, 3 VIPs, 4 backends\n", example.display());
    assert_output(&output, SUCCESS, &message, "");
}

#[test]
fn a_bad_config_is_a_usage_error_for_check_and_run() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lb.toml");
    let missing = folder.path().join("missing.toml");
    std::fs::write(&file, "[daemon]\ntick = \"1m\"\n").unwrap();
    for command in [&["config", "check"][..], &["run", "--config"]] {
        let refused = guidevane().args(command).arg(&file).output().unwrap();
        let message = format!("error: {}:2:8: tick is 1m; it must lie between 1ms and 1s\n", file.display());
        assert_output(&refused, USAGE, "", &message);
        let unread = guidevane().args(command).arg(&missing).output().unwrap();
        let message = format!(
            "error: {}: cannot read the configuration: No such file or directory (os error 2)\n",
            missing.display()
        );
        assert_output(&unread, USAGE, "", &message);
    }
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    let cases: &[&[&str]] = &[
        &[],
        &["reboot"],
        &["run"],
        &["status", "-o", "xml"],
        &["explain", "192.0.2.7", "chat"],
        &["explain", "192.0.2.7:4"],
        &["flows", "--state", "asleep"],
        &["flows", "--limit", "0"],
        &["flows", "--older", "old"],
        &["flows", "--vip", "chat", "where", "192.0.2.7:4", "chat"],
        &["status", "--watch", "1ms"],
        &["backends", "drain"],
        &["config", "check"],
        &["trace", "--every", "0"],
        &["trace", "--client", "192.0.2.0/33"],
        &["trace", "--reason", "magic"],
    ];
    for arguments in cases {
        let output = guidevane().args(*arguments).output().unwrap();
        assert_eq!(output.status.code(), USAGE, "{arguments:?}");
        assert_eq!(output.stdout, b"", "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("--help"), "{arguments:?}");
    }
}

#[test]
fn help_documents_exit_codes_and_the_socket_variable() {
    let output = guidevane().arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    for words in ["Exit codes:", "  2  wrong command line or configuration", "GUIDEVANE_SOCKET"] {
        assert!(help.contains(words), "`{words}` is not in: {help}");
    }
    assert_eq!(output.status.code(), SUCCESS);
}

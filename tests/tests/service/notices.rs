//! What a daemon, an agent and `decap` say to the service manager, on a real notification socket.

use std::{
    io::ErrorKind,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use guidevane_tests::{
    bed::{Namespace, Topology},
    daemon::{Daemon, binary},
};
use nix::{
    sys::{
        ptrace,
        signal::{Signal, kill},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};

/// Far above what a busy machine needs.
const PATIENCE: Duration = Duration::from_secs(60);
/// The watchdog's time: signs of life come four times in it.
const LIMIT: Duration = Duration::from_secs(2);

/// The end of the service manager.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("bind the notification socket");
        Self { socket, path, _folder: folder }
    }

    fn environment(&self) -> [(&str, &Path); 2] {
        // Twice a second.
        const LIMIT_USEC: &str = "2000000";
        assert_eq!(LIMIT_USEC, LIMIT.as_micros().to_string());
        [("NOTIFY_SOCKET", &self.path), ("WATCHDOG_USEC", Path::new(LIMIT_USEC))]
    }

    /// The next message, if one comes in time.
    fn next(&self, patience: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(patience)).expect("set a timeout");
        let mut buffer = [0; 4096];
        match self.socket.recv(&mut buffer) {
            Ok(length) => Some(String::from_utf8_lossy(&buffer[..length]).into_owned()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
            Err(error) => panic!("receive a message: {error}"),
        }
    }

    /// The next message with this line; what comes before it is passed over.
    fn wait_for(&self, line: &str) -> String {
        let until = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        while let Some(message) = self.next(until.saturating_duration_since(Instant::now()).max(LIMIT)) {
            if message.lines().any(|said| said.starts_with(line)) {
                return message;
            }
            seen.push(message);
            assert!(Instant::now() < until, "no {line} in {PATIENCE:?}, but {seen:?}");
        }
        panic!("no {line}, but {seen:?}");
    }

    /// Passes over all that was said so far.
    fn catch_up(&self) {
        while self.next(Duration::from_millis(1)).is_some() {}
    }
}

fn configuration(bed: &Topology, weight: u32) -> String {
    let (interface, vip, server) = (bed.balancer.interfaces[0].name, bed.vip.v4, bed.servers[0].address().v4);
    format!(
        "[daemon]\nflows = 4096\n[[interface]]\nname = \"{interface}\"\n[[vip]]\nname = \"chat\"\naddress = \"{vip}\"\n\
         port = 8000\nmode = \"l2\"\n[[vip.backend]]\nname = \"gpu-0\"\naddress = \"{server}\"\nweight = {weight}\n"
    )
}

/// The daemon's thread of this name.
fn thread(daemon: &Daemon, name: &str) -> Pid {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.id())).expect("list threads");
    let found = tasks
        .flatten()
        .find(|task| std::fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name));
    let task = found.unwrap_or_else(|| panic!("no thread {name}"));
    Pid::from_raw(task.file_name().to_string_lossy().parse().expect("a thread's number"))
}

#[test]
#[ignore = "needs root: network namespaces and XDP"]
fn systemd_hears_of_readiness_reloads_and_the_end() {
    let bed = Topology::one_arm(1).expect("make the test bed");
    let manager = Manager::new();
    let text = configuration(&bed, 100);
    let mut daemon = Daemon::start_with(&bed.balancer.namespace, &text, &manager.environment());
    let ready = manager.wait_for("READY=1");
    assert!(ready.contains("STATUS=steering 1 VIP, "), "{ready}");
    assert!(daemon.status().is_some(), "who is ready answers");

    daemon.reload(&configuration(&bed, 50));
    let reloading = manager.wait_for("RELOADING=1");
    let stamp = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
    let stamp: u64 = stamp.and_then(|stamp| stamp.parse().ok()).unwrap_or_else(|| panic!("{reloading}"));
    assert!(stamp > 0, "{reloading}");
    manager.wait_for("READY=1");
    assert_eq!(daemon.status().expect("it answers").vips[0].backends[0].weight, 50, "ready is reloaded");

    // A reload that fails ends as well, with what was there before.
    daemon.reload("nonsense");
    manager.wait_for("RELOADING=1");
    manager.wait_for("READY=1");

    assert!(daemon.terminate().success(), "{}", daemon.log());
    manager.wait_for("STOPPING=1");
}

#[test]
#[ignore = "needs root: network namespaces, XDP and ptrace"]
fn the_watchdog_starves_while_the_control_loop_stands_still() {
    let bed = Topology::one_arm(1).expect("make the test bed");
    let manager = Manager::new();
    let text = configuration(&bed, 100);
    let daemon = Daemon::start_with(&bed.balancer.namespace, &text, &manager.environment());
    manager.wait_for("READY=1");
    manager.wait_for("WATCHDOG=1");

    // The tracer stops this one thread; all others run on, which SIGSTOP could not do.
    let governor = thread(&daemon, "governor");
    ptrace::seize(governor, ptrace::Options::empty()).expect("trace the governor's thread");
    ptrace::interrupt(governor).expect("stop the governor's thread");
    waitpid(governor, Some(WaitPidFlag::__WALL)).expect("wait until it has stopped");
    // One more sign may be due for its last round.
    std::thread::sleep(LIMIT / 2);
    manager.catch_up();
    let until = Instant::now() + 2 * LIMIT;
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        let message = manager.next(left).unwrap_or_default();
        assert!(!message.contains("WATCHDOG=1"), "a sign of life of a governor that stands still");
    }
    assert!(daemon.status().is_some(), "the rest of the daemon runs");
    assert!(daemon.log().contains("the control loop does not come round"), "{}", daemon.log());

    ptrace::detach(governor, None).expect("let it run on");
    manager.wait_for("WATCHDOG=1");
}

/// A process of its own; killed when dropped.
struct Running(Child);

impl Running {
    fn start(command: &mut Command, manager: &Manager) -> Self {
        let command = command.envs(manager.environment()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().expect("start guidevane"))
    }

    fn terminate(&mut self) {
        let id = i32::try_from(self.0.id()).expect("a process's number");
        kill(Pid::from_raw(id), Signal::SIGTERM).expect("end it");
        assert!(self.0.wait().expect("wait for its end").success(), "it ends well");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already ended is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Ready, alive, and stopping when told to.
fn hear_out(mut running: Running, manager: &Manager, status: &str) {
    let ready = manager.wait_for("READY=1");
    assert!(ready.contains(status), "{ready}");
    manager.wait_for("WATCHDOG=1");
    manager.wait_for("WATCHDOG=1");
    running.terminate();
    manager.wait_for("STOPPING=1");
}

#[test]
#[ignore = "needs root: a network namespace and XDP"]
fn decap_is_a_service_as_well() {
    let namespace = Namespace::new("notices").expect("a namespace");
    let manager = Manager::new();
    let mut command = namespace.command(binary());
    command.args(["decap", "--interface", "lo", "--mode", "generic"]);
    hear_out(Running::start(&mut command, &manager), &manager, "STATUS=unpacking on lo in generic mode");
}

#[test]
fn the_agent_is_a_service_as_well() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pki = folder.path().join("pki");
    let enrolled = Command::new(binary())
        .args(["agent", "enroll", "--host", "127.0.0.1", "--backend", "gpu-0", "--dir"])
        .arg(&pki)
        .output()
        .expect("run guidevane");
    assert!(enrolled.status.success(), "{}", String::from_utf8_lossy(&enrolled.stderr));
    let said = String::from_utf8_lossy(&enrolled.stdout).into_owned();
    let file = |name: &str| {
        let line = said.lines().find(|line| line.ends_with(&format!("/{name}.pem")) && line.contains(" -> "));
        let line = line.unwrap_or_else(|| panic!("no {name} in {said}"));
        line.trim().split(" -> ").next().unwrap_or_default().to_owned()
    };
    let config = folder.path().join("agent.toml");
    let text = format!(
        "[agent]\nlisten = \"127.0.0.1:0\"\nca = \"{}\"\ncert = \"{}\"\nkey = \"{}\"\n[nvml]\ndiscover = false\n[[backend]]\n\
         name = \"gpu-0\"\n",
        file("ca"),
        file("cert"),
        file("key"),
    );
    std::fs::write(&config, text).expect("write the configuration");
    let manager = Manager::new();
    let mut command = Command::new(binary());
    command.arg("agent").arg("--config").arg(&config);
    hear_out(Running::start(&mut command, &manager), &manager, "STATUS=speaking for gpu-0 on 127.0.0.1:");
}

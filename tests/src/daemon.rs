//! The real `guidevane` daemon, run inside a namespace of a test bed.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use guidevane::api::{Client, HealthState, Snapshot};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::bed::Namespace;

/// Names the binary to run, where it does not lie beside the tests.
pub const BINARY_VARIABLE: &str = "GUIDEVANE_BIN";

/// Far above what a busy machine needs to start a daemon or to stop one, in an emulated guest as well.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running daemon; killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    folder: tempfile::TempDir,
}

/// The `guidevane` binary: beside the test's own, where `cargo build` puts it.
///
/// # Panics
/// It has not been built.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os(BINARY_VARIABLE) {
        return path.into();
    }
    let own = std::env::current_exe().expect("a process knows its own program");
    let found =
        own.ancestors().skip(1).take(2).map(|folder| folder.join("guidevane")).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("no guidevane beside {}: run `cargo build`", own.display()))
}

impl Daemon {
    /// Starts the daemon on a configuration; it has not loaded anything when this returns.
    ///
    /// # Panics
    /// The file cannot be written or the program not started.
    pub fn start(namespace: &Namespace, configuration: &str) -> Self {
        Self::start_with(namespace, configuration, &[])
    }

    /// Starts the daemon with more variables in its environment.
    ///
    /// # Panics
    /// As [`Daemon::start`].
    pub fn start_with(namespace: &Namespace, configuration: &str, environment: &[(&str, &Path)]) -> Self {
        Self::spawn(namespace, configuration, &[], environment)
    }

    /// Starts the daemon by another program, which is given the daemon's command line after its own.
    ///
    /// # Panics
    /// As [`Daemon::start`].
    pub fn start_under(namespace: &Namespace, configuration: &str, wrapper: &[String]) -> Self {
        Self::spawn(namespace, configuration, wrapper, &[])
    }

    fn spawn(
        namespace: &Namespace,
        configuration: &str,
        wrapper: &[String],
        environment: &[(&str, &Path)],
    ) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("guidevane.toml"), configuration).expect("write the configuration");
        let log = fs::File::create(folder.path().join("log")).expect("create the log");
        let child = Self::command(namespace, wrapper, folder.path())
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("start guidevane");
        Self { child, folder }
    }

    fn command(namespace: &Namespace, wrapper: &[String], folder: &Path) -> Command {
        let mut line = wrapper.iter().map(Into::into).chain([binary().into_os_string()]);
        let mut command = namespace.command(line.next().expect("the binary at least"));
        command.args(line);
        command.arg("run").arg("--config").arg(folder.join("guidevane.toml"));
        command.arg("--socket").arg(folder.join("socket"));
        command
    }

    /// The admin socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What the daemon has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// The state now, if the daemon answers.
    pub fn status(&self) -> Option<Snapshot> {
        Client::connect(&self.socket()).ok()?.status().ok()
    }

    /// How the daemon has ended, if it has.
    ///
    /// # Panics
    /// The system does not say.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("ask after the daemon")
    }

    /// Waits until it answers or ends, and tells which.
    ///
    /// # Panics
    /// It does neither.
    pub fn comes_up(&mut self) -> bool {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if self.ended().is_some() {
                return false;
            }
            if self.status().is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the daemon neither answers nor ends in {PATIENCE:?}:\n{}", self.log());
    }

    /// Waits until the state is as wanted, and gives it.
    ///
    /// # Panics
    /// It never is, or the daemon has ended.
    pub fn wait_for(&mut self, what: &str, wanted: impl Fn(&Snapshot) -> bool) -> Snapshot {
        let until = Instant::now() + PATIENCE;
        let mut last = None;
        while Instant::now() < until {
            if let Some(status) = self.ended() {
                panic!("the daemon ended with {status} before {what}:\n{}", self.log());
            }
            match self.status() {
                Some(snapshot) if wanted(&snapshot) => return snapshot,
                other => last = other.or(last),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("no {what} in {PATIENCE:?}; last seen: {last:#?}\n{}", self.log());
    }

    /// Waits until every backend is up and can be reached.
    ///
    /// # Panics
    /// As [`Daemon::wait_for`].
    pub fn wait_until_up(&mut self) -> Snapshot {
        self.wait_for("state with every backend up", |snapshot| {
            let mut backends = snapshot.vips.iter().flat_map(|vip| &vip.backends);
            backends.all(|backend| backend.health.state == HealthState::Up && backend.next_hop.is_some())
        })
    }

    /// Writes another configuration and has the daemon read it.
    ///
    /// # Panics
    /// The file cannot be written or the daemon not be signalled.
    pub fn reload(&self, configuration: &str) {
        fs::write(self.folder.path().join("guidevane.toml"), configuration).expect("write the configuration");
        self.signal(Signal::SIGHUP).expect("signal the daemon");
    }

    /// Ends the daemon as systemd would.
    ///
    /// # Panics
    /// It does not end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM).expect("signal the daemon");
        self.wait()
    }

    /// Waits for the daemon to end, and gives its status.
    ///
    /// # Panics
    /// It goes on running.
    pub fn wait(&mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Some(status) = self.ended() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the daemon is still running after {PATIENCE:?}:\n{}", self.log());
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let id = i32::try_from(self.child.id()).map_err(io::Error::other)?;
        kill(Pid::from_raw(id), signal).map_err(io::Error::from)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Already ended is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

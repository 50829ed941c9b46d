//! One network namespace, and code that runs inside it.
//!
//! A thread enters by `setns` and ends there; `ip netns exec` is never used because it mounts a new `/sys` and
//! so hides the bpffs.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::{
        fd::AsFd as _,
        unix::{fs::MetadataExt as _, process::CommandExt as _},
    },
    panic,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::Arc,
    thread,
};

use nix::{
    mount::{MntFlags, umount2},
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};

use super::{
    Background, BedError, Prefix,
    tools::{self, IP},
};

/// Where `ip netns` keeps named namespaces.
pub const FOLDER: &str = "/run/netns";

/// A network namespace that lives as long as this value.
///
/// Dropping it ends every process still inside; the interfaces go with it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    handle: Arc<File>,
}

impl Namespace {
    /// A namespace of its own, in no bed.
    ///
    /// # Errors
    /// See [`Namespace::in_bed`].
    pub fn new(role: &str) -> Result<Self, BedError> {
        Self::in_bed(&Prefix::new(), role)
    }

    /// A namespace named after the bed and its role, loopback up.
    ///
    /// # Errors
    /// The process is not root's, `ip` is missing or fails.
    pub fn in_bed(prefix: &Prefix, role: &str) -> Result<Self, BedError> {
        if !geteuid().is_root() {
            return Err(BedError::NotRoot);
        }
        let name = prefix.name(role);
        tools::run(Command::new(IP).args(["netns", "add", &name]))?;
        let path = path(&name);
        let handle = File::open(&path).map_err(|source| {
            remove(&name);
            BedError::Path { action: "open", path, source }
        })?;
        let namespace = Self { name, handle: Arc::new(handle) };
        tools::run(namespace.command(IP).args(["link", "set", "lo", "up"]))?;
        Ok(namespace)
    }

    /// The name that `ip netns` shows.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` on a thread of its own inside the namespace and returns its value.
    ///
    /// `/proc/net` there still shows the namespace of the process; read `/proc/thread-self/net`.
    ///
    /// # Panics
    /// When `work` does, with the same payload.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                enter(&self.handle);
                work()
            });
            inside.join().unwrap_or_else(|payload| panic::resume_unwind(payload))
        })
    }

    /// A command whose process is started inside the namespace.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let handle = Arc::clone(&self.handle);
        let mut command = Command::new(program);
        let enter = move || setns(handle.as_fd(), CloneFlags::CLONE_NEWNET).map_err(io::Error::from);
        // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// Runs a future inside the namespace, on a thread and a single-threaded runtime of its own.
    ///
    /// It is cancelled when the returned value is dropped.
    ///
    /// # Panics
    /// When the thread or its runtime cannot be made.
    pub fn spawn_runtime<Work, Running>(&self, work: Work) -> Background<Running::Output>
    where
        Work: FnOnce() -> Running + Send + 'static,
        Running: Future,
        Running::Output: Send + 'static,
    {
        let handle = Arc::clone(&self.handle);
        Background::spawn(&self.name, move || enter(&handle), work)
    }
}

/// Moves the calling thread; threads it starts later begin there.
fn enter(handle: &File) {
    setns(handle.as_fd(), CloneFlags::CLONE_NEWNET).expect("root may enter the namespaces it made");
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Ends the processes inside a named namespace and removes the name; the kernel removes the rest.
///
/// What is already gone is passed over: another process may be sweeping as well.
pub fn remove(name: &str) {
    let path = path(name);
    for process in processes_inside(&path) {
        let _gone = kill(process, Signal::SIGKILL);
    }
    let _not_mounted = umount2(&path, MntFlags::MNT_DETACH);
    let _gone = fs::remove_file(&path);
}

fn path(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

/// All other processes whose main thread is in the namespace.
fn processes_inside(namespace: &Path) -> Vec<Pid> {
    let identity = |path: &Path| fs::metadata(path).ok().map(|data| (data.dev(), data.ino()));
    let Some(wanted) = identity(namespace) else { return Vec::new() };
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let processes = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let own = process::id().cast_signed();
    let inside =
        |pid: &i32| identity(&Path::new("/proc").join(pid.to_string()).join("ns/net")) == Some(wanted);
    processes.filter(|pid| *pid != own).filter(inside).map(Pid::from_raw).collect()
}

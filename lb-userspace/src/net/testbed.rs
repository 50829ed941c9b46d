//! Two network namespaces joined by a veth pair, for tests against the real kernel.
//!
//! A namespace lives as long as its file is open: nothing is left behind, whatever happens.

use std::{
    fs::File,
    os::fd::AsRawFd as _,
    panic::resume_unwind,
    process::{self, Command},
    thread,
};

use nix::sched::{CloneFlags, setns, unshare};
use tokio::runtime;

use super::Mac;

pub(crate) struct Namespace {
    file: File,
}

impl Namespace {
    fn new() -> Self {
        let entered = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of its own, which takes root");
            File::open("/proc/thread-self/ns/net").expect("the namespace's file")
        });
        let namespace = Self { file: entered.join().expect("a network namespace") };
        namespace.ip("link set lo up");
        namespace
    }

    /// Runs `job` on a thread inside the namespace and hands on its result, or its panic.
    pub(crate) fn run<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET).expect("enter the network namespace");
                job()
            });
            worker.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Runs a future on a runtime of one thread inside the namespace.
    pub(crate) fn block_on<T: Send>(&self, future: impl Future<Output = T> + Send) -> T {
        self.run(|| {
            let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(future)
        })
    }

    /// Runs `ip` with these arguments and returns what it prints.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        let output = self.run(|| Command::new("ip").args(arguments.split_whitespace()).output());
        let output = output.expect("run ip (package iproute2)");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ip {arguments}: {complaint}");
        String::from_utf8(output.stdout).expect("ip prints UTF-8")
    }
}

/// `host` has `near` (10.77.0.1, fd77::1), `peer` has `far` (10.77.0.2, fd77::2).
pub(crate) struct Pair {
    pub host: Namespace,
    pub peer: Namespace,
}

impl Pair {
    pub(crate) const NEAR_MAC: Mac = [2, 0, 0, 0x77, 0, 1];
    pub(crate) const FAR_MAC: Mac = [2, 0, 0, 0x77, 0, 2];

    pub(crate) fn new() -> Self {
        let (host, peer) = (Namespace::new(), Namespace::new());
        let peer_file = format!("/proc/{}/fd/{}", process::id(), peer.file.as_raw_fd());
        host.ip("link add name near address 02:00:00:77:00:01 type veth
             peer name far address 02:00:00:77:00:02");
        host.ip(&format!("link set far netns {peer_file}"));
        for (namespace, link, number) in [(&host, "near", 1), (&peer, "far", 2)] {
            namespace.ip(&format!("address add 10.77.0.{number}/24 dev {link}"));
            namespace.ip(&format!("address add fd77::{number}/64 dev {link} nodad"));
            namespace.ip(&format!("link set {link} up"));
        }
        Self { host, peer }
    }
}

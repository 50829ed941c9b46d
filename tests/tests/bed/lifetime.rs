//! What runs inside a namespace ends with it, and nothing of a bed outlives its owner.

use std::{
    env, fs,
    io::{BufRead as _, BufReader, ErrorKind},
    net::TcpStream,
    panic::{self, AssertUnwindSafe},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use guidevane_tests::bed::{Background, Namespace, Topology, sweep};

use crate::{PATIENCE, PORT};

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_daemon_started_inside_is_ended_with_its_namespace() {
    let namespace = Namespace::new("daemon").expect("a namespace");
    let mut daemon =
        namespace.command("sleep").arg("1000").stdout(Stdio::null()).spawn().expect("the daemon starts");
    let inside = fs::read_link(format!("/proc/{}/ns/net", daemon.id())).expect("its namespace");
    assert_eq!(inside, namespace.run(|| fs::read_link("/proc/thread-self/ns/net")).expect("ours"));
    assert_ne!(inside, fs::read_link("/proc/self/ns/net").expect("the machine's"));
    drop(namespace);
    let status = daemon.wait().expect("the daemon has ended");
    assert!(!status.success(), "it was ended by a signal, not by itself");
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_runtime_inside_serves_until_its_handle_is_dropped() {
    let namespace = Namespace::new("runtime").expect("a namespace");
    let (ready, is_ready) = mpsc::channel();
    let serving = namespace.spawn_runtime(move || async move {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", PORT)).await.expect("it listens");
        ready.send(()).expect("the test waits");
        loop {
            listener.accept().await.expect("a client connects");
        }
    });
    is_ready.recv_timeout(PATIENCE).expect("the server comes up");
    let connect = || namespace.run(|| TcpStream::connect(("127.0.0.1", PORT)));
    connect().expect("the server accepts");
    drop::<Background<()>>(serving);
    assert_eq!(connect().expect_err("the server is gone").kind(), ErrorKind::ConnectionRefused);
}

/// Names in a folder that begin with the mark of this bed.
fn names(folder: &Path, prefix: &str) -> Vec<String> {
    let entries =
        fs::read_dir(folder).map(|entries| entries.flatten().collect()).unwrap_or_else(|_| Vec::new());
    let names = entries.iter().map(|entry: &fs::DirEntry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(prefix)).collect()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn nothing_is_left_behind_even_after_a_panic_inside() {
    let links_before = own_links();
    let mut prefix = String::new();
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
        let bed = Topology::two_arm(2).expect("a bed");
        let name = bed.client.namespace.name();
        prefix = name.strip_suffix("client").expect("a name ends with its role").to_owned();
        assert_eq!(names(Path::new("/run/netns"), &prefix).len(), 5);
        assert!(mounts().contains(&prefix));
        bed.servers[0].namespace.run(|| panic!("inside the namespace"));
    }));
    let payload = outcome.expect_err("the panic crosses the namespace");
    assert_eq!(payload.downcast_ref(), Some(&"inside the namespace"));
    assert!(prefix.starts_with("gv"), "the bed was up: {prefix}");
    assert_eq!(names(Path::new("/run/netns"), &prefix), [""; 0]);
    assert_eq!(names(Path::new("/run"), &prefix), [""; 0]);
    assert!(!mounts().contains(&prefix));
    assert_eq!(own_links(), links_before, "a link of the bed has got out");
}

/// Those links of the machine that are named as links of a bed are.
fn own_links() -> Vec<String> {
    let bed = ["back", "balancer", "bridge", "client", "eth0", "front", "server-"];
    bed.iter().flat_map(|name| names(Path::new("/sys/class/net"), name)).collect()
}

fn mounts() -> String {
    fs::read_to_string("/proc/self/mounts").expect("the mounts")
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn what_a_killed_process_left_is_swept() {
    const CHILD: &str = "GUIDEVANE_BED_CHILD";
    if env::var_os(CHILD).is_some() {
        let _bed = Topology::one_arm(1).expect("a bed");
        println!("ready");
        thread::sleep(Duration::from_secs(1000));
    }
    let own = env::current_exe().expect("this test's program");
    let mut child = Command::new(own)
        .args(["--exact", "lifetime::what_a_killed_process_left_is_swept", "--ignored", "--nocapture"])
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .spawn()
        .expect("the child starts");
    let prefix = format!("gv{}-", child.id());
    let mut output = BufReader::new(child.stdout.take().expect("its output"));
    let mut line = String::new();
    while !line.contains("ready") {
        line.clear();
        let read = output.read_line(&mut line).expect("its output");
        assert!(read > 0, "the child ended before its bed was up");
    }
    child.kill().expect("the child is killed");
    child.wait().expect("the child has ended");
    assert_eq!(names(Path::new("/run/netns"), &prefix).len(), 4, "a killed process cannot clean up");
    sweep();
    assert_eq!(names(Path::new("/run/netns"), &prefix), [""; 0]);
    assert_eq!(names(Path::new("/run"), &prefix), [""; 0]);
    assert!(!mounts().contains(&prefix));
}

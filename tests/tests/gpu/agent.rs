//! What an agent reads of GPUs, at a balancer elsewhere.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{self, Child, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use guidevane::{
    agent::{
        enroll::{Enrolled, Subject, enroll},
        subscriber::{Terms, subscribe},
    },
    config::Identity,
    signals::{Board, Fault, Hardware, Key},
};
use guidevane_tests::{
    daemon::binary,
    nvml::{Event, Process, Standin},
};

/// Far above the second between two passes, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A process that is nobody's on this host.
const STRANGER: u32 = u32::MAX - 1;

fn identity(room: &Path, subject: &Subject) -> Identity {
    let Enrolled { ca, made, .. } = enroll(room, subject, 1, false).expect("enrol");
    Identity { ca, cert: made.cert, key: made.key }
}

/// `guidevane agent`, killed when dropped.
struct Agent {
    child: Child,
    address: SocketAddr,
}

impl Agent {
    /// The rest of the configuration is `text`.
    fn start(room: &Path, backends: &[&str], text: &str) -> Self {
        let backends = backends.iter().map(|&name| name.to_owned()).collect();
        let subject = Subject::Agent { hosts: vec!["127.0.0.1".to_owned()], backends };
        let Identity { ca, cert, key } = identity(room, &subject);
        let (file, log) = (room.join("agent.toml"), room.join("log"));
        let head =
            format!("[agent]\nlisten = \"127.0.0.1:0\"\nca = {ca:?}\ncert = {cert:?}\nkey = {key:?}\n");
        fs::write(&file, head + text).expect("write the configuration");
        let child = process::Command::new(binary())
            .args(["agent", "--config"])
            .arg(file)
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("create the log"))
            .spawn()
            .expect("start the agent");
        let until = Instant::now() + PATIENCE;
        let address = loop {
            let log = fs::read_to_string(&log).expect("read the log");
            let ready = log.lines().find(|line| line.contains("speaking for"));
            if let Some(address) = ready.and_then(|line| line.rsplit(' ').next()) {
                break address.parse().expect("an address at the end of the line");
            }
            assert!(Instant::now() < until, "the agent did not start:\n{log}");
            std::thread::sleep(Duration::from_millis(10));
        };
        Self { child, address }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn until(board: &Board, name: &str, what: &str, wanted: impl Fn(&Hardware) -> bool) -> Hardware {
    let mut place = board.subscribe(name).expect("a place");
    let found = place.wait_for(|hardware| hardware.as_ref().is_some_and(&wanted));
    let found =
        tokio::time::timeout(PATIENCE, found).await.map(|found| found.expect("the board stands").clone());
    let last = board.subscribe(name).expect("a place").borrow().clone();
    found.ok().flatten().unwrap_or_else(|| panic!("{what}: it stays {last:?}"))
}

#[tokio::test]
async fn throttling_strangers_and_faults_are_heard_of_from_elsewhere() {
    let room = tempfile::tempdir().expect("a temporary folder");
    let balancer = identity(room.path(), &Subject::Balancer);
    // It is found by its process, which listens where its metrics are.
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind loopback");
    let here = listener.local_addr().expect("bound");
    let mut standin = Standin::with_servers(&[process::id(), process::id()]);
    standin.change(|script| script.gpus[1].processes.clear());
    let text = format!(
        "[nvml]\nlibrary = {:?}\ninterval = \"20ms\"\n\
         [[backend]]\nname = \"found\"\nmetrics = \"http://{here}/metrics\"\n\
         [[backend]]\nname = \"named\"\ngpus = [1]\n\
         [[backend]]\nname = \"none\"\ngpus = []\n",
        standin.library()
    );
    let names = ["found", "named", "none"];
    let agent = Agent::start(room.path(), &names, &text);
    let board = Arc::new(Board::default());
    let terms =
        Terms { tls: Some(balancer.client().expect("certificates")), interval: Duration::from_millis(5) };
    let scrapes: Vec<_> = names
        .iter()
        .map(|&name| {
            let key = Key::from(name);
            board.enter(&key);
            let url = format!("https://{}", agent.address).parse().expect("a url");
            subscribe(key, url, terms.clone(), Some(Arc::clone(&board)))
        })
        .collect();

    let calm = until(&board, "found", "its GPU", |h| h.foreign.is_some() && h.utilization.is_some()).await;
    assert_eq!((calm.speed, calm.foreign, calm.fault), (Some(1.0), Some(0.0), None));
    assert!(calm.taken_start <= calm.taken_end && calm.taken_end <= Instant::now());
    standin.change(|script| {
        script.gpus[0].processes.push(Process { pid: STRANGER, time: 60 });
        (script.gpus[1].clock, script.gpus[1].reasons) = (495, 0x20);
    });
    until(&board, "found", "work of others", |h| h.foreign == Some(0.6)).await;
    until(&board, "named", "a thermal slowdown", |h| h.speed == Some(0.25)).await;
    standin.change(|script| script.gpus[1].events.push(Event::Xid(79)));
    until(&board, "named", "xid 79", |h| h.fault == Some(Fault::Xid(79))).await;
    let faults: Vec<Key> = board.faults().borrow().keys().cloned().collect();
    assert_eq!(faults, [Key::from("named")]);
    assert_eq!(*board.subscribe("none").expect("a place").borrow(), None);
    assert!(scrapes.iter().all(|scrape| scrape.borrow().successes > 0), "all are reported on");
}

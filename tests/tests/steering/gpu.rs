//! GPUs move traffic: a stand-in for the driver, the real daemon, real connections.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use guidevane::api::{Backend, Client, HealthState, Snapshot};
use guidevane_tests::{
    bed::{Background, Host, Topology},
    daemon::Daemon,
    load::{
        client::Direct,
        lengths::Lengths,
        run::{LoadOptions, run},
        stats::{Live, Report},
        traffic::{Sizes, Traffic},
    },
    nvml::{Event, Process, Standin},
};

use crate::support::{Mode, PORT, Plan};

const SERVERS: usize = 8;

/// A process that is nobody's on this host.
const STRANGER: u32 = u32::MAX - 1;

/// Far above what the issue asks for, on a machine that others use too.
const PATIENCE: Duration = Duration::from_secs(60);

/// Requests a second: 0.6 of what the servers can do, of 43 ms each.
const RATE: f64 = 110.0;
const PROMPT: Lengths = Lengths::Fixed(2048);

/// Shares are counted over this time.
const WINDOW: Duration = Duration::from_secs(1);

/// A server in a process of its own: it has a process id that is not the others'.
struct Server(Child);

impl Server {
    fn start(bed: &Topology, number: usize) -> Self {
        let mut command: Command = bed.servers[number].namespace.command(env!("CARGO_BIN_EXE_sim-server"));
        command.args(["--listen", &format!("[::]:{PORT}"), "--close"]).stdout(Stdio::null());
        Self(command.spawn().expect("start a simulated server"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already ended is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A configuration of an IPv4 VIP over all servers, each of which has the GPU of its number.
fn configuration(bed: &Topology, standin: &Standin, policy: &str) -> String {
    let mut plan = Plan { policy, ..Plan::new(bed, Mode::L2) };
    (plan.vips, plan.metrics) = (vec![IpAddr::V4(bed.vip.v4)], false);
    let mut text = plan.toml();
    for number in 0..bed.servers.len() {
        let name = format!("name = \"v4-{number}\"\n");
        text = text.replace(&name, &format!("{name}gpus = [{number}]\n"));
    }
    format!("[nvml]\nlibrary = \"{}\"\n{text}", standin.library().display())
}

fn load(bed: &Topology) -> Background<Report> {
    let url = format!("http://{}/v1/completions", SocketAddr::new(bed.vip.v4.into(), PORT));
    let mut options = LoadOptions::new(url, Traffic::Poisson { rate: RATE });
    // A single token: nothing streams, so that no slowness is measured and the GPUs alone have a say.
    options.sizes = Sizes { prompt: PROMPT, output: Lengths::Fixed(1), seed: 4 };
    options.duration = Some(PATIENCE * 10);
    bed.client.namespace.spawn_runtime(move || async move {
        run(options, Direct::default(), Live::default()).await.expect("the options are sound")
    })
}

fn backends(snapshot: &Snapshot) -> &[Backend] {
    &snapshot.vips[0].backends
}

/// Requests by backend in the last [`WINDOW`].
#[derive(Default)]
struct Shares(VecDeque<(Instant, Vec<u64>)>);

impl Shares {
    /// The part of all requests that the first two backends got; none before a whole window has passed.
    fn of_two(&mut self, snapshot: &Snapshot) -> Option<f64> {
        let now = Instant::now();
        let counts: Vec<u64> = backends(snapshot).iter().map(|backend| backend.requests).collect();
        while self.0.get(1).is_some_and(|(at, _)| now - *at >= WINDOW) {
            self.0.pop_front();
        }
        let (at, before) = self.0.front().cloned().unwrap_or((now, counts.clone()));
        self.0.push_back((now, counts.clone()));
        let got: Vec<u64> = counts.iter().zip(&before).map(|(now, before)| now - before).collect();
        let total: u64 = got.iter().sum();
        (now - at >= WINDOW && total > 0).then(|| (got[0] + got[1]) as f64 / total as f64)
    }
}

/// Waits until the cost of the first two backends and their share of new flows are as wanted, and prints how long each
/// took.
fn until(daemon: &Daemon, what: &str, cost: impl Fn(f64) -> bool, share: impl Fn(f64) -> bool) {
    let begun = Instant::now();
    let (mut shares, mut costs_at) = (Shares::default(), None);
    let mut last = None;
    while begun.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(20));
        let Some(snapshot) = daemon.status() else { continue };
        let costs: Vec<f64> = backends(&snapshot)[..2].iter().map(|backend| backend.cost).collect();
        if costs.iter().all(|value| cost(*value)) {
            costs_at.get_or_insert(begun.elapsed());
        }
        let part = shares.of_two(&snapshot);
        if let (Some(at), Some(part)) = (costs_at, part.filter(|part| share(*part))) {
            println!(
                "{what}: cost {costs:.2?} after {at:.2?}, share {part:.3} after {:.2?}",
                begun.elapsed()
            );
            return;
        }
        last = Some((costs, part, backends(&snapshot)[0].gpu.clone()));
    }
    panic!("{what}: costs, share and GPU stay {last:?}\n{}", daemon.log());
}

#[test]
#[ignore = "needs root: network namespaces and XDP"]
fn work_of_others_and_throttling_lower_a_backends_share_and_it_comes_back() {
    let bed = Topology::one_arm(SERVERS).expect("make the test bed");
    let servers: Vec<Server> = (0..SERVERS).map(|number| Server::start(&bed, number)).collect();
    let pids: Vec<u32> = servers.iter().map(|server| server.0.id()).collect();
    let mut standin = Standin::with_servers(&pids);
    let mut daemon = Daemon::start(&bed.balancer.namespace, &configuration(&bed, &standin, "least"));
    daemon.wait_until_up();
    daemon.wait_for("a reading of every GPU", |snapshot| {
        let calm = |backend: &Backend| backend.gpu.as_ref().is_some_and(|gpu| gpu.foreign == Some(0.0));
        backends(snapshot).iter().all(calm)
    });
    let _load = load(&bed);
    // Two of eight: a quarter.
    let fair = |share: f64| share > 0.2;
    let nominal = |cost: f64| cost < 1.05;
    until(&daemon, "before", nominal, fair);

    standin.change(|script| {
        script.gpus[..2].iter_mut().for_each(|gpu| gpu.processes.push(Process { pid: STRANGER, time: 60 }));
    });
    until(&daemon, "others take 60 %", |cost| (2.35..2.6).contains(&cost), |share| share < 0.25 * 0.7);
    standin.change(|script| script.gpus[..2].iter_mut().for_each(|gpu| gpu.processes.truncate(1)));
    until(&daemon, "they leave", nominal, fair);

    standin.change(|script| {
        script.gpus[..2].iter_mut().for_each(|gpu| (gpu.clock, gpu.reasons) = (495, 0x20));
    });
    until(&daemon, "a quarter of the clock", |cost| (3.75..4.1).contains(&cost), |share| share < 0.25 * 0.6);
    standin.change(|script| {
        script.gpus[..2].iter_mut().for_each(|gpu| (gpu.clock, gpu.reasons) = (1980, 0x4));
    });
    until(&daemon, "it is cool again", nominal, fair);

    let snapshot = daemon.status().expect("the daemon runs");
    let nvml = snapshot.daemon.nvml.expect("GPUs are read");
    println!("{} calls of the driver took {:.1} ms", nvml.calls, nvml.spent_seconds * 1000.0);
    assert_eq!(nvml.problem, None, "{}", daemon.log());
}

/// When each server took connections of the client.
type Accepts = Arc<Mutex<HashMap<usize, Vec<Instant>>>>;

/// Connections to the VIP one after the other, taken by plain listeners on the servers.
struct Connections {
    stop: Arc<AtomicBool>,
    accepts: Accepts,
    threads: Vec<JoinHandle<()>>,
}

impl Connections {
    /// Rest of the client between two, and of a server that has none to take.
    const REST: Duration = Duration::from_micros(300);

    fn start(bed: &Topology) -> Self {
        let (stop, accepts) = (Arc::new(AtomicBool::new(false)), Accepts::default());
        // Probes come from elsewhere.
        let client = IpAddr::V4(bed.client.address().v4);
        let serve = |(number, server): (usize, &Host)| {
            let listener = server.namespace.run(|| TcpListener::bind(("0.0.0.0", PORT)).expect("listen"));
            listener.set_nonblocking(true).expect("a socket of this test");
            let (stop, accepts) = (Arc::clone(&stop), Arc::clone(&accepts));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    match listener.accept() {
                        Ok((_, from)) if from.ip() == client => {
                            accepts.lock().expect("no panic").entry(number).or_default().push(Instant::now());
                        }
                        _ => std::thread::sleep(Self::REST),
                    }
                }
            })
        };
        let threads = bed.servers.iter().enumerate().map(serve).collect();
        Self { stop, accepts, threads }
    }

    /// Connects from the client's namespace while `work` is done.
    fn during<T>(bed: &Topology, work: impl FnOnce() -> T) -> T {
        let vip = SocketAddr::new(bed.vip.v4.into(), PORT);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                bed.client.namespace.run(|| {
                    while !done.load(Ordering::Relaxed) {
                        drop(TcpStream::connect_timeout(&vip, PATIENCE));
                        std::thread::sleep(Self::REST);
                    }
                });
            });
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            done.store(true, Ordering::Relaxed);
            result.unwrap_or_else(|payload| std::panic::resume_unwind(payload))
        })
    }

    /// Waits until a server has taken `count` more connections since a moment.
    fn wait_for(&self, server: usize, count: usize, since: Instant) {
        let taken = || {
            let accepts = self.accepts.lock().expect("no panic");
            accepts.get(&server).into_iter().flatten().filter(|at| **at > since).count()
        };
        let begun = Instant::now();
        while taken() < count {
            assert!(begun.elapsed() < PATIENCE, "server {server} took {} connections of {count}", taken());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn last(&self, server: usize) -> Option<Instant> {
        self.accepts.lock().expect("no panic").get(&server).and_then(|times| times.last().copied())
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().expect("no panic"));
    }
}

#[test]
#[ignore = "needs root: network namespaces and XDP"]
fn a_fault_of_a_gpu_ends_new_flows_at_once_and_a_resume_brings_them_back() {
    const ROUNDS: usize = 20;
    /// Connections that are waited for before the fault and after it.
    const ENOUGH: usize = 20;
    let bed = Topology::one_arm(2).expect("make the test bed");
    let mut standin = Standin::with_servers(&[1, 2]);
    let connections = Connections::start(&bed);
    // In turn: every other connection goes to the faulty one until the fault is known.
    let mut daemon = Daemon::start(&bed.balancer.namespace, &configuration(&bed, &standin, "round-robin"));
    daemon.wait_until_up();
    daemon.wait_for("a reading of every GPU", |snapshot| {
        backends(snapshot).iter().all(|backend| backend.gpu.as_ref().is_some_and(|gpu| gpu.speed.is_some()))
    });
    let mut reactions = Vec::new();
    for round in 0..ROUNDS {
        let raised = Connections::during(&bed, || {
            connections.wait_for(0, ENOUGH, Instant::now());
            let raised = Instant::now();
            standin.change(|script| script.gpus[0].events.push(Event::Xid(79)));
            daemon.wait_for("fault that is known", |snapshot| {
                backends(snapshot)[0].health.state == HealthState::Down
            });
            connections.wait_for(1, ENOUGH, Instant::now());
            raised
        });
        let snapshot = daemon.status().expect("the daemon runs");
        let [faulty, good] = backends(&snapshot) else { panic!("two backends: {snapshot:#?}") };
        assert_eq!(faulty.health.reason.as_deref(), Some("xid 79"), "round {round}");
        assert_eq!(faulty.gpu.as_ref().and_then(|gpu| gpu.fault.as_deref()), Some("xid 79"), "round {round}");
        assert_eq!(good.health.state, HealthState::Up, "round {round}");
        let last = connections.last(0).expect("it took connections before");
        reactions.push(last.saturating_duration_since(raised));
        Client::connect(&daemon.socket()).expect("reach the daemon").resume("v4-0").expect("resume it");
        daemon.wait_until_up();
    }
    reactions.sort_unstable();
    println!("from the event to the last new flow, zero where none came after it: {reactions:.2?}");
    assert!(reactions[ROUNDS / 2] < Duration::from_secs(1), "{reactions:?}");
}

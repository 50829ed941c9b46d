//! The threads: what comes to the board, and when.

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process,
    sync::Arc,
    time::{Duration, Instant},
};

use guidevane::{
    config::GpuId,
    gpu::{Gpus, Options, Target},
    signals::{Board, Fault, Hardware, Key},
};
use guidevane_tests::nvml::{Event, Gpu, Instance, Process, Script, Standin};

/// Far above the second between two passes, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A process that is nobody's on this host.
const STRANGER: u32 = u32::MAX - 1;

struct Watch {
    gpus: Gpus,
    board: Arc<Board>,
}

impl Watch {
    fn start(library: PathBuf, targets: Vec<Target>) -> Self {
        let board = Arc::new(Board::default());
        targets.iter().for_each(|target| board.enter(&target.key));
        let options = Options { library, interval: Duration::from_millis(20) };
        let gpus = Gpus::new(options, Arc::clone(&board));
        gpus.set_targets(targets).expect("start threads");
        Self { gpus, board }
    }

    fn hardware(&self, name: &str) -> Option<Hardware> {
        self.board.subscribe(name).expect("a place").borrow().clone()
    }

    /// Waits for a reading, and says how long it took.
    fn until(&self, name: &str, what: &str, wanted: impl Fn(&Hardware) -> bool) -> Hardware {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some(hardware) = self.hardware(name).filter(&wanted) {
                println!("{what}: {:?}", begun.elapsed());
                return hardware;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        panic!("{what}: it stays {:?}; {:?}", self.hardware(name), self.gpus.standing());
    }
}

fn target(name: &str, address: SocketAddr, gpus: Option<Vec<GpuId>>) -> Target {
    Target { key: Key::from(name), addresses: vec![address], gpus }
}

/// A server of this very process.
fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind loopback");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

fn nowhere() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 8000))
}

#[test]
fn readings_follow_the_driver() {
    let (_listener, address) = listener();
    let mut standin = Standin::with_servers(&[process::id(), process::id()]);
    let targets = vec![
        target("first", address, Some(vec![GpuId::Index(0)])),
        target("second", address, Some(vec![GpuId::Uuid(standin.uuid(1))])),
        target("far", nowhere(), Some(vec![GpuId::Index(0)])),
    ];
    let watch = Watch::start(standin.library(), targets);
    let calm = watch.until("first", "the first reading", |h| h.foreign.is_some() && h.utilization.is_some());
    assert_eq!((calm.speed, calm.foreign, calm.fault), (Some(1.0), Some(0.0), None));
    assert_eq!((calm.utilization, calm.memory), (Some(0.4), Some(1000.0 / 80_000.0)));
    assert!(calm.taken_start <= calm.taken_end);
    watch.until("far", "a server that is elsewhere", |h| h.speed.is_some());
    assert_eq!(watch.hardware("far").and_then(|h| h.foreign), None, "whose are its processes?");

    standin.change(|script| script.gpus[0].processes.push(Process { pid: STRANGER, time: 60 }));
    watch.until("first", "work of others", |h| h.foreign == Some(0.6));
    standin.change(|script| {
        (script.gpus[1].clock, script.gpus[1].reasons) = (495, 0x20);
        script.gpus[0].processes.truncate(1);
    });
    watch.until("second", "a thermal slowdown", |h| h.speed == Some(0.25));
    watch.until("first", "the others leave", |h| h.foreign == Some(0.0));
    assert_eq!(watch.hardware("first").and_then(|h| h.speed), Some(1.0));
    standin.change(|script| {
        (script.gpus[0].clock, script.gpus[0].reasons) = (990, 0x40);
        script.gpus[0].events.push(Event::Clocks);
    });
    watch.until("first", "clocks that the driver tells have changed", |h| h.speed == Some(0.5));
    let standing = watch.gpus.standing().expect("it runs");
    assert_eq!((standing.driver.as_deref(), &standing.problem), (Some("580.95.05"), &None));
    assert!(standing.calls > 50 && standing.spent > Duration::ZERO, "{standing:?}");
}

#[test]
fn a_fault_is_told_at_once_and_kept_until_it_is_forgiven() {
    let mut standin = Standin::with_servers(&[1, 2]);
    let targets = (0..2).map(|index| target(&format!("{index}"), nowhere(), Some(vec![GpuId::Index(index)])));
    let watch = Watch::start(standin.library(), targets.collect());
    for name in ["0", "1"] {
        watch.until(name, "a first reading", |h| h.speed.is_some());
    }
    standin.change(|script| script.gpus[0].events.extend([Event::Xid(31), Event::Xid(79)]));
    watch.until("0", "xid 79", |h| h.fault == Some(Fault::Xid(79)));
    standin.change(|script| script.gpus[1].events.push(Event::Ecc));
    watch.until("1", "a memory error", |h| h.fault == Some(Fault::Ecc));
    watch.gpus.forgive("1");
    assert_eq!(watch.hardware("1").and_then(|h| h.fault), None);
    assert_eq!(watch.board.faults().borrow().keys().map(|key| &**key).collect::<Vec<_>>(), ["0"]);
    standin.change(|script| script.gpus[1].ecc += 1);
    watch.until("1", "a count of errors that grows", |h| h.fault == Some(Fault::Ecc));
}

#[test]
fn a_gpu_that_falls_off_the_bus_is_lost_until_it_is_back() {
    let mut standin = Standin::with_servers(&[1, 2]);
    let targets = (0..2).map(|index| target(&format!("{index}"), nowhere(), Some(vec![GpuId::Index(index)])));
    let watch = Watch::start(standin.library(), targets.collect());
    for name in ["0", "1"] {
        watch.until(name, "a first reading", |h| h.utilization.is_some());
    }
    standin.change(|script| script.gpus[0].lost = true);
    watch.until("0", "off the bus", |h| h.fault == Some(Fault::Lost));
    // The other one is still told of.
    standin.change(|script| script.gpus[1].utilization = 77);
    let other = watch.until("1", "the other GPU", |h| h.utilization == Some(0.77));
    assert_eq!(other.fault, None);
    // While the set of GPUs whose events are told is made anew, one may be missed.
    let until = Instant::now() + PATIENCE;
    while watch.hardware("1").and_then(|h| h.fault) != Some(Fault::Xid(48)) {
        assert!(Instant::now() < until, "no event of the other is told");
        standin.change(|script| script.gpus[1].events.push(Event::Xid(48)));
        std::thread::sleep(Duration::from_millis(100));
    }
    standin.change(|script| script.gpus[0].lost = false);
    watch.until("0", "back", |h| h.fault.is_none() && h.speed.is_some());
}

#[test]
fn gpus_are_found_by_the_process_that_listens() {
    let (_listener, address) = listener();
    let instance = Instance {
        uuid: "MIG-8d9f4c6e-3a51-4b7c-9e0d-2f6a1b3c5d7e".to_owned(),
        gpu_instance: 3,
        memory_used: 1,
        memory_total: 4,
        gpm: Some(20),
        processes: Vec::new(),
    };
    let mut standin = Standin::new(Script {
        gpus: vec![Gpu::default(), Gpu { instances: vec![instance], ..Gpu::default() }],
        ..Script::default()
    });
    let targets = vec![target("here", address, None), target("far", nowhere(), None)];
    let watch = Watch::start(standin.library(), targets);
    let own = Process { pid: process::id(), time: 30 };
    standin.change(|script| {
        (script.gpus[0].clock, script.gpus[0].reasons) = (990, 0x8);
        script.gpus[0].processes = vec![own, Process { pid: STRANGER, time: 50 }];
    });
    let found = watch.until("here", "its GPU", |h| h.foreign.is_some());
    assert_eq!((found.speed, found.foreign), (Some(0.5), Some(0.5)));
    assert_eq!(watch.hardware("far"), None);
    // It starts anew on an instance of the other.
    standin.change(|script| {
        script.gpus[0].processes.clear();
        script.gpus[1].instances[0].processes = vec![own];
    });
    let moved = watch.until("here", "its instance", |h| h.memory == Some(0.25) && h.utilization.is_some());
    assert_eq!((moved.speed, moved.utilization, moved.foreign), (Some(1.0), Some(0.2), None));
}

#[test]
fn a_driver_that_is_slow_is_asked_for_no_longer_than_the_budget() {
    let standin = Standin::new(Script {
        gpus: vec![Gpu::default(); 4],
        // No whole pass fits 50 ms.
        delay_us: 2000,
        ..Script::default()
    });
    let gpus = (0..4).map(GpuId::Index).collect();
    let watch = Watch::start(standin.library(), vec![target("slow", nowhere(), Some(gpus))]);
    watch.until("slow", "a reading in parts", |h| h.speed.is_some() && h.memory.is_some());
    let until = Instant::now() + PATIENCE;
    while watch.gpus.standing().is_none_or(|standing| standing.overruns == 0) {
        assert!(Instant::now() < until, "no pass was cut short: {:?}", watch.gpus.standing());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_host_without_a_driver_is_no_trouble() {
    let watch = Watch::start(
        "/nowhere/libnvidia-ml.so".into(),
        vec![target("alone", nowhere(), Some(vec![GpuId::Index(0)]))],
    );
    let until = Instant::now() + PATIENCE;
    let problem = loop {
        match watch.gpus.standing().and_then(|standing| standing.problem) {
            Some(problem) => break problem,
            None => assert!(Instant::now() < until, "nothing is said"),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(problem.starts_with("no NVIDIA driver: "), "{problem}");
    assert_eq!(watch.hardware("alone"), None);
}

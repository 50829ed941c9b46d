use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Follow, State, Target};
use crate::{
    config::GpuId,
    gpu::driver::{Answer, DriverError, Event, Instance, Listing, Question, Unit},
    gpu::readings::{Clocks, Process, ProcessTime},
    signals::{Board, Fault, Hardware, Key},
};

fn gpu(index: u32) -> Unit {
    Unit { uuid: format!("GPU-{index}"), index, name: "H100".to_owned(), instance: None }
}

fn instance(parent: u32, number: u32) -> Unit {
    let instance = Instance { parent: format!("GPU-{parent}"), number, gpu_instance: Some(number) };
    Unit {
        uuid: format!("MIG-{parent}-{number}"),
        index: parent,
        name: "1g".to_owned(),
        instance: Some(instance),
    }
}

fn target(name: &str, gpus: Option<Vec<GpuId>>) -> Target {
    Target { key: Key::from(name), addresses: vec!["10.0.0.1:8000".parse().expect("an address")], gpus }
}

struct Bench {
    state: State,
    board: Arc<Board>,
    now: Instant,
}

impl Bench {
    fn new(units: Vec<Unit>, targets: Vec<Target>) -> Self {
        let board = Arc::new(Board::default());
        targets.iter().for_each(|target| board.enter(&target.key));
        let (mut state, now) = (State::default(), Instant::now());
        state.set_targets(targets);
        state.list(Listing { units, silent: Vec::new() }, now);
        Self { state, board, now }
    }

    fn answer(&mut self, uuid: &str, question: Question, answer: Result<Answer, DriverError>) {
        self.state.note(&(uuid.to_owned(), question), answer, self.now, self.now);
    }

    fn processes(&mut self, uuid: &str, pids: &[u32]) {
        let list = pids.iter().map(|pid| Process { pid: *pid, memory_bytes: None }).collect();
        self.answer(uuid, Question::Processes, Ok(Answer::Processes(list)));
    }

    fn owners(&mut self, owners: &[(&str, &[u32])]) {
        let own = |pids: &[u32]| pids.iter().copied().collect::<HashSet<u32>>();
        self.state.set_owners(
            owners.iter().map(|(key, pids)| (Key::from(*key), own(pids))).collect::<HashMap<_, _>>(),
        );
    }

    fn hardware(&mut self, name: &str) -> Option<Hardware> {
        self.state.publish(&self.board, self.now);
        self.board.subscribe(name).expect("a place").borrow().clone()
    }

    fn fault(&mut self, name: &str) -> Option<Fault> {
        self.hardware(name).and_then(|hardware| hardware.fault)
    }
}

fn clocks(sm_mhz: u32) -> Answer {
    Answer::Clocks(Clocks { sm_mhz, sm_max_mhz: 2000, memory_mhz: None, reasons: 0x40 })
}

#[test]
fn backends_have_the_gpus_that_they_name() {
    let named = vec![GpuId::Index(1), GpuId::Uuid("GPU-2".to_owned())];
    let targets = vec![target("a", Some(named)), target("b", Some(vec![GpuId::Index(9)]))];
    let mut bench = Bench::new(vec![gpu(0), gpu(1), gpu(2)], targets);
    for (uuid, clock) in [("GPU-0", 200), ("GPU-1", 1000), ("GPU-2", 500)] {
        bench.answer(uuid, Question::Clocks, Ok(clocks(clock)));
    }
    assert_eq!(bench.hardware("a").expect("readings").speed, Some(0.25));
    assert_eq!(bench.hardware("b"), None, "this host has no such GPU");
    let asked: HashSet<String> = bench.state.slow_jobs(true).into_iter().map(|(uuid, _)| uuid).collect();
    assert_eq!(asked, HashSet::from(["GPU-1".to_owned(), "GPU-2".to_owned()]), "others are left in peace");
}

#[test]
fn gpus_are_found_by_the_processes_of_a_server() {
    let mut bench = Bench::new(
        vec![gpu(0), gpu(1), instance(1, 0), instance(1, 1)],
        vec![target("a", None), target("b", None)],
    );
    assert!(bench.state.slow_jobs(true).iter().all(|(_, question)| *question == Question::Processes));
    bench.processes("GPU-0", &[10, 11]);
    bench.processes("GPU-1", &[20]);
    bench.processes("MIG-1-0", &[]);
    bench.processes("MIG-1-1", &[20]);
    bench.owners(&[("a", &[9, 10]), ("b", &[20])]);
    bench.answer("GPU-0", Question::Clocks, Ok(clocks(2000)));
    let times = vec![ProcessTime { pid: 10, part: 0.3 }, ProcessTime { pid: 11, part: 0.6 }];
    bench.answer("GPU-0", Question::ProcessTime, Ok(Answer::ProcessTime(times)));
    bench.answer("GPU-1", Question::Clocks, Ok(clocks(1000)));
    let a = bench.hardware("a").expect("readings");
    assert_eq!((a.speed, a.foreign), (Some(1.0), Some(0.6)));
    assert_eq!(bench.hardware("b").expect("readings").speed, Some(0.5), "the clock of the whole GPU");
    let jobs = bench.state.slow_jobs(false);
    assert!(jobs.contains(&("MIG-1-1".to_owned(), Question::Memory)), "{jobs:?}");
    assert!(!jobs.contains(&("MIG-1-1".to_owned(), Question::Clocks)), "{jobs:?}");
    assert!(!jobs.contains(&("MIG-1-0".to_owned(), Question::Memory)), "nobody's: {jobs:?}");
    // The server moves to the other GPU.
    bench.processes("GPU-0", &[11]);
    bench.processes("MIG-1-0", &[10]);
    bench.processes("GPU-1", &[10, 20]);
    assert_eq!(bench.hardware("a").expect("readings").speed, Some(0.5));
}

#[test]
fn faults_stay_until_they_are_forgiven_and_a_lost_gpu_until_it_answers() {
    let targets = vec![target("a", Some(vec![GpuId::Index(0)])), target("b", Some(vec![GpuId::Index(1)]))];
    let mut bench = Bench::new(vec![gpu(0), gpu(1)], targets);
    let xid = |number| Event::Xid { uuid: "GPU-0".to_owned(), number };
    bench.state.event(&xid(31), bench.now);
    assert_eq!(bench.fault("a"), None, "an application's error");
    bench.state.event(&xid(79), bench.now);
    assert_eq!((bench.fault("a"), bench.fault("b")), (Some(Fault::Xid(79)), None));
    assert_eq!(bench.board.faults().borrow().get("a"), Some(&Fault::Xid(79)));
    bench.answer("GPU-0", Question::Clocks, Ok(clocks(2000)));
    assert_eq!(bench.fault("a"), Some(Fault::Xid(79)), "an answer is no repair");
    bench.state.forgive("a");
    assert_eq!(bench.fault("a"), None);

    bench.answer("GPU-1", Question::Utilization, Err(DriverError::Lost));
    assert_eq!(bench.fault("b"), Some(Fault::Lost));
    let of_b: Vec<_> = bench.state.fast_jobs().into_iter().filter(|(uuid, _)| uuid == "GPU-1").collect();
    assert_eq!(of_b, [("GPU-1".to_owned(), Question::Clocks)], "a sign of life");
    bench.answer("GPU-1", Question::Clocks, Ok(clocks(2000)));
    assert_eq!(bench.fault("b"), None);
}

#[test]
fn a_change_of_clocks_has_them_asked_of_gpus_that_are_used() {
    let mut bench = Bench::new(vec![gpu(0), gpu(1)], vec![target("a", Some(vec![GpuId::Index(0)]))]);
    let mut follow = |uuid: &str| bench.state.event(&Event::Clocks { uuid: uuid.to_owned() }, bench.now);
    assert_eq!(follow("GPU-0"), Follow::Ask(("GPU-0".to_owned(), Question::Clocks)));
    assert_eq!(follow("GPU-1"), Follow::Nothing);
}

#[test]
fn memory_errors_that_grow_are_a_fault_and_old_ones_are_not() {
    let mut bench = Bench::new(vec![gpu(0)], vec![target("a", Some(vec![GpuId::Index(0)]))]);
    for (count, fault) in [(3, None), (3, None), (4, Some(Fault::Ecc))] {
        bench.answer("GPU-0", Question::Ecc, Ok(Answer::Ecc(count)));
        assert_eq!(bench.fault("a"), fault, "{count} errors");
    }
    bench.state.forgive("a");
    bench.state.event(&Event::Ecc { uuid: "GPU-0".to_owned() }, bench.now);
    assert_eq!(bench.fault("a"), Some(Fault::Ecc));
}

#[test]
fn a_gpu_that_vanishes_from_the_list_is_lost_and_one_that_never_answered_too() {
    let targets = vec![target("a", Some(vec![GpuId::Index(0)])), target("b", Some(vec![GpuId::Index(1)]))];
    let mut bench = Bench::new(vec![gpu(0)], targets);
    let silent = vec![(1, DriverError::Lost)];
    bench.state.list(Listing { units: vec![gpu(0)], silent }, bench.now);
    assert_eq!((bench.fault("a"), bench.fault("b")), (None, Some(Fault::Lost)));
    bench.state.list(Listing { units: vec![gpu(0), gpu(1)], silent: Vec::new() }, bench.now);
    assert_eq!(bench.fault("b"), None, "it has told its name");
    bench.state.list(Listing { units: vec![gpu(1)], silent: Vec::new() }, bench.now);
    assert_eq!(bench.fault("a"), Some(Fault::Lost));
    let later = bench.now + Duration::from_secs(3600);
    bench.state.publish(&bench.board, later);
    assert_eq!(bench.board.faults().borrow().get("a"), Some(&Fault::Lost), "a fault does not age");
}

#[test]
fn a_fault_of_a_gpu_is_one_of_all_its_instances_and_what_is_divided_anew_is_listed() {
    let gpus = vec![GpuId::Uuid("MIG-0-1".to_owned())];
    let mut bench = Bench::new(vec![gpu(0), instance(0, 0), instance(0, 1)], vec![target("a", Some(gpus))]);
    bench.state.event(&Event::Xid { uuid: "GPU-0".to_owned(), number: 95 }, bench.now);
    assert_eq!(bench.fault("a"), Some(Fault::Xid(95)));
    bench.state.forgive("a");
    bench.answer("MIG-0-1", Question::Memory, Err(DriverError::Lost));
    assert_eq!(bench.fault("a"), Some(Fault::Lost), "the whole GPU is");
    bench.state.forgive("a");
    assert_eq!(bench.state.event(&Event::Divided, bench.now), Follow::List);
    bench.state.list(Listing { units: vec![gpu(0), instance(0, 0)], silent: Vec::new() }, bench.now);
    assert_eq!(bench.hardware("a"), None, "its instance is gone");
}

#[test]
fn what_is_not_supported_or_denied_is_not_asked_again() {
    let mut bench = Bench::new(vec![gpu(0)], vec![target("a", Some(vec![GpuId::Index(0)]))]);
    let asks =
        |bench: &Bench, question| bench.state.slow_jobs(true).contains(&("GPU-0".to_owned(), question));
    for (question, error, again) in [
        (Question::Gpm, DriverError::Unsupported, false),
        (Question::ProcessTime, DriverError::Denied, false),
        (Question::Power, DriverError::NoData, true),
        (Question::Temperature, DriverError::Failed("unknown".to_owned()), true),
    ] {
        assert!(asks(&bench, question), "{question:?}");
        bench.answer("GPU-0", question, Err(error.clone()));
        assert_eq!(asks(&bench, question), again, "{question:?}: {error}");
    }
    bench.state.reopened();
    assert!(asks(&bench, Question::Gpm), "it may be another driver");
}

//! The driver's side: every question, and every way in which there is no answer.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use guidevane::gpu::{
    Cost, Driver as _, DriverError, Question,
    driver::{Answer, Event as Told, Events as _},
    nvml::{GPM_SPACING, Library},
    readings::{Gpm, Memory, Process as Running, ProcessTime},
};
use guidevane_tests::nvml::{Event, Gpu, Instance, Process, Script, Standin};

/// Far above what an event needs on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn open(standin: &Standin) -> Library {
    Library::open(&standin.library(), Arc::default()).expect("the stand-in starts")
}

fn one(gpu: Gpu) -> Standin {
    Standin::new(Script { gpus: vec![gpu], ..Script::default() })
}

#[test]
fn every_question_is_answered() {
    let standin = one(Gpu {
        utilization: 40,
        clock: 495,
        reasons: 0x24,
        memory_used: 20_000,
        power: 350_500,
        temperature: 88,
        ecc: 3,
        processes: vec![Process { pid: 10, time: 40 }, Process { pid: 11, time: 0 }],
        gpm: Some(30),
        ..Gpu::default()
    });
    let cost = Arc::new(Cost::default());
    let library = Library::open(&standin.library(), Arc::clone(&cost)).expect("the stand-in starts");
    assert_eq!(library.versions(), (Some("580.95.05".to_owned()), Some("13.580.95.05".to_owned())));
    let mut session = library.session();
    let listing = session.list().expect("a list");
    let [unit] = &listing.units[..] else { panic!("one GPU expected: {listing:?}") };
    assert_eq!((&unit.uuid, unit.index, &unit.instance), (&standin.uuid(0), 0, &None));
    let mut ask =
        |question| session.ask(&unit.uuid, question).unwrap_or_else(|e| panic!("{question:?}: {e}"));
    assert_eq!(ask(Question::Utilization), Answer::Utilization(0.4));
    let Answer::Clocks(clocks) = ask(Question::Clocks) else { panic!("no clocks") };
    assert_eq!((clocks.speed(), clocks.is_throttled()), (0.25, true));
    assert_eq!(ask(Question::ProcessTime), Answer::ProcessTime(vec![ProcessTime { pid: 10, part: 0.4 }]));
    assert_eq!(ask(Question::Ecc), Answer::Ecc(3));
    let memory = Memory { used_bytes: 20_000 << 20, total_bytes: 80_000 << 20 };
    assert_eq!(ask(Question::Memory), Answer::Memory(memory));
    let Answer::Power(power) = ask(Question::Power) else { panic!("no power") };
    assert_eq!((power.draw_watts, power.limit_watts), (350.5, Some(700.0)));
    assert_eq!(ask(Question::Temperature), Answer::Temperature(88));
    let running = [10, 11].map(|pid| Running { pid, memory_bytes: Some(1 << 30) });
    assert_eq!(ask(Question::Processes), Answer::Processes(running.to_vec()));

    assert_eq!(session.ask(&unit.uuid, Question::Gpm), Err(DriverError::NoData), "it takes two samples");
    std::thread::sleep(GPM_SPACING);
    let all = Some(0.3);
    let shown = Gpm { graphics: all, sm: all, occupancy: all, tensor: all, memory_bandwidth: all };
    assert_eq!(session.ask(&unit.uuid, Question::Gpm), Ok(Answer::Gpm(shown)));
    let (calls, spent, _) = cost.so_far();
    assert!(calls > 20 && spent > Duration::ZERO, "{calls} calls, {spent:?}");
}

#[test]
fn samples_that_were_seen_are_no_news_and_what_has_no_samples_is_asked_plainly() {
    let mut standin = one(Gpu { utilization: 40, ..Gpu::default() });
    let library = open(&standin);
    let mut session = library.session();
    let uuid = standin.uuid(0);
    let mut ask = || session.ask(&uuid, Question::Utilization);
    assert_eq!(ask(), Ok(Answer::Utilization(0.4)));
    standin.change(|script| script.gpus[0].utilization = 90);
    let until = Instant::now() + PATIENCE;
    let news = std::iter::from_fn(|| Some(ask())).find(|answer| *answer != Err(DriverError::NoData));
    assert!(Instant::now() < until, "no news");
    assert_eq!(news, Some(Ok(Answer::Utilization(0.9))), "the mean of the new ones alone");
    standin.change(|script| script.unsupported = vec!["nvmlDeviceGetSamples".to_owned()]);
    assert_eq!(ask(), Ok(Answer::Utilization(0.9)));
}

#[test]
fn a_process_without_a_new_sample_is_no_news_until_it_must_have_ended() {
    let mut standin = one(Gpu { processes: vec![Process { pid: 10, time: 40 }], ..Gpu::default() });
    let library = open(&standin);
    let mut session = library.session();
    let uuid = standin.uuid(0);
    assert!(
        matches!(session.ask(&uuid, Question::ProcessTime), Ok(Answer::ProcessTime(times)) if times.len() == 1)
    );
    standin.change(|script| script.gpus[0].processes.clear());
    assert_eq!(session.ask(&uuid, Question::ProcessTime), Err(DriverError::NoData));
    let until = Instant::now() + PATIENCE;
    while session.ask(&uuid, Question::ProcessTime) != Ok(Answer::ProcessTime(Vec::new())) {
        assert!(Instant::now() < until, "it never ends");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut fresh = library.session();
    assert_eq!(
        fresh.ask(&uuid, Question::ProcessTime),
        Ok(Answer::ProcessTime(Vec::new())),
        "nothing ever ran"
    );
}

#[test]
fn instances_are_listed_and_asked_what_they_have_themselves() {
    let instance = |number: u32| Instance {
        uuid: format!("MIG-{number}"),
        gpu_instance: 7 + number,
        memory_used: 5000,
        memory_total: 10_000,
        gpm: Some(10 * number),
        processes: vec![Process { pid: 100 + number, time: 0 }],
    };
    let standin = one(Gpu { instances: vec![instance(1), instance(2)], ..Gpu::default() });
    let library = open(&standin);
    let mut session = library.session();
    let units = session.list().expect("a list").units;
    let second = units.iter().find(|unit| unit.uuid == "MIG-2").expect("the second instance");
    let own = second.instance.as_ref().expect("it is one");
    assert_eq!((&own.parent, own.number, own.gpu_instance), (&standin.uuid(0), 1, Some(9)));
    let memory = Memory { used_bytes: 5000 << 20, total_bytes: 10_000 << 20 };
    assert_eq!(session.ask("MIG-2", Question::Memory), Ok(Answer::Memory(memory)));
    assert_eq!(session.ask("MIG-2", Question::Utilization), Err(DriverError::Unsupported));
    let running = vec![Running { pid: 102, memory_bytes: Some(1 << 30) }];
    assert_eq!(session.ask("MIG-2", Question::Processes), Ok(Answer::Processes(running)));
    assert_eq!(session.ask("MIG-2", Question::Gpm), Err(DriverError::NoData));
    std::thread::sleep(GPM_SPACING);
    let Ok(Answer::Gpm(gpm)) = session.ask("MIG-2", Question::Gpm) else { panic!("no answer") };
    assert_eq!(gpm.sm, Some(0.2));
}

#[test]
fn each_way_of_no_answer_is_told_apart() {
    let mut standin = one(Gpu::default());
    let library = open(&standin);
    let uuid = standin.uuid(0);
    let mut session = library.session();
    session.list().expect("a list");
    standin.change(|script| {
        script.denied = vec!["nvmlDeviceGetProcessUtilization".to_owned()];
        script.unsupported = vec!["nvmlDeviceGetTotalEccErrors".to_owned()];
    });
    assert_eq!(session.ask(&uuid, Question::ProcessTime), Err(DriverError::Denied));
    assert_eq!(session.ask(&uuid, Question::Ecc), Err(DriverError::Unsupported));
    assert_eq!(session.ask(&uuid, Question::Gpm), Err(DriverError::Unsupported));
    standin.change(|script| script.gpus[0].lost = true);
    assert_eq!(session.ask(&uuid, Question::Clocks), Err(DriverError::Lost));
    let listing = session.list().expect("a list");
    assert_eq!((listing.units, listing.silent), (vec![], vec![(0, DriverError::Lost)]));
    // NVML_ERROR_DRIVER_NOT_LOADED: from then on no call gets anywhere.
    standin.change(|script| script.init = 9);
    assert!(matches!(session.ask(&uuid, Question::Clocks), Err(DriverError::Gone(_))));
    drop(session);
    drop(library);
    let gone = Library::open(&standin.library(), Arc::default()).expect_err("no driver");
    assert_eq!(gone, DriverError::Gone("NVIDIA driver is not loaded".to_owned()));
    // NVML_ERROR_NO_PERMISSION
    standin.change(|script| script.init = 4);
    assert_eq!(Library::open(&standin.library(), Arc::default()).err(), Some(DriverError::Denied));
    let nowhere =
        Library::open(Path::new("/nowhere/libnvidia-ml.so"), Arc::default()).expect_err("no library");
    assert!(nowhere.to_string().starts_with("no NVIDIA driver: /nowhere/libnvidia-ml.so"), "{nowhere}");
}

#[test]
fn events_come_with_their_gpu_even_if_it_is_lost() {
    let mut standin = Standin::new(Script { gpus: vec![Gpu::default(); 2], ..Script::default() });
    let library = open(&standin);
    let mut events = library.events().expect("events");
    assert_eq!(events.next(Duration::from_millis(5)), Ok(None));
    standin.change(|script| {
        script.gpus[1].events = vec![Event::Xid(79), Event::Ecc, Event::Divided];
        script.gpus[1].lost = true;
    });
    let uuid = standin.uuid(1);
    let expected = [Told::Xid { uuid: uuid.clone(), number: 79 }, Told::Ecc { uuid }, Told::Divided];
    for event in expected {
        assert_eq!(events.next(PATIENCE), Ok(Some(event)));
    }
    assert_eq!(events.next(PATIENCE), Err(DriverError::Lost));
    drop(events);
    let mut others = library.events().expect("events of the other GPU");
    assert_eq!(others.next(Duration::from_millis(5)), Ok(None), "what was told is not told again");
}

//! The threads: one asks often and little, one asks everything once a second, one waits for events.
//!
//! Each has a session of its own with the driver. What they learn goes into one [`State`] and from there to the board
//! at once; no lock is held while the driver is asked.

use std::{
    collections::HashSet,
    ops::ControlFlow,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    Options, Standing, Target,
    driver::{Cost, Driver, DriverError, Events, Question},
    nvml::{GpuEvents, Library},
    owner::Processes,
    rounds::{Pass, Rounds},
    state::{Follow, Job, State},
};
use crate::signals::Board;

/// Time from one pass over everything to the next.
const SLOW: Duration = Duration::from_secs(1);

/// The driver is asked for at most this long in a pass: its lock is shared with whoever uses the GPU.
const FAST_BUDGET: Duration = Duration::from_millis(5);
const SLOW_BUDGET: Duration = Duration::from_millis(50);

/// Passes over everything from one question for processes, and one look for the servers' own, to the next.
const PROCESS_PASSES: u32 = 5;

/// Passes from one list of the GPUs to the next.
const LIST_PASSES: u32 = 10;

/// Until a driver that is not there is looked for again.
const RETRY: Duration = Duration::from_secs(10);

/// How long an event is waited for before the thread looks whether it is still wanted.
const EVENT_PATIENCE: Duration = Duration::from_millis(250);

/// Rests after events could not be waited for, ever longer ones, so that a driver in trouble is left in peace.
const EVENT_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_EVENT_PAUSE: Duration = Duration::from_secs(5);

/// What the threads share with the handle.
#[derive(Debug)]
pub struct Shared {
    options: Options,
    board: Arc<Board>,
    processes: Mutex<Processes>,
    state: Mutex<State>,
    cost: Arc<Cost>,
    standing: Mutex<(Option<String>, Option<String>)>,
    /// The handle is gone.
    pub stop: AtomicBool,
    started: AtomicBool,
    /// Somebody wants a pass over everything, and a new list, now.
    urgent: Mutex<bool>,
    bell: Condvar,
}

impl Shared {
    /// Nothing runs yet.
    pub fn new(options: Options, board: Arc<Board>, processes: Processes) -> Self {
        Self {
            options,
            board,
            processes: Mutex::new(processes),
            state: Mutex::default(),
            cost: Arc::default(),
            standing: Mutex::default(),
            stop: AtomicBool::new(false),
            started: AtomicBool::new(false),
            urgent: Mutex::new(false),
            bell: Condvar::new(),
        }
    }

    /// See [`super::Gpus::set_targets`].
    pub fn set_targets(&self, targets: Vec<Target>) {
        let mut state = self.state();
        state.set_targets(targets);
        state.publish(&self.board, Instant::now());
        drop(state);
        self.wake();
    }

    /// See [`super::Gpus::forgive`].
    pub fn forgive(&self, key: &str) {
        let mut state = self.state();
        state.forgive(key);
        state.publish(&self.board, Instant::now());
    }

    /// See [`super::Gpus::standing`].
    pub fn standing(&self) -> Option<Standing> {
        if !self.started.load(Ordering::Relaxed) {
            return None;
        }
        let (driver, problem) = lock(&self.standing).clone();
        let (calls, spent, overruns) = self.cost.so_far();
        Some(Standing { driver, problem, calls, spent, overruns })
    }

    /// Has the next pass over everything begin at once.
    pub fn wake(&self) {
        *lock(&self.urgent) = true;
        self.bell.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Waits until `time`, or until somebody wakes it; true if somebody did.
    fn rest_until(&self, time: Instant) -> bool {
        let left = time.saturating_duration_since(Instant::now());
        let urgent = self.bell.wait_timeout_while(lock(&self.urgent), left, |urgent| !*urgent);
        let (mut urgent, _) = urgent.unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *urgent)
    }

    /// Asks all `jobs` within `budget`, and pins up what came of it.
    fn pass(
        &self,
        driver: &mut dyn Driver,
        rounds: &mut Rounds,
        jobs: &[Job],
        budget: Duration,
    ) -> ControlFlow<DriverError> {
        let begun = Instant::now();
        let outcome = rounds.pass(
            jobs,
            budget,
            || begun.elapsed(),
            |job| {
                let start = Instant::now();
                let result = driver.ask(&job.0, job.1);
                if let Err(gone @ DriverError::Gone(_)) = result {
                    return ControlFlow::Break(gone);
                }
                self.state().note(job, result, start, Instant::now());
                ControlFlow::Continue(())
            },
        );
        self.state().publish(&self.board, Instant::now());
        match outcome {
            Pass::Whole => {}
            Pass::Short if self.cost.overrun() => {
                tracing::warn!(
                    "the GPU driver is slow: {budget:?} a pass do not suffice; the rest is asked later"
                );
            }
            Pass::Short => {}
            Pass::Stopped(gone) => return ControlFlow::Break(gone),
        }
        ControlFlow::Continue(())
    }
}

/// Starts the threads, unless they run.
pub fn start(shared: &Arc<Shared>) -> std::io::Result<()> {
    if shared.started.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    let shared = Arc::clone(shared);
    std::thread::Builder::new().name("gpu".into()).spawn(move || supervise(&shared))?;
    Ok(())
}

/// Opens the driver, again and again while there is none.
fn supervise(shared: &Shared) {
    let mut said = None;
    while !shared.stopped() {
        match Library::open(&shared.options.library, Arc::clone(&shared.cost)) {
            Ok(library) => {
                let (driver, _) = library.versions();
                tracing::info!("reading GPUs, driver {}", driver.as_deref().unwrap_or("of unknown version"));
                *lock(&shared.standing) = (driver, None);
                shared.state().reopened();
                let gone = watch(shared, &library);
                if shared.stopped() {
                    return;
                }
                said = None;
                trouble(shared, &mut said, &gone);
            }
            Err(error) => trouble(shared, &mut said, &error),
        }
        let retry = Instant::now() + RETRY;
        while Instant::now() < retry && !shared.stopped() {
            shared.rest_until(retry);
        }
    }
}

/// Says once that there is no driver.
fn trouble(shared: &Shared, said: &mut Option<DriverError>, error: &DriverError) {
    *lock(&shared.standing) = (None, Some(error.to_string()));
    if said.as_ref() != Some(error) {
        tracing::warn!("GPUs cannot be read, and steering goes on without them: {error}");
        *said = Some(error.clone());
    }
}

/// Runs all threads until the driver is gone, and says why it is.
fn watch(shared: &Shared, library: &Library) -> DriverError {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let fast = std::thread::Builder::new()
            .name("gpu-fast".into())
            .spawn_scoped(scope, || ask_often(shared, &mut library.session(), &over));
        // Before anything is asked: a fault after the first reading is told.
        let events = library.events();
        let events = std::thread::Builder::new()
            .name("gpu-events".into())
            .spawn_scoped(scope, || await_events(shared, library, events, &over));
        if let Some(error) = fast.err().or(events.err()) {
            tracing::error!("the system gives no thread to read GPUs with: {error}");
        }
        let gone = ask_everything(shared, &mut library.session(), &over);
        over.store(true, Ordering::Relaxed);
        gone
    })
}

/// Asks for utilization.
fn ask_often(shared: &Shared, driver: &mut dyn Driver, over: &AtomicBool) {
    let mut rounds = Rounds::default();
    let mut next = Instant::now();
    while !over.load(Ordering::Relaxed) && !shared.stopped() {
        let jobs = shared.state().fast_jobs();
        if shared.pass(driver, &mut rounds, &jobs, FAST_BUDGET).is_break() {
            // The other thread meets the same and ends all.
            shared.wake();
        }
        next = (next + shared.options.interval).max(Instant::now());
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// Asks everything else, and looks for the servers' processes.
fn ask_everything(shared: &Shared, driver: &mut dyn Driver, over: &AtomicBool) -> DriverError {
    let mut rounds = Rounds::default();
    let mut users: Option<HashSet<u32>> = None;
    let (mut number, mut list) = (0_u32, true);
    while !over.load(Ordering::Relaxed) && !shared.stopped() {
        let next = Instant::now() + SLOW;
        if list || number.is_multiple_of(LIST_PASSES) {
            match driver.list() {
                Ok(listing) => shared.state().list(listing, Instant::now()),
                Err(gone @ DriverError::Gone(_)) => return gone,
                Err(error) => tracing::debug!("the driver lists no GPUs: {error}"),
            }
        }
        let processes = list || number.is_multiple_of(PROCESS_PASSES);
        let jobs = shared.state().slow_jobs(processes);
        if let ControlFlow::Break(gone) = shared.pass(driver, &mut rounds, &jobs, SLOW_BUDGET) {
            return gone;
        }
        let asked = jobs.iter().any(|(_, question)| *question == Question::Processes);
        let current = asked.then(|| shared.state().users());
        if processes || current.as_ref().is_some_and(|current| users.as_ref() != Some(current)) {
            find_owners(shared);
            users = current.or(users);
        }
        number = number.wrapping_add(1);
        list = shared.rest_until(next);
    }
    DriverError::Gone("no longer read".to_owned())
}

fn find_owners(shared: &Shared) {
    let owners = {
        let servers: Vec<_> = {
            let state = shared.state();
            state.servers().into_iter().map(|(key, addresses)| (key, addresses.to_vec())).collect()
        };
        let servers: Vec<_> =
            servers.iter().map(|(key, addresses)| (key.clone(), addresses.as_slice())).collect();
        lock(&shared.processes).owners(&servers)
    };
    let mut state = shared.state();
    state.set_owners(owners);
    state.publish(&shared.board, Instant::now());
}

/// Waits for events, and has a fault known before anything else is asked; begins with a set of them that is `ready`.
fn await_events<'a>(
    shared: &Shared,
    library: &'a Library,
    mut ready: Result<GpuEvents<'a>, DriverError>,
    over: &AtomicBool,
) {
    let mut pause = EVENT_PAUSE;
    let mut session = library.session();
    while !over.load(Ordering::Relaxed) && !shared.stopped() {
        let begun = Instant::now();
        let failed = match ready {
            Ok(mut events) => listen(shared, &mut session, &mut events, over),
            Err(DriverError::Unsupported) => {
                return tracing::info!("the driver does not tell faults of GPUs by itself");
            }
            Err(error) => error,
        };
        tracing::debug!("events of GPUs: {failed}");
        if begun.elapsed() > pause {
            // The list shows which GPU is lost, if one is. What happens before there is a new set is missed.
            shared.wake();
            pause = EVENT_PAUSE;
        } else {
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_EVENT_PAUSE);
        }
        ready = library.events();
    }
}

/// Until waiting fails, or nobody is interested any more: then the set of GPUs has changed, and a new one is needed.
fn listen(
    shared: &Shared,
    driver: &mut dyn Driver,
    events: &mut dyn Events,
    over: &AtomicBool,
) -> DriverError {
    while !over.load(Ordering::Relaxed) && !shared.stopped() {
        match events.next(EVENT_PATIENCE) {
            Ok(None) => {}
            Ok(Some(event)) => {
                let mut state = shared.state();
                let follow = state.event(&event, Instant::now());
                state.publish(&shared.board, Instant::now());
                drop(state);
                match follow {
                    Follow::Nothing => {}
                    Follow::List => shared.wake(),
                    Follow::Ask(job) => {
                        let asked = shared.pass(driver, &mut Rounds::default(), &[job], FAST_BUDGET);
                        if let ControlFlow::Break(gone) = asked {
                            return gone;
                        }
                    }
                }
            }
            Err(error) => return error,
        }
    }
    DriverError::NoData
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
